package signin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// skew is by how much the issuer's clock may differ from ours.
const skew = 60 * time.Second

// algorithms that a token may be signed with. Whatever else an issuer offers, it is not taken: not none, nothing with a
// shared secret, nothing that is rarely tried.
var algorithms = []string{oidc.RS256, oidc.ES256}

// issuer is what it says about itself.
type issuer struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
	name     string
	tells    bool // it names itself when a browser comes back (RFC 9207)
}

// discover asks the issuer about itself.
func (h *Handler) discover(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, h.MaxWait)
	defer cancel()
	provider, err := oidc.NewProvider(oidc.ClientContext(asking, h.Client), h.Issuer)
	var i *issuer
	if err == nil {
		i, err = h.newIssuer(ctx, provider)
	}
	if err != nil {
		err = fmt.Errorf("ask %s about itself: %w", h.Issuer, err)
		h.mu.Lock()
		h.trouble = err
		h.mu.Unlock()
		return err
	}
	h.issuer.Store(i)
	return nil
}

func (h *Handler) newIssuer(ctx context.Context, provider *oidc.Provider) (*issuer, error) {
	var about struct {
		JWKS    string   `json:"jwks_uri"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
		Tells   bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := provider.Claims(&about); err != nil {
		return nil, fmt.Errorf("read what it says: %w", err)
	}
	endpoint := provider.Endpoint()
	for what, address := range map[string]string{"authorization": endpoint.AuthURL, "token": endpoint.TokenURL, "key": about.JWKS} {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "https" && !strings.HasPrefix(h.Issuer, "http://") {
			return nil, fmt.Errorf("its %s address is not one that can be used: %q", what, address)
		}
	}
	// Said outright: to find out by trying would use the code twice.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if len(about.Methods) > 0 && !slices.Contains(about.Methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	keys := oidc.ClientContext(context.WithoutCancel(ctx), h.Client)
	return &issuer{
		name: h.Issuer, tells: about.Tells,
		oauth: oauth2.Config{
			ClientID: h.ClientID, ClientSecret: h.ClientSecret.Reveal(), Endpoint: endpoint, RedirectURL: h.RedirectURL(),
			Scopes: []string{oidc.ScopeOpenID, "email", "profile"},
		},
		verifier: provider.VerifierContext(keys, &oidc.Config{
			ClientID: h.ClientID, SupportedSigningAlgs: algorithms,
			SkipExpiryCheck: true, // identify checks all times, with one tolerance
		}),
	}, nil
}

// authorizeURL is where a browser goes to sign in.
func (i *issuer) authorizeURL(f *flow) string {
	return i.oauth.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("prompt", "select_account"))
}

// origin is that of the page on which people sign in.
func (i *issuer) origin() string {
	u, err := url.Parse(i.oauth.Endpoint.AuthURL)
	if err != nil { // newIssuer has parsed it
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// answered reads what the issuer sent the browser back with.
func (i *issuer) answered(query url.Values) *refusal {
	if from := query["iss"]; len(from) > 1 || len(from) == 1 && from[0] != i.name || len(from) == 0 && i.tells {
		return refuse(http.StatusBadRequest, "other-issuer", "the answer came from another identity provider than the one that was asked: begin again")
	}
	if code := query.Get("error"); code != "" {
		return refuse(http.StatusForbidden, "issuer-refused", "the identity provider did not let you in (%s): try again, or ask whoever runs it", printable(code))
	}
	if len(query["code"]) != 1 || query.Get("code") == "" {
		return refuse(http.StatusBadRequest, "no-code", "the identity provider sent nothing that you could be let in by: begin again")
	}
	return nil
}

// exchange gets the token for the code, and checks that the issuer signed it, for us.
func (h *Handler) exchange(ctx context.Context, i *issuer, code string, f *flow) (*oidc.IDToken, *refusal) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.MaxWait)
	defer cancel()
	ctx = oidc.ClientContext(ctx, h.Client)
	answer, err := i.oauth.Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	var said *oauth2.RetrieveError
	switch {
	case errors.As(err, &said) && said.Response.StatusCode < 500:
		return nil, refuse(http.StatusForbidden, "code-refused", "the identity provider did not accept this sign-in: begin again").because(withoutBody(said))
	case err != nil:
		return nil, refuse(http.StatusBadGateway, "issuer-unreachable", "the identity provider did not answer: try again in a while").because(err)
	}
	raw, ok := answer.Extra("id_token").(string)
	if !ok {
		return nil, badToken(errors.New("there is none"))
	}
	token, err := i.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, badToken(err)
	}
	return token, nil
}

// withoutBody is the error without what the issuer wrote, which might quote the code.
func withoutBody(e *oauth2.RetrieveError) error {
	return fmt.Errorf("the token endpoint answered %s, %s", e.Response.Status, printable(e.ErrorCode))
}

func badToken(cause error) *refusal {
	return refuse(http.StatusForbidden, "bad-token", "what the identity provider said about you could not be verified: begin again, and tell an administrator if it goes on").because(cause)
}

// identity is somebody whom the issuer vouches for.
type identity struct {
	Email   string // verified, lower case
	Name    string
	Subject string
}

// identify checks that a token is of this sign-in and of this time, and about somebody who may sign in here.
func (h *Handler) identify(token *oidc.IDToken, f *flow) (*identity, *refusal) {
	var claims struct {
		NotBefore     json.Number     `json:"nbf"`
		Party         string          `json:"azp"`
		Email         string          `json:"email"`
		EmailVerified json.RawMessage `json:"email_verified"`
		HostedDomain  string          `json:"hd"`
		Name          string          `json:"name"`
	}
	if err := token.Claims(&claims); err != nil {
		return nil, badToken(err)
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(f.Nonce)) != 1 {
		return nil, badToken(errors.New("it is not of this sign-in: another nonce"))
	}
	if claims.Party != "" && claims.Party != h.ClientID || claims.Party == "" && len(token.Audience) > 1 {
		return nil, badToken(errors.New("it was made for another party"))
	}
	if err := h.timely(token, claims.NotBefore); err != nil {
		return nil, badToken(err)
	}
	email := claims.Email
	if token.Subject == "" || email == "" {
		return nil, badToken(errors.New("it names nobody, or no address"))
	}
	for _, c := range []byte(email) {
		// Folding makes some letters beyond ASCII the same as others within: an address of somebody else's, then.
		if c <= ' ' || c >= 0x7f {
			return nil, refuse(http.StatusForbidden, "bad-address", "the identity provider names you by an address with characters that cannot be used here: ask an administrator")
		}
	}
	email = strings.ToLower(email)
	if string(claims.EmailVerified) != "true" {
		return nil, refuse(http.StatusForbidden, "address-unverified", "the identity provider has not verified the address %s: verify it there and sign in again", printable(email)).about(email)
	}
	if !h.ofDomain(email, claims.HostedDomain) {
		return nil, refuse(http.StatusForbidden, "other-domain", "%s does not belong to %s: sign in with an address that does", printable(email), h.Domain).about(email)
	}
	return &identity{Email: email, Name: claims.Name, Subject: token.Subject}, nil
}

// ofDomain reports whether somebody belongs to the domain. Google says so by a claim: an address of the domain alone
// could be a private account that was opened with it. Where others make the claim, it has to be right too.
func (h *Handler) ofDomain(email, hosted string) bool {
	if hosted != "" || h.HostedDomain {
		if !strings.EqualFold(hosted, h.Domain) {
			return false
		}
		if h.HostedDomain {
			return true
		}
	}
	return email[strings.LastIndexByte(email, '@')+1:] == h.Domain && strings.Count(email, "@") == 1
}

// timely checks a token's times: it is neither over nor of the future, give or take what clocks differ by.
func (h *Handler) timely(token *oidc.IDToken, notBefore json.Number) error {
	now := h.Now()
	if token.Expiry.Unix() <= 0 || !now.Before(token.Expiry.Add(skew)) {
		return fmt.Errorf("it expired at %s", token.Expiry.UTC().Format(time.RFC3339))
	}
	if token.IssuedAt.Unix() <= 0 || token.IssuedAt.After(now.Add(skew)) {
		return fmt.Errorf("it was issued at %s, which is not yet", token.IssuedAt.UTC().Format(time.RFC3339))
	}
	if notBefore != "" {
		seconds, err := notBefore.Float64()
		if err != nil || seconds > float64(now.Add(skew).Unix()) {
			return fmt.Errorf("it counts from %s on", printable(notBefore.String()))
		}
	}
	return nil
}
