// Package idp is a small OpenID provider, for tests and the demo: real in all that it says by the protocol, and with
// a page in place of passwords, on which one chooses who one is. Never let it vouch for anybody who matters.
//
// The protocol is zitadel/oidc's. Tests can have it tell lies, by Forge, that a careful client must not believe.
package idp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Person is somebody whom the provider vouches for.
type Person struct {
	Subject      string // the provider's own name for them
	Email        string
	Unverified   bool // the address was never confirmed
	Name         string
	HostedDomain string // Google's claim hd; "" for none
	What         string // shown on the page, such as what they may do
}

// Options are what a provider is made of.
type Options struct {
	Issuer       string // its address, without a slash at the end
	ClientID     string
	ClientSecret string
	RedirectURIs []string
	People       []Person
}

// Provider is an http.Handler. It is safe for concurrent use, and remembers nothing but sign-ins under way.
type Provider struct {
	opts    Options
	storage *storage
	openid  *op.Provider

	mu    sync.Mutex
	forge func(*Forgery)
}

// New makes a provider with keys of its own.
func New(opts Options) (*Provider, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the provider's key: %w", err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the provider's key: %w", err)
	}
	p := &Provider{opts: opts, storage: &storage{
		opts: opts, rsa: private, curve: curve, requests: make(map[string]*request), codes: make(map[string]string),
	}}
	var options []op.Option
	if strings.HasPrefix(opts.Issuer, "http://") {
		options = append(options, op.WithAllowInsecure())
	}
	config := &op.Config{CodeMethodS256: true, AuthMethodPost: true}
	if _, err := rand.Read(config.CryptoKey[:]); err != nil {
		return nil, fmt.Errorf("make the provider's key: %w", err)
	}
	p.openid, err = op.NewProvider(config, p.storage, op.StaticIssuer(opts.Issuer), options...)
	if err != nil {
		return nil, fmt.Errorf("set up the provider: %w", err)
	}
	return p, nil
}

// AllowRedirect adds an address that people may be sent back to.
func (p *Provider) AllowRedirect(uri string) { p.storage.allow(uri) }

// AddPerson adds somebody whom the provider vouches for.
func (p *Provider) AddPerson(person Person) { p.storage.add(person) }

// choosePath is the page on which one chooses who one is.
const choosePath = "/choose"

// ServeHTTP serves the protocol and the page.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == choosePath && r.Method == http.MethodPost:
		p.chosen(w, r)
	case r.URL.Path == choosePath:
		p.choose(w, r)
	case r.URL.Path == p.openid.TokenEndpoint().Relative():
		p.answerToken(w, r)
	default:
		p.openid.ServeHTTP(w, r)
	}
}

var page = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Who are you?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 10vh auto; padding: 0 1rem; color: #1c2430; background: #f5f6f8 }
button { display: block; width: 100%; text-align: left; font: inherit; margin: .6rem 0; padding: .8rem 1rem; border: 1px solid #c4cad3; border-radius: .5rem; background: #fff; cursor: pointer }
button:hover, button:focus { border-color: #2457c5 } small { color: #596273; display: block }
</style>
<h1>Who are you?</h1>
<p>This stands in for a company's sign-in while one tries things out. It believes everybody.</p>
<form method="post"><input type="hidden" name="request" value="{{.Request}}">
{{range .People}}<button name="subject" value="{{.Subject}}">{{.Name}} <small>{{.Email}}{{with .What}}: {{.}}{{end}}</small></button>
{{end}}</form></html>`))

func (p *Provider) choose(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("request")
	if _, err := p.storage.AuthRequestByID(r.Context(), id); err != nil {
		http.Error(w, "this sign-in is over: begin again where you came from", http.StatusBadRequest)
		return
	}
	var text bytes.Buffer
	if err := page.Execute(&text, struct {
		Request string
		People  []Person
	}{id, p.storage.people()}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text.Bytes()) // a browser that hung up is not told
}

func (p *Provider) chosen(w http.ResponseWriter, r *http.Request) {
	id, subject := r.PostFormValue("request"), r.PostFormValue("subject")
	if err := p.storage.choose(id, subject); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx := op.ContextWithIssuer(r.Context(), p.opts.Issuer)
	http.Redirect(w, r, op.AuthCallbackURL(p.openid)(ctx, id), http.StatusSeeOther)
}

// signingKey is the key that tokens are signed with.
func (s *storage) signingKey(alg jose.SignatureAlgorithm) key {
	if alg == jose.ES256 {
		return key{id: "curve", algorithm: alg, private: s.curve, public: &s.curve.PublicKey}
	}
	return key{id: "rsa", algorithm: alg, private: s.rsa, public: &s.rsa.PublicKey}
}

// key is both a signing key and the public half that is published.
type key struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   any
	public    any
	published bool
}

func (k key) ID() string                                  { return k.id }
func (k key) Algorithm() jose.SignatureAlgorithm          { return k.algorithm }
func (k key) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k key) Use() string                                 { return "sig" }
func (k key) Key() any {
	if k.published {
		return k.public
	}
	return k.private
}

// Server is a provider that listens.
type Server struct {
	*Provider
	URL string // the issuer

	server *http.Server
	done   chan struct{}
}

// Listen serves a provider on an address of this machine, such as 127.0.0.1:0, without TLS. When the options name no
// issuer, it is that address.
func Listen(ctx context.Context, address string, opts Options) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for sign-ins: %w", err)
	}
	if opts.Issuer == "" {
		opts.Issuer = "http://" + listener.Addr().String()
	}
	provider, err := New(opts)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &Server{Provider: provider, URL: opts.Issuer, done: make(chan struct{})}
	s.server = &http.Server{
		Handler: provider, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(listener) // it ends when it is closed
	}()
	return s, nil
}

// Close stops it, and waits until it has stopped. It may be called again.
func (s *Server) Close() error {
	err := s.server.Close()
	<-s.done
	return err
}
