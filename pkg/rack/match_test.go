package rack

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/mux"
)

func table(t testing.TB) *Table {
	t.Helper()
	table, err := NewTable()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// example fills in a pattern.
func example(pattern string) string {
	var b strings.Builder
	for _, part := range strings.Split(pattern[1:], "/") {
		b.WriteByte('/')
		name, suffix, _ := strings.Cut(strings.TrimPrefix(part, "{"), "}")
		switch {
		case !strings.HasPrefix(part, "{"):
			b.WriteString(part)
		case strings.HasSuffix(name, "..."):
			b.WriteString("some/where")
		default:
			b.WriteString("a-" + name + suffix)
		}
	}
	return b.String()
}

func TestEveryRouteIsFoundByItsOwnPattern(t *testing.T) {
	table := table(t)
	for _, r := range table.Routes() {
		method := r.Method
		if method == AnyMethod {
			method = "PATCH"
		}
		m, err := table.Match(method, r.Socket, example(r.Pattern))
		if err != nil {
			t.Errorf("%s %s: %v", r.Method, r.Pattern, err)
			continue
		}
		if m.Route.Op != r.Op {
			t.Errorf("%s %s leads to %s, want %s", r.Method, r.Pattern, m.Route.Op, r.Op)
		}
		if table.Route(r.Op) != m.Route {
			t.Errorf("Route(%s) is another row", r.Op)
		}
	}
	if table.Route("NoSuchThing") != nil {
		t.Error("an operation that does not exist has a row")
	}
}

func TestRoutesGiveTheirVariables(t *testing.T) {
	table := table(t)
	for _, c := range []struct {
		method, path, op string
		socket           bool
		vars             map[string]string
	}{
		{"GET", "/apps", "AppList", false, nil},
		{"GET", "/apps/demo", "AppGet", false, map[string]string{"app": "demo"}},
		{"GET", "/apps/demo/builds/B1.tgz", "BuildExport", false, map[string]string{"app": "demo", "id": "B1"}},
		{"GET", "/apps/demo/builds/B1.tgz.tgz", "BuildExport", false, map[string]string{"id": "B1.tgz"}},
		{"GET", "/apps/demo/builds/.tgz", "BuildGet", false, map[string]string{"id": ".tgz"}},
		{"PUT", "/apps/demo/builds/B1.tgz", "BuildUpdate", false, map[string]string{"id": "B1.tgz"}},
		{"GET", "/apps/demo/configs/cli-env-mask", "AppConfigEnvMask", false, map[string]string{"app": "demo"}},
		{"PUT", "/apps/demo/configs/cli-env-mask", "AppConfigSet", false, map[string]string{"name": "cli-env-mask"}},
		{"POST", "/apps/demo/objects/tmp/x.tgz", "ObjectStoreTemporary", false, map[string]string{"key": "x.tgz"}},
		{"POST", "/apps/demo/objects/tmp/x/y", "ObjectStore", false, map[string]string{"key": "tmp/x/y"}},
		{"POST", "/apps/demo/objects/tmp", "ObjectStore", false, map[string]string{"key": "tmp"}},
		{"GET", "/apps/demo/objects/a/b%20c/d", "ObjectFetch", false, map[string]string{"key": "a/b c/d"}},
		{"GET", "/apps/demo/objects", "ObjectList", false, nil},
		{"DELETE", "/registries/docker.io/library", "RegistryRemove", false, map[string]string{"server": "docker.io/library"}},
		{"POST", "/certificates/demo/renew", "CertificateRenew", false, map[string]string{"app": "demo"}},
		{"POST", "/certificates/generate", "CertificateGenerate", false, nil},
		{"GET", "/apps/demo/processes/web-1/exec", "ProcessExec", true, map[string]string{"app": "demo", "pid": "web-1"}},
		{"GET", "/proxy/db.internal/5432", "Proxy", true, map[string]string{"host": "db.internal", "port": "5432"}},
		{"GET", "/proxy/%5B::1%5D/5432", "Proxy", true, map[string]string{"host": "[::1]"}},
		{"DELETE", "/resources/hook/links/demo", "SystemResourceUnlink", false, map[string]string{"name": "hook", "link": "demo", "app": ""}},
		{"OPTIONS", "/resources", "SystemResourceTypes", false, nil},
		{"HEAD", "/apps/demo/objects/x", "ObjectExists", false, nil},
		{"GET", "/v2/", "RegistryProxy", false, map[string]string{"path": ""}},
		{"GET", "/v2", "RegistryProxy", false, map[string]string{"path": ""}},
		{"GET", "/v2/demo/manifests/latest", "RegistryProxy", false, map[string]string{"path": "demo/manifests/latest"}},
		{"PATCH", "/kubernetes/api/v1/pods", "KubernetesProxy", false, map[string]string{"path": "api/v1/pods"}},
		{"GET", "/kubernetes/", "KubernetesProxy", false, nil},
		{"GET", "/kubernetes/api/v1/", "KubernetesProxy", true, nil},
		{"GET", "/custom/http/proxy/x", "ProxyHttpService", true, nil},
		{"GET", "/custom/http/proxy/", "ProxyHttpService", false, nil},
	} {
		m, err := table.Match(c.method, c.socket, c.path)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		if string(m.Route.Op) != c.op {
			t.Errorf("%s %s leads to %s, want %s", c.method, c.path, m.Route.Op, c.op)
		}
		for name, want := range c.vars {
			if got := m.Var(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, got, want)
			}
		}
	}
	if got := (&Match{}).Var("app"); got != "" {
		t.Errorf("no route has variable %q", got)
	}
}

