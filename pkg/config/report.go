package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"rackgateway/pkg/access"
)

// hidden stands for what is not shown.
const hidden = "[hidden]"

// Row is one variable as it is in force.
type Row struct {
	Name   string
	Value  string // as text; "[hidden]" for a secret; "" when there is none
	Source string // "environment", "environment, as NAME", "file PATH", "default", "not set", …
}

// Report says what configuration is in force, where each value came from, and what looks like a slip.
type Report struct {
	Rows     []Row
	Warnings []string // sentences: variables that look like ours and are not
}

// WriteTo prints the rows as a table, without any secret.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VARIABLE\tVALUE\tFROM")
	for _, row := range r.Rows {
		value := row.Value
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", row.Name, value, row.Source)
	}
	_ = table.Flush() // into memory
	n, err := io.WriteString(w, text.String())
	return int64(n), err
}

// derive notes a value that follows from others.
func (l *loader) derive(name, value, source string) {
	l.values[name], l.sources[name] = value, source
}

func (l *loader) report() *Report {
	r := &Report{}
	for _, v := range l.variables {
		row := Row{Name: v.Name, Value: l.values[v.Name], Source: l.sources[v.Name]}
		if row.Value == "" && row.Source == "default" {
			row.Value = v.Default
		}
		if at := strings.LastIndex(row.Value, "@"); v.address && at >= 0 {
			row.Value = hidden + row.Value[at:]
		}
		if v.Secret && row.Value != "" {
			row.Value = hidden
		}
		r.Rows = append(r.Rows, row)
	}
	r.Warnings = l.unknown()
	return r
}

// prefixes begin the names of variables that are ours; one that we do not know is likely a slip.
var prefixes = []string{
	"ACCESS_", "ADMIN_", "APP_SECRET_", "AUDIT_", "DB_", "GATEWAY_", "GOOGLE_", "POSTMARK_", "RACK_", "RGW_", "SLACK_", "TRUSTED_PROXY",
	"WEBAUTHN_", "YUBICO_",
}

// foreign begin the names of variables with one of our prefixes that belong to somebody else: the convox CLI,
// and Google's own clients.
var foreign = []string{"RACK_URL", "GOOGLE_APPLICATION_", "GOOGLE_CLOUD_"}

// unknown warns of variables that look like ours and are not. What the other process knows is no slip:
// both often share one environment.
func (l *loader) unknown() []string {
	known := make(map[string]bool)
	for _, t := range []reflect.Type{reflect.TypeFor[Proxy](), reflect.TypeFor[Admin]()} {
		for _, v := range variables(t, "") {
			for _, name := range append([]string{v.Name}, v.Aliases...) {
				known[name] = true
				if v.Secret {
					known[name+"_FILE"] = true
				}
			}
		}
	}
	for _, def := range access.SettingDefs() {
		known[settingVariable(def.Key)] = true
	}
	var names []string
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)

	var warnings []string
	for name := range l.environ {
		begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		ours := slices.ContainsFunc(prefixes, begins)
		if known[name] || slices.ContainsFunc(foreign, begins) || !ours && !nearMiss(name, names) {
			continue
		}
		warning := fmt.Sprintf("%s is set, and is not a variable of this version of the gateway; it has no effect", name)
		if near := nearest(name, names); near != "" {
			warning += "; the nearest that is one is " + near
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return warnings
}

// nearMiss reports a name without any of our prefixes that is but a slip away from a long name of ours.
func nearMiss(name string, names []string) bool {
	near := nearest(name, names)
	return len(near) >= 8 && distance(name, near) == 1
}

// nearest is the name that the fewest slips of the finger away, or "" when none is near.
func nearest(name string, names []string) string {
	best, least := "", 1+min(4, len(name)/4)
	for _, candidate := range names {
		if d := distance(name, candidate); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements that lead from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
