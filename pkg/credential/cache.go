package credential

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/access"
)

// Channel is the channel that the database announces changes of access on. The payload names what changed:
// user:ID, token:ID, role:NAME, setting:KEY, factor:ID of a user or token, or all.
const Channel = "rgw_access"

// Feed hears the database's announcements. *postgres.Feed is one.
type Feed interface {
	// Subscribe has announcements on the channel handed over, one after the other.
	Subscribe(channel string, handle func(payload string))
	// OnReset has the function called whenever announcements may have been lost, once the feed listens again.
	OnReset(reset func())
	// ProofAge is how long ago all announcements were known to have been handed over.
	ProofAge() time.Duration
}

// Options say how a cache behaves. The zero value of each field is its default.
type Options struct {
	MaxStaleness time.Duration // how old the feed's proof may be before entries are read again; 10 s
	SocketGrace  time.Duration // how long sockets go on without proof before they are ended; 60 s
	MaxWait      time.Duration // bound of one look-up whose context has no deadline; 10 s
	// SettingDefaults are the values of settings that the environment sets. They count in place of the built-in
	// defaults, and the database counts over them.
	SettingDefaults []access.SettingValue
	// NoteSessions has Used write the last use of browser sessions too, which only admin may do: sessions are
	// used by way of it.
	NoteSessions bool
	MaxEntries   int              // tokens that are kept; 100,000. Tokens with open sockets are kept beyond it.
	Logger       *slog.Logger     // default discards
	Now          func() time.Time // default time.Now
}

// Cache resolves tokens to principals from memory, and never longer than is safe.
//
// An entry is served while all of this holds: no announcement named anything it was made from; the feed was not
// reset since it was read; and the feed's proof of life is younger than MaxStaleness. Otherwise it is read
// again, by one query for all who wait for it, as long as their contexts allow; a database that stays
// away for that long is ErrUnavailable. The ends of a token's life are compared with the clock each time.
//
// Sockets that were attached to an entry end at once when an announcement names it. After a reset, and while
// proof is missing, they are checked in the background instead: same rights, they go on; other rights,
// they end; and when the database cannot say for SocketGrace, they end too.
//
// All methods are safe for concurrent use. A hit takes no lock that is held across I/O.
type Cache struct {
	db      *sqlx.DB
	feed    Feed
	opts    Options
	builtIn map[string]access.Role

	tokenStmt   atomic.Pointer[sqlx.Stmt]
	sessionStmt atomic.Pointer[sqlx.Stmt]

	queries chan struct{} // one place for each query that may run at once
	lookups flights[[sha256.Size]byte, *Entry]
	shards  [shardCount]shard
	epoch   atomic.Uint64 // raised by each reset: entries of an earlier epoch are unproven
	wake    chan struct{} // tells Run that there is something to check

	// mu orders announcements, and the arrival of what was read. It is never held across I/O, nor
	// while foreign code runs.
	mu       sync.Mutex
	entries  int
	index    index
	changes  uint64              // announcements so far
	recent   [recentSize]subject // the last of them, by number modulo recentSize
	attached map[*Entry]struct{} // those with sockets

	settings settings
	uses     uses
	watches  watches
	loads    atomic.Uint64
	started  time.Time

	oddMu    sync.Mutex
	oddities map[string]bool
}

const (
	shardCount = 64
	// recentSize is how many announcements may arrive during one query without it having to be repeated.
	recentSize = 256
	// sampleSize is how many entries are looked at to find one that was not used for long.
	sampleSize = 8
	// checkEvery is how often sockets and settings are checked for what no announcement tells.
	checkEvery = 500 * time.Millisecond
)

// shard is one part of the entries, by the first byte of the hash.
type shard struct {
	mu      sync.RWMutex
	entries map[[sha256.Size]byte]*Entry
	hits    atomic.Uint64
	_       [64]byte // keeps neighbours out of each other's cache lines
}

// NewCache returns a cache over the database that the feed listens to. It must be called before the feed
// runs. The cache answers at once; Run does what has to be done in the background.
func NewCache(db *sqlx.DB, feed Feed, opts Options) *Cache {
	opts.MaxStaleness = cmp.Or(opts.MaxStaleness, 10*time.Second)
	opts.SocketGrace = cmp.Or(opts.SocketGrace, 60*time.Second)
	opts.MaxWait = cmp.Or(opts.MaxWait, 10*time.Second)
	opts.MaxEntries = cmp.Or(opts.MaxEntries, 100_000)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := &Cache{
		db: db, feed: feed, opts: opts,
		builtIn:  make(map[string]access.Role),
		queries:  make(chan struct{}, maxQueries),
		wake:     make(chan struct{}, 1),
		index:    make(index),
		attached: make(map[*Entry]struct{}),
		oddities: make(map[string]bool),
		started:  opts.Now(),
	}
	for _, role := range access.BuiltinRoles() {
		c.builtIn[role.Name] = role
	}
	for i := range c.shards {
		c.shards[i].entries = make(map[[sha256.Size]byte]*Entry)
	}
	c.settings.changed(time.Unix(0, 1)) // since ever: there is nothing to go by before they are read
	feed.Subscribe(Channel, c.announced)
	feed.OnReset(c.reset)
	return c
}

