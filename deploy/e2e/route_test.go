package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"rackgateway/pkg/racktest"
)

// call is one request as an SDK of the rack makes it.
type call struct {
	method, path string // SOCKET opens a websocket
	form         string
	header       []string // pairs
	body         string
}

// refusedRoutes are those that nobody reaches through the gateway.
var refusedRoutes = []string{"ANY /v2/{path:.*}", "POST /events", "POST /system/jwt/token", "ANY /custom/http/proxy/{path:.*}"}

// TestEveryRouteAnswersTheSameThroughTheGateway asks each route of a rack directly and through the gateway, and
// compares the answers: status, headers and body. A route that is not asked fails the test.
func TestEveryRouteAnswersTheSameThroughTheGateway(t *testing.T) {
	t.Parallel()
	answers := func(m mode) string {
		s := newSide(t, kind{"own", installOwn}, m, sideOptions{allowDestructive: true, rack: racktest.Options{BuildTime: -1, PromoteTime: -1, Apps: []string{"other"}}})
		for _, c := range calls(s) {
			// What the rack does in its own time is over before the next request.
			if err := s.rack.AwaitApp(s.ctx, "demo", "running"); err != nil {
				t.Fatal(err)
			}
			s.note(step{what: strings.TrimSpace(c.method + " " + c.path + " " + c.form + " " + strings.Join(c.header, " ")), end: s.answer(c)})
		}
		if m == direct {
			return s.text()
		}
		counts := s.rack.RouteCounts()
		for _, r := range racktest.Routes() {
			asked, refused := counts[r.String()] > 0, slices.Contains(refusedRoutes, r.String())
			if asked == refused {
				t.Errorf("%s: asked %v, refused for everybody %v", r, asked, refused)
			}
		}
		account(t, s.env)
		return s.text()
	}
	want, got := answers(direct), answers(gateway)
	t.Log(want)
	if d := difference(want, got); d != "" {
		t.Error(d)
	}
}

