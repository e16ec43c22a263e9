//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"rackgateway/pkg/testenv"
)

// bar is what a figure is held to: no less, or no more, than a limit. The zero value holds to nothing.
type bar struct {
	sign  string // "≥" or "≤"
	limit float64
}

func atLeast(limit float64) bar { return bar{"≥", limit} }
func atMost(limit float64) bar  { return bar{"≤", limit} }

func (b bar) met(value float64) bool {
	switch b.sign {
	case "≥":
		return value >= b.limit
	case "≤":
		return value <= b.limit
	}
	return true
}

func (b bar) String() string {
	if b.sign == "" {
		return ""
	}
	return fmt.Sprintf("%s %v", b.sign, b.limit)
}

// Row is one figure. Value is a number, or a text in the rows of the header.
type Row struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`
	Unit   string `json:"unit"`
	Must   string `json:"must"`
	Aim    string `json:"aim"`
	OK     bool   `json:"ok"`
	Spread string `json:"spread"` // of the rounds that Value is the median of, or how it was come by

	aimed bool // whether the aim is reached too
}

// report gathers the rows of one run.
type report struct {
	began    time.Time
	load     string // average, before it began
	versions []string
	rows     []Row
}

func newReport(ctx context.Context) *report {
	r := &report{began: time.Now(), load: loadAverage(), versions: []string{runtime.Version()}}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range build.Settings {
			if setting.Key == "vcs.revision" {
				r.versions = append(r.versions, "gateway "+setting.Value[:min(12, len(setting.Value))])
			}
		}
	}
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil && len(r.versions) == 1 {
		r.versions = append(r.versions, "gateway "+strings.TrimSpace(string(out)))
	}
	return r
}

// postgres notes the server's version and what of its settings counts.
func (r *report) postgres(ctx context.Context, env *testenv.Env) {
	var version, fsync, commit string
	const ask = `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`
	if err := env.DB.QueryRowContext(ctx, ask).Scan(&version, &fsync, &commit); err != nil {
		version = err.Error()
	}
	r.versions = append(r.versions, fmt.Sprintf("PostgreSQL %s (fsync %s, synchronous_commit %s)", version, fsync, commit))
}

// add adds a figure with its bars.
func (r *report) add(name string, value float64, unit string, must, aim bar, spread string) {
	rounded := round(value)
	r.rows = append(r.rows, Row{
		Name: name, Value: rounded, Unit: unit, Must: must.String(), Aim: aim.String(),
		OK: must.met(value), aimed: aim.met(value), Spread: spread,
	})
}

// failed adds a row for what could not be measured; a bar that nobody saw reached is missed.
func (r *report) failed(what string, err error) {
	reason, _, _ := strings.Cut(err.Error(), "\n")
	r.rows = append(r.rows, Row{Name: what, Value: "failed", Spread: reason})
}

// tell adds a figure that is held to nothing.
func (r *report) tell(name string, value float64, unit, spread string) {
	r.add(name, value, unit, bar{}, bar{}, spread)
}

// round keeps three digits that matter.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	if scale < 1 {
		return math.Round(v)
	}
	return math.Round(v*scale) / scale
}

// missed names the figures that do not reach their bar.
func (r *report) missed() []string {
	var names []string
	for _, row := range r.rows {
		if !row.OK {
			names = append(names, row.Name)
		}
	}
	return names
}

func (r *report) header() []Row {
	text := func(name, value string) Row { return Row{Name: name, Value: value, OK: true} }
	return []Row{
		text("machine", machine()),
		text("versions", strings.Join(r.versions, ", ")),
		text("spread", "each row names its own: least to most of the rounds whose median it is, or the method"),
		text("when", fmt.Sprintf("%s, took %s; load average %s before (of others) and %s after", r.began.UTC().Format(time.RFC3339), time.Since(r.began).Round(time.Second), r.load, loadAverage())),
	}
}

// write prints the table, and writes it as JSON.
func (r *report) write(stdout io.Writer, path string) error {
	rows := append(r.header(), r.rows...)
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w)
	for _, row := range r.header() {
		fmt.Fprintf(stdout, "%s: %s\n", row.Name, row.Value)
	}
	fmt.Fprintln(w, "what\tvalue\tunit\tmust\taim\t\tspread")
	for _, row := range r.rows {
		verdict := ""
		switch {
		case !row.OK:
			verdict = "MISSED"
		case row.Aim != "" && row.aimed:
			verdict = "aim"
		case row.Must != "":
			verdict = "ok"
		}
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\t%s\t%s\n", row.Name, row.Value, row.Unit, row.Must, row.Aim, verdict, row.Spread)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// sample is one figure over several rounds.
type sample []float64

func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// spread is from the least to the most.
func (s sample) spread() string {
	if len(s) == 0 {
		return ""
	}
	return fmt.Sprintf("%v–%v in %d rounds", round(slices.Min(s)), round(slices.Max(s)), len(s))
}

func list(names []string) string { return strings.Join(names, ", ") }
