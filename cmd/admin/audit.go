package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

type auditCmds struct {
	List auditListCmd `cmd:"" help:"List what was asked, decided and done, the newest first."`
	Show auditShowCmd `cmd:"" help:"Show everything about one event."`

	Verify  auditVerifyCmd  `cmd:"" help:"Recompute the ledger, and name the first event that does not fit."`
	Prove   auditProveCmd   `cmd:"" help:"Write the proof that an event is in the ledger."`
	Check   auditCheckCmd   `cmd:"" help:"Check a proof, offline."`
	Key     auditKeyCmds    `cmd:"" help:"The keys that checkpoints are signed with."`
	Export  auditExportCmd  `cmd:"" help:"Write out events, with checkpoint and proofs."`
	Anchor  auditAnchorCmd  `cmd:"" help:"Copy the ledger to its bucket now."`
	Copy    auditCopyCmd    `cmd:"" help:"Copy the bucket into a folder."`
	Hold    auditHoldCmds   `cmd:"" help:"Legal holds: what keeps retention from dropping events."`
	Recover auditRecoverCmd `cmd:"" help:"Rebuild the database's log from its bucket."`
}

// moment is a point in time on the command line: a date, a time, or how long ago.
type moment struct {
	at  time.Time
	ago time.Duration
}

// UnmarshalText reads 2026-11-23, 2026-11-23T15:04:05Z, or 24h for a day ago.
func (m *moment) UnmarshalText(text []byte) error {
	var ago span
	if ago.UnmarshalText(text) == nil {
		*m = moment{ago: time.Duration(ago)}
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.Parse(layout, string(text)); err == nil {
			*m = moment{at: at}
			return nil
		}
	}
	return errors.New("a moment is a date (2026-11-23), a time (2026-11-23T15:04:05Z), or how long ago (90m, 24h, 7d)")
}

// before is the moment, seen from now; zero when none was given.
func (m moment) before(now time.Time) time.Time {
	if m.ago > 0 {
		return now.Add(-m.ago)
	}
	return m.at
}

type auditListCmd struct {
	Since    moment `help:"From then on: a date, a time, or how long ago." placeholder:"WHEN"`
	Until    moment `help:"Before then." placeholder:"WHEN"`
	Actor    string `help:"By this address, token name, or id." placeholder:"WHO"`
	App      string `help:"About this app." placeholder:"APP"`
	Action   string `help:"Of this action, such as process.exec." placeholder:"ACTION"`
	Decision string `help:"So decided: allow, deny, challenge, wait or none." enum:",allow,deny,challenge,wait,none" default:"" placeholder:"DECISION"`
	Phase    string `help:"In this phase: started, finished, refused or cut." enum:",started,finished,refused,cut" default:"" placeholder:"PHASE"`
	Kind     string `help:"Of this kind: action, poll, preflight or system." enum:",action,poll,preflight,system" default:"" placeholder:"KIND"`
	Request  string `help:"Of this request: its id." placeholder:"ID"`
	All      bool   `help:"What clients do by themselves (polls and preflights), too."`
	Limit    int    `help:"How many at most; 0 for all." default:"100" placeholder:"N"`
	Verify   bool   `help:"Check each event against the MAC that its writer made, too."`
	JSON     bool   `help:"As JSON Lines: one event a line, in the canonical form that its MAC is made over."`
}

func (auditListCmd) Help() string {
	return `Reading the record is itself recorded, and so needs the audit key.

Examples:
  admin audit list --since 1h
  admin audit list --actor dan@example.com --app web --action process.exec
  admin audit list --decision deny --since 7d --json --limit 0
  admin audit list --since 30d --limit 0 --verify | grep -v ' ok '

With --verify the exit code is 1 when an event is not as its writer made it. AUDIT_MAC_KEY_PREVIOUS checks what was
made before the key was changed.`
}

