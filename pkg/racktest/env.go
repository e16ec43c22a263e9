// Environments: KEY=VALUE lines, as releases carry them.

package racktest

import (
	"slices"
	"strings"
)

func parseEnv(s string) map[string]string {
	env := map[string]string{}
	for line := range strings.SplitSeq(s, "\n") {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\r"), "="); ok && strings.TrimSpace(k) != "" {
			env[strings.TrimSpace(k)] = v
		}
	}
	return env
}

func formatEnv(env map[string]string) string {
	lines := make([]string, 0, len(env))
	for k, v := range env {
		lines = append(lines, k+"="+v)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// envDiff describes a change of environment as release descriptions do: add:A add:B change:C remove:D.
func envDiff(before, after string) string {
	a, b := parseEnv(before), parseEnv(after)
	var add, change, remove []string
	for k, v := range b {
		if old, ok := a[k]; !ok {
			add = append(add, "add:"+k)
		} else if old != v {
			change = append(change, "change:"+k)
		}
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			remove = append(remove, "remove:"+k)
		}
	}
	slices.Sort(add)
	slices.Sort(change)
	slices.Sort(remove)
	return strings.Join(slices.Concat(add, change, remove), " ")
}
