// Package audit is the record of what was asked, decided and done: the event, its canonical bytes, what
// of a request may be recorded at all, the writer that makes events durable, and the search over them.
//
// The promise that it keeps is in three sentences. An event is durable in PostgreSQL when Record returns
// nil, and only then. Nothing that a client sends can make an event unrecordable: over-long or invalid
// text is cut and the field is named in Detail.Truncated. Every event carries a number without gaps
// within its writer, and a MAC under a key that the database does not hold, so that an edit or a gap shows.
package audit

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Kind says whose doing an event was. The values are the labels of the SQL type rgw.event_kind.
type Kind string

// The kinds of events.
const (
	KindAction    Kind = "action"    // a person or a pipeline did it
	KindPoll      Kind = "poll"      // a client does it by itself, again and again
	KindPreflight Kind = "preflight" // a client does it by itself, before something else
	KindSystem    Kind = "system"    // the gateway did it
)

// Phase says which moment of a request an event records. The values are the labels of rgw.event_phase.
type Phase string

// The phases of a request.
const (
	PhaseStarted  Phase = "started"  // before the rack is asked
	PhaseFinished Phase = "finished" // with the outcome
	PhaseRefused  Phase = "refused"  // the rack was not asked
	PhaseCut      Phase = "cut"      // an answer broke off after its record was made
)

// Decision is what was decided. The values are the labels of rgw.event_decision.
type Decision string

// The decisions.
const (
	DecisionNone      Decision = "none" // nothing was to be decided, or it was not reached
	DecisionAllow     Decision = "allow"
	DecisionDeny      Decision = "deny"
	DecisionChallenge Decision = "challenge"
	DecisionWait      Decision = "wait"
)

// ActorKind says what sort of actor an event names. The values are the labels of rgw.actor_kind.
type ActorKind string

// The sorts of actors.
const (
	ActorNobody   ActorKind = "nobody" // no credential, or none that is known
	ActorUser     ActorKind = "user"
	ActorAPIToken ActorKind = "api_token"
	ActorSystem   ActorKind = "system"   // the gateway itself
	ActorDatabase ActorKind = "database" // a change made by SQL around the gateway
)

// Event is one row of rgw.audit_events. NewEvent fills what must be there; the columns that the writer
// or the database fill say so.
type Event struct {
	OccurredAt time.Time // UTC, in microseconds
	ID         uuid.UUID // UUIDv7; given when the event is recorded, each time a new one
	RequestID  uuid.UUID // joins the events of one request

	WriterID  uuid.UUID // filled by the writer; zero for an event that the database wrote by itself
	WriterSeq int64     // filled by the writer: number within it, from 1 without gaps
	MACKeyID  string    // filled by the writer: which key the MAC was made with
	MAC       []byte    // filled by the writer: HMAC-SHA256 of the canonical bytes
	Epoch     int32     // filled by the database: life of the cluster
	XID       uint64    // filled by the database: transaction that inserted the row

	Kind       Kind
	Phase      Phase
	Decision   Decision
	ActorKind  ActorKind
	ActorID    string // stable id; empty when nobody
	ActorLabel string // address or token name, as it was then
	Action     string // resource.verb, such as "process.exec"
	App        string
	Resource   string
	Status     int32      // HTTP status that the client was given; 0 when not known yet
	Address    netip.Addr // of the client, from the connection or a trusted proxy; zero when unknown
	Detail     Detail

	// detail is the column as it is stored. It is set on an event that was loaded or has been made ready
	// to store, and then counts in place of Detail.
	detail []byte

	// recorded says that the id has been used. Copies of an event have it too: a "finished" that was
	// copied from its "started" must not pass for a repetition of it.
	recorded bool
}

// Detail is everything about an event that is not a column of its own. Empty fields are not stored.
type Detail struct {
	Approval   string  // id of the approval that was used
	Auth       string  // how the actor authenticated: "basic", "bearer", "session"
	BytesIn    *int64  // body bytes from the client
	BytesOut   *int64  // body bytes to the client
	Client     string  // "cli", "console", "api"
	Closes     bool    // the writer ends with this event
	Code       string  // stable code of the decision or of the refusal
	Count      int64   // events that this one stands for, or, in a heartbeat, that came before it
	Duration   int64   // microseconds
	EnvKeys    EnvKeys // environment keys that changed, never values
	Error      string  // what went wrong, in a sentence
	ExitCode   *int    // of the command behind a socket
	Method     string  // HTTP method
	MFA        string  // how the factor stood: "not-required", "not-enforced", "fresh", ...
	MFALevel   string  // what factor the operation asks for
	Op         string  // the rack's name of the operation
	Owner      string  // owner of the token
	Params     Params  // safe parameters, redacted by whoever adds them
	Path       string  // as it was authorised
	Permission string  // the permission that was looked for
	Recording  string  // id of the session's recording
	Rule       string  // what decided
	Token      string  // id of the token that was used
	TokenName  string  // its name then
	Truncated  []string
	UserAgent  string
}

// EnvKeys names the environment keys that a change touched.
type EnvKeys struct {
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
}

// Params are the parameters of a request that may be recorded.
type Params []Param

// Param is one of Params.
type Param struct {
	Name, Value string
}

// Add appends a parameter. Several of one name are recorded as one, their values joined by ", ".
func (p *Params) Add(name, value string) { *p = append(*p, Param{name, value}) }

// AddRedacted appends a parameter whose value must not be recorded: only its length in bytes is.
func (p *Params) AddRedacted(name string, length int) { p.Add(name, Redacted(length)) }

// Get returns the value of the first parameter of that name, "" when there is none.
func (p Params) Get(name string) string {
	for i := range p {
		if p[i].Name == name {
			return p[i].Value
		}
	}
	return ""
}

// sort puts the parameters in the order of their names.
func (p Params) sort() {
	slices.SortStableFunc(p, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
}

// NewEvent returns an event of that moment with a new request id, of kind action, phase finished, by
// nobody, with no decision.
func NewEvent(now time.Time) *Event {
	return &Event{
		OccurredAt: now.UTC().Truncate(time.Microsecond),
		RequestID:  NewID(now),
		Kind:       KindAction,
		Phase:      PhaseFinished,
		Decision:   DecisionNone,
		ActorKind:  ActorNobody,
	}
}

// identify gives the event an id that it alone has.
func (e *Event) identify() {
	if e.recorded || e.ID == (uuid.UUID{}) {
		e.ID = NewID(e.OccurredAt)
	}
	e.recorded = true
}

// NewID returns a UUIDv7 (RFC 9562 section 5.7) of that moment: 48 bits of milliseconds, 12 bits of the
// millisecond's fraction (section 6.2, method 3), 62 random bits.
func NewID(now time.Time) uuid.UUID {
	var id uuid.UUID
	ns := now.UnixNano()
	ms := ns / int64(time.Millisecond)
	fraction := (ns % int64(time.Millisecond)) * 4096 / int64(time.Millisecond)
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16|0x7000|uint64(fraction)&0x0fff)
	_, _ = rand.Read(id[8:]) // never fails: crypto/rand ends the process first
	id[8] = id[8]&0x3f | 0x80
	return id
}
