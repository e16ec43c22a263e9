package notify

// What no request does and time alone brings about: it is made an event first, and told like any other.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
)

// Actions of events that this package records.
const (
	actionExpiresSoon = "token.expires_soon" // a token expires within a week
	actionExpired     = "token.expired"      // a token's time is over
	actionTrouble     = "gateway.trouble"    // admin lost touch with its database for a while
)

// soon is how long before its end a token's owner is told.
const soon = 7 * 24 * time.Hour

const selectExpiring = `
select t.id, t.name, t.expires_at, o.email as owner, m.what as mark, m.subject
from rgw.tokens t join rgw.users o on o.id = t.owner_id
cross join lateral (select case when t.expires_at <= now() then 'token.expired' else 'token.expires_soon' end as what,
  t.id || ' ' || floor(extract(epoch from t.expires_at)) as subject) m
where t.revoked_at is null and o.removed_at is null and t.expires_at between now() - interval '1 day' and now() + $1 * interval '1 second'
  -- Who made a token for less than the week knows when it ends.
  and (t.expires_at <= now() or t.expires_at - t.created_at > $1 * interval '1 second')
  and not exists (select from rgw.notice_marks k where k.what = m.what and k.subject = m.subject)
order by t.expires_at limit 200`

const insertMark = `
insert into rgw.notice_marks (what, subject) values ($1, $2) on conflict do nothing`

// errMarked says that another process was first.
var errMarked = errors.New("noted already")

// noteExpiries records an event for each token that expires soon or has expired, once.
func (s *Service) noteExpiries(ctx context.Context) error {
	for {
		var rows []struct {
			ID      uuid.UUID `db:"id"`
			Name    string    `db:"name"`
			Expires time.Time `db:"expires_at"`
			Owner   string    `db:"owner"`
			Mark    string    `db:"mark"`
			Subject string    `db:"subject"`
		}
		if err := s.DB.SelectContext(ctx, &rows, selectExpiring, soon.Seconds()); err != nil {
			return fmt.Errorf("find tokens that expire: %w", err)
		}
		for _, row := range rows {
			e := s.event(row.Mark, row.Name)
			e.Detail.Params.Add("id", row.ID.String())
			e.Detail.Params.Add("owner", row.Owner)
			e.Detail.Params.Add("expires", row.Expires.UTC().Format(time.RFC3339))
			err := audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
				result, err := tx.ExecContext(ctx, insertMark, row.Mark, row.Subject)
				if err != nil {
					return fmt.Errorf("note that a token expires: %w", err)
				}
				if n, err := result.RowsAffected(); err != nil || n == 0 {
					return errors.Join(err, errMarked)
				}
				return nil
			})
			if err != nil && !errors.Is(err, errMarked) {
				return err
			}
		}
		if len(rows) < 200 {
			return nil
		}
	}
}

// event is one of the service's own.
func (s *Service) event(action, resource string) *audit.Event {
	e := audit.NewEvent(s.Now())
	e.Kind, e.ActorKind, e.ActorID, e.ActorLabel = audit.KindSystem, audit.ActorSystem, "notices", "notices"
	e.Action, e.Resource = action, resource
	return e
}

// troublePatience is how long admin may be out of touch with its database before that is worth a notice.
const troublePatience = 30 * time.Second

// watch looks every few seconds whether admin hears its database, and records it afterwards when it did not for long:
// while it does not, nothing can be recorded.
func (s *Service) watch(ctx context.Context) error {
	if s.Healthy == nil {
		return nil
	}
	every := time.NewTicker(2 * time.Second)
	defer every.Stop()
	var w watcher
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		}
		if err := w.look(ctx, s); err != nil {
			s.Log.WarnContext(ctx, "trouble that is over could not be recorded; it is tried again", "error", err)
		}
	}
}

// watcher remembers trouble that is not over.
type watcher struct {
	since time.Time // zero while there is none
	until time.Time // when it was over; zero while it is not
	what  string
}

// look looks once. Trouble that came back before it could be recorded that it was over is one with it.
func (w *watcher) look(ctx context.Context, s *Service) error {
	if trouble := s.Healthy(); trouble != "" {
		if w.since.IsZero() {
			w.since = s.Now()
		}
		w.what, w.until = trouble, time.Time{}
		return nil
	}
	if w.since.IsZero() {
		return nil
	}
	if w.until.IsZero() {
		w.until = s.Now()
	}
	if lasted := w.until.Sub(w.since); lasted >= troublePatience {
		e := s.event(actionTrouble, "database")
		e.Detail.Error = fmt.Sprintf("For %s until %s: %s. It works again.", lasted.Round(time.Second), w.until.UTC().Format("15:04:05 UTC"), w.what)
		e.Detail.Params.Add("seconds", fmt.Sprint(int(lasted.Seconds())))
		if err := audit.Change(ctx, s.DB, s.Key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
	}
	*w = watcher{}
	return nil
}
