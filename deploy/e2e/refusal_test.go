package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/testenv"
)

// A story is something that the gateway itself has a say in: what a person then sees is kept in a golden file, one
// for each way to the gateway. Every CLI must show the same.
type story struct {
	name string // of the golden file
	both bool   // told by both ways in `make test`, too; others by RACK_URL only there
	opts sideOptions
	run  func(s *side)
}

// TestWhatTheGatewaySays holds what people see of refusals against the golden files.
func TestWhatTheGatewaySays(t *testing.T) {
	for _, st := range stories() {
		for _, k := range kinds() {
			for _, m := range []mode{gateway, console} {
				if !full && m == console && (!st.both || k.name == "stock") {
					continue
				}
				t.Run(k.name+"/"+st.name+"/"+string(m), func(t *testing.T) {
					t.Parallel()
					s := newSide(t, k, m, st.opts)
					st.run(s)
					account(t, s.env)
					golden(t, st.name+"."+string(m), s.text(), k.name == "own")
				})
			}
		}
	}
}

// golden compares a text with a file of testdata, or writes it there with -update.
func golden(t *testing.T, name, got string, writes bool) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update && writes {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := difference(string(want), got); d != "" {
		t.Errorf("%s (go test ./deploy/e2e -update writes it again)\n%s", file, d)
	}
}

func stories() []story {
	return []story{
		{name: "roles", run: everybodyTriesEverything},
		{name: "destructive", run: func(s *side) {
			s.run("apps", "delete", "demo")
			s.run("instances", "terminate", "ip-10-1-0-11.ec2.internal")
			s.run("apps")
			s.run("instances")
		}},
		{name: "unknown-names", both: true, run: func(s *side) {
			s.run("exec", "nothere", "true")
			s.run("exec", s.pid("web"), "true", "-a", "nothere")
			s.run("cp", "Dockerfile", "nothere:/tmp/Dockerfile")
			s.run("cp", "nothere:/tmp/Dockerfile", "none")
			s.run("exec", "api", "env", "-a", "system")
			s.run("logs", "--no-follow", "-a", "rack")
			s.run("api", "get", "/nothere")
			s.run("api", "get", "/apps/demo%2Freleases")
			s.run("api", "get", "/apps/../system")
			if s.mode == console { // it asks nothing of anybody without one
				s.run("rack", "access", "--role", "read", "--duration-in-hours", "1")
			}
		}},
		{name: "token-unknown", run: func(s *side) {
			s.env.AddToken("gone", "--user", "vic@example.com", "--name", "vic's other laptop")
			gone := s.as("gone")
			s.env.Admin("token", "revoke", "vic's other laptop", "--reason", "lost")
			s.refuses("gone")
			tryAll(gone)
		}},
		{name: "token-expired", both: true, run: func(s *side) {
			s.env.AddToken("late", "--user", "vic@example.com", "--name", "vic's other laptop")
			late := s.as("late")
			s.sql(`update rgw.tokens set created_at = now() - interval '2 days', expires_at = now() - interval '1 day' where name = 'vic''s other laptop'`)
			s.refuses("late")
			tryAll(late)
		}},
		{name: "token-idle", run: func(s *side) {
			// It is unused from before its first request, so that no use of it is noted.
			s.env.AddToken("idle", "--user", "vic@example.com", "--name", "vic's other laptop")
			s.sql(`update rgw.tokens set created_at = now() - interval '300 days', expires_at = now() + interval '1 day' where name = 'vic''s other laptop'`)
			tryAll(s.stranger("idle"))
		}},
		{name: "owner-locked", run: func(s *side) {
			vic, ci := s.as("viewer"), s.as("ci")
			s.env.AddUser("mona", "admin")
			s.env.Admin("user", "lock", "vic@example.com", "--reason", "laptop stolen")
			s.refuses("viewer")
			tryAll(vic)
			s.env.Admin("user", "lock", "ana@example.com", "--reason", "left the company")
			s.refuses("ci")
			tryAll(ci)
		}},
		{name: "token-rotated", run: func(s *side) {
			s.env.AddToken("old", "--user", "vic@example.com", "--name", "vic's other laptop")
			old := s.as("old")
			s.env.KnowToken("new", strings.TrimSpace(s.env.Admin("token", "rotate", "vic's other laptop")))
			s.refuses("old")
			tryAll(old)
			s.as("new").run("apps")
		}},
		{name: "other-source", run: func(s *side) {
			s.env.AddToken("elsewhere", "--api", "--name", "elsewhere", "--owner", "ana@example.com", "--role", "viewer", "--cidr", "203.0.113.0/24")
			tryAll(s.stranger("elsewhere"))
		}},
		{name: "no-database", both: true, opts: withoutDatabase("10m"), run: func(s *side) {
			s.must("apps")
			s.database.stop()
			tryAll(s)
			s.run("env", "set", "A=1")
			s.run("cp", "Dockerfile", s.pid("web")+":/tmp/Dockerfile")
			s.startDatabase()
			s.run("apps")
		}},
		{name: "no-database-for-long", opts: withoutDatabase("1s"), run: func(s *side) {
			s.must("apps")
			s.database.stop()
			// What is known of the token is believed for a second more.
			s.await("look up your token")
			tryAll(s)
			s.startDatabase()
			s.run("apps")
		}},
		{name: "no-rack", run: func(s *side) {
			s.must("apps")
			if err := s.env.RackServer.Refuse(); err != nil {
				s.t.Fatal(err)
			}
			tryAll(s)
			s.run("restart")
			if err := s.env.RackServer.Accept(); err != nil {
				s.t.Fatal(err)
			}
			s.run("apps")
		}},
		{name: "other-rack", both: true, run: func(s *side) {
			if s.mode == console {
				s.run("switch", "production")
				s.run("apps", "-r", "production")
				s.run("apps", "-r", "staging")
				return
			}
			for _, user := range []string{"production", "staging", "jwt"} {
				other := *s
				other.install(installation{rackURL: strings.Replace(s.url, "convox:", user+":", 1)})
				s.tell("the user name is", user)
				tryAll(&other)
			}
		}},
		{name: "limits", run: func(s *side) {
			s.env.Admin("setting", "set", "sockets_per_principal", "1")
			s.env.Proxies[0].Restart()
			session := s.start("exec", "web", "sh")
			fmt.Fprintln(session.stdin, "echo here")
			session.await("here")
			s.run("exec", "web", "true")
			s.run("logs", "--no-follow")
			session.stdin.Close()
			session.wait()
		}},
		{name: "requests", run: rawRequests},
	}
}

