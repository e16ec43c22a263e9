package compose_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pathRules is which process answers which path; every front that we ship is held to it. Where the two processes
// share one name, what belongs to the rack must never reach admin, and the browser's pages never the rack.
var pathRules = []struct{ path, process string }{
	{"/", "proxy"},
	{"/auth", "proxy"},
	{"/racks", "proxy"},
	{"/racks/acme/staging", "proxy"},
	{"/machines", "proxy"},
	{"/session/0190d5", "proxy"},
	{"/api/v1/rack-proxy/health", "proxy"},
	{"/api/v1/rack-proxy/health/ready", "proxy"},
	{"/apps", "proxy"},
	{"/apps/api", "proxy"},
	{"/apps/console/processes", "proxy"},
	{"/apps/web/objects/tmp/login/x.tgz", "proxy"},
	{"/apiary", "proxy"},
	{"/consoles", "proxy"},
	{"/logins", "proxy"},
	{"/system/logs", "proxy"},
	{"//apps", "proxy"},
	{"/api/v1/rack-proxy", "proxy"},
	{"/api/v1/rack-proxy/", "proxy"},
	{"/api/v1/rack-proxy/apps", "proxy"},
	{"/api/v1/rack-proxy//apps", "proxy"},
	{"/api/v1/rack-proxy/apps/web/processes/web/exec", "proxy"},
	{"/api/v1/rack-proxyx", "admin"},
	{"/api/v1", "admin"},
	{"/api/", "admin"},
	{"/api/v1/users", "admin"},
	{"/api/v1/health", "admin"},
	{"/api", "admin"},
	{"/console", "admin"},
	{"/console/", "admin"},
	{"/console/audit", "admin"},
	{"/console/assets/app.js", "admin"},
	{"/login/", "admin"},
	{"/login/u2f", "admin"},
	{"/login/callback", "admin"},
}

func TestTheFrontSendsEachPathToItsProcess(t *testing.T) {
	rules := parseCaddyfile(t, read(t, "deploy/compose/Caddyfile"))
	for _, rule := range pathRules {
		if got := rules.process(rule.path); got != rule.process {
			t.Errorf("%s is answered by %s, want %s", rule.path, got, rule.process)
		}
	}
}

func TestTheFrontPutsNoLimitOnWhatPasses(t *testing.T) {
	text := read(t, "deploy/compose/Caddyfile")
	for _, directive := range []string{"request_body", "max_size", "read_body", "read_timeout", "write_timeout", "write ", "response_header_timeout", "buffer", "encode", "rewrite", "uri "} {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, directive) {
				t.Errorf("the front's %q limits or changes what passes", line)
			}
		}
	}
}

// caddyRules is the order in which the front asks: the first rule that fits answers.
type caddyRules []struct {
	paths   []string // empty fits all
	process string
}

// process says which process the front asks for the path, by Caddy's rules: patterns are exact but for a `*` at their
// end, case is ignored, and doubled slashes count as one unless the pattern has them.
func (rules caddyRules) process(path string) string {
	path = strings.ToLower(path)
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	for _, rule := range rules {
		if len(rule.paths) == 0 {
			return rule.process
		}
		for _, pattern := range rule.paths {
			prefix, open := strings.CutSuffix(pattern, "*")
			if path == pattern || open && strings.HasPrefix(path, prefix) {
				return rule.process
			}
		}
	}
	return "nobody"
}

