package notify

// From leaves to notices. What is decided here is decided once: the notices of some leaves, and the cursor behind
// them, are one transaction, which moves the cursor only from where this process had found it.

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

// cursorName is the follower's name among those who follow the ledger.
const cursorName = "notices"

const (
	selectCursor = `select leaf_index from rgw.ledger_cursors where name = '` + cursorName + `'`
	insertCursor = `insert into rgw.ledger_cursors (name, leaf_index) values ('` + cursorName + `', $1) on conflict do nothing`
	moveCursor   = `update rgw.ledger_cursors set leaf_index = $2, moved_at = now(), trouble = '' where name = '` + cursorName + `' and leaf_index = $1`
	timeOfLeaf   = `select occurred_at from rgw.ledger_leaves where leaf_index = $1`
)

// follow tells what happens, until ctx ends.
func (s *Service) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.followOn(ctx); ctx.Err() == nil && !errors.Is(err, errOvertaken) {
			s.Log.WarnContext(ctx, "notices could not follow the ledger; it is tried again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return ctx.Err()
}

// errOvertaken says that another process has moved the cursor.
var errOvertaken = errors.New("another process was first")

// followOn goes on from the stored cursor until something fails; it always returns an error.
func (s *Service) followOn(ctx context.Context) error {
	stored, err := s.cursor(ctx)
	if err != nil {
		return err
	}
	at, kept := stored, s.Now()
	for {
		entries, err := s.next(ctx, at, stored)
		if err != nil {
			return err
		}
		if len(entries) == 0 { // nothing more happens: the place is kept all the same, or what was looked at counts as not
			if err := (&batch{service: s, from: stored, to: at}).commit(ctx); err != nil {
				return err
			}
			stored, kept = at, s.Now()
			continue
		}
		batch := &batch{service: s, from: stored, to: entries[len(entries)-1].Index + 1}
		if err := batch.consider(ctx, entries); err != nil {
			return err
		}
		at = batch.to
		// A place without notices is kept now and then: it costs a row's version each time.
		if batch.empty() && s.Now().Sub(kept) < s.Limits.Stored && at-stored < 4096 {
			continue
		}
		if err := batch.commit(ctx); err != nil {
			return err
		}
		stored, kept = at, s.Now()
	}
}

// next returns what comes at a place, or nothing, when nothing came for a while and the place is not the stored one.
func (s *Service) next(ctx context.Context, at, stored int64) ([]*ledger.Entry, error) {
	if at == stored {
		return s.Follower.Next(ctx, at)
	}
	patient, cancel := context.WithTimeout(ctx, s.Limits.Stored)
	defer cancel()
	entries, err := s.Follower.Next(patient, at)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return entries, err
}

// cursor returns the next leaf to look at. The first start begins a little back: what is older was told, or needed not be.
func (s *Service) cursor(ctx context.Context) (at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = s.DB.GetContext(ctx, &at, selectCursor)
	if !errors.Is(err, sql.ErrNoRows) {
		return at, wrap("read the cursor of notices", err)
	}
	size, err := ledger.Size(ctx, s.DB)
	if err != nil {
		return 0, err
	}
	since := s.Now().Add(-s.Limits.Back)
	low, high := int64(0), size
	for low < high { // leaves are in the order of time, nearly
		middle := (low + high) / 2
		var when time.Time
		if err := s.DB.GetContext(ctx, &when, timeOfLeaf, middle); err != nil {
			return 0, wrap("find where notices begin", err)
		}
		if when.Before(since) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if _, err := s.DB.ExecContext(ctx, insertCursor, low); err != nil {
		return 0, wrap("begin the cursor of notices", err)
	}
	return at, wrap("read the cursor of notices", s.DB.GetContext(ctx, &at, selectCursor))
}

// batch is what some leaves give rise to.
type batch struct {
	service  *Service
	from, to int64

	told     []found
	signIns  []found
	refusals []found
	channels []found // topic is the channel's, about its id
}

// found is an event and one thing that it gives rise to.
type found struct {
	telling
	entry   *ledger.Entry
	content *Content // where more is known than the event says
}

func (b *batch) empty() bool {
	return len(b.told)+len(b.signIns)+len(b.refusals)+len(b.channels) == 0
}

const selectRules = `select rule_id, channel_id, channel_name, patterns, created_at, created_by from rgw.notice_rules order by created_at, rule_id`

// consider finds what the leaves give rise to. Its only question to the database is about rules, when there is any event
// that one could be about.
func (b *batch) consider(ctx context.Context, entries []*ledger.Entry) error {
	oldest := b.service.Now().Add(-b.service.Limits.Forget)
	var perhaps []*ledger.Entry
	for _, entry := range entries {
		e := &entry.Event
		if entry.Gone || e.OccurredAt.Before(oldest) {
			continue
		}
		for _, t := range tellings(e) {
			b.told = append(b.told, found{telling: t, entry: entry})
		}
		switch {
		case e.Action == "session.begin" && e.Phase == audit.PhaseFinished:
			b.signIns = append(b.signIns, found{telling: telling{topicSignIn, e.Resource}, entry: entry})
		case refused(e) && e.Kind == audit.KindAction:
			b.refusals = append(b.refusals, found{entry: entry})
		}
		if !quiet(e) {
			perhaps = append(perhaps, entry)
		}
	}
	if len(perhaps) == 0 {
		return nil
	}
	rules, err := b.service.Rules(ctx)
	if err != nil || len(rules) == 0 {
		return err
	}
	for _, entry := range perhaps {
		told := make(map[string]bool)
		for _, rule := range rules {
			if !told[rule.ChannelID] && slices.ContainsFunc(rule.Patterns, func(p string) bool { return matches(p, &entry.Event) }) {
				told[rule.ChannelID] = true
				b.channels = append(b.channels, found{telling: telling{topicChannel + " " + entry.Event.Action, rule.ChannelID}, entry: entry})
			}
		}
	}
	return nil
}

// person is somebody whom notices may be for.
type person struct {
	ID    uuid.UUID `db:"id"`
	Email string    `db:"email"`
	Admin bool      `db:"admin"`
}

const (
	selectPeople = `
select u.id, u.email, exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*') as admin
from rgw.users u
where u.removed_at is null and (u.email = any($1::text[]) or u.id::text = any($1::text[])
  or $2 and u.locked_at is null and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*'))
order by u.email`

	selectChoices = `
select user_id, topic, medium, wanted from rgw.notice_choices where user_id = any($1::uuid[])`

	selectSlackConnected = `select exists (select from rgw.integrations where name = 'slack')`

	selectAlike = `
select medium, recipient, topic, count(*) as many from rgw.notices
where made_at > now() - $1 * interval '1 second' and recipient = any($2::text[]) group by medium, recipient, topic`

	insertNotices = `
insert into rgw.notices (notice_id, event_id, leaf_index, topic, medium, recipient, user_id, lane, thread, content, state, happened_at)
select n.notice_id, n.event_id, n.leaf_index, n.topic, n.medium, n.recipient, n.user_id, n.lane, n.thread, n.content::jsonb, n.state, n.happened_at
from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
  with ordinality as n(notice_id, event_id, leaf_index, topic, medium, recipient, user_id, lane, thread, content, state, happened_at, i)
order by n.i
on conflict on constraint notices_once_key do nothing`
)

// commit writes the notices and moves the cursor, or does nothing.
func (b *batch) commit(ctx context.Context) (err error) {
	s := b.service
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.step("before the cursor"); err != nil {
		return err
	}
	tx, err := s.DB.BeginTxx(ctx, nil)
	if err != nil {
		return wrap("begin", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	result, err := tx.ExecContext(ctx, moveCursor, b.from, b.to)
	if err != nil {
		return wrap("move the cursor of notices", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, errOvertaken)
	}
	made := 0
	if !b.empty() {
		if err := s.step("before the notices"); err != nil {
			return err
		}
		if made, err = b.write(ctx, tx); err != nil {
			return err
		}
	}
	if err := s.step("before the commit"); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return wrap("commit notices", err)
	}
	if err := s.step("after the commit"); err != nil {
		return err
	}
	if made > 0 {
		s.Wake()
	}
	return nil
}

// write makes the notices' rows.
func (b *batch) write(ctx context.Context, tx *sqlx.Tx) (int, error) {
	if err := b.seeSignIns(ctx, tx); err != nil {
		return 0, err
	}
	if err := b.seeRefusals(ctx, tx); err != nil {
		return 0, err
	}
	var refs []string
	admins := false
	for _, f := range b.told {
		if topic, _ := topicNamed(f.topic); topic.Audience == ToAdmins {
			admins = true
		} else {
			refs = append(refs, strings.ToLower(f.about))
		}
	}
	people := make(map[string]*person)
	var everybody []*person
	if len(b.told) > 0 {
		var rows []person
		if err := tx.SelectContext(ctx, &rows, selectPeople, pq.Array(refs), admins); err != nil {
			return 0, wrap("find whom to tell", err)
		}
		for i := range rows {
			p := &rows[i]
			people[p.Email], people[p.ID.String()] = p, p
			if p.Admin {
				everybody = append(everybody, p)
			}
		}
	}
	choices, err := readChoices(ctx, tx, people)
	if err != nil {
		return 0, err
	}
	var connected bool
	if err := tx.GetContext(ctx, &connected, selectSlackConnected); err != nil {
		return 0, wrap("whether Slack is connected", err)
	}
	var w rows
	for _, f := range b.told {
		topic, known := topicNamed(f.topic)
		if !known {
			continue
		}
		to := everybody
		if topic.Audience == ToPerson {
			p := people[strings.ToLower(f.about)]
			if p == nil { // removed meanwhile
				continue
			}
			to = []*person{p}
		}
		content := f.content
		if content == nil {
			c := contentOf(f.topic, f.entry.Index, &f.entry.Event)
			content = &c
		}
		for _, p := range to {
			if choices.wants(p.ID, topic, mediumMail) {
				w.add(row{event: f.entry.Event.ID, leaf: f.entry.Index, topic: f.topic, medium: mediumMail, recipient: p.Email, user: p.ID, content: content})
			}
			if connected && choices.wants(p.ID, topic, mediumSlack) {
				w.add(row{event: f.entry.Event.ID, leaf: f.entry.Index, topic: f.topic, medium: mediumSlack, recipient: "@" + p.Email, user: p.ID, content: content})
			}
		}
	}
	if connected {
		for _, f := range b.channels {
			content := contentOf(f.topic, f.entry.Index, &f.entry.Event)
			w.add(row{event: f.entry.Event.ID, leaf: f.entry.Index, topic: f.topic, medium: mediumSlack, recipient: f.about, content: &content})
		}
	}
	if len(w.list) == 0 {
		return 0, nil
	}
	slices.SortStableFunc(w.list, func(x, y row) int { return int(x.leaf - y.leaf) })
	if err := b.cap(ctx, tx, &w); err != nil {
		return 0, err
	}
	return len(w.list), w.insert(ctx, tx)
}

// cap has notices wait for a digest: those of which one receiver got many alike a moment ago, and those about what is
// long past, as when the ledger is followed anew.
func (b *batch) cap(ctx context.Context, tx *sqlx.Tx, w *rows) error {
	limits := &b.service.Limits
	var recipients []string
	for _, r := range w.list {
		if !slices.Contains(recipients, r.recipient) {
			recipients = append(recipients, r.recipient)
		}
	}
	var counts []struct {
		Medium    string `db:"medium"`
		Recipient string `db:"recipient"`
		Topic     string `db:"topic"`
		Many      int    `db:"many"`
	}
	if err := tx.SelectContext(ctx, &counts, selectAlike, limits.Window.Seconds(), pq.Array(recipients)); err != nil {
		return wrap("count notices alike", err)
	}
	alike, altogether := make(map[[3]string]int), make(map[[2]string]int)
	for _, c := range counts {
		alike[[3]string{c.Medium, c.Recipient, c.Topic}] = c.Many
		altogether[[2]string{c.Medium, c.Recipient}] += c.Many
	}
	past := b.service.Now().Add(-limits.Quiet)
	for i := range w.list {
		r := &w.list[i]
		one, all := [3]string{r.medium, r.recipient, r.topic}, [2]string{r.medium, r.recipient}
		most := limits.Alike
		if strings.HasPrefix(r.topic, topicChannel) {
			most = limits.AlikeSlack
		}
		r.state = "waiting"
		if alike[one] >= most || altogether[all] >= limits.Altogether || r.content.At.Before(past) {
			r.state = "held"
		}
		alike[one]++
		altogether[all]++
	}
	return nil
}

// row is a notice to be inserted.
type row struct {
	id        uuid.UUID
	event     uuid.UUID
	leaf      int64
	topic     string
	medium    string
	recipient string
	user      uuid.UUID
	content   *Content
	state     string
}

// rows gathers notices.
type rows struct {
	list []row
	seen map[string]bool
}

// add takes a notice, unless the receiver hears of the event already: an admin who is added by an admin is told once.
func (w *rows) add(r row) {
	if w.seen == nil {
		w.seen = make(map[string]bool)
	}
	key := r.event.String() + " " + r.medium + " " + r.recipient
	if w.seen[key] {
		return
	}
	w.seen[key] = true
	w.list = append(w.list, r)
}

func (w *rows) insert(ctx context.Context, tx sqlx.ExtContext) error {
	n := len(w.list)
	ids, events, leaves, topics, media := make([]string, n), make([]string, n), make([]int64, n), make([]string, n), make([]string, n)
	recipients, users, lanes, threads, contents := make([]string, n), make([]sql.NullString, n), make([]string, n), make([]string, n), make([]string, n)
	states, at := make([]string, n), make([]string, n)
	for i, r := range w.list {
		if r.id == uuid.Nil {
			r.id = uuid.New()
		}
		if r.event == uuid.Nil {
			r.event = r.id
		}
		thread := r.content.Request.String()
		lane := "slack " + r.recipient // a channel's messages are in order
		if r.medium == mediumMail {
			lane = "mail " + r.recipient + " " + thread
		}
		text, err := json.Marshal(r.content)
		if err != nil {
			return fmt.Errorf("write a notice: %w", err)
		}
		when := r.content.At
		if when.IsZero() {
			when = time.Now()
		}
		ids[i], events[i], leaves[i], topics[i], media[i], recipients[i] = r.id.String(), r.event.String(), r.leaf, r.topic, r.medium, r.recipient
		users[i] = sql.NullString{String: r.user.String(), Valid: r.user != uuid.Nil}
		lanes[i], threads[i], contents[i], states[i], at[i] = lane, thread, string(text), r.state, when.UTC().Format(time.RFC3339Nano)
	}
	_, err := tx.ExecContext(ctx, insertNotices, pq.Array(ids), pq.Array(events), pq.Array(leaves), pq.Array(topics), pq.Array(media), pq.Array(recipients),
		pq.Array(users), pq.Array(lanes), pq.Array(threads), pq.Array(contents), pq.Array(states), pq.Array(at))
	return wrap("write notices", err)
}

const notePlaces = `
with had as (select kind, place from rgw.notice_places where user_id = $1),
new as (
  insert into rgw.notice_places (user_id, kind, place, first_at)
  select $1, p.kind, p.place, $4 from (values ('device', $2::text), ('network', $3::text)) p(kind, place) where p.place <> ''
  on conflict do nothing returning kind)
select (select count(*) from had) as known, coalesce((select array_agg(kind) from new), '{}') as new`

// seeSignIns tells sign-ins with a device or from a network that is new. The first one ever is not told.
func (b *batch) seeSignIns(ctx context.Context, tx *sqlx.Tx) error {
	for _, f := range b.signIns {
		e := &f.entry.Event
		id, err := uuid.Parse(e.ActorID)
		if err != nil || e.ActorKind != audit.ActorUser {
			continue
		}
		device, network := deviceOf(e.Detail.UserAgent), networkOf(e.Address)
		var seen struct {
			Known int            `db:"known"`
			New   pq.StringArray `db:"new"`
		}
		if err := tx.GetContext(ctx, &seen, notePlaces, id, device, network, e.OccurredAt); err != nil {
			return wrap("note where somebody signed in", err)
		}
		if seen.Known == 0 || len(seen.New) == 0 {
			continue
		}
		content := contentOf(topicSignIn, f.entry.Index, e)
		delete(content.Facts, "expires_at")
		if slices.Contains(seen.New, "device") {
			content.fact("device", device)
		}
		if slices.Contains(seen.New, "network") {
			content.fact("network", network)
		}
		b.told = append(b.told, found{telling: telling{topicSignIn, id.String()}, entry: f.entry, content: &content})
	}
	return nil
}

// networkOf is the range that an address is in: people's own changes within it.
func networkOf(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	bits := 16
	if address = address.Unmap(); address.Is6() {
		bits = 32
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}

// deviceOf is the sort of browser and system that a user agent tells: without versions, which change by themselves.
func deviceOf(agent string) string {
	find := func(words ...string) string {
		for i := 0; i+1 < len(words); i += 2 {
			if strings.Contains(agent, words[i]) {
				return words[i+1]
			}
		}
		return ""
	}
	browser := find("Edg", "Edge", "OPR/", "Opera", "Firefox/", "Firefox", "FxiOS", "Firefox", "CriOS", "Chrome", "Chrome/", "Chrome", "Safari/", "Safari", "curl/", "curl")
	system := find("iPhone", "iPhone", "iPad", "iPad", "Android", "Android", "CrOS", "ChromeOS", "Windows", "Windows", "Mac OS", "macOS", "Linux", "Linux")
	switch {
	case agent == "":
		return ""
	case browser == "" && system == "":
		word, _, _ := strings.Cut(short(agent), "/")
		return word[:min(len(word), 40)]
	case system == "":
		return browser
	case browser == "":
		return system
	}
	return browser + " on " + system
}

// How many refusals within refusalWindow are told, and are told again when there are ten times as many.
const (
	refusalWindow = 10 * time.Minute
	refusalMany   = 10
)

const countRefusals = `
insert into rgw.notice_refusals as r (subject, since, many) values ($1, $2, $3)
on conflict (subject, since) do update set many = r.many + excluded.many returning many`

// seeRefusals tells when somebody is refused again and again.
func (b *batch) seeRefusals(ctx context.Context, tx *sqlx.Tx) error {
	type key struct {
		subject string
		since   time.Time
	}
	many, last, order := make(map[key]int64), make(map[key]found), []key{}
	for _, f := range b.refusals {
		e := &f.entry.Event
		subject := string(e.ActorKind) + " " + e.ActorID
		if e.ActorKind == audit.ActorNobody {
			subject = "address " + e.Address.String()
		}
		k := key{subject, e.OccurredAt.Truncate(refusalWindow)}
		if many[k] == 0 {
			order = append(order, k)
		}
		many[k] += max(e.Detail.Count, 1)
		last[k] = f
	}
	slices.SortFunc(order, func(x, y key) int { // one order for all who do so at once
		if c := strings.Compare(x.subject, y.subject); c != 0 {
			return c
		}
		return x.since.Compare(y.since)
	})
	for _, k := range order {
		var now int64
		if err := tx.GetContext(ctx, &now, countRefusals, k.subject, k.since, many[k]); err != nil {
			return wrap("count refusals", err)
		}
		before := now - many[k]
		crossed := false
		for step := int64(refusalMany); step <= now; step *= 10 {
			crossed = crossed || before < step
		}
		if !crossed {
			continue
		}
		f := last[k]
		e := &f.entry.Event
		about := ""
		switch e.ActorKind {
		case audit.ActorUser:
			about = e.ActorID
		case audit.ActorAPIToken:
			about = e.Detail.Owner
		case audit.ActorNobody, audit.ActorSystem, audit.ActorDatabase:
		}
		for _, t := range []telling{{topicRefusals, about}, {topicPeopleRefusals, ""}} {
			if t.topic == topicRefusals && about == "" {
				continue
			}
			content := contentOf(t.topic, f.entry.Index, e)
			content.Count = now
			b.told = append(b.told, found{telling: t, entry: f.entry, content: &content})
		}
	}
	return nil
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
