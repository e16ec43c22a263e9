package testenv

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

var suite Suite

func TestMain(m *testing.M) {
	code := m.Run()
	if err := suite.Close(); err != nil {
		panic(err)
	}
	os.Exit(code)
}

func TestEveryProxyServesEverybodyWithinTheirRights(t *testing.T) {
	env := suite.Start(t, Options{Proxies: 2, TLS: true})
	for _, proxy := range env.Proxies {
		for _, who := range People() {
			if got := proxy.Do(who.Name, http.MethodGet, "/system?", nil); got.Status != http.StatusOK {
				t.Errorf("%s, %s: GET /system: %d %s", proxy.Name, who.Name, got.Status, got.Body)
			}
		}
		if got := proxy.Do("viewer", http.MethodPost, "/apps?", strings.NewReader("name=new")); got.Status != http.StatusForbidden {
			t.Errorf("%s: a viewer made an app: %d %s", proxy.Name, got.Status, got.Body)
		}
		if got := proxy.Do("", http.MethodGet, "/apps?", nil); got.Status != http.StatusUnauthorized {
			t.Errorf("%s: without a token: %d %s", proxy.Name, got.Status, got.Body)
		}
	}
	if n := env.Rack.RequestCount(); n < int64(2*len(People())) {
		t.Errorf("the rack saw %d requests", n)
	}
	events := env.WaitEvents(2, Filter{Actor: "vic@example.com", Phase: "refused"})
	if got := events[0].Text("method"); got != http.MethodPost {
		t.Errorf("the refused method is recorded as %q", got)
	}
}

func TestAProxyThatWasKilledComesBackOnTheSameAddress(t *testing.T) {
	env := suite.Start(t, Options{})
	proxy := env.Proxies[0]
	before := proxy.PID()
	proxy.Kill()
	if proxy.PID() != 0 {
		t.Error("a killed proxy still has a process")
	}
	proxy.Start()
	proxy.WaitReady(t.Context())
	if now := proxy.PID(); now == 0 || now == before {
		t.Errorf("the process was %d and is %d", before, now)
	}
	if got := proxy.Do("ops", http.MethodGet, "/apps?", nil); got.Status != http.StatusOK {
		t.Errorf("GET /apps: %d %s", got.Status, got.Body)
	}
	if code := proxy.Stop(); code != 0 {
		t.Errorf("a proxy that was asked to stop ended with code %d:\n%s", code, proxy.Log())
	}
}

func TestEnvironmentsShareNoData(t *testing.T) {
	one, other := suite.Start(t, Options{}), suite.Start(t, Options{})
	token := one.AddUser("zoe", "viewer")
	if got := one.Do("zoe", http.MethodGet, "/apps?", nil); got.Status != http.StatusOK {
		t.Errorf("where she is: %d %s", got.Status, got.Body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, other.Proxies[0].URL+"/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("convox", token)
	resp, err := other.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("where she is not: %d", resp.StatusCode)
	}
}

func TestAnOwnServerCanBeKilledAndComesBack(t *testing.T) {
	env := suite.Start(t, Options{OwnPostgres: true, Config: map[string]string{"AUDIT_MAX_WAIT": "20s"}})
	if err := env.Postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan Answer, 1)
	go func() { answered <- env.Do("admin", http.MethodGet, "/apps?", nil) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := env.Postgres.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got.Status != http.StatusOK {
		t.Errorf("a request over the server's restart: %d %s", got.Status, got.Body)
	}
}

func TestAProgramThatFailsIsCleanedUpAndToldWhy(t *testing.T) {
	var out bytes.Buffer
	var order []string
	err := Run(t.Context(), "program", &out, func(tb TB) {
		tb.Cleanup(func() { order = append(order, "first made") })
		tb.Cleanup(func() { order = append(order, "last made") })
		tb.Logf("going well")
		tb.Fatalf("no more %s", "luck")
		order = append(order, "after the failure")
	})
	if err == nil || err.Error() != "no more luck" {
		t.Errorf("the error is %v", err)
	}
	if got := strings.Join(order, ", "); got != "last made, first made" {
		t.Errorf("what ran: %s", got)
	}
	if got := out.String(); got != "going well\n" {
		t.Errorf("it printed %q", got)
	}
}
