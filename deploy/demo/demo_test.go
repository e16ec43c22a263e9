package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/s3server"
)

// programs is the folder of the built programs.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if programs, err = os.MkdirTemp("", "rgw-demo-programs-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs)
		build := exec.Command("go", "build", "-trimpath", "-o", programs, "rackgateway/cmd/proxy", "rackgateway/cmd/admin", "rackgateway/pkg/racktest/cmd/rack", "rackgateway/deploy/demo")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
			return 1
		}
		s3, err := s3server.Build(context.Background())
		if err == nil {
			err = os.Symlink(s3, filepath.Join(programs, "versitygw"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// workbench is a folder that a demo is run in, with its programs beside it.
type workbench struct {
	bin    string
	folder string // .demo appears in it
}

// newWorkbench makes a folder that PostgreSQL's user may pass through.
func newWorkbench(t *testing.T) workbench {
	t.Helper()
	w := workbench{bin: programs, folder: t.TempDir()}
	for _, folder := range []string{w.folder, filepath.Dir(w.folder)} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if output, err := w.demo("clean"); err != nil {
			t.Errorf("demo clean: %v\n%s", err, output)
		}
	})
	return w
}

// demo runs one command of the demo and returns what it prints. Only what it is given of the environment, and nothing
// of the shell's, may matter.
func (w workbench) demo(command string, environ ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "demo"), command)
	cmd.Dir = w.folder
	cmd.Env = append(base(), "RACK_ORGANIZATION=", "AUDIT_MAC_KEY=nonsense", "DATABASE_URL=nonsense")
	cmd.Env = append(cmd.Env, environ...)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// env reads demo.env as a shell does.
func (w workbench) env(t *testing.T) map[string]string {
	t.Helper()
	shell := exec.Command("sh", "-ec", "env -i sh -ec 'set -a; . ./demo.env; env'")
	shell.Dir = filepath.Join(w.folder, ".demo")
	output, err := shell.Output()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(output)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[name] = value
	}
	return values
}

