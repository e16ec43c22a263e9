package notify_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
)

func TestPeopleHearOfWhatConcernsThem(t *testing.T) {
	w := newWorld(t)
	w.notices()
	ana := w.addUser("ana@acme.com", adminRole())
	dan := w.addUser("dan@acme.com", directory.Binding{Role: "viewer", App: "*"})
	w.gets("ana@acme.com", "Welcome to the gateway · acme/staging")
	w.gets("dan@acme.com", "Welcome")
	w.gets("ana@acme.com", "dan@acme.com was added")

	_, err := w.writer.Lock(t.Context(), w.by, "dan@acme.com", "lost a laptop")
	check(t, err)
	w.gets("dan@acme.com", "Your account was locked")
	w.gets("ana@acme.com", "dan@acme.com was locked")
	_, err = w.writer.Unlock(t.Context(), w.by, "dan@acme.com")
	check(t, err)
	w.gets("dan@acme.com", "Your account was unlocked")
	_, err = w.writer.SetRoles(t.Context(), w.by, "dan@acme.com", []directory.Binding{adminRole()})
	check(t, err)
	w.gets("dan@acme.com", "What you may do was changed")
	w.gets("ana@acme.com", "dan@acme.com was made an admin")
	_, _, err = w.writer.CreateToken(t.Context(), w.by, directory.NewToken{Kind: credential.CLI, Name: "laptop", Owner: dan.ID.String()})
	check(t, err)
	w.gets("dan@acme.com", "The token laptop was made for you")
	_, err = w.writer.SetSetting(t.Context(), w.by, "", "allow_destructive", []byte("true"))
	check(t, err)
	w.gets("ana@acme.com", "Destructive actions were switched on")

	e := event(ana, "app.delete")
	e.App, e.Status = "web", 200
	w.record(e)
	w.gets("dan@acme.com", "The app web was deleted")
	e = event(ana, "rack.update")
	e.Status = 200
	w.record(e)
	w.gets("dan@acme.com", "The rack's parameters were changed")
	e = audit.NewEvent(time.Now())
	e.Kind, e.ActorKind, e.ActorLabel, e.Action, e.Resource = audit.KindSystem, audit.ActorSystem, "ledger", ledger.ActionAlert, ledger.AlertMAC
	e.Detail.Code, e.Detail.Error = ledger.AlertMAC, "event 1 is not as its writer made it"
	w.record(e)
	w.gets("ana@acme.com", "The audit log raised an alert: mac-wrong")
	w.quiet()

	for _, m := range w.postmark.Taken() {
		if strings.HasPrefix(m.Subject, "Your account was locked") {
			for _, want := range []string{"lost a laptop", "ops@laptop", "https://gateway.example.com/console/audit/"} {
				if !strings.Contains(m.TextBody, want) || !strings.Contains(m.HTMLBody, want) {
					t.Errorf("a mail does not say %q:\n%s", want, m.TextBody)
				}
			}
			if m.MessageStream != "outbound" || len(m.Headers) == 0 || m.Headers[0].Value != "<"+m.Metadata["notice"]+"@gateway.example.com>" {
				t.Errorf("the mail's own id is not the notice's: %+v", m.Headers)
			}
		}
	}
	if n := w.count(`select count(*) from rgw.notices where state <> 'sent'`); n != 0 {
		t.Errorf("%d notices were not sent", n)
	}

	// An admin is told once, though an event gives rise to several notices.
	seen := map[string]int{}
	for _, s := range w.subjects("ana@acme.com") {
		seen[s]++
	}
	for subject, n := range seen {
		if n > 1 {
			t.Errorf("%q came %d times", subject, n)
		}
	}
}

func TestATokenThatExpiresIsToldOnce(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices()
	dan := w.addUser("dan@acme.com", directory.Binding{Role: "viewer", App: "*"})
	_, _, err := w.writer.CreateToken(t.Context(), w.by, directory.NewToken{Kind: credential.CLI, Name: "laptop", Owner: dan.ID.String()})
	check(t, err)
	w.owner.MustExec(`begin; select set_config('rgw.request_id', 'test', true); update rgw.tokens set expires_at = now() + interval '3 days', created_at = now() - interval '80 days'; commit`)
	for range 3 {
		check(t, notify.NoteExpiries(s, t.Context()))
	}
	w.gets("dan@acme.com", "The token laptop expires soon")
	w.owner.MustExec(`begin; select set_config('rgw.request_id', 'test', true); update rgw.tokens set expires_at = now() - interval '1 minute'; commit`)
	for range 3 {
		check(t, notify.NoteExpiries(s, t.Context()))
	}
	w.gets("dan@acme.com", "The token laptop expired")
	w.quiet()
	if got := len(w.subjects("dan@acme.com")); got != 4 {
		t.Errorf("%d mails about a token: %q", got, w.subjects("dan@acme.com"))
	}
}

