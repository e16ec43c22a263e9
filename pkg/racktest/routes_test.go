package racktest_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"rackgateway/pkg/racktest"
)

func TestPathsMatchAsOnARealRack(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	upgrade := func(v string) http.Header { return http.Header{"Upgrade": {v}} }
	for _, c := range []struct {
		name, method, target string
		header               http.Header
		status               int
		route                string
	}{
		{"plain", "GET", "/apps", nil, 200, "GET /apps"},
		{"an escaped slash separates segments", "GET", "/apps/demo%2Freleases", nil, 200, "GET /apps/{app}/releases"},
		{"a doubled slash is another path", "GET", "//apps", nil, 404, ""},
		{"so is a trailing one", "GET", "/apps/", nil, 404, ""},
		{"dots are not resolved", "GET", "/x/../apps", nil, 404, ""},
		{"escaped dots are not either", "GET", "/apps/%2e%2e", nil, 404, "GET /apps/{name}"},
		{"an escaped letter is the letter", "GET", "/%61pps", nil, 200, "GET /apps"},
		{"a query does not matter", "GET", "/apps?", nil, 200, "GET /apps"},
		{"unknown path", "GET", "/nope", nil, 404, ""},
		{"unknown method", "PATCH", "/apps", nil, 405, ""},
		{"HEAD is no GET", "HEAD", "/apps", nil, 405, ""},
		{"OPTIONS is no GET", "OPTIONS", "/apps", nil, 405, ""},
		{"OPTIONS of /resources is a call", "OPTIONS", "/resources", nil, 200, "OPTIONS /resources"},
		{"a socket without upgrade is not there", "GET", "/apps/demo/logs", nil, 404, ""},
		{"nor is one with a capital letter", "GET", "/apps/demo/logs", upgrade("WebSocket"), 404, ""},
		{"the tgz route comes before the build's", "GET", "/apps/demo/builds/BNONE.tgz", nil, 500, "GET /apps/{app}/builds/{id}.tgz"},
		{"import is no build id", "GET", "/apps/demo/builds/import", nil, 500, "GET /apps/{app}/builds/{id}"},
		{"a key has slashes", "GET", "/apps/demo/objects/a/b/c", nil, 404, "GET /apps/{app}/objects/{key:.*}"},
		{"any method reaches the registry", "PATCH", "/v2/", nil, 200, "ANY /v2/{path:.*}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rack.ClearJournal()
			got := ask(t, server, c.method, c.target, "", c.header)
			if got.StatusCode != c.status {
				t.Errorf("status %d, want %d: %s", got.StatusCode, c.status, got.body)
			}
			entry, err := rack.AwaitRequest(within(t), func(r racktest.Request) bool { return r.Done })
			if err != nil {
				t.Fatal(err)
			}
			if entry.Route != c.route {
				t.Errorf("route %q, want %q", entry.Route, c.route)
			}
			if path, _, _ := strings.Cut(c.target, "?"); entry.Path != path {
				t.Errorf("journalled path %q, want it as received: %q", entry.Path, path)
			}
			if c.route == "" && (got.body != "" || got.Header.Get("Request-Id") != "") {
				t.Errorf("an unmatched request is answered %q with headers %v; want nothing", got.body, got.Header)
			}
		})
	}
}

func TestUnmatchedRequestsNeedNoCredential(t *testing.T) {
	_, server := start(t, racktest.Options{})
	nobody := http.Header{"Authorization": {""}}
	for target, status := range map[string]int{"/nope": 404, "/check": 200, "/auth": 401, "/apps": 401} {
		if got := ask(t, server, "GET", target, "", nobody); got.StatusCode != status {
			t.Errorf("GET %s: %d, want %d", target, got.StatusCode, status)
		}
	}
	if got := ask(t, server, "DELETE", "/apps", "", nobody); got.StatusCode != 405 {
		t.Errorf("wrong method: %d, want 405", got.StatusCode)
	}
	if got := ask(t, server, "GET", "/check", "", nobody); got.body != "ok" {
		t.Errorf("/check answers %q", got.body)
	}
}

