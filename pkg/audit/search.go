package audit

// Searching the record in the database.
//
// Events are found from the newest on, a window of time at a time, until a page is full or the time for it is used up;
// a page that is not full then says how far it has looked, and the next one goes on from there. So every answer comes
// soon, however rare what is looked for may be. Where a search names actors, apps or actions, each window is read by the
// index that they have, one branch for each of them.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Page is a part of what a search finds, newest first.
type Page struct {
	Events []*Event
	// Next goes on where the page ends; empty when there is no more.
	Next Cursor
	// SearchedTo is how far back the search has looked, when it ended before its page was full and there may be more.
	SearchedTo time.Time
}

// How long a page may take before it is given as it is. One window is meant to take a part of that.
const (
	pageTime   = 120 * time.Millisecond
	textTime   = 600 * time.Millisecond
	windowTime = 40 * time.Millisecond
)

// actorMatch is who an actor's name stands for.
type actorMatch struct {
	ids    []string // not empty ones
	labels []string // of nobody: failed sign-ins and the like
}

// resolveActors finds out who has gone by a name, now or ever. A name is compared without regard to case.
const resolveActors = `
select actor_id, actor_label from rgw.ledger_actors where lower(actor_label) = $1 or $2 and lower(actor_label collate "C") like $3
union
select id::text, email from rgw.users where email = $1 or $2 and lower(email collate "C") like $3
union
select id::text, name from rgw.tokens where lower(name collate "C") = $1 or $2 and lower(name collate "C") like $3
limit 1000`

// Resolve looks up whom the search's actors stand for. Search does it by itself.
func (q *Query) Resolve(ctx context.Context, db sqlx.QueryerContext) error {
	for i := range q.terms {
		t := &q.terms[i]
		if t.field != "actor" {
			continue
		}
		for j := range t.values {
			v := &t.values[j]
			var rows []struct {
				ID    string `db:"actor_id"`
				Label string `db:"actor_label"`
			}
			folded := foldASCII(v.text)
			if err := sqlx.SelectContext(ctx, db, &rows, resolveActors, folded, v.pattern, likePattern(folded)); err != nil {
				return fmt.Errorf("look up an actor: %w", err)
			}
			match := &actorMatch{ids: []string{v.text}}
			for _, row := range rows {
				switch {
				case row.ID == "":
					match.labels = append(match.labels, row.Label)
				case !slices.Contains(match.ids, row.ID):
					match.ids = append(match.ids, row.ID)
				}
			}
			v.resolved = match
		}
	}
	return nil
}