func TestASignInFromElsewhereIsTold(t *testing.T) {
	w := newWorld(t)
	w.notices()
	ana := w.addUser("ana@acme.com")
	const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
	signIn := func(agent, address string) {
		e := event(ana, "session.begin")
		e.Resource, e.Detail.UserAgent, e.Address = ana.Email, agent, netip.MustParseAddr(address)
		w.record(e)
	}
	signIn(firefox, "198.51.100.7")
	signIn(strings.ReplaceAll(firefox, "130.0", "131.0"), "198.51.7.9") // an update, and the same network
	w.quiet()
	if got := w.subjects("ana@acme.com"); len(got) != 1 {
		t.Fatalf("nothing was new, and was told: %q", got)
	}
	signIn(firefox, "203.0.113.9")
	w.gets("ana@acme.com", "You signed in from a new network")
	signIn("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "203.0.113.9")
	w.gets("ana@acme.com", "You signed in with a new device")
}

func TestRefusalsAgainAndAgainAreTold(t *testing.T) {
	w := newWorld(t)
	w.notices()
	w.addUser("ana@acme.com", adminRole())
	dan := w.addUser("dan@acme.com")
	refuse := func(n int) {
		for range n {
			e := event(dan, "app.delete")
			e.Phase, e.Decision, e.Status = audit.PhaseRefused, audit.DecisionDeny, 403
			e.Detail.Error = "you lack the right convox:app:delete"
			w.record(e)
		}
	}
	refuse(9)
	w.quiet()
	for _, s := range w.subjects("dan@acme.com") {
		if strings.Contains(s, "refused") {
			t.Fatal("nine refusals were told already")
		}
	}
	refuse(3)
	w.gets("dan@acme.com", "The gateway refused you again and again")
	w.gets("ana@acme.com", "dan@acme.com is refused again and again")
}

func TestWhatOneIsNotToldOfIsOnesOwnChoice(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices()
	w.addUser("ana@acme.com", adminRole())
	no := false
	if _, err := s.Choose(t.Context(), w.by, "ana@acme.com", []notify.Wish{{Topic: "account.locked", Mail: &no}}); directory.CodeOf(err) != "own-security" {
		t.Errorf("what is about one's own security was turned off: %v", err)
	}
	choices, err := s.Choose(t.Context(), w.by, "ana@acme.com", []notify.Wish{{Topic: "people.added", Mail: &no}})
	check(t, err)
	if i := slices.IndexFunc(choices, func(c notify.Choice) bool { return c.Name == "people.added" }); i < 0 || choices[i].Mail {
		t.Errorf("it was not kept: %+v", choices)
	}
	w.addUser("dan@acme.com")
	w.gets("dan@acme.com", "Welcome")
	w.quiet()
	if got := w.subjects("ana@acme.com"); len(got) != 1 {
		t.Errorf("ana heard of what she did not want to: %q", got)
	}
	for phase, want := range map[string]int{"finished": 1, "refused": 1} {
		if got := w.count(`select count(*) from rgw.audit_events where action = 'notice.choose' and phase::text = $1 and resource = 'ana@acme.com'`, phase); got != want {
			t.Errorf("%d events tell that a choice was %s, want %d", got, phase, want)
		}
	}
}

func TestManyAlikeBecomeADigest(t *testing.T) {
	w := newWorld(t)
	w.notices(func(c *notify.Config) { c.Limits.Window = 2 * time.Second })
	w.addUser("ana@acme.com", adminRole())
	for i := range 40 {
		w.addUser(fmt.Sprintf("p%d@acme.com", i))
	}
	eventually(t, "a digest came", func() bool {
		return slices.ContainsFunc(w.subjects("ana@acme.com"), func(s string) bool { return strings.Contains(s, "notices of the gateway in one") })
	})
	eventually(t, "all is told", func() bool {
		return w.count(`select count(*) from rgw.notices where state in ('held', 'waiting')`) == 0
	})
	if got := len(w.subjects("ana@acme.com")); got > 15 {
		t.Errorf("%d mails for 40 alike", got)
	}
	gathered := w.count(`select count(*) from rgw.notices where state = 'gathered' and recipient = 'ana@acme.com'`)
	sent := w.count(`select count(*) from rgw.notices where state = 'sent' and topic = 'people.added' and recipient = 'ana@acme.com'`)
	if gathered+sent != 40 {
		t.Errorf("%d were sent and %d gathered, of 40", sent, gathered)
	}
}

// Postmark's answers, and what becomes of a notice by each.
func TestWhatPostmarkAnswersDecidesWhatIsNext(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, n int, m *notifytest.Mail) bool
		state  string // of the notice, when the first answer was this; "sent" means that it was tried again
		mails  int
	}{
		{"inactive address", status(422, `{"ErrorCode":406,"Message":"You tried to send to a recipient that has been marked as inactive."}`), "dead", 0},
		{"invalid mail", status(422, `{"ErrorCode":300,"Message":"Invalid 'To' address"}`), "dead", 0},
		{"too large", status(413, `{"ErrorCode":0,"Message":"too large"}`), "dead", 0},
		{"rate limit", status(429, `{"ErrorCode":429,"Message":"slow down"}`), "sent", 1},
		{"internal error", status(500, ``), "sent", 1},
		{"maintenance", status(503, `<html>maintenance</html>`), "sent", 1},
		{"garbage", status(200, `hello`), "sent", 1},
		{"an error with 200", status(200, `{"ErrorCode":701,"Message":"?"}`), "sent", 1},
		{"cut before it was taken", func(w http.ResponseWriter, _ *http.Request, n int, _ *notifytest.Mail) bool {
			if n > 1 {
				return false
			}
			panic(http.ErrAbortHandler)
		}, "sent", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.postmark.Answer(c.answer)
			w.notices()
			w.addUser("dan@acme.com")
			eventually(t, "it is "+c.state, func() bool { return w.count(`select count(*) from rgw.notices where state = $1`, c.state) == 1 })
			if got := len(w.postmark.Taken()); got != c.mails {
				t.Errorf("%d mails were taken, want %d", got, c.mails)
			}
		})
	}
}

