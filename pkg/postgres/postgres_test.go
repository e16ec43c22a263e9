package postgres_test

import (
	"testing"

	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func TestOpen(t *testing.T) {
	db := postgrestest.New(t)
	var n int
	if err := db.Proxy(t).Get(&n, `select count(*) from rgw.users`); err != nil {
		t.Fatal(err)
	}
}