// Run checks sockets, reads settings again when they changed, and writes when tokens were used, until ctx
// ends. Then it writes what is left, ends the sockets that are still attached, and waits for all queries; afterwards
// Resolve refuses with ErrUnavailable. So its context has to outlast the requests that are served.
func (c *Cache) Run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		if c.settings.outdated() {
			background.Go(func() { c.refreshSettings(ctx) })
		}
		c.sweep(ctx, &background)
		select {
		case <-tick.C:
			if c.uses.begin() {
				background.Go(func() { c.writeUses(ctx) })
			}
		case <-c.wake:
		case <-ctx.Done():
			c.close()
			return ctx.Err()
		}
	}
}

// close ends everything.
func (c *Cache) close() {
	last, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.writeUses(last)
	c.mu.Lock()
	var ends []func(string)
	for e := range c.attached {
		ends = append(ends, c.dropLocked(e)...)
	}
	c.mu.Unlock()
	callEach(ends, endClosing)
	c.lookups.close()
	c.settings.reads.close()
	for _, stmt := range []*sqlx.Stmt{c.tokenStmt.Load(), c.sessionStmt.Load()} {
		if stmt != nil {
			_ = stmt.Close()
		}
	}
}

// Resolve returns whom a token stands for. A token that is not good is a *RefusedError; a database that could not
// be asked before ctx ended is ErrUnavailable.
func (c *Cache) Resolve(ctx context.Context, token Token) (*Entry, error) {
	now := c.opts.Now()
	if c.settings.fresh(now, c.opts.MaxStaleness) && c.feed.ProofAge() <= c.opts.MaxStaleness {
		s := c.shard(token.hash)
		if e := s.get(token.hash); e != nil && e.epoch.Load() == c.epoch.Load() {
			switch refused := e.refusal(now); {
			case refused == nil:
				s.hits.Add(1)
				e.touch(now)
				return e, nil
			case !errors.Is(refused, ErrIdle) && !errors.Is(refused, ErrSignIn): // uses and sign-ins elsewhere are not announced
				s.hits.Add(1)
				return nil, refused
			}
		}
	}
	return c.read(ctx, token.hash, token.kind)
}

// Cached reports whether the token is in memory, so that resolving it need not ask the database.
func (c *Cache) Cached(token Token) bool { return c.shard(token.hash).get(token.hash) != nil }

// read asks the database for a token.
func (c *Cache) read(ctx context.Context, hash [sha256.Size]byte, kind Kind) (*Entry, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.MaxWait)
		defer cancel()
	}
	if err := c.currentSettings(ctx); err != nil {
		return nil, unavailable(err)
	}
	e, err := c.lookups.do(ctx, hash, func(ctx context.Context) (*Entry, error) { return c.load(ctx, hash, kind) })
	switch {
	case errors.Is(err, errNoToken):
		return nil, refuse(ErrUnknown, kind, nil, time.Time{})
	case err != nil:
		return nil, unavailable(err)
	}
	now := c.opts.Now()
	if refused := e.refusal(now); refused != nil {
		return nil, refused
	}
	e.touch(now)
	return e, nil
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", ErrUnavailable, cause) }

// load reads a token until what was read is still true when it arrives.
func (c *Cache) load(ctx context.Context, hash [sha256.Size]byte, kind Kind) (*Entry, error) {
	for {
		var began moment // of the attempt that succeeded
		var r *row
		err := c.ask(ctx, func(ctx context.Context) error {
			c.loads.Add(1)
			began = c.moment()
			var err error
			r, err = c.find(ctx, hash, kind)
			return err
		})
		if errors.Is(err, errNoToken) {
			c.drop(hash)
			return nil, err
		}
		if err != nil {
			return nil, err
		}
		e, err := c.entry(hash, kind, r, began.at)
		if err != nil {
			return nil, err
		}
		if kept := c.keep(e, began); kept != nil {
			return kept, nil
		}
	}
}

// moment is what was known when a query began.
type moment struct {
	at      time.Time
	epoch   uint64
	changes uint64
}

