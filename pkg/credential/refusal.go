package credential

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"rackgateway/pkg/access"
)

// Why a token is refused. Resolve returns them inside a *RefusedError; match them with errors.Is.
var (
	ErrUnknown   = errors.New("token unknown")
	ErrExpired   = errors.New("token expired")
	ErrRevoked   = errors.New("token revoked")
	ErrLocked    = errors.New("owner locked")
	ErrIdle      = errors.New("token unused for too long")
	ErrOwnerGone = errors.New("owner removed")
	ErrSignIn    = errors.New("owner has not signed in for too long")
	ErrReplaced  = errors.New("token replaced by rotation")
	ErrChanged   = errors.New("access changed")
)

// ErrUnavailable says that the database could not be asked in time. It is no refusal: the same request may
// pass later. Errors that carry it carry the cause too, for the log.
var ErrUnavailable = errors.New("who may do what cannot be read from the database")

// RefusedError says that a token is not good, and for whom that is to be recorded.
type RefusedError struct {
	// Code is stable, for records and metrics: "token-unknown", "token-expired", "token-revoked",
	// "token-idle", "token-replaced", "sign-in-due", "owner-locked", "owner-removed", "access-changed".
	Code string
	// Message is for the person: what happened, and what to do but for where to log in. It has no percent
	// sign, because the stock CLI takes it for a format string.
	Message string
	// Principal is whose token it is, without any grants; nil when nobody knows.
	Principal *access.Principal

	cause error
}

// Error returns the code.
func (e *RefusedError) Error() string { return "refused: " + e.Code }

// Unwrap returns the sentinel, such as ErrExpired.
func (e *RefusedError) Unwrap() error { return e.cause }

// refuse makes the refusal of a token for a cause; when is the moment that the cause speaks of, if it does.
func refuse(cause error, kind Kind, p *access.Principal, when time.Time) *RefusedError {
	e := &RefusedError{Principal: p, cause: cause}
	name, again := "this token", "make a new one"
	if kind == Session {
		name, again = "this browser session", "sign in again"
	} else if p != nil && p.TokenName != "" {
		name = string(kind) + " token " + printable(p.TokenName)
	}
	at := when.UTC().Format("2006-01-02 15:04 UTC")
	switch {
	case errors.Is(cause, ErrUnknown):
		e.Code, e.Message = "token-unknown", "the gateway does not know "+name+": "+again
	case errors.Is(cause, ErrExpired):
		e.Code, e.Message = "token-expired", fmt.Sprintf("%s expired at %s: %s", name, at, again)
	case errors.Is(cause, ErrRevoked):
		e.Code, e.Message = "token-revoked", name+" was revoked: "+again
	case errors.Is(cause, ErrIdle):
		e.Code, e.Message = "token-idle", fmt.Sprintf("%s was not used since %s and has ended: %s", name, at, again)
	case errors.Is(cause, ErrSignIn):
		e.Code, e.Message = "sign-in-due", printable(p.UserLabel)+" has to sign in again, which was due at "+at
	case errors.Is(cause, ErrReplaced):
		e.Code, e.Message = "token-replaced", fmt.Sprintf("%s was rotated, and this old secret ended at %s: use the new one", name, at)
	case errors.Is(cause, ErrLocked):
		e.Code, e.Message = "owner-locked", printable(p.UserLabel)+" is locked: ask an administrator of the gateway"
	case errors.Is(cause, ErrOwnerGone):
		e.Code, e.Message = "owner-removed", printable(p.UserLabel)+" is no longer a member: ask an administrator of the gateway"
	case errors.Is(cause, ErrChanged):
		e.Code, e.Message = "access-changed", "your access was changed while this request waited: run the command again"
	}
	return e
}

// printable keeps a name from the database fit for a message that the CLI takes for a format string.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '%' || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, name)
}

// Why the gateway ends a socket; shown to the person.
const (
	endChanged = "your access was changed, so this session was ended; run the command again to see what you may do now"
	endExpired = "your token has expired, so this session was ended; get a new one and run the command again"
	endSignIn  = "you have to sign in to the console again, so this session was ended; sign in and run the command again"
	endUnsure  = "the gateway cannot check your access at present, so this session was ended; try again in a while"
	endClosing = "the gateway is stopping, so this session was ended; run the command again"
)
