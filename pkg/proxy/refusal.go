package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
)

// A refusal is why a request is not served: an answer for the person and a code for the record.
//
// The stock CLI prints Message as it stands, behind "ERROR: ", and uses it as a format string, so it never
// holds a percent sign. Some texts make the CLI behave in ways of its own ("no such app", "response status
// 404"); no refusal contains them, except "cli token is expired", which makes it show the message where it
// would hide any other.
type refusal struct {
	Status  int    // HTTP status
	Code    string // stable, for scripts and for the record
	Message string // a sentence: what happened, why, what to do next

	Decision audit.Decision // deny unless said otherwise
	Cause    error          // for the log; never shown

	retryAfter int // seconds; 0 for none

	session string    // where the CLI gets a session for the second factor that is lacking; "" for nowhere
	held    bool      // and it has no browser to send anybody to
	stepUp  uuid.UUID // the challenge; zero for none
	page    string    // and where it is answered
	asked   bool      // the challenge was opened by this request, and none that stood already
}

func (r *refusal) Error() string {
	if r.Cause != nil {
		return r.Code + ": " + r.Cause.Error()
	}
	return r.Code
}

func (r *refusal) Unwrap() error { return r.Cause }

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{Status: status, Code: code, Message: fmt.Sprintf(format, args...), Decision: audit.DecisionDeny}
}

func (r *refusal) because(err error) *refusal {
	r.Cause = err
	return r
}

// unavailable is the answer when PostgreSQL could not be asked, or could not take a record, in time.
func unavailable(what string, err error) *refusal {
	r := refuse(http.StatusServiceUnavailable, "record-unavailable",
		"the gateway %s, so the request was not served and nothing was changed on the rack: try again in a few seconds, and tell an administrator if it goes on", what)
	r.retryAfter = 2
	return r.because(err)
}

// write sends the refusal as the CLI reads it: a JSON object whose "error" is shown to the person.
func (r *refusal) write(w http.ResponseWriter, requestID string) {
	message := r.Message
	if r.Status >= 500 && requestID != "" {
		message += " (request " + requestID + ")"
	}
	body, err := json.MarshalIndent(struct {
		Error     string `json:"error"`
		Code      string `json:"code"`
		RequestID string `json:"request_id,omitempty"`
		StepUp    any    `json:"step_up,omitempty"`
	}{printable(message), r.Code, requestID, r.challenge()}, "", "  ")
	if err != nil { // three strings always encode
		panic(err)
	}
	h := w.Header()
	if r.session != "" {
		h.Set("Www-Authenticate", `Session path="`+r.session+`" token="`+strconv.FormatBool(!r.held)+`"`)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	if r.Status == http.StatusUnauthorized && h.Get("Www-Authenticate") == "" {
		h.Set("Www-Authenticate", `Basic realm="rack gateway"`)
	}
	if r.retryAfter > 0 {
		h.Set("Retry-After", fmt.Sprint(r.retryAfter))
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(append(body, '\n')) // a client that hung up is not told
}

// challenge names the second factor that is lacking, for the console; nil when none is.
func (r *refusal) challenge() any {
	if r.stepUp == uuid.Nil {
		return nil
	}
	return struct {
		ID   uuid.UUID `json:"id"`
		Page string    `json:"page"`
	}{r.stepUp, r.page}
}

// printable makes a text safe for a terminal and for the CLI's format string: names that a client chose
// can be part of a message.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '%':
			return '_'
		case c < ' ' && c != '\n', c == 0x7f, c >= 0x80 && c < 0xa0:
			return '_'
		}
		return c
	}, s)
}
