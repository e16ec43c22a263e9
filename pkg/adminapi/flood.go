package adminapi

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"rackgateway/pkg/audit"
)

// A floodgate keeps refusals from costing a record each: the first of a source in a minute are recorded one by one,
// the rest as counts. And it slows down whoever fails to authenticate, by address, so that guessing costs no
// queries. It is no weapon against others at the same address: whose token was good lately passes.
type floodgate struct {
	mu      sync.Mutex
	sources map[string]*source
	good    map[[sha256.Size]byte]struct{} // tokens that were good lately, by hash
	counts  map[netip.Addr]int             // of failures that were not recorded one by one
	total   int
}

type source struct {
	records  *rate.Limiter
	failures *rate.Limiter
	skipped  int
	seen     time.Time
}

const (
	floodSources     = 10_000 // told apart; beyond, everybody new shares one
	failuresRecorded = 10     // of an address in a minute
	failuresPerSec   = 20     // of an address that are looked up
	failureBurst     = 100    // and at once
	floodGood        = 50_000 // tokens remembered as good
	floodAddresses   = 20     // named in a count
)

// everybodyElse is the source of those that are not told apart.
const everybodyElse = "everybody else"

func newFloodgate() *floodgate {
	return &floodgate{
		sources: make(map[string]*source), good: make(map[[sha256.Size]byte]struct{}), counts: make(map[netip.Addr]int),
	}
}

func perMinute(n int) *rate.Limiter { return rate.NewLimiter(rate.Limit(n)/60, n) }

// of finds a source; the lock is held.
func (g *floodgate) of(key string, recorded int, now time.Time) *source {
	s, ok := g.sources[key]
	if !ok {
		if len(g.sources) >= floodSources {
			key, recorded = everybodyElse, failuresRecorded
			if s = g.sources[key]; s != nil {
				s.seen = now
				return s
			}
		}
		s = &source{records: perMinute(recorded), failures: rate.NewLimiter(failuresPerSec, failureBurst)}
		g.sources[key] = s
	}
	s.seen = now
	return s
}

// records reports whether a refusal is to be recorded by itself, and how many of the same source were not since the
// last that was.
func (g *floodgate) records(key string, limit int, now time.Time) (skipped int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.of(key, limit, now)
	if s.records.Burst() != limit {
		s.records.SetLimitAt(now, rate.Limit(limit)/60)
		s.records.SetBurstAt(now, limit)
	}
	if !s.records.AllowN(now, 1) {
		s.skipped++
		return 0, false
	}
	skipped, s.skipped = s.skipped, 0
	return skipped, true
}

// count notes a failure of somebody unknown that was not recorded by itself.
func (g *floodgate) count(address netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total++
	if _, ok := g.counts[address]; ok || len(g.counts) < floodAddresses {
		g.counts[address]++
	}
}

// network is what failures are counted by: an IPv4 address, or an IPv6 /64, which one host may own.
func network(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return "network:" + p.Addr().String()
		}
	}
	return "network:" + a.String()
}

// failed notes that an address sent a credential that nobody has.
func (g *floodgate) failed(address netip.Addr, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of(network(address), failuresRecorded, now).failures.AllowN(now, 1)
}

// remember notes a token that was found good.
func (g *floodgate) remember(hash [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.good) >= floodGood {
		clear(g.good)
	}
	g.good[hash] = struct{}{}
}

// open reports whether an address may try a credential that is not in memory.
func (g *floodgate) open(address netip.Addr, hash [sha256.Size]byte, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.good[hash]; ok {
		return true
	}
	s, ok := g.sources[network(address)]
	if !ok && len(g.sources) >= floodSources {
		s, ok = g.sources[everybodyElse]
	}
	return !ok || s.failures.TokensAt(now) >= 1
}

// take returns what was counted since the last call, and forgets sources that have been quiet.
func (g *floodgate) take(now time.Time) (total int, byAddress map[netip.Addr]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	total, byAddress = g.total, g.counts
	g.total, g.counts = 0, make(map[netip.Addr]int)
	for key, s := range g.sources {
		if now.Sub(s.seen) > 5*time.Minute {
			delete(g.sources, key)
		}
	}
	return total, byAddress
}

// recordFlood records how many failures were not recorded one by one.
func (a *API) recordFlood(ctx context.Context) {
	total, byAddress := a.flood.take(a.Now())
	if total == 0 {
		return
	}
	e := audit.NewEvent(a.Now())
	e.Phase, e.Decision, e.Action = audit.PhaseRefused, audit.DecisionDeny, "credential.refused"
	e.Detail.Count, e.Detail.Client = int64(total), "api"
	e.Detail.Params.Add("addresses", figures(byAddress))
	if err := a.Audit.Record(ctx, e); err != nil {
		a.Log.WarnContext(ctx, "failed credentials could not be recorded", "count", total, "error", err)
	}
}
