package directory_test

import (
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// browser is somebody whom nobody knows yet.
var browser = directory.Actor{Kind: audit.ActorNobody, Address: netip.MustParseAddr("198.51.100.7"), Client: "console", UserAgent: "a browser"}

// signIn begins a session.
func (w *world) signIn(t testing.TB, email string) directory.Session {
	t.Helper()
	return must[directory.Session](t)(w.BeginSession(t.Context(), browser, newSession(email)))
}

func newSession(email string) directory.NewSession {
	return directory.NewSession{Email: email, Name: "From Outside", Subject: "1234", Hash: sha256.Sum256([]byte(uuid.NewString())), UserAgent: "a browser"}
}

func TestSigningInBeginsASessionAndIsRecordedAsThePersons(t *testing.T) {
	w := newWorld(t)
	ana := w.add(t, "ana@acme.com", "viewer")
	var s directory.Session
	events := w.since(t, func() { s = w.signIn(t, "Ana@ACME.com") })
	if texts(events) != "finished session.begin ana@acme.com" || events[0].Actor != "ana@acme.com" || events[0].Kind != "user" || !events[0].Signed ||
		!strings.Contains(events[0].Detail, s.ID.String()) || !strings.Contains(events[0].Detail, `"subject":"1234"`) {
		t.Errorf("recorded as %+v", events)
	}
	if s.UserID != ana.ID || s.Email != "ana@acme.com" || s.Name != "" || !s.ExpiresAt.Equal(w.now.Add(12*time.Hour)) || s.Address != browser.Address || s.State != "active" {
		t.Errorf("the session is %+v", s)
	}
	user := must[directory.User](t)(w.User(t.Context(), "ana@acme.com"))
	if user.SignedInAt == nil || !user.SignedInAt.Equal(w.now) || user.Name != "" {
		t.Errorf("the person is %+v", user)
	}
	page := must[directory.Page[directory.Session]](t)(w.ListSessions(t.Context(), directory.SessionFilter{}))
	if len(page.Items) != 1 || page.Items[0] != s {
		t.Errorf("listed are %+v, want %+v", page.Items, s)
	}
}

func TestWhoMayNotSignInIsRefusedAndThatIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.add(t, "lou@acme.com", "ops")
	must[directory.User](t)(w.Lock(t.Context(), console, "lou@acme.com", "left 100% of it"))
	w.add(t, "rem@acme.com", "viewer")
	must[directory.User](t)(w.Remove(t.Context(), console, "rem@acme.com"))
	refused := func(email, code string) {
		t.Helper()
		events := w.since(t, func() {
			_, err := w.BeginSession(t.Context(), browser, newSession(email))
			wantCode(t, err, code)
		})
		if texts(events) != "refused session.begin "+email || events[0].Kind != "nobody" || !strings.Contains(events[0].Detail, code) {
			t.Errorf("recorded as %+v", events)
		}
	}
	refused("lou@acme.com", "user-locked")
	refused("rem@acme.com", "not-a-member")
	refused("new@acme.com", "not-a-member")
	_, err := w.BeginSession(t.Context(), browser, newSession("not an address"))
	wantCode(t, err, "bad-address")

	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "join_as_viewer", json.RawMessage("true")))
	refused("lou@acme.com", "user-locked")
	refused("rem@acme.com", "not-a-member") // somebody took the trouble to remove them
	events := w.since(t, func() { w.signIn(t, "new@acme.com") })
	if texts(events) != "finished user.add new@acme.com; finished session.begin new@acme.com" {
		t.Errorf("joining is recorded as %s", texts(events))
	}
	user := must[directory.User](t)(w.User(t.Context(), "new@acme.com"))
	if user.Name != "From Outside" || len(user.Bindings) != 1 || user.Bindings[0].String() != "viewer" {
		t.Errorf("who joined is %+v", user)
	}
	w.signIn(t, "new@acme.com") // and does not join twice
}

