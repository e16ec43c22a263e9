package notify

// The outbox as administrators see it: what waits, what died, and trying again.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
)

// Notice is one notice in the outbox.
type Notice struct {
	ID        uuid.UUID
	Number    int64
	Topic     string
	Medium    string
	Recipient string
	Headline  string
	State     string // waiting, sending, held, sent, dead or gathered
	Attempts  int
	Trouble   string
	Receipt   string
	Request   uuid.UUID // of the event; zero of what no event gave rise to
	At        time.Time // of the event
	MadeAt    time.Time
	NextAt    time.Time // when it is tried next; while waiting
	EndedAt   *time.Time
}

// Filter chooses notices. The zero value is all, the newest first.
type Filter struct {
	State  string // "" for all
	Medium string // "" for all
	User   uuid.UUID
	Limit  int   // 1 to 1000; 0 is 100
	Before int64 // number; 0 for the newest
}

const listNotices = `
select number, notice_id, topic, medium, recipient, content,
  case when state = 'waiting' and attempt_id is not null and next_at > now() then 'sending' else state end as state,
  attempts, trouble, receipt, happened_at, made_at, next_at, ended_at
from rgw.notices
where ($1 = '' or state = $1) and ($2 = '' or medium = $2) and ($3::uuid is null or user_id = $3) and ($4 = 0 or number < $4)
order by number desc limit $5`

// List returns notices, the newest first.
func (s *Service) List(ctx context.Context, f Filter) ([]Notice, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	var found []struct {
		Number    int64      `db:"number"`
		ID        uuid.UUID  `db:"notice_id"`
		Topic     string     `db:"topic"`
		Medium    string     `db:"medium"`
		Recipient string     `db:"recipient"`
		Content   []byte     `db:"content"`
		State     string     `db:"state"`
		Attempts  int        `db:"attempts"`
		Trouble   string     `db:"trouble"`
		Receipt   string     `db:"receipt"`
		At        time.Time  `db:"happened_at"`
		MadeAt    time.Time  `db:"made_at"`
		NextAt    time.Time  `db:"next_at"`
		EndedAt   *time.Time `db:"ended_at"`
	}
	of := uuid.NullUUID{UUID: f.User, Valid: f.User != uuid.Nil}
	if err := s.DB.SelectContext(ctx, &found, listNotices, f.State, f.Medium, of, f.Before, min(f.Limit, 1000)); err != nil {
		return nil, wrap("list notices", err)
	}
	list := make([]Notice, len(found))
	for i, r := range found {
		var c Content
		if err := json.Unmarshal(r.Content, &c); err != nil {
			return nil, fmt.Errorf("read notice %s: %w", r.ID, err)
		}
		list[i] = Notice{
			ID: r.ID, Number: r.Number, Topic: r.Topic, Medium: r.Medium, Recipient: r.Recipient, Headline: c.headline(), State: r.State,
			Attempts: r.Attempts, Trouble: r.Trouble, Receipt: r.Receipt, At: r.At, MadeAt: r.MadeAt, NextAt: r.NextAt, EndedAt: r.EndedAt,
		}
		if c.Leaf >= 0 {
			list[i].Request = c.Request
		}
	}
	return list, nil
}

const (
	reviveNotice = `
update rgw.notices set state = 'waiting', ended_at = null, attempts = 0, next_at = now(), made_at = now(), trouble = ''
where notice_id = $1 and state = 'dead' returning topic, medium, recipient`

	reviveAll = `
update rgw.notices set state = 'waiting', ended_at = null, attempts = 0, next_at = now(), made_at = now(), trouble = ''
where state = 'dead' and ($1 = '' or medium = $1) returning topic, medium, recipient`

	noticeThere = `select exists (select from rgw.notices where notice_id = $1)`
)

// recordRefusal records that a change was asked for and not made, when that is what the error says; e describes it as
// far as it came. It returns the error, or why it could not be recorded.
func (s *Service) recordRefusal(ctx context.Context, e *audit.Event, err error) error {
	var answer *directory.Error
	if !errors.As(err, &answer) {
		return err
	}
	e.Phase, e.Decision = audit.PhaseRefused, audit.DecisionDeny
	e.Detail.Code, e.Detail.Error = answer.Code, answer.Message
	if unrecorded := audit.Change(ctx, s.DB, s.Key, e, func(*sqlx.Tx) error { return nil }); unrecorded != nil {
		return wrap("record a refusal", unrecorded)
	}
	return err
}