// parseCaddyfile reads the rules of the `route` block: matchers of paths, and `handle` blocks that import who
// answers. It fails on anything else there, which it could not judge.
func parseCaddyfile(t *testing.T, text string) caddyRules {
	t.Helper()
	_, inside, found := strings.Cut(text, "\troute {\n")
	if !found {
		t.Fatal("no route block: Caddy would sort the rules by itself")
	}
	var rules caddyRules
	matchers := map[string][]string{}
	depth := 0
	for line := range strings.Lines(inside) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case depth == 0 && words[0] == "}":
			return rules
		case depth == 0 && strings.HasPrefix(words[0], "@") && words[1] == "path":
			matchers[words[0]] = words[2:]
		case depth == 0 && words[0] == "handle" && words[len(words)-1] == "{":
			rules = append(rules, caddyRules{{}}...)
			if len(words) == 3 {
				paths, known := matchers[words[1]]
				if !known {
					t.Fatalf("%s is not defined", words[1])
				}
				rules[len(rules)-1].paths = paths
			}
			depth++
		case depth == 1 && words[0] == "import":
			rules[len(rules)-1].process = words[1]
		case depth == 1 && words[0] == "}":
			depth--
		default:
			t.Fatalf("a rule that this test cannot judge: %s", strings.TrimSpace(line))
		}
	}
	t.Fatal("the route block does not end")
	return nil
}

// TestTheRealFrontFollowsTheRules runs Caddy itself with the shipped file where the machine has one, so that what
// this package believes of Caddy is what Caddy does. The rules above hold without it.
func TestTheRealFrontFollowsTheRules(t *testing.T) {
	caddy, err := exec.LookPath("caddy")
	if err != nil {
		t.Log("no caddy on the PATH: the rules were checked by this package's own reading of the file only")
		return
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echoAfterUpgrade(t, w)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "proxy %s %s %d", r.RequestURI, r.Header.Get("X-Forwarded-For"), n)
	}))
	defer proxy.Close()
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "admin %s %s %d", r.RequestURI, r.Header.Get("X-Forwarded-For"), n)
	}))
	defer admin.Close()
	front := startCaddy(t, caddy, strings.TrimPrefix(proxy.URL, "http://"), strings.TrimPrefix(admin.URL, "http://"))

	for _, rule := range pathRules {
		request, err := http.NewRequest(http.MethodPost, "http://"+front, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Opaque = "//" + front + rule.path + "?"
		request.Header.Set("X-Forwarded-For", "192.0.2.66")
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if want := rule.process + " " + rule.path + "? 127.0.0.1 4"; string(body) != want {
			t.Errorf("%s: %s\nwant %s", rule.path, body, want)
		}
	}

	t.Run("sockets pass as bytes", func(t *testing.T) {
		conn, err := net.Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET /apps/web/processes/1/exec HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", front)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v %v", response, err)
		}
		fmt.Fprint(conn, "\x00\xff bytes\n")
		if line, err := reader.ReadString('\n'); err != nil || line != "\x00\xff bytes\n" {
			t.Errorf("%q %v", line, err)
		}
	})
}

// echoAfterUpgrade answers 101 and sends the first line back.
func echoAfterUpgrade(t *testing.T, w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprint(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	buffered.Flush()
	line, _ := buffered.ReadString('\n')
	fmt.Fprint(buffered, line)
	buffered.Flush()
}

// startCaddy runs the shipped Caddyfile, with the addresses of proxy and admin in place of their names in compose, and
// without certificates, on a free port whose address it returns.
func startCaddy(t *testing.T, caddy, proxy, admin string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := listener.Addr().String()
	listener.Close()

	folder := t.TempDir()
	file := filepath.Join(folder, "Caddyfile")
	text := strings.NewReplacer("proxy:8080", proxy, "admin:8080", admin).Replace(read(t, "deploy/compose/Caddyfile"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, caddy, "run", "--config", file, "--adapter", "caddyfile")
	command.Env = append(os.Environ(), "DOMAIN=http://"+front, "ACME_EMAIL=nobody@example.com", "HOME="+folder, "XDG_DATA_HOME="+folder, "XDG_CONFIG_HOME="+folder)
	logs, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	serving, done := make(chan struct{}), make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			fmt.Fprintln(&said, lines.Text())
			if strings.Contains(lines.Text(), "serving initial configuration") {
				close(serving)
			}
		}
		_ = command.Wait() // killed by the end of the test
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	select {
	case <-serving:
	case <-done:
		t.Fatalf("caddy ended:\n%s", said.String())
	}
	return front
}
