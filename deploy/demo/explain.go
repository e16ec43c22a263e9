package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// explain says what runs and what to do with it.
func (d *demo) explain() {
	rack := "a rack in memory, with an app called demo"
	if d.rack == nil {
		rack = "the rack at " + d.rackHost
	}
	say := func(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
	say("\nRack Gateway serves %s, as %s. Behind it is %s.", d.gateway, d.rackName, rack)

	_, err := exec.LookPath("convox")
	if err == nil {
		say("\nPaste one of these; the command may be any that convox has:\n")
	} else {
		say("\nThere is no convox CLI on the PATH. Where there is one, these work, with any command; curl is below:\n")
	}
	for _, person := range people {
		if address := d.rackURL(person); address != "" {
			say("  # %s: %s", person.label(), person.what)
			say("  RACK_URL=%s convox apps", address)
		}
	}
	if token := d.state.Tokens["DEPLOYER"]; token != "" {
		say("\nOr sign in, as people do:\n")
		say("  convox login %s -t %s", strings.TrimPrefix(d.gateway, "https://"), token)
		say("  convox racks && convox switch %s && convox ps -a demo", d.rackName)
	}
	if token := d.state.Tokens["VIEWER"]; token != "" && err != nil {
		say("\nWithout the CLI:\n")
		say("  curl --cacert %s -u convox:%s %s/apps", shown(d.authority), token, d.gateway)
		say("  curl --cacert %s -u convox:%s -X POST %s/apps/demo/services/web/restart   # refused", shown(d.authority), token, d.gateway)
	}
	say("\nWhat was recorded:\n")
	say("  (set -a; . %s; %s audit list)", shown(d.file("demo.env")), shown(filepath.Join(d.bin, "admin")))
	say("\nAll addresses and tokens: %s.  Logs: %s.  Metrics: %s.", shown(d.file("demo.env")), shown(d.file("logs")), d.metricsURL)
	if os.Getenv(progressVariable) != "" {
		say("Stop it with `make demo-down`. Its data and tokens stay for the next time.")
	} else {
		say("Stop it with Ctrl-C. Its data and tokens stay for the next time.")
	}
}

// shown is a path as it is shortest from the current folder.
func shown(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	relative, err := filepath.Rel(here, path)
	if err != nil || strings.HasPrefix(relative, "..") {
		return path
	}
	return relative
}
