package adminapi

import "net/http"

// code is a stable code of a problem, as the page explains it.
type code struct {
	Code   string
	Status int
	Text   string
}

// codes are those of the API itself.
var codes = []code{
	{"no-such-path", http.StatusNotFound, "There is nothing at this path."},
	{"no-such-event", http.StatusNotFound, "The record has no event of that id."},
	{"no-such-method", http.StatusMethodNotAllowed, "The path does not know this method; Allow lists those it knows."},
	{"no-credential", http.StatusUnauthorized, "Neither a session nor a token was sent."},
	{"malformed-credential", http.StatusUnauthorized, "What was sent is not a token, or was not copied whole."},
	{"two-credentials", http.StatusBadRequest, "A token and a cookie were sent, or two tokens."},
	{"too-many-failures", http.StatusTooManyRequests, "Too many wrong credentials come from the address. Wait a few seconds."},
	{"cross-site", http.StatusForbidden, "Another web site made a browser send this."},
	{"csrf", http.StatusForbidden, "X-CSRF-Token is missing, or not of this session."},
	{"enrolment-needed", http.StatusForbidden, "The gateway asks everybody for a second factor, and the caller has none yet. Add one."},
	{"sign-in-factor-needed", http.StatusForbidden, "The caller has signed in and not given a second factor yet; step_up names what to approve."},
	{"factor-needed", http.StatusForbidden, "The operation takes a fresh second factor, or one for itself; step_up names what to approve. Then send it again."},
	{"factor-locked", http.StatusForbidden, "Too many second factors were wrong in this session."},
	{"wrong-code", http.StatusForbidden, "The code, one-time password or backup code is wrong, or was used already."},
	{"wrong-assertion", http.StatusForbidden, "The answer of the passkey or security key could not be verified."},
	{"wrong-words", http.StatusForbidden, "The two words are not those that the terminal shows."},
	{"ceremony-over", http.StatusForbidden, "The challenge was ended, or is of another session. Begin again."},
	{"step-up-expired", http.StatusConflict, "Nobody answered in time."},
	{"step-up-decided", http.StatusConflict, "It was approved or refused already."},
	{"too-many-challenges", http.StatusTooManyRequests, "Five challenges are unanswered. Answer one, or wait a minute."},
	{"bad-query", http.StatusBadRequest, "The part of the address behind the ? cannot be read."},
	{"bad-parameter", http.StatusBadRequest, "A parameter is wrong, unknown or given twice; field names it."},
	{"bad-body", http.StatusBadRequest, "The body is not JSON, or not as described; field names what is wrong."},
	{"bad-request", http.StatusBadRequest, "The request could not be read."},
	{"unexpected-body", http.StatusBadRequest, "This takes no body."},
	{"not-json", http.StatusUnsupportedMediaType, "The body needs Content-Type: application/json."},
	{"too-large", http.StatusRequestEntityTooLarge, "The body is larger than 1 MiB."},
	{"bad-cursor", http.StatusBadRequest, "The cursor is none of this list. Begin at the first page."},
	{"bad-search", http.StatusBadRequest, "The search cannot be read; detail names the column."},
	{"not-provable", http.StatusConflict, "The event cannot be proved: it was dropped, or the ledger is damaged."},
	{"no-checkpoint", http.StatusNotFound, "Nothing has been signed yet."},
	{"no-bucket", http.StatusConflict, "The ledger is not copied to a bucket: AUDIT_ANCHOR_BUCKET is not set."},
	{"too-many-tails", http.StatusTooManyRequests, "The principal follows the record too many times at once."},
	{"no-such-hold", http.StatusNotFound, "There is no such hold in force."},
	{"key-reused", http.StatusUnprocessableEntity, "The idempotency key was sent with another request before."},
	{"in-progress", http.StatusConflict, "The request that first carried the idempotency key is still under way."},
	{"outcome-unknown", http.StatusConflict, "A request was cut off, and whether it was done is not known. Look before you repeat it. Also with status 500."},
	{"answer-lost", http.StatusConflict, "It was done before, and its answer can no longer be read."},
	{"busy", http.StatusServiceUnavailable, "Another change is under way and does not end. Nothing was changed."},
	{"unavailable", http.StatusServiceUnavailable, "The database could not be reached in time. Nothing was changed."},
	{"no-proxy", http.StatusNotFound, "Admin was not told where the proxy is."},
	{"proxy-unreachable", http.StatusBadGateway, "The proxy cannot be reached."},
	{"too-many-streams", http.StatusTooManyRequests, "You listen too many times at once. Close some tabs."},
	{"internal", http.StatusInternalServerError, "A mistake of the gateway's own. Tell an administrator the request id."},
}