// Retry tries a dead notice again, or, with no id, all that are dead, and returns how many.
func (s *Service) Retry(ctx context.Context, by directory.Actor, id uuid.UUID, medium string) (many int, err error) {
	e := by.Event(s.Now(), "notice.retry", "")
	e.Decision = audit.DecisionAllow
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	if id != uuid.Nil {
		e.Detail.Params.Add("id", id.String())
	}
	if medium != "" {
		e.Detail.Params.Add("medium", medium)
	}
	err = audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		var revived []struct {
			Topic     string `db:"topic"`
			Medium    string `db:"medium"`
			Recipient string `db:"recipient"`
		}
		var err error
		if id != uuid.Nil {
			err = tx.SelectContext(ctx, &revived, reviveNotice, id)
		} else {
			err = tx.SelectContext(ctx, &revived, reviveAll, medium)
		}
		if err != nil {
			return wrap("retry notices", err)
		}
		many = len(revived)
		if id == uuid.Nil {
			e.Detail.Count = int64(many)
			return nil
		}
		if many == 0 {
			var there bool
			if err := tx.GetContext(ctx, &there, noticeThere, id); err != nil {
				return wrap("look for a notice", err)
			}
			if !there {
				return &directory.Error{Kind: directory.NotFound, Code: "no-such-notice", Message: "there is no notice " + id.String() + ": list the dead ones to see which there are"}
			}
			return &directory.Error{Kind: directory.Conflict, Code: "notice-not-dead", Message: "the notice " + id.String() + " was not given up: there is nothing to retry"}
		}
		e.Resource = revived[0].Recipient
		e.Detail.Params.Add("topic", revived[0].Topic)
		return nil
	})
	if err == nil {
		s.Wake()
	}
	return many, err
}

// Test sends a notice that says nothing but that it arrives: by mail to the address of somebody who is a user, or to a
// Slack channel by its id, or, with @ before the address, to a person there. It is no way to write to strangers.
func (s *Service) Test(ctx context.Context, by directory.Actor, medium, recipient string) (_ Notice, err error) {
	e := by.Event(s.Now(), "notice.test", short(recipient))
	e.Decision = audit.DecisionAllow
	e.Detail.Params.Add("medium", medium)
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	switch {
	case medium == mediumMail && s.mail == nil:
		return Notice{}, &directory.Error{Kind: directory.Conflict, Code: "mail-not-configured", Message: "mail is not configured: set POSTMARK_API_TOKEN and POSTMARK_FROM"}
	case medium == mediumSlack:
		if connected, err := s.slack.ready(ctx); err != nil || !connected {
			if err == nil {
				err = errNotConnected
			}
			return Notice{}, err
		}
	}
	var user uuid.UUID
	if address, personal := strings.CutPrefix(recipient, "@"); medium == mediumMail || personal {
		p, _, err := s.chooser(ctx, s.DB, address)
		if err != nil {
			return Notice{}, err
		}
		recipient, user = p.Email, p.ID
		if medium == mediumSlack {
			recipient = "@" + recipient
		}
	} else if !channelForm.MatchString(recipient) {
		return Notice{}, errChannel
	}
	id := uuid.New()
	e.Resource = recipient
	var w rows
	w.add(row{id: id, leaf: -1, topic: topicTest, medium: medium, recipient: recipient, user: user, state: "waiting",
		content: &Content{Topic: topicTest, Leaf: -1, Request: id, At: s.Now(), Actor: short(by.Label)}})
	if err := audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error { return w.insert(ctx, tx) }); err != nil {
		return Notice{}, err
	}
	s.Wake()
	return Notice{ID: id, Topic: topicTest, Medium: medium, Recipient: recipient, State: "waiting", At: s.Now(), MadeAt: s.Now(), NextAt: s.Now()}, nil
}

// MediumState is how a medium does, and what waits for it.
type MediumState struct {
	Medium      string
	Configured  bool // there is something to send by
	LogOnly     bool // mails are logged, in development
	From        string
	PausedUntil *time.Time // in the future, when it is
	Failures    int
	Trouble     string // the last failure
	FailedAt    *time.Time
	SucceededAt *time.Time
	Waiting     int64
	Held        int64
	Dead        int64
	SentToday   int64
	Oldest      *time.Time // of what waits
	Slack       *SlackState
}

const selectMedia = `
select m.medium, case when m.paused_until > now() then m.paused_until end as paused_until, m.failures, m.trouble, m.failed_at, m.succeeded_at,
  coalesce(n.waiting, 0) as waiting, coalesce(n.held, 0) as held, coalesce(n.dead, 0) as dead, coalesce(t.sent, 0) as sent_today, n.oldest
from rgw.notice_media m
left join (select medium, count(*) filter (where state = 'waiting') as waiting, count(*) filter (where state = 'held') as held,
    count(*) filter (where state = 'dead') as dead, min(made_at) filter (where state = 'waiting') as oldest
  from rgw.notices where state in ('dead', 'held', 'waiting') group by medium) n on n.medium = m.medium
left join (select medium, count(*) as sent from rgw.notices where ended_at > now() - interval '1 day' and state = 'sent' group by medium) t on t.medium = m.medium
order by m.medium`

