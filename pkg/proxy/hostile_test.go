package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/rack"
)

// TestSmuggledRequests sends what two readers could take for different numbers of requests. The rack must see
// none of them, or one, and never the second.
func TestSmuggledRequests(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	admin := g.person("admin")
	const inner = "POST /apps/web/services/web/restart HTTP/1.1\r\nHost: x\r\n"
	auth := "Authorization: Bearer " + admin.Token + "\r\n"
	for name, text := range map[string]string{
		"two lengths":                    "POST /apps HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: 6\r\nContent-Length: 5\r\n\r\nname=a",
		"length and chunks":              "POST /apps/web/objects/tmp/x HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + inner + auth + "\r\n",
		"a chunked that is not":          "POST /apps/web/objects/tmp/x HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner + auth + "\r\n",
		"chunked twice":                  "POST /apps/web/objects/tmp/x HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
		"a space before the colon":       "GET /apps HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n" + auth + "\r\nhello",
		"a folded header":                "GET /apps HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\nAuthorization : x\r\n\r\n",
		"a bare line feed in a chunk":    "POST /apps/web/objects/tmp/x HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\nhello\r\n0\r\n\r\n",
		"a chunk extension":              "POST /apps/web/objects/tmp/x HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;\r\nhello\r\n0\r\n\r\n",
		"a length that is negative":      "POST /apps HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: -1\r\n\r\n",
		"a length with a plus":           "POST /apps HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: +6\r\n\r\nname=a",
		"an absolute target":             "GET http://evil/apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + auth + "\r\n",
		"no host":                        "GET /apps HTTP/1.1\r\n" + auth + "\r\n",
		"two hosts":                      "GET /apps HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + auth + "\r\n",
		"a null in a header":             "GET /apps HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n" + auth + "\r\n",
		"HTTP/2 in the clear":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/0.9":                       "GET /apps\r\n\r\n",
		"a star":                         "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + auth + "\r\n",
		"a second request in a GET body": "GET /apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + auth + "Content-Length: 60\r\n\r\n" + inner + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r.ClearJournal()
			got := g.raw(text)
			if strings.Contains(got, "HTTP/1.1 5") && !strings.Contains(got, "501 Not Implemented") { // 501 is for unknown transfer encodings
				t.Errorf("answered %q", got)
			}
			if n := strings.Count(got, "HTTP/1.1 "); n > 1 {
				t.Errorf("answered %d times: %q", n, got)
			}
			for _, seen := range r.Requests() {
				if seen.Method == "POST" && strings.Contains(seen.Path, "restart") {
					t.Errorf("the rack saw %s %s", seen.Method, seen.Path)
				}
				if seen.Host == "evil" {
					t.Error("the client chose the rack's host")
				}
			}
		})
	}
}