func TestPathsBecomeCanonical(t *testing.T) {
	table := table(t)
	for given, want := range map[string]string{
		"/apps/demo":                "/apps/demo",
		"/apps/%64emo":              "/apps/demo",
		"/apps/de mo":               "/apps/de%20mo",
		"/apps/caf%c3%a9":           "/apps/caf%C3%A9",
		"/apps/café":                "/apps/caf%C3%A9",
		"/%61pps/demo":              "/apps/demo",
		"/apps/a+b&c=d:e@f$g":       "/apps/a+b&c=d:e@f$g",
		"/apps/a;b,c":               "/apps/a%3Bb%2Cc",
		"/apps/demo/objects/..x/.y": "/apps/demo/objects/..x/.y",
	} {
		m, err := table.Match("GET", false, given)
		if err != nil {
			t.Errorf("%s: %v", given, err)
		} else if m.Path != want {
			t.Errorf("%s becomes %s, want %s", given, m.Path, want)
		}
	}
}

func TestAmbiguousPathsAreRefused(t *testing.T) {
	table := table(t)
	bad := []string{
		"", "apps", "//apps", "/apps/", "/apps//demo", "/x/../apps", "/./apps", "/apps/.", "/apps/..",
		"/apps/%2e", "/apps/%2e%2E", "/apps/.%2e/x", "/apps/%zz", "/apps/%2", "/apps/%", "/apps/%ff", "/apps/a%c3",
		"/apps/demo/", "/apps/demo/releases/", "/v2//x", "/v2/x//", "//", "///", "/%2F", "/v2/../apps",
		"/apps/a?b", "/apps/a#b", "/apps/a\\b", "/apps/a\x00b", "/apps/a\xff",
	}
	for _, escape := range []string{"%2F", "%2f", "%5C", "%5c", "%3F", "%3f", "%23", "%00", "%0A", "%0d", "%1b", "%7F", "%C2%85", "%25", "%252F"} {
		bad = append(bad, "/"+escape+"apps", "/apps"+escape, "/apps/"+escape, "/apps/demo"+escape+"releases",
			"/apps/demo/releases/"+escape+"x", "/apps/demo/objects/tmp/x"+escape, "/v2/"+escape+"/x")
	}
	for _, path := range bad {
		m, err := table.Match("GET", false, path)
		var wrong *PathError
		if !errors.As(err, &wrong) {
			t.Errorf("%q leads to %+v, %v; want it refused", path, m, err)
			continue
		}
		if strings.Contains(wrong.Error(), "%") || wrong.Reason == "" {
			t.Errorf("%q: the reason %q cannot be shown", path, wrong.Reason)
		}
	}
}

