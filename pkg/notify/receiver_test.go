package notify_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/notify"
	"rackgateway/pkg/notify/notifytest"
)

// cutAnswer begins an answer and breaks the connection in its middle.
func cutAnswer(t *testing.T, w http.ResponseWriter) {
	t.Helper()
	w.Header().Set("Content-Length", "4096")
	_, _ = w.Write([]byte(`{"ok":true,"ErrorCode":0,`))
	if err := http.NewResponseController(w).Flush(); err != nil {
		t.Error(err)
	}
	panic(http.ErrAbortHandler)
}

// However slowly and incompletely Postmark answers, a mail that it took is not sent again.
func TestPostmarkThatIsSlowOrCutGetsEachMailOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(t *testing.T, w *world, rw http.ResponseWriter, r *http.Request, m *notifytest.Mail)
	}{
		{"it answers late", func(_ *testing.T, w *world, rw http.ResponseWriter, _ *http.Request, m *notifytest.Mail) {
			<-time.After(50 * time.Millisecond)
			w.postmark.Take(m)
			m.Accepted(rw)
		}},
		{"it takes the mail and never answers", func(_ *testing.T, w *world, _ http.ResponseWriter, r *http.Request, m *notifytest.Mail) {
			w.postmark.Take(m)
			<-r.Context().Done()
		}},
		{"it never answers, and never took the mail", func(_ *testing.T, _ *world, _ http.ResponseWriter, r *http.Request, _ *notifytest.Mail) {
			<-r.Context().Done()
		}},
		{"it is cut in the middle of its answer", func(t *testing.T, w *world, rw http.ResponseWriter, _ *http.Request, m *notifytest.Mail) {
			w.postmark.Take(m)
			cutAnswer(t, rw)
		}},
		{"it took the mail and says that it has trouble", func(_ *testing.T, w *world, rw http.ResponseWriter, _ *http.Request, m *notifytest.Mail) {
			w.postmark.Take(m)
			rw.WriteHeader(http.StatusServiceUnavailable)
		}},
		{"it took the mail and answers with something else", func(_ *testing.T, w *world, rw http.ResponseWriter, _ *http.Request, m *notifytest.Mail) {
			w.postmark.Take(m)
			fmt.Fprint(rw, `{"ErrorCode":0}`)
		}},
		{"it sends elsewhere", func(_ *testing.T, w *world, rw http.ResponseWriter, _ *http.Request, _ *notifytest.Mail) {
			rw.Header().Set("Location", w.slack.URL) // where the token must not go
			rw.WriteHeader(http.StatusTemporaryRedirect)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.postmark.Answer(func(rw http.ResponseWriter, r *http.Request, n int, m *notifytest.Mail) bool {
				if n > 1 {
					return false
				}
				c.answer(t, w, rw, r, m)
				return true
			})
			var elsewhere atomic.Int32
			w.slack.Answer(func(http.ResponseWriter, string, url.Values) bool { elsewhere.Add(1); return false })
			s, _ := w.notices(func(c *notify.Config) { c.Limits.Lease = 2 * time.Second })
			w.addUser("dan@acme.com")
			eventually(t, "it has ended", func() bool { return w.count(`select count(*) from rgw.notices where state in ('sent', 'dead')`) == 1 })
			want := 1
			if c.name == "it sends elsewhere" {
				want = 0
				list, err := s.List(t.Context(), notify.Filter{State: "dead"})
				check(t, err)
				if len(list) != 1 || !strings.Contains(list[0].Trouble, "status 307") || elsewhere.Load() != 0 {
					t.Errorf("a redirect: %+v, and elsewhere was asked %d times", list, elsewhere.Load())
				}
			}
			if got := len(w.postmark.Taken()); got != want {
				t.Errorf("%d mails were taken, want %d", got, want)
			}
		})
	}
}

