package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	schema "rackgateway/sql"
)

// PartitionsAhead is how many months beyond the present one have their partition of audit events.
const PartitionsAhead = 12

const (
	lockMigrations   = `select pg_advisory_lock(7220417002)`
	unlockMigrations = `select pg_advisory_unlock(7220417002)`
	createSchema     = `create schema if not exists rgw`
	ensurePartitions = `select rgw.ensure_event_partitions($1)`
	checkVersion     = `select current_setting('server_version_num')::integer`
	createVersions   = `
create table if not exists rgw.schema_migrations (id integer, version_id bigint, is_applied boolean, tstamp timestamp)`
	checkRoles = `
select count(*) = 2 as present,
       (select rolcreaterole or rolsuper from pg_roles where rolname = current_user) as may_create
from pg_roles where rolname in ('rgw_proxy', 'rgw_admin')`
)

// Migrate brings the schema up to date, sets the roles' rights, and makes the partitions of the coming
// months. It must run as the schema's owner. Several may run at once: they take turns. The roles' rights
// are set every time, in one transaction, so that nobody who is connected sees them missing.
func Migrate(ctx context.Context, db *sqlx.DB, logger *slog.Logger) (err error) {
	var version int
	if err := db.GetContext(ctx, &version, checkVersion); err != nil {
		return fmt.Errorf("version of the database: %w", err)
	}
	if version < 140000 {
		return fmt.Errorf("the database is PostgreSQL %d, and 14 or newer is needed", version/10000)
	}
	var roles struct {
		Present   bool `db:"present"`
		MayCreate bool `db:"may_create"`
	}
	if err := db.GetContext(ctx, &roles, checkRoles); err != nil {
		return fmt.Errorf("roles of the database: %w", err)
	}
	if !roles.Present && !roles.MayCreate {
		return errors.New("the database lacks the roles rgw_proxy and rgw_admin, and this user may not create roles: " +
			"run the migration as a user with CREATEROLE, or have an administrator run " +
			"create role rgw_proxy nologin; create role rgw_admin nologin")
	}

	// The lock lives on a connection of its own, so that it is let go when this process dies.
	lock, err := db.Connx(ctx)
	if err != nil {
		return fmt.Errorf("connection for the migration lock: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := lock.ExecContext(ctx, lockMigrations); err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	defer func() {
		if _, unlock := lock.ExecContext(context.WithoutCancel(ctx), unlockMigrations); unlock != nil && err == nil {
			err = fmt.Errorf("migration unlock: %w", unlock)
		}
	}()

	if _, err := db.ExecContext(ctx, createSchema); err != nil {
		return fmt.Errorf("create the schema: %w", err)
	}
	provider, err := migrations(db)
	if err != nil {
		return err
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, m := range done {
		logger.InfoContext(ctx, "migrated the schema", "migration", m.Source.Path, "took", m.Duration)
	}
	if _, err := db.ExecContext(ctx, schema.Roles); err != nil {
		return fmt.Errorf("set the rights of the database roles: %w", err)
	}
	return EnsurePartitions(ctx, db)
}

// migrations are the steps, ready to be applied.
func migrations(db *sqlx.DB) (*goose.Provider, error) {
	store, err := database.NewStore(database.DialectPostgres, "rgw.schema_migrations")
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(schema.Migrations, "migrations")
	if err != nil {
		return nil, err
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db.DB, files, goose.WithStore(store), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	return provider, nil
}

// MigrateStep applies the next step of the schema alone, and leaves rights and partitions as they are: so tests see each
// step come while a gateway runs. It returns the step's file, "" when there was none left.
func MigrateStep(ctx context.Context, db *sqlx.DB) (string, error) {
	if _, err := db.ExecContext(ctx, createSchema); err != nil {
		return "", fmt.Errorf("create the schema: %w", err)
	}
	provider, err := migrations(db)
	if err != nil {
		return "", err
	}
	step, err := provider.UpByOne(ctx)
	if errors.Is(err, goose.ErrNoNextVersion) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("migrate: %w", err)
	}
	return path.Base(step.Source.Path), nil
}

// Tried is a step that TryMigrate tried.
type Tried struct {
	Name string        // of its file
	Took time.Duration // without the commit
}

// tryPatience is how long a trial waits for a lock that somebody else holds, and so how long others may wait for its own.
const tryPatience = `set local lock_timeout = '3s'`

// TryMigrate applies what Migrate would, in one transaction, and rolls it back: so it is known to fit the database as it
// is. Meanwhile others wait for what the steps lock, as they would in earnest. The error is of the first step that does
// not fit.
func TryMigrate(ctx context.Context, db *sqlx.DB) (tried []Tried, err error) {
	steps, err := MigrationStatus(ctx, db)
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	for _, statement := range []string{tryPatience, createSchema, createVersions} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return nil, fmt.Errorf("prepare the trial: %w", err)
		}
	}
	for _, step := range steps {
		if step.AppliedAt != nil {
			continue
		}
		text, err := fs.ReadFile(schema.Migrations, "migrations/"+step.Name)
		if err != nil {
			return tried, fmt.Errorf("read %s: %w", step.Name, err)
		}
		began := time.Now()
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return tried, fmt.Errorf("%s does not fit this database: %w", step.Name, err)
		}
		tried = append(tried, Tried{Name: step.Name, Took: time.Since(began)})
	}
	if _, err := tx.ExecContext(ctx, schema.Roles); err != nil {
		return tried, fmt.Errorf("the rights of the database roles cannot be set: %w", err)
	}
	return tried, nil
}

// EnsurePartitions makes the partitions of audit events for the coming months, where they are missing.
// Every process calls it daily.
func EnsurePartitions(ctx context.Context, db sqlx.QueryerContext) error {
	var made int
	if err := db.QueryRowxContext(ctx, ensurePartitions, PartitionsAhead).Scan(&made); err != nil {
		return fmt.Errorf("make partitions of audit events: %w", err)
	}
	return nil
}