func (c *auditListCmd) Run(ctx context.Context, p *process) error {
	now := p.now()
	filter := audit.Filter{
		Since: c.Since.before(now), Until: c.Until.before(now), Actor: c.Actor, App: c.App,
		Decision: audit.Decision(c.Decision), Phase: audit.Phase(c.Phase), Kind: audit.Kind(c.Kind), ByHand: !c.All && c.Kind == "",
	}
	if c.Request != "" {
		id, err := uuid.Parse(c.Request)
		if err != nil {
			return usageError("--request takes the id of a request, such as 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f")
		}
		filter.RequestID = id
	}
	if c.Action != "" {
		filter.Actions = []string{c.Action}
	}
	if c.Limit < 0 {
		return usageError("--limit takes a number from 0, which means all")
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		read := by.Event(now, "audit.read", "")
		read.Decision = audit.DecisionAllow
		for _, given := range []struct{ name, value string }{
			{"since", stampOf(filter.Since)}, {"until", stampOf(filter.Until)}, {"actor", c.Actor}, {"app", c.App}, {"action", c.Action},
			{"decision", c.Decision}, {"phase", c.Phase}, {"kind", c.Kind}, {"request", c.Request}, {"limit", strconv.Itoa(c.Limit)},
		} {
			if given.value != "" {
				read.Detail.Params.Add(given.name, given.value)
			}
		}
		// Before anything is shown: what cannot be recorded is not done.
		if err := audit.Change(ctx, db, key, read, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		keys, err := p.macKeys(key)
		if err != nil {
			return err
		}
		return c.list(ctx, p, db, filter, keys)
	})
}

// macKeys are the keys that the MACs of events are checked with: the one in use, and the one before.
func (p *process) macKeys(key audit.Key) ([]audit.Key, error) {
	cfg, err := p.configuration()
	if err != nil || cfg.Audit.MACKeyPrevious.IsZero() {
		return []audit.Key{key}, err
	}
	previous, err := audit.NewKey([]byte(cfg.Audit.MACKeyPrevious.Reveal()))
	return []audit.Key{key, previous}, err
}

func (c *auditListCmd) list(ctx context.Context, p *process, db *sqlx.DB, filter audit.Filter, keys []audit.Key) error {
	verdicts := make(map[string]int)
	head := []string{"TIME", "ACTOR", "ACTION", "APP", "RESOURCE", "PHASE", "DECISION", "STATUS", "ADDRESS", "DETAIL"}
	if c.Verify {
		head = slices.Insert(head, 1, "MAC")
	}
	t := newTable(head...)
	shown := 0
	var line []byte
	for {
		filter.Limit = 1000
		if c.Limit > 0 {
			filter.Limit = min(c.Limit-shown, filter.Limit)
		}
		events, next, err := audit.List(ctx, db, filter)
		if err != nil {
			return err
		}
		for _, e := range events {
			row := eventRow(e)
			if c.Verify {
				verdict := macVerdict(e, keys)
				verdicts[verdict]++
				row = slices.Insert(row, 1, verdict)
				if c.JSON && verdict != macOK {
					fmt.Fprintf(p.stderr, "event %s: MAC %s\n", e.ID, verdict)
				}
			}
			if !c.JSON {
				t.add(row...)
				continue
			}
			line = append(e.AppendCanonical(line[:0]), '\n')
			if _, err := p.stdout.Write(line); err != nil {
				return fmt.Errorf("writing events: %w", err)
			}
		}
		shown += len(events)
		if next == "" || shown == c.Limit {
			break
		}
		filter.Before = next
	}
	switch {
	case c.JSON:
	case shown == 0:
		fmt.Fprintln(p.stderr, "No events match.")
	default:
		if err := t.write(p.stdout); err != nil {
			return err
		}
	}
	if !c.Verify {
		return nil
	}
	fmt.Fprintf(p.stderr, "%d events: %d as their writers made them, %d not, %d made by the database itself, %d made with a key that is not at hand.\n",
		shown, verdicts[macOK], verdicts[macWrong], verdicts[macNone], verdicts[macOtherKey])
	if verdicts[macWrong] > 0 {
		return errors.New("some events are not as their writers made them: somebody changed them in the database; keep a copy of it and find out who")
	}
	return nil
}

type auditShowCmd struct {
	ID   string `arg:"" name:"event" help:"The event's id, as audit list --json tells it."`
	JSON bool   `help:"As JSON, in the canonical form that its MAC is made over, on one line."`
}

func (auditShowCmd) Help() string {
	return `Reading the record is itself recorded, and so needs the audit key.

The exit code is 1 when there is no such event, or when it is not as its writer made it.

Example:
  admin audit show 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f`
}

