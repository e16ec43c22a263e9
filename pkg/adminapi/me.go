package adminapi

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// GetMe answers who the caller is.
func (a operations) GetMe(ctx context.Context, _ GetMeRequestObject) (GetMeResponseObject, error) {
	x := exchangeIn(ctx)
	p := x.principal
	user, err := a.Reader.User(ctx, p.UserID)
	if err != nil {
		return nil, err
	}
	me := GetMe200JSONResponse{
		Kind: MeKind(p.TokenKind), Label: p.Label(), UserId: user.ID, Email: &user.Email, Name: &user.Name, Rack: a.RackName, GatewayHost: some(a.GatewayHost),
		Permissions: []string{}, Bindings: []Binding{}, ExpiresAt: &p.ExpiresAt,
	}
	for _, permission := range access.Permissions() {
		if somewhere(p.Grants, permission) && (p.Ceiling == nil || somewhere(p.Ceiling, permission)) {
			me.Permissions = append(me.Permissions, string(permission))
		}
	}
	for _, grant := range p.Grants {
		if grant.Role != "" {
			me.Bindings = append(me.Bindings, Binding{Role: grant.Role, App: grant.App})
		}
	}
	if p.Kind == access.KindUser {
		f := x.entry.Factor(a.Credentials.Settings(), "")
		// What is missing may have been given a moment ago, at another process even: this process may not have heard yet, and
		// the page that asks would go on asking for the factor.
		if f.Enforced && !f.Verified {
			again, err := x.entry.Again(ctx)
			if err != nil {
				return nil, x.unresolved(err)
			}
			f = again.Factor(a.Credentials.Settings(), "")
		}
		me.Factor = &MyFactor{Required: f.Enforced, Enrolled: f.Enrolled, Verified: f.Verified, Fresh: f.Fresh}
	}
	if x.session {
		token := a.Sessions.CSRF(x.token)
		me.CsrfToken = &token
	}
	return me, nil
}

// somewhere reports whether any of the grants gives the permission over any app. What is the gateway's belongs to no app:
// only a grant over all of them gives it.
func somewhere(grants []access.Grant, permission access.Permission) bool {
	ofGateway := strings.HasPrefix(string(permission), "gateway:")
	return slices.ContainsFunc(grants, func(g access.Grant) bool {
		return g.Permissions.Has(permission) && (!ofGateway || g.App == "*")
	})
}

// ListMyDevices lists the caller's own CLI tokens.
func (a operations) ListMyDevices(ctx context.Context, in ListMyDevicesRequestObject) (ListMyDevicesResponseObject, error) {
	page, err := a.Reader.ListTokens(ctx, directory.TokenFilter{
		Kind: credential.CLI, Owner: exchangeIn(ctx).principal.UserID, Limit: limitOf(in.Params.Limit), After: text(in.Params.Cursor),
	})
	if err != nil {
		return nil, err
	}
	return ListMyDevices200JSONResponse(a.tokenPage(page)), nil
}

// CreateMyDevice makes a CLI token of the caller's own.
func (a operations) CreateMyDevice(ctx context.Context, in CreateMyDeviceRequestObject) (CreateMyDeviceResponseObject, error) {
	x := exchangeIn(ctx)
	token, secret, err := a.Writer.CreateToken(ctx, x.actor(), directory.NewToken{
		Kind: credential.CLI, Name: in.Body.Name, Owner: x.principal.UserID, Headless: in.Body.Headless != nil && *in.Body.Headless,
	})
	if err != nil {
		return nil, err
	}
	return CreateMyDevice201JSONResponse{Token: a.token(token), Secret: secret.Reveal()}, nil
}

// RevokeMyDevice revokes a CLI token of the caller's own.
func (a operations) RevokeMyDevice(ctx context.Context, in RevokeMyDeviceRequestObject) (RevokeMyDeviceResponseObject, error) {
	x := exchangeIn(ctx)
	token, err := a.Reader.Token(ctx, in.TokenId.String())
	if err != nil && directory.CodeOf(err) != "no-such-token" {
		return nil, err
	}
	// Somebody else's is as good as none: nobody learns that it is there.
	if err != nil || token.Kind != credential.CLI || token.OwnerID.String() != x.principal.UserID {
		return nil, refuse(http.StatusNotFound, "no-such-token", "you have no device %s: list yours to see which there are", in.TokenId)
	}
	if _, err := a.Writer.Revoke(ctx, x.actor(), token.ID.String(), "revoked by its owner"); err != nil {
		return nil, err
	}
	return RevokeMyDevice204Response{}, nil
}

// text is an optional parameter, "" when it was not given.
func text[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// limitOf is how many entries a page was asked to have; 0 leaves it to the list.
func limitOf(p *Limit) int {
	if p == nil {
		return 0
	}
	return *p
}

// next is the cursor of the page that follows; absent on the last.
func next(cursor string) *string {
	if cursor == "" {
		return nil
	}
	return &cursor
}

// some is a text that is left out where it is empty.
func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// reasonBy is why something ended that somebody ended without saying why.
func (x *exchange) reasonBy() string {
	return strings.TrimSpace("revoked by " + x.principal.Label())
}

func bindingsOf(bindings []directory.Binding) []Binding {
	list := make([]Binding, len(bindings))
	for i, b := range bindings {
		list[i] = Binding{Role: b.Role, App: b.App}
	}
	return list
}

func bindingsFrom(bindings *[]Binding) []directory.Binding {
	if bindings == nil {
		return nil
	}
	list := make([]directory.Binding, len(*bindings))
	for i, b := range *bindings {
		list[i] = directory.Binding{Role: b.Role, App: b.App}
	}
	return list
}

func person(id uuid.UUID, email string) Person { return Person{Id: id, Email: email} }
