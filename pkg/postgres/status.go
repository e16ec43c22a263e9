package postgres

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"

	schema "rackgateway/sql"
)

// Migration is one step of the schema, as this program knows it and the database has it.
type Migration struct {
	Name      string     // of its file
	AppliedAt *time.Time // nil when the database does not have it yet
}

const selectMigrations = `
select version_id, max(tstamp) as applied_at from rgw.schema_migrations where is_applied group by version_id`

// MigrationStatus lists the steps of the schema in their order. It changes nothing, and a database without the
// schema is one that has none of them.
func MigrationStatus(ctx context.Context, db sqlx.QueryerContext) ([]Migration, error) {
	files, err := fs.Glob(schema.Migrations, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list the migrations: %w", err)
	}
	var rows []struct {
		Version   int64     `db:"version_id"`
		AppliedAt time.Time `db:"applied_at"`
	}
	err = sqlx.SelectContext(ctx, db, &rows, selectMigrations)
	if state := SQLState(err); err != nil && state != "42P01" && state != "3F000" { // undefined_table, invalid_schema_name
		return nil, fmt.Errorf("read the migrations that the database has: %w", err)
	}
	var list []Migration
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return nil, fmt.Errorf("number of migration %s: %w", file, err)
		}
		step := Migration{Name: path.Base(file)}
		for i := range rows {
			if rows[i].Version == version {
				step.AppliedAt = &rows[i].AppliedAt
			}
		}
		list = append(list, step)
	}
	return list, nil
}
