package notify_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// slackServer speaks the part of Slack's Web API that the gateway uses, as its documentation gives it.
type slackServer struct {
	*httptest.Server

	mu       sync.Mutex
	messages []slacked
	revoked  bool
	answer   func(w http.ResponseWriter, method string, form url.Values) (handled bool)
}

// slacked is a message that was taken.
type slacked struct {
	Channel, Text, Thread, ClientID, TS string
	Blocks                              string
}

const (
	slackToken         = "xoxb-token-of-tests"
	slackClientSecret  = "client-secret-of-tests"
	slackSigningSecret = "signing-secret-of-tests"
)

func newSlackServer(t testing.TB) *slackServer {
	t.Helper()
	s := &slackServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *slackServer) address() *url.URL {
	u, err := url.Parse(s.URL + "/api")
	if err != nil {
		panic(err)
	}
	return u
}

func (s *slackServer) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	method := strings.TrimPrefix(r.URL.Path, "/api/")
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if answer != nil && answer(w, method, r.Form) {
		return
	}
	if method == "oauth.v2.access" {
		if r.Form.Get("client_secret") != slackClientSecret || r.Form.Get("code") != "good-code" {
			fmt.Fprint(w, `{"ok":false,"error":"invalid_code"}`)
			return
		}
		fmt.Fprintf(w, `{"ok":true,"access_token":%q,"token_type":"bot","scope":"chat:write,chat:write.public,channels:read,users:read,users:read.email",
			"bot_user_id":"U0BOT","app_id":"A0APP","team":{"id":"T0TEAM","name":"Acme"},"authed_user":{"id":"U0ANA"}}`, slackToken)
		return
	}
	token := r.Form.Get("token")
	if token == "" {
		token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if token != slackToken {
		fmt.Fprint(w, `{"ok":false,"error":"invalid_auth"}`)
		return
	}
	switch method {
	case "chat.postMessage":
		s.mu.Lock()
		defer s.mu.Unlock()
		id := r.Form.Get("client_msg_id")
		for _, m := range s.messages {
			if id != "" && m.ClientID == id { // taken once
				fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":%q}`, m.Channel, m.TS)
				return
			}
		}
		m := slacked{Channel: r.Form.Get("channel"), Text: r.Form.Get("text"), Thread: r.Form.Get("thread_ts"), ClientID: id, Blocks: r.Form.Get("blocks"),
			TS: fmt.Sprintf("1700000000.%06d", len(s.messages)+1)}
		s.messages = append(s.messages, m)
		fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":%q}`, m.Channel, m.TS)
	case "users.lookupByEmail":
		if r.Form.Get("email") != "ana@acme.com" {
			fmt.Fprint(w, `{"ok":false,"error":"users_not_found"}`)
			return
		}
		fmt.Fprint(w, `{"ok":true,"user":{"id":"U0ANA","profile":{"email":"ana@acme.com"}}}`)
	case "users.info":
		fmt.Fprint(w, `{"ok":true,"user":{"id":"U0ANA","is_email_confirmed":true,"profile":{"email":"ana@acme.com"}}}`)
	case "conversations.list":
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "channels": []map[string]any{{"id": "C0OPS123", "name": "ops"}, {"id": "C0GEN123", "name": "general"}},
			"response_metadata": map[string]string{"next_cursor": ""}})
	case "apps.uninstall":
		s.mu.Lock()
		s.revoked = true
		s.mu.Unlock()
		fmt.Fprint(w, `{"ok":true}`)
	default:
		fmt.Fprint(w, `{"ok":false,"error":"unknown_method"}`)
	}
}

func (s *slackServer) taken() []slacked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

func (s *slackServer) set(answer func(w http.ResponseWriter, method string, form url.Values) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}
