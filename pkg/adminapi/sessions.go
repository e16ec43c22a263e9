package adminapi

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// Sessions knows the browser's side of sessions: pkg/signin does.
type Sessions interface {
	// FromRequest reads the session's cookie. It tells nothing of whether the session is good.
	FromRequest(r *http.Request) (credential.Token, bool)
	// CSRF is what a session's own pages prove themselves with, and CheckCSRF holds a request to it.
	CSRF(session credential.Token) string
	CheckCSRF(r *http.Request, session credential.Token) bool
}

func (x *exchange) sessionPage(page directory.Page[directory.Session]) SessionPage {
	out := SessionPage{Items: make([]Session, len(page.Items)), Next: next(page.Next)}
	for i, s := range page.Items {
		out.Items[i] = Session{
			Id: s.ID, User: person(s.UserID, s.Email), CreatedAt: s.CreatedAt, LastSeenAt: s.SeenAt, ExpiresAt: s.ExpiresAt,
			UserAgent: s.UserAgent, Current: x.principal.TokenKind == access.TokenKindSession && s.ID.String() == x.principal.TokenID,
		}
		if s.Address.IsValid() {
			out.Items[i].Address = s.Address.String()
		}
	}
	return out
}

// ListMySessions lists the caller's own sessions.
func (a operations) ListMySessions(ctx context.Context, in ListMySessionsRequestObject) (ListMySessionsResponseObject, error) {
	x := exchangeIn(ctx)
	page, err := a.Reader.ListSessions(ctx, directory.SessionFilter{
		User: x.principal.UserID, Limit: limitOf(in.Params.Limit), After: text(in.Params.Cursor),
	})
	if err != nil {
		return nil, err
	}
	return ListMySessions200JSONResponse(x.sessionPage(page)), nil
}

// RevokeMySession ends a session of the caller's own.
func (a operations) RevokeMySession(ctx context.Context, in RevokeMySessionRequestObject) (RevokeMySessionResponseObject, error) {
	x := exchangeIn(ctx)
	if _, err := a.Writer.RevokeSession(ctx, x.actor(), in.SessionId, mustID(x.principal.UserID), x.reasonBy()); err != nil {
		return nil, err
	}
	return RevokeMySession204Response{}, nil
}

// ListSessions lists everybody's sessions.
func (a operations) ListSessions(ctx context.Context, in ListSessionsRequestObject) (ListSessionsResponseObject, error) {
	page, err := a.Reader.ListSessions(ctx, directory.SessionFilter{
		User: text(in.Params.User), Limit: limitOf(in.Params.Limit), After: text(in.Params.Cursor),
	})
	if err != nil {
		return nil, err
	}
	return ListSessions200JSONResponse(exchangeIn(ctx).sessionPage(page)), nil
}

// RevokeSession ends somebody's session.
func (a operations) RevokeSession(ctx context.Context, in RevokeSessionRequestObject) (RevokeSessionResponseObject, error) {
	x := exchangeIn(ctx)
	if _, err := a.Writer.RevokeSession(ctx, x.actor(), in.SessionId, uuid.Nil, x.reasonBy()); err != nil {
		return nil, err
	}
	return RevokeSession204Response{}, nil
}
