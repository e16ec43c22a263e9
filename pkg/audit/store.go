package audit

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

const insertEvent = `
insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac,
  kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
values ($1, $2, (select epoch from rgw.cluster_epoch), $3, $4, $5, $6, $7,
  $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)`

// InsertTx records events in the transaction of the change that they are about: both are durable, or
// neither is. Each call is a writer of its own, numbered from 1, whose last event closes it, so that a
// transaction that is rolled back leaves no gap.
func InsertTx(ctx context.Context, tx sqlx.ExecerContext, key Key, events ...*Event) error {
	if key.IsZero() {
		return errors.New("audit: no key to record with")
	}
	writer := NewID(time.Now())
	for i, e := range events {
		e.identify()
		ready := *e
		ready.WriterID, ready.WriterSeq = writer, int64(i+1)
		ready.Detail.Closes = i == len(events)-1
		ready.prepare(nil)
		key.sign(&ready)
		var address any
		if ready.Address.IsValid() {
			address = ready.Address.String()
		}
		_, err := tx.ExecContext(ctx, insertEvent, ready.OccurredAt, ready.ID, ready.RequestID, ready.WriterID, ready.WriterSeq,
			ready.MACKeyID, ready.MAC, string(ready.Kind), string(ready.Phase), string(ready.Decision), string(ready.ActorKind),
			ready.ActorID, ready.ActorLabel, ready.Action, ready.App, ready.Resource, ready.Status, address, string(ready.detail))
		if err != nil {
			return fmt.Errorf("record the event: %w", err)
		}
	}
	return nil
}

// markTransaction tells the triggers that the gateway makes the changes of this transaction, and records
// them itself. The setting ends with the transaction.
const markTransaction = `select set_config('rgw.request_id', $1, true)`

// Change makes a change and its records in one transaction: f makes the change and may go on describing
// the event, which is recorded when f returns nil.
func Change(ctx context.Context, db *sqlx.DB, key Key, e *Event, f func(tx *sqlx.Tx) error) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if _, err := tx.ExecContext(ctx, markTransaction, e.RequestID.String()); err != nil {
		return fmt.Errorf("mark the transaction: %w", err)
	}
	if err := f(tx); err != nil {
		return err
	}
	if err := InsertTx(ctx, tx, key, e); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// eventColumns is what Scan reads, in its order.
const eventColumns = `occurred_at, event_id, epoch, xid::text, request_id, writer_id, writer_seq, mac_key, mac,
  kind::text, phase::text, decision::text, actor_kind::text, actor_id, actor_label, action, app, resource, status,
  host(address), detail::text`

// scan reads an event from a row of eventColumns.
func scan(row interface{ Scan(dest ...any) error }) (*Event, error) {
	var (
		e       Event
		writer  uuid.NullUUID
		seq     sql.NullInt64
		keyID   sql.NullString
		xid     string
		address sql.NullString
		detail  string
	)
	err := row.Scan(&e.OccurredAt, &e.ID, &e.Epoch, &xid, &e.RequestID, &writer, &seq, &keyID, &e.MAC,
		&e.Kind, &e.Phase, &e.Decision, &e.ActorKind, &e.ActorID, &e.ActorLabel, &e.Action, &e.App, &e.Resource, &e.Status,
		&address, &detail)
	if err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	e.OccurredAt = e.OccurredAt.UTC()
	e.WriterID, e.WriterSeq, e.MACKeyID = writer.UUID, seq.Int64, keyID.String
	if _, err := fmt.Sscan(xid, &e.XID); err != nil {
		return nil, fmt.Errorf("read event %s: transaction id: %w", e.ID, err)
	}
	if address.Valid {
		if e.Address, err = netip.ParseAddr(address.String); err != nil {
			return nil, fmt.Errorf("read event %s: address: %w", e.ID, err)
		}
	}
	e.detail = []byte(detail)
	e.recorded = true
	if err := e.Detail.parse(e.detail); err != nil {
		return nil, fmt.Errorf("read event %s: detail: %w", e.ID, err)
	}
	return &e, nil
}

// detailJSON is how a detail is read. It is written by appendDetail, which is faster.
type detailJSON struct {
	Approval   string            `json:"approval"`
	Auth       string            `json:"auth"`
	BytesIn    *int64            `json:"bytes_in"`
	BytesOut   *int64            `json:"bytes_out"`
	Client     string            `json:"client"`
	Closes     bool              `json:"closes"`
	Code       string            `json:"code"`
	Count      int64             `json:"count"`
	Duration   int64             `json:"duration_us"`
	EnvKeys    EnvKeys           `json:"env_keys"`
	Error      string            `json:"error"`
	ExitCode   *int              `json:"exit_code"`
	Method     string            `json:"method"`
	MFA        string            `json:"mfa"`
	MFALevel   string            `json:"mfa_level"`
	Op         string            `json:"op"`
	Owner      string            `json:"owner"`
	Params     map[string]string `json:"params"`
	Path       string            `json:"path"`
	Permission string            `json:"permission"`
	Recording  string            `json:"recording"`
	Rule       string            `json:"rule"`
	Token      string            `json:"token"`
	TokenName  string            `json:"token_name"`
	Truncated  []string          `json:"truncated"`
	UserAgent  string            `json:"user_agent"`
}