// ask sends a request as somebody's RACK_URL says, verifying the gateway by the demo's own authority.
func ask(t *testing.T, env map[string]string, who, method, path string) (int, string) {
	t.Helper()
	address, err := url.Parse(env["RACK_URL_"+who])
	if err != nil || address.User == nil {
		t.Fatalf("RACK_URL_%s is %q (%v)", who, env["RACK_URL_"+who], err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, address.JoinPath(path).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, env, request)
}

// trusting is a client that verifies the demo by the demo's own authority.
func trusting(t *testing.T, env map[string]string) *http.Client {
	t.Helper()
	roots, err := certificate{authority: env["GATEWAY_CA"]}.roots()
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
}

func TestTheDemoRunsKeepsItsTokensAndStops(t *testing.T) {
	w := newWorkbench(t)
	output, err := w.demo("up")
	if err != nil {
		t.Fatalf("demo up: %v\n%s", err, output)
	}
	env := w.env(t)
	for _, name := range []string{"GATEWAY_URL", "GATEWAY_CA", "DATABASE_URL", "RACK_NAME", "RACK_URL_ADMIN", "RACK_URL_DEPLOYER", "RACK_URL_OPS", "RACK_URL_VIEWER", "RACK_URL_CI", "CONSOLE_URL", "OIDC_URL", "ADMIN_API_TOKEN", "S3_ENDPOINT", "AUDIT_BUCKET", "AUDIT_PUBLIC_KEY"} {
		if env[name] == "" {
			t.Errorf("demo.env has no %s", name)
		}
	}
	if env["RACK_NAME"] != "demo/local" {
		t.Errorf("the rack is called %s", env["RACK_NAME"])
	}

	t.Run("the bucket verifies by the public key alone", func(t *testing.T) {
		admin := func(args string) (string, error) {
			shell := exec.Command("sh", "-ec", `set -a; . .demo/demo.env; set +a; exec `+filepath.Join(w.bin, "admin")+" audit "+args) // #nosec G204 -- the test's own words
			shell.Dir = w.folder
			output, err := shell.CombinedOutput()
			return string(output), err
		}
		for _, args := range []string{"anchor", `verify --bucket --no-database --public-key "$AUDIT_PUBLIC_KEY"`, `verify --public-key "$AUDIT_PUBLIC_KEY"`} {
			if output, err := admin(args); err != nil {
				t.Errorf("admin audit %s: %v\n%s", args, err, output)
			}
		}
	})

	t.Run("everybody may what their role says", func(t *testing.T) {
		for _, want := range []struct {
			who, method, path string
			status            int
		}{
			{"ADMIN", "GET", "/registries", 200},
			{"ADMIN", "GET", "/apps/demo/resources/database", 200},
			{"DEPLOYER", "GET", "/apps/demo/releases", 200},
			{"OPS", "POST", "/apps/demo/services/web/restart", 403}, // without a second factor
			{"OPS", "GET", "/apps/demo/releases", 403},
			{"VIEWER", "GET", "/apps/demo", 200},
			{"VIEWER", "POST", "/apps/demo/services/web/restart", 403},
			{"CI", "GET", "/apps/demo/processes", 200},
			{"CI", "DELETE", "/apps/demo", 403},
		} {
			if status, body := ask(t, env, want.who, want.method, want.path); status != want.status {
				t.Errorf("%s %s %s gives %d, want %d: %s", want.who, want.method, want.path, status, want.status, body)
			}
		}
	})

	t.Run("with the second factor it goes through", func(t *testing.T) {
		const path = "/apps/demo/services/web/restart"
		_, refusal := ask(t, env, "OPS", "POST", path)
		asked := regexp.MustCompile(`open (https://\S+) , type the words \\"([a-z ]+)\\"`).FindStringSubmatch(refusal)
		if asked == nil {
			t.Fatalf("it does not say where to go: %s", refusal)
		}
		browser := newBrowser(t, env)
		if _, err := browser.SignIn(t.Context(), "OPS", "/console/"); err != nil {
			t.Fatal(err)
		}
		code, err := totp.GenerateCode(env["TOTP_OPS"], time.Now().Add(-30*time.Second)) // signing in below uses the next one
		if err != nil {
			t.Fatal(err)
		}
		answer, err := browser.Approve(t.Context(), asked[1], url.Values{"words": {asked[2]}, "code": {code}})
		if err != nil || answer.Status != http.StatusOK {
			t.Fatalf("the page: %d %s (%v)", answer.Status, answer.Body, err)
		}
		if status, body := ask(t, env, "OPS", "POST", path); status != http.StatusOK {
			t.Errorf("afterwards: %d %s", status, body)
		}
	})

	t.Run("what it prints can be pasted", func(t *testing.T) {
		pasted := 0
		for _, line := range regexp.MustCompile(`(?m)^ +RACK_URL=(\S+) convox apps$`).FindAllStringSubmatch(output, -1) {
			pasted++
			if status, body := ask(t, map[string]string{"RACK_URL_X": line[1], "GATEWAY_CA": env["GATEWAY_CA"]}, "X", "GET", "/apps"); status != 200 || !strings.Contains(body, `"name": "demo"`) {
				t.Errorf("%s: %d %s", line[0], status, body)
			}
		}
		if want := len(people) - 1; pasted != want { // the script that administers has no business with the rack
			t.Errorf("%d lines to paste, want %d:\n%s", pasted, want, output)
		}
		for _, line := range regexp.MustCompile(`(?m)^ +(\(set -a; .* \$CONSOLE_URL.*\))$`).FindAllStringSubmatch(output, -1) {
			shell := exec.Command("sh", "-ec", line[1])
			shell.Dir = w.folder
			if printed, err := shell.CombinedOutput(); err != nil || !strings.Contains(string(printed), "vic.viewer@demo.localhost") {
				t.Errorf("%s: %v\n%s", line[1], err, printed)
			}
		}
		for _, line := range regexp.MustCompile(`(?m)^ +(\(set -a; .* audit list\))$`).FindAllStringSubmatch(output, -1) {
			shell := exec.Command("sh", "-ec", line[1])
			shell.Dir = w.folder
			if printed, err := shell.CombinedOutput(); err != nil || !strings.Contains(string(printed), "vic.viewer@demo.localhost") {
				t.Errorf("%s: %v\n%s", line[1], err, printed)
			}
		}
	})

	t.Run("everybody can sign in, and sees the rack through the console", func(t *testing.T) {
		for _, person := range people {
			if person.email != "" {
				signIn(t, env, person)
			}
		}
	})

	t.Run("nothing of it can be reached from elsewhere", func(t *testing.T) {
		for _, port := range listening(t, holder(t, w)) {
			if !port.Addr().IsLoopback() {
				t.Errorf("it listens on %s", port)
			}
		}
	})

	t.Run("its secrets are for its owner only", func(t *testing.T) {
		for _, name := range []string{"state.json", "demo.env", "admin.env", "logs/proxy.log", "logs/admin.log", "logs/demo.log", "tls/gateway.key", "tls/rack.key"} {
			info, err := os.Stat(filepath.Join(w.folder, ".demo", name))
			if err != nil {
				t.Error(err)
			} else if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s can be read by others: %s", name, info.Mode())
			}
		}
	})

	t.Run("a second one is not started", func(t *testing.T) {
		if printed, err := w.demo("up"); err != nil || !strings.Contains(printed, "running already") {
			t.Errorf("up: %v\n%s", err, printed)
		}
		if printed, err := w.demo("run"); err == nil || !strings.Contains(printed, "running already") {
			t.Errorf("run: %v\n%s", err, printed)
		}
	})

	stop := func() {
		t.Helper()
		children := childrenOf(t, holder(t, w))
		if len(children) != 5 { // PostgreSQL, the rack, the proxy, admin, S3
			t.Errorf("the demo runs %v", children)
		}
		if printed, err := w.demo("down"); err != nil || !strings.Contains(printed, "Stopped") {
			t.Fatalf("demo down: %v\n%s", err, printed)
		}
		for _, pid := range children {
			if err := syscall.Kill(pid, 0); err == nil {
				t.Errorf("process %d still runs", pid)
			}
		}
	}
	stop()
	if printed, err := w.demo("down"); err != nil || !strings.Contains(printed, "not running") {
		t.Errorf("down, when it is down: %v\n%s", err, printed)
	}

	// The next run is the same gateway, but for ports that somebody took, and a token that somebody revoked.
	state := readState(t, w)
	if output, err := w.demo("up"); err != nil {
		t.Fatalf("demo up, again: %v\n%s", err, output)
	}
	env = w.env(t)
	if again := readState(t, w); fmt.Sprint(again.Tokens) != fmt.Sprint(state.Tokens) {
		t.Error("the tokens of the first run are gone")
	}
	revoke := exec.Command(filepath.Join(w.bin, "admin"), "token", "revoke", state.Tokens["OPS"][:len("rgw_cli_")+8], "--reason", "a test")
	for name, value := range env {
		revoke.Env = append(revoke.Env, name+"="+value)
	}
	if printed, err := revoke.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	stop()
	if output, err := w.demo("up"); err != nil {
		t.Fatalf("demo up, a third time: %v\n%s", err, output)
	}
	for _, person := range people {
		changed := readState(t, w).Tokens[person.key] != state.Tokens[person.key]
		if changed != (person.key == "OPS") {
			t.Errorf("%s: token changed: %t", person.key, changed)
		}
		if person.administers {
			continue
		}
		if status, body := ask(t, w.env(t), person.key, "GET", "/apps"); status != 200 {
			t.Errorf("%s: %d %s", person.key, status, body)
		}
	}

	// A part that ends by itself takes the rest with it, and the log says where to read.
	proxy := 0
	for _, pid := range childrenOf(t, holder(t, w)) {
		if program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); filepath.Base(program) == "proxy" {
			proxy = pid
		}
	}
	if err := syscall.Kill(proxy, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := awaitUnlocked(filepath.Join(w.folder, ".demo", "lock")); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(w.folder, ".demo", "logs", "demo.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the proxy ended by itself, with signal: killed", filepath.Join(".demo", "logs", "proxy.log"), "Stopped."} {
		if !strings.Contains(string(log), want) {
			t.Errorf("demo.log does not say %q:\n%s", want, log)
		}
	}
}

