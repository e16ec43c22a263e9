package directory_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// world is a gateway's directory in a database of the test's own.
type world struct {
	*directory.Writer
	*directory.Reader
	db           *sqlx.DB // as the schema's owner, to look behind the scenes
	proxyURL     postgres.URL
	superuserURL postgres.URL
	key          audit.Key
	now          time.Time // what the clock says
}

// newWorld has the rights that admin's database role has, and no more.
func newWorld(t testing.TB) *world {
	t.Helper()
	db := postgrestest.New(t)
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{db: db.Owner(t), proxyURL: db.ProxyURL(), superuserURL: db.SuperuserURL(), key: key, now: time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return w.now }
	w.Writer = directory.NewWriter(db.Admin(t), key, directory.WriterOptions{Now: clock})
	w.Reader = directory.NewReader(db.Admin(t), directory.ReaderOptions{Now: clock})
	return w
}

// ReaderWithDefaults is a Reader where something outside the database sets settings.
func (w *world) ReaderWithDefaults(defaults ...access.SettingValue) *directory.Reader {
	return directory.NewReader(w.db, directory.ReaderOptions{Defaults: defaults})
}

// console is the command line: an actor whose own rights bound nothing.
var console = directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: "command line (ops@host)"}

// person is the actor that a signed-in user is.
func person(u directory.User) directory.Actor {
	return directory.Actor{Kind: audit.ActorUser, ID: u.ID.String(), Label: u.Email, User: u.ID}
}

// add adds a person with roles, by the command line.
func (w *world) add(t testing.TB, email string, roles ...string) directory.User {
	t.Helper()
	users, err := w.AddUsers(t.Context(), console, []directory.NewUser{{Email: email, Bindings: bindings(t, roles...)}})
	if err != nil {
		t.Fatal(err)
	}
	return users[0]
}

