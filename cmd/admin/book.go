package main

import (
	"context"
	"fmt"
	"log/slog"
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
	shown     *ledger.Book // as the API has it
}

// newBook wires the ledger.
func newBook(cfg *config.Admin, db *sqlx.DB, key audit.Key, keys seal.Keys, log *slog.Logger, metrics *metrics) (*book, error) {
	macs, err := auditKeys(cfg)
	if err != nil {
		return nil, err
	}
	b := &book{
		sequencer: ledger.NewSequencer(ledger.SequencerConfig{
			DB: db, Keys: signingKeys(cfg, keys), MACKey: key, MACKeys: macs[1:], Log: log,
			Alerted: func(alert *ledger.Alert) { metrics.alerts.WithLabelValues(alert.Code).Add(float64(alert.Count)) },
		}),
		follower: ledger.NewFollower(db, log),
	}
	b.shown = &ledger.Book{
		DB: db, Key: key, Follower: b.follower, State: b.sequencer.State, RetentionDays: cfg.Ledger.RetentionDays,
		StartVerification: func() {},
	}
	return b, nil
}

// start starts what runs beside requests.
func (b *book) start(start func(name string, run func(context.Context) error)) {
	start("sequencer", b.sequencer.Run)
	start("follower", b.follower.Run)
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
