package proxy_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/deployment"
	"rackgateway/pkg/proxy"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/secret"
)

// fromHere has the proxy take this machine for admin's.
func fromHere(c *proxy.Config) {
	c.AdminNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.Version = "v1.2.3"
	c.RackVerified = "pin"
	c.RackCertificate = func(context.Context) (*x509.Certificate, error) {
		return &x509.Certificate{NotAfter: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)}, nil
	}
	c.ScrapedAt = func() (bool, time.Time) { return true, time.Unix(1_700_000_000, 0) }
	c.Fingerprint = func(text secret.Text) string { return fmt.Sprintf("print-%d", len(text.Reveal())) }
}

func TestAdminIsToldHowTheProxyIsSetUp(t *testing.T) {
	for _, c := range []struct {
		gates    string
		disabled bool
	}{{"", false}, {"system-env-disable=false", false}, {"other=true, system-env-disable=true", true}} {
		rack := racktest.New(racktest.Options{Password: rackPassword, Parameters: map[string]string{"api_feature_gates": c.gates, "secret": "hidden"}})
		t.Cleanup(rack.Close)
		g := newGateway(t, rack, fromHere)
		got := g.do(caller{}, http.MethodGet, deployment.Path)
		if got.Status != http.StatusOK {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
		var told deployment.Proxy
		if err := json.Unmarshal([]byte(got.Body), &told); err != nil {
			t.Fatal(err)
		}
		r := told.Rack
		if told.Version != "v1.2.3" || !r.Reachable || r.Verified != "pin" || !r.Parameters || r.EnvDisabled != c.disabled || r.CertificateEnds == nil || r.CertificateEnds.Year() != 2031 {
			t.Errorf("%q: %+v", c.gates, told)
		}
		if !told.Metrics.Served || told.Metrics.ScrapedAt == nil || told.Metrics.ScrapedAt.Unix() != 1_700_000_000 || time.Since(told.Time).Abs() > time.Minute {
			t.Errorf("%+v", told)
		}
		if strings.Contains(got.Body, rackPassword) || strings.Contains(got.Body, "hidden") {
			t.Errorf("it tells secrets: %s", got.Body)
		}
	}
}

func TestNobodyElseIsTold(t *testing.T) {
	rack := racktest.New(racktest.Options{Password: rackPassword})
	t.Cleanup(rack.Close)
	elsewhere := newGateway(t, rack, fromHere, func(c *proxy.Config) { c.AdminNetworks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	if got := elsewhere.do(caller{}, http.MethodGet, deployment.Path); got.Status == http.StatusOK || strings.Contains(got.Body, "v1.2.3") {
		t.Errorf("from another network: %d %s", got.Status, got.Body)
	}
	none := newGateway(t, rack, fromHere, func(c *proxy.Config) { c.AdminNetworks = nil })
	if got := none.do(caller{}, http.MethodGet, deployment.Path); got.Status == http.StatusOK {
		t.Errorf("without ADMIN_CIDRS: %d %s", got.Status, got.Body)
	}
}

func TestARackThatRefusesThePasswordIsTold(t *testing.T) {
	rack := racktest.New(racktest.Options{Password: "another"})
	t.Cleanup(rack.Close)
	g := newGateway(t, rack, fromHere)
	var told deployment.Proxy
	if err := json.Unmarshal([]byte(g.do(caller{}, http.MethodGet, deployment.Path).Body), &told); err != nil {
		t.Fatal(err)
	}
	if told.Rack.Reachable || !strings.Contains(told.Rack.Trouble, "refuses the gateway's password") || told.Rack.Parameters {
		t.Errorf("%+v", told.Rack)
	}
}

// Each start is on record, with what tells one password of the rack from another and is not the password.
func TestEachStartIsRecordedWithWhichPassword(t *testing.T) {
	rack := racktest.New(racktest.Options{Password: "the-next-password"})
	t.Cleanup(rack.Close)
	g := newGateway(t, rack, fromHere, func(c *proxy.Config) { c.RackTokenNext = secret.NewText("the-next-password") })
	p := g.person("viewer")
	if got := g.do(p, http.MethodGet, "/apps"); got.Status != http.StatusOK {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	var prints []string
	for deadline := time.Now().Add(time.Minute); len(prints) < 2 && time.Now().Before(deadline); {
		events, _, err := audit.List(t.Context(), g.owner, audit.Filter{Actions: []string{deployment.StartedAction}, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		prints = nil
		for _, e := range events {
			prints = append(prints, e.Detail.Params.Get(deployment.PasswordParameter))
			if strings.Contains(string(e.DetailJSON()), rackPassword) || e.Detail.Params.Get("version") != "v1.2.3" || e.Resource != "acme/staging" {
				t.Errorf("%s %s", e.Resource, e.DetailJSON())
			}
		}
	}
	if len(prints) != 2 || prints[0] == prints[1] {
		t.Errorf("recorded were %q", prints)
	}
}
