package notify

// From the outbox to receivers.

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// message is a notice on its way.
type message struct {
	ID        uuid.UUID
	Recipient string
	Thread    string // Slack: the message that this one answers; empty for none
	Content   *Content
	Lost      bool // an attempt before this one may have been taken
}

// sender gives notices to a receiver. Its errors are *failure.
type sender interface {
	// send returns how the receiver calls what it took.
	send(ctx context.Context, m *message) (receipt string, err error)
	// find looks whether the receiver took a notice before; the receipt is empty when it did not, or cannot be asked.
	find(ctx context.Context, m *message) (receipt string, err error)
}

// failure says why a receiver did not take a notice, and what that means for it and for others.
type failure struct {
	message string // a sentence, for people
	// medium says that no other notice would do better: everything waits, and one is tried.
	medium bool
	// final says that the same notice will never be taken.
	final bool
	// unsure says that it may have been taken all the same.
	unsure bool
	// after is when the receiver asked to be tried again.
	after time.Duration
	cause error
}

func (f *failure) Error() string { return f.message }

func (f *failure) Unwrap() error { return f.cause }

const (
	selectMedium = `
select paused_until > now() as paused, greatest(extract(epoch from paused_until - now()), 0)::float8 as seconds, failures
from (select case when paused_until < now() then now() else paused_until end as paused_until, failures from rgw.notice_media where medium = $1) m`

	// The first of each lane that is due. A lane's later notices wait for it, also while another process has it.
	claimNotices = `
with due as (
  select o.number, o.attempt_id is not null or o.unsure as lost
  from rgw.notices o
  where o.medium = $1 and o.state = 'waiting' and o.next_at <= now()
    and not exists (select from rgw.notices p where p.lane = o.lane and p.state = 'waiting' and p.number < o.number)
  order by o.next_at, o.number limit $2
  for update skip locked)
update rgw.notices n set attempt_id = gen_random_uuid(), attempts = n.attempts + 1, next_at = now() + $3 * interval '1 second'
from due where n.number = due.number
returning n.number, n.notice_id, n.recipient, n.lane, n.thread, n.content, n.attempts, n.attempt_id, due.lost, n.leaf_index`

	selectThread = `
select receipt from rgw.notices
where thread = $1 and recipient = $2 and number < $3 and medium = 'slack' and state = 'sent' order by number limit 1`

	nextDue = `
select greatest(extract(epoch from min(next_at) - now()), 0)::float8 from rgw.notices where medium = $1 and state = 'waiting'`
)

// claim is a notice that this process is to deliver.
type claim struct {
	Number    int64     `db:"number"`
	ID        uuid.UUID `db:"notice_id"`
	Recipient string    `db:"recipient"`
	Lane      string    `db:"lane"`
	Thread    string    `db:"thread"`
	Text      []byte    `db:"content"`
	Attempts  int       `db:"attempts"`
	Attempt   uuid.UUID `db:"attempt_id"`
	Lost      bool      `db:"lost"`
	Leaf      int64     `db:"leaf_index"`
}

// deliver sends what is due by one medium, several at once, until ctx ends. Attempts under way are finished.
func (s *Service) deliver(ctx context.Context, medium string, width int) error {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, width)
	for range width {
		free <- struct{}{}
	}
	for ctx.Err() == nil {
		<-free
		slots := 1
		for slots < width {
			select {
			case <-free:
				slots++
				continue
			default:
			}
			break
		}
		claims, pause, err := s.claim(ctx, medium, slots)
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "no notices could be claimed; it is tried again", "medium", medium, "error", err)
		}
		for i := range claims {
			running.Go(func() {
				defer func() { free <- struct{}{} }()
				// A claim that was made is seen through: to stop in the middle would leave it to be found out about later.
				seen, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Limits.Lease*3/4)
				defer cancel()
				s.attempt(seen, medium, &claims[i])
			})
		}
		for range slots - len(claims) {
			free <- struct{}{}
		}
		if len(claims) > 0 {
			continue
		}
		wait := time.NewTimer(min(pause, s.Limits.Poll) + rand.N(s.Limits.Poll/10+1)) // #nosec G404 -- several processes need not ask at once
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-s.wake[medium]:
		}
		wait.Stop()
	}
	return ctx.Err()
}

