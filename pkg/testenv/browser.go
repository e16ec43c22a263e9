package testenv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Browser is a browser as far as admin needs one: it keeps cookies, says where its requests come from, and signs in
// at a provider of package idp. It is for one goroutine at a time.
type Browser struct {
	Base string // address of admin, without a slash at the end
	CSRF string // of the session, once signed in

	client *http.Client
}

// NewBrowser makes a browser that trusts these authorities. localhost is 127.0.0.1 to it.
func NewBrowser(base string, roots *x509.CertPool) (*Browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &Browser{Base: base, client: &http.Client{
		Jar: jar,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, strings.Replace(address, "localhost:", "127.0.0.1:", 1))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of the browser's connections.
func (b *Browser) Close() { b.client.CloseIdleConnections() }

// The types of what a browser sends.
const (
	FormType = "application/x-www-form-urlencoded"
	JSONType = "application/json"
)

// Do makes a request, as a page of admin does. Redirects are not followed. An address that begins with a slash is
// admin's; a content type is needed when there is a body.
func (b *Browser) Do(ctx context.Context, method, address, contentType, body string) (Answer, error) {
	if strings.HasPrefix(address, "/") {
		address = b.Base + address
	}
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if b.CSRF != "" && method != http.MethodGet {
		r.Header.Set("X-CSRF-Token", b.CSRF)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(text)}, err
}

// follow makes a request and returns where it leads.
func (b *Browser) follow(ctx context.Context, method, address, form string) (*url.URL, error) {
	kind := ""
	if form != "" {
		kind = FormType
	}
	answer, err := b.Do(ctx, method, address, kind, form)
	if err != nil {
		return nil, err
	}
	if answer.Status < 300 || answer.Status > 399 {
		return nil, fmt.Errorf("%s %s: %d %s", method, address, answer.Status, answer.Body)
	}
	at, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	return at.Parse(answer.Header.Get("Location"))
}

// SignIn goes through the provider's pages as one of its people, and returns where that leads: where to was, if all is
// well. Then the browser has a session.
func (b *Browser) SignIn(ctx context.Context, subject, to string) (*url.URL, error) {
	authorize, err := b.follow(ctx, http.MethodPost, b.Base+"/login/start", url.Values{"return": {to}}.Encode())
	if err != nil {
		return nil, err
	}
	choose, err := b.follow(ctx, http.MethodGet, authorize.String(), "")
	if err != nil {
		return nil, err
	}
	choice := url.Values{"request": {choose.Query().Get("request")}, "subject": {subject}}.Encode()
	back, err := b.follow(ctx, http.MethodPost, choose.String(), choice)
	if err != nil {
		return nil, err
	}
	callback, err := b.follow(ctx, http.MethodGet, back.String(), "")
	if err != nil {
		return nil, err
	}
	led, err := b.follow(ctx, http.MethodGet, callback.String(), "")
	if err != nil {
		return nil, err
	}
	me, err := b.Do(ctx, http.MethodGet, "/api/v1/me", "", "")
	if err != nil {
		return nil, err
	}
	var who struct {
		CSRF string `json:"csrf_token"`
	}
	if err := json.Unmarshal([]byte(me.Body), &who); err != nil {
		return nil, fmt.Errorf("GET /me: %d %s: %w", me.Status, me.Body, err)
	}
	if who.CSRF == "" {
		return nil, errors.New("GET /me tells a signed-in person no CSRF token: " + me.Body)
	}
	b.CSRF = who.CSRF
	return led, nil
}

// Approve goes to the page that a command line named, or opened, and gives a second factor there: what form holds is
// typed into the page. It returns what the page answers.
func (b *Browser) Approve(ctx context.Context, link string, form url.Values) (Answer, error) {
	return b.decide(ctx, link, "/approve", form)
}

// Refuse goes to the page that a command line named, or opened, and refuses what it asks for.
func (b *Browser) Refuse(ctx context.Context, link string) (Answer, error) {
	return b.decide(ctx, link, "/refuse", url.Values{})
}

// stepUpField is where the page says what it asks for.
var stepUpField = regexp.MustCompile(`name="id" value="([0-9a-f-]{36})"`)

func (b *Browser) decide(ctx context.Context, link, what string, form url.Values) (Answer, error) {
	at, err := url.Parse(link)
	if err != nil {
		return Answer{}, err
	}
	page := "/login/u2f"
	answer, err := b.Do(ctx, http.MethodGet, page+"?"+at.RawQuery, "", "")
	if err != nil || answer.Status != http.StatusOK {
		return answer, err
	}
	id := stepUpField.FindStringSubmatch(answer.Body)
	if id == nil {
		return answer, errors.New("the page asks for nothing: " + answer.Body)
	}
	form = maps.Clone(form)
	form.Set("id", id[1])
	form.Set("csrf", b.CSRF)
	form.Set("callback_url", at.Query().Get("callback_url"))
	return b.Do(ctx, http.MethodPost, page+what, FormType, form.Encode())
}

// Verify finishes signing in with the code of an authenticator app.
func (b *Browser) Verify(ctx context.Context, code string) error {
	asked, err := b.Do(ctx, http.MethodPost, "/api/v1/me/step-ups", "", "")
	if err != nil {
		return err
	}
	var step struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(asked.Body), &step); err != nil || asked.Status != http.StatusCreated {
		return fmt.Errorf("POST /me/step-ups: %d %s (%w)", asked.Status, asked.Body, err)
	}
	given, err := b.Do(ctx, http.MethodPost, "/api/v1/me/step-ups/"+step.ID+"/approve", JSONType, `{"kind":"totp","code":"`+code+`"}`)
	if err != nil {
		return err
	}
	if given.Status != http.StatusOK {
		return fmt.Errorf("the factor: %d %s", given.Status, given.Body)
	}
	return nil
}
