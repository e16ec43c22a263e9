package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
)

// KeeperConfig says what is done to the ledger now and then. Fields without a remark must be given.
type KeeperConfig struct {
	DB        *sqlx.DB // as the role of admin
	Key       audit.Key
	MACKeys   []audit.Key   // all of them
	Anchor    *Anchor       // nil when there is no bucket
	Retention time.Duration // of events in the database; 0 keeps them
	Log       *slog.Logger
	Now       func() time.Time
	Alerted   func(*Alert) // told of each alert; may be nil
}

// Keeper verifies the ledger at start and every hour, drops what retention lets go, and lengthens the protection of
// what has to live as long as the log. Any number may run: one works. It must be made by NewKeeper.
type Keeper struct {
	KeeperConfig

	now chan struct{}

	// Of the goroutine of Run.
	verified int64 // leaves of the bucket whose bytes were verified by this process
	whole    time.Time
	daily    time.Time
}

// NewKeeper returns a keeper, which works once Run runs.
func NewKeeper(config KeeperConfig) *Keeper {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Keeper{KeeperConfig: config, now: make(chan struct{}, 1)}
}

// Start has the ledger verified now.
func (k *Keeper) Start() {
	select {
	case k.now <- struct{}{}:
	default:
	}
}

const (
	tryKeeperLock      = `select pg_try_advisory_lock(7220417054)`
	insertVerification = `insert into rgw.ledger_verifications (what, size, sound, report) values ($1, $2, $3, $4)`
	selectOldMonths    = `
select to_date(right(c.relname, 6), 'YYYYMM') as month from pg_class c
where c.relnamespace = 'rgw'::regnamespace and c.relispartition and c.relname ~ '^audit_events_[0-9]{6}$'
  and to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' + make_interval(days => $1) <= now() at time zone 'UTC' order by 1`
	dropMonth = `select coalesce(rgw.drop_event_month($1::date, $2, $3), -1)`
)

const verifyEvery = time.Hour

