package credential

import (
	"context"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
)

// session begins a browser session.
func (p people) session(user string) made {
	p.t.Helper()
	token, err := New(Session)
	if err != nil {
		p.t.Fatal(err)
	}
	hash := token.Hash()
	id := p.id(`insert into rgw.sessions (hash, user_id, expires_at) values ($1, $2, now() + interval '12 hours') returning id`, hash[:], user)
	return made{Token: token, ID: id}
}

func TestASessionStandsForItsPersonUntilItEnds(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, feed := deaf(t, database.Proxy(t), Options{Now: hand.now})
	ana := p.user("ana@acme.com", "viewer", "deployer@web-*")
	session := p.session(ana)

	who := resolve(t, c, session.Token).Principal
	if who.Kind != access.KindUser || who.TokenKind != "session" || who.TokenID != session.ID || who.UserID != ana || who.Label() != "ana@acme.com" ||
		len(who.Grants) != 2 || who.Ceiling != nil {
		t.Errorf("the session stands for %+v", who)
	}

	unknown, err := New(Session)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, c, unknown, ErrUnknown)

	for what, end := range map[string]struct {
		change string
		cause  error
	}{
		"revoked":                {`update rgw.sessions set revoked_at = now() where id = $1`, ErrRevoked},
		"of somebody locked":     {`update rgw.users set locked_at = now() where id = (select user_id from rgw.sessions where id = $1)`, ErrLocked},
		"of somebody removed":    {`update rgw.users set removed_at = now() where id = (select user_id from rgw.sessions where id = $1)`, ErrOwnerGone},
		"at the end of 12 hours": {`update rgw.sessions set expires_at = now() where id = $1`, ErrExpired},
	} {
		person := p.user(strings.ReplaceAll(what, " ", "-")+"@acme.com", "admin")
		session := p.session(person)
		resolve(t, c, session.Token)
		p.exec(end.change, session.ID)
		feed.handle("token:" + session.ID)
		feed.handle("user:" + person)
		for range 2 {
			if r := refused(t, c, session.Token, end.cause); r.Principal == nil || r.Principal.Grants != nil {
				t.Errorf("a session %s is refused as %+v", what, r)
			}
		}
	}
}

// How long a session may lie unused is a setting, which counts for those that are open too.
func TestAnUnusedSessionEndsByTheSetting(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, feed := deaf(t, database.Admin(t), Options{Now: hand.now, NoteSessions: true})
	session := p.session(p.user("ana@acme.com", "viewer"))
	resolve(t, c, session.Token)
	for range 4 { // used every 25 minutes, it goes on
		hand.advance(25 * time.Minute)
		resolve(t, c, session.Token)
	}
	hand.advance(31 * time.Minute)
	refused(t, c, session.Token, ErrIdle)

	p.exec(`insert into rgw.settings (key, value, updated_by) values ('session_idle_minutes', '720', 'test')`)
	feed.handle("setting:session_idle_minutes")
	hand.advance(11 * time.Second) // more than the staleness that is allowed
	resolve(t, c, session.Token)

	c.Used(session.ID, addr("198.51.100.7"))
	if !c.uses.begin() {
		t.Fatal("there is nothing to write")
	}
	c.writeUses(t.Context())
	if got := p.id(`select host(used_address) from rgw.session_uses where session_id = $1`, session.ID); got != "198.51.100.7" {
		t.Errorf("last used from %s", got)
	}
}

// What another admin process saw of a session counts here.
func TestAUseElsewhereKeepsASession(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, _ := deaf(t, database.Proxy(t), Options{Now: hand.now})
	session := p.session(p.user("ana@acme.com", "viewer"))
	resolve(t, c, session.Token)
	hand.advance(45 * time.Minute)
	p.exec(`select rgw.session_used($1, null)`, session.ID)
	p.exec(`update rgw.session_uses set used_at = used_at + interval '45 minutes'`)
	resolve(t, c, session.Token)
}

