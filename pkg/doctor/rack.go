package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/deployment"
)

func rackChecks() []check {
	return []check{
		{
			id: "proxy-reached", group: "Rack", title: "Admin reaches the proxy, and the proxy knows it",
			remedy:  "set PROXY_URL to the proxy as admin reaches it, and name admin's address in ADMIN_CIDRS of the proxy",
			examine: examineProxy,
		},
		{
			id: "rack-reached", group: "Rack", title: "The rack can be reached, and takes the gateway's password",
			remedy:  "check RACK_HOST and RACK_TOKEN of the proxy, and the way from it to the rack",
			examine: examineRackReached,
		},
		{
			id: "rack-verified", group: "Rack", title: "The rack's certificate is verified or pinned, and lasts",
			remedy:  "use https for RACK_HOST, with RACK_CA_FILE or RACK_TLS_PIN where no public authority signed",
			examine: examineRackVerified,
		},
		{
			id: "rack-env", group: "Rack", title: "The rack keeps its password out of the environment of apps",
			remedy:  "convox rack params set api_feature_gates=system-env-disable=true (with what else it holds, by commas), then promote every app once more",
			examine: examineRackEnv,
		},
		{
			id: "rack-restricted", group: "Rack", title: "Nobody but the gateway reaches the rack's API",
			remedy:  "restrict the rack's API to the proxies' addresses; run admin doctor --elsewhere on a machine that is none of the gateway's to see that it is",
			examine: examineRackRestricted,
		},
		{
			id: "rack-password", group: "Rack", title: "The rack's password was changed when the gateway came, and within the last 180 days",
			remedy:  "change it as docs/operations.md says: RACK_TOKEN_NEXT, the rack, then RACK_TOKEN",
			examine: examineRackPassword,
		},
	}
}

var errNoProxy = errors.New("PROXY_URL is not set here: run this with the environment of admin serve")

// askProxy asks a proxy how it is set up.
func (d *Doctor) askProxy(ctx context.Context) (*deployment.Proxy, error) {
	if d.Config.Upstream.ProxyURL == nil {
		return nil, errNoProxy
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	to := *d.Config.Upstream.ProxyURL
	to.Path = deployment.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("reading PROXY_URL: %w", err)
	}
	resp, err := client(d.ToProxy).Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the proxy: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the proxy answered %s: does its ADMIN_CIDRS name this machine?", resp.Status)
	}
	var told deployment.Proxy
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&told); err != nil {
		return nil, fmt.Errorf("reading the proxy's answer: %w", err)
	}
	return &told, nil
}

func examineProxy(_ context.Context, _ *Doctor, seen *sight) finding {
	told, _, err := seen.deployment()
	switch {
	case errors.Is(err, errNoProxy):
		return unknown("%v", err)
	case err != nil:
		return fail("%v", err)
	}
	return pass("it is version %s", told.Version)
}

// toldByProxy is what a line comes to when no proxy tells.
func toldByProxy(err error) finding {
	return unknown("only the proxy can see it, and it does not tell: %v", err)
}

func examineRackReached(_ context.Context, _ *Doctor, seen *sight) finding {
	told, _, err := seen.deployment()
	switch {
	case err != nil:
		return toldByProxy(err)
	case !told.Rack.Reachable:
		return fail("%s: %s", told.Rack.URL, told.Rack.Trouble)
	}
	return pass("%s", told.Rack.URL)
}

func examineRackVerified(_ context.Context, d *Doctor, seen *sight) finding {
	told, _, err := seen.deployment()
	if err != nil {
		return toldByProxy(err)
	}
	ends := told.Rack.CertificateEnds
	switch {
	case told.Rack.Verified == "":
		return fail("%s is not reached by https", told.Rack.URL)
	case ends != nil && ends.Sub(d.Now()) < leastLeft && told.Rack.Verified != "pin": // a pin looks at the key alone
		return fail("by %s, and it ends on %s", told.Rack.Verified, ends.Format(time.DateOnly)).to("renew the rack's certificate")
	case ends != nil:
		return pass("by %s; it ends on %s", told.Rack.Verified, ends.Format(time.DateOnly))
	}
	return pass("by %s", told.Rack.Verified)
}

func examineRackEnv(_ context.Context, _ *Doctor, seen *sight) finding {
	told, _, err := seen.deployment()
	switch {
	case err != nil:
		return toldByProxy(err)
	case !told.Rack.Parameters:
		return unknown("the rack did not tell its parameters")
	case !told.Rack.EnvDisabled:
		return fail("every process of every app holds RACK_URL, with the rack's password: system-env-disable=true is not among api_feature_gates")
	}
	return pass("system-env-disable=true is among api_feature_gates; apps that were not promoted since still hold it")
}

// dialTime is how long a connection to the rack is tried for.
const dialTime = 5 * time.Second

// examineRackRestricted tries to connect to the rack from here. Admin has no need of the rack, so where no connection
// comes about, at least this machine is kept away.
func examineRackRestricted(ctx context.Context, d *Doctor, seen *sight) finding {
	told, _, err := seen.deployment()
	if err != nil {
		return toldByProxy(err)
	}
	at, err := url.Parse(told.Rack.URL)
	if err != nil {
		return toldByProxy(err)
	}
	port := at.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[at.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		return pass("%s cannot be reached from here", told.Rack.URL)
	}
	defer func() { _ = conn.Close() }()
	remote, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	address := remote.Addr().Unmap()
	switch {
	case d.Elsewhere:
		return fail("%s can be reached from here, where no process of the gateway runs", told.Rack.URL)
	case address.IsPrivate() || address.IsLoopback():
		return unknown("%s can be reached from here, at an address of a private network; who else is in that network cannot be seen", told.Rack.URL)
	}
	return unknown("%s can be reached from here, which may be because this machine has the proxies' address", told.Rack.URL)
}

// oldestPassword is how long one password of the rack may stay.
const oldestPassword = 180 * 24 * time.Hour

// selectPasswords lists the passwords of the rack that proxies have said to use, by their fingerprint, the newest first.
const selectPasswords = `
select detail->'params'->>$1 as password, min(occurred_at) as since, max(occurred_at) as until
from rgw.audit_events
where action = $2 and actor_kind = 'system' and mac is not null and detail->'params'->>$1 <> ''
group by 1 order by 3 desc`

func examineRackPassword(ctx context.Context, d *Doctor, _ *sight) finding {
	var rows []struct {
		Password string    `db:"password"`
		Since    time.Time `db:"since"`
		Until    time.Time `db:"until"`
	}
	if err := sqlx.SelectContext(ctx, d.DB, &rows, selectPasswords, deployment.PasswordParameter, deployment.StartedAction); err != nil {
		return cannotAsk(err)
	}
	if len(rows) == 0 {
		return unknown("no proxy has recorded its start yet")
	}
	since := rows[0].Since
	age := d.Now().Sub(since)
	switch {
	case age > oldestPassword:
		return fail("the present one has been used since %s, for %s", since.UTC().Format(time.DateOnly), inDays(age))
	case len(rows) == 1:
		return fail("it is the one that the gateway began with, on %s: whoever had it before still has it", since.UTC().Format(time.DateOnly))
	}
	return pass("the present one has been used since %s", since.UTC().Format(time.DateOnly))
}