// Run keeps the ledger until ctx ends, whenever it holds the lock.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := k.term(ctx); err != nil && ctx.Err() == nil {
			k.Log.WarnContext(ctx, "looking after the ledger was interrupted; it goes on", "error", err)
		}
		select {
		case <-time.After(anchorPoll):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// term is one time of holding the lock.
func (k *Keeper) term(ctx context.Context) error {
	conn, err := k.DB.Connx(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer discard(conn)
	var mine bool
	if err := conn.GetContext(ctx, &mine, tryKeeperLock); err != nil || !mine {
		return err
	}
	hourly := time.NewTicker(verifyEvery)
	defer hourly.Stop()
	full := true
	for {
		k.Verify(ctx, full)
		full = false
		if now := k.Now(); now.Sub(k.daily) >= 24*time.Hour {
			k.daily = now
			k.Drop(ctx)
			k.lengthen(ctx)
		}
		ping := time.NewTicker(anchorPoll)
	waiting:
		for {
			select {
			case <-hourly.C:
				break waiting
			case <-k.now:
				full = true
				break waiting
			case <-ping.C:
				if err := conn.PingContext(ctx); err != nil { // the lock is gone with it
					ping.Stop()
					return err
				}
			case <-ctx.Done():
				ping.Stop()
				return ctx.Err()
			}
		}
		ping.Stop()
	}
}

// Verify verifies the database, and the bucket where there is one: all of it with full, else what is new of the bucket's
// bytes, and all of its list. What was found is kept and recorded.
func (k *Keeper) Verify(ctx context.Context, full bool) {
	report, err := VerifyDatabase(ctx, k.DB, VerifyOptions{MACKeys: k.MACKeys, Now: k.Now})
	k.conclude(ctx, "database", report, err)
	if k.Anchor == nil || ctx.Err() != nil {
		return
	}
	keys, err := PublicKeys(ctx, k.DB)
	if err != nil {
		k.conclude(ctx, "bucket", nil, err)
		return
	}
	if full || k.Now().Sub(k.whole) > 24*time.Hour {
		k.verified, k.whole = 0, k.Now()
	}
	report, err = VerifySource(ctx, k.Anchor.Storage, SourceOptions{
		VerifyOptions: VerifyOptions{Keys: keys, Now: k.Now}, DB: k.DB, From: k.verified, Retention: k.Anchor.Retention,
	})
	k.conclude(ctx, "bucket", report, err)
	if err == nil && report.Sound() {
		k.verified = report.Size
	}
}

// conclude keeps and records what a verification found.
func (k *Keeper) conclude(ctx context.Context, what string, report *Report, failed error) {
	if ctx.Err() != nil {
		return
	}
	if failed != nil {
		k.Log.WarnContext(ctx, "the ledger could not be verified; it is tried again within the hour", "what", what, "error", failed)
		return
	}
	now := k.Now()
	e := systemEvent(now, ActionVerified)
	e.Resource = what
	e.Detail.Count = report.Events
	e.Detail.Params.Add("size", strconv.FormatInt(report.Size, 10))
	e.Detail.Params.Add("sound", strconv.FormatBool(report.Sound()))
	err := audit.Change(ctx, k.DB, k.Key, e, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, insertVerification, what, report.Size, report.Sound(), string(report.JSON())); err != nil {
			return err
		}
		first := report.First()
		if first == nil {
			return nil
		}
		alert := &Alert{Code: AlertVerify, Leaf: first.Leaf, Event: first.Event, Count: int64(len(report.Findings)),
			Message: "verification of the " + what + " found: " + first.Kind + ": " + first.Message}
		k.Log.ErrorContext(ctx, "the ledger does not verify", "what", what, "finding", first.Kind, "message", first.Message)
		if k.Alerted != nil {
			k.Alerted(alert)
		}
		return audit.InsertTx(ctx, tx, k.Key, alert.event(now))
	})
	if err != nil {
		k.Log.WarnContext(ctx, "what verification found could not be recorded", "what", what, "error", err)
	}
}

// Drop drops the months that retention lets go: older, in the ledger, in the bucket, and not on hold.
func (k *Keeper) Drop(ctx context.Context) {
	if k.Retention <= 0 || k.Anchor == nil {
		return
	}
	days := int(k.Retention / (24 * time.Hour))
	var months []time.Time
	if err := k.DB.SelectContext(ctx, &months, selectOldMonths, days); err != nil {
		k.Log.WarnContext(ctx, "months that retention lets go could not be listed", "error", err)
		return
	}
	for _, month := range months {
		e := systemEvent(k.Now(), ActionDropped)
		e.Resource = month.Format("2006-01")
		err := audit.Change(ctx, k.DB, k.Key, e, func(tx *sqlx.Tx) error {
			return tx.GetContext(ctx, &e.Detail.Count, dropMonth, month.Format(time.DateOnly), days, k.Anchor.Chain)
		})
		switch {
		case err == nil:
			k.Log.InfoContext(ctx, "retention dropped a month of events", "month", e.Resource, "events", e.Detail.Count)
		case postgres.SQLState(err) == "55000": // object_not_in_prerequisite_state: it says why
			k.Log.InfoContext(ctx, "retention keeps a month of events", "month", e.Resource, "because", err)
		default:
			k.Log.WarnContext(ctx, "retention could not drop a month of events", "month", e.Resource, "error", err)
		}
	}
}

// lengthen protects tiles in the bucket for longer.
func (k *Keeper) lengthen(ctx context.Context) {
	if k.Anchor == nil {
		return
	}
	if n, err := k.Anchor.Lengthen(ctx); err != nil && ctx.Err() == nil {
		k.Log.WarnContext(ctx, "the protection of tiles in the bucket could not be lengthened; it is tried again tomorrow", "lengthened", n, "error", err)
	}
}