func TestOverlongAndOddTextIsRecordedAndNeverLost(t *testing.T) {
	g := newGateway(t, newRack(t))
	ops := g.person("ops")
	for name, option := range map[string]requestOption{
		"a user agent of 600 characters": withHeader("User-Agent", strings.Repeat("é", 300)),
		"a user agent that is not text":  withHeader("User-Agent", "\xff\xfe\x80"),
		"a user agent of 100 KB":         withHeader("User-Agent", strings.Repeat("x", 100<<10)),
		"quotes and backslashes":         withHeader("User-Agent", `"\u0000',{}\`),
	} {
		t.Run(name, func(t *testing.T) {
			before := len(g.events())
			if got := g.do(ops, "GET", "/apps/web?", option); got.Status != 200 {
				t.Fatalf("status %d: %s", got.Status, got.Body)
			}
			if after := len(g.events()); after != before+1 {
				t.Errorf("%d events were left, want one", after-before)
			}
		})
	}
	// A command that is longer than an event may be is cut, and marked.
	before := len(g.events())
	got := g.do(ops, "POST", "/apps/web/services/web/processes?", withHeader("Command", "echo "+strings.Repeat("long ", 10_000)))
	if got.Status != 200 {
		t.Fatalf("status %d: %s", got.Status, got.Body)
	}
	events := g.events()[before:]
	if len(events) != 2 || len(events[0].Detail.Truncated) == 0 {
		t.Errorf("left %d events, the first truncated in %q", len(events), events[0].Detail.Truncated)
	}
}

func TestHeaderAndURLBombsAreRefused(t *testing.T) {
	r := newRack(t)
	g := newGateway(t, r)
	admin := g.person("admin")
	for name, text := range map[string]string{
		"a header of 2 MB": "GET /apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin.Token + "\r\nX-A: " + strings.Repeat("a", 2<<20) + "\r\n\r\n",
		"a path of 2 MB":   "GET /apps/" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin.Token + "\r\n\r\n",
		"100,000 headers":  "GET /apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + admin.Token + "\r\n" + strings.Repeat("A: b\r\n", 100_000) + "\r\n",
	} {
		conn, err := net.Dial("tcp", g.URL.Host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { _, _ = io.WriteString(conn, text) }() // the gateway may stop reading
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !bytes.HasPrefix(got, []byte("HTTP/1.1 431 ")) {
			t.Errorf("%s: answered %.80q", name, got)
		}
	}
	if n := asked(r); n != 0 {
		t.Errorf("the rack was asked %d times", n)
	}
}

func TestAFormThatIsTooLargeIsRefusedAndTheBudgetGivenBack(t *testing.T) {
	g := newGateway(t, newRack(t))
	admin := g.person("admin")
	for range 8 {
		got := g.do(admin, "POST", "/apps/web/releases", withBody("application/x-www-form-urlencoded", "env="+strings.Repeat("x", rack.MaxForm)))
		if got.Status != http.StatusRequestEntityTooLarge {
			t.Fatalf("status %d: %.200s", got.Status, got.Body)
		}
	}
	for range 8 { // 80 MB in all: more than the budget, were it not given back
		got := g.do(admin, "PUT", "/apps/web/configs/big", withBody("application/x-www-form-urlencoded", "value="+strings.Repeat("QUFB", rack.MaxForm/4-100)))
		if got.Status != 200 {
			t.Fatalf("status %d: %.200s", got.Status, got.Body)
		}
	}
}

// TestNoSecretIsLeftAnywhere pushes a marked secret through every route, with a rack that works and with racks that
// fail, and looks for it in the record, the log, and what other people are answered.
func TestNoSecretIsLeftAnywhere(t *testing.T) {
	const canary = "cAnArY-7f3b"
	answers := map[string]http.HandlerFunc{
		"works": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"id": "p1", "note": "`+canary+`"}`)
		},
		"fails":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, http.StatusInternalServerError) },
		"breaks": func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
		"babbles": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(conn, canary+"\r\n")
			_ = conn.Close()
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, answer, func(c *proxy.Config) { c.MaxWait = 5 * time.Second })
			g.change(`insert into rgw.settings (key, value, updated_by) values ('refusals_per_minute', '10000', 'a test')`)
			admin := g.person("admin")
			for _, route := range rack.Routes() {
				method := route.Method
				if method == rack.AnyMethod {
					method = "POST"
				}
				target := canaryPath(route.Pattern)
				headers := []string{"Session", canary, "Cookie", "a=" + canary, "X-Convox-Actor", canary}
				for _, field := range route.Headers {
					value := canary
					switch {
					case field == "Command":
						value = "API_TOKEN=" + canary + " run --password=" + canary + " postgres://u:" + canary + "@h/d"
					case proxy.RecordsClear(field):
						value = "1"
					}
					headers = append(headers, field, value)
				}
				var query, form []string
				for _, field := range route.Query {
					if !proxy.RecordsClear(field) && field != "command" {
						query = append(query, field+"="+canary)
					}
				}
				for _, field := range route.Form {
					if field == "url" || field == "image" {
						form = append(form, field+"=https://u:"+canary+"@h/x")
					} else if !proxy.RecordsClear(field) {
						form = append(form, field+"="+canary)
					}
				}
				if len(query) > 0 {
					target += "?" + strings.Join(query, "&")
				}
				if route.Socket {
					w, _ := g.dial(admin, target, "", headers...)
					_ = w.Close()
					continue
				}
				options := []requestOption{}
				for i := 0; i < len(headers); i += 2 {
					options = append(options, withHeader(headers[i], headers[i+1]))
				}
				switch route.Body {
				case rack.FormBody:
					if method != "GET" {
						options = append(options, withBody("application/x-www-form-urlencoded", strings.Join(form, "&")))
					}
				case rack.JSONBody, rack.StreamBody:
					options = append(options, withBody("application/octet-stream", canary))
				}
				g.try(admin, method, target, options...)
			}
			await(t, func() bool { return g.owner.PingContext(context.Background()) == nil }, func() string { return "no database" })
			var left []string
			if err := g.owner.Select(&left, `select detail::text || ' ' || resource || ' ' || app || ' ' || actor_label from rgw.audit_events where detail::text || resource || app || actor_label like '%`+canary+`%'`); err != nil {
				t.Fatal(err)
			}
			for _, row := range left {
				t.Errorf("the record holds it: %s", row)
			}
			if log := g.log.String(); strings.Contains(log, canary) || strings.Contains(log, admin.Token) || strings.Contains(log, rackPassword) {
				t.Errorf("the log holds a secret:\n%s", log)
			}
			var all []string
			if err := g.owner.Select(&all, `select row_to_json(e)::text from rgw.audit_events e`); err != nil {
				t.Fatal(err)
			}
			if len(all) < len(rack.Routes()) {
				t.Errorf("%d events for %d routes: the test did not reach them", len(all), len(rack.Routes()))
			}
			for _, row := range all {
				if strings.Contains(row, admin.Token) || strings.Contains(row, rackPassword) {
					t.Errorf("the record holds a credential: %s", row)
				}
			}
		})
	}
}

// canaryPath fills a pattern with plain names.
func canaryPath(pattern string) string {
	segments := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	for i, s := range segments {
		if open := strings.IndexByte(s, '{'); open >= 0 {
			name := strings.Trim(s[open+1:strings.IndexByte(s, '}')], ".")
			segments[i] = s[:open] + map[string]string{"app": "web"}[name] + map[bool]string{true: "", false: "one"}[name == "app"] + s[strings.IndexByte(s, '}')+1:]
		}
	}
	return "/" + strings.Join(segments, "/")
}

// try sends a request and does not mind when the answer breaks off.
func (g *gateway) try(c caller, method, target string, options ...requestOption) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.URL.String()+target, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	for _, option := range options {
		option(req)
	}
	resp, err := directClient.Do(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func TestAnUploadIsRefusedBeforeItIsSentWhole(t *testing.T) {
	g := newGateway(t, newRack(t))
	viewer := g.person("viewer")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", g.URL.String()+"/apps/web/objects/tmp/x.tgz", io.LimitReader(zeros{}, 200<<20))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 200 << 20
	req.Header.Set("Authorization", "Bearer "+viewer.Token)
	resp, err := directClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "object:create") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if e := g.events(); len(e) != 1 || e[0].Phase != audit.PhaseRefused {
		t.Errorf("the log says:\n%s", g.story())
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
