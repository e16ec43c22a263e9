package adminapi_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"rackgateway/pkg/adminapi"
)

// proxied is the API before something that stands where the proxy does.
func proxied(t *testing.T, handler http.HandlerFunc) *world {
	t.Helper()
	proxy := httptest.NewServer(handler)
	t.Cleanup(proxy.Close)
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *adminapi.Config) { c.Rack = adminapi.NewRack(address, nil, slog.New(slog.DiscardHandler)) })
	w.person("ana", "viewer")
	w.session("ana")
	return w
}

func TestWhatTheConsoleAsksOfTheRackGoesToTheProxyAsThePerson(t *testing.T) {
	var seen *http.Request
	var body string
	w := proxied(t, func(rw http.ResponseWriter, r *http.Request) {
		seen = r
		text, _ := io.ReadAll(r.Body)
		body = string(text)
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Set-Cookie", "rack=1")
		rw.Header().Set("Content-Security-Policy", "default-src *")
		rw.Header().Set("Gateway-Request-Id", "theirs")
		rw.WriteHeader(http.StatusTeapot)
		_, _ = rw.Write([]byte(`[]`))
	})
	r := w.request("ana's session", "POST", "/rack/apps/web%2Dx/processes?a=b%20c", nil)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("command=ls")), 10
	for name, value := range map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-For": "6.6.6.6", "Rgw-Client-Address": "6.6.6.6", "Rgw-Anything": "x",
		"Rack": "other/rack", "Origin": "https://gateway.example.com", "Command": "ls",
	} {
		r.Header.Set(name, value)
	}
	got := w.send(r)
	if got.status != http.StatusTeapot || got.body != "[]" {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if seen.Method != "POST" || seen.RequestURI != "/api/v1/rack-proxy/apps/web%2Dx/processes?a=b%20c" || body != "command=ls" {
		t.Errorf("the proxy saw %s %s %q", seen.Method, seen.RequestURI, body)
	}
	h := seen.Header
	if h.Get("Authorization") != "Bearer "+w.tokens["ana's session"].Reveal() || h.Get("Rgw-Client-Address") != "127.0.0.1" || h.Get("Command") != "ls" {
		t.Errorf("the proxy saw %v", h)
	}
	for _, name := range []string{"Cookie", "X-Csrf-Token", "X-Forwarded-For", "Rgw-Anything", "Rack", "Origin", "Sec-Fetch-Site"} {
		if _, there := h[name]; there {
			t.Errorf("the proxy saw %s: %v", name, h[name])
		}
	}
	if got.header.Get("Set-Cookie") != "" || len(got.header["Content-Security-Policy"]) != 1 || !strings.Contains(got.header.Get("Content-Security-Policy"), "'none'") ||
		got.header.Get("Gateway-Request-Id") == "theirs" {
		t.Errorf("the browser saw %v", got.header)
	}
}

func TestTheRackIsNoWayAroundWhatProtectsASession(t *testing.T) {
	asked := 0
	w := proxied(t, func(http.ResponseWriter, *http.Request) { asked++ })
	for name, change := range map[string]func(*http.Request){
		"no credential":     func(r *http.Request) { r.Header.Del("Cookie") },
		"no CSRF token":     func(r *http.Request) { r.Header.Del("X-Csrf-Token") },
		"another site":      func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"a socket's origin": func(r *http.Request) { r.Header.Set("Upgrade", "websocket"); r.Header.Set("Connection", "Upgrade") },
	} {
		r := w.request("ana's session", "DELETE", "/rack/apps/web", nil)
		if name == "a socket's origin" {
			r.Method = "GET"
		}
		change(r)
		if got := w.send(r); got.status != http.StatusForbidden && got.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if asked != 0 {
		t.Errorf("the proxy was asked %d times", asked)
	}
}

func TestASocketOfTheRackIsPassedThrough(t *testing.T) {
	w := proxied(t, func(rw http.ResponseWriter, r *http.Request) {
		conn, stream, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		fmt.Fprintf(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = stream.Flush()
		line, _ := stream.ReadString('\n')
		fmt.Fprintf(stream, "heard %s", line)
		_ = stream.Flush()
	})
	r := w.request("ana's session", "GET", "/rack/apps/web/logs", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Origin", "https://gateway.example.com")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	stream := bufio.NewReader(conn)
	resp, err := http.ReadResponse(stream, r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	_ = resp.Body.Close()
	fmt.Fprintf(conn, "hello\n")
	if line, err := stream.ReadString('\n'); err != nil || line != "heard hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestAProxyThatIsAwayIsSaidSo(t *testing.T) {
	w := newWorld(t, func(c *adminapi.Config) {
		c.Rack = adminapi.NewRack(&url.URL{Scheme: "http", Host: "127.0.0.1:1"}, nil, slog.New(slog.DiscardHandler))
	})
	w.person("ana", "viewer")
	w.want(http.StatusBadGateway, "proxy-unreachable", "ana", "GET", "/rack/apps", nil)
	w = newWorld(t)
	w.person("ana", "viewer")
	w.want(http.StatusNotFound, "no-proxy", "ana", "GET", "/rack/apps", nil)
}
