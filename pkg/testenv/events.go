package testenv

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Event is one row of the audit log, as the database has it.
type Event struct {
	OccurredAt time.Time       `db:"occurred_at"`
	ID         string          `db:"event_id"`
	RequestID  string          `db:"request_id"`
	WriterID   *string         `db:"writer_id"` // nil for an event that the database wrote by itself
	WriterSeq  *int64          `db:"writer_seq"`
	Kind       string          `db:"kind"`
	Phase      string          `db:"phase"`
	Decision   string          `db:"decision"`
	ActorKind  string          `db:"actor_kind"`
	ActorID    string          `db:"actor_id"`
	ActorLabel string          `db:"actor_label"`
	Action     string          `db:"action"`
	App        string          `db:"app"`
	Resource   string          `db:"resource"`
	Status     int             `db:"status"`
	Address    *string         `db:"address"`
	Detail     json.RawMessage `db:"detail"`
}

// Text returns a text of the event's detail by its path, such as "params", "command"; "" when there is none.
func (e Event) Text(path ...string) string {
	var at any
	if err := json.Unmarshal(e.Detail, &at); err != nil {
		return ""
	}
	for _, key := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = object[key]
	}
	switch v := at.(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// Filter chooses events. What is empty does not count.
type Filter struct {
	RequestID string
	Actor     string // label
	Action    string
	App       string
	Phase     string
	Decision  string
	After     time.Time // occurred later than this
}

func (f Filter) where() (clause string, args []any) {
	var terms []string
	add := func(term string, value any) {
		args = append(args, value)
		terms = append(terms, fmt.Sprintf(term, len(args)))
	}
	for _, equal := range [][2]string{
		{"request_id::text", f.RequestID}, {"actor_label", f.Actor}, {"action", f.Action}, {"app", f.App},
		{"phase::text", f.Phase}, {"decision::text", f.Decision},
	} {
		if equal[1] != "" {
			add(equal[0]+" = $%d", equal[1])
		}
	}
	if !f.After.IsZero() {
		add("occurred_at > $%d", f.After)
	}
	if len(terms) == 0 {
		return "true", nil
	}
	return strings.Join(terms, " and "), args
}

const selectEvents = `
select occurred_at, event_id::text, request_id::text, writer_id::text, writer_seq, kind::text, phase::text, decision::text,
  actor_kind::text, actor_id, actor_label, action, app, resource, status, host(address) as address, detail
from rgw.audit_events where %s order by occurred_at, writer_seq`

// Events returns the events that a filter chooses, oldest first.
func (e *Env) Events(filter Filter) []Event {
	e.t.Helper()
	clause, args := filter.where()
	var events []Event
	if err := e.DB.SelectContext(e.t.Context(), &events, fmt.Sprintf(selectEvents, clause), args...); err != nil {
		e.t.Fatalf("reading events: %v", err)
	}
	return events
}

// WaitEvents waits until a filter chooses at least n events, and returns them. Events that follow an answer, such
// as the end of a download, are durable a moment after the client has seen it.
func (e *Env) WaitEvents(n int, filter Filter) []Event {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for {
		events := e.Events(filter)
		if len(events) >= n {
			return events
		}
		select {
		case <-ctx.Done():
			e.t.Fatalf("there are %d events of %+v, and not %d", len(events), filter, n)
		case <-every.C:
		}
	}
}
