//go:build browser

package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/idp"
)

var suite testenv.Suite

func TestMain(m *testing.M) {
	code := m.Run()
	if err := suite.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// hostile are names that people and racks may have, and that pages must show as text.
var hostile = []string{
	`<script>document.title='hacked'</script>`,
	`"><img src=x onerror="document.title='hacked'">`,
	"محمد عبد الله الأمين",
	"יוסי כהן",
	"🚀🦜 Ünïcödé ñandú",
	strings.Repeat("Wolfeschlegelsteinhausenbergerdorff", 5),
	"{{constructor.constructor('alert(1)')()}} ${7*7}",
}

// world is what the browser visits.
type world struct {
	*testenv.Env

	t     *testing.T
	Admin string // its address
	IDP   string
}

// newWorld starts everything, with enough in it to look at.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, racktest.Options{
		Name: "staging", Provider: "aws", Region: "eu-west-1", Version: "3.24.9", Seed: 7, LogEvery: 700 * time.Millisecond,
		Apps: []string{"web", "worker", "billing", "search", "notifications", "image-resizer"},
	})
}

// newWorldWith is newWorld before a rack of one's own.
func newWorldWith(t *testing.T, rack racktest.Options) *world {
	t.Helper()
	env := suite.Start(t, testenv.Options{TLS: true, Config: map[string]string{"ADMIN_CIDRS": "127.0.0.0/8,::1/128"}, Rack: rack})
	w := &world{Env: env, t: t}
	port := freePort(t)
	w.Admin = fmt.Sprintf("http://localhost:%d", port)
	people := []idp.Person{
		{Subject: "ana", Email: "ana@example.com", Name: "Ana Álvarez", What: "admin"},
		{Subject: "dan", Email: "dan@example.com", Name: "Dan Okafor", What: "deployer"},
		{Subject: "olga", Email: "olga@example.com", Name: "Olga Petrova", What: "ops"},
		{Subject: "vic", Email: "vic@example.com", Name: "Vic Tanaka", What: "viewer"},
		{Subject: "sue", Email: "sue@example.com", Name: "Sue Lindqvist", What: "deployer of web-*"},
		{Subject: "nobody", Email: "nobody@example.com", Name: "Nobody Known", What: "was never added"},
		{Subject: "first", Email: "first@example.com", Name: "Fatima First", What: "a new admin"},
	}
	provider, err := idp.Listen(t.Context(), "127.0.0.1:0", idp.Options{
		ClientID: "gateway", ClientSecret: "secret", RedirectURIs: []string{w.Admin + "/login/callback"}, People: people,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	w.IDP = provider.URL
	w.startAdmin(port)
	return w
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startAdmin runs `admin serve` until the test is over.
func (w *world) startAdmin(port int) {
	w.t.Helper()
	log, err := os.CreateTemp(w.t.TempDir(), "admin-*.log")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(w.Bin(), "admin"), "serve")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{
		"DATABASE_URL=" + w.Postgres.URL(cluster.Admin, w.Database), "AUDIT_MAC_KEY=" + w.MACKey(),
		"APP_SECRET_KEY=5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
		fmt.Sprintf("PORT=%d", port), "ADMIN_URL=" + w.Admin, "DOMAIN=" + strings.TrimPrefix(w.Proxies[0].URL, "https://"), "DEV_MODE=yes",
		"PROXY_URL=" + w.Proxies[0].URL, "PROXY_CA_FILE=" + w.CAFile(),
		"RACK_ORGANIZATION=" + testenv.Organization, "RACK_ALIAS=" + testenv.Alias,
		"GOOGLE_OAUTH_BASE_URL=" + w.IDP, "GOOGLE_CLIENT_ID=gateway", "GOOGLE_CLIENT_SECRET=secret", "GOOGLE_ALLOWED_DOMAIN=example.com",
		"DRAIN_TIMEOUT=1s", "LOG_FORMAT=text", "TZ=UTC",
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	w.t.Cleanup(func() {
		cancel()
		<-done
		if w.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			w.t.Logf("what admin logged:\n%s", text[max(0, len(text)-6000):])
		}
		_ = log.Close()
	})
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := http.Get(w.Admin + "/api/v1/health/ready")
		if err == nil {
			ok := resp.StatusCode == http.StatusOK
			_ = resp.Body.Close()
			if ok {
				return
			}
		}
		select {
		case err := <-done:
			done <- err
			text, _ := os.ReadFile(log.Name())
			w.t.Fatalf("admin ended: %v\n%s", err, text)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			w.t.Fatal("admin does not become ready")
		}
	}
}

// seed makes a week of a small company.
func (w *world) seed() {
	w.t.Helper()
	for _, who := range []struct{ email, name, role string }{
		{"mira@example.com", "Mira Castellanos", "deployer@web*"}, {"tom@example.com", "Tom Becker", "ops"}, {"yuki@example.com", "Yuki Sato", "viewer"},
		{"left@example.com", "Lena Fontaine", "deployer"}, {"first@example.com", "Fatima First", "admin"},
	} {
		w.Env.Admin("user", "add", who.email, "--name", who.name, "--role", who.role)
	}
	for i, name := range hostile {
		w.Env.Admin("user", "add", fmt.Sprintf("hostile%d@example.com", i), "--name", name, "--role", "viewer")
		w.Env.Admin("token", "create", "--api", "--owner", "ana@example.com", "--role", "viewer", "--name", name)
	}
	w.Env.Admin("user", "lock", "left@example.com", "--reason", "Left the company on Friday")
	w.Env.Admin("role", "create", "release-manager", "--description", "Promotes what others have built.", "--permission", "convox:app:list", "--permission", "convox:app:read", "--permission", "convox:release:list", "--permission", "convox:release:promote")
	w.Env.Admin("token", "create", "--api", "--owner", "dan@example.com", "--role", "cicd@web", "--name", "github-web-deploys")
	w.Env.Admin("token", "create", "--api", "--owner", "dan@example.com", "--role", "cicd@worker", "--name", "circleci-worker")
	w.Env.Admin("setting", "set", "session_idle_minutes", "60")
	// Second factors have scenarios of their own, which turn them on.
	w.Env.Admin("setting", "set", "mfa_required", "false")
	form := func(who, method, path string, values ...string) {
		body := url.Values{}
		for i := 0; i+1 < len(values); i += 2 {
			body.Set(values[i], values[i+1])
		}
		w.ask(who, method, path, body.Encode())
	}
	for range 3 {
		for _, app := range []string{"web", "worker", "billing"} {
			form("admin", "GET", "/apps/"+app)
			form("viewer", "DELETE", "/apps/"+app)
			form("viewer", "POST", "/apps/"+app+"/services/web/restart")
		}
	}
	for _, app := range []string{"web", "worker", "billing", "search"} {
		form("secrets", "POST", "/apps/"+app+"/releases", "env", "API_KEY=sk-live-1\nDATABASE_URL=postgres://u:p@h.example:5432/db\nLOG_LEVEL=debug\nFEATURE_FLAGS=checkout,search")
		id := w.newest(app)
		form("deployer", "POST", "/apps/"+app+"/releases/"+id+"/promote")
		w.idle(app)
	}
	form("deployer", "PUT", "/apps/web/services/web", "count", "4")
	form("admin", "POST", "/apps/web/services/web/restart")
	w.idle("web")
}

// ask asks the proxy with somebody's token, and does not mind a refusal.
func (w *world) ask(who, method, path, form string) string {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.Proxies[0].URL+path, strings.NewReader(form))
	if err != nil {
		w.t.Fatal(err)
	}
	r.SetBasicAuth("convox", w.Token(who))
	if method != http.MethodGet {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := w.Client().Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		w.t.Fatal(err)
	}
	return body.String()
}

