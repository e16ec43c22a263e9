package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What differs between two runs of the same thing: moments, how long something took, and the ids and ports that are
// made anew each time. Everything else must be the same.
var differs = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "2026-01-02T03:04:05Z"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC`), "2026-01-02 03:04 UTC"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "00000000-0000-0000-0000-000000000000"},
	{regexp.MustCompile(`\b(localhost|127\.0\.0\.1):\d+`), "$1:443"},
	{regexp.MustCompile(`(connect:|--port|convox proxy) \d+`), "$1 443"},
	{regexp.MustCompile(`\brgw_(cli|api)_[0-9A-Za-z]+`), "rgw_${1}_TOKEN"},
	{regexp.MustCompile(`\bclient: (dev|\d+\.\d+\.\d+)`), "client: 3"},
	{regexp.MustCompile(`tmp/[0-9a-f]{30}\.tgz`), "tmp/0.tgz"},
	{regexp.MustCompile(`\b(\d+m)?\d{1,2}s\b`), "0s"},
}

// progress is a line that the CLI shows while it waits for an app: of the rack's own log, or of a process whose
// state changed between two looks. Which of the latter it sees is chance.
var progress = regexp.MustCompile(`^(\S+ system/k8s/\S+ .*|  \S+ +\S+ +(pending|running|stopped|unhealthy))$`)

// alike takes out what differs from run to run. Progress lines are shown once each, in order, and states not at all.
func alike(text string) string {
	for _, d := range differs {
		text = d.pattern.ReplaceAllString(text, d.instead)
	}
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if progress.MatchString(line) {
			if strings.HasPrefix(line, "  ") || slices.Contains(out, line) {
				continue
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// difference shows where two texts begin to differ, or "".
func difference(want, got string) string {
	if want == got {
		return ""
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	show := func(lines []string) string {
		return strings.Join(lines[min(i, len(lines)):min(i+12, len(lines))], "\n")
	}
	return fmt.Sprintf("the same up to line %d:\n%s\n--- want\n%s\n--- got\n%s", i+1, strings.Join(a[max(0, i-6):min(i, len(a))], "\n"), show(a), show(b))
}

func TestAlikeChangesOnlyMomentsIdsAndPorts(t *testing.T) {
	for in, want := range map[string]string{
		"2025-09-09T10:11:12Z system/k8s/atom/app Status: Pending => Updating\n2025-09-09T10:11:12Z system/k8s/atom/app Status: Pending => Updating\n": "2026-01-02T03:04:05Z system/k8s/atom/app Status: Pending => Updating\n",
		"  web-1f2-abc                       web           running\n":                                                                                  "",
		"web-1f2-abc  web  running\n":             "web-1f2-abc  web  running\n",
		"RABCDEFGHIJ  active  3 months ago":       "RABCDEFGHIJ  active  3 months ago",
		"http://127.0.0.1:4312/x at localhost:81": "http://127.0.0.1:443/x at localhost:443",
		"ERROR: no such app: s":                   "ERROR: no such app: s",
	} {
		if got := alike(in); got != want {
			t.Errorf("alike(%q) = %q, want %q", in, got, want)
		}
	}
}
