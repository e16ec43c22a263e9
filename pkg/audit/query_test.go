package audit_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestWhatIsWrongWithASearchIsToldByColumn(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		text   string
		column int
		what   string
	}{
		{"wer:ana", 1, "there is no field"},
		{"app:web  ACTOR:ana", 10, "there is no field"},
		{"actor:", 7, "a value is missing"},
		{"app:web,", 9, "a value is missing"},
		{"app:,web", 5, "a value is missing"},
		{`"open`, 1, "not closed"},
		{`app:"open`, 5, "not closed"},
		{`ä app:"open`, 7, "not closed"},
		{`""`, 1, "nothing to look for"},
		{"- app:web", 1, "minus"},
		{"decision:maybe", 10, "none of"},
		{"status:teapot", 8, "a status is"},
		{"status:5..4", 8, "a status is"},
		{"address:300.1.1.1", 9, "an address is"},
		{"request:7", 9, "an id looks"},
		{"since:yesterday", 7, "since takes"},
		{"-since:1h", 1, "cannot be turned round"},
		{"since:1h since:2h", 10, "given twice"},
		{"since:2026-11-23 until:2026-11-22", 18, "nothing can be found"},
		{"-kind:all", 1, "nothing to find"},
		{"actor:*", 7, "more than *"},
		{strings.Repeat("x ", 40), 65, "at most 32 terms"},
		{strings.Repeat("x", 3000), 2001, "longer than"},
		{strings.Repeat("ä", 1500), 1001, "longer than"},
		{"a\x00b", 1, "not valid text"},
	} {
		_, err := audit.ParseQuery(c.text, now)
		var bad *audit.QueryError
		if !errors.As(err, &bad) || bad.Column != c.column || !strings.Contains(bad.What, c.what) {
			t.Errorf("%q: %v, want column %d and %q", c.text, err, c.column, c.what)
		}
	}
	for _, good := range []string{
		"", "  ", `actor:ana@acme.com app:web action:process.exec decision:deny status:>=400 since:24h "drop table" -kind:poll`,
		"app:web,api", `app:"web api"`, `"say \"hi\""`, "status:4xx,500..599,<100", "address:10.0.0.0/8,::1", "until:2026-11-23T10:00", "-error", "since:7d", "kind:all",
	} {
		if _, err := audit.ParseQuery(good, now); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{`actor:ana@acme.com app:web -kind:poll "drop table" status:>=400`, `app:"x\"y",*`, "since:1h until:2026-11-23", "-", `"`, "a:b:c", "address:::1"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	e := audit.NewEvent(now)
	e.ActorLabel, e.Action, e.App = "ana@acme.com", "process.exec", "web"
	f.Fuzz(func(t *testing.T, text string) {
		q, err := audit.ParseQuery(text, now)
		var bad *audit.QueryError
		switch {
		case err == nil:
			q.Match(e)
		case !errors.As(err, &bad):
			t.Errorf("%q: an error of type %T", text, err)
		case bad.Column < 1 || bad.Column > len([]rune(text))+1:
			t.Errorf("%q: column %d", text, bad.Column)
		}
	})
}

// What the database finds is what Match says, for any search.
func TestTheDatabaseFindsWhatMatchSays(t *testing.T) {
	pg := postgrestest.New(t)
	db := pg.Admin(t)
	key := testKey(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	random := rand.New(rand.NewPCG(3, 4))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	people := map[string]string{"0190b4a0-0000-7000-8000-000000000001": "ana@acme.com", "0190b4a0-0000-7000-8000-000000000002": "Ben@acme.com", "": "eve@evil.example"}
	ids := []string{"0190b4a0-0000-7000-8000-000000000001", "0190b4a0-0000-7000-8000-000000000002", ""}
	var events []*audit.Event
	for range 300 {
		e := audit.NewEvent(now.Add(-time.Duration(random.IntN(60*24*60)) * time.Minute))
		e.ActorID = pick(ids...)
		e.ActorKind, e.ActorLabel = audit.ActorUser, people[e.ActorID]
		e.Action, e.App = pick("app.list", "process.exec", "process.list"), pick("", "web", "web-api", "api")
		e.Resource = pick("", "web-1", `a"b\c%_`, "Ünder")
		e.Kind = audit.Kind(pick("action", "poll", "preflight", "system"))
		e.Phase, e.Decision = audit.Phase(pick("started", "finished", "refused")), audit.Decision(pick("allow", "deny"))
		e.Status = []int32{0, 200, 403, 404, 500}[random.IntN(5)]
		e.Address = []netip.Addr{{}, netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::1")}[random.IntN(3)]
		e.Detail.Path, e.Detail.Code, e.Detail.Client = "/apps/"+pick("Web", "api"), pick("", "no-permission"), pick("cli", "console")
		e.Detail.Error = pick("", "DROP TABLE users", `say "hi"`, "tab\there")
		tx := db.MustBegin()
		if err := audit.InsertTx(t.Context(), tx, key, e); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	owner := pg.Owner(t)
	owner.MustExec(`insert into rgw.ledger_actors (actor_label, actor_id) select distinct actor_label, actor_id from rgw.audit_events`)
	all, _, err := audit.List(t.Context(), db, audit.Filter{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	events = all
	terms := []string{
		"actor:ana@acme.com", "actor:ben@ACME.com", "actor:eve@evil.example", "-actor:ana@acme.com", "actor:*@acme.com", "actor:ana@acme.com,eve@evil.example", "actor:nobody",
		"actor:" + ids[0], "app:web", "app:web,api", "app:web*", "-app:web", "action:process.exec", "action:process.*", "action:app.list,process.list", `resource:"a\"b\\c%_"`, "resource:web*",
		"decision:deny", "-decision:deny,allow", "phase:refused", "kind:poll", "kind:all", "-kind:action", "kind:poll,action", "status:>=400", "status:4xx", "-status:200", "status:<1,500",
		"address:10.0.0.0/8", "-address:10.1.2.3", "address:2001:db8::/32", "code:no-permission", "-client:cli", `"drop table"`, `-"drop table"`, `"say \"hi\""`, "web", "ünder", "Ünder", "%", "_",
		"\"\n\"", "since:10d", "until:5d", "since:40d", `"tab	here"`, "id:" + events[3].ID.String(), "request:" + events[7].RequestID.String() + "," + events[9].RequestID.String(),
	}
	for i := range 250 {
		var list []string
		if i < len(terms) {
			list = []string{terms[i]}
		} else {
			for range 1 + random.IntN(3) {
				list = append(list, terms[random.IntN(len(terms))])
			}
		}
		text := strings.Join(list, " ")
		q, err := audit.ParseQuery(text, now)
		if err != nil {
			continue // since twice
		}
		found := searchAll(t, db, q, 1+random.IntN(100))
		var want []string
		for _, e := range events {
			if q.Match(e) {
				want = append(want, e.ID.String())
			}
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s: the database finds %d, and Match says %d", text, len(found), len(want))
		}
	}
}

func searchAll(t testing.TB, db *sqlx.DB, q *audit.Query, limit int) (ids []string) {
	t.Helper()
	cursor := audit.Cursor("")
	for {
		page, err := q.Search(t.Context(), db, cursor, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			ids = append(ids, e.ID.String())
		}
		if page.Next == "" {
			return ids
		}
		cursor = page.Next
	}
}
