package notifytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// What the gateway's app at Slack has.
const (
	SlackClientID      = "1234567890.1234567890"
	SlackToken         = "xoxb-token-of-tests"     // #nosec G101 -- known to everybody
	SlackClientSecret  = "client-secret-of-tests"  // #nosec G101 -- known to everybody
	SlackSigningSecret = "signing-secret-of-tests" // #nosec G101 -- known to everybody
	SlackCode          = "good-code"               // that Slack sends people back with
	SlackScopes        = "chat:write,chat:write.public,channels:read,users:read,users:read.email"
)

// Slack is a workspace that speaks the part of Slack's Web API that the gateway uses (https://docs.slack.dev). Its
// methods are safe for concurrent use. It must be made by NewSlack, and closed.
type Slack struct {
	*httptest.Server

	mu       sync.Mutex
	messages []Message
	byID     map[string]int // place among messages, by client_msg_id
	revoked  bool
	blind    bool
	answer   SlackAnswer
	people   func(email string) (id string)
}

// SlackAnswer answers a request when it returns true; else Slack answers as it always does.
type SlackAnswer func(w http.ResponseWriter, method string, form url.Values) (handled bool)

// Message is one that was taken.
type Message struct {
	Channel, Text, Thread, ClientID, TS, Blocks string

	At time.Time
}

// NewSlack starts one on loopback. In it ana@acme.com is U0ANA, and there are the channels ops and general.
func NewSlack() *Slack {
	s := &Slack{byID: make(map[string]int), people: func(email string) string {
		if email == "ana@acme.com" {
			return "U0ANA"
		}
		return ""
	}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Address is what SLACK_API_BASE has to be.
func (s *Slack) Address() *url.URL { return address(s.URL + "/api") }

// People says who is in the workspace: the id of who has an address, or nothing.
func (s *Slack) People(id func(email string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.people = id
}

func (s *Slack) serve(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	_ = r.ParseForm()
	method := strings.TrimPrefix(r.URL.Path, "/api/")
	s.mu.Lock()
	answer, people := s.answer, s.people
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if answer != nil && answer(w, method, r.Form) {
		return
	}
	if method == "oauth.v2.access" {
		if r.Form.Get("client_secret") != SlackClientSecret || r.Form.Get("code") != SlackCode {
			SlackError(w, "invalid_code")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"ok": true, "access_token": SlackToken, "token_type": "bot", "scope": SlackScopes, "bot_user_id": "U0BOT", "app_id": "A0APP",
			"team": map[string]string{"id": "T0TEAM", "name": "Acme"}, "authed_user": map[string]string{"id": "U0ANA"},
		})
		return
	}
	token := r.Form.Get("token")
	if token == "" {
		token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if token != SlackToken {
		SlackError(w, "invalid_auth")
		return
	}
	switch method {
	case "chat.postMessage":
		if why := WrongMessage(r.Form); why != "" {
			SlackError(w, why)
			return
		}
		s.Take(r.Form).Accepted(w)
	case "users.lookupByEmail":
		id := people(r.Form.Get("email"))
		if id == "" {
			SlackError(w, "users_not_found")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "user": map[string]any{"id": id, "profile": map[string]string{"email": r.Form.Get("email")}}})
	case "users.info":
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "user": map[string]any{"id": "U0ANA", "is_email_confirmed": true, "profile": map[string]string{"email": "ana@acme.com"}}})
	case "conversations.list":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"ok": true, "channels": []map[string]any{{"id": "C0OPS123", "name": "ops"}, {"id": "C0GEN123", "name": "general"}},
			"response_metadata": map[string]string{"next_cursor": ""},
		})
	case "apps.uninstall":
		s.mu.Lock()
		s.revoked = true
		s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]bool{"ok": true})
	default:
		SlackError(w, "unknown_method")
	}
}

// SlackError answers as Slack does when it refuses: with status 200.
func SlackError(w http.ResponseWriter, code string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error": code})
}

// Take keeps a message, or returns the one that was taken under the same client_msg_id before.
func (s *Slack) Take(form url.Values) Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := form.Get("client_msg_id")
	if place, known := s.byID[id]; known && id != "" && !s.blind {
		return s.messages[place]
	}
	m := Message{
		Channel: form.Get("channel"), Text: form.Get("text"), Thread: form.Get("thread_ts"), ClientID: id, Blocks: form.Get("blocks"),
		TS: fmt.Sprintf("1700000000.%06d", len(s.messages)+1), At: time.Now(),
	}
	s.byID[id] = len(s.messages)
	s.messages = append(s.messages, m)
	return m
}

// Accepted answers that a message was taken.
func (m Message) Accepted(w http.ResponseWriter) {
	_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "channel": m.Channel, "ts": m.TS})
}

// Forget has a message taken again that was taken before under the same client_msg_id.
func (s *Slack) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = true
}

// Taken are the messages so far, in the order in which they were taken.
func (s *Slack) Taken() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Count is how many those are.
func (s *Slack) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages)
}

// Revoked reports whether the app was uninstalled.
func (s *Slack) Revoked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked
}

// Answer says how requests are answered from now on; nil is as Slack does.
func (s *Slack) Answer(answer SlackAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// WrongMessage returns Slack's error for a message that breaks its limits
// (https://docs.slack.dev/reference/block-kit/blocks); empty when it breaks none.
func WrongMessage(form url.Values) string {
	if form.Get("channel") == "" {
		return "channel_not_found"
	}
	if utf8.RuneCountInString(form.Get("text")) > 40_000 {
		return "msg_too_long"
	}
	type text struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	var blocks []struct {
		Type     string `json:"type"`
		BlockID  string `json:"block_id"`
		Text     *text  `json:"text"`
		Fields   []text `json:"fields"`
		Elements []struct {
			Type     string          `json:"type"`
			ActionID string          `json:"action_id"`
			Value    string          `json:"value"`
			Text     json.RawMessage `json:"text"` // an object on a button, a string in a context
		} `json:"elements"`
	}
	if err := json.Unmarshal([]byte(form.Get("blocks")), &blocks); err != nil || len(blocks) == 0 || len(blocks) > 50 {
		return "invalid_blocks"
	}
	within := func(s string, most int) bool { return s != "" && utf8.RuneCountInString(s) <= most }
	for _, b := range blocks {
		good := len(b.BlockID) <= 255
		switch b.Type {
		case "section":
			good = good && (b.Text != nil || len(b.Fields) > 0) && len(b.Fields) <= 10 && (b.Text == nil || within(b.Text.Text, 3000))
			for _, f := range b.Fields {
				good = good && within(f.Text, 2000)
			}
		case "context":
			good = good && len(b.Elements) > 0 && len(b.Elements) <= 10
		case "actions":
			good = good && len(b.Elements) > 0 && len(b.Elements) <= 25
			for _, e := range b.Elements {
				var label text
				good = good && json.Unmarshal(e.Text, &label) == nil && within(label.Text, 75) && len(e.ActionID) <= 255 && len(e.Value) <= 2000
			}
		default:
			good = false
		}
		if !good {
			return "invalid_blocks"
		}
	}
	return ""
}
