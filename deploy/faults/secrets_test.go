package faults

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

// sendable are the requests that can be sent twice: all but a body that streams, of which the proxy makes sure right
// before, and cannot after.
func sendable() []*shape {
	return slices.DeleteFunc(slices.Clone(everything), func(s *shape) bool { return s.stream != "" })
}

// The rack's password is changed as docs/operations.md says, while both proxies are in use: they learn the next one, the rack
// changes it in the middle of everything, and they forget the one before.
func TestTheRacksPasswordIsChangedWithoutAFailedRequest(t *testing.T) {
	d := deploy(t)
	books := newBooks(d.env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{d.rack.address}, tokens: []string{d.env.Token("admin")}, fresh: true, shapes: sendable()})
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people) // who look at the rack too
	d.goesOn(t)
	next := newKey(t)
	d.roll(t, d.rack.servers(), map[string]string{"RACK_TOKEN_NEXT": next})
	l.goesOn(t, 50)
	d.env.Rack.SetPassword(next)
	l.goesOn(t, 100)
	d.goesOn(t)
	d.roll(t, d.rack.servers(), map[string]string{"RACK_TOKEN": next, "RACK_TOKEN_NEXT": ""})
	l.goesOn(t, 50)
	l.liftUnharmed(t, "a change of the rack's password")
	home()
	people.Wait()
	d.end(t, "a change of the rack's password")
	for _, p := range d.env.Proxies {
		if strings.Contains(p.Log(), next) {
			t.Errorf("%s has logged the rack's password", p.Name)
		}
	}
	books.close(t, allowance{})
}

// AUDIT_SIGNING_KEY is changed as docs/operations.md says: the ledger goes on, is signed by the new key, and verifies by all
// that it was signed with.
func TestTheSigningKeyIsChangedWithoutAFailedRequest(t *testing.T) {
	d := deploy(t)
	books := newBooks(d.env)
	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{d.rack.address}, tokens: []string{d.env.Token("admin")}, fresh: true})
	ctx, home := context.WithCancel(t.Context())
	defer home()
	var people sync.WaitGroup
	d.use(ctx, t, &people)
	ring := func() ledger.Keyring {
		keys, err := ledger.PublicKeys(t.Context(), d.env.DB)
		must(t, err)
		return keys
	}
	eventually(t, "the ledger had its key", func() bool { return len(ring()) == 1 })
	name, _, _ := strings.Cut(ring()[0], "+")
	given := ""
	for n := range 2 { // from the key that admin made to one that is given, and from that to another
		private, public, err := ledger.NewKey(name)
		must(t, err)
		before := given
		given = private.Reveal()
		d.roll(t, d.console.servers(), map[string]string{"AUDIT_SIGNING_KEY": given, "AUDIT_SIGNING_KEY_PREVIOUS": before})
		eventually(t, "the ledger was signed with the new key alone", func() bool {
			keys := ring()
			var newest string
			must(t, d.env.DB.GetContext(t.Context(), &newest, `select note from rgw.ledger_checkpoints order by size desc limit 1`))
			signed, err := ledger.ParseCheckpoint(newest, keys)
			must(t, err)
			return len(keys) == n+2 && slices.Equal(signed.Signers, []string{public})
		})
		l.goesOn(t, 50)
	}
	l.liftUnharmed(t, "a change of AUDIT_SIGNING_KEY")
	home()
	people.Wait()
	d.end(t, "a change of AUDIT_SIGNING_KEY")
	for _, p := range d.env.Proxies {
		p.Stop()
	}
	eventually(t, "every event had its place", func() bool {
		return count(t, d.env, countUnplaced) == 0
	})
	mac, err := audit.NewKey([]byte(d.env.MACKey()))
	must(t, err)
	report, err := ledger.VerifyDatabase(t.Context(), d.env.DB, ledger.VerifyOptions{Keys: ring(), MACKeys: []audit.Key{mac}, Now: time.Now})
	must(t, err)
	if !report.Sound() || report.Size < 100 {
		t.Errorf("with three keys the ledger does not verify: %+v", report)
	}
	var alerts []string
	must(t, d.env.DB.SelectContext(t.Context(), &alerts, `select resource || ': ' || detail::text from rgw.audit_events where action = 'ledger.alert'`))
	for _, alert := range alerts {
		t.Errorf("the ledger raised an alert: %s", alert)
	}
	if got := d.env.Admins[0].Do("admin", http.MethodGet, "/api/v1/health/ready", nil); got.Status != http.StatusOK {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}
