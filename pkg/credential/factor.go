package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
)

// How second factors stand is kept with the entry, so that a request that has a fresh one asks nobody. It changes
// nobody's rights: an announcement of it has the entry read again before it is next used, and ends no sockets.

// factors is what was read of a credential's second factors.
type factors struct {
	enrolled bool
	verified bool
	steps    []stepUp
}

// stepUp is one factor that was given.
type stepUp struct {
	session [sha256.Size]byte // what requests have to carry, hashed; zero when the token is enough
	at      time.Time
}

func (e *Entry) noteFactors(r *row) error {
	f := &e.ownFactors
	f.enrolled, f.verified = r.Enrolled, r.Verified || e.kind != Session
	var rows []struct {
		Session *string `json:"session"`
		At      float64 `json:"at"`
	}
	if len(r.StepUps) > 0 {
		if err := json.Unmarshal(r.StepUps, &rows); err != nil {
			return err
		}
	}
	for _, row := range rows {
		step := stepUp{at: time.UnixMicro(int64(row.At * 1e6))}
		if row.Session != nil {
			if n, err := hex.Decode(step.session[:], []byte(*row.Session)); err != nil || n != sha256.Size {
				return fmt.Errorf("a session of %d bytes: %w", n, err)
			}
		}
		f.steps = append(f.steps, step)
	}
	e.factors.Store(f)
	return nil
}

// Factor is how the second factor of a request stands: session is the text that it carries of a step-up session, ""
// for none. It asks nobody.
func (e *Entry) Factor(s access.Settings, session string) access.Factor {
	f := e.factors.Load()
	out := access.Factor{Enforced: s.MFARequired, Enrolled: f.enrolled, Verified: f.verified}
	if len(f.steps) == 0 {
		return out
	}
	var hash [sha256.Size]byte
	if session != "" {
		hash = sha256.Sum256([]byte(session))
	}
	now := e.cache.opts.Now()
	for i := range f.steps {
		step := &f.steps[i]
		if now.Sub(step.at) < s.StepUp && (step.session == [sha256.Size]byte{} || session != "" && step.session == hash) {
			out.Fresh = true
			return out
		}
	}
	return out
}

// Again reads the entry anew, whatever is in memory and whoever reads it already: the last word before somebody is asked
// for a factor that they may have given a moment ago. Errors are those of Confirm.
func (e *Entry) Again(ctx context.Context) (*Entry, error) {
	again, err := e.cache.load(ctx, e.hash, e.kind)
	switch {
	case errors.Is(err, errNoToken):
		return nil, refuse(ErrUnknown, e.kind, nil, time.Time{})
	case err != nil:
		return nil, unavailable(err)
	}
	if refused := again.refusal(e.cache.opts.Now()); refused != nil {
		return nil, refused
	}
	if again.fingerprint != e.fingerprint {
		return nil, refuse(ErrChanged, e.kind, e.Principal, time.Time{})
	}
	return again, nil
}

// takeFactors takes over how the factor stands from another entry of the same token, which is let go.
func (e *Entry) takeFactors(from *Entry) {
	f := *from.factors.Load()
	e.factors.Store(&f)
}

// unread is no epoch that the cache ever has.
const unread = ^uint64(0)

// factorsChanged has the entries that a subject concerns read again before they are next used.
func (c *Cache) factorsChanged(s subject) {
	c.mu.Lock()
	c.recent[c.changes%recentSize] = s
	c.changes++
	for _, kind := range []subjectKind{userSubject, tokenSubject} {
		for _, e := range c.index.entries(subject{kind: kind, id: s.id}) {
			e.epoch.Store(unread)
		}
	}
	c.mu.Unlock()
	c.watches.wake(s.id)
}

// watches are those who wait for the factor of a token to be given.
type watches struct {
	mu   sync.Mutex
	open map[uuid.UUID]map[chan struct{}]struct{}
}