// parse reads a stored detail. Members that it does not know, of a newer release, are left out; they stay
// in the event's canonical bytes all the same.
func (d *Detail) parse(text []byte) error {
	var in detailJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*d = Detail{
		Approval: in.Approval, Auth: in.Auth, BytesIn: in.BytesIn, BytesOut: in.BytesOut, Client: in.Client,
		Closes: in.Closes, Code: in.Code, Count: in.Count, Duration: in.Duration, EnvKeys: in.EnvKeys, Error: in.Error,
		ExitCode: in.ExitCode, Method: in.Method, MFA: in.MFA, MFALevel: in.MFALevel, Op: in.Op, Owner: in.Owner,
		Path: in.Path, Permission: in.Permission, Recording: in.Recording, Rule: in.Rule, Token: in.Token,
		TokenName: in.TokenName, Truncated: in.Truncated, UserAgent: in.UserAgent,
	}
	for name, value := range in.Params {
		d.Params.Add(name, value)
	}
	d.Params.sort()
	return nil
}

const selectEvent = `select ` + eventColumns + ` from rgw.audit_events where occurred_at = $1 and event_id = $2`

// Load returns one event by its key, or sql.ErrNoRows.
func Load(ctx context.Context, db sqlx.QueryerContext, occurredAt time.Time, id uuid.UUID) (*Event, error) {
	return scan(db.QueryRowxContext(ctx, selectEvent, occurredAt, id))
}

// Events are kept by their time. The id of one that the gateway made tells it, to the millisecond; of those that the
// database made by itself there are few, and an index over actions has them.
const (
	findEvent = `select ` + eventColumns + ` from rgw.audit_events
where event_id = $1 and occurred_at >= $2 and occurred_at < $3`
	findOutsideEvent = `select ` + eventColumns + ` from rgw.audit_events
where event_id = $1 and action = 'gateway.changed_outside'`
)

