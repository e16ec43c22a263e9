package proxy

import (
	"crypto/sha256"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"rackgateway/pkg/audit"
)

// A presence is what the proxy keeps in memory of one principal while it is about: how many requests and
// sockets it has open, how fast it is being refused, and what it asked for lately.
type presence struct {
	requests atomic.Int64
	sockets  atomic.Int64
	forms    atomic.Int64 // bytes of the form budget
	seen     atomic.Int64 // unix nanoseconds of the last request

	mu       sync.Mutex // guards what follows; never held across I/O
	refusals *rate.Limiter
	uncount  int   // refusals that were counted in place of being recorded
	counted  actor // whose they are
	recent   [8]asked
	next     int
}

// An actor is whom a count of refusals names.
type actor struct {
	kind      audit.ActorKind
	id, label string
}

// as notes whose refusals are being counted.
func (p *presence) as(who actor) {
	p.mu.Lock()
	p.counted = who
	p.mu.Unlock()
}

type asked struct {
	path string
	at   time.Time
}

// pollWindow is how soon the same read must come again to count as the polling of a wait. The CLI's
// slowest poll is every 10 seconds.
const pollWindow = 15 * time.Second

// repeats notes that a path is being asked for and reports whether it was asked for a moment ago.
func (p *presence) repeats(path string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.recent {
		if p.recent[i].path == path {
			again := now.Sub(p.recent[i].at) < pollWindow
			p.recent[i].at = now
			return again
		}
	}
	p.recent[p.next] = asked{path, now}
	p.next = (p.next + 1) % len(p.recent)
	return false
}

// recordsRefusal reports whether a refusal is to be recorded by itself. Those beyond the limit are
// counted, and the count is recorded in the next one that is.
func (p *presence) recordsRefusal(perMinute int, now time.Time) (counted int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := rate.Limit(float64(perMinute) / 60)
	if p.refusals == nil {
		p.refusals = rate.NewLimiter(limit, max(perMinute, 1))
	} else if p.refusals.Limit() != limit {
		p.refusals.SetLimitAt(now, limit)
		p.refusals.SetBurstAt(now, max(perMinute, 1))
	}
	if !p.refusals.AllowN(now, 1) {
		p.uncount++
		return 0, false
	}
	counted, p.uncount = p.uncount, 0
	return counted, true
}

// crowd is every principal that is about. It forgets those that have been away.
type crowd struct {
	byKey sync.Map // principal's key → *presence
}

func (c *crowd) enter(key string, now time.Time) *presence {
	v, ok := c.byKey.Load(key)
	if !ok {
		v, _ = c.byKey.LoadOrStore(key, &presence{})
	}
	p := v.(*presence)
	p.seen.Store(now.UnixNano())
	return p
}

// takeCounts hands over, and forgets, how many refusals of each principal were counted and are not told yet.
func (c *crowd) takeCounts(tell func(who actor, count int)) {
	c.byKey.Range(func(_, v any) bool {
		p := v.(*presence)
		p.mu.Lock()
		who, count := p.counted, p.uncount
		p.uncount = 0
		p.mu.Unlock()
		if count > 0 {
			tell(who, count)
		}
		return true
	})
}

// forget drops those not seen since a moment and with nothing open. A request that holds a forgotten
// presence goes on with it; the next one begins a new count.
func (c *crowd) forget(before time.Time) {
	c.byKey.Range(func(key, v any) bool {
		p := v.(*presence)
		if p.seen.Load() < before.UnixNano() && p.requests.Load() == 0 && p.sockets.Load() == 0 {
			c.byKey.Delete(key)
		}
		return true
	})
}

// A floodgate slows down whoever fails to authenticate, by address, so that guessing and scanning cost
// neither a database query nor a record each: the first failures of an address are recorded one by one, the
// rest as counts. It is no weapon against others at the same address: whose token was good lately passes.
type floodgate struct {
	mu      sync.Mutex
	sources map[netip.Addr]*source
	good    map[[sha256.Size]byte]struct{} // tokens that were good lately, by hash
	crowded *rate.Limiter                  // shared by those that do not fit any more
	counts  map[netip.Addr]int
	total   int
}

type source struct {
	failures *rate.Limiter
	records  *rate.Limiter
	seen     time.Time
}

const (
	floodSources    = 10_000 // addresses told apart
	floodGood       = 50_000 // tokens remembered as good
	failuresPerSec  = 20     // failed authentications of an address that are looked up a second
	failureBurst    = 100    // and at once
	failureRecords  = 10     // of which so many a minute are recorded one by one
	floodCountTells = 20     // addresses named in a count
)

func newFloodgate() *floodgate {
	return &floodgate{
		sources: make(map[netip.Addr]*source),
		good:    make(map[[sha256.Size]byte]struct{}),
		crowded: rate.NewLimiter(failuresPerSec, failureBurst),
		counts:  make(map[netip.Addr]int),
	}
}

// network is what is counted as one source: an IPv4 address, or an IPv6 /64, which one host may own.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

func (g *floodgate) source(address netip.Addr, now time.Time) *source {
	key := network(address)
	s, ok := g.sources[key]
	if !ok {
		if len(g.sources) >= floodSources {
			return &source{failures: g.crowded, records: g.crowded}
		}
		s = &source{
			failures: rate.NewLimiter(failuresPerSec, failureBurst),
			records:  rate.NewLimiter(rate.Limit(failureRecords)/60, failureRecords),
		}
		g.sources[key] = s
	}
	s.seen = now
	return s
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
	failures := g.crowded
	if s, ok := g.sources[network(address)]; ok {
		failures = s.failures
	} else if len(g.sources) < floodSources {
		return true
	}
	return failures.TokensAt(now) >= 1
}

// failed notes a failed authentication and reports whether it is to be recorded by itself.
func (g *floodgate) failed(address netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.source(address, now)
	s.failures.AllowN(now, 1)
	if s.records.AllowN(now, 1) {
		return true
	}
	g.total++
	if _, ok := g.counts[address]; ok || len(g.counts) < floodCountTells {
		g.counts[address]++
	}
	return false
}

// take returns what was counted since the last call, and forgets addresses that have been quiet.
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
