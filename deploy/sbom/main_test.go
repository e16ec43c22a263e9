package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes both programs as `make build` does, from a copy of the source in the folder given.
func build(t *testing.T, source string) (proxy, admin string) {
	t.Helper()
	out := t.TempDir()
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", out+"/", "./cmd/proxy", "./cmd/admin")
	command.Dir = source
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return filepath.Join(out, "proxy"), filepath.Join(out, "admin")
}

func TestTheBillNamesEverythingThatIsLinkedIn(t *testing.T) {
	proxy, admin := build(t, "../..")
	var first, again, table bytes.Buffer
	if err := run(t.Context(), []string{"-version", "v1.2.3", proxy, admin}, &first); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-version", "v1.2.3", proxy, admin}, &again); err != nil || first.String() != again.String() {
		t.Errorf("a second bill of the same binaries differs (%v)", err)
	}
	var d document
	if err := json.Unmarshal(first.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Format != "CycloneDX" || d.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("%+v", d.Metadata)
	}
	listed := map[string]bool{}
	for _, c := range d.Components {
		listed[c.Name] = true
		if c.Type == "library" && (c.Version == "" || len(c.Licenses) != 1 || c.Licenses[0].License.ID == "") {
			t.Errorf("%+v", c)
		}
	}
	// Go's own word for what is in them.
	output, err := exec.Command("go", "version", "-m", proxy, admin).Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := 0
	for line := range strings.Lines(string(output)) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "dep" {
			modules++
			if !listed[words[1]] {
				t.Errorf("%s is not in the bill", words[1])
			}
		}
	}
	if modules < 15 {
		t.Errorf("go names only %d modules", modules)
	}
	if err := run(t.Context(), []string{"-licences", proxy, admin}, &table); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(table.String(), "\n"); lines < 15 {
		t.Errorf("the table has %d lines", lines)
	}
}

func TestALicenceThatAsksForMoreIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"GNU GENERAL PUBLIC LICENSE Version 3": "", "All rights reserved.": "",
		"Permission is hereby granted, free of charge, to any person": "MIT", "Apache License\nVersion 2.0, January 2004": "Apache-2.0",
	} {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "LICENSE"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := licenceOf(folder); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q (%v)", text, got, err)
		}
	}
	if _, err := licenceOf(t.TempDir()); err == nil {
		t.Error("no licence at all was taken")
	}
}

// The same source makes the same bytes, wherever it lies.
func TestBuildsAreReproducible(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	for _, part := range []string{"cmd", "pkg", "sql"} {
		if err := os.CopyFS(filepath.Join(elsewhere, part), os.DirFS("../../"+part)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(elsewhere, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	proxy, admin := build(t, "../..")
	otherProxy, otherAdmin := build(t, elsewhere)
	for one, other := range map[string]string{proxy: otherProxy, admin: otherAdmin} {
		if digest(t, one) != digest(t, other) {
			t.Errorf("%s differs from one that was built elsewhere", filepath.Base(one))
		}
	}
}

func digest(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}