// status answers the first request only.
func status(code int, body string) func(http.ResponseWriter, *http.Request, int, *notifytest.Mail) bool {
	return func(w http.ResponseWriter, _ *http.Request, n int, _ *notifytest.Mail) bool {
		if n > 1 {
			return false
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
		return true
	}
}

// Taken, and the answer lost: the receiver is asked before it is sent again.
func TestAMailWhoseAnswerWasLostIsNotSentTwice(t *testing.T) {
	w := newWorld(t)
	w.postmark.Answer(func(_ http.ResponseWriter, _ *http.Request, n int, m *notifytest.Mail) bool {
		if n > 1 {
			return false
		}
		w.postmark.Take(m)
		panic(http.ErrAbortHandler)
	})
	w.notices()
	w.addUser("dan@acme.com")
	eventually(t, "it is sent", func() bool { return w.count(`select count(*) from rgw.notices where state = 'sent'`) == 1 })
	if got := len(w.postmark.Taken()); got != 1 {
		t.Errorf("the mail was sent %d times", got)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	w := newWorld(t)
	w.postmark.Answer(func(rw http.ResponseWriter, _ *http.Request, n int, _ *notifytest.Mail) bool {
		if n > 1 {
			return false
		}
		rw.Header().Set("Retry-After", "2")
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	w.notices(func(c *notify.Config) { c.Limits.Mails = 1 })
	for i := range 5 {
		w.addUser(fmt.Sprintf("p%d@acme.com", i))
	}
	w.quiet()
	asked := w.postmark.Asked()
	if pause := asked[1].Sub(asked[0]); pause < 1900*time.Millisecond {
		t.Errorf("Postmark was asked again after %v, and asked for two seconds", pause)
	}
	if len(asked) != 6 {
		t.Errorf("it was asked %d times for five mails and one refusal", len(asked))
	}
}

// While Postmark is away one notice is tried, and when it is back there is no storm.
func TestAnOutageOfADayCatchesUpWithoutAStorm(t *testing.T) {
	w := newWorld(t)
	w.postmark.Answer(func(rw http.ResponseWriter, _ *http.Request, _ int, _ *notifytest.Mail) bool {
		rw.WriteHeader(http.StatusBadGateway)
		return true
	})
	s, stop := w.notices(func(c *notify.Config) {
		c.Limits.Alike, c.Limits.Altogether = 1<<20, 1<<20 // the day's notices came one by one
	})
	w.addUser("ana@acme.com", adminRole())
	for i := range 300 {
		w.addUser(fmt.Sprintf("p%d@acme.com", i))
	}
	eventually(t, "all is followed", func() bool { return w.count(`select count(*) from rgw.notices`) == 601 })
	eventually(t, "Postmark was tried again and again", func() bool { return len(w.postmark.Asked()) >= 12 })
	asked := w.postmark.Asked()
	// Never more than was under way when it began, and then one at a time, with pauses of 50 to 150 ms once there were a few.
	if most := 8 + 4 + int(asked[len(asked)-1].Sub(asked[0])/(50*time.Millisecond)); len(asked) > most {
		t.Errorf("Postmark was asked %d times while it was away, in %s", len(asked), asked[len(asked)-1].Sub(asked[0]))
	}
	stop()
	w.owner.MustExec(`update rgw.notices set made_at = made_at - interval '1 day', next_at = now(), attempt_id = null, unsure = false`)
	w.owner.MustExec(`update rgw.notice_media set failures = 0, paused_until = '-infinity'`)
	w.postmark.Answer(nil)
	_ = s
	w.notices()
	w.quiet()
	t.Logf("of 601 notices, %d mails after the outage; Postmark was asked %d times in it", len(w.postmark.Taken()), len(asked))
	ana := w.subjects("ana@acme.com")
	if len(ana) > 3 || !slices.ContainsFunc(ana, func(s string) bool { return strings.Contains(s, "in one") }) {
		t.Errorf("after a day ana gets %d mails: %q", len(ana), ana)
	}
	for i := range 300 {
		if got := w.subjects(fmt.Sprintf("p%d@acme.com", i)); len(got) != 1 {
			t.Fatalf("p%d gets %q", i, got)
		}
	}
}

func TestWhatIsLongPastIsNotToldOneByOne(t *testing.T) {
	w := newWorld(t)
	ana := w.addUser("ana@acme.com", adminRole())
	for range 30 {
		e := event(ana, "app.delete")
		e.OccurredAt, e.App, e.Status = time.Now().Add(-48*time.Hour).UTC().Truncate(time.Microsecond), "web", 200
		w.record(e)
	}
	eventually(t, "all has its place", func() bool {
		return w.count(`select (select count(*) from rgw.audit_events) - (select count(*) from rgw.ledger_leaves)`) == 0
	})
	w.owner.MustExec(`insert into rgw.ledger_cursors (name, leaf_index) values ('notices', 0)`) // followed anew
	w.notices()
	w.gets("ana@acme.com", "Welcome")
	w.quiet()
	if got := w.subjects("ana@acme.com"); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "was deleted") }) {
		t.Errorf("the past was told one by one: %q", got)
	}
	if n := w.count(`select count(*) from rgw.notices where state = 'held' and topic = 'app.deleted'`); n != 30 {
		t.Errorf("%d are held for a digest, want 30", n)
	}
}

// When nothing more happens, what was looked at counts as looked at, though it gave rise to nothing.
func TestThePlaceIsKeptWhenNothingMoreHappens(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices(func(c *notify.Config) { c.Limits.Stored = 300 * time.Millisecond })
	w.addUser("dan@acme.com")
	w.gets("dan@acme.com", "Welcome")
	w.record(event(directory.User{Email: "dan@acme.com"}, "app.list"))
	w.told()
	progress, err := s.Progress(t.Context())
	check(t, err)
	if progress.Behind != 0 {
		t.Errorf("%d events count as not looked at", progress.Behind)
	}
}

func TestADeadNoticeIsRetriedBySomebody(t *testing.T) {
	w := newWorld(t)
	w.postmark.Answer(status(422, `{"ErrorCode":406,"Message":"inactive"}`))
	s, _ := w.notices()
	w.addUser("dan@acme.com")
	eventually(t, "it is dead", func() bool { return w.count(`select count(*) from rgw.notices where state = 'dead'`) == 1 })
	list, err := s.List(t.Context(), notify.Filter{State: "dead"})
	check(t, err)
	if len(list) != 1 || !strings.Contains(list[0].Trouble, "inactive") {
		t.Fatalf("the list says %+v", list)
	}
	n, err := s.Retry(t.Context(), w.by, list[0].ID, "")
	check(t, err)
	if n != 1 {
		t.Fatalf("%d were retried", n)
	}
	w.gets("dan@acme.com", "Welcome")
	if _, err := s.Retry(t.Context(), w.by, list[0].ID, ""); directory.CodeOf(err) != "notice-not-dead" {
		t.Errorf("what was sent is retried: %v", err)
	}
}

// A process dies at each step in turn: nothing is lost, and nothing is told twice.
func TestDyingAtAnyStepLosesAndDoublesNothing(t *testing.T) {
	errDied := errors.New("died")
	for _, step := range []string{
		"before the cursor", "before the notices", "before the commit", "after the commit", "before the claim", "after the claim",
		"before the receiver", "after the receiver", "after the note", "before gathering",
	} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			ana := w.addUser("ana@acme.com", adminRole()) // who is told of everybody, in digests
			s := w.service(func(c *notify.Config) {
				c.Limits.Lease, c.Limits.Window = 400*time.Millisecond, 300*time.Millisecond
			})
			var mu sync.Mutex
			seen, died := 0, 0
			s.FailAt(func(at string) error {
				mu.Lock()
				defer mu.Unlock()
				if at == step {
					if seen++; seen%3 == 1 && seen < 30 { // dies, lives twice, dies again
						died++
						return errDied
					}
				}
				return nil
			})
			run(t, s.Run)
			for i := range 20 {
				w.addUser(fmt.Sprintf("p%d@acme.com", i))
			}
			w.told()
			eventually(t, "all is told", func() bool {
				return w.count(`select count(*) from rgw.notices where state in ('waiting', 'held')`) == 0
			})
			mu.Lock()
			defer mu.Unlock()
			if died == 0 {
				t.Fatal("nobody came to the step: this shows nothing")
			}
			for i := range 20 {
				if got := w.subjects(fmt.Sprintf("p%d@acme.com", i)); len(got) != 1 {
					t.Errorf("p%d got %q", i, got)
				}
			}
			arrived := make(map[string]int)
			for _, m := range w.postmark.Taken() {
				if arrived[m.Metadata["notice"]]++; arrived[m.Metadata["notice"]] > 1 {
					t.Errorf("twice: %s to %s", m.Subject, m.To)
				}
			}
			if sent := w.count(`select count(*) from rgw.notices where state = 'sent'`); sent != len(arrived) {
				t.Errorf("%d were sent, and %d arrived", sent, len(arrived))
			}
			told := w.count(`select count(*) from rgw.notices where user_id = $1 and topic = 'people.added'`, ana.ID)
			inDigests := w.count(`select coalesce(sum((content->'digest'->>'total')::int), 0) from rgw.notices where topic = 'digest'`)
			if gathered := w.count(`select count(*) from rgw.notices where state = 'gathered'`); told != 20 || gathered != inDigests || gathered == 0 {
				t.Errorf("ana is told of %d people; %d notices were gathered, and digests tell of %d", told, gathered, inDigests)
			}
		})
	}
}

