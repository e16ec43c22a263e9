package audit_test

import (
	"errors"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

// Whatever somebody writes as a search, or sends as the cursor of one, is found or refused; the database never complains.
func FuzzSearch(f *testing.F) {
	if _, err := cluster.Binaries(); err != nil {
		f.Skip(err)
	}
	db := postgrestest.New(f).Admin(f)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		e := typicalEvent()
		e.OccurredAt = now.Add(-time.Duration(i) * time.Minute)
		tx := db.MustBegin()
		if err := audit.InsertTx(f.Context(), tx, testKey(f), e); err != nil {
			f.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			f.Fatal(err)
		}
	}
	all, err := new(audit.Query).Search(f.Context(), db, "", 1)
	if err != nil || all.Next == "" {
		f.Fatalf("%+v, %v", all, err)
	}
	for _, seed := range []string{
		`actor:ana@acme.com app:web -kind:poll "drop table" status:>=400`, `actor:*a,b resource:"x\"y\\%_",z*`, "since:0001-01-02 until:9999-12-31T23:59:59Z", "address:10.0.0.0/8,::/0",
		"id:0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f", "request:00000000-0000-0000-0000-000000000000", `code:"` + "\t" + `"`, "kind:all", "-%_", "since:876000h",
	} {
		f.Add(seed, "")
		f.Add(seed, string(all.Next))
	}
	f.Add("", "MDAwMC0wMC0wMFQwMDowMDowMC4wMDAwMDBaIA")
	f.Fuzz(func(t *testing.T, text, cursor string) {
		q, err := audit.ParseQuery(text, now)
		if err != nil {
			return // FuzzQuery looks at those
		}
		page, err := q.Search(t.Context(), db, audit.Cursor(cursor), 2)
		switch {
		case errors.Is(err, audit.ErrBadCursor):
		case err != nil:
			t.Errorf("%q from %q: %v", text, cursor, err)
		default:
			for _, e := range page.Events {
				if !q.Match(e) {
					t.Errorf("%q found %s, which it does not want", text, e.AppendCanonical(nil))
				}
			}
			if page.Next != "" {
				if _, err := q.Search(t.Context(), db, page.Next, 2); err != nil {
					t.Errorf("%q goes on from %q: %v", text, page.Next, err)
				}
			}
		}
	})
}