func TestTheDemoUsesARealRackWhenOneIsNamed(t *testing.T) {
	w := newWorkbench(t)
	asked := make(chan string, 100) // password and path; health checks come in between
	rack := http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		asked <- password + " " + r.URL.Path
		fmt.Fprintln(rw, `[{"name": "from-the-real-rack", "status": "running"}]`)
	})}
	port, err := freePort(t.Context(), "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	rack.Addr = "127.0.0.1:" + strconv.Itoa(port)
	served := make(chan error, 1)
	go func() { served <- rack.ListenAndServe() }()
	t.Cleanup(func() {
		rack.Close()
		<-served
	})

	if printed, err := w.demo("up", "RACK_HOST=http://"+rack.Addr); err == nil || !strings.Contains(printed, "RACK_TOKEN is not") {
		t.Fatalf("half a rack: %v\n%s", err, printed)
	}
	printed, err := w.demo("up", "RACK_HOST=http://"+rack.Addr, "RACK_TOKEN=the-real-password")
	if err != nil {
		t.Fatalf("demo up: %v\n%s", err, printed)
	}
	if !strings.Contains(printed, "the rack at http://"+rack.Addr) {
		t.Errorf("it does not say which rack:\n%s", printed)
	}
	status, body := ask(t, w.env(t), "ADMIN", "GET", "/apps")
	if status != 200 || !strings.Contains(body, "from-the-real-rack") {
		t.Fatalf("%d %s", status, body)
	}
	for request := range asked {
		password, path, _ := strings.Cut(request, " ")
		if password != "the-real-password" {
			t.Errorf("the rack was asked for %s with password %q", path, password)
		}
		if path == "/apps" {
			break
		}
	}
}