// TestEveryRouteIsServed sends something to each route and looks that this very route took it.
func TestEveryRouteIsServed(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	ctx := within(t)
	pid, err := rack.AwaitProcess(ctx, "demo", "web")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"app": "demo", "name": "demo", "service": "web", "pid": pid, "id": "BNONE", "key": "tmp/x", "port": "443", "host": "echo.demo.local",
		"server": "registry.example.com", "path": "v/w",
	}
	variable := regexp.MustCompile(`\{(\w+)(:\.\*)?\}`)
	for _, route := range racktest.Routes() {
		t.Run(route.String(), func(t *testing.T) {
			rack.ClearJournal()
			path := variable.ReplaceAllStringFunc(route.Path, func(v string) string {
				return values[variable.FindStringSubmatch(v)[1]]
			})
			if strings.HasPrefix(route.Path, "/resources/") {
				path = strings.Replace(path, "/demo", "/audit", 1)
			}
			switch route.Method {
			case "SOCKET":
				c, res := dial(t, server, path, nil)
				if c == nil {
					t.Fatalf("not upgraded: %s", res.Status)
				}
				c.Close()
			case "ANY":
				ask(t, server, "POST", path, "", nil)
			default:
				if got := ask(t, server, route.Method, path, "", nil); got.StatusCode == 404 && got.body == "" || got.StatusCode == 405 {
					t.Errorf("answered %d: not served", got.StatusCode)
				}
			}
			entry, err := rack.AwaitRequest(ctx, func(r racktest.Request) bool { return r.Done })
			if err != nil {
				t.Fatal(err)
			}
			if entry.Route != route.String() {
				t.Errorf("taken by %q", entry.Route)
			}
		})
		if route.Method == "DELETE" && route.Path == "/apps/{name}" {
			// Go on with an app that is there.
			values["app"], values["name"] = "other", "other"
			if got := ask(t, server, "POST", "/apps", "name=other", nil); got.StatusCode != 200 {
				t.Fatal(got.body)
			}
		}
	}
}

func TestRolesComeFromThePasswordOrAToken(t *testing.T) {
	rack, server := start(t, racktest.Options{})
	token := func(role string) http.Header {
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth("jwt", rack.Mint("somebody", role, patience))
		return req.Header
	}
	basic := func(user, pass string) http.Header {
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(user, pass)
		return req.Header
	}
	for _, c := range []struct {
		name, method, target, body string
		header                     http.Header
		status                     int
		says                       string
	}{
		{"the user name does not matter", "GET", "/apps", "", basic("staging", password), 200, ""},
		{"a wrong password", "GET", "/apps", "", basic("convox", "x"), 401, "invalid authentication"},
		{"a token may read", "GET", "/apps", "", token("r"), 200, ""},
		{"a reader may not write", "POST", "/apps", "name=x", token("r"), 401, "you are unauthorized to access this"},
		{"HEAD writes", "HEAD", "/apps/demo/objects/x", "", token("r"), 401, ""},
		{"OPTIONS writes", "OPTIONS", "/resources", "", token("r"), 401, "you are unauthorized"},
		{"a writer may write", "POST", "/registries", "server=s&username=u&password=p", token("rw"), 200, `"server": "s"`},
		{"a writer may mint tokens", "POST", "/system/jwt/token", "role=write&durationInHour=1", token("rw"), 200, "token"},
		{"but not of an admin", "POST", "/system/jwt/token", "role=admin&durationInHour=1", token("rw"), 403, "admin role required"},
		{"nor rotate the key", "PUT", "/system/jwt/rotate", "", token("rw"), 403, "admin role required"},
		{"nor set a budget's cap", "POST", "/apps/demo/budget", "monthly-cap-usd=5", token("rw"), 403, "admin role required"},
		{"an admin may", "POST", "/apps/demo/budget", "monthly-cap-usd=5", token("rwa"), 200, "ok"},
		{"/auth needs no role", "GET", "/auth", "", token(""), 200, "ok"},
		{"GET needs one", "GET", "/apps", "", token(""), 401, "you are unauthorized"},
		{"garbage is no token", "GET", "/apps", "", basic("jwt", "abc"), 401, "invalid authentication: token contains"},
		{"an expired token", "GET", "/apps", "", basic("jwt", rack.Mint("x", "rwa", -patience)), 401, "token is expired"},
		{"an hour is the least", "POST", "/system/jwt/token", "role=read&durationInHour=0", nil, 400, "between 1 and 8760"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(t, server, c.method, c.target, c.body, c.header)
			if got.StatusCode != c.status {
				t.Errorf("status %d, want %d: %s", got.StatusCode, c.status, got.body)
			}
			contains(t, got.body, c.says)
		})
	}

	if got := ask(t, server, "GET", "/apps", "", basic("convox", "x")); got.Header.Get("Www-Authenticate") != `Basic realm="convox"` {
		t.Errorf("Www-Authenticate is %q", got.Header.Get("Www-Authenticate"))
	}
	before := token("rwa")
	if got := ask(t, server, "PUT", "/system/jwt/rotate", "", nil); got.body != "ok\n" {
		t.Fatal(got.body)
	}
	if got := ask(t, server, "GET", "/apps", "", before); got.StatusCode != 401 {
		t.Errorf("a token outlives the key's rotation: %d", got.StatusCode)
	}
}

