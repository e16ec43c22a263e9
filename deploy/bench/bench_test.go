//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serving runs an upstream, or a bare proxy, in this process.
func serving(t *testing.T, serve func(net.Listener) error) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// bareBefore runs a bare proxy in front of an upstream. The upstream ends after it, for it waits for its connections.
func bareBefore(t *testing.T) (upstream, bare string) {
	t.Helper()
	upstream = serving(t, serveUpstream)
	proxy := newBare(&url.URL{Scheme: "http", Host: upstream})
	server := httptest.NewServer(proxy)
	t.Cleanup(func() {
		server.Close()
		proxy.Transport.(*http.Transport).CloseIdleConnections()
	})
	return upstream, strings.TrimPrefix(server.URL, "http://")
}

func TestLoadCountsWhatItMeasures(t *testing.T) {
	var seen, authorised atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		if user, token, ok := r.BasicAuth(); ok && user == "convox" && strings.HasPrefix(token, "token-") {
			authorised.Add(1)
		}
		body, _ := io.ReadAll(r.Body)
		if string(body) != "force=false" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, "ok\n")
	}))
	defer server.Close()
	job := Job{
		Kind: "requests", Addrs: []string{server.Listener.Addr().String()}, Method: "POST", Path: "/x?", Type: "application/x-www-form-urlencoded",
		Body: "force=false", Tokens: []string{"token-1", "token-2"}, Connections: 4, Warm: 50 * time.Millisecond, Measure: 150 * time.Millisecond,
	}
	result, err := runRequests(job)
	if err != nil {
		t.Fatal(err)
	}
	if result.Bad != 0 || int64(result.Total) != seen.Load() || seen.Load() != authorised.Load() {
		t.Errorf("%d answers, %d bad; the server saw %d requests, %d with a token", result.Total, result.Bad, seen.Load(), authorised.Load())
	}
	if result.Requests == 0 || result.Requests >= result.Total || result.P50 <= 0 || result.P99 < result.P50 || result.Max < result.P99 {
		t.Errorf("of %d answers %d are measured; p50 %v, p99 %v, max %v", result.Total, result.Requests, result.P50, result.P99, result.Max)
	}
	job.Body = ""
	if result, err = runRequests(job); err != nil || result.Bad != result.Total || !strings.Contains(result.FirstBad, "400") {
		t.Errorf("what is refused: %+v, %v", result, err)
	}
	job.Count, job.Measure = 100, 0
	if result, err = runRequests(job); err != nil || result.Total < 100 || result.Total > 104 {
		t.Errorf("a count of 100: %d, %v", result.Total, err)
	}
}