// likePattern is a pattern as LIKE spells it.
func likePattern(pattern string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`).Replace(pattern)
}

// conditions is SQL in the making. No text of a search is ever part of it: everything is a parameter.
type conditions struct {
	parts []string
	args  []any
}

func (c *conditions) arg(v any) string {
	c.args = append(c.args, v)
	return "$" + strconv.Itoa(len(c.args))
}

func (c *conditions) add(not bool, alternatives []string) {
	text := "(" + strings.Join(alternatives, " or ") + ")"
	if not {
		text = "not " + text
	}
	c.parts = append(c.parts, text)
}

// branch is one value of a leading column, which an index finds.
type branch struct {
	column, value, label string // label is set for nobody, whose id is empty
}

// leading chooses the term that an index is best for, and returns its values; none when there is no such term.
func (q *Query) leading() (chosen int, branches []branch) {
	chosen = -1
	for _, field := range []string{"actor", "app", "action"} {
		for i := range q.terms {
			t := &q.terms[i]
			if t.field != field || t.not || slices.ContainsFunc(t.values, func(v value) bool { return v.pattern && field != "actor" }) {
				continue
			}
			var list []branch
			for _, v := range t.values {
				switch field {
				case "actor":
					for _, id := range v.resolved.ids {
						list = append(list, branch{column: "actor_id", value: id})
					}
					for _, label := range v.resolved.labels {
						list = append(list, branch{column: "actor_id", label: label})
					}
				case "app":
					list = append(list, branch{column: "app", value: v.text})
				case "action":
					list = append(list, branch{column: "action", value: v.text})
				}
			}
			slices.SortFunc(list, func(a, b branch) int {
				return strings.Compare(a.column+"\x00"+a.value+"\x00"+a.label, b.column+"\x00"+b.value+"\x00"+b.label)
			})
			list = slices.Compact(list)
			if len(list) <= 32 && (branches == nil || len(list) < len(branches)) {
				chosen, branches = i, list
			}
		}
	}
	return chosen, branches
}

// where turns all terms but one into conditions on the alias e.
func (q *Query) where(c *conditions, but int) {
	if !q.all {
		c.parts = append(c.parts, "e.kind not in ('poll', 'preflight')")
	}
	for i := range q.terms {
		if i == but {
			continue
		}
		t := &q.terms[i]
		var alternatives []string
		for j := range t.values {
			alternatives = append(alternatives, t.values[j].sql(t.field, c))
		}
		c.add(t.not, alternatives)
	}
}

func (v *value) sql(field string, c *conditions) string {
	switch field {
	case "":
		if needle := c.arg(foldASCII(v.text)); strings.Contains(v.text, "\n") { // which the other way would find between two columns
			var text string
			for _, column := range []string{"actor_label", "action", "app", "resource"} {
				text += "position(" + needle + "::text in lower(e." + column + ` collate "C")) > 0 or `
			}
			return text + "position(" + c.arg(foldASCII(jsonInner(v.text))) + `::text in lower(e.detail::text collate "C")) > 0`
		}
		return "position($" + strconv.Itoa(len(c.args)) + `::text in lower(concat_ws(E'\n', e.actor_label, e.action, e.app, e.resource) collate "C")) > 0` +
			" or position(" + c.arg(foldASCII(jsonInner(v.text))) + `::text in lower(e.detail::text collate "C")) > 0`
	case "actor":
		text := "e.actor_id = any(" + c.arg(pq.Array(v.resolved.ids)) + "::text[])"
		if len(v.resolved.labels) > 0 {
			text += " or e.actor_id = '' and e.actor_label = any(" + c.arg(pq.Array(v.resolved.labels)) + "::text[])"
		}
		return text
	case "app", "action", "resource":
		if v.pattern {
			return "e." + field + " like " + c.arg(likePattern(v.text))
		}
		return "e." + field + " = " + c.arg(v.text)
	case "decision", "phase", "kind":
		return "e." + field + " = " + c.arg(v.text) + "::rgw.event_" + field
	case "status":
		return "e.status between " + c.arg(v.low) + " and " + c.arg(v.high)
	case "address":
		return "coalesce(e.address <<= " + c.arg(v.prefix.String()) + "::inet, false)"
	case "request":
		return "e.request_id = " + c.arg(v.id)
	case "id":
		return "e.event_id = " + c.arg(v.id)
	default: // code and client are in the detail
		return "position(" + c.arg(jsonMember(field, v.text)) + "::text in e.detail::text) > 0"
	}
}

// statement makes the query of one window: events from one moment on, before a place, the newest first.
func (q *Query) statement(c *conditions, from, until time.Time, before *place, limit int) string {
	chosen, branches := q.leading()
	var base conditions
	base.args = c.args
	base.parts = append(base.parts, "e.occurred_at >= "+base.arg(from))
	if !until.IsZero() {
		base.parts = append(base.parts, "e.occurred_at < "+base.arg(until))
	}
	if before != nil {
		base.parts = append(base.parts, "(e.occurred_at, e.event_id) < ("+base.arg(before.at)+", "+base.arg(before.id)+"::uuid)")
	}
	q.where(&base, chosen)
	tail := " order by e.occurred_at desc, e.event_id desc limit " + base.arg(limit)
	columns := "select " + Columns("e") + " from rgw.audit_events e where "
	rest := strings.Join(base.parts, " and ")
	if len(branches) == 0 {
		c.args = base.args
		return columns + rest + tail
	}
	// The alias s has the columns of rgw.audit_events, so that the outer query reads as the inner ones do.
	var inner []string
	for _, b := range branches {
		lead := "e." + b.column + " = " + base.arg(b.value)
		if b.column == "app" {
			lead += " and e.app <> ''" // which the index is made for
		}
		if b.label != "" {
			lead += " and e.actor_label = " + base.arg(b.label)
		}
		inner = append(inner, "(select e.* from rgw.audit_events e where "+lead+" and "+rest+tail+")")
	}
	c.args = base.args
	if len(inner) == 1 {
		return "select " + Columns("e") + " from " + inner[0] + " e" + tail
	}
	return "select " + Columns("e") + " from (" + strings.Join(inner, " union all ") + ") e" + tail
}

// place is where a page goes on.
type place struct {
	at time.Time
	id uuid.UUID
}

// firstWindow is how far back a search looks first.
const firstWindow = time.Hour

const selectBounds = `select min(occurred_at), max(occurred_at) from rgw.audit_events`

// Search finds events that the search wants, newest first. The cursor is that of the page before, or empty. It returns
// ErrBadCursor for one that no page ended with.
func (q *Query) Search(ctx context.Context, db sqlx.QueryerContext, cursor Cursor, limit int) (*Page, error) {
	limit = min(max(limit, 1), 1000)
	until, from := q.until, q.since
	var before *place
	if cursor != "" {
		at, id, err := cursor.parse()
		if err != nil {
			return nil, err
		}
		before = &place{at, id}
		if after := at.Add(time.Microsecond); until.IsZero() || after.Before(until) {
			until = after
		}
	}
	if err := q.Resolve(ctx, db); err != nil {
		return nil, err
	}
	from, until = q.narrow(from, until)
	var oldest, newest sql.NullTime
	if err := db.QueryRowxContext(ctx, selectBounds).Scan(&oldest, &newest); err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	page := &Page{Events: []*Event{}}
	if !oldest.Valid {
		return page, nil
	}
	if from.Before(oldest.Time) {
		from = oldest.Time
	}
	if end := newest.Time.Add(time.Microsecond); until.IsZero() || until.After(end) {
		until = end
	}
	return page, q.windows(ctx, db, page, from.UTC(), until.UTC(), before, limit)
}

// narrow uses what ids tell of time: their events happen when they were made, or soon after.
func (q *Query) narrow(from, until time.Time) (time.Time, time.Time) {
	for i := range q.terms {
		t := &q.terms[i]
		if t.not || t.field != "id" && t.field != "request" {
			continue
		}
		var first, last time.Time
		for _, v := range t.values {
			at := TimeOf(v.id)
			if at.IsZero() {
				return from, until
			}
			if first.IsZero() || at.Before(first) {
				first = at
			}
			if at.After(last) {
				last = at
			}
		}
		first, last = first.Add(-2*time.Second), last.Add(2*time.Second)
		if t.field == "request" {
			last = last.Add(48 * time.Hour) // a socket's end comes as late as that
		}
		if from.Before(first) {
			from = first
		}
		if until.IsZero() || until.After(last) {
			until = last
		}
	}
	return from, until
}

// windows reads window after window, further and further back.
func (q *Query) windows(ctx context.Context, db sqlx.QueryerContext, page *Page, from, until time.Time, before *place, limit int) error {
	allowed := pageTime
	if slices.ContainsFunc(q.terms, func(t term) bool { return t.field == "" || t.field == "code" || t.field == "client" }) {
		allowed = textTime
	}
	began := time.Now()
	width := firstWindow
	for until.After(from) {
		low := until.Add(-width)
		if low.Before(from) {
			low = from
		}
		started := time.Now()
		if err := q.window(ctx, db, page, low, until, before, limit+1-len(page.Events)); err != nil {
			return err
		}
		if len(page.Events) > limit {
			page.Events = page.Events[:limit]
			page.Next = cursorOf(page.Events[limit-1])
			return nil
		}
		until = low
		if spent := time.Since(began); spent > allowed && until.After(from) {
			page.Next, page.SearchedTo = cursorAt(low), low
			return nil
		}
		// The next window is as wide as there is likely to be time for.
		factor := float64(windowTime) / float64(max(time.Since(started), time.Millisecond))
		width = time.Duration(float64(width) * min(max(factor, 0.25), 16))
		width = min(max(width, time.Minute), 50*365*24*time.Hour)
	}
	return nil
}

// window adds the events of one window to the page.
func (q *Query) window(ctx context.Context, db sqlx.QueryerContext, page *Page, from, until time.Time, before *place, limit int) (err error) {
	var c conditions
	statement := q.statement(&c, from, until, before, limit)
	rows, err := db.QueryxContext(ctx, statement, c.args...)
	if err != nil {
		return fmt.Errorf("search: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var scanner RawScanner
	for rows.Next() {
		e := new(Event)
		if err := scanner.Scan(rows, e); err != nil {
			return err
		}
		if err := e.Unpack(); err != nil {
			return err
		}
		page.Events = append(page.Events, e)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

// cursorAt is the place before everything of a moment.
func cursorAt(at time.Time) Cursor { return cursorOf(&Event{OccurredAt: at}) }

// Conditions is the search as SQL on the alias e, for a statement whose first parameter is given; the others follow it.
// Resolve comes first.
func (q *Query) Conditions(first any) (where string, args []any) {
	c := conditions{args: []any{first}, parts: []string{"true"}}
	from, until := q.narrow(q.since, q.until)
	if !from.IsZero() {
		c.parts = append(c.parts, "e.occurred_at >= "+c.arg(from))
	}
	if !until.IsZero() {
		c.parts = append(c.parts, "e.occurred_at < "+c.arg(until))
	}
	q.where(&c, -1)
	return strings.Join(c.parts, " and "), c.args
}