func TestATokenWithAnotherAlgorithmIsRefused(t *testing.T) {
	_, server := start(t, racktest.Options{})
	for _, head := range []string{`eyJhbGciOiJub25lIn0`, `eyJhbGciOiJIUzM4NCJ9`} { // none, HS384
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth("jwt", head+".eyJ1c2VyIjoieCIsInJvbGUiOiJyd2EiLCJleHBpcmVzQXQiOjk5OTk5OTk5OTl9.")
		if got := ask(t, server, "GET", "/apps", "", req.Header); got.StatusCode != 401 {
			t.Errorf("%s: %d", head, got.StatusCode)
		}
	}
}

func TestAnEmptyPasswordTurnsAuthenticationOff(t *testing.T) {
	rack := racktest.New(racktest.Options{})
	t.Cleanup(rack.Close)
	server, err := rack.Start(racktest.ServeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, server, "GET", "/apps", "", http.Header{"Authorization": {""}}); got.StatusCode != 200 {
		t.Errorf("%d: %s", got.StatusCode, got.body)
	}
}

func TestAnswersLookLikeARacks(t *testing.T) {
	_, server := start(t, racktest.Options{})
	got := ask(t, server, "GET", "/apps", "", nil)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Cache-Control": "", "Etag": "", "Set-Cookie": "", "Content-Encoding": "",
	} {
		if h := got.Header.Get(name); h != want {
			t.Errorf("%s: %q, want %q", name, h, want)
		}
	}
	if id := got.Header.Get("Request-Id"); !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("Request-Id is %q", id)
	}
	if !strings.HasPrefix(got.body, "[\n  {\n    \"generation\": \"3\",\n    \"locked\": false,\n    \"name\": \"demo\",") || !strings.HasSuffix(got.body, "]\n") {
		t.Errorf("the body is not indented JSON with a newline:\n%s", got.body)
	}
	if got.ContentLength != int64(len(got.body)) {
		t.Errorf("a small answer has length %d of %d", got.ContentLength, len(got.body))
	}
	if got := ask(t, server, "GET", "/apps/demo/releases", "", nil); len(got.body) > 2048 && got.ContentLength != -1 {
		t.Errorf("a large answer has length %d", got.ContentLength)
	}
	if got := ask(t, server, "GET", "/apps/nope", "", nil); got.body != "app not found: nope\n" || got.StatusCode != 404 || got.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("an error is %d %q as %q", got.StatusCode, got.body, got.Header.Get("Content-Type"))
	}
	if got := ask(t, server, "GET", "/apps/nope", "", http.Header{"Accept": {"text/html, application/json;q=0.9"}}); got.body != "{\"error\":\"app not found: nope\"}\n" {
		t.Errorf("an error for a client of JSON is %q", got.body)
	}
}