func (c *Cache) moment() moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment{at: c.opts.Now(), epoch: c.epoch.Load(), changes: c.changes}
}

// keep puts what was read into the cache, and returns the entry to use: the one that was there already when
// nothing about it changed, so that its sockets stay with it. It returns nil when an announcement that arrived
// after the query began says that what was read may not be true any more.
func (c *Cache) keep(e *Entry, began moment) *Entry {
	c.mu.Lock()
	if c.epoch.Load() != began.epoch || c.changedSince(began.changes, e) {
		c.mu.Unlock()
		return nil
	}
	s := c.shard(e.hash)
	var ends []func(string)
	if old := s.get(e.hash); old != nil {
		if old.fingerprint == e.fingerprint {
			old.validated.Store(e.validated.Load())
			old.lastUsed.Store(max(old.lastUsed.Load(), e.lastUsed.Load()))
			old.vouched.Store(e.vouched.Load())
			old.takeFactors(e)
			old.epoch.Store(began.epoch)
			old.suspect = time.Time{}
			c.mu.Unlock()
			return old
		}
		ends = c.dropLocked(old)
	}
	e.epoch.Store(began.epoch)
	e.touched.Store(began.at.Unix())
	c.index.add(e)
	s.put(e)
	if c.entries++; c.entries > c.opts.MaxEntries {
		c.evictLocked(e)
	}
	c.mu.Unlock()
	callEach(ends, endChanged)
	return e
}

// changedSince reports whether an announcement after the given number concerns the entry.
func (c *Cache) changedSince(number uint64, e *Entry) bool {
	if c.changes-number > recentSize {
		return true
	}
	for ; number < c.changes; number++ {
		if e.dependsOn(c.recent[number%recentSize]) {
			return true
		}
	}
	return false
}

// evictLocked makes room for the entry that just came: of a few that come to hand, the one that was not used
// for longest goes. Entries with sockets stay, because announcements have to find them.
func (c *Cache) evictLocked(newest *Entry) {
	var oldest *Entry
	seen := 0
	for i := range shardCount {
		s := &c.shards[(int(newest.hash[1])+i)%shardCount]
		s.mu.RLock()
		for _, e := range s.entries { // in random order
			if e == newest || len(e.sockets) > 0 {
				continue
			}
			if oldest == nil || e.touched.Load() < oldest.touched.Load() {
				oldest = e
			}
			if seen++; seen == sampleSize {
				break
			}
		}
		s.mu.RUnlock()
		if seen == sampleSize {
			break
		}
	}
	if oldest != nil {
		c.dropLocked(oldest)
	}
}

// dropLocked takes an entry out of the cache for good, and returns how to end its sockets: to be called
// once the lock is released.
func (c *Cache) dropLocked(e *Entry) []func(reason string) {
	if e.dropped.Swap(true) {
		return nil
	}
	c.shard(e.hash).remove(e)
	c.index.remove(e)
	c.entries--
	delete(c.attached, e)
	var ends []func(string)
	for s := range e.sockets {
		ends = append(ends, s.end)
	}
	e.sockets = nil
	return ends
}

// drop forgets a token that is no more.
func (c *Cache) drop(hash [sha256.Size]byte) {
	c.mu.Lock()
	var ends []func(string)
	if e := c.shard(hash).get(hash); e != nil {
		ends = c.dropLocked(e)
	}
	c.mu.Unlock()
	callEach(ends, endChanged)
}

func callEach(ends []func(reason string), reason string) {
	for _, end := range ends {
		end(reason)
	}
}

// announced handles one announcement.
func (c *Cache) announced(payload string) {
	kind, rest, _ := strings.Cut(payload, ":")
	var s subject
	switch kind {
	case "user", "token", "factor":
		id, err := uuid.Parse(rest)
		if err != nil {
			c.reset()
			return
		}
		s = subject{kind: userSubject, id: id}
		switch kind {
		case "token":
			s.kind = tokenSubject
		case "factor":
			s.kind = factorSubject
			c.factorsChanged(s)
			return
		}
	case "role":
		s = subject{kind: roleSubject, name: rest}
	case "setting":
		c.settings.changed(c.opts.Now())
		c.nudge()
		return
	default: // all, or something that a later version announces
		c.reset()
		return
	}
	c.mu.Lock()
	c.recent[c.changes%recentSize] = s
	c.changes++
	c.mu.Unlock()
	// Those with sockets first: a role may concern all of a hundred thousand entries.
	c.dropEach(s, func(e *Entry) bool { return len(e.sockets) > 0 })
	c.dropEach(s, func(*Entry) bool { return true })
}