// configured reports whether there is anything to send by.
func (s *Service) configured(ctx context.Context, medium string) (sender, error) {
	if medium == mediumMail {
		return s.mail, nil
	}
	ready, err := s.slack.ready(ctx)
	if err != nil || !ready {
		return nil, err
	}
	return s.slack, nil
}

// claim takes notices that are due. The pause is how long to wait when there is none.
func (s *Service) claim(ctx context.Context, medium string, most int) (claims []claim, pause time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	by, err := s.configured(ctx, medium)
	if err != nil || by == nil {
		return nil, s.Limits.Poll, err
	}
	var state struct {
		Paused   bool    `db:"paused"`
		Seconds  float64 `db:"seconds"`
		Failures int     `db:"failures"`
	}
	if err := s.DB.GetContext(ctx, &state, selectMedium, medium); err != nil {
		return nil, 0, wrap("how a medium does", err)
	}
	if state.Paused {
		return nil, time.Duration(state.Seconds * float64(time.Second)), nil
	}
	if state.Failures > 0 {
		most = 1
	} else if err := s.gather(ctx, medium); err != nil {
		return nil, 0, err
	}
	if err := s.step("before the claim"); err != nil {
		return nil, 0, err
	}
	if err := s.DB.SelectContext(ctx, &claims, claimNotices, medium, most, s.Limits.Lease.Seconds()); err != nil {
		return nil, 0, wrap("claim notices", err)
	}
	if len(claims) > 0 {
		if err := s.step("after the claim"); err != nil {
			return nil, 0, err
		}
		return claims, 0, nil
	}
	var seconds *float64
	if err := s.DB.GetContext(ctx, &seconds, nextDue, medium); err != nil {
		return nil, 0, wrap("when the next notice is due", err)
	}
	if seconds == nil {
		return nil, s.Limits.Poll, nil
	}
	return nil, max(time.Duration(*seconds*float64(time.Second)), 5*time.Millisecond), nil
}

// errStopped says that a test has this process die in the middle of an attempt: nothing of it is noted.
var errStopped = errors.New("stopped")