func TestUnknownPathsAndMethodsAreToldApart(t *testing.T) {
	table := table(t)
	for _, path := range []string{"/", "/nothing", "/apps/demo/nothing", "/apps/demo/logs", "/Apps", "/check", "/apps/demo/processes/p/exec/x", "/letsencrypt"} {
		if m, err := table.Match("GET", false, path); !errors.Is(err, ErrNoRoute) {
			t.Errorf("GET %s leads to %v, %v", path, m.Route, err)
		}
	}
	if m, err := table.Match("GET", true, "/apps/demo"); !errors.Is(err, ErrNoRoute) || m.Path != "/apps/demo" {
		t.Errorf("a socket at a path without one leads to %v, %v", m.Route, err)
	}
	for path, want := range map[string]string{
		"/apps/demo":           "DELETE, GET, PUT",
		"/resources":           "GET, OPTIONS, POST",
		"/apps/demo/objects/x": "DELETE, GET, HEAD, POST",
		"/apps/demo/logs":      "GET",
	} {
		_, err := table.Match("PATCH", false, path)
		var wrong *MethodError
		if !errors.As(err, &wrong) {
			t.Errorf("PATCH %s: %v", path, err)
		} else if got := strings.Join(wrong.Allowed, ", "); got != want || !strings.Contains(wrong.Error(), want) {
			t.Errorf("PATCH %s: %v, want %s", path, wrong, want)
		}
	}
	if _, err := table.Match("HEAD", false, "/apps"); err == nil {
		t.Error("HEAD is taken for GET")
	}
}

func TestMistakesInTheTableAreFound(t *testing.T) {
	for _, routes := range [][]Route{
		{{Op: "A", Pattern: "apps"}},
		{{Op: "A", Pattern: "/{app}/x"}},
		{{Op: "A", Pattern: "/apps/{app"}},
		{{Op: "A", Pattern: "/apps/{}"}},
		{{Op: "A", Pattern: "/apps//x"}},
		{{Op: "A", Pattern: "/apps/x{y}"}},
		{{Op: "A", Pattern: "/apps/{key...}/x"}},
		{{Op: "A", Pattern: "/apps/{key...}.tgz"}},
		{{Op: "A", Pattern: "/apps"}, {Op: "A", Pattern: "/builds"}},
	} {
		if _, err := newTable(routes); err == nil {
			t.Errorf("%v is taken", routes)
		}
	}
}

func TestOnlyTheExactUpgradeIsASocket(t *testing.T) {
	for _, c := range []struct {
		method string
		up     []string
		want   bool
	}{
		{"GET", []string{"websocket"}, true},
		{"GET", nil, false},
		{"GET", []string{"WebSocket"}, false},
		{"GET", []string{"websocket", "websocket"}, false},
		{"GET", []string{"h2c", "websocket"}, false},
		{"GET", []string{"websocket, h2c"}, false},
		{"POST", []string{"websocket"}, false},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		if c.up != nil {
			r.Header["Upgrade"] = c.up
		}
		if got := IsSocket(r); got != c.want {
			t.Errorf("%s with %q: %t", c.method, c.up, got)
		}
	}
}

func TestTheTableSaysWhatStreamsForLong(t *testing.T) {
	var long []string
	for _, r := range Routes() {
		if r.LongRead {
			long = append(long, string(r.Op))
		}
		if r.Socket != (r.Answer == AnswerSocket) {
			t.Errorf("%s: Socket and Answer do not agree", r.Op)
		}
		for _, h := range r.Headers {
			if canonical(h) != h {
				t.Errorf("%s: header %s is not in canonical spelling", r.Op, h)
			}
		}
		if len(r.Form) > 0 && r.Body != FormBody {
			t.Errorf("%s has form fields and no form", r.Op)
		}
	}
	if got, want := strings.Join(long, " "), "BuildExport FilesDownload ObjectFetch ResourceExport"; got != want {
		t.Errorf("%s stream for long, want %s", got, want)
	}
}

func TestTheLastVariableIsWhatARequestIsAbout(t *testing.T) {
	table := table(t)
	for op, want := range map[Op]string{"AppGet": "app", "ProcessExec": "pid", "AppList": "", "ObjectFetch": "key", "BuildExport": "id"} {
		if got := table.Route(op).LastVar(); got != want {
			t.Errorf("%s: %q, want %q", op, got, want)
		}
	}
}