// However slowly and incompletely Slack answers, a message that it took is shown once, because it carries its id.
func TestSlackThatIsSlowOrCutShowsEachMessageOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(t *testing.T, w *world, rw http.ResponseWriter, form url.Values)
	}{
		{"it answers late", func(_ *testing.T, w *world, rw http.ResponseWriter, form url.Values) {
			<-time.After(50 * time.Millisecond)
			w.slack.Take(form).Accepted(rw)
		}},
		{"it takes the message and never answers", func(_ *testing.T, w *world, _ http.ResponseWriter, form url.Values) {
			w.slack.Take(form)
			panic(http.ErrAbortHandler)
		}},
		{"it is cut in the middle of its answer", func(t *testing.T, w *world, rw http.ResponseWriter, form url.Values) {
			w.slack.Take(form)
			cutAnswer(t, rw)
		}},
		{"it took the message and says that it has trouble", func(_ *testing.T, w *world, rw http.ResponseWriter, form url.Values) {
			w.slack.Take(form)
			rw.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(rw, `<html>bad gateway</html>`)
		}},
		{"it took the message and answers with an error of its own", func(_ *testing.T, w *world, rw http.ResponseWriter, form url.Values) {
			w.slack.Take(form)
			notifytest.SlackError(rw, "fatal_error")
		}},
		{"it took the message and answers with something else", func(_ *testing.T, w *world, rw http.ResponseWriter, form url.Values) {
			w.slack.Take(form)
			fmt.Fprint(rw, `hello`)
		}},
		{"it limits the rate in its body", func(_ *testing.T, _ *world, rw http.ResponseWriter, _ url.Values) {
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(http.StatusTooManyRequests)
			notifytest.SlackError(rw, "ratelimited")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var asked atomic.Int32
			w.slack.Answer(func(rw http.ResponseWriter, method string, form url.Values) bool {
				if method != "chat.postMessage" || asked.Add(1) > 1 {
					return false
				}
				c.answer(t, w, rw, form)
				return true
			})
			s, _ := w.notices()
			w.connect(s)
			_, err := s.Test(t.Context(), w.by, "slack", "C0OPS123")
			check(t, err)
			eventually(t, "it is sent", func() bool { return w.count(`select count(*) from rgw.notices where state = 'sent'`) == 1 })
			if got := w.slack.Taken(); len(got) != 1 {
				t.Errorf("it is shown %d times", len(got))
			}
			if c.name != "it answers late" && asked.Load() < 2 {
				t.Error("it was not tried again")
			}
		})
	}
}

