package main

import (
	"context"
	"fmt"
	"log/slog"

	"rackgateway/pkg/postgres"
)

type migrateCmd struct{}

func (migrateCmd) Help() string {
	return `Safe to run at any time, by several at once, and while the previous version still runs. It uses ADMIN_DATABASE_URL, the schema's owner, or DATABASE_URL where that is not set, and needs no audit key.`
}

func (c *migrateCmd) Run(ctx context.Context, p *process) error {
	cfg, err := p.configuration(keyVariable, databaseVariable)
	if err == nil && cfg.Database.OwnerURL.IsZero() {
		_, err = p.configuration(keyVariable) // which names what is missing
	}
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.OwnerURL, cfg.Database.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := postgres.Migrate(ctx, db, slog.New(slog.NewTextHandler(p.stderr, nil))); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "The database is up to date.")
	return nil
}