// Several processes share the work; each notice goes out once and those of one request in their order.
func TestSeveralProcessesShareTheWork(t *testing.T) {
	w := newWorld(t)
	var shared [3]*notify.Service
	for i := range shared {
		shared[i], _ = w.notices(func(c *notify.Config) { c.Limits.Mails = 2 })
	}
	for i := range 100 {
		w.addUser(fmt.Sprintf("p%d@acme.com", i))
	}
	for i := range 100 {
		for request, n := audit.NewEvent(time.Now()).RequestID, 0; n < 3; n++ {
			e := event(directory.User{Email: "ops@acme.com"}, []string{"user.lock", "user.unlock", "factor.add"}[n])
			e.RequestID, e.Resource = request, fmt.Sprintf("p%d@acme.com", i)
			w.record(e)
		}
	}
	w.quiet()
	for i := range 100 {
		got := w.subjects(fmt.Sprintf("p%d@acme.com", i))
		if len(got) != 4 {
			t.Fatalf("p%d got %q", i, got)
		}
		last := -1
		for _, subject := range []string{"Your account was locked", "Your account was unlocked", "A second factor was added"} {
			at := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, subject) })
			if at <= last {
				t.Errorf("p%d got them in another order: %q", i, got)
			}
			last = at
		}
	}
	var sent int64
	for i, s := range shared {
		mail := s.Stats()[0]
		if sent += mail.Sent; mail.Sent == 0 {
			t.Errorf("process %d did nothing", i)
		}
	}
	if sent != 400 {
		t.Errorf("the processes count %d mails, and 400 went out", sent)
	}
}

