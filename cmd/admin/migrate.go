package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
)

type migrateCmd struct {
	Status bool `help:"Only show which steps the database has; the exit code is 1 when some are missing."`
}

func (migrateCmd) Help() string {
	return `Safe to run at any time, by several at once, and while the previous version still runs. It uses ADMIN_DATABASE_URL, the schema's owner, or DATABASE_URL where that is not set, and needs no audit key.`
}

// errBehind is the answer of --status when there is something to do.
var errBehind = errors.New("the database lacks steps of this version: run admin migrate")

func (c *migrateCmd) Run(ctx context.Context, p *process) (err error) {
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
	defer func() { err = errors.Join(err, db.Close()) }()
	if c.Status {
		return p.migrationStatus(ctx, db)
	}
	before, err := postgres.MigrationStatus(ctx, db)
	if err != nil {
		return err
	}
	if err := postgres.Migrate(ctx, db, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	for _, step := range before {
		if step.AppliedAt == nil {
			fmt.Fprintf(p.stdout, "Applied %s.\n", step.Name)
		}
	}
	fmt.Fprintln(p.stdout, "The schema, the rights of the database roles and the partitions of the record are up to date.")
	return nil
}

func (p *process) migrationStatus(ctx context.Context, db *sqlx.DB) error {
	steps, err := postgres.MigrationStatus(ctx, db)
	if err != nil {
		return err
	}
	t := newTable("STEP", "APPLIED")
	behind := false
	for _, step := range steps {
		behind = behind || step.AppliedAt == nil
		t.add(step.Name, when(step.AppliedAt, p.now()))
	}
	if err := t.write(p.stdout); err != nil || !behind {
		return err
	}
	return errBehind
}
