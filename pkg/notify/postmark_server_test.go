package notify_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// postmarkServer speaks Postmark's protocol as its documentation gives it: /email, and the search by metadata.
type postmarkServer struct {
	*httptest.Server

	mu    sync.Mutex
	mails []postmarked
	// answer says how the next request to /email is answered, before anything else; nil answers as Postmark does.
	answer func(w http.ResponseWriter, r *http.Request, n int, m *postmarked) (handled bool)
	asked  int
	at     []time.Time
}

// postmarked is a mail that was taken.
type postmarked struct {
	From, To, Subject, TextBody, MessageStream, Tag string

	HTMLBody string `json:"HtmlBody"`
	Metadata map[string]string
	Headers  []struct{ Name, Value string }
	ID       string `json:"-"`
}

const postmarkToken = "postmark-token-of-tests"

func newPostmarkServer(t testing.TB) *postmarkServer {
	t.Helper()
	p := &postmarkServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /email", p.email)
	mux.HandleFunc("GET /messages/outbound", p.search)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if r.Header.Get("X-Postmark-Server-Token") != postmarkToken {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"ErrorCode":10,"Message":"No Account or Server API tokens were supplied in the HTTP headers."}`)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *postmarkServer) address() *url.URL {
	u, err := url.Parse(p.URL)
	if err != nil {
		panic(err)
	}
	return u
}

func (p *postmarkServer) email(w http.ResponseWriter, r *http.Request) {
	var m postmarked
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.To == "" || m.From == "" {
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"ErrorCode":300,"Message":"Invalid email request"}`)
		return
	}
	p.mu.Lock()
	p.asked++
	p.at = append(p.at, time.Now())
	n, answer := p.asked, p.answer
	p.mu.Unlock()
	if answer != nil && answer(w, r, n, &m) {
		return
	}
	p.take(&m)
	fmt.Fprintf(w, `{"To":%q,"SubmittedAt":"2026-11-23T15:04:05.0000000Z","MessageID":%q,"ErrorCode":0,"Message":"OK"}`, m.To, m.ID)
}

// take keeps a mail as accepted.
func (p *postmarkServer) take(m *postmarked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.ID = fmt.Sprintf("message-%d", len(p.mails)+1)
	p.mails = append(p.mails, *m)
}

func (p *postmarkServer) search(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	type found struct{ MessageID string }
	list := []found{}
	for _, m := range p.mails {
		if m.Metadata["notice"] == r.URL.Query().Get("metadata_notice") {
			list = append(list, found{m.ID})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"TotalCount": len(list), "Messages": list})
}

// taken are the mails so far.
func (p *postmarkServer) taken() []postmarked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.mails)
}

func (p *postmarkServer) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *postmarkServer) set(answer func(w http.ResponseWriter, r *http.Request, n int, m *postmarked) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}