// dropEach drops the entries that a subject concerns, those of them that are wanted, and ends their sockets.
func (c *Cache) dropEach(s subject, wanted func(*Entry) bool) {
	c.mu.Lock()
	var ends []func(string)
	for _, e := range c.index.entries(s) {
		if wanted(e) {
			ends = append(ends, c.dropLocked(e)...)
		}
	}
	c.mu.Unlock()
	callEach(ends, endChanged)
}

// reset makes all entries unproven: none is served before it was read again. Sockets are checked in the
// background.
func (c *Cache) reset() {
	c.mu.Lock()
	c.epoch.Add(1)
	c.mu.Unlock()
	c.settings.changed(c.opts.Now())
	c.watches.wakeAll()
	c.nudge()
}

// nudge has Run look at once.
func (c *Cache) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sweep looks after open sockets: it ends those whose token has expired and those whose rights could not be
// checked for too long, and has others checked.
func (c *Cache) sweep(ctx context.Context, background *sync.WaitGroup) {
	now := c.opts.Now()
	proof := min(c.feed.ProofAge(), now.Sub(c.started)) // the first proof takes a while to come
	var expired, signedOut, unsure []func(string)
	c.mu.Lock()
	for e := range c.attached {
		if !now.Before(e.ends) {
			expired = append(expired, c.dropLocked(e)...)
			continue
		}
		if due := e.signInDue(); !due.IsZero() && !now.Before(due) {
			// Sign-ins are not announced: only what was read after the moment can tell that there was none.
			if e.validated.Load() >= due.UnixNano() {
				signedOut = append(signedOut, c.dropLocked(e)...)
				continue
			}
			if !e.checking {
				e.checking = true
				background.Go(func() { c.check(ctx, e) })
			}
		}
		unproven := e.epoch.Load() != c.epoch.Load()
		if !unproven && proof <= c.opts.MaxStaleness {
			continue
		}
		if e.suspect.IsZero() {
			e.suspect = now.Add(-proof)
		}
		if now.Sub(e.suspect) > c.opts.SocketGrace {
			unsure = append(unsure, c.dropLocked(e)...)
			continue
		}
		if e.checking || !unproven && now.UnixNano()-e.validated.Load() < int64(c.opts.MaxStaleness) {
			continue
		}
		e.checking = true
		background.Go(func() { c.check(ctx, e) })
	}
	c.mu.Unlock()
	callEach(expired, endExpired)
	callEach(signedOut, endSignIn)
	callEach(unsure, endUnsure)
}

// check reads the token of an entry with sockets again; keep ends the sockets when its rights changed.
func (c *Cache) check(ctx context.Context, e *Entry) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.SocketGrace)
	defer cancel()
	_, err := c.lookups.do(ctx, e.hash, func(ctx context.Context) (*Entry, error) { return c.load(ctx, e.hash, e.kind) })
	c.mu.Lock()
	e.checking = false
	c.mu.Unlock()
	if err != nil && !errors.Is(err, errNoToken) && ctx.Err() == nil {
		c.opts.Logger.WarnContext(ctx, "the rights of an open session could not be checked", "token", e.Principal.TokenID, "error", err)
	}
}

// ProofAge is how long ago all changes of access were known to have been heard.
func (c *Cache) ProofAge() time.Duration { return c.feed.ProofAge() }

// MaxStaleness is how old the proof may be before entries are read again.
func (c *Cache) MaxStaleness() time.Duration { return c.opts.MaxStaleness }

// Stats are figures for metrics. Counts are since the start.
type Stats struct {
	Entries  int    // tokens in memory
	Sockets  int    // open sockets attached to them
	Hits     uint64 // look-ups answered from memory
	Loads    uint64 // queries for a token
	ProofAge time.Duration
}

// Stats returns the figures of this moment.
func (c *Cache) Stats() Stats {
	s := Stats{Loads: c.loads.Load(), ProofAge: c.feed.ProofAge()}
	for i := range c.shards {
		s.Hits += c.shards[i].hits.Load()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Entries = c.entries
	for e := range c.attached {
		s.Sockets += len(e.sockets)
	}
	return s
}

func (c *Cache) shard(hash [sha256.Size]byte) *shard { return &c.shards[hash[0]%shardCount] }

func (s *shard) get(hash [sha256.Size]byte) *Entry {
	s.mu.RLock()
	e := s.entries[hash]
	s.mu.RUnlock()
	return e
}

func (s *shard) put(e *Entry) {
	s.mu.Lock()
	s.entries[e.hash] = e
	s.mu.Unlock()
}

func (s *shard) remove(e *Entry) {
	s.mu.Lock()
	delete(s.entries, e.hash)
	s.mu.Unlock()
}
