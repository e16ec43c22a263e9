package credential

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync/atomic"
	"time"

	"rackgateway/pkg/access"
)

// Entry is a token that was found good, and whom it stands for. A request keeps the entry that it was
// resolved to, and asks it before it acts whether it is still true.
type Entry struct {
	// Principal is never changed, nor may others change it.
	Principal *access.Principal

	cache       *Cache
	hash        [sha256.Size]byte
	fingerprint [sha256.Size]byte // of everything that was read but the last use
	kind        Kind
	refused     *RefusedError // why it is no good whatever the time; nil when it is good
	ends        time.Time     // when its life ends
	endCause    error         // why it does
	idle        time.Duration // how long it may be unused; 0 means no limit. Of a session, the setting counts.
	subjects    []subject     // what it was made from

	dropped   atomic.Bool             // a change made it untrue, or it made room; for good
	epoch     atomic.Uint64           // the cache's, when it was last read
	validated atomic.Int64            // when it was last read; nanoseconds since 1970
	lastUsed  atomic.Int64            // nanoseconds since 1970, as far as known here
	vouched   atomic.Int64            // when the identity provider last vouched for the owner, or the token was made; likewise
	touched   atomic.Int64            // when it was last resolved, for eviction; seconds since 1970
	factors   atomic.Pointer[factors] // how the second factor stands

	// Guarded by cache.mu.
	links    []link
	sockets  map[*socket]struct{}
	suspect  time.Time // since when its sockets' rights are unproven; zero when they are not
	checking bool      // somebody reads it again

	// What the fields above point to, as far as it is enough: the collector then has one object to look at, not five,
	// for each of a hundred thousand entries.
	principal   access.Principal
	ownSubjects [3]subject
	ownLinks    [3]link
	ownFactors  factors
}

// share takes what is the same from another entry of the same person. The entry must not be in use yet.
func (e *Entry) share(other *Entry) {
	mine, theirs := e.Principal, other.Principal
	if mine.UserID == theirs.UserID {
		mine.UserID = theirs.UserID
	}
	if mine.UserLabel == theirs.UserLabel {
		mine.UserLabel = theirs.UserLabel
	}
	if mine.TokenName == theirs.TokenName {
		mine.TokenName = theirs.TokenName
	}
	if slices.Equal(mine.Grants, theirs.Grants) && mine.Grants != nil {
		mine.Grants = theirs.Grants
	}
	if slices.Equal(mine.Ceiling, theirs.Ceiling) && mine.Ceiling != nil && theirs.Ceiling != nil {
		mine.Ceiling = theirs.Ceiling
	}
}

// socket is something open that ends with the access it was opened by.
type socket struct{ end func(reason string) }

func (e *Entry) dependOn(s subject) {
	if !e.dependsOn(s) {
		e.subjects = append(e.subjects, s)
	}
}

func (e *Entry) dependsOn(s subject) bool {
	if s.kind == factorSubject { // of whoever or whatever has the id
		return e.dependsOn(subject{kind: userSubject, id: s.id}) || e.dependsOn(subject{kind: tokenSubject, id: s.id})
	}
	return slices.Contains(e.subjects, s)
}

// refusal says why the token is no good at this time; nil when it is good.
func (e *Entry) refusal(now time.Time) *RefusedError {
	if e.refused != nil {
		return e.refused
	}
	if !now.Before(e.ends) {
		return refuse(e.endCause, e.kind, ungranted(e.Principal), e.ends)
	}
	idle := e.idle
	if e.kind == Session {
		idle = e.cache.Settings().SessionIdle
	}
	if idle > 0 {
		if last := time.Unix(0, e.lastUsed.Load()); now.Sub(last) > idle {
			return refuse(ErrIdle, e.kind, ungranted(e.Principal), last)
		}
	}
	if due := e.signInDue(); !due.IsZero() && !now.Before(due) {
		return refuse(ErrSignIn, e.kind, ungranted(e.Principal), due)
	}
	return nil
}

// signInDue is when the owner of a CLI token has to have signed in again, by the setting reauth_days; zero for what
// is not held to it. Somebody who left, and whose account at the identity provider is gone, is out then.
func (e *Entry) signInDue() time.Time {
	if e.kind != CLI {
		return time.Time{}
	}
	return time.Unix(0, e.vouched.Load()).Add(e.cache.Settings().ReauthEvery)
}

// touch notes a use, for eviction and the limit of idleness.
func (e *Entry) touch(now time.Time) {
	if second := now.Unix(); e.touched.Load() != second {
		e.touched.Store(second)
		e.lastUsed.Store(now.UnixNano())
	}
}

// Current reports whether the entry is still known to be true: nothing it was made from has changed, announcements
// arrive or it was read within MaxStaleness, and its life has not ended. It asks nobody. An entry that is not
// current may well be true still; Confirm finds out.
func (e *Entry) Current() bool {
	c := e.cache
	if e.dropped.Load() || e.epoch.Load() != c.epoch.Load() {
		return false
	}
	now := c.opts.Now()
	if !now.Before(e.ends) {
		return false
	}
	return c.feed.ProofAge() <= c.opts.MaxStaleness || now.UnixNano()-e.validated.Load() <= int64(c.opts.MaxStaleness)
}

// Confirm makes sure that the entry is still true, by reading it again when it is not Current: after a
// restart of the database, say, which drops the cache and changes nobody's rights. It returns nil when
// the same rights hold, a *RefusedError when others do or none, and ErrUnavailable when nobody can tell
// before ctx ends.
func (e *Entry) Confirm(ctx context.Context) error {
	if e.Current() {
		return nil
	}
	again, err := e.cache.read(ctx, e.hash, e.kind)
	if err != nil {
		return err
	}
	if again.fingerprint != e.fingerprint {
		return refuse(ErrChanged, e.kind, e.Principal, time.Time{})
	}
	return nil
}

// Attach has end called, once at most, when the access behind the entry is changed, its life ends, or nobody could
// check it for SocketGrace; the reason is a sentence for the person. end is called from the goroutine that
// hears announcements, so it must return at once and must not call the cache. detach has it called
// no more; it may be called more than once. ok is false when the access has changed or ended already: end
// will not be called.
func (e *Entry) Attach(end func(reason string)) (detach func(), ok bool) {
	c := e.cache
	s := &socket{end: end}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.standingLocked(e); e == nil || !c.opts.Now().Before(e.ends) {
		return func() {}, false
	}
	if e.sockets == nil {
		e.sockets = make(map[*socket]struct{})
	}
	e.sockets[s] = struct{}{}
	c.attached[e] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(e.sockets, s)
		if len(e.sockets) == 0 {
			delete(c.attached, e)
		}
	}, true
}

// standingLocked returns the entry itself while it is in the cache, or else the one that has its place with
// the same rights, or nil. An entry leaves the cache without any change of its rights when it makes room.
func (c *Cache) standingLocked(e *Entry) *Entry {
	if !e.dropped.Load() {
		return e
	}
	if other := c.shard(e.hash).get(e.hash); other != nil && other.fingerprint == e.fingerprint {
		return other
	}
	return nil
}

// ungranted is the principal for the record of a refusal, with nothing that could pass for a right.
func ungranted(p *access.Principal) *access.Principal {
	q := *p
	q.Grants, q.Ceiling = nil, nil
	return &q
}
