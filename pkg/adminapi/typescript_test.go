package adminapi_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestTheTypesOfTypeScriptAreOfThisDocument(t *testing.T) {
	document, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	types, err := os.ReadFile("client/ts/api.ts")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(types, fmt.Appendf(nil, "// openapi.yaml sha256:%x\n", sha256.Sum256(document))) {
		t.Error("client/ts/api.ts is of another document: run npm ci && npm run generate in pkg/adminapi/client/ts")
	}
}

// The client of another tool than the server's compiles, and drives the scenarios.
func TestAClientInTypeScriptDrivesTheScenarios(t *testing.T) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("Node.js and npm are missing: apt-get install nodejs npm, or make test, which does: %v", err)
		}
	}
	w := newWorld(t)
	w.person("admin", "admin")

	// A copy, so that the packages do not land among the sources.
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "client", "ts"), os.DirFS("client/ts")); err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "openapi.yaml"), document, 0o600); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "client", "ts")
	run := func(environ []string, program string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = at, append(slices.Clone(os.Environ()), environ...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, out)
		}
	}
	run(nil, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts")
	run(nil, "node", "generate.mjs", "--check")
	run(nil, "npx", "tsc", "--outDir", "made")
	if err := os.WriteFile(filepath.Join(at, "made", "package.json"), []byte(`{"type":"module"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run([]string{"API_URL=" + w.server.URL + "/api/v1", "API_TOKEN=" + w.tokens["admin"].Reveal()}, "node", "made/scenarios.js")
}