func (c *auditShowCmd) Run(ctx context.Context, p *process) error {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return usageError("an event is named by its id, such as 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f: admin audit list --json tells it")
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		read := by.Event(p.now(), "audit.read", id.String())
		read.Decision = audit.DecisionAllow
		if err := audit.Change(ctx, db, key, read, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		e, err := audit.Find(ctx, db, id)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("there is no event %s: list the events to see which there are", id)
		}
		if err != nil {
			return err
		}
		keys, err := p.macKeys(key)
		if err != nil {
			return err
		}
		verdict := macVerdict(e, keys)
		if c.JSON {
			_, err = p.stdout.Write(append(e.AppendCanonical(nil), '\n'))
		} else {
			err = writeEvent(p.stdout, e, verdict)
		}
		if err == nil && verdict == macWrong {
			err = errors.New("the event is not as its writer made it: somebody changed it in the database; keep a copy of it and find out who")
		}
		return err
	})
}

// writeEvent writes all of an event, a line for each thing that there is to say.
func writeEvent(w io.Writer, e *audit.Event, verdict string) error {
	t := newTable("EVENT", e.ID.String())
	line := func(name, value string) {
		if value != "" {
			t.add(name, value)
		}
	}
	line("time", e.OccurredAt.UTC().Format("2006-01-02 15:04:05.000000Z"))
	line("request", e.RequestID.String())
	line("actor", strings.TrimSpace(e.ActorLabel+" ("+string(e.ActorKind)+")"))
	line("actor id", e.ActorID)
	if e.Address.IsValid() {
		line("address", e.Address.String())
	}
	line("action", e.Action)
	line("app", e.App)
	line("resource", e.Resource)
	line("kind", string(e.Kind))
	line("phase", string(e.Phase))
	line("decision", string(e.Decision))
	if e.Status != 0 {
		line("status", strconv.Itoa(int(e.Status)))
	}
	if e.WriterID != uuid.Nil {
		line("writer", e.WriterID.String()+" "+strconv.FormatInt(e.WriterSeq, 10))
	}
	line("MAC", verdict)
	var detail map[string]json.RawMessage
	if err := json.Unmarshal(e.DetailJSON(), &detail); err != nil {
		return fmt.Errorf("reading the event's detail: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(detail)) {
		value := string(detail[name])
		var text string
		if json.Unmarshal(detail[name], &text) == nil {
			value = text
		}
		line(strings.ReplaceAll(name, "_", " "), value)
	}
	return t.write(w)
}

// What the MAC of an event says.
const (
	macOK       = "ok"
	macWrong    = "WRONG"
	macNone     = "none"  // the database wrote it, about a change made around the gateway
	macOtherKey = "other" // made with a key that is not at hand
)

func macVerdict(e *audit.Event, keys []audit.Key) string {
	if len(e.MAC) == 0 {
		return macNone
	}
	for _, key := range keys {
		if key.ID() == e.MACKeyID {
			if key.Verify(e) {
				return macOK
			}
			return macWrong
		}
	}
	return macOtherKey
}

func eventRow(e *audit.Event) []string {
	status, address := "", ""
	if e.Status != 0 {
		status = strconv.Itoa(int(e.Status))
	}
	if e.Address.IsValid() {
		address = e.Address.String()
	}
	return []string{
		e.OccurredAt.UTC().Format("2006-01-02 15:04:05Z"), e.ActorLabel, e.Action, e.App, e.Resource,
		string(e.Phase), string(e.Decision), status, address, eventDetail(e),
	}
}

// eventDetail is what a person looks at first of the rest: why not, or with what.
func eventDetail(e *audit.Event) string {
	var parts []string
	if e.Detail.Code != "" {
		parts = append(parts, "["+e.Detail.Code+"]")
	}
	if e.Detail.Error != "" {
		parts = append(parts, e.Detail.Error)
	}
	if e.Detail.ExitCode != nil {
		parts = append(parts, "exit "+strconv.Itoa(*e.Detail.ExitCode))
	}
	for _, param := range e.Detail.Params {
		if param.Name != "id" {
			value := param.Value
			if strings.ContainsAny(value, ` "`) {
				value = strconv.Quote(value)
			}
			parts = append(parts, param.Name+"="+value)
		}
	}
	return strings.Join(parts, " ")
}

func stampOf(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}
