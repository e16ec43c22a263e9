package signin

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
)

// SessionCookie has the prefix that makes browsers take it from this host alone, over TLS alone (RFC 6265bis).
const SessionCookie = "__Host-rgw-session"

// CSRFHeader carries what CSRF returns, on requests that change something and come with the cookie. A form has it in
// the field csrf.
const CSRFHeader = "X-CSRF-Token"

// Sessions begins, reads and ends browser sessions. It is safe for concurrent use.
type Sessions struct {
	writer *directory.Writer
	reader *directory.Reader
	csrf   *seal.Signer
}

// NewSessions returns sessions that are kept in the directory.
func NewSessions(writer *directory.Writer, reader *directory.Reader, keys seal.Keys) *Sessions {
	return &Sessions{writer: writer, reader: reader, csrf: keys.Signer("csrf")}
}

// Issue signs somebody in: it begins a session with a secret that was never seen before, whatever the browser had, and
// gives it to the browser. Errors are those of [directory.Writer.BeginSession].
func (s *Sessions) Issue(ctx context.Context, w http.ResponseWriter, by directory.Actor, session directory.NewSession) error {
	token, err := credential.New(credential.Session)
	if err != nil {
		return fmt.Errorf("make a session: %w", err)
	}
	session.Hash = token.Hash()
	if _, err := s.writer.BeginSession(ctx, by, session); err != nil {
		return err
	}
	// The database ends it, or the browser when it is closed: neither needs to know the other's clock.
	setCookie(w, SessionCookie, token.Reveal(), 0)
	return nil
}

// FromRequest returns the session that a browser presents. Whether it is any good is for a Resolver to say. Two are
// none: somebody who can write cookies must not choose which one counts.
func (s *Sessions) FromRequest(r *http.Request) (credential.Token, bool) {
	cookies := r.CookiesNamed(SessionCookie)
	if len(cookies) != 1 {
		return credential.Token{}, false
	}
	token, err := credential.Parse(cookies[0].Value)
	if err != nil || token.Kind() != credential.Session {
		return credential.Token{}, false
	}
	return token, true
}

// Clear has the browser forget its session.
func (s *Sessions) Clear(w http.ResponseWriter) { setCookie(w, SessionCookie, "", -1) }

// CSRF is what a page shows that it is ours by: derived from the session, so that it needs no memory and is of no use
// with another one.
func (s *Sessions) CSRF(token credential.Token) string {
	hash := token.Hash()
	return base64.RawURLEncoding.EncodeToString(s.csrf.Sign(hash[:]))
}

// CheckCSRF reports whether the request carries what CSRF returned for the session, in the header or, in a form, in
// the field csrf. It reads the form when there is no header.
func (s *Sessions) CheckCSRF(r *http.Request, token credential.Token) bool {
	text := ""
	switch given := r.Header.Values(CSRFHeader); {
	case len(given) == 1:
		text = given[0]
	case len(given) == 0 && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded":
		text = r.PostFormValue("csrf")
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || token.Kind() != credential.Session {
		return false
	}
	hash := token.Hash()
	return s.csrf.Verify(hash[:], signature)
}

// List returns sessions, the newest first, a page at a time.
func (s *Sessions) List(ctx context.Context, filter directory.SessionFilter) (directory.Page[directory.Session], error) {
	return s.reader.ListSessions(ctx, filter)
}

// Revoke ends a session at once. With of, it has to be that person's.
func (s *Sessions) Revoke(ctx context.Context, by directory.Actor, id, of uuid.UUID, reason string) (directory.Session, error) {
	return s.writer.RevokeSession(ctx, by, id, of, reason)
}