// What only a person can mend is not tried again and again, and says so; nothing is given up meanwhile.
func TestWhatOnlyAPersonCanMendWaitsForThem(t *testing.T) {
	for _, c := range []struct{ medium, name, says string }{
		{"mail", `401 {"ErrorCode":10,"Message":"The Server Token you provided was invalid."}`, "POSTMARK_API_TOKEN"},
		{"mail", `422 {"ErrorCode":400,"Message":"The 'From' address is not a Sender Signature."}`, "does not send for this account"},
		{"mail", `422 {"ErrorCode":405,"Message":"Not allowed to send: out of credits."}`, "out of credits"},
		{"mail", `422 {"ErrorCode":412,"Message":"Your account is pending approval."}`, "pending approval"},
		{"mail", `422 {"ErrorCode":1235,"Message":"The message stream does not exist."}`, "does not exist"},
		{"slack", `200 {"ok":false,"error":"token_revoked"}`, "connect Slack again (token_revoked)"},
		{"slack", `200 {"ok":false,"error":"account_inactive"}`, "connect Slack again"},
		{"slack", `200 {"ok":false,"error":"missing_scope","needed":"chat:write","provided":"users:read"}`, "missing_scope"},
	} {
		t.Run(c.medium+" "+c.name, func(t *testing.T) {
			w := newWorld(t)
			var asked atomic.Int32
			code, body, _ := strings.Cut(c.name, " ")
			refuse := func(rw http.ResponseWriter) bool {
				asked.Add(1)
				if code != "200" {
					rw.WriteHeader(map[string]int{"401": 401, "422": 422}[code])
				}
				fmt.Fprint(rw, body)
				return true
			}
			w.postmark.Answer(func(rw http.ResponseWriter, _ *http.Request, _ int, _ *notifytest.Mail) bool { return refuse(rw) })
			w.slack.Answer(func(rw http.ResponseWriter, method string, _ url.Values) bool {
				return method == "chat.postMessage" && refuse(rw)
			})
			s, _ := w.notices()
			w.connect(s)
			for i := range 3 {
				if c.medium == "mail" {
					w.addUser(fmt.Sprintf("p%d@acme.com", i))
					continue
				}
				_, err := s.Test(t.Context(), w.by, "slack", "C0OPS123")
				check(t, err)
			}
			w.told()
			var state notify.MediumState
			eventually(t, "it is said why", func() bool {
				media, err := s.Media(t.Context())
				check(t, err)
				for _, m := range media {
					if m.Medium == c.medium {
						state = m
					}
				}
				return state.Failures > 0
			})
			if !strings.Contains(state.Trouble, c.says) || state.PausedUntil == nil || time.Until(*state.PausedUntil) < 4*time.Minute {
				t.Errorf("it says %q, and pauses until %v", state.Trouble, state.PausedUntil)
			}
			if state.Waiting != 3 || state.Dead != 0 || asked.Load() > 3 { // those that were under way
				t.Errorf("%d wait, %d were given up, and it was asked %d times", state.Waiting, state.Dead, asked.Load())
			}
		})
	}
}

// Trouble with the database is told afterwards, once, when it lasted; and not before it can be recorded.
func TestTroubleThatLastedIsToldAfterwards(t *testing.T) {
	w := newWorld(t)
	now, trouble := time.Now(), ""
	var mu sync.Mutex
	at := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s, _ := w.notices(func(c *notify.Config) { c.Now, c.Healthy = at, func() string { return trouble } })
	w.addUser("ana@acme.com", adminRole())
	watch := new(notify.Watcher)
	pass := func(d time.Duration, is string) error {
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		trouble = is
		return watch.Look(t.Context(), s)
	}
	recorded := func() int { return w.count(`select count(*) from rgw.audit_events where action = 'gateway.trouble'`) }

	check(t, pass(0, ""))
	check(t, pass(2*time.Second, "admin did not hear its database"))
	check(t, pass(20*time.Second, ""))
	if recorded() != 0 {
		t.Error("twenty seconds are told")
	}
	check(t, pass(2*time.Second, "admin did not hear its database"))
	check(t, pass(29*time.Second, "admin did not hear its database"))
	if recorded() != 0 {
		t.Error("trouble is told while it lasts, when nothing can be recorded")
	}
	w.owner.MustExec(`create function rgw.refuse() returns trigger language plpgsql as $$ begin raise 'the disk is full'; end $$`)
	w.owner.MustExec(`create trigger refuse before insert on rgw.audit_events for each row when (new.action = 'gateway.trouble') execute function rgw.refuse()`)
	if err := pass(6*time.Second, ""); err == nil {
		t.Error("what could not be recorded is taken for recorded")
	}
	// The trigger stays: to drop it, its table would have to be locked against whoever is at work.
	w.owner.MustExec(`create or replace function rgw.refuse() returns trigger language plpgsql as $$ begin return new; end $$`)
	check(t, pass(time.Hour, ""))
	w.gets("ana@acme.com", "The gateway had trouble with its database")
	check(t, pass(time.Second, ""))
	if recorded() != 1 {
		t.Errorf("it is recorded %d times", recorded())
	}
	for _, m := range w.postmark.Taken() {
		if strings.HasPrefix(m.Subject, "The gateway had trouble") && !strings.Contains(m.TextBody, "For 35s until") {
			t.Errorf("the hour in which it could not be recorded counts too:\n%s", m.TextBody)
		}
	}
}