// Two sign-ins at once of somebody who joins make one person.
func TestJoiningTwiceAtOnceMakesOnePerson(t *testing.T) {
	w := newWorld(t)
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "join_as_viewer", json.RawMessage("true")))
	var both sync.WaitGroup
	for range 4 {
		both.Go(func() {
			if _, err := w.BeginSession(t.Context(), browser, newSession("new@acme.com")); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	page := must[directory.Page[directory.User]](t)(w.ListUsers(t.Context(), directory.UserFilter{}))
	if len(page.Items) != 1 {
		t.Errorf("there are %d people", len(page.Items))
	}
}

func TestASessionIsEndedByItsOwnerOrByWhoMay(t *testing.T) {
	w := newWorld(t)
	ana, bob := w.add(t, "ana@acme.com", "admin"), w.add(t, "bob@acme.com", "viewer")
	first := w.signIn(t, "ana@acme.com")
	w.now = w.now.Add(time.Minute)
	w.signIn(t, "ana@acme.com")
	third := w.signIn(t, "bob@acme.com")

	_, err := w.RevokeSession(t.Context(), person(bob), first.ID, bob.ID, "not mine")
	wantCode(t, err, "no-such-session")
	_, err = w.EndSession(t.Context(), person(bob), first.ID)
	wantCode(t, err, "no-such-session")
	_, err = w.RevokeSession(t.Context(), person(ana), first.ID, uuid.Nil, " ")
	wantCode(t, err, "reason-missing")
	_, err = w.RevokeSession(t.Context(), person(ana), uuid.New(), uuid.Nil, "gone")
	wantCode(t, err, "no-such-session")

	events := w.since(t, func() {
		s := must[directory.Session](t)(w.EndSession(t.Context(), person(ana), first.ID))
		if s.State != "revoked" || s.RevokedReason != "signed out" {
			t.Errorf("the session is %+v", s)
		}
		must[directory.Session](t)(w.RevokeSession(t.Context(), person(ana), third.ID, uuid.Nil, "lost laptop"))
	})
	if texts(events) != "finished session.end ana@acme.com; finished session.revoke bob@acme.com" {
		t.Errorf("recorded as %s", texts(events))
	}
	_, err = w.EndSession(t.Context(), person(ana), first.ID)
	wantCode(t, err, "session-revoked")

	events = w.since(t, func() { must[directory.User](t)(w.Remove(t.Context(), console, add(t, w, "oscar@acme.com"))) })
	if got := texts(events); !strings.HasSuffix(got, "finished user.remove oscar@acme.com; finished session.revoke oscar@acme.com") {
		t.Errorf("a removal is recorded as %s", got)
	}
	states := map[string]string{}
	page := must[directory.Page[directory.Session]](t)(w.ListSessions(t.Context(), directory.SessionFilter{Ended: true}))
	for _, s := range page.Items {
		states[s.Email] += s.State + " "
	}
	if states["ana@acme.com"] != "active revoked " || states["bob@acme.com"] != "revoked " || states["oscar@acme.com"] != "revoked " {
		t.Errorf("the sessions are %v", states)
	}
}

// add adds a viewer who signs in, and returns the address.
func add(t testing.TB, w *world, email string) string {
	t.Helper()
	w.add(t, email, "viewer")
	w.signIn(t, email)
	return email
}

func TestSessionsAreListedWhileTheyAreGood(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@acme.com", "viewer")
	w.add(t, "bob@acme.com", "viewer")
	list := func(filter directory.SessionFilter) string {
		t.Helper()
		var got []string
		for {
			page := must[directory.Page[directory.Session]](t)(w.ListSessions(t.Context(), filter))
			for _, s := range page.Items {
				got = append(got, strings.TrimSuffix(s.Email, "@acme.com")+":"+s.State)
			}
			if filter.After = page.Next; page.Next == "" {
				return strings.Join(got, " ")
			}
		}
	}
	var last directory.Session
	for i := range 5 {
		w.now = w.now.Add(time.Minute)
		last = w.signIn(t, []string{"ana@acme.com", "bob@acme.com"}[i%2])
	}
	if got := list(directory.SessionFilter{Limit: 2}); got != "ana:active bob:active ana:active bob:active ana:active" {
		t.Errorf("all are %s", got)
	}
	if got := list(directory.SessionFilter{User: "bob@acme.com"}); got != "bob:active bob:active" {
		t.Errorf("Bob's are %s", got)
	}
	w.now = w.now.Add(31 * time.Minute)
	w.db.MustExec(`insert into rgw.session_uses (session_id, used_at) values ($1, $2)`, last.ID, w.now.Add(-time.Minute))
	if got := list(directory.SessionFilter{}); got != "ana:active" {
		t.Errorf("after half an hour the one that was used is left: %s", got)
	}
	if got := list(directory.SessionFilter{Ended: true}); got != "ana:active bob:idle ana:idle bob:idle ana:idle" {
		t.Errorf("the others were %s", got)
	}
	must[directory.User](t)(w.Lock(t.Context(), console, "ana@acme.com", "lost"))
	if got := list(directory.SessionFilter{User: "ana@acme.com", Ended: true, Limit: 1}); got != "ana:owner locked ana:owner locked ana:owner locked" {
		t.Errorf("of somebody locked they are %s", got)
	}
	w.now = w.now.Add(12 * time.Hour)
	if got := list(directory.SessionFilter{User: "bob@acme.com", Ended: true}); got != "bob:expired bob:expired" {
		t.Errorf("after 12 hours they are %s", got)
	}
	for _, cursor := range []string{"x", "AAAA", directory.SealCursor("yesterday", uuid.New())} {
		_, err := w.ListSessions(t.Context(), directory.SessionFilter{After: cursor})
		wantCode(t, err, "bad-cursor")
	}
	_, err := w.ListSessions(t.Context(), directory.SessionFilter{Limit: 1001})
	wantCode(t, err, "bad-limit")
	_, err = w.ListSessions(t.Context(), directory.SessionFilter{User: "nobody@acme.com"})
	wantCode(t, err, "no-such-user")
}

func TestASignInComesBackOnce(t *testing.T) {
	w := newWorld(t)
	state := sha256.Sum256([]byte("state"))
	var firsts sync.Map
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			first, err := w.SpendState(t.Context(), state, w.now.Add(10*time.Minute))
			if err != nil {
				t.Error(err)
			}
			if first {
				firsts.Store(strconv.Itoa(i), true)
			}
		})
	}
	all.Wait()
	n := 0
	firsts.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("it was the first time %d times", n)
	}
	w.now = w.now.Add(time.Hour)
	must[bool](t)(w.SpendState(t.Context(), sha256.Sum256([]byte("another")), w.now.Add(10*time.Minute)))
	var left int
	if err := w.db.Get(&left, `select count(*) from rgw.signin_states`); err != nil || left != 1 {
		t.Errorf("%d are remembered (%v), want the one that could still come back", left, err)
	}
}