// Media tells how each medium does.
func (s *Service) Media(ctx context.Context) ([]MediumState, error) {
	var found []struct {
		Medium      string     `db:"medium"`
		PausedUntil *time.Time `db:"paused_until"`
		Failures    int        `db:"failures"`
		Trouble     string     `db:"trouble"`
		FailedAt    *time.Time `db:"failed_at"`
		SucceededAt *time.Time `db:"succeeded_at"`
		Waiting     int64      `db:"waiting"`
		Held        int64      `db:"held"`
		Dead        int64      `db:"dead"`
		SentToday   int64      `db:"sent_today"`
		Oldest      *time.Time `db:"oldest"`
	}
	if err := s.DB.SelectContext(ctx, &found, selectMedia); err != nil {
		return nil, wrap("how notices do", err)
	}
	connection, err := s.slackState(ctx)
	if err != nil {
		return nil, err
	}
	var list []MediumState
	for _, r := range found {
		m := MediumState{
			Medium: r.Medium, PausedUntil: r.PausedUntil, Failures: r.Failures, Trouble: r.Trouble, FailedAt: r.FailedAt, SucceededAt: r.SucceededAt,
			Waiting: r.Waiting, Held: r.Held, Dead: r.Dead, SentToday: r.SentToday, Oldest: r.Oldest,
		}
		if r.Medium == mediumMail {
			m.Configured, m.From = !s.Postmark.Token.IsZero(), s.Postmark.From
			m.LogOnly = !m.Configured && s.LogMail
		} else {
			m.Configured, m.Slack = connection.Connected, &connection
		}
		list = append(list, m)
	}
	return list, nil
}

// Progress is how far the ledger has been followed.
type Progress struct {
	Next    int64 // the next leaf
	Behind  int64
	MovedAt time.Time
}

const selectProgress = `
select c.leaf_index as next, greatest(coalesce((select max(size) from rgw.ledger_checkpoints), 0) - c.leaf_index, 0) as behind, c.moved_at
from rgw.ledger_cursors c where c.name = '` + cursorName + `'`

// Progress tells how far the ledger has been followed; zero before it began.
func (s *Service) Progress(ctx context.Context) (p Progress, err error) {
	var found []struct {
		Next    int64     `db:"next"`
		Behind  int64     `db:"behind"`
		MovedAt time.Time `db:"moved_at"`
	}
	if err := s.DB.SelectContext(ctx, &found, selectProgress); err != nil || len(found) == 0 {
		return Progress{}, wrap("how far notices have come", err)
	}
	return Progress(found[0]), nil
}

// AddressState is whether mail reaches an address.
type AddressState struct {
	State  string // "", bounced or complained
	Reason string
	Since  time.Time
}

const selectAddress = `select state, reason, since from rgw.notice_addresses where address = lower($1)`

// Address tells whether mail reaches an address, as far as the mail service said.
func (s *Service) Address(ctx context.Context, address string) (AddressState, error) {
	var found []struct {
		State  string    `db:"state"`
		Reason string    `db:"reason"`
		Since  time.Time `db:"since"`
	}
	if err := s.DB.SelectContext(ctx, &found, selectAddress, address); err != nil || len(found) == 0 {
		return AddressState{}, wrap("whether mail reaches an address", err)
	}
	return AddressState(found[0]), nil
}

// Fine is the state of an address of which the mail service said nothing bad.
const Fine = "fine"

// PersonsMail is whether mail reaches somebody, and what they were told last.
type PersonsMail struct {
	Email string
	// State is Fine, or bounced or complained, for a reason and since a moment.
	State  string
	Reason string
	Since  time.Time
	Last   []Notice // the newest first, 20 at most
}

// MailOf tells whether mail reaches a person, and what they were told last.
func (s *Service) MailOf(ctx context.Context, user uuid.UUID, email string) (PersonsMail, error) {
	mail := PersonsMail{Email: email, State: Fine}
	state, err := s.Address(ctx, email)
	if err != nil {
		return PersonsMail{}, err
	}
	if state.State != "" {
		mail.State, mail.Reason, mail.Since = state.State, state.Reason, state.Since.UTC()
	}
	mail.Last, err = s.List(ctx, Filter{User: user, Limit: 20})
	return mail, err
}

const selectSealed = `select detail, sealed from rgw.integrations where name = 'slack' for update`

// Rekey seals anew, with the application's present key, what was sealed with the one before; the box is that of
// SealPurpose. Lost counts what neither opens: Slack has to be connected again then.
func Rekey(ctx context.Context, tx *sqlx.Tx, box *seal.Box) (done, lost int, err error) {
	var found []struct {
		Detail []byte `db:"detail"`
		Sealed []byte `db:"sealed"`
	}
	if err := tx.SelectContext(ctx, &found, selectSealed); err != nil {
		return 0, 0, wrap("read what is sealed", err)
	}
	for _, r := range found {
		var d slackDetail
		if err := json.Unmarshal(r.Detail, &d); err != nil {
			return 0, 0, wrap("read the connection to Slack", err)
		}
		again, changed, err := box.Reseal(r.Sealed, d.identity())
		switch {
		case err != nil:
			lost++
		case changed:
			if _, err := tx.ExecContext(ctx, updateSealed, again); err != nil {
				return 0, 0, wrap("seal the token of Slack anew", err)
			}
			done++
		}
	}
	return done, lost, nil
}

const updateSealed = `update rgw.integrations set sealed = $1 where name = 'slack'`
