package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/idp"
)

const formType = "application/x-www-form-urlencoded"

// browser is a browser as far as the console needs one.
type browser struct {
	*http.Client
	t    *testing.T
	base string
	csrf string
}

func (b *browser) do(method, address, contentType, body string) (int, http.Header, string) {
	b.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.base + address
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if b.csrf != "" && method != http.MethodGet {
		r.Header.Set("X-CSRF-Token", b.csrf)
	}
	resp, err := b.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// follow makes a request and returns where it leads.
func (b *browser) follow(method, address, body string) string {
	b.t.Helper()
	kind := ""
	if body != "" {
		kind = formType
	}
	status, header, text := b.do(method, address, kind, body)
	at, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	to, err := at.Parse(header.Get("Location"))
	if err != nil || status < 300 || status > 399 {
		b.t.Fatalf("%s %s: %d %s", method, address, status, text)
	}
	return to.String()
}

// signIn goes through the provider's pages as somebody.
func (b *browser) signIn(subject string) {
	b.t.Helper()
	choose := b.follow("GET", b.follow("POST", b.base+"/login/start", "return=%2Fconsole%2F"), "")
	page, err := url.Parse(choose)
	if err != nil {
		b.t.Fatal(err)
	}
	back := b.follow("POST", choose, url.Values{"request": {page.Query().Get("request")}, "subject": {subject}}.Encode())
	if to := b.follow("GET", b.follow("GET", back, ""), ""); to != b.base+"/console/" {
		b.t.Fatalf("signing in leads to %s", to)
	}
	var me struct {
		CSRF string `json:"csrf_token"`
	}
	if _, _, text := b.do("GET", "/api/v1/me", "", ""); json.Unmarshal([]byte(text), &me) != nil || me.CSRF == "" {
		b.t.Fatalf("GET /me: %s", text)
	}
	b.csrf = me.CSRF
}

// certificateFiles writes the certificate that a test server would serve with, and its key.
func certificateFiles(t *testing.T) (certificate, key string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	pair := server.TLS.Certificates[0]
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// freePort finds a port of this machine that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}

// The whole way, with everything real: a provider, admin, a proxy and a rack.
func TestAPersonSignsInAndWorksWithTheRack(t *testing.T) {
	env := testenv.Start(t, testenv.Options{Config: map[string]string{"ADMIN_CIDRS": "127.0.0.1,::1"}})
	port := freePort(t)
	base := "https://localhost:" + port
	provider, err := idp.Listen(t.Context(), "127.0.0.1:0", idp.Options{
		ClientID: "gateway", ClientSecret: "secret", RedirectURIs: []string{base + "/login/callback"},
		People: []idp.Person{{Subject: "dan", Email: "dan@example.com", Name: "Dan"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	certificate, key := certificateFiles(t)
	_, _, stop := served(t, []string{
		"DATABASE_URL=" + env.Postgres.URL(cluster.Admin, env.Database), "AUDIT_MAC_KEY=" + env.MACKey(),
		"APP_SECRET_KEY=5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
		"DOMAIN=localhost:" + port, "PORT=" + port, "TLS_CERT_FILE=" + certificate, "TLS_KEY_FILE=" + key, "DEV_MODE=yes", "DRAIN_TIMEOUT=1s",
		"RACK_ORGANIZATION=acme", "RACK_ALIAS=staging", "PROXY_URL=" + env.Proxies[0].URL,
		"GOOGLE_OAUTH_BASE_URL=" + provider.URL, "GOOGLE_CLIENT_ID=gateway", "GOOGLE_CLIENT_SECRET=secret", "GOOGLE_ALLOWED_DOMAIN=example.com",
	})

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: base, Client: &http.Client{
		Jar: jar,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, // the certificate is for another name
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, strings.Replace(address, "localhost:", "127.0.0.1:", 1))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(b.CloseIdleConnections)
	b.signIn("dan")

	status, header, text := b.do("GET", "/api/v1/rack/apps", "", "")
	if status != http.StatusOK || !strings.HasPrefix(strings.TrimSpace(text), "[") || header.Get("Set-Cookie") != "" {
		t.Errorf("the rack's apps: %d %s", status, text)
	}
	if status, _, text := b.do("DELETE", "/api/v1/rack/apps/web", "", ""); status != http.StatusForbidden {
		t.Errorf("what the person may not do: %d %s", status, text)
	}
	var seen struct {
		Address string `db:"address"`
		Actor   string `db:"actor_label"`
	}
	err = env.DB.GetContext(t.Context(), &seen, `select host(address) as address, actor_label from rgw.audit_events where action = 'app.list' order by occurred_at desc limit 1`)
	if err != nil || seen.Actor != "dan@example.com" || seen.Address != "127.0.0.1" {
		t.Errorf("the proxy recorded %+v (%v)", seen, err)
	}

	status, _, text = b.do("POST", "/api/v1/me/devices", "application/json", `{"name":"workstation"}`)
	var issued struct {
		Secret string `json:"secret"`
	}
	if status != http.StatusCreated || json.Unmarshal([]byte(text), &issued) != nil {
		t.Fatalf("a device: %d %s", status, text)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env.Proxies[0].URL+"/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("convox", issued.Secret)
	resp, err := env.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the device's first command: %d", resp.StatusCode)
	}

	if status, _, text := b.do("POST", "/login/logout", formType, "csrf="+url.QueryEscape(b.csrf)); status != http.StatusSeeOther {
		t.Errorf("signing out: %d %s", status, text)
	}
	if status, _, text := b.do("GET", "/api/v1/rack/apps", "", ""); status != http.StatusUnauthorized {
		t.Errorf("after signing out: %d %s", status, text)
	}
	if code := stop(); code != 0 {
		t.Errorf("it stopped with %d", code)
	}
}
