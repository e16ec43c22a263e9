//go:build browser

package console_test

import (
	"os"
	"testing"
)

func TestTheConsoleInABrowser(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.drive("scenarios.mjs", w.plan())
}

// Photographs are made by `make screenshots`, which says where to put them.
func TestScreenshots(t *testing.T) {
	out := os.Getenv("SCREENSHOTS")
	if out == "" {
		return
	}
	w := newWorld(t)
	w.seed()
	p := w.plan()
	p.Out = out
	w.drive("screenshots.mjs", p)
}
