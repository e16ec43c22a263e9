package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/postgres"
)

type migrateCmd struct {
	output
	Status bool `help:"Only show which steps the database has; the exit code is 1 when some are missing." xor:"how"`
	DryRun bool `help:"Only try the steps that are missing, in a transaction that is rolled back. Others wait for what it locks, for as long as in earnest." xor:"how"`
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
		return c.status(ctx, p, db)
	}
	if c.DryRun {
		return c.try(ctx, p, db)
	}
	before, err := postgres.MigrationStatus(ctx, db)
	if err != nil {
		return err
	}
	if err := postgres.Migrate(ctx, db, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	applied := []string{}
	var text strings.Builder
	for _, step := range before {
		if step.AppliedAt == nil {
			applied = append(applied, step.Name)
			fmt.Fprintf(&text, "Applied %s.\n", step.Name)
		}
	}
	text.WriteString("The schema, the rights of the database roles and the partitions of the record are up to date.\n")
	return c.say(p, map[string][]string{"applied": applied}, "%s", text.String())
}

// try tells what the steps would do.
func (c *migrateCmd) try(ctx context.Context, p *process, db *sqlx.DB) error {
	tried, err := postgres.TryMigrate(ctx, db)
	if err != nil {
		return err
	}
	names := []string{}
	var text strings.Builder
	for _, step := range tried {
		names = append(names, step.Name)
		fmt.Fprintf(&text, "%s fits this database.\n", step.Name)
	}
	fmt.Fprintf(&text, "Nothing was changed. admin migrate would apply %d steps.\n", len(tried))
	return c.say(p, map[string][]string{"would_apply": names}, "%s", text.String())
}

// stepView is a step as --json shows one.
type stepView struct {
	Step      string     `json:"step"`
	AppliedAt *time.Time `json:"applied_at"`
}

func (c *migrateCmd) status(ctx context.Context, p *process, db *sqlx.DB) error {
	steps, err := postgres.MigrationStatus(ctx, db)
	if err != nil {
		return err
	}
	t := newTable("STEP", "APPLIED")
	behind := false
	views := []stepView{}
	for _, step := range steps {
		behind = behind || step.AppliedAt == nil
		views = append(views, stepView{step.Name, step.AppliedAt})
		t.add(step.Name, when(step.AppliedAt, p.now()))
	}
	if c.JSON {
		err = writeJSON(p.stdout, views)
	} else {
		err = t.write(p.stdout)
	}
	if err != nil || !behind {
		return err
	}
	return errBehind
}
