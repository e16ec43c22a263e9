package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

const testMACKey = "d3b07384d113edec49eaa6238ad5ff00c86a1e0f2f5f1b6c0a6b4f5e9d8c7b6a"

// serveEnviron is what `admin serve` needs. Nobody is at the addresses of the issuer and the proxy.
func serveEnviron(db *postgrestest.Database, more ...string) []string {
	return append([]string{
		"DATABASE_URL=" + string(db.AdminURL()), "AUDIT_MAC_KEY=" + testMACKey,
		"APP_SECRET_KEY=5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
		"DOMAIN=localhost", "PORT=0", "DEV_MODE=yes", "DRAIN_TIMEOUT=1s", "RACK_ORGANIZATION=acme", "RACK_ALIAS=staging", "PROXY_URL=http://127.0.0.1:1",
		"GOOGLE_OAUTH_BASE_URL=http://127.0.0.1:1", "GOOGLE_CLIENT_ID=gateway", "GOOGLE_CLIENT_SECRET=secret", "GOOGLE_ALLOWED_DOMAIN=example.com",
		"ADMIN_USERS=ana@example.com", "VIEWER_USERS=vic@example.com", "RGW_SETTING_MFA_REQUIRED=off",
	}, more...)
}

// logBuffer gathers what the process logs.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// line finds the log line with a message.
func (b *logBuffer) line(message string) map[string]any {
	for line := range strings.Lines(b.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
			return fields
		}
	}
	return nil
}