// answer makes a request and tells the answer in full.
func (s *side) answer(c call) string {
	s.t.Helper()
	if c.method == "SOCKET" {
		options := make(map[string]string)
		for i := 0; i < len(c.header); i += 2 {
			options[c.header[i]] = c.header[i+1]
		}
		socket, err := s.client().Socket(s.ctx, c.path, options)
		if err != nil {
			return err.Error()
		}
		defer socket.Close()
		if c.body != "" || options["Command"] != "" || strings.HasSuffix(c.path, "/console") {
			sent := make(chan error, 1)
			go func() { sent <- socket.Send(strings.NewReader(c.body)) }()
			defer func() { <-sent }()
		}
		var out bytes.Buffer
		if err := socket.Copy(&out); err != nil {
			s.t.Fatalf("%s: %v", c.path, err)
		}
		return alike(out.String())
	}
	req, err := http.NewRequestWithContext(s.ctx, c.method, s.url+c.path, strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	// As the SDK does: the user info as it stands, and a question mark at the end of every address.
	req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(req.URL.User.String())))
	req.URL.User, req.URL.ForceQuery = nil, true
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("Content-Type", "application/octet-stream")
	if c.form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(c.form)), int64(len(c.form))
	}
	for i := 0; i < len(c.header); i += 2 {
		req.Header.Set(c.header[i], c.header[i+1])
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	text := alike(string(body))
	if len(body) > 4096 || strings.HasSuffix(c.path, ".tgz") {
		text = fmt.Sprintf("%d bytes, %x", len(body), sha256.Sum256(body))
		if strings.HasSuffix(c.path, ".tgz") { // it holds moments
			text = "an archive"
		}
	}
	// What is each server's own: the time, the numbers of requests, and how the end of a body is told.
	for _, name := range []string{"Date", "Request-Id", "Gateway-Request-Id", "Content-Security-Policy", "Content-Length", "Connection"} {
		resp.Header.Del(name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", resp.Status)
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		fmt.Fprintf(&b, "; %s: %s", name, strings.Join(resp.Header[name], ", "))
	}
	return b.String() + "\n" + text
}

// calls asks every route at least once. Those that change something come after those that look.
func calls(s *side) []call {
	release, build, pid := s.release(), s.build(), s.pid("web")
	resource, err := url.Parse(s.rack.ResourceURL("demo", "cache"))
	if err != nil {
		s.t.Fatal(err)
	}
	span := "start=20260102.030405.000000000&end=20260102.031405.000000000"
	get := func(paths ...string) (out []call) {
		for _, p := range paths {
			out = append(out, call{method: "GET", path: p})
		}
		return out
	}
	looks := get("/apps", "/apps/demo", "/apps/nothere", "/apps/demo/metrics", "/apps/demo/metrics-by-service?services=web&"+span,
		"/apps/demo/services/web/metrics?"+span, "/apps/demo/manifest/services/web", "/apps/demo/budget", "/apps/demo/budget/shutdown-state",
		"/apps/demo/cost", "/apps/demo/balancers", "/apps/demo/builds/"+build, "/apps/demo/builds/"+build+".tgz", "/apps/demo/builds?limit=1",
		"/apps/demo/configs", "/apps/demo/configs/settings", "/system/capacity", "/certificates", "/certificates?generated=true", "/letsencrypt/config",
		"/instances", "/apps/demo/processes", "/apps/demo/processes?service=web&release="+release, "/apps/demo/processes/"+pid, "/registries",
		"/apps/demo/releases", "/apps/demo/releases?limit=1", "/apps/demo/releases/"+release, "/apps/demo/resources", "/apps/demo/resources/database",
		"/apps/demo/resources/database/data", "/apps/demo/services", "/system", "/system/metrics", "/system/processes?all=true", "/system/releases",
		"/resources", "/resources/audit")
	// The age of a pod is in it, in seconds.
	looks = append(looks, get("/apps/demo/diagnose?services=nothere")...)
	return append(looks,
		call{method: "OPTIONS", path: "/resources"},
		call{method: "SOCKET", path: "/apps/demo/logs", header: []string{"Follow", "false", "Filter", "listening"}},
		call{method: "SOCKET", path: "/apps/demo/services/web/logs", header: []string{"Follow", "false", "Filter", "listening"}},
		call{method: "SOCKET", path: "/apps/demo/processes/" + pid + "/logs", header: []string{"Follow", "false", "Filter", "listening"}},
		call{method: "SOCKET", path: "/apps/demo/builds/" + build + "/logs"},
		call{method: "SOCKET", path: "/system/logs", header: []string{"Follow", "false", "Filter", "is running"}},
		call{method: "SOCKET", path: "/apps/demo/processes/" + pid + "/exec", header: []string{"Command", "cat", "Tty", "false"}, body: "said\n"},
		call{method: "SOCKET", path: "/apps/demo/resources/database/console", body: "select 1;\n"},
		call{method: "SOCKET", path: "/instances/ip-10-1-0-11.ec2.internal/shell", header: []string{"Command", "echo here", "Private-Key", "a2V5"}},
		call{method: "SOCKET", path: "/proxy/" + resource.Hostname() + "/" + resource.Port(), body: "PING\r\nQUIT\r\n"},

		call{method: "POST", path: "/apps/demo/objects/a/b.txt", body: "an object"},
		call{method: "POST", path: "/apps/demo/objects/tmp/0123.tgz", body: "no archive"},
		call{method: "HEAD", path: "/apps/demo/objects/a/b.txt"},
		call{method: "GET", path: "/apps/demo/objects/a/b.txt"},
		call{method: "GET", path: "/apps/demo/objects?prefix=a"},
		call{method: "DELETE", path: "/apps/demo/objects/a/b.txt"},
		call{method: "POST", path: "/apps/demo/processes/" + pid + "/files", body: "no archive"},
		call{method: "GET", path: "/apps/demo/processes/" + pid + "/files?file=/etc/nothere"},
		call{method: "DELETE", path: "/apps/demo/processes/" + pid + "/files?files=/tmp/nothere"},
		call{method: "PUT", path: "/apps/demo/configs/new", form: "value=dmFsdWU%3D"},
		call{method: "PUT", path: "/apps/demo", form: "lock=true"},
		call{method: "DELETE", path: "/apps/demo"},
		call{method: "PUT", path: "/apps/demo", form: "lock=false"},
		call{method: "POST", path: "/apps", form: "name=third&generation=3"},
		call{method: "DELETE", path: "/apps/other"},
		call{method: "POST", path: "/apps/demo/cancel"},

		call{method: "POST", path: "/apps/demo/budget", form: "monthly-cap-usd=100&alert-threshold-percent=70&at-cap-action=alert-only&ack_by=tester"},
		call{method: "POST", path: "/apps/demo/budget/simulate-shutdown", form: "ack_by=tester"},
		call{method: "POST", path: "/apps/demo/budget/dismiss-recovery", form: "ack_by=tester"},
		call{method: "POST", path: "/apps/demo/budget/reset", form: "ack_by=tester&force_clear_cooldown=true"},
		call{method: "GET", path: "/apps/demo/budget"},
		call{method: "DELETE", path: "/apps/demo/budget", form: "ack_by=tester"},

		call{method: "POST", path: "/apps/demo/builds", form: "url=object%3A%2F%2Fdemo%2Ftmp%2F0123.tgz&description=no+archive"},
		call{method: "POST", path: "/apps/demo/builds/import", body: "no archive"},
		call{method: "PUT", path: "/apps/demo/builds/" + build, form: "status=complete&entrypoint=%2Fbin%2Fsh"},
		call{method: "POST", path: "/apps/demo/builds/" + build + "/image", form: "image=docker.io%2Flibrary%2Fnginx"},
		call{method: "POST", path: "/apps/demo/releases", form: "env=A%3D1%0AB%3D2"},
		call{method: "POST", path: "/apps/demo/releases", form: "parent-release=" + release + "&env=A%3D1"},
		call{method: "POST", path: "/apps/demo/releases/RNOTHERE/promote", form: "force=true"},

		call{method: "PUT", path: "/apps/demo/ssl/web/443", form: "id=cert-seed1"},
		call{method: "POST", path: "/certificates", form: "pub=no&key=pem"},
		call{method: "POST", path: "/certificates/generate", form: "domains=a.example.com%2Cb.example.com"},
		call{method: "POST", path: "/certificates/demo/renew"},
		call{method: "DELETE", path: "/certificates/cert-seed1"},
		call{method: "PUT", path: "/letsencrypt/config", header: []string{"Content-Type", "application/json"}, body: `{"role":"arn","solvers":[]}`},
		call{method: "GET", path: "/letsencrypt/config"},
		call{method: "POST", path: "/registries", form: "server=quay.example.com&username=robot&password=p%25w"},
		call{method: "DELETE", path: "/registries/quay.example.com"},
		call{method: "PUT", path: "/apps/demo/resources/database/data", body: "insert into users values (1);\n"},

		call{method: "POST", path: "/apps/demo/services/web/scale-override", form: "active=true"},
		call{method: "POST", path: "/apps/demo/services/web/triggers/enable", form: "opts=" + url.QueryEscape(`{"min":1,"max":3,"triggers":[{"type":"cpu","threshold":60}]}`)},
		call{method: "POST", path: "/apps/demo/services/web/triggers/threshold", form: "type=cpu&threshold=70"},
		call{method: "POST", path: "/apps/demo/services/web/triggers/disable", form: "ack_by=tester"},
		call{method: "PUT", path: "/apps/demo/services/web", form: "count=2&cpu=300&memory=400"},
		call{method: "POST", path: "/apps/demo/services/web/restart"},
		call{method: "POST", path: "/apps/demo/services/web/processes", header: []string{"Command", "echo ran", "Release", release, "Cpu", "100"}},
		call{method: "DELETE", path: "/apps/demo/processes/" + pid},

		call{method: "POST", path: "/resources", form: "kind=webhook&name=hook&parameters=Url%3Dhttps%253A%252F%252Fhooks.example.com"},
		call{method: "PUT", path: "/resources/hook", form: "parameters=Url%3Dx"},
		call{method: "POST", path: "/resources/hook/links", form: "app=demo"},
		call{method: "DELETE", path: "/resources/hook/links/demo"},
		call{method: "DELETE", path: "/resources/hook"},
		call{method: "PUT", path: "/system", form: "version=3.25.0&parameters=node_type%3Dlarge"},
		call{method: "PUT", path: "/system/jwt/rotate"},
		call{method: "POST", path: "/system/karpenter/cleanup"},
		call{method: "POST", path: "/instances/keyroll"},
		call{method: "DELETE", path: "/instances/ip-10-1-1-12.ec2.internal"},
	)
}
