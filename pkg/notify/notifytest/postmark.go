// Package notifytest has servers that speak what notices go out by, as its documentation gives it: Postmark's JSON API
// and Slack's Web API. They hold what they are sent to the limits that the real ones set, keep what they took, and can be
// told to answer otherwise, late, or not at all. They keep everything in memory and are for tests and measurements alone.
package notifytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// PostmarkToken is the only one that Postmark takes.
const PostmarkToken = "postmark-token-of-tests" // #nosec G101 -- known to everybody

// Postmark takes mails (https://postmarkapp.com/developer/api/email-api) and finds them by their metadata
// (https://postmarkapp.com/developer/api/messages-api). Its methods are safe for concurrent use. It must be made by
// NewPostmark, and closed.
type Postmark struct {
	*httptest.Server

	mu     sync.Mutex
	mails  []Mail
	answer PostmarkAnswer
	asked  []time.Time
	blind  bool
}

// PostmarkAnswer answers the n-th request to /email, counted from 1, when it returns true; else Postmark answers as it
// always does, and takes the mail.
type PostmarkAnswer func(w http.ResponseWriter, r *http.Request, n int, m *Mail) (handled bool)

// Mail is one that was taken.
type Mail struct {
	From, To, Subject, TextBody, MessageStream, Tag string

	HTMLBody string `json:"HtmlBody"`
	Metadata map[string]string
	Headers  []struct{ Name, Value string }
	ID       string    `json:"-"` // as Postmark calls it
	At       time.Time `json:"-"` // when it was taken
}

// NewPostmark starts one on loopback.
func NewPostmark() *Postmark {
	p := &Postmark{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /email", p.email)
	mux.HandleFunc("GET /messages/outbound", p.search)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if r.Header.Get("X-Postmark-Server-Token") != PostmarkToken {
			refuse(w, http.StatusUnauthorized, 10, "The Server Token you provided in the X-Postmark-Server-Token request header was invalid.")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return p
}

// refuse answers with one of Postmark's errors (https://postmarkapp.com/developer/api/overview#error-codes).
func refuse(w http.ResponseWriter, status, code int, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"ErrorCode": code, "Message": message})
}

// Address is what POSTMARK_API_BASE has to be.
func (p *Postmark) Address() *url.URL { return address(p.URL) }

func address(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil { // of a server of our own
		panic(err)
	}
	return u
}

func (p *Postmark) email(w http.ResponseWriter, r *http.Request) {
	var m Mail
	if r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, 0, "Please specify application/json in both the Content-Type and Accept headers.")
		return
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 10<<20)).Decode(&m); err != nil {
		refuse(w, http.StatusUnprocessableEntity, 402, "Invalid JSON")
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, time.Now())
	n, answer := len(p.asked), p.answer
	p.mu.Unlock()
	if answer != nil && answer(w, r, n, &m) {
		return
	}
	if why := m.wrong(); why != "" {
		refuse(w, http.StatusUnprocessableEntity, 300, "Invalid email request: "+why)
		return
	}
	p.Take(&m)
	m.Accepted(w)
}

// wrong says which of Postmark's limits a mail breaks; empty when none.
func (m *Mail) wrong() string {
	if _, err := mail.ParseAddress(m.From); err != nil {
		return "Invalid 'From' address"
	}
	if _, err := mail.ParseAddress(m.To); err != nil {
		return "Invalid 'To' address"
	}
	switch {
	case m.TextBody == "" && m.HTMLBody == "":
		return "neither TextBody nor HtmlBody"
	case utf8.RuneCountInString(m.Subject) > 2000:
		return "the subject is longer than 2000 characters"
	case len(m.TextBody) > 5<<20 || len(m.HTMLBody) > 5<<20:
		return "a body is larger than 5 MB"
	case utf8.RuneCountInString(m.Tag) > 1000:
		return "the tag is longer than 1000 characters"
	case len(m.Metadata) > 10:
		return "more than 10 metadata fields"
	}
	for name, value := range m.Metadata {
		if len(name) > 20 || len(value) > 80 {
			return "a metadata field is longer than 20 and 80 characters"
		}
	}
	return ""
}

// Take keeps a mail as accepted.
func (p *Postmark) Take(m *Mail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.ID, m.At = fmt.Sprintf("message-%d", len(p.mails)+1), time.Now()
	p.mails = append(p.mails, *m)
}

// Accepted answers that a mail was taken.
func (m *Mail) Accepted(w http.ResponseWriter) {
	_ = json.NewEncoder(w).Encode(map[string]any{"To": m.To, "SubmittedAt": m.At.Format(time.RFC3339Nano), "MessageID": m.ID, "ErrorCode": 0, "Message": "OK"})
}

func (p *Postmark) search(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("count") == "" || query.Get("offset") == "" {
		refuse(w, http.StatusUnprocessableEntity, 701, "'count' and 'offset' are required")
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	type found struct{ MessageID string }
	list := []found{}
	for i := range p.mails {
		if p.blind {
			break
		}
		if m := &p.mails[i]; m.Metadata["notice"] == query.Get("metadata_notice") && m.MessageStream == query.Get("messagestream") {
			list = append(list, found{m.ID})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"TotalCount": len(list), "Messages": list})
}

// Forget has the search find nothing from now on, so that nobody can learn what was taken.
func (p *Postmark) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blind = true
}

// Taken are the mails so far, in the order in which they were taken.
func (p *Postmark) Taken() []Mail {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.mails)
}

// Count is how many those are.
func (p *Postmark) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mails)
}

// Asked are the moments at which /email was asked.
func (p *Postmark) Asked() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Answer says how mails are answered from now on; nil is as Postmark does.
func (p *Postmark) Answer(answer PostmarkAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}