// served runs `admin serve` within the test and returns its address, and what stops it and returns the exit code.
func served(t *testing.T, environ []string) (address string, log *logBuffer, stop func() int) {
	t.Helper()
	log = new(logBuffer)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"serve"}, environ, strings.NewReader(""), io.Discard, log) }()
	stop = sync.OnceValue(func() int { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	for deadline := time.Now().Add(time.Minute); ; {
		if ready := log.line("admin is ready"); ready != nil {
			at, _ := ready["address"].(string)
			return "http://127.0.0.1" + at[strings.LastIndex(at, ":"):], log, stop
		}
		select {
		case code := <-done:
			done <- code
			t.Fatalf("it ended with %d:\n%s", code, log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not become ready:\n%s", log)
		}
	}
}

// command runs another command of the program, and returns what it printed.
func command(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, environ, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("admin %s: %d\n%s", strings.Join(args, " "), code, &errs)
	}
	return out.String()
}

// ask makes a request with a token and reads the answer.
func ask(t *testing.T, method, url, token string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func TestServeServesEverythingButSignInWithoutItsIssuer(t *testing.T) {
	db := postgrestest.New(t)
	environ := serveEnviron(db)
	address, log, stop := served(t, environ)

	if users := command(t, environ, "user", "list"); !strings.Contains(users, "ana@example.com") || !strings.Contains(users, "vic@example.com") {
		t.Errorf("the first users are not there:\n%s", users)
	}
	token := strings.TrimSpace(command(t, environ, "token", "create", "--user", "ana@example.com", "--name", "laptop"))
	status, _, body := ask(t, "GET", address+"/api/v1/me", token)
	if status != http.StatusOK || !strings.Contains(body, `"rack":"acme/staging"`) {
		t.Errorf("GET /me: %d %s", status, body)
	}
	status, _, body = ask(t, "GET", address+"/api/v1/health/ready", "")
	var health struct {
		Checks map[string]struct {
			OK     bool   `json:"ok"`
			Detail string `json:"detail"`
		} `json:"checks"`
	}
	if err := json.Unmarshal([]byte(body), &health); err != nil || status != http.StatusOK {
		t.Fatalf("readiness: %d %s", status, body)
	}
	for name, check := range health.Checks {
		if check.OK != (name != "sign-in") {
			t.Errorf("%s: %+v", name, check)
		}
	}
	for path, want := range map[string]int{
		"/": http.StatusSeeOther, "/login/": http.StatusOK, "/nosuch": http.StatusNotFound, "/api/v1/rack/apps": http.StatusUnauthorized, "/api/v1/docs": http.StatusOK,
	} {
		if status, _, body := ask(t, "GET", address+path, ""); status != want && !(path == "/login/" && status == http.StatusServiceUnavailable) {
			t.Errorf("GET %s: %d %.200s", path, status, body)
		}
	}
	if status, _, body := ask(t, "GET", address+"/api/v1/rack/apps", token); status != http.StatusBadGateway {
		t.Errorf("the rack without a proxy: %d %s", status, body)
	}
	port := address[strings.LastIndex(address, ":")+1:]
	command(t, append(slices.Clone(environ), "PORT="+port), "health")

	if code := stop(); code != 0 {
		t.Errorf("it stopped with %d:\n%s", code, log)
	}
	if strings.Contains(log.String(), token) || strings.Contains(log.String(), testMACKey) {
		t.Error("a secret was logged")
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"health"}, append(slices.Clone(environ), "PORT="+port), nil, io.Discard, &errs); code != exitFailed {
		t.Errorf("health of what has stopped: %d %s", code, &errs)
	}
}

func TestTwoAdminsStartAndAChangeByOneIsInForceOnTheOther(t *testing.T) {
	db := postgrestest.New(t)
	environ := serveEnviron(db)
	one, _, _ := served(t, environ)
	two, _, _ := served(t, environ)
	token := strings.TrimSpace(command(t, environ, "token", "create", "--user", "ana@example.com", "--name", "laptop"))
	for _, address := range []string{one, two} {
		if status, _, body := ask(t, "GET", address+"/api/v1/tokens", token); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
	}
	var me struct {
		Items []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	_, _, body := ask(t, "GET", one+"/api/v1/tokens", token)
	if err := json.Unmarshal([]byte(body), &me); err != nil || len(me.Items) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	if status, _, body := ask(t, "DELETE", one+"/api/v1/tokens/"+me.Items[0].ID, token); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if status, _, _ := ask(t, "GET", two+"/api/v1/me", token); status == http.StatusUnauthorized {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the other admin never hears of it")
		}
	}
	var added int
	owner := db.Owner(t)
	if err := owner.GetContext(t.Context(), &added, `select count(*) from rgw.audit_events where action = 'user.add'`); err != nil || added != 2 {
		t.Errorf("%d first users were recorded (%v)", added, err)
	}
}

func TestServeBringsTheSchemaUpToDateOnlyAsItsOwner(t *testing.T) {
	db := postgrestest.New(t)
	empty := db.Name + "_empty"
	if err := db.Cluster.CreateDatabase(t.Context(), empty, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Cluster.DropDatabase(context.Background(), empty); err != nil {
			t.Error(err)
		}
	})
	environ := serveEnviron(db, "DATABASE_URL="+db.Cluster.URL(cluster.Admin, empty))
	var errs logBuffer
	if code := run(t.Context(), []string{"serve"}, environ, nil, io.Discard, &errs); code != exitFailed || !strings.Contains(errs.String(), "run admin migrate") {
		t.Errorf("without the owner: %d\n%s", code, &errs)
	}
	address, _, stop := served(t, append(environ, "ADMIN_DATABASE_URL="+db.Cluster.URL(cluster.Owner, empty)))
	if status, _, body := ask(t, "GET", address+"/api/v1/health/ready", ""); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	pool := postgrestest.Open(t, postgres.URL(db.Cluster.URL(cluster.Superuser, empty)))
	var connections int
	if err := pool.GetContext(t.Context(), &connections, `select count(*) from pg_stat_activity where datname = $1 and application_name like '%migrations%'`, empty); err != nil || connections != 0 {
		t.Errorf("%d connections of the owner stay (%v)", connections, err)
	}
	if code := stop(); code != 0 {
		t.Errorf("it stopped with %d", code)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

func TestServeSaysEverythingThatItLacks(t *testing.T) {
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"serve"}, nil, nil, io.Discard, &errs); code != exitUsage {
		t.Errorf("%d", code)
	}
	for _, name := range []string{"DATABASE_URL", "AUDIT_MAC_KEY", "APP_SECRET_KEY", "DOMAIN", "PROXY_URL", "GOOGLE_CLIENT_ID", "GOOGLE_ALLOWED_DOMAIN"} {
		if !strings.Contains(errs.String(), name+" is not set") {
			t.Errorf("it does not say that %s is not set:\n%s", name, &errs)
		}
	}
}

func TestABodyThatNeverComesIsNotWaitedFor(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/reads", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the body came whole")
		}
		w.WriteHeader(http.StatusBadRequest)
	})
	mux.HandleFunc("/leaves", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	server := httptest.NewServer(hurry(100*time.Millisecond, mux))
	defer server.Close()
	for path, status := range map[string]string{"/reads": "400", "/leaves": "404"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
		got, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 "+status) {
			t.Errorf("%s: answered %.60q, and then: %v", path, got, err)
		}
	}
}

func TestServeSendsSpansToTheCollector(t *testing.T) {
	var mu sync.Mutex
	var sent strings.Builder
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		sent.Write(body)
	}))
	t.Cleanup(collector.Close)
	address, log, stop := served(t, serveEnviron(postgrestest.New(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL))
	if status, _, body := ask(t, "GET", address+"/api/v1/me", ""); status != http.StatusUnauthorized {
		t.Errorf("GET /me: %d %s", status, body)
	}
	if code := stop(); code != 0 { // what is left is sent first
		t.Errorf("it stopped with %d:\n%s", code, log)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{`"rack-gateway-admin"`, `"GET /me"`} {
		if !strings.Contains(sent.String(), want) {
			t.Errorf("the collector heard nothing of %s: %s", want, sent.String())
		}
	}
}
