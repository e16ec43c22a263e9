package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The levels of the demo are those that the chart has.
func TestTheLevelsAreThoseOfTheChart(t *testing.T) {
	files, err := filepath.Glob("../helm/rack-gateway/levels/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range levels() {
		names = append(names, l.name)
		text, err := os.ReadFile(filepath.Join("../helm/rack-gateway/levels", l.name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var values struct {
			Settings    map[string]any    `yaml:"settings"`
			AdminConfig map[string]string `yaml:"adminConfig"`
			ProxyConfig map[string]string `yaml:"proxyConfig"`
			Rack        struct {
				TLSPin string `yaml:"tlsPin"`
			} `yaml:"rack"`
		}
		if err := yaml.Unmarshal(text, &values); err != nil {
			t.Fatal(err)
		}
		var settings, proxy, admin []string
		for key, value := range values.Settings {
			settings = append(settings, fmt.Sprintf("RGW_SETTING_%s=%v", strings.ToUpper(key), value))
		}
		for key, value := range values.ProxyConfig {
			proxy = append(proxy, key+"="+value)
		}
		for key, value := range values.AdminConfig {
			if key != "AUDIT_ANCHOR_BUCKET" { // every demo has one of its own
				admin = append(admin, key+"="+value)
			}
		}
		for what, pair := range map[string][2][]string{"settings": {l.settings, settings}, "the proxy": {l.proxy, proxy}, "admin": {l.admin, admin}} {
			if got, want := slices.Sorted(slices.Values(pair[0])), slices.Sorted(slices.Values(pair[1])); !slices.Equal(got, want) {
				t.Errorf("%s, %s: the demo has %v, the chart %v", l.name, what, got, want)
			}
		}
		if l.pinned != (values.Rack.TLSPin != "") {
			t.Errorf("%s: the rack's key is pinned by one and not by the other", l.name)
		}
	}
	if len(files) != len(names) {
		t.Errorf("the chart has %v, the demo %v", files, names)
	}
}

func TestALevelThatDoesNotExistIsRefused(t *testing.T) {
	w := newWorkbench(t)
	if printed, err := w.demo("run", "DEMO_LEVEL=most"); err == nil || !strings.Contains(printed, "say standard, private, maximum") {
		t.Errorf("%v\n%s", err, printed)
	}
}

// What a demo cannot have, and why. Every other line of the checklist passes at level maximum, once whoever runs the
// gateway has done what docs/operations.md says.
var lacking = map[string]string{
	"issuer":              "the provider is a part of the demo, which browsers of this machine reach without TLS",
	"database-tls":        "PostgreSQL is beside the processes, and what is said to it leaves this machine no more than what is in memory",
	"database-encryption": "no statement of SQL tells, here or anywhere",
	"database-backups":    "what can be thrown away is not backed up",
	"rack-restricted":     "everything is on one machine, so that nothing is elsewhere",
	"bucket-encryption":   "the S3 server of the demo has no keys to encrypt by, and does not know the question",
}

type checklistLine struct{ ID, Status, Detail, Remedy string }

type checklist struct {
	Lines []checklistLine
}

func (c checklist) statuses() map[string]string {
	statuses := make(map[string]string)
	for _, line := range c.Lines {
		statuses[line.ID] = line.Status
	}
	return statuses
}

func TestTheChecklistPassesAtLevelMaximumButForWhatADemoCannotHave(t *testing.T) {
	w := newWorkbench(t)
	up := func() map[string]string {
		t.Helper()
		if output, err := w.demo("up", "DEMO_LEVEL=maximum"); err != nil || !strings.Contains(output, "at security level maximum") {
			t.Fatalf("demo up: %v\n%s", err, output)
		}
		return w.env(t)
	}
	admin := func(file, args string) ([]byte, error) {
		shell := exec.Command("sh", "-ec", `set -a; . .demo/`+file+`; set +a; exec `+filepath.Join(w.bin, "admin")+" "+args) // #nosec G204 -- the test's own words
		shell.Dir = w.folder
		shell.Env = base()
		return shell.Output()
	}
	up()

	// As the installation checklist of docs/operations.md says, the rack gets another password, which the gateway alone
	// knows.
	if output, err := w.demo("down"); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	changePassword(t, w)
	env := up()

	if output, err := admin("demo.env", "audit anchor"); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, at := range []string{env["METRICS_URL"], env["CONSOLE_METRICS_URL"]} { // somebody collects metrics
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, body := send(t, env, request); status != http.StatusOK || !strings.Contains(body, "rgw_") {
			t.Fatalf("%s: %d", at, status)
		}
	}

	output, err := admin("admin.env", "doctor --json")
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 1) { //nolint:errorlint // Output wraps nothing
		t.Fatalf("%v\n%s", err, output)
	}
	var list checklist
	if err := json.Unmarshal(output, &list); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	passed := 0
	for _, line := range list.Lines {
		why, cannot := lacking[line.ID]
		switch {
		case line.Status == "pass":
			passed++
			if cannot {
				t.Errorf("%s passes, and is said to be what a demo cannot have: %s", line.ID, why)
			}
		case !cannot:
			t.Errorf("%s: %s: %s\n  %s", line.ID, line.Status, line.Detail, line.Remedy)
		}
	}
	for id, why := range lacking {
		if _, there := list.statuses()[id]; !there {
			t.Errorf("there is no line %s, which a demo is said not to pass: %s", id, why)
		}
	}
	t.Logf("%d of %d lines pass", passed, len(list.Lines))

	// The API shows the same list.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env["CONSOLE_URL"]+"/api/v1/doctor", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+env["ADMIN_API_TOKEN"])
	status, body := send(t, env, request)
	var told checklist
	if err := json.Unmarshal([]byte(body), &told); err != nil || status != http.StatusOK {
		t.Fatalf("the API's list: %d %v\n%s", status, err, body)
	}
	if got, want := told.statuses(), list.statuses(); !maps.Equal(got, want) {
		t.Errorf("the API says %v\nthe command %v", got, want)
	}
}

// changePassword has the rack of the demo, which is down, come up with another password.
func changePassword(t *testing.T, w workbench) {
	t.Helper()
	path := filepath.Join(w.folder, ".demo", "state.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]any
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	kept["rackPassword"] = random()
	if text, err = json.Marshal(kept); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// send sends a request to a part of the demo, verifying it by the demo's own authority.
func send(t *testing.T, env map[string]string, request *http.Request) (int, string) {
	t.Helper()
	response, err := trusting(t, env).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
