package postgres_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestATrialOfTheMigrationsChangesNothing(t *testing.T) {
	db := postgrestest.New(t)
	name := strings.ToLower(t.Name())
	if err := db.Cluster.CreateDatabase(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Cluster.DropDatabase(context.Background(), name) })
	owner := postgrestest.Open(t, postgres.URL(db.Cluster.URL(cluster.Owner, name)))
	schemas := func() (n int) {
		if err := owner.Get(&n, `select count(*) from pg_namespace where nspname = 'rgw'`); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tried, err := postgres.TryMigrate(t.Context(), owner)
	if err != nil || len(tried) < 7 || schemas() != 0 {
		t.Errorf("tried %d steps in an empty database, and left %d schemas: %v", len(tried), schemas(), err)
	}

	first, err := postgres.MigrateStep(t.Context(), owner)
	if err != nil || !strings.HasPrefix(first, "0001") {
		t.Fatalf("%q %v", first, err)
	}
	if again, err := postgres.TryMigrate(t.Context(), owner); err != nil || len(again) != len(tried)-1 {
		t.Errorf("with one step applied it tried %d (%v)", len(again), err)
	}
	// What stands in the way is found, and named.
	owner.MustExec(`create table rgw.audit_events ()`)
	if _, err := postgres.TryMigrate(t.Context(), owner); err == nil || !strings.Contains(err.Error(), "0002_audit.sql does not fit this database") {
		t.Errorf("got %v", err)
	}
	owner.MustExec(`drop table rgw.audit_events`)
	if err := postgres.Migrate(t.Context(), owner, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if none, err := postgres.TryMigrate(t.Context(), owner); err != nil || len(none) != 0 {
		t.Errorf("in a database that has them all it tried %d (%v)", len(none), err)
	}
	if step, err := postgres.MigrateStep(t.Context(), owner); err != nil || step != "" {
		t.Errorf("%q %v", step, err)
	}
}