// withoutDatabase are the options of a side whose database goes away, and whose gateway believes what it knows of
// tokens for so long then.
func withoutDatabase(staleness string) sideOptions {
	return sideOptions{losesDatabase: true, config: map[string]string{
		"AUDIT_MAX_WAIT": "1s", "ACCESS_MAX_STALENESS": staleness, "ACCESS_SOCKET_GRACE": "10m",
	}}
}

// startDatabase returns when the gateway serves again.
func (s *side) startDatabase() {
	s.t.Helper()
	s.database.start()
	s.until("admin", func(a testenv.Answer) bool { return a.Status == http.StatusOK })
}

// await waits until what the gateway answers holds a text.
func (s *side) await(text string) {
	s.t.Helper()
	s.until("admin", func(a testenv.Answer) bool { return strings.Contains(a.Body, text) })
}

// stranger is a side of somebody who has never logged in: with RACK_URL, or the variables of console mode.
func (s *side) stranger(who string) *side {
	s.t.Helper()
	other := *s
	if s.mode == console {
		other.install(installation{host: s.host(), token: s.env.Token(who), rack: testenv.RackName})
	} else {
		other.install(installation{rackURL: s.env.RackURL(who)})
	}
	return &other
}

// tryAll does one thing of each kind: a list, a login, a write, a session and a stream.
func tryAll(s *side) {
	s.t.Helper()
	if s.mode == console {
		s.run("racks")
		s.run("switch", "staging")
		if s.loggedIn {
			s.run("login", s.host())
		}
	}
	s.run("apps")
	s.run("services", "restart", "web")
	s.run("exec", "web", "echo hello")
	s.run("logs", "--no-follow", "--filter", "listening")
	s.run("version")
}

