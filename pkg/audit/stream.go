package audit

// Reading many events as they are stored, for whoever goes by their canonical bytes: the ledger, exports, the live
// tail. Their detail is parsed only when somebody asks for it.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Columns is what ScanRaw reads, in its order, of a table that goes by the alias given.
func Columns(alias string) string {
	var b strings.Builder
	for i, column := range []string{
		"occurred_at", "event_id", "epoch", "xid", "request_id", "writer_id", "writer_seq", "mac_key", "mac",
		"kind", "phase", "decision", "actor_kind", "actor_id", "actor_label", "action", "app", "resource", "status", "host(address)", "detail",
	} {
		if i > 0 {
			b.WriteString(", ")
		}
		if inner, ok := strings.CutPrefix(column, "host("); ok {
			b.WriteString("host(" + alias + "." + inner)
			continue
		}
		b.WriteString(alias + "." + column)
	}
	return b.String()
}

// raw takes a value as the driver has it: text that is good until the next row is asked for.
type raw struct {
	text []byte
	at   time.Time
	null bool
}

// Scan implements sql.Scanner.
func (r *raw) Scan(value any) error {
	r.text, r.null = r.text[:0], value == nil
	switch v := value.(type) {
	case nil:
	case []byte:
		r.text = append(r.text, v...)
	case string:
		r.text = append(r.text, v...)
	case int64:
		r.text = strconv.AppendInt(r.text, v, 10)
	case time.Time:
		r.at = v
	default:
		return fmt.Errorf("a value of type %T", value)
	}
	return nil
}

// RawScanner reads events from rows of Columns. It reuses its buffers: it is for one goroutine.
type RawScanner struct {
	columns [21]raw
	dest    []any
	known   map[string]string // short texts that come again and again
}

// Scan reads the event of a row, without its Detail: DetailJSON has that, and Unpack reads it. More are destinations of
// columns that the query has before those of the event.
func (s *RawScanner) Scan(row interface{ Scan(dest ...any) error }, e *Event, more ...any) error {
	if s.dest == nil {
		s.known = make(map[string]string)
	}
	s.dest = append(s.dest[:0], more...)
	for i := range s.columns {
		s.dest = append(s.dest, &s.columns[i])
	}
	if err := row.Scan(s.dest...); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	c := &s.columns
	if c[1].null { // an outer join found none
		*e = Event{}
		return nil
	}
	var err error
	*e = Event{OccurredAt: c[0].at.UTC(), recorded: true}
	id := func(n int) (out uuid.UUID) {
		if !c[n].null && err == nil {
			out, err = uuid.ParseBytes(c[n].text)
		}
		return out
	}
	number := func(n, bits int) (out int64) {
		if !c[n].null && err == nil {
			out, err = strconv.ParseInt(string(c[n].text), 10, bits)
		}
		return out
	}
	e.ID, e.RequestID, e.WriterID = id(1), id(4), id(5)
	e.Epoch, e.WriterSeq, e.Status = int32(number(2, 32)), number(6, 64), int32(number(18, 32)) // #nosec G115 -- parsed with so many bits
	if err == nil {
		e.XID, err = strconv.ParseUint(string(c[3].text), 10, 64)
	}
	if err == nil && !c[19].null {
		e.Address, err = netip.ParseAddr(string(c[19].text))
	}
	if err != nil {
		return fmt.Errorf("read event %s: %w", e.ID, err)
	}
	e.MACKeyID = s.intern(c[7].text)
	e.MAC = bytes.Clone(c[8].text)
	e.Kind, e.Phase, e.Decision = Kind(s.intern(c[9].text)), Phase(s.intern(c[10].text)), Decision(s.intern(c[11].text))
	e.ActorKind, e.ActorID, e.ActorLabel = ActorKind(s.intern(c[12].text)), s.intern(c[13].text), s.intern(c[14].text)
	e.Action, e.App, e.Resource = s.intern(c[15].text), s.intern(c[16].text), s.intern(c[17].text)
	e.detail = bytes.Clone(c[20].text)
	return nil
}

// mostKnown bounds what a scanner remembers.
const mostKnown = 4096

func (s *RawScanner) intern(text []byte) string {
	if len(text) == 0 {
		return ""
	}
	if known, ok := s.known[string(text)]; ok {
		return known
	}
	fresh := string(text)
	if len(s.known) < mostKnown {
		s.known[fresh] = fresh
	}
	return fresh
}

// Unpack reads the detail of an event that RawScanner read.
func (e *Event) Unpack() error {
	if err := e.Detail.parse(e.detail); err != nil {
		return fmt.Errorf("read event %s: detail: %w", e.ID, err)
	}
	return nil
}

// closesMark is how appendDetail spells that a writer ends.
var closesMark = []byte(`"closes":true`)

// Closes tells whether the writer ends with the event.
func (e *Event) Closes() bool {
	if !bytes.Contains(e.detail, closesMark) {
		return e.Detail.Closes
	}
	var d Detail // the mark may stand in somebody's text, with its quotes escaped, or in a parameter's place
	return d.parse(e.detail) == nil && d.Closes
}

// Rests tells whether the event says that its writer has nothing more to write just now.
func (e *Event) Rests() bool { return e.Action == heartbeatAction && e.Kind == KindSystem }

// heartbeatAction is what the writer's own sign of life is called.
const heartbeatAction = "audit.heartbeat"

// TimeOf is the moment that an id made by NewID tells, to the millisecond; zero when it is no UUIDv7.
func TimeOf(id uuid.UUID) time.Time {
	if id.Version() != 7 {
		return time.Time{}
	}
	ms := int64(binary.BigEndian.Uint64(id[:8]) >> 16) // #nosec G115 -- 48 bits
	return time.UnixMilli(ms).UTC()
}

// Channel is where writers announce that there are new events; there is no payload.
const Channel = "rgw_audit"