func TestFieldsComeFromEveryPlaceARackLooks(t *testing.T) {
	_, server := start(t, racktest.Options{})
	value := func() string { return ask(t, server, "GET", "/apps/demo/configs/c", "", nil).body }
	for _, c := range []struct {
		name, method, target, body string
		header                     http.Header
		look                       func() string
		want                       string
	}{
		{"a positional field falls back to the query", "PUT", "/apps/demo/configs/c?value=cXVlcnk=", "", nil, value, "query"},
		{"and to a header", "PUT", "/apps/demo/configs/c", "", http.Header{"Value": {"aGVhZGVy"}}, value, "header"},
		{"the body comes first", "PUT", "/apps/demo/configs/c?value=cXVlcnk=", "value=Ym9keQ==", http.Header{"Value": {"aGVhZGVy"}}, value, "body"},
		{"the query comes before the header", "PUT", "/apps/demo/configs/c?value=cXVlcnk=", "", http.Header{"Value": {"aGVhZGVy"}}, value, "query"},
		{"the first of repeated fields counts", "PUT", "/apps/demo/configs/c", "value=b25l&value=dHdv", nil, value, "one"},
		{"an empty form field falls through", "PUT", "/apps/demo/configs/c", "value=", http.Header{"Value": {"aGVhZGVy"}}, value, "header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, server, c.method, c.target, c.body, c.header); got.StatusCode != 200 {
				t.Fatalf("%d: %s", got.StatusCode, got.body)
			}
			contains(t, c.look(), `"value": "`+c.want+`"`)
		})
	}

	// Optional fields have no header to fall back to, and are lost in a body of another type.
	for name, c := range map[string]struct {
		target, body string
		header       http.Header
	}{
		"header":       {"/apps/demo/releases", "", http.Header{"Env": {"A=1"}}},
		"octet stream": {"/apps/demo/releases", "env=A%3D1", http.Header{"Content-Type": {"application/octet-stream"}}},
		"text":         {"/apps/demo/releases", "env=A%3D1", http.Header{"Content-Type": {"text/plain"}}},
	} {
		if got := ask(t, server, "POST", c.target, c.body, c.header); got.StatusCode != 200 || strings.Contains(got.body, `"env": "A=1"`) {
			t.Errorf("env by %s: %d %s", name, got.StatusCode, got.body)
		}
	}
	for name, c := range map[string]struct {
		target, body string
		header       http.Header
	}{
		"form":      {"/apps/demo/releases", "env=A%3D1", nil},
		"query":     {"/apps/demo/releases?env=A%3D1", "", nil},
		"multipart": {"/apps/demo/releases", "--b\r\nContent-Disposition: form-data; name=\"env\"\r\n\r\nA=1\r\n--b--\r\n", http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}},
	} {
		if got := ask(t, server, "POST", c.target, c.body, c.header); got.StatusCode != 200 || !strings.Contains(got.body, `"env": "A=1"`) {
			t.Errorf("env by %s: %d %s", name, got.StatusCode, got.body)
		}
	}
	if got := ask(t, server, "DELETE", "/apps/demo/budget", "ack_by=ana", nil); got.Header.Get("Deprecation") != "true" || got.Header.Get("Sunset") == "" {
		t.Errorf("the body of DELETE was not read: %v", got.Header)
	}
	if got := ask(t, server, "GET", "/apps/demo/releases?limit=1%3F", "", nil); got.StatusCode != 500 || !strings.Contains(got.body, `parsing "1?"`) {
		t.Errorf("a number that is none: %d %s", got.StatusCode, got.body)
	}
}