func (w *world) newest(app string) string {
	w.t.Helper()
	var list []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(w.ask("admin", "GET", "/apps/"+app+"/releases", "")), &list); err != nil || len(list) == 0 {
		w.t.Fatalf("releases of %s: %v", app, err)
	}
	return list[0].ID
}

// idle waits until an app is not changing any more.
func (w *world) idle(app string) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(w.ask("admin", "GET", "/apps/"+app, ""), `"status": "running"`); {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s never comes to rest: %s", app, w.ask("admin", "GET", "/apps/"+app, ""))
		}
	}
}

// plan is what the browser's program is told.
type plan struct {
	Console  string            `json:"console"`
	Gateway  string            `json:"gateway"`
	CA       string            `json:"ca"`
	Rack     string            `json:"rack"`
	Chromium string            `json:"chromium"`
	Tokens   map[string]string `json:"tokens"`
	Hostile  []string          `json:"hostile"`
	Out      string            `json:"out,omitempty"`
	Only     string            `json:"only,omitempty"`
	Quick    bool              `json:"quick"`
	Bulk     int               `json:"bulk,omitempty"`
	Control  string            `json:"control,omitempty"`
	Convox   string            `json:"convox,omitempty"`
}

func (w *world) plan() plan {
	w.t.Helper()
	p := plan{Console: w.Admin, Gateway: w.Proxies[0].URL, CA: w.CAFile(), Rack: testenv.RackName, Chromium: chromium(w.t), Tokens: map[string]string{}, Hostile: hostile, Only: os.Getenv("ONLY"), Quick: testing.Short()}
	for _, who := range testenv.People() {
		p.Tokens[who.Name] = w.Token(who.Name)
	}
	return p
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	t.Fatal("there is no Chromium: apt-get install chromium, or name one in CHROMIUM")
	return ""
}

// line is what the browser's program tells of one scenario.
type line struct {
	Name    string  `json:"name"`
	Error   string  `json:"error"`
	Note    string  `json:"note"`
	Seconds float64 `json:"seconds"`
}

// drive runs one of the browser's programs, and makes a test of each scenario that it tells of.
func (w *world) drive(program string, p plan) {
	w.t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "e2e/"+program)
	cmd.Dir = "../../../pkg/console"
	cmd.Env = append(os.Environ(), "PLAN="+string(text), "NODE_EXTRA_CA_CERTS="+w.CAFile())
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	failed := cmd.Run()
	told := 0
	for text := range bytes.Lines(out.Bytes()) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			w.t.Errorf("the browser's program says %q", text)
			continue
		}
		told++
		w.t.Run(l.Name, func(t *testing.T) {
			if l.Note != "" {
				t.Log(l.Note)
				figures(l.Note)
			}
			if l.Error != "" {
				t.Error(l.Error)
			}
		})
	}
	if told == 0 || (failed != nil && !w.t.Failed()) {
		w.t.Errorf("%s: %v, after %d scenarios\n%s", program, failed, told, complaints.String())
	}
}
