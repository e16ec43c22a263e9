package audit_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func testKey(t testing.TB) audit.Key {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	key, err := audit.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRecord(t *testing.T) {
	db := postgrestest.New(t)
	w := audit.NewWriter(db.Proxy(t), audit.WriterOptions{Key: testKey(t)})
	go w.Run(context.Background())
	e := audit.NewEvent(time.Now())
	e.Action = "app.list"
	if err := w.Record(context.Background(), e); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	events, _, err := audit.List(context.Background(), db.Admin(t), audit.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		t.Logf("%s", e.AppendCanonical(nil))
	}
	if len(events) != 2 {
		t.Fatal(len(events))
	}
}