// Find returns one event by its id alone, or sql.ErrNoRows.
func Find(ctx context.Context, db sqlx.QueryerContext, id uuid.UUID) (*Event, error) {
	if id.Version() != 7 {
		return scan(db.QueryRowxContext(ctx, findOutsideEvent, id.String()))
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC() // #nosec G115 -- 48 bits
	return scan(db.QueryRowxContext(ctx, findEvent, id.String(), at, at.Add(time.Millisecond)))
}

// DetailJSON is the detail of an event that was loaded, in its canonical form: with whatever a newer release put into it.
func (e *Event) DetailJSON() []byte { return e.detail }

// Filter says which events are wanted. Each field that is given narrows it.
type Filter struct {
	Actor     string // label or id
	App       string
	Actions   []string // any of these; empty for all
	Resource  string
	Decision  Decision
	Phase     Phase
	Kind      Kind
	ByHand    bool // leaves out what clients do by themselves: polls and preflights
	MinStatus int32
	MaxStatus int32
	Since     time.Time // from then on
	Until     time.Time // before then
	RequestID uuid.UUID
	Before    Cursor // goes on where a page ended
	Limit     int    // 1 to 1,000; default 100
}

// Cursor is the place behind an event in a list. It is opaque; the empty one is the start.
type Cursor string

func cursorOf(e *Event) Cursor {
	key := e.OccurredAt.UTC().AppendFormat(nil, timeFormat)
	return Cursor(base64.RawURLEncoding.EncodeToString(append(append(key, ' '), e.ID.String()...)))
}

// ErrBadCursor says that a cursor is none that a list ended with.
var ErrBadCursor = errors.New("the cursor is not one that a list ended with")

func (c Cursor) parse() (at time.Time, id uuid.UUID, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(string(c))
	if err == nil {
		moment, key, _ := strings.Cut(string(raw), " ")
		if at, err = time.Parse(timeFormat, moment); err == nil {
			id, err = uuid.Parse(key)
		}
	}
	if err != nil {
		return time.Time{}, uuid.UUID{}, ErrBadCursor
	}
	return at, id, nil
}

const listEvents = `
select ` + eventColumns + `
from rgw.audit_events
where occurred_at >= $1 and occurred_at < $2
  and ($3 = '' or actor_id = $3 or actor_label = $3)
  and ($4 = '' or app = $4 and app <> '')
  and (cardinality($5::text[]) = 0 or action = any($5::text[]))
  and ($6 = '' or decision = nullif($6, '')::rgw.event_decision)
  and ($7 = '' or phase = nullif($7, '')::rgw.event_phase)
  and ($8 = '' or kind = nullif($8, '')::rgw.event_kind)
  and status between $9 and $10
  and ($11::uuid is null or request_id = $11)
  and ($12::timestamptz is null or (occurred_at, event_id) < ($12, $13::uuid))
  and (not $14 or kind not in ('poll', 'preflight'))
  and ($15 = '' or resource = $15)
order by occurred_at desc, event_id desc
limit $16`

// List returns the events that the filter wants, newest first, and the cursor of the next page, which is
// empty when there is none.
func List(ctx context.Context, db sqlx.QueryerContext, f Filter) (events []*Event, next Cursor, err error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	since, until := any(f.Since), any(f.Until)
	if f.Since.IsZero() {
		since = "-infinity"
	}
	if f.Until.IsZero() {
		until = "infinity"
	}
	maxStatus := f.MaxStatus
	if maxStatus == 0 {
		maxStatus = 1<<31 - 1
	}
	var request, beforeTime, beforeID any
	if f.RequestID != (uuid.UUID{}) {
		request = f.RequestID.String()
	}
	if f.Before != "" {
		at, id, err := f.Before.parse()
		if err != nil {
			return nil, "", err
		}
		beforeTime, beforeID = at, id.String()
		if f.Until.IsZero() || at.Before(f.Until) {
			until = at.Add(time.Microsecond) // lets the planner leave out later months
		}
	}
	rows, err := db.QueryxContext(ctx, listEvents, since, until, f.Actor, f.App, pq.Array(append([]string{}, f.Actions...)), string(f.Decision), string(f.Phase),
		string(f.Kind), f.MinStatus, maxStatus, request, beforeTime, beforeID, f.ByHand, f.Resource, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if len(events) == limit {
			return events, cursorOf(events[limit-1]), nil
		}
		e, err := scan(rows)
		if err != nil {
			return nil, "", err
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list events: %w", err)
	}
	return events, "", nil
}

// RestoreTx puts an event back that was read from its canonical bytes, in the database's transaction, and tells whether
// it was missing. Its MAC is made anew: with the key that its writer had it is the same. What does not give the same
// canonical bytes again is refused.
func RestoreTx(ctx context.Context, tx sqlx.ExecerContext, key Key, canonical []byte) (e *Event, added bool, err error) {
	if e, err = ParseCanonical(canonical); err != nil {
		return nil, false, err
	}
	var writer, seq, keyID, mac, address any
	if e.WriterID != (uuid.UUID{}) {
		key.sign(e)
		writer, seq, keyID, mac = e.WriterID, e.WriterSeq, e.MACKeyID, e.MAC
	}
	if e.Address.IsValid() {
		address = e.Address.String()
	}
	result, err := tx.ExecContext(ctx, insertEvent+` on conflict do nothing`, e.OccurredAt, e.ID, e.RequestID, writer, seq, keyID, mac,
		string(e.Kind), string(e.Phase), string(e.Decision), string(e.ActorKind), e.ActorID, e.ActorLabel, e.Action, e.App, e.Resource,
		e.Status, address, string(e.detail))
	if err != nil {
		return nil, false, fmt.Errorf("put event %s back: %w", e.ID, err)
	}
	n, err := result.RowsAffected()
	return e, n == 1, err
}

// ParseCanonical reads an event from its canonical bytes.
func ParseCanonical(text []byte) (*Event, error) {
	var in struct {
		Action     string          `json:"action"`
		ActorID    string          `json:"actor_id"`
		ActorKind  ActorKind       `json:"actor_kind"`
		ActorLabel string          `json:"actor_label"`
		Address    netip.Addr      `json:"address"`
		App        string          `json:"app"`
		Decision   Decision        `json:"decision"`
		Detail     json.RawMessage `json:"detail"`
		ID         uuid.UUID       `json:"event_id"`
		Kind       Kind            `json:"kind"`
		OccurredAt time.Time       `json:"occurred_at"`
		Phase      Phase           `json:"phase"`
		RequestID  uuid.UUID       `json:"request_id"`
		Resource   string          `json:"resource"`
		Status     int32           `json:"status"`
		WriterID   uuid.UUID       `json:"writer_id"`
		WriterSeq  int64           `json:"writer_seq"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	e := &Event{
		OccurredAt: in.OccurredAt.UTC(), ID: in.ID, RequestID: in.RequestID, WriterID: in.WriterID, WriterSeq: in.WriterSeq,
		Kind: in.Kind, Phase: in.Phase, Decision: in.Decision, ActorKind: in.ActorKind, ActorID: in.ActorID, ActorLabel: in.ActorLabel,
		Action: in.Action, App: in.App, Resource: in.Resource, Status: in.Status, Address: in.Address, detail: in.Detail, recorded: true,
	}
	if again := e.AppendCanonical(nil); string(again) != string(text) {
		return nil, fmt.Errorf("event %s is not in its canonical form", e.ID)
	}
	return e, e.Unpack()
}