func TestRefusalsBeforeAnybodyIsKnownAreRecorded(t *testing.T) {
	w := newWorld(t)
	events := w.since(t, func() {
		if err := w.RefuseSession(t.Context(), browser, "eve@evil.com", "other-domain", "people of evil.com may not sign in"); err != nil {
			t.Error(err)
		}
		if err := w.RefuseSessions(t.Context(), browser, "not-started", "sign-ins that did not begin here", 17); err != nil {
			t.Error(err)
		}
	})
	if texts(events) != "refused session.begin eve@evil.com; refused session.begin " || !events[0].Signed ||
		!strings.Contains(events[0].Detail, "other-domain") || !strings.Contains(events[1].Detail, `"count":17`) {
		t.Errorf("recorded as %+v", events)
	}
}

func TestTheFirstPeopleAreAddedOnce(t *testing.T) {
	w := newWorld(t)
	ben := w.add(t, "ben@acme.com", "viewer")
	w.add(t, "gone@acme.com", "ops")
	must[directory.User](t)(w.Remove(t.Context(), console, "gone@acme.com"))
	people := func() []directory.NewUser {
		return directory.FirstUsers(map[string][]string{
			"admin": {"ana@acme.com", "ben@acme.com", "gone@acme.com"}, "deployer": {"ana@acme.com", "dan@acme.com"},
		})
	}
	events := w.since(t, func() {
		if added := must[[]directory.User](t)(w.AddFirstUsers(t.Context(), console, nil)); len(added) != 0 {
			t.Errorf("nobody was listed, and added were %+v", added)
		}
		added := must[[]directory.User](t)(w.AddFirstUsers(t.Context(), console, people()))
		if len(added) != 2 || added[0].Email != "ana@acme.com" || added[1].Email != "dan@acme.com" {
			t.Errorf("added were %+v", added)
		}
	})
	if texts(events) != "finished user.add ana@acme.com; finished user.add dan@acme.com; finished user.bootstrap " {
		t.Errorf("recorded as %s", texts(events))
	}
	ana := must[directory.User](t)(w.User(t.Context(), "ana@acme.com"))
	if len(ana.Bindings) != 2 || ana.Bindings[0].Role != "admin" || ana.Bindings[1].Role != "deployer" {
		t.Errorf("Ana has %v", ana.Bindings)
	}
	if again := must[directory.User](t)(w.User(t.Context(), "ben@acme.com")); again.ID != ben.ID || again.Bindings[0].Role != "viewer" {
		t.Errorf("somebody who was there was changed: %+v", again)
	}
	_, err := w.User(t.Context(), "gone@acme.com")
	wantCode(t, err, "no-such-user")

	must[directory.User](t)(w.Remove(t.Context(), console, "dan@acme.com"))
	more := append(people(), directory.FirstUsers(map[string][]string{"admin": {"eve@acme.com"}})...)
	if events := w.since(t, func() {
		if added := must[[]directory.User](t)(w.AddFirstUsers(t.Context(), console, more)); len(added) != 0 {
			t.Errorf("a second time, added were %+v", added)
		}
	}); len(events) != 0 {
		t.Errorf("a second time is recorded as %s", texts(events))
	}

	_, err = newWorld(t).AddFirstUsers(t.Context(), console, directory.FirstUsers(map[string][]string{"cicd": {"ana@acme.com"}}))
	wantCode(t, err, "role-for-tokens-only")
}
