package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/seal"
)

// book is the part of admin that keeps the ledger.
type book struct {
	sequencer *ledger.Sequencer
	follower  *ledger.Follower
	keeper    *ledger.Keeper
	anchor    *ledger.Anchor // nil without a bucket
	pusher    *ledger.Pusher // nil without an address
	shown     *ledger.Book   // as the API has it
}

// newBook wires the ledger.
func newBook(ctx context.Context, cfg *config.Admin, db *sqlx.DB, key audit.Key, keys seal.Keys, log *slog.Logger, metrics *metrics) (*book, error) {
	macs, err := auditKeys(cfg)
	if err != nil {
		return nil, err
	}
	alerted := func(alert *ledger.Alert) { metrics.alerts.WithLabelValues(alert.Code).Add(float64(alert.Count)) }
	b := &book{follower: ledger.NewFollower(db, log)}
	b.shown = &ledger.Book{DB: db, Key: key, Follower: b.follower, RetentionDays: cfg.Ledger.RetentionDays}
	sequencing := ledger.SequencerConfig{DB: db, Keys: signingKeys(cfg, keys), MACKey: key, MACKeys: macs[1:], Log: log, Alerted: alerted}
	if cfg.Ledger.AnchorBucket != "" {
		bucket, err := openBucket(ctx, cfg)
		if err != nil {
			return nil, err
		}
		b.anchor = ledger.NewAnchor(ledger.AnchorConfig{
			DB: db, Storage: bucket, Chain: bucket.ID(), Key: key, Interval: time.Duration(cfg.Ledger.AnchorMinutes) * time.Minute,
			Retention: days(cfg.Ledger.AnchorRetention), Log: log, Alerted: alerted,
		})
		sequencing.Anchored = b.anchor.Newest
		b.shown.Chain, b.shown.StartAnchor = bucket.ID(), b.anchor.Start
	}
	if cfg.Ledger.PushURL != "" {
		transport, err := transportTrusting(cfg.Ledger.PushCAFile)
		if err != nil {
			return nil, fmt.Errorf("AUDIT_PUSH_CA_FILE: %w", err)
		}
		transport.Proxy = http.ProxyFromEnvironment
		b.pusher = ledger.NewPusher(ledger.PushConfig{
			DB: db, Follower: b.follower, URL: cfg.Ledger.PushURL, Secret: cfg.Ledger.PushSecret, Token: cfg.Ledger.PushToken,
			Client: &http.Client{Transport: transport, Timeout: 30 * time.Second}, Key: key, Log: log, Alerted: alerted,
		})
		if u, err := url.Parse(cfg.Ledger.PushURL); err == nil { // what stands behind the path may be a key of the receiver's
			b.shown.PushURL = u.Scheme + "://" + u.Host + u.EscapedPath()
		}
	}
	b.sequencer = ledger.NewSequencer(sequencing)
	b.keeper = ledger.NewKeeper(ledger.KeeperConfig{DB: db, Key: key, MACKeys: macs, Anchor: b.anchor, Retention: days(cfg.Ledger.RetentionDays), Log: log, Alerted: alerted})
	b.shown.State, b.shown.StartVerification = b.sequencer.State, b.keeper.Start
	return b, nil
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// openBucket returns the bucket that the configuration names.
func openBucket(ctx context.Context, cfg *config.Admin) (*ledger.Bucket, error) {
	return ledger.OpenBucket(ctx, ledger.BucketConfig{
		Bucket: cfg.Ledger.AnchorBucket, Chain: cfg.Ledger.AnchorChain, Mode: cfg.Ledger.AnchorMode, KMSKey: cfg.Ledger.AnchorKMSKey, PathStyle: cfg.Ledger.AnchorPathStyle,
	})
}

// start starts what runs beside requests.
func (b *book) start(start func(name string, run func(context.Context) error)) {
	start("sequencer", b.sequencer.Run)
	start("follower", b.follower.Run)
	start("keeper", b.keeper.Run)
	if b.anchor != nil {
		start("anchor", b.anchor.Run)
	}
	if b.pusher != nil {
		start("push", b.pusher.Run)
	}
}

// lagPatience is how long events may be without a place before readiness says so.
const lagPatience = time.Minute

// check says how the ledger does, for readiness.
func (b *book) check(context.Context) (ok bool, detail string) {
	state := b.sequencer.State()
	switch {
	case state.Trouble != "":
		return false, state.Trouble
	case state.Lag > lagPatience:
		return false, fmt.Sprintf("events have waited for their place in the ledger for %s: a transaction in the database may have been open for as long", state.Lag.Round(time.Second))
	}
	return true, ""
}

// auditKeys are the keys that events are authenticated with, the present one first.
func auditKeys(cfg *config.Admin) ([]audit.Key, error) {
	key, err := audit.NewKey([]byte(cfg.Audit.MACKey.Reveal()))
	if err != nil {
		return nil, err
	}
	list := []audit.Key{key}
	if !cfg.Audit.MACKeyPrevious.IsZero() {
		previous, err := audit.NewKey([]byte(cfg.Audit.MACKeyPrevious.Reveal()))
		if err != nil {
			return nil, err
		}
		list = append(list, previous)
	}
	return list, nil
}

// signingKeys says where the ledger's signing keys come from.
func signingKeys(cfg *config.Admin, keys seal.Keys) ledger.KeySource {
	return ledger.KeySource{
		Origin: cfg.Origin(), Given: cfg.Ledger.SigningKey, Previous: cfg.Ledger.SigningKeyPrevious, Box: keys.Box(ledger.SealPurpose),
	}
}
