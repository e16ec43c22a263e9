package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// storage is what the protocol asks for: one client, the people, and sign-ins under way. Refresh, device and service
// tokens are not given.
type storage struct {
	opts  Options
	rsa   *rsa.PrivateKey
	curve *ecdsa.PrivateKey

	knowing sync.RWMutex // guards opts.People

	mu       sync.Mutex // guards what follows, and opts.RedirectURIs
	requests map[string]*request
	codes    map[string]string // request by code
}

// requestLife is how long a sign-in may take.
const requestLife = 10 * time.Minute

// request is a sign-in under way.
type request struct {
	oidc.AuthRequest
	id      string
	began   time.Time
	subject string // "" until somebody has chosen
	at      time.Time
}

func (r *request) GetID() string                      { return r.id }
func (r *request) GetACR() string                     { return "" }
func (r *request) GetAMR() []string                   { return nil }
func (r *request) GetAudience() []string              { return []string{r.ClientID} }
func (r *request) GetAuthTime() time.Time             { return r.at }
func (r *request) GetClientID() string                { return r.ClientID }
func (r *request) GetNonce() string                   { return r.Nonce }
func (r *request) GetRedirectURI() string             { return r.RedirectURI }
func (r *request) GetResponseType() oidc.ResponseType { return r.ResponseType }
func (r *request) GetResponseMode() oidc.ResponseMode { return r.ResponseMode }
func (r *request) GetScopes() []string                { return r.Scopes }
func (r *request) GetState() string                   { return r.State }
func (r *request) GetSubject() string                 { return r.subject }
func (r *request) Done() bool                         { return r.subject != "" }
func (r *request) GetCodeChallenge() *oidc.CodeChallenge {
	if r.CodeChallenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}
}

var (
	errNoRequest = errors.New("there is no such sign-in, or it is over")
	errNoPerson  = errors.New("there is no such person")
	errNoClient  = errors.New("there is no such client")
	errNotGiven  = errors.New("this provider does not give such tokens")
)

// choose notes who somebody says they are.
func (s *storage) choose(id, subject string) error {
	if s.person(subject) == nil {
		return errNoPerson
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	if r == nil {
		return errNoRequest
	}
	chosen := *r // those who hold the former one read it without the lock
	chosen.subject, chosen.at = subject, time.Now()
	s.requests[id] = &chosen
	return nil
}

func (s *storage) person(subject string) *Person {
	s.knowing.RLock()
	defer s.knowing.RUnlock()
	i := slices.IndexFunc(s.opts.People, func(p Person) bool { return p.Subject == subject })
	if i < 0 {
		return nil
	}
	person := s.opts.People[i]
	return &person
}

func (s *storage) people() []Person {
	s.knowing.RLock()
	defer s.knowing.RUnlock()
	return slices.Clone(s.opts.People)
}

func (s *storage) add(person Person) {
	s.knowing.Lock()
	defer s.knowing.Unlock()
	s.opts.People = append(s.opts.People, person)
}

func (s *storage) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	now := time.Now()
	kept := &request{AuthRequest: *r, id: rand.Text(), began: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.requests {
		if now.Sub(old.began) > requestLife {
			s.forgetLocked(id)
		}
	}
	s.requests[kept.id] = kept
	return kept, nil
}

func (s *storage) forgetLocked(id string) {
	delete(s.requests, id)
	for code, of := range s.codes {
		if of == id {
			delete(s.codes, code)
		}
	}
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil {
		return r, nil
	}
	return nil, errNoRequest
}

func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	id := s.codes[code]
	s.mu.Unlock()
	return s.AuthRequestByID(ctx, id)
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = id
	return nil
}

func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(id)
	return nil
}

func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), time.Now().Add(5 * time.Minute), nil
}

func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errNotGiven
}

func (s *storage) TokenRequestByRefreshToken(context.Context, string) (op.RefreshTokenRequest, error) {
	return nil, errNotGiven
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error { return nil }

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) {
	return s.signingKey(jose.RS256), nil
}

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256, jose.ES256}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	var keys []op.Key
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256} {
		k := s.signingKey(alg)
		k.published = true
		keys = append(keys, k)
	}
	return keys, nil
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.opts.ClientID {
		return nil, errNoClient
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return client{id: s.opts.ClientID, redirects: slices.Clone(s.opts.RedirectURIs)}, nil
}

// allow adds an address that people may be sent back to.
func (s *storage) allow(redirect string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.RedirectURIs = append(s.opts.RedirectURIs, redirect)
}

func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != s.opts.ClientID || subtle.ConstantTimeCompare([]byte(secret), []byte(s.opts.ClientSecret)) != 1 {
		return errNoClient
	}
	return nil
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills in what the ID token says of the person.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	person := s.person(r.GetSubject())
	if person == nil {
		return errNoPerson
	}
	info.Subject = person.Subject
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email, info.EmailVerified = person.Email, oidc.Bool(!person.Unverified)
	}
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name = person.Name
	}
	if person.HostedDomain != "" {
		info.AppendClaims("hd", person.HostedDomain)
	}
	return nil
}

func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errNotGiven
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errNotGiven
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return map[string]any{}, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errNotGiven
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errNotGiven
}

func (s *storage) Health(context.Context) error { return nil }

// client is the gateway.
type client struct {
	id        string
	redirects []string
}

func (c client) GetID() string                       { return c.id }
func (c client) RedirectURIs() []string              { return c.redirects }
func (c client) PostLogoutRedirectURIs() []string    { return nil }
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) GrantTypes() []oidc.GrantType { return []oidc.GrantType{oidc.GrantTypeCode} }
func (c client) LoginURL(id string) string {
	return choosePath + "?request=" + url.QueryEscape(id)
}
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }
func (c client) IDTokenLifetime() time.Duration      { return time.Hour }
func (c client) DevMode() bool                       { return true } // a redirect to http://localhost
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string { //nolint:staticcheck // the name is the protocol library's
	return func(scopes []string) []string { return scopes }
}
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
func (c client) IsScopeAllowed(string) bool           { return false }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) ClockSkew() time.Duration             { return 0 }