// theRack is a router like a rack's: gorilla/mux over the decoded path, first match in the order of the table.
func theRack(t testing.TB) *mux.Router {
	router := mux.NewRouter().SkipClean(true)
	for _, r := range Routes() {
		pattern := strings.ReplaceAll(r.Pattern, "...}", ":.*}")
		route := router.Handle(pattern, http.NotFoundHandler()).Name(string(r.Op))
		if r.Method != AnyMethod {
			route.Methods(r.Method)
		}
		if r.Socket {
			route.Headers("Upgrade", "websocket")
		}
		if err := route.GetError(); err != nil {
			t.Fatal(err)
		}
	}
	return router
}

// FuzzMatch compares each match with the rack's own reading of the path that would be forwarded.
func FuzzMatch(f *testing.F) {
	for _, r := range Routes() {
		f.Add(r.Method, r.Socket, example(r.Pattern))
	}
	for _, path := range []string{
		"/", "//apps", "/apps/", "/apps/demo%2Freleases", "/apps/%2e%2e/x", "/apps/%00", "/v2/", "/v2//", "/apps/x%3Fy", "/apps/a%20b",
		"/apps/caf\u00e9", "/apps/%ff", "/apps/a;b", "/apps/demo/objects/", "/apps/demo/objects//", "/%61pps/%64emo", "/apps/a/builds/.tgz",
	} {
		f.Add("GET", false, path)
	}
	table, router := table(f), theRack(f)
	f.Fuzz(func(t *testing.T, method string, socket bool, escaped string) {
		m, err := table.Match(method, socket, escaped)
		var path *PathError
		if errors.As(err, &path) {
			if strings.ContainsRune(path.Reason, '%') {
				t.Fatalf("the reason %q cannot be shown", path.Reason)
			}
			return
		}

		// The path is the only reading there is.
		whole, uerr := url.PathUnescape(m.Path)
		if uerr != nil || !utf8.ValidString(whole) {
			t.Fatalf("path %q does not unescape: %v", m.Path, uerr)
		}
		if m.Path != "/" && !slices.Equal(strings.Split(whole, "/")[1:], m.Segments) {
			t.Fatalf("path %q is %q to a rack, and %q here", m.Path, whole, m.Segments)
		}
		u, uerr := url.Parse("http://rack" + m.Path)
		if uerr != nil || u.Path != whole || u.EscapedPath() != m.Path || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("path %q is forwarded as %q (%v)", m.Path, u.EscapedPath(), uerr)
		}
		for _, s := range m.Segments {
			if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\?#%\x00") {
				t.Fatalf("path %q has segment %q", m.Path, s)
			}
		}
		again, aerr := table.Match(method, socket, m.Path)
		if again.Path != m.Path || !slices.Equal(again.Segments, m.Segments) || again.Route != m.Route || fmt.Sprint(aerr) != fmt.Sprint(err) {
			t.Fatalf("path %q matches as %+v (%v), and then as %+v (%v)", escaped, m, err, again, aerr)
		}

		// And the rack finds the same route behind it.
		r := &http.Request{Method: method, URL: u, Header: http.Header{}}
		if socket {
			if method != "GET" {
				return // there is no such request
			}
			r.Header.Set("Upgrade", "websocket")
		}
		var theirs mux.RouteMatch
		found := router.Match(r, &theirs) && theirs.MatchErr == nil
		switch {
		case err == nil && m.Route.Shut:
			return // never forwarded
		case err == nil && (!found || theirs.Route.GetName() != string(m.Route.Op)):
			t.Fatalf("%s %q is %s here, and at the rack %v", method, m.Path, m.Route.Op, theirs.Route)
		case err == nil:
			for name, value := range theirs.Vars {
				if m.Var(name) != value {
					t.Fatalf("%s %q: %s is %q here, and at the rack %q", method, m.Path, name, m.Var(name), value)
				}
			}
		case found && !socket:
			t.Fatalf("%s %q is %v here, and at the rack %s", method, m.Path, err, theirs.Route.GetName())
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	table := table(b)
	for _, path := range []string{"/apps", "/apps/demo/processes/web-1", "/apps/demo/services/web/triggers/threshold", "/apps/d%65mo/releases"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = table.Match("GET", false, path)
			}
		})
	}
}
