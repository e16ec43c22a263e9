package doctor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/config"
)

func signInChecks() []check {
	return []check{
		{
			id: "issuer", group: "Sign-in", title: "The identity provider can be reached, and is the one that it says",
			remedy:  "check GOOGLE_OAUTH_BASE_URL, which must be exactly the issuer's own name, and admin's way out",
			examine: examineIssuer,
		},
		{
			id: "redirect", group: "Sign-in", title: "The identity provider sends people back to this gateway",
			remedy:  "register ADMIN_URL and /login/callback as the client's redirect address at the provider, letter by letter",
			examine: examineRedirect,
		},
		{
			id: "allowed-domain", group: "Sign-in", title: "Only people of one domain of your own may sign in",
			remedy:  "set GOOGLE_ALLOWED_DOMAIN to your organisation's own domain",
			examine: examineDomain,
		},
	}
}

// discovery is what an issuer says of itself.
type discovery struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`

	ahead *time.Duration // by how much our clock is ahead of the issuer's, to the second; nil when it does not say
}

func (d *Doctor) discover(ctx context.Context) (*discovery, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	issuer := strings.TrimSuffix(d.Config.SignIn.Issuer, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer's address: %w", err)
	}
	resp, err := client(d.Public).Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the issuer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer answered %s to the question what it is", resp.Status)
	}
	var said discovery
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&said); err != nil {
		return nil, fmt.Errorf("reading what the issuer says of itself: %w", err)
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		ahead := d.Now().Sub(at)
		said.ahead = &ahead
	}
	return &said, nil
}

func examineIssuer(_ context.Context, d *Doctor, seen *sight) finding {
	said, err := seen.issuer()
	switch {
	case err != nil:
		return fail("%v", err)
	case said.Issuer != d.Config.SignIn.Issuer:
		return fail("it calls itself %q, and GOOGLE_OAUTH_BASE_URL is %q", said.Issuer, d.Config.SignIn.Issuer)
	case !strings.HasPrefix(said.Authorization, "https://") && !d.Config.Server.DevMode:
		return fail("it has people sign in at %s, which is no https", said.Authorization)
	}
	return pass("%s", said.Issuer)
}

// examineRedirect asks for the page on which people sign in, as their browser would, and goes no further: an issuer
// refuses an address that is not registered before it asks anybody anything.
func examineRedirect(ctx context.Context, d *Doctor, seen *sight) finding {
	cfg := d.Config
	if cfg.SignIn.ClientID == "" || cfg.Server.AdminURL == nil {
		return unknown("GOOGLE_CLIENT_ID or DOMAIN is not set here: run this with the environment of admin serve")
	}
	said, err := seen.issuer()
	if err != nil {
		return unknown("the identity provider cannot be reached from here")
	}
	to, err := url.Parse(said.Authorization)
	if err != nil {
		return fail("the address that it has people sign in at cannot be read")
	}
	redirect := cfg.Server.AdminURL.JoinPath("/login/callback").String()
	challenge := sha256.Sum256([]byte(rand.Text()))
	query := to.Query()
	for name, value := range map[string]string{
		"client_id": cfg.SignIn.ClientID, "redirect_uri": redirect, "response_type": "code", "scope": "openid email profile",
		"state": rand.Text(), "nonce": rand.Text(), "code_challenge_method": "S256", "code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]),
	} {
		query.Set(name, value)
	}
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return fail("the address that it has people sign in at cannot be read")
	}
	resp, err := client(d.Public).Do(req)
	if err != nil {
		return unknown("the page on which people sign in cannot be reached from here: %v", err)
	}
	_ = resp.Body.Close()
	where, _ := resp.Location()
	switch {
	case resp.StatusCode >= 500:
		return unknown("the provider answered %s", resp.Status)
	case resp.StatusCode >= 400:
		return fail("the provider refuses the client, or %s as where to send people back to: it answered %s", redirect, resp.Status)
	case where != nil && (where.Query().Has("error") || where.Query().Has("authError") || strings.Contains(where.Path, "/error")):
		return fail("the provider refuses the client, or %s as where to send people back to", redirect)
	}
	return pass("%s is taken", redirect)
}

// publicMail are domains that anybody gets an address at.
func publicMail() []string {
	return []string{"gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "yahoo.com", "icloud.com", "me.com", "aol.com", "proton.me", "protonmail.com", "gmx.com", "gmx.net", "gmx.de", "web.de", "mail.ru", "yandex.ru", "qq.com", "163.com"}
}

func examineDomain(_ context.Context, d *Doctor, _ *sight) finding {
	domain := d.Config.SignIn.AllowedDomain
	switch {
	case domain == "":
		return unknown("GOOGLE_ALLOWED_DOMAIN is not set here: run this with the environment of admin serve")
	case slices.Contains(publicMail(), strings.ToLower(domain)):
		return fail("%s is a domain that anybody gets an address at", domain)
	case d.Config.SignIn.Issuer == config.GoogleIssuer:
		return pass("%s, as a hosted domain of Google", domain)
	}
	return pass("%s", domain)
}