// everybodyTriesEverything shows what each role may not do, and what of an answer is masked from it.
func everybodyTriesEverything(s *side) {
	deeds := []struct {
		may  string // who may do it where doing it would change what comes after, or take long
		args []string
	}{
		{"", []string{"apps"}},
		{"ops deployer", []string{"exec", "web", "echo hello"}},
		{"ops deployer ci", []string{"run", "web", "echo hello"}},
		{"ops deployer", []string{"ps", "stop", s.pid("web")}},
		{"", []string{"env"}},
		{"", []string{"env", "set", "A=1"}},
		{"", []string{"env", "set", "--replace", "A=1"}},
		{"", []string{"releases"}},
		{"deployer ci", []string{"releases", "promote", s.release()}},
		{"", []string{"releases", "rollback", s.release()}},
		{"deployer ci", []string{"build"}},
		{"deployer ci", []string{"deploy"}},
		{"deployer", []string{"builds", "export", s.build(), "--file", "build.tgz"}},
		{"ops deployer", []string{"restart"}},
		{"deployer", []string{"scale", "web", "--count", "2"}},
		{"ops deployer", []string{"cp", "Dockerfile", s.pid("web") + ":/tmp/Dockerfile"}},
		{"ops deployer", []string{"cp", s.pid("web") + ":/etc/hostname", "hostname"}},
		{"", []string{"logs", "--no-follow", "--filter", "listening"}},
		{"", []string{"resources"}},
		{"", []string{"resources", "url", "database"}},
		{"", []string{"resources", "export", "database", "--file", "dump.sql"}},
		{"", []string{"resources", "import", "database", "--file", "Dockerfile"}},
		{"", []string{"resources", "console", "database"}},
		{"", []string{"apps", "create", "other"}},
		{"", []string{"apps", "delete", "demo"}},
		{"", []string{"apps", "params"}},
		{"deployer", []string{"apps", "params", "set", "BuildCpu=700"}},
		{"deployer", []string{"apps", "lock"}},
		{"", []string{"configs"}},
		{"", []string{"config", "get", "settings"}},
		{"deployer", []string{"config", "set", "settings", "--file", "Dockerfile"}},
		{"", []string{"certs"}},
		{"", []string{"certs", "delete", "cert-seed1"}},
		{"", []string{"registries"}},
		{"", []string{"registries", "add", "quay.example.com", "robot", "password"}},
		{"", []string{"registries", "remove", "registry.example.com"}},
		{"", []string{"rack"}},
		{"", []string{"rack", "ps"}},
		{"ops deployer", []string{"rack", "logs"}},
		{"", []string{"rack", "params"}},
		{"", []string{"rack", "params", "set", "node_type=t3.large"}},
		{"", []string{"rack", "resources"}},
		{"", []string{"rack", "resources", "info", "audit"}},
		{"", []string{"rack", "resources", "delete", "audit"}},
		{"", []string{"rack", "access", "key", "rotate"}},
		{"", []string{"instances"}},
		{"", []string{"instances", "terminate", "ip-10-1-0-11.ec2.internal"}},
	}
	for _, who := range []string{"viewer", "ops", "deployer", "scoped", "ci"} {
		one := s.as(who)
		s.tell("as", who)
		for _, d := range deeds {
			if !strings.Contains(" "+d.may+" ", " "+who+" ") {
				one.run(d.args...)
			}
		}
	}
}