// attempt tries one notice and keeps what came of it.
func (s *Service) attempt(ctx context.Context, medium string, c *claim) {
	receipt, err := s.try(ctx, medium, c)
	if errors.Is(err, errStopped) {
		return
	}
	place := 0
	if medium == mediumSlack {
		place = 1
	}
	if err == nil {
		s.sent[place].Add(1)
	} else {
		s.failed[place].Add(1)
	}
	if stop := s.step("after the receiver"); stop != nil {
		return
	}
	// What was taken must be noted, however long it took: or it is sent again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for {
		kept := s.keep(ctx, medium, c, receipt, err)
		if kept == nil || ctx.Err() != nil {
			if kept != nil {
				s.Log.ErrorContext(ctx, "what came of a notice could not be noted: it is found out about when its lease ends", "notice", c.ID, "error", kept)
			}
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (s *Service) try(ctx context.Context, medium string, c *claim) (string, error) {
	by, err := s.configured(ctx, medium)
	if err != nil {
		return "", &failure{message: "the database did not say how to send it", medium: true, cause: err}
	}
	if by == nil {
		return "", &failure{message: "it is not configured any more", medium: true}
	}
	m := &message{ID: c.ID, Recipient: c.Recipient, Content: new(Content), Lost: c.Lost}
	if err := json.Unmarshal(c.Text, m.Content); err != nil {
		return "", &failure{message: "what it says cannot be read: " + err.Error(), final: true}
	}
	if c.Lost {
		receipt, err := by.find(ctx, m)
		if receipt != "" || err != nil {
			return receipt, err
		}
	}
	if medium == mediumSlack && c.Leaf >= 0 {
		var threads []string
		if err := s.DB.SelectContext(ctx, &threads, selectThread, c.Thread, c.Recipient, c.Number); err != nil {
			return "", &failure{message: "the database did not say which thread it belongs to", cause: err}
		}
		if len(threads) > 0 {
			m.Thread = threads[0]
		}
	}
	if err := s.step("before the receiver"); err != nil {
		return "", errStopped
	}
	return by.send(ctx, m)
}

const (
	keepSent = `
update rgw.notices set state = 'sent', receipt = $3, attempt_id = null, unsure = false, trouble = '', ended_at = now()
where number = $1 and attempt_id = $2`

	keepMediumWorks = `
update rgw.notice_media set failures = 0, paused_until = '-infinity', succeeded_at = now()
where medium = $1 and (failures > 0 or succeeded_at is null or succeeded_at < now() - interval '5 seconds')`

	paceLane = `
update rgw.notices set next_at = greatest(next_at, now() + $2 * interval '1 second')
where number = (select min(number) from rgw.notices where lane = $1 and state = 'waiting')`

	keepFailed = `
update rgw.notices set attempt_id = null, unsure = unsure or $4, trouble = $3, next_at = now() + $5 * interval '1 second',
  state = case when $6 then 'dead' else 'waiting' end, ended_at = case when $6 then now() end
where number = $1 and attempt_id = $2`

	keepMediumFails = `
update rgw.notice_media set failures = failures + 1, trouble = $2, failed_at = now(),
  paused_until = greatest(paused_until, now() + $3 * interval '1 second') where medium = $1 returning failures`

	selectFailures = `select failures from rgw.notice_media where medium = $1`
)

// keep notes what came of an attempt.
func (s *Service) keep(ctx context.Context, medium string, c *claim, receipt string, failed error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tx, err := s.DB.BeginTxx(ctx, nil)
	if err != nil {
		return wrap("begin", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if failed == nil {
		err = s.keepTaken(ctx, tx, medium, c, receipt)
	} else {
		err = s.keepFailure(ctx, tx, medium, c, failed)
	}
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return wrap("commit what came of a notice", err)
	}
	return s.step("after the note")
}

func (s *Service) keepTaken(ctx context.Context, tx *sqlx.Tx, medium string, c *claim, receipt string) error {
	result, err := tx.ExecContext(ctx, keepSent, c.Number, c.Attempt, receipt)
	if err != nil {
		return wrap("note that a notice was sent", err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		s.Log.WarnContext(ctx, "a notice was sent after its lease had ended: it may have been sent twice", "notice", c.ID)
	}
	if _, err := tx.ExecContext(ctx, keepMediumWorks, medium); err != nil {
		return wrap("note that a medium works", err)
	}
	if medium == mediumSlack {
		if _, err := tx.ExecContext(ctx, paceLane, c.Lane, s.Limits.SlackPace.Seconds()); err != nil {
			return wrap("space messages", err)
		}
	}
	return nil
}

func (s *Service) keepFailure(ctx context.Context, tx *sqlx.Tx, medium string, c *claim, failed error) error {
	var f *failure
	if !errors.As(failed, &f) {
		f = &failure{message: failed.Error(), unsure: true}
	}
	pause := f.after
	if f.medium {
		var failures int
		if err := tx.GetContext(ctx, &failures, selectFailures, medium); err != nil {
			return wrap("how a medium does", err)
		}
		if pause == 0 {
			pause = s.backoff(failures + 1)
		}
		if err := tx.GetContext(ctx, &failures, keepMediumFails, medium, short(f.message), pause.Seconds()); err != nil {
			return wrap("note that a medium fails", err)
		}
		if failures == 1 {
			s.Log.WarnContext(ctx, "notices wait, because their receiver cannot be reached", "medium", medium, "why", f.message, "cause", f.cause, "pause", pause)
		}
	} else if pause == 0 {
		pause = s.backoff(c.Attempts)
	}
	if f.final {
		s.Log.WarnContext(ctx, "a notice was given up", "notice", c.ID, "medium", medium, "why", f.message)
	}
	_, err := tx.ExecContext(ctx, keepFailed, c.Number, c.Attempt, short(f.message), f.unsure, pause.Seconds(), f.final)
	return wrap("note that a notice was not sent", err)
}

// backoff is the pause after so many failures: doubled by each, with jitter of a half to one and a half.
func (s *Service) backoff(failures int) time.Duration {
	pause := s.Limits.Backoff
	for range min(failures-1, 20) {
		if pause *= 2; pause >= s.Limits.BackoffMax {
			pause = s.Limits.BackoffMax
			break
		}
	}
	return pause/2 + rand.N(pause) // #nosec G404 -- chance, not a secret
}
