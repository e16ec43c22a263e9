package compose_test

import (
	"os"
	"path/filepath"
	"testing"
)

// root is the repository's top folder, seen from this package.
const root = "../.."

// read returns a file of the repository as text.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