func (w *watches) wake(id uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.open[id] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (w *watches) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.open {
		for ch := range set {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// WatchFactor returns a channel that gets a value whenever something about the second factors of a token was
// announced, or may have been. stop ends it; it must be called.
func (c *Cache) WatchFactor(tokenID string) (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	id, err := uuid.Parse(tokenID)
	if err != nil {
		return ch, func() {}
	}
	w := &c.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = make(map[uuid.UUID]map[chan struct{}]struct{})
	}
	if w.open[id] == nil {
		w.open[id] = make(map[chan struct{}]struct{})
	}
	w.open[id][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open[id], ch)
		if len(w.open[id]) == 0 {
			delete(w.open, id)
		}
	}
}

// StepUpMode is how the answer to a challenge comes back to whoever asks.
type StepUpMode string

// The modes.
const (
	StepUpCallback StepUpMode = "callback" // by the browser, to the CLI beside it
	StepUpHeld     StepUpMode = "held"     // the CLI waits for it: a device without a browser
	StepUpPage     StepUpMode = "page"     // not at all: the command is run again
	StepUpSocket   StepUpMode = "socket"   // the socket waits, and says where
	StepUpSilent   StepUpMode = "silent"   // the socket waits, and cannot say
	StepUpConsole  StepUpMode = "console"  // the browser that asks repeats its request
)

// StepUpLife is how long a challenge can be answered: as long as the stock CLI waits for one.
const StepUpLife = 5 * time.Minute

// StepUpRequest is what a factor is asked for.
type StepUpRequest struct {
	TokenID   string // of the CLI token, or id of the browser session
	Request   uuid.UUID
	Mode      StepUpMode
	Level     access.Level
	Binding   [sha256.Size]byte
	Operation json.RawMessage // an [Operation]
	Words     string
	Address   netip.Addr
	Session   string // the step-up session that the request carried
}

// Operation says in words what a factor is asked for, and what it is bound to.
type Operation struct {
	Action   string      `json:"action"`   // "release.promote"
	Sentence string      `json:"sentence"` // "promote release RABC of web"
	App      string      `json:"app,omitempty"`
	Resource string      `json:"resource,omitempty"`
	Method   string      `json:"method,omitempty"`
	Path     string      `json:"path,omitempty"`
	Details  [][2]string `json:"details,omitempty"` // name and value, as they may be recorded
	Body     string      `json:"body,omitempty"`    // SHA-256 of a form, hex
	Streamed bool        `json:"streamed,omitempty"`
	Client   string      `json:"client,omitempty"` // what the client says it is
}

// StepUp is a challenge that stands.
type StepUp struct {
	ID        uuid.UUID `db:"id"`
	Words     string    `db:"words"`
	ExpiresAt time.Time `db:"expires_at"`
	Opened    bool      // by this call; otherwise it stood already
}

// Why no factor is asked for.
var (
	ErrStepUpLooped  = errors.New("the session that was made for this does not carry it")
	ErrStepUpTooMany = errors.New("too many challenges are unanswered")
)

const openStepUp = `
select o.state, o.id, o.words, o.expires_at
  from rgw.step_up_open($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) o`

// OpenStepUp asks for a factor. In the modes page and console it returns the challenge that stands for the same thing
// already, if there is one.
func (c *Cache) OpenStepUp(ctx context.Context, r StepUpRequest) (StepUp, error) {
	var row struct {
		State     string        `db:"state"`
		ID        uuid.NullUUID `db:"id"`
		Words     string        `db:"words"`
		ExpiresAt *time.Time    `db:"expires_at"`
	}
	var address *string
	if r.Address.IsValid() {
		text := r.Address.Unmap().WithZone("").String()
		address = &text
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return StepUp{}, fmt.Errorf("draw an id: %w", err)
	}
	err = c.ask(ctx, func(ctx context.Context) error {
		return c.db.GetContext(ctx, &row, openStepUp, id, r.TokenID, r.Request, string(r.Mode), r.Level.String(),
			r.Binding[:], []byte(r.Operation), r.Words, address, hashOf(r.Session), int(StepUpLife/time.Second))
	})
	switch {
	case err != nil:
		return StepUp{}, unavailable(fmt.Errorf("ask for a second factor: %w", err))
	case row.State == "looped":
		return StepUp{}, ErrStepUpLooped
	case row.State == "too-many":
		return StepUp{}, ErrStepUpTooMany
	case !row.ID.Valid || row.ExpiresAt == nil:
		return StepUp{}, refuse(ErrUnknown, CLI, nil, time.Time{})
	}
	return StepUp{ID: row.ID.UUID, Words: row.Words, ExpiresAt: *row.ExpiresAt, Opened: row.State == "opened"}, nil
}

// hashOf is what is kept of a session's text; nil for none.
func hashOf(session string) any {
	if session == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(session))
	return sum[:]
}

const exchangeStepUp = `
select rgw.step_up_exchange($1, $2, $3, $4)`

// ExchangeStepUp takes the approval of a challenge into use, once, and returns what has become of it: "approved", or
// "pending", "refused", "expired", "ended", "used", "wrong-code", "unknown". From then on, requests that carry the
// session count as having a factor; when it is "", all requests of the token do.
func (c *Cache) ExchangeStepUp(ctx context.Context, id uuid.UUID, tokenID string, code []byte, session string) (state string, err error) {
	var shown any
	if len(code) > 0 {
		shown = code
	}
	err = c.ask(ctx, func(ctx context.Context) error {
		return c.db.GetContext(ctx, &state, exchangeStepUp, id, tokenID, shown, hashOf(session))
	})
	if err != nil {
		return "", unavailable(fmt.Errorf("take a second factor into use: %w", err))
	}
	return state, nil
}

const spendStepUp = `
select rgw.step_up_spend($1, $2, $3, $4)`

// SpendStepUp spends the grant for one operation, and returns the challenge that gave it, or reports that
// there was none. Of any number of callers, over all processes, one gets it. A failure on the way to the database is
// not tried again: the grant may be gone.
func (c *Cache) SpendStepUp(ctx context.Context, tokenID, session string, binding [sha256.Size]byte) (step uuid.UUID, spent bool, err error) {
	var id uuid.NullUUID
	err = c.attempt(ctx, func(ctx context.Context) error {
		return c.db.GetContext(ctx, &id, spendStepUp, tokenID, hashOf(session), binding[:], int(c.Settings().StepUp/time.Second))
	})
	if err != nil {
		return uuid.Nil, false, unavailable(fmt.Errorf("spend a grant: %w", err))
	}
	return id.UUID, id.Valid, nil
}
