package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/secret"
)

// errUnreachable marks the failure to get a first connection to the database.
var errUnreachable = errors.New("no connection")

// The variables that commands differ in needing.
const (
	databaseVariable = "DATABASE_URL"
	keyVariable      = "AUDIT_MAC_KEY"
)

// configuration reads the environment, and complains only of what the command needs: a list needs no audit key.
func (p *process) configuration(unneeded ...string) (*config.Admin, error) {
	cfg, _, err := config.LoadAdmin(p.environ)
	var mistakes *config.MistakesError
	if !errors.As(err, &mistakes) {
		return cfg, err
	}
	left := slices.DeleteFunc(slices.Clone(mistakes.Mistakes), func(m config.Mistake) bool { return slices.Contains(unneeded, m.Name) })
	if len(left) == 0 {
		return cfg, nil
	}
	return nil, &config.MistakesError{Program: mistakes.Program, Mistakes: left}
}

// open connects to the database and makes sure that it answers.
func (p *process) open(ctx context.Context, url secret.Text, cfg config.Database) (*sqlx.DB, error) {
	db, err := postgres.Open(postgres.Config{
		URL: postgres.URL(url.Reveal()), Name: "rackgateway admin command",
		MaxOpen: 4, MaxIdle: 4, MaxLifetime: cfg.ConnMaxLifetime, MaxIdleTime: cfg.ConnMaxIdleTime,
	})
	if err != nil {
		return nil, err
	}
	ping, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := db.PingContext(ping); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errUnreachable, err), db.Close())
	}
	return db, nil
}

// reading runs fn with what answers questions.
func (p *process) reading(ctx context.Context, fn func(*directory.Reader) error) error {
	cfg, err := p.configuration(keyVariable)
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	err = fn(directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now}))
	return errors.Join(err, db.Close())
}

// writing runs fn with what makes changes, and the actor that the changes are recorded under.
func (p *process) writing(ctx context.Context, fn func(*directory.Writer, directory.Actor) error) error {
	cfg, err := p.configuration()
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		return fn(directory.NewWriter(db, key, directory.WriterOptions{Defaults: cfg.Settings.Defaults, Now: p.now}), by)
	})
}

// recording runs fn with what events are made with.
func (p *process) recording(ctx context.Context, fn func(*sqlx.DB, audit.Key, directory.Actor) error) error {
	cfg, err := p.configuration()
	if err != nil {
		return err
	}
	key, err := audit.NewKey([]byte(cfg.Audit.MACKey.Reveal()))
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	err = fn(db, key, directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: p.operator, Client: "command-line"})
	return errors.Join(err, db.Close())
}