func TestAStallIsNotOmittedFromAScheduledLoad(t *testing.T) {
	// One connection, 200 requests/s, and one answer that takes 300 ms: the 60 requests that were due meanwhile are
	// late too, and by as much as they had to wait.
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 20 {
			<-time.After(300 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "ok\n")
	}))
	defer server.Close()
	result, err := runRequests(Job{
		Kind: "requests", Addrs: []string{server.Listener.Addr().String()}, Method: "GET", Path: "/", Connections: 1, Rate: 200, Measure: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.Requests < 190 || result.Requests > 202 {
		t.Errorf("%d requests in a second at 200/s", result.Requests)
	}
	if result.P99 < 250 {
		t.Errorf("p99 is %v ms, though a quarter of the requests had to wait", result.P99)
	}
}

func TestTheUpstreamAnswersAsARackDoes(t *testing.T) {
	_, bare := bareBefore(t)
	get := func(method, path string, body io.Reader) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+bare+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	status, apps := get("GET", "/apps?", nil)
	var list []map[string]any
	if err := json.Unmarshal([]byte(apps), &list); err != nil || status != http.StatusOK || len(apps) < 1900 || len(apps) > 2100 {
		t.Errorf("apps: status %d, %d bytes, %v", status, len(apps), err)
	}
	for _, body := range []io.Reader{strings.NewReader("force=false"), io.MultiReader(strings.NewReader("of unknown length"))} {
		if status, text := get("POST", "/apps/demo/releases/R/promote", body); status != http.StatusOK || text != "ok\n" {
			t.Errorf("promote: %d %q", status, text)
		}
	}
	if status, text := get("GET", downloadPath+"65536", nil); status != http.StatusOK || len(text) != 65536 {
		t.Errorf("download: %d, %d bytes", status, len(text))
	}
}

func TestTransfersAreWhole(t *testing.T) {
	upstream, bare := bareBefore(t)
	for _, address := range []string{upstream, bare} {
		for _, job := range []Job{
			{Kind: "upload", Method: "POST", Path: "/apps/demo/objects/tmp/x.tgz?", Bytes: 3 << 20},
			{Kind: "download", Method: "GET", Path: downloadPath + "3145728?", Bytes: 3 << 20},
		} {
			job.Addrs = []string{address}
			if result, err := runTransfer(job); err != nil || result.Seconds <= 0 {
				t.Errorf("%s: %+v, %v", job.Kind, result, err)
			}
		}
		short := Job{Kind: "download", Method: "GET", Path: downloadPath + "65536?", Bytes: 65537, Addrs: []string{address}}
		if _, err := runTransfer(short); err == nil {
			t.Error("a download that ends early is taken for whole")
		}
	}
}

func TestSessionsAreHeldOpen(t *testing.T) {
	upstream, bare := bareBefore(t)
	for _, address := range []string{upstream, bare} {
		conn, _, err := openExec(address, "any")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(ping); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
}

func TestStatementsOfOneLoginAreCounted(t *testing.T) {
	log := strings.Join([]string{
		`2026-01-01 00:00:00.000 UTC [1] rgw_proxy_login@env1 LOG:  execute 1: `,
		"\tinsert into rgw.audit_events (occurred_at)",
		"\tselect 1",
		`2026-01-01 00:00:00.000 UTC [1] rgw_proxy_login@env1 DETAIL:  parameters: $1 = 'select'`,
		`2026-01-01 00:00:00.000 UTC [2] rgw_proxy_login@env1 LOG:  statement: notify rgw_audit`,
		`2026-01-01 00:00:00.000 UTC [2] rgw_proxy_login@env1 LOG:  execute <unnamed>: select pg_notify($1, $2)`,
		`2026-01-01 00:00:00.000 UTC [2] rgw_proxy_login@env1 LOG:  execute <unnamed>: `,
		"\tselect t.id",
		"\tfrom rgw.tokens t",
		`2026-01-01 00:00:00.000 UTC [3] rgw_proxy_login@env2 LOG:  statement: select 'of another environment'`,
		`2026-01-01 00:00:00.000 UTC [4] postgres@env1 LOG:  statement: select 'of another login'`,
	}, "\n")
	got := countStatements(log, "rgw_proxy_login@env1 ")
	if got.inserts != 1 || got.beside != 2 || got.other != 1 || list(got.examples) != "select t.id from rgw.tokens t" {
		t.Errorf("%+v", got)
	}
}

func TestFiguresAreHeldToTheirBars(t *testing.T) {
	r := newReport(t.Context())
	r.add("fast enough", 0.61, "×", atLeast(0.6), atLeast(0.8), "")
	r.add("too slow", 0.5999, "×", atLeast(0.6), atLeast(0.8), "")
	r.add("too large", 64.01, "MB", atMost(64), atMost(40), "")
	r.tell("anything", 12345.6, "requests/s", "")
	if got := list(r.missed()); got != "too slow, too large" {
		t.Errorf("missed: %s", got)
	}
	path := filepath.Join(t.TempDir(), "deep", "results.json")
	var table bytes.Buffer
	if err := r.write(&table, path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	names := make(map[string]map[string]any)
	for _, row := range rows {
		for _, key := range []string{"name", "value", "unit", "must", "aim", "ok"} {
			if _, there := row[key]; !there {
				t.Errorf("%v has no %s", row, key)
			}
		}
		names[row["name"].(string)] = row
	}
	for _, header := range []string{"machine", "versions", "spread"} {
		if value, ok := names[header]["value"].(string); !ok || value == "" {
			t.Errorf("the header has no %s", header)
		}
	}
	if row := names["too slow"]; row["ok"] != false || row["must"] != "≥ 0.6" || row["value"] != 0.6 {
		t.Errorf("%v", row)
	}
	if row := names["anything"]; row["ok"] != true || row["value"] != 12346.0 {
		t.Errorf("%v", row)
	}
	if !strings.Contains(table.String(), "MISSED") {
		t.Errorf("the table does not say what is missed:\n%s", table.String())
	}
}

func TestTheMiddleOfRoundsCounts(t *testing.T) {
	if got := (sample{5, 1, 3}).median(); got != 3 {
		t.Errorf("of three: %v", got)
	}
	if got := (sample{4, 1, 3, 2}).median(); got != 2.5 {
		t.Errorf("of four: %v", got)
	}
	sorted := make([]time.Duration, 200)
	for i := range sorted {
		sorted[i] = time.Duration(i + 1)
	}
	if p50, p99 := quantile(sorted, 0.5), quantile(sorted, 0.99); p50 != 100 || p99 != 198 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
}

func TestTheKernelsFiguresAreRead(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); {
	}
	after, err := cpuOf(pid)
	if err != nil || after <= before {
		t.Errorf("after work, the CPU time went from %s to %s (%v)", before, after, err)
	}
	m, err := memoryOf(pid)
	if err != nil || m.resident < 1<<20 || m.peak < m.resident/2 {
		t.Errorf("memory: %+v, %v", m, err)
	}
	if !strings.Contains(machine(), "×") || loadAverage() == "unknown" {
		t.Errorf("machine: %s, load %s", machine(), loadAverage())
	}
}
