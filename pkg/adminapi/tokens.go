package adminapi

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

func (a *API) token(t directory.Token) Token {
	out := Token{
		Id: t.ID, Kind: TokenKind(t.Kind), Name: t.Name, State: TokenState(strings.ReplaceAll(t.State(a.Now()), " ", "-")),
		Owner: person(t.OwnerID, t.Owner), Bindings: bindingsOf(t.Bindings), Permissions: t.Permissions, SourceCidrs: []string{},
		Headless: t.Headless, ExpiresAt: t.ExpiresAt, RevokedAt: t.RevokedAt, RevokedReason: some(t.RevokedReason),
		SignInDue: t.SignInDue, LastUsedAt: t.UsedAt, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
	}
	if out.Permissions == nil {
		out.Permissions = []string{}
	}
	for _, prefix := range t.Sources {
		out.SourceCidrs = append(out.SourceCidrs, prefix.String())
	}
	if t.CreatorID != uuid.Nil {
		creator := person(t.CreatorID, t.Creator)
		out.Creator = &creator
	}
	if t.UsedFrom.IsValid() {
		out.LastUsedAddress = some(t.UsedFrom.String())
	}
	for i, secret := range t.Secrets { // newest first
		if i == 0 {
			out.Prefix, out.LastFour = secret.Prefix, secret.LastFour
		} else if out.OldSecretUntil == nil {
			out.OldSecretUntil = secret.ValidUntil
		}
	}
	return out
}

func (a *API) tokenPage(page directory.Page[directory.Token]) TokenPage {
	out := TokenPage{Items: make([]Token, len(page.Items)), Next: next(page.Next)}
	for i, token := range page.Items {
		out.Items[i] = a.token(token)
	}
	return out
}

// ListTokens lists everybody's tokens.
func (a operations) ListTokens(ctx context.Context, in ListTokensRequestObject) (ListTokensResponseObject, error) {
	page, err := a.Reader.ListTokens(ctx, directory.TokenFilter{
		Kind: credential.Kind(text(in.Params.Kind)), Owner: text(in.Params.Owner), Search: text(in.Params.Search),
		Ended: in.Params.Ended != nil && *in.Params.Ended, Limit: limitOf(in.Params.Limit), After: text(in.Params.Cursor),
	})
	if err != nil {
		return nil, err
	}
	return ListTokens200JSONResponse(a.tokenPage(page)), nil
}

// CreateToken makes an API token.
func (a operations) CreateToken(ctx context.Context, in CreateTokenRequestObject) (CreateTokenResponseObject, error) {
	x := exchangeIn(ctx)
	want := directory.NewToken{
		Kind: credential.API, Name: in.Body.Name, Owner: text(in.Body.Owner), Bindings: bindingsFrom(in.Body.Bindings),
	}
	if want.Owner == "" {
		want.Owner = x.principal.UserID
	}
	if in.Body.Permissions != nil {
		want.Permissions = *in.Body.Permissions
	}
	if in.Body.ExpiresInDays != nil {
		want.Life = time.Duration(*in.Body.ExpiresInDays) * 24 * time.Hour
	}
	var err error
	if in.Body.SourceCidrs != nil {
		if want.Sources, err = networks(*in.Body.SourceCidrs); err != nil {
			return nil, err
		}
	}
	token, secret, err := a.Writer.CreateToken(ctx, x.actor(), want)
	if err != nil {
		return nil, err
	}
	return CreateToken201JSONResponse{Token: a.token(token), Secret: secret.Reveal()}, nil
}

// networks reads networks, as 203.0.113.0/24 or 2001:db8::/32.
func networks(texts []string) ([]netip.Prefix, error) {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			p := malformed("bad-network", "%q is not a network: write ADDRESS/BITS, such as 203.0.113.0/24 or 2001:db8::/32", clean(text))
			p.Field = "source_cidrs"
			return nil, p
		}
		list[i] = prefix
	}
	return list, nil
}

// GetToken answers with one token.
func (a operations) GetToken(ctx context.Context, in GetTokenRequestObject) (GetTokenResponseObject, error) {
	token, err := a.Reader.Token(ctx, in.TokenId.String())
	if err != nil {
		return nil, err
	}
	return GetToken200JSONResponse(a.token(token)), nil
}

// RevokeToken revokes a token.
func (a operations) RevokeToken(ctx context.Context, in RevokeTokenRequestObject) (RevokeTokenResponseObject, error) {
	x := exchangeIn(ctx)
	if _, err := a.Writer.Revoke(ctx, x.actor(), in.TokenId.String(), x.reasonBy()); err != nil {
		return nil, err
	}
	return RevokeToken204Response{}, nil
}

// RotateToken gives a token a new secret.
func (a operations) RotateToken(ctx context.Context, in RotateTokenRequestObject) (RotateTokenResponseObject, error) {
	token, secret, err := a.Writer.Rotate(ctx, exchangeIn(ctx).actor(), in.TokenId.String(), directory.Rotation{
		KeepOld: time.Duration(in.Body.KeepOldHours) * time.Hour,
	})
	if err != nil {
		return nil, err
	}
	return RotateToken200JSONResponse{Token: a.token(token), Secret: secret.Reveal()}, nil
}

// SetTokenRights makes what an API token may do exactly this.
func (a operations) SetTokenRights(ctx context.Context, in SetTokenRightsRequestObject) (SetTokenRightsResponseObject, error) {
	rights := directory.TokenRights{Bindings: bindingsFrom(in.Body.Bindings)}
	if in.Body.Permissions != nil {
		rights.Permissions = *in.Body.Permissions
	}
	if in.Body.SourceCidrs != nil {
		sources, err := networks(*in.Body.SourceCidrs)
		if err != nil {
			return nil, err
		}
		rights.Sources = &sources
	}
	token, err := a.Writer.SetTokenRights(ctx, exchangeIn(ctx).actor(), in.TokenId.String(), rights)
	if err != nil {
		return nil, err
	}
	return SetTokenRights200JSONResponse(a.token(token)), nil
}