func bindings(t testing.TB, texts ...string) []directory.Binding {
	t.Helper()
	var list []directory.Binding
	for _, text := range texts {
		b, err := directory.ParseBinding(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// event is what the tests look at of an audit event.
type event struct {
	Action   string    `db:"action"`
	Resource string    `db:"resource"`
	App      string    `db:"app"`
	Phase    string    `db:"phase"`
	Decision string    `db:"decision"`
	Actor    string    `db:"actor_label"`
	Kind     string    `db:"actor_kind"`
	Request  uuid.UUID `db:"request_id"`
	Signed   bool      `db:"signed"`
	Detail   string    `db:"detail"`
}

func (e event) String() string { return e.Phase + " " + e.Action + " " + e.Resource }

// events returns all events in the order in which they were committed.
func (w *world) events(t testing.TB) []event {
	t.Helper()
	var events []event
	const query = `
select action, resource, app, phase::text, decision::text, actor_label, actor_kind::text, request_id, mac is not null as signed, detail::text
from rgw.audit_events order by xid, writer_id, writer_seq`
	if err := w.db.SelectContext(context.WithoutCancel(t.Context()), &events, query); err != nil {
		t.Fatal(err)
	}
	return events
}

// since returns what was recorded by fn.
func (w *world) since(t testing.TB, fn func()) []event {
	t.Helper()
	before := len(w.events(t))
	fn()
	return w.events(t)[before:]
}

func texts(events []event) string {
	var list []string
	for _, e := range events {
		list = append(list, e.String())
	}
	return strings.Join(list, "; ")
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", code)
		return
	}
	if got := directory.CodeOf(err); got != code {
		t.Errorf("error %q (%s), want code %s", err, got, code)
	}
	if strings.Contains(err.Error(), "%") {
		t.Errorf("the message has a percent sign: %s", err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestEveryChangeLeavesOneSignedEventInItsTransaction(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	var token, cli directory.Token
	steps := []struct {
		name string
		do   func() error
		want string
	}{
		{"add two", func() error {
			_, err := w.AddUsers(ctx, console, []directory.NewUser{
				{Email: "Ana@Example.com", Name: "Ana", Bindings: bindings(t, "admin")}, {Email: "dan@example.com"},
			})
			return err
		}, "finished user.add ana@example.com; finished user.add dan@example.com"},
		{"set roles", func() error {
			_, err := w.SetRoles(ctx, console, "dan@example.com", bindings(t, "deployer@web", "viewer"))
			return err
		}, "finished user.set_roles dan@example.com"},
		{"bind", func() error {
			_, err := w.Bind(ctx, console, "dan@example.com", bindings(t, "ops@api")...)
			return err
		}, "finished user.set_roles dan@example.com"},
		{"unbind", func() error {
			_, err := w.Unbind(ctx, console, "dan@example.com", bindings(t, "ops@api")...)
			return err
		}, "finished user.set_roles dan@example.com"},
		{"create role", func() error {
			_, err := w.CreateRole(ctx, console, directory.NewRole{Name: "seer", Permissions: []string{"convox:secret:read"}})
			return err
		}, "finished role.create seer"},
		{"edit role", func() error {
			_, err := w.EditRole(ctx, console, "seer", directory.RoleEdit{Add: []string{"convox:env:read"}})
			return err
		}, "finished role.edit seer"},
		{"delete role", func() error { return w.DeleteRole(ctx, console, "seer") }, "finished role.delete seer"},
		{"create a CLI token", func() (err error) {
			cli, _, err = w.CreateToken(ctx, console, directory.NewToken{Kind: "cli", Name: "laptop", Owner: "dan@example.com"})
			return err
		}, "finished token.create laptop"},
		{"create an API token", func() (err error) {
			token, _, err = w.CreateToken(ctx, console, directory.NewToken{Kind: "api", Name: "ci", Owner: "dan@example.com", Bindings: bindings(t, "cicd@web")})
			return err
		}, "finished token.create ci"},
		{"rotate", func() error {
			_, _, err := w.Rotate(ctx, console, token.ID.String(), directory.Rotation{KeepOld: time.Hour})
			return err
		}, "finished token.rotate ci"},
		{"change rights", func() error {
			_, err := w.SetTokenRights(ctx, console, "ci", directory.TokenRights{Permissions: []string{"convox:app:list"}})
			return err
		}, "finished token.set_rights ci"},
		{"revoke", func() error { _, err := w.Revoke(ctx, console, "laptop", "lost"); return err }, "finished token.revoke laptop"},
		{"lock", func() error { _, err := w.Lock(ctx, console, "dan@example.com", "on leave"); return err }, "finished user.lock dan@example.com"},
		{"unlock", func() error { _, err := w.Unlock(ctx, console, "dan@example.com"); return err }, "finished user.unlock dan@example.com"},
		{"set a setting", func() error {
			_, err := w.SetSetting(ctx, console, "", "allow_destructive", []byte("true"))
			return err
		}, "finished setting.set allow_destructive"},
		{"unset it", func() error { _, err := w.UnsetSetting(ctx, console, "", "allow_destructive"); return err }, "finished setting.unset allow_destructive"},
		{"remove", func() error { _, err := w.Remove(ctx, console, "dan@example.com"); return err }, "finished user.remove dan@example.com; finished token.revoke ci"},
	}
	for _, step := range steps {
		got := w.since(t, func() {
			if err := step.do(); err != nil {
				t.Errorf("%s: %v", step.name, err)
			}
		})
		if texts(got) != step.want {
			t.Errorf("%s recorded %q, want %q", step.name, texts(got), step.want)
		}
		for _, e := range got {
			if !e.Signed || e.Actor != console.Label || e.Kind != "system" || e.Decision != "allow" || e.Request != got[0].Request {
				t.Errorf("%s: recorded as %+v", step.name, e)
			}
		}
	}
	if cli.ID == token.ID {
		t.Error("two tokens have one id")
	}
}

func TestARefusedChangeLeavesTheRefusalAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	got := w.since(t, func() {
		_, err := w.Lock(t.Context(), console, "ana@example.com", "mistake")
		wantCode(t, err, "last-admin")
	})
	if texts(got) != "refused user.lock ana@example.com" || got[0].Decision != "deny" || !strings.Contains(got[0].Detail, `"code":"last-admin"`) {
		t.Errorf("recorded %+v", got)
	}
	if u := must[directory.User](t)(w.User(t.Context(), "ana@example.com")); !u.Active() {
		t.Error("the refused change was made")
	}
}

func TestAnInvalidRequestIsAnsweredWithoutTouchingTheDatabase(t *testing.T) {
	w := newWorld(t)
	got := w.since(t, func() {
		_, err := w.AddUsers(t.Context(), console, []directory.NewUser{{Email: "not an address"}})
		wantCode(t, err, "bad-address")
	})
	if len(got) != 0 {
		t.Errorf("recorded %v", got)
	}
}

func TestAChangeAroundThePackageIsTheOneThatTheDatabaseNotes(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	got := w.since(t, func() {
		if _, err := w.db.ExecContext(t.Context(), `update rgw.users set locked_at = now() where email = 'ana@example.com'`); err != nil {
			t.Fatal(err)
		}
	})
	if len(got) != 1 || got[0].Kind != "database" || got[0].Signed {
		t.Errorf("recorded %+v", got)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	w := newWorld(t)
	err := w.Reader.TryToWrite(t.Context(), `insert into rgw.settings (key, value, updated_by) values ('x', 'true', 'x') returning key`)
	if err == nil || !strings.Contains(err.Error(), "read-only transaction") {
		t.Errorf("a reader's write gave %v", err)
	}
}
