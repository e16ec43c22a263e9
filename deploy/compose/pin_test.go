package compose_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var pinned = []string{"Dockerfile.proxy", "Dockerfile.admin", "docker-compose.yml", ".env.example"}

func withoutDigests(text string) string {
	return regexp.MustCompile(`@sha256:[0-9a-f]{64}`).ReplaceAllString(text, "")
}

// pinIn runs `make pin`'s script over a copy of the files, with a registry client of which the body is given.
func pinIn(t *testing.T, folder, client string) (string, error) {
	t.Helper()
	for _, name := range append([]string{"deploy/pin.sh"}, pinned...) {
		target := filepath.Join(folder, name)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, []byte(read(t, name)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "crane"), []byte("#!/bin/sh\n"+client), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("bash", filepath.Join(folder, "deploy/pin.sh"))
	command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestPinAddsDigestsAndBringsThemUpToDate(t *testing.T) {
	folder := t.TempDir()
	first, second := strings.Repeat("1", 64), strings.Repeat("2", 64)
	if output, err := pinIn(t, folder, "echo sha256:"+first); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if output, err := pinIn(t, folder, "case $2 in *@*) exit 9;; esac; echo sha256:"+second); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for name, count := range map[string]int{"Dockerfile.proxy": 2, "Dockerfile.admin": 3, "docker-compose.yml": 3, ".env.example": 2} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(text), "@sha256:"+second); got != count || strings.Contains(string(text), first) {
			t.Errorf("%s: %d digests, want %d, all of the second time\n%s", name, got, count, text)
		}
		if withoutDigests(string(text)) != withoutDigests(read(t, name)) {
			t.Errorf("%s: more than digests was changed", name)
		}
	}
}

func TestPinChangesNothingWhenOneDigestCannotBeHad(t *testing.T) {
	for what, client := range map[string]string{
		"one image is unknown":    `case $2 in golang*) echo "sha256:` + strings.Repeat("1", 64) + `";; *) exit 1;; esac`,
		"the answer is no digest": "echo '<html>'",
	} {
		folder := t.TempDir()
		output, err := pinIn(t, folder, client)
		if err == nil || !strings.Contains(output, "nothing was changed") {
			t.Errorf("%s: %v\n%s", what, err, output)
		}
		for _, name := range pinned {
			if text, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(text) != read(t, name) {
				t.Errorf("%s: %s was changed (%v)", what, name, err)
			}
		}
	}
}
