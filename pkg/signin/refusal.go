package signin

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// A refusal is why somebody is not signed in, or out: an answer for the person and a code for the record.
type refusal struct {
	status  int
	code    string // stable
	message string // a sentence: what happened, why, what to do next
	address string // that was to be signed in, as far as it is known
	cause   error  // for the log; never shown

	recorded bool // it leaves no event here
}

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func (r *refusal) because(cause error) *refusal  { r.cause = cause; return r }
func (r *refusal) about(address string) *refusal { r.address = address; return r }
func (r *refusal) unrecorded() *refusal          { r.recorded = true; return r }

// unavailable is the answer when the database could not be asked: nothing was changed, or nobody knows.
func unavailable(cause error) *refusal {
	return refuse(http.StatusServiceUnavailable, "unavailable", "the gateway cannot reach its database: try again in a few seconds, and tell an administrator if it goes on").
		because(cause).unrecorded()
}

func broken(cause error) *refusal {
	return refuse(http.StatusInternalServerError, "internal", "the gateway made a mistake of its own: try again, and tell an administrator if it goes on").
		because(cause).unrecorded()
}

func (h *Handler) noIssuer() *refusal {
	return refuse(http.StatusServiceUnavailable, "issuer-unreachable", "the identity provider cannot be reached at present, so nobody new can sign in: try again in a while").because(h.Ready())
}

// refuse answers with the page that says why, and records it. Without a record the answer is that there is none: a
// refusal is never told as if it had been recorded.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, v *visit, refused *refusal) {
	if !refused.recorded {
		if err := h.record(r.Context(), v, refused); err != nil {
			h.Log.ErrorContext(r.Context(), "a refused sign-in could not be recorded", "request", v.id, "code", refused.code, "error", err)
			refused = unavailable(err)
		}
	}
	if refused.cause != nil {
		h.Log.WarnContext(r.Context(), "a sign-in was refused", "request", v.id, "code", refused.code, "cause", printable(refused.cause.Error()))
	}
	if refused.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	h.show(w, r, refused.status, pageData{
		Title: "You are not signed in", Message: refused.message, Code: refused.code, Request: v.id.String(), Again: loginPath,
	})
}

// floodLimit is how many refusals a minute are recorded one by one: anybody at all can bring them about, as often as
// they like. Further ones are recorded as a count.
const floodLimit = 60

func (h *Handler) record(ctx context.Context, v *visit, refused *refusal) error {
	if h.count(refused.code) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.MaxWait)
	defer cancel()
	return h.Directory.RefuseSession(ctx, v.by, refused.address, refused.code, refused.message)
}

// count counts a refusal, and reports whether that is all that happens to it.
func (h *Handler) count(code string) bool {
	minute := h.Now().Unix() / 60
	h.mu.Lock()
	defer h.mu.Unlock()
	if minute != h.minute {
		h.minute, h.told = minute, 0
	}
	if h.told++; h.told <= floodLimit {
		return false
	}
	h.untold[code]++
	return true
}

// tellCounts records, once a minute and at the end, how many refusals were only counted.
func (h *Handler) tellCounts(ctx context.Context) {
	every := time.NewTicker(time.Minute)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			h.tellCount(ctx)
		case <-ctx.Done():
			h.tellCount(context.WithoutCancel(ctx))
			return
		}
	}
}

func (h *Handler) tellCount(ctx context.Context) {
	h.mu.Lock()
	untold := h.untold
	h.untold = make(map[string]int64)
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, h.MaxWait)
	defer cancel()
	for code, number := range untold {
		by := directory.Actor{Kind: audit.ActorNobody, Client: "console"}
		err := h.Directory.RefuseSessions(ctx, by, code, "refused sign-ins beyond those that were recorded one by one", number)
		if err != nil {
			h.Log.ErrorContext(ctx, "refused sign-ins could not be recorded", "code", code, "number", number, "error", err)
			h.mu.Lock()
			h.untold[code] += number
			h.mu.Unlock()
		}
	}
}

// printable makes a text from outside safe for a page, a log and a terminal.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == '%' || !unicode.IsPrint(c) {
			return '_'
		}
		return c
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