// rawRequests shows how requests are refused that no CLI sends, or that nobody may send.
func rawRequests(s *side) {
	form := "application/x-www-form-urlencoded"
	for _, r := range []struct {
		method, path string
		header       []string // pairs
		body         string
	}{
		{"POST", "/system/jwt/token", []string{"Content-Type", form}, "role=read&durationInHour=1"},
		{"POST", "/events", []string{"Content-Type", form}, "action=x"},
		{"GET", "/v2/demo/tags/list", nil, ""},
		{"GET", "/custom/http/proxy/x", []string{"X-Host", "web.demo.demo.local", "X-Port", "80"}, ""},
		{"GET", "/kubernetes/api/v1/secrets", nil, ""},
		{"POST", "/apps/demo/builds", []string{"Content-Type", form}, "external=true&url=object%3A%2F%2Fdemo%2Fx"},
		{"POST", "/apps/demo/builds", []string{"Content-Type", form}, "url=object%3A%2F%2Fother%2Fx"},
		{"POST", "/apps/demo/services/web/processes", []string{"Image", "alpine", "Privileged", "true"}, ""},
		{"POST", "/apps/demo/services/build/processes", []string{"Command", "env"}, ""},
		{"POST", "/apps/x-undefined-app-x/objects/demo/key", nil, "data"},
		{"GET", "/apps/system", nil, ""},
		{"GET", "/nothere", nil, ""},
		{"PATCH", "/apps", nil, ""},
		{"POST", "/racks", nil, ""},
		{"GET", "/racks/acme/production", nil, ""},
		{"GET", "/apps/", nil, ""},
		{"GET", "//apps//demo", nil, ""},
		{"GET", "/apps/demo%2Freleases", nil, ""},
		{"GET", "/apps/demo%3F", nil, ""},
		{"GET", "/apps/demo%00", nil, ""},
		{"GET", "/apps/demo/../system", nil, ""},
		{"GET", "/apps/demo/releases?limit=1?", nil, ""},
		{"GET", "/apps/demo/releases?limit=1&limit=2", nil, ""},
		{"GET", "/apps/demo/processes/web/files?file=-T/etc/passwd", nil, ""},
		{"GET", "/apps/demo/processes/web/exec?command=env", []string{"Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==", "Command", "true"}, ""},
		{"GET", "/apps/demo/processes/web/exec", []string{"Upgrade", "WebSocket", "Connection", "Upgrade"}, ""},
		{"POST", "/apps/demo/releases", []string{"Content-Type", "multipart/form-data; boundary=x"}, "--x\r\nContent-Disposition: form-data; name=\"env\"\r\n\r\nA=1\r\n--x--\r\n"},
		{"POST", "/apps/demo/releases", []string{"Content-Type", "text/plain"}, "env=A%3D1"},
		{"POST", "/apps/demo/releases", []string{"Content-Type", form}, "env=A%3D1;build=x"},
		{"POST", "/apps/demo/releases?env=B%3D1", []string{"Content-Type", form}, "env=A%3D1"},
		{"GET", "/apps", []string{"Rack", "acme/production"}, ""},
		{"GET", "/apps", []string{"Authorization", ""}, ""},
		{"GET", "/apps", []string{"Authorization", "Bearer not-a-token"}, ""},
		{"GET", "/apps", []string{"Authorization", "Basic dG9rZW4="}, ""},
		{"GET", "/apps", []string{"Sec-Fetch-Site", "cross-site"}, ""},
	} {
		s.ask(r.method, r.path, r.header, r.body)
	}
}

// ask sends a request as it stands, and writes down how it was answered.
func (s *side) ask(method, path string, header []string, body string) {
	s.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(s.ctx, method, s.env.Proxies[0].URL+path, content)
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth("convox", s.env.Token("admin"))
	if s.mode == console {
		req.Header.Set("Rack", "acme/staging")
		req.Header["Session"] = []string{""}
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	resp, err := s.env.Client().Transport.RoundTrip(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	text := string(data)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		text = fmt.Sprintf("%q\n", text) // frames
	}
	s.note(step{what: strings.Join(append([]string{method, path}, header...), " ") + " " + body, stdout: text, end: resp.Status})
}

// sql changes the database around the gateway.
func (s *side) sql(statement string) {
	s.t.Helper()
	if _, err := s.env.DB.ExecContext(s.ctx, statement); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

// refuses waits until somebody's token is refused: a change takes a moment.
func (s *side) refuses(who string) {
	s.t.Helper()
	s.until(who, func(a testenv.Answer) bool { return a.Status == http.StatusUnauthorized })
}

// until asks again and again as somebody until the answer is a certain one.
func (s *side) until(who string, wanted func(testenv.Answer) bool) {
	s.t.Helper()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for end := time.Now().Add(patience); ; {
		got := s.env.Do(who, http.MethodGet, "/machines", nil)
		if wanted(got) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s is still answered %d %s", who, got.Status, got.Body)
		}
		<-every.C
	}
}
