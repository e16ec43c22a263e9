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
	say("\nRack Gateway serves %s, as %s, at security level %s. Behind it is %s.", d.gateway.url, d.rackName(), d.level.name, rack)

	_, err := exec.LookPath("convox")
	if err == nil {
		say("\nPaste one of these; the command may be any that convox has:\n")
	} else {
		say("\nThere is no convox CLI on the PATH. Where there is one, these work, with any command; curl is below:\n")
	}
	for _, person := range people {
		if address := d.rackURL(person); address != "" && !person.administers {
			say("  # %s: %s", person.label(), person.what)
			say("  RACK_URL=%s convox apps", address)
			if secret := d.state.TOTP[person.key]; secret != "" {
				say("  # second factor: type %s into an authenticator app, or run oathtool --totp -b %s", secret, secret)
			}
		}
	}
	if token := d.state.Tokens["DEPLOYER"]; token != "" {
		say("\nOr sign in, as people do:\n")
		say("  convox login %s -t %s", d.gateway.domain, token)
		say("  convox racks && convox switch %s && convox ps -a demo", d.rackName())
	}
	say("\nWhat changes something takes a second factor: the CLI opens a page, or names it, and goes on once it was given.")
	say("People add passkeys of their own at %s/login/u2f.", d.console.url)
	if token := d.state.Tokens["VIEWER"]; token != "" && err != nil {
		say("\nWithout the CLI:\n")
		say("  curl --cacert %s -u convox:%s %s/apps", shown(d.files.authority), token, d.gateway.url)
		say("  curl --cacert %s -u convox:%s -X POST %s/apps/demo/services/web/restart   # refused", shown(d.files.authority), token, d.gateway.url)
	}
	say("\nPeople sign in by the browser at %s/login/, where one chooses who one is. The browser will not", d.console.url)
	say("know the certificate: accept it, or trust %s.", shown(d.files.authority))
	say("Scripts administer the gateway by its API, which is described at %s/api/v1/docs:\n", d.console.url)
	say("  (set -a; . %s; curl --cacert $GATEWAY_CA -H \"Authorization: Bearer $ADMIN_API_TOKEN\" $CONSOLE_URL/api/v1/users)", shown(d.file("demo.env")))
	say("\nWhat was recorded:\n")
	say("  (set -a; . %s; %s audit list)", shown(d.file("demo.env")), shown(filepath.Join(d.bin, "admin")))
	say("\nThe record is a signed log, copied to an S3 bucket with Object Lock every minute. To verify it by the public key alone:\n")
	say("  (set -a; . %s; %s audit verify --bucket --no-database --public-key \"$AUDIT_PUBLIC_KEY\")", shown(d.file("demo.env")), shown(filepath.Join(d.bin, "admin")))
	say("\nThe production checklist, some lines of which a demo cannot pass:\n")
	say("  (set -a; . %s; %s doctor)", shown(d.file("admin.env")), shown(filepath.Join(d.bin, "admin")))
	say("\nAll addresses and tokens: %s.  Logs: %s.  Metrics: http://%s/metrics.", shown(d.file("demo.env")), shown(d.file("logs")), d.gateway.metrics)
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
