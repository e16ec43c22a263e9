//go:build independent

// This file is part of make e2e in full: it builds somebody else's program.

package ledger_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/ledger"
)

// fsck is somebody else's program that verifies logs of the C2SP tlog-tiles layout.
const fsck = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4"

// An independent program, which knows nothing of ours but the public key, verifies what is in the bucket.
func TestAnIndependentProgramVerifiesTheBucket(t *testing.T) {
	bin := t.TempDir()
	building, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	install := exec.CommandContext(building, "go", "install", fsck)
	install.Dir = bin // outside of the repository's module
	install.Env = append(os.Environ(), "GOBIN="+bin, "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s", fsck, err, output)
	}
	w, b := newWorld(t), newBucket(t)
	w.sequence()
	a := w.anchor(b)
	for _, n := range []int{300, 66_000} { // over the edge of a tile of the second level
		w.write(n)
		w.settled()
		a.Attempt(t.Context(), true)
		if trouble := w.trouble(); trouble != "" {
			t.Fatal(trouble)
		}
	}
	dir := t.TempDir()
	if _, err := ledger.Copy(t.Context(), b, ledger.Directory(dir)); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(bin, "key.pub")
	if err := os.WriteFile(key, []byte(w.keys()[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// It tells what it found in its log, and ends with 0 all the same.
	run := func() (said string, failed bool) {
		check := exec.CommandContext(t.Context(), filepath.Join(bin, "fsck"), "--storage_url=file://"+dir+"/", "--public_key="+key, "--ui=false", "--N=4") // #nosec G204 -- built above
		output, err := check.CombinedOutput()
		said = string(output)
		return said[:min(len(said), 1000)], err != nil || strings.Contains(said, "fsck failed") || !strings.Contains(said, "checking log of size")
	}
	if said, failed := run(); failed {
		t.Errorf("fsck: %s", said)
	}
	// It must be able to say no, too.
	name := filepath.Join(dir, "tile/entries/001")
	data, err := os.ReadFile(name) // #nosec G304 -- the test's own
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, failed := run(); !failed {
		t.Errorf("fsck finds nothing in a changed log: %s", said)
	}
}
