package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
)

// A problem is why a request was not served, as RFC 9457 has it told. Code is stable; Detail is a sentence: what
// happened, why, what to do next.
type problem struct {
	Status int
	Code   string
	Detail string
	Field  string // of the request, that is wrong
	Cause  error  // for the log; never shown
	stepUp *StepUpAsked

	// decision is what the record says of it. Only refusals have one: what is merely not well put is not recorded.
	decision   audit.Decision
	retryAfter int    // seconds; 0 for none
	allow      string // methods, with 405
}

func (p *problem) Error() string {
	if p.Cause != nil {
		return p.Code + ": " + p.Cause.Error()
	}
	return p.Code
}

func (p *problem) Unwrap() error { return p.Cause }

func (p *problem) because(err error) *problem {
	p.Cause = err
	return p
}

// malformed is a request that could never be carried out as it was put.
func malformed(code, format string, args ...any) *problem {
	return &problem{Status: http.StatusBadRequest, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// refuse is a request that is not allowed, which is recorded.
func refuse(status int, code, format string, args ...any) *problem {
	return &problem{Status: status, Code: code, Detail: fmt.Sprintf(format, args...), decision: audit.DecisionDeny}
}

// unavailable is the answer when the database could not be asked in time.
func unavailable(err error) *problem {
	return (&problem{
		Status: http.StatusServiceUnavailable, Code: "unavailable", retryAfter: 2,
		Detail: "the gateway could not reach its database in time, and nothing was changed: try again in a few seconds, and tell an administrator if it goes on",
	}).because(err)
}

// unknownOutcome is the answer when a change may have been made or not.
func unknownOutcome(err error) *problem {
	return (&problem{
		Status: http.StatusInternalServerError, Code: "outcome-unknown",
		Detail: "the change may have been made, and its outcome could not be learnt: look before you repeat it",
	}).because(err)
}

func internal(err error) *problem {
	return (&problem{
		Status: http.StatusInternalServerError, Code: "internal",
		Detail: "the gateway made a mistake of its own: tell an administrator the request id",
	}).because(err)
}

// problemOf says what an error means for the client. It is the one map from what packages answer to HTTP.
func problemOf(err error) *problem {
	var own *problem
	var answer *directory.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &answer):
		return &problem{Status: statusOf(answer), Code: answer.Code, Detail: answer.Message}
	case errors.Is(err, directory.ErrOutcomeUnknown):
		return unknownOutcome(err)
	case errors.Is(err, directory.ErrBusy):
		return (&problem{Status: http.StatusServiceUnavailable, Code: "busy", Detail: directory.ErrBusy.Error(), retryAfter: 2}).because(err)
	case errors.Is(err, audit.ErrBadCursor):
		return malformed("bad-cursor", "that is not a cursor of this list: begin at the first page")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, audit.ErrQueueFull),
		errors.Is(err, audit.ErrClosed), postgres.IsUnavailable(err):
		return unavailable(err)
	}
	return internal(err)
}

func statusOf(answer *directory.Error) int {
	switch answer.Kind {
	case directory.Invalid:
		return http.StatusBadRequest
	case directory.NotFound:
		return http.StatusNotFound
	case directory.Conflict:
		return http.StatusConflict
	case directory.Refused:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// write sends the problem.
func (p *problem) write(w http.ResponseWriter, requestID string) {
	body := Problem{
		Type: BasePath + "/docs#" + p.Code, Title: http.StatusText(p.Status), Status: p.Status,
		Code: p.Code, Detail: sentence(p.Detail), RequestId: requestID,
	}
	if p.Field != "" {
		body.Field = &p.Field
	}
	body.StepUp = p.stepUp
	text, err := json.MarshalIndent(body, "", "  ")
	if err != nil { // texts and a number always encode
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(text)+1))
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="rack gateway"`)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(text, '\n')) // a client that hung up is not told
}

// sentence begins with a capital letter: the same texts go on from "admin: " on a command line. What is a name stays
// as it is.
func sentence(s string) string {
	word, _, _ := strings.Cut(s, " ")
	if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }) {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// clean makes a text from outside fit to be repeated.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 80 {
		s = string(runes[:80]) + "…"
	}
	return s
}
