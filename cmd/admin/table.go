package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// table collects rows and writes them aligned, for people. Programs ask for --json.
type table struct {
	rows [][]string
}

func newTable(head ...string) *table { return &table{rows: [][]string{head}} }

func (t *table) add(cells ...string) {
	for i, cell := range cells {
		if cells[i] = visible(cell); cell == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// write pads every column but the last to its widest cell.
func (t *table) write(w io.Writer) error {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for _, row := range t.rows {
		for i, cell := range row {
			out.WriteString(cell)
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// visible keeps what somebody else chose (names, user agents) from steering the terminal it is shown on.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// output chooses between what people read and what programs do. Every command has it.
type output struct {
	JSON bool `help:"As JSON."`
}

// say writes a sentence, or the value in its place.
func (o output) say(p *process, value any, format string, args ...any) error {
	if o.JSON {
		return writeJSON(p.stdout, value)
	}
	_, err := fmt.Fprintf(p.stdout, format, args...)
	return err
}

// writeJSON writes one value, indented.
func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// when shows a moment as both a clock and a person say it.
func when(at *time.Time, now time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s)", at.UTC().Format("2006-01-02 15:04Z"), relative(at.Sub(now)))
}

// relative says a distance in time in its largest unit, rounded.
func relative(d time.Duration) string {
	form := "in %s"
	if d <= 0 {
		form, d = "%s ago", -d
	}
	for _, unit := range []struct {
		name  string
		size  time.Duration
		until time.Duration
	}{{"minute", time.Minute, time.Hour}, {"hour", time.Hour, 48 * time.Hour}, {"day", 24 * time.Hour, 1 << 62}} {
		n := int(d.Round(unit.size) / unit.size)
		switch {
		case n == 0:
			return "now"
		case time.Duration(n)*unit.size >= unit.until:
			continue
		case n == 1:
			return fmt.Sprintf(form, "1 "+unit.name)
		}
		return fmt.Sprintf(form, fmt.Sprintf("%d %ss", n, unit.name))
	}
	return "now"
}