func TestNoMailIsSentWithoutAToken(t *testing.T) {
	w := newWorld(t)
	s, _ := w.notices(func(c *notify.Config) { c.Postmark = notify.PostmarkConfig{} })
	w.addUser("dan@acme.com")
	eventually(t, "it waits", func() bool { return w.count(`select count(*) from rgw.notices where state = 'waiting'`) == 1 })
	media, err := s.Media(t.Context())
	check(t, err)
	if media[0].Medium != "mail" || media[0].Configured || media[0].Waiting != 1 {
		t.Errorf("it shows as %+v", media[0])
	}
}

func TestInDevelopmentMailsAreInTheLog(t *testing.T) {
	w := newWorld(t)
	w.notices(func(c *notify.Config) { c.Postmark, c.LogMail = notify.PostmarkConfig{}, true })
	w.addUser("dan@acme.com")
	eventually(t, "it is in the log", func() bool {
		return strings.Contains(w.log.String(), "dan@acme.com") && strings.Contains(w.log.String(), "Welcome to the gateway")
	})
}

func TestPatternsMatchWhatTheySay(t *testing.T) {
	finished := func(action string) *audit.Event {
		e := audit.NewEvent(time.Now())
		e.Action = action
		return e
	}
	denied := finished("app.delete")
	denied.Phase, denied.Decision = audit.PhaseRefused, audit.DecisionDeny
	poll := finished("process.list")
	poll.Kind = audit.KindPoll
	alert := finished(ledger.ActionAlert)
	alert.Kind = audit.KindSystem
	started := finished("app.delete")
	started.Phase = audit.PhaseStarted
	for _, c := range []struct {
		pattern string
		event   *audit.Event
		want    bool
	}{
		{"user.*", finished("user.lock"), true}, {"user.*", finished("user.list"), false}, {"user.*", finished("users.lock"), false},
		{"user.list", finished("user.list"), true}, {"app:delete", finished("app.delete"), true}, {"app.delete", started, false},
		{"refused", denied, true}, {"refused", finished("app.delete"), false}, {"alert", alert, true}, {"*", alert, false},
		{"*", finished("app.create"), true}, {"*", finished("app.list"), false}, {"process.*", poll, false},
	} {
		pattern, ok := notify.CheckPattern(c.pattern)
		if !ok {
			t.Fatalf("%s is no pattern", c.pattern)
		}
		if got := notify.Matches(pattern, c.event); got != c.want {
			t.Errorf("%s matches %s %s: %v", c.pattern, c.event.Action, c.event.Phase, got)
		}
	}
	for _, bad := range []string{"", "user", "user.", ".x", "us er.*", "user.**", "a.b.c", strings.Repeat("a", 70) + ".b", "*.*", "user.%"} {
		if _, ok := notify.CheckPattern(bad); ok {
			t.Errorf("%q is a pattern", bad)
		}
	}
}

// What rules speak of must be what the gateway records: an action that is renamed would never be told again.
func TestActionsThatRulesNameAreThere(t *testing.T) {
	known := map[string]bool{}
	for _, rule := range access.Rules() {
		known[rule.Action] = true
	}
	for _, action := range []string{"user.add", "user.set_roles", "user.lock", "user.unlock", "token.create", "token.rotate", "setting.set", "setting.unset", "rack.update", "app.delete"} {
		if !known[action] {
			t.Errorf("nothing is called %s any more", action)
		}
	}
}