// A sign-in is not announced, so that it ends nobody's sockets; a CLI token that waits for it works at once all
// the same.
func TestASignInRevivesCLITokensAndEndsNothing(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, feed := deaf(t, database.Proxy(t), Options{Now: hand.now})
	ana := p.user("ana@acme.com", "viewer")
	laptop, pipeline := p.token(CLI, ana, ""), p.token(API, ana, "", "viewer")
	open := resolve(t, c, pipeline.Token)
	if _, ok := open.Attach(func(reason string) { t.Errorf("a socket was ended: %s", reason) }); !ok {
		t.Fatal("the entry takes no socket")
	}
	announcements := postgres.NewFeed(database.Proxy(t), []string{Channel}, postgres.FeedOptions{})
	heard := make(chan string, 100)
	announcements.Subscribe(Channel, func(payload string) {
		feed.handle(payload)
		heard <- payload
	})
	run(t, func(ctx context.Context) { _ = announcements.Run(ctx) })
	if err := announcements.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	resolve(t, c, laptop.Token)
	hand.advance(8 * 24 * time.Hour)
	for range 2 {
		refused(t, c, laptop.Token, ErrSignIn)
	}
	resolve(t, c, pipeline.Token) // is held to nothing
	p.exec(`update rgw.users set signed_in_at = now() + interval '8 days' where id = $1`, ana)
	p.exec(`select pg_notify('rgw_access', 'role:end')`)
	if first := <-heard; first != "role:end" {
		t.Errorf("the sign-in was announced: %s", first)
	}
	resolve(t, c, laptop.Token)
}

func TestAnOpenSocketEndsWhenItsOwnerHadToSignIn(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	hand := &clock{}
	c, _ := deaf(t, database.Proxy(t), Options{Now: hand.now})
	run(t, func(ctx context.Context) { _ = c.Run(ctx) })
	open := func(email string) (string, chan string) {
		person := p.user(email, "viewer")
		ended := make(chan string, 1)
		if _, ok := resolve(t, c, p.token(CLI, person, "").Token).Attach(func(reason string) { ended <- reason }); !ok {
			t.Fatal("the entry takes no socket")
		}
		return person, ended
	}
	_, ended := open("gone@acme.com")
	ana, going := open("ana@acme.com")
	p.exec(`update rgw.users set signed_in_at = now() + interval '7 days' where id = $1`, ana)
	hand.advance(7*24*time.Hour + time.Second)
	select {
	case reason := <-ended:
		if reason != endSignIn {
			t.Errorf("it ended with %q", reason)
		}
	case <-time.After(patience):
		t.Fatal("the socket of somebody who did not sign in goes on")
	}
	select {
	case reason := <-going:
		t.Errorf("the socket of somebody who did sign in was ended: %s", reason)
	default:
	}
	hand.advance(7 * 24 * time.Hour)
	select {
	case <-going:
	case <-time.After(patience):
		t.Fatal("their socket goes on for longer than that")
	}
}

// The environment's settings count where the database says nothing.
func TestDefaultsFromTheEnvironment(t *testing.T) {
	database := postgrestest.New(t)
	p := people{t, database.Owner(t)}
	c, _ := deaf(t, database.Proxy(t), Options{SettingDefaults: []access.SettingValue{
		{Key: "session_idle_minutes", Value: []byte("45")}, {Key: "allow_destructive", Value: []byte("true")}, {Key: "reauth_days", Value: []byte(`"never"`)},
		{App: "web", Key: "deploy_approvals", Value: []byte("true")}, {App: "api", Key: "deploy_approvals", Value: []byte("true")},
	}})
	check := func(when string, destructive bool) {
		t.Helper()
		s := c.Settings()
		if s.SessionIdle != 45*time.Minute || s.AllowDestructive != destructive || s.ReauthEvery != 7*24*time.Hour {
			t.Errorf("%s: settings are %+v", when, s)
		}
	}
	check("before any were read", true)
	p.exec(`insert into rgw.settings (key, value, updated_by) values ('allow_destructive', 'false', 'test')`)
	p.exec(`insert into rgw.settings (key, app, value, updated_by) values ('deploy_approvals', 'web', 'false', 'test'), ('allow_destructive', 'old', 'true', 'test'), ('allow_destructive', 'Not An App', 'true', 'test')`)
	resolve(t, c, p.token(CLI, p.user("ana@acme.com", "viewer"), "").Token)
	check("the database counts over it", false)
	s := c.Settings()
	if s.DeployApprovals || s.For("web").DeployApprovals || !s.For("api").DeployApprovals || !s.For("old").AllowDestructive || s.For("api").AllowDestructive {
		t.Errorf("apps have %+v, %+v, %+v", s.For("web"), s.For("api"), s.For("old"))
	}
}