func TestPostgresIsPutWhereItsUserCanReach(t *testing.T) {
	open, closed := t.TempDir(), t.TempDir()
	for _, folder := range []string{open, filepath.Dir(open)} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		folder string
		inside bool
	}{
		"open to others":        {filepath.Join(open, ".demo"), true},
		"closed to others":      {filepath.Join(closed, ".demo"), os.Geteuid() != 0},
		"too long for a socket": {filepath.Join(open, strings.Repeat("x", 90), ".demo"), false},
	} {
		here := place{folder: tc.folder}
		got, err := here.postgresFolder()
		if err != nil {
			t.Fatal(err)
		}
		if (got == here.file("postgres")) != tc.inside {
			t.Errorf("%s: %s", name, got)
		}
		if again, err := here.postgresFolder(); err != nil || again != got {
			t.Errorf("%s: %s the next time (%v)", name, again, err)
		}
	}
}

func TestCertificatesAreKeptWhileTheyAreGood(t *testing.T) {
	folder, now := t.TempDir(), time.Now()
	first, err := makeCertificate(folder, "gateway", now)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(first.chain)
	if err != nil {
		t.Fatal(err)
	}
	remade := func(at time.Time) bool {
		t.Helper()
		if _, err := makeCertificate(folder, "gateway", at); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(first.chain)
		if err != nil {
			t.Fatal(err)
		}
		changed := !bytes.Equal(before, after)
		before = after
		return changed
	}
	if remade(now.AddDate(0, 10, 0)) {
		t.Error("a good certificate was made anew")
	}
	if !remade(now.AddDate(0, 11, 15)) {
		t.Error("a certificate with half a month left was kept")
	}
	if err := os.WriteFile(first.key, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !remade(now) {
		t.Error("a certificate whose key is gone was kept")
	}
}

// newBrowser is a browser that trusts the demo's authority. It ends with the test.
func newBrowser(t *testing.T, env map[string]string) *testenv.Browser {
	t.Helper()
	roots, err := certificate{authority: env["GATEWAY_CA"]}.roots()
	if err != nil {
		t.Fatal(err)
	}
	browser, err := testenv.NewBrowser(env["CONSOLE_URL"], roots)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(browser.Close)
	return browser
}

// signIn signs somebody in at the demo's provider, as a browser does, and looks at the rack.
func signIn(t *testing.T, env map[string]string, person person) {
	t.Helper()
	browser := newBrowser(t, env)
	code, err := totp.GenerateCode(env["TOTP_"+person.key], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if to, err := browser.SignIn(t.Context(), person.key, "/console/"); err != nil || to.Path != "/console/" {
		t.Fatalf("%s: signing in leads to %v (%v)", person.label(), to, err)
	}
	if err := browser.Verify(t.Context(), code); err != nil {
		t.Fatalf("%s: the second factor: %v", person.label(), err)
	}
	for path, want := range map[string]string{
		"/api/v1/me": person.email, "/api/v1/rack/apps": `"demo"`,
		"/api/v1/me?": `"` + strings.TrimPrefix(env["GATEWAY_URL"], "https://") + `"`, // where the console says to log in
	} {
		if answer, err := browser.Do(t.Context(), http.MethodGet, path, "", ""); err != nil || answer.Status != http.StatusOK || !strings.Contains(answer.Body, want) {
			t.Errorf("%s: GET %s: %d %s (%v)", person.label(), path, answer.Status, answer.Body, err)
		}
	}
}

// listening lists the addresses on which the process and its children listen for TCP.
func listening(t *testing.T, pid int) []netip.AddrPort {
	t.Helper()
	sockets := map[string]bool{}
	for _, process := range append(childrenOf(t, pid), pid) {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil { // it may have been closed since
				sockets[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
			}
		}
	}
	var found []netip.AddrPort
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" || !sockets[fields[9]] { // 0A is listening
				continue
			}
			found = append(found, kernelAddress(t, fields[1]))
		}
	}
	if len(found) < 5 { // the proxy, admin, the provider, the rack, PostgreSQL
		t.Errorf("it listens on %v only", found)
	}
	return found
}

// kernelAddress reads an address as /proc/net/tcp writes it: words of the machine's byte order in hex, and the port.
func kernelAddress(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	words, err := hex.DecodeString(host)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 <= len(words); i += 4 {
		binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(words[i:]))
	}
	address, ok := netip.AddrFromSlice(words)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		t.Fatalf("%s is no address", text)
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(number))
}

// holder is the process that runs the demo.
func holder(t *testing.T, w workbench) int {
	t.Helper()
	_, pid, err := lockFolder(filepath.Join(w.folder, ".demo", "lock"))
	if err == nil || pid == 0 {
		t.Fatalf("nobody runs the demo (%v)", err)
	}
	return pid
}

// childrenOf lists the processes that the process started, over all of its threads.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, child)
		}
	}
	return children
}

func readState(t *testing.T, w workbench) state {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.folder, ".demo", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}
