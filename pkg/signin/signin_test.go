package signin_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
	"rackgateway/pkg/signin"
	"rackgateway/pkg/testenv/idp"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

const clientSecret = "canary-client-secret"

// people are those whom the issuer of these tests knows.
var people = []idp.Person{
	{Subject: "1", Email: "Ana@Acme.com", Name: "Ana", HostedDomain: "acme.com"},
	{Subject: "2", Email: "new@acme.com", Name: "New"},
	{Subject: "3", Email: "unverified@acme.com", Unverified: true},
	{Subject: "4", Email: "eve@evil.com"},
	{Subject: "5", Email: "eve@acme.com.evil.com"},
	{Subject: "6", Email: "other-hd@acme.com", HostedDomain: "evil.com"},
	{Subject: "7", Email: "locked@acme.com"},
	{Subject: "8", Email: "removed@acme.com"},
	{Subject: "9", Email: "\u212aim@acme.com"}, // the sign for kelvin folds to k
	{Subject: "10", Email: "eve@evil.com@acme.com"},
}

// world is a gateway's sign-in with a real issuer and a real database.
type world struct {
	t        testing.TB
	idp      *idp.Server
	site     *httptest.Server
	handler  *signin.Handler
	sessions *signin.Sessions
	writer   *directory.Writer
	reader   *directory.Reader
	cache    *credential.Cache
	db       *sqlx.DB
	log      *lockedBuffer

	mu      sync.Mutex
	forward time.Duration // of the gateway's clock
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.forward)
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	w.forward += d
	w.mu.Unlock()
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// system is who sets the tests up.
var system = directory.Actor{Kind: audit.ActorSystem, ID: "test", Label: "test"}

func newWorld(t testing.TB, change ...func(*signin.Config)) *world {
	t.Helper()
	database := postgrestest.New(t)
	w := &world{t: t, db: database.Owner(t), log: &lockedBuffer{}}
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	admin := database.Admin(t)
	w.writer = directory.NewWriter(admin, key, directory.WriterOptions{Now: w.now})
	w.reader = directory.NewReader(admin, directory.ReaderOptions{Now: w.now})
	if _, err := w.writer.AddUsers(t.Context(), system, []directory.NewUser{
		{Email: "ana@acme.com", Bindings: []directory.Binding{{Role: "admin"}}},
		{Email: "locked@acme.com"}, {Email: "removed@acme.com"}, {Email: "kim@acme.com"}, {Email: "unverified@acme.com"}, {Email: "other-hd@acme.com"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.writer.Lock(t.Context(), system, "locked@acme.com", "lost laptop"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.writer.Remove(t.Context(), system, "removed@acme.com"); err != nil {
		t.Fatal(err)
	}

	router := mux.NewRouter()
	w.site = httptest.NewTLSServer(router)
	t.Cleanup(w.site.Close)
	base, err := url.Parse(w.site.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.idp, err = idp.Listen(t.Context(), "127.0.0.1:0", idp.Options{
		ClientID: "gateway", ClientSecret: clientSecret, RedirectURIs: []string{w.site.URL + "/login/callback"}, People: people,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.idp.Close() })

	feed := postgres.NewFeed(admin, []string{credential.Channel}, postgres.FeedOptions{})
	w.cache = credential.NewCache(admin, feed, credential.Options{Now: w.now, NoteSessions: true})
	keys, err := seal.NewKeys(secret.NewText(strings.Repeat("application key ", 3)), secret.Text{})
	if err != nil {
		t.Fatal(err)
	}
	w.sessions = signin.NewSessions(w.writer, w.reader, keys)
	config := signin.Config{
		Issuer: w.idp.URL, ClientID: "gateway", ClientSecret: secret.NewText(clientSecret), Domain: "acme.com", BaseURL: base,
		Directory: w.writer, Sessions: w.sessions, Resolve: w.cache, Keys: keys,
		Address: func(*http.Request) netip.Addr { return netip.MustParseAddr("198.51.100.7") },
		Log:     slog.New(slog.NewTextHandler(w.log, nil)), Now: w.now,
	}
	for _, c := range change {
		c(&config)
	}
	if w.handler, err = signin.New(config); err != nil {
		t.Fatal(err)
	}
	w.handler.Mount(router)
	router.PathPrefix("/console/").HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "console "+r.URL.RequestURI())
	})
	run(t, func(ctx context.Context) { _ = feed.Run(ctx) })
	run(t, func(ctx context.Context) { _ = w.cache.Run(ctx) })
	run(t, func(ctx context.Context) { _ = w.handler.Run(ctx) })
	probe, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := feed.Probe(probe); err != nil {
		t.Fatal(err)
	}
	return w
}

// ready waits until the issuer was reached.
func (w *world) ready() *world {
	w.t.Helper()
	eventually(w.t, "the issuer is reached", func() bool { return w.handler.Ready() == nil })
	return w
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// run runs f until the test ends, and waits for it.
func run(t testing.TB, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// browser is a browser as far as signing in needs one: it keeps cookies, and follows what it is told.
type browser struct {
	*http.Client
	w *world
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &browser{w: w, Client: &http.Client{
		Jar: jar, Transport: w.site.Client().Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// page is an answer that was read.
type page struct {
	status int
	header http.Header
	text   string
}

// code is the stable code of a refusal; "" for none.
func (p page) code() string {
	if m := regexp.MustCompile(`<p class="small">([a-z-]+)`).FindStringSubmatch(p.text); m != nil {
		return m[1]
	}
	return ""
}

func (b *browser) do(method, address string, form url.Values, header ...string) page {
	b.w.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	if strings.HasPrefix(address, "/") {
		address = b.w.site.URL + address
	}
	r, err := http.NewRequestWithContext(b.w.t.Context(), method, address, body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return b.send(r)
}

func (b *browser) send(r *http.Request) page {
	b.w.t.Helper()
	resp, err := b.Do(r)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Header, string(text)}
}

// start begins to sign in, and returns where at the issuer it goes on.
func (b *browser) start(back string) *url.URL {
	b.w.t.Helper()
	p := b.do("POST", "/login/start", url.Values{"return": {back}})
	to, err := url.Parse(p.header.Get("Location"))
	if p.status != http.StatusSeeOther || err != nil || !strings.HasPrefix(to.String(), b.w.idp.URL) {
		b.w.t.Fatalf("a sign-in begins with %d to %s: %s", p.status, p.header.Get("Location"), p.text)
	}
	return to
}

// choose goes on at the issuer as somebody, and returns where the issuer sends the browser back to.
func (b *browser) choose(at *url.URL, subject string) string {
	b.w.t.Helper()
	p := b.do("GET", at.String(), nil)
	to, err := at.Parse(p.header.Get("Location"))
	if err != nil || to.Path != "/choose" {
		b.w.t.Fatalf("the issuer answers %d to %q: %s", p.status, p.header.Get("Location"), p.text)
	}
	if p = b.do("GET", to.String(), nil); p.status != http.StatusOK || !strings.Contains(p.text, "Who are you?") {
		b.w.t.Fatalf("the issuer's page: %d %s", p.status, p.text)
	}
	p = b.do("POST", to.String(), url.Values{"request": {to.Query().Get("request")}, "subject": {subject}})
	if to, err = at.Parse(p.header.Get("Location")); err != nil || p.status != http.StatusSeeOther {
		b.w.t.Fatalf("the issuer answers %d: %s", p.status, p.text)
	}
	p = b.do("GET", to.String(), nil)
	back := p.header.Get("Location")
	if !strings.HasPrefix(back, b.w.site.URL+"/login/callback?") {
		b.w.t.Fatalf("the issuer sends back to %q: %d %s", back, p.status, p.text)
	}
	return back
}

// signIn signs in as somebody, as far as it goes.
func (b *browser) signIn(subject string) page {
	b.w.t.Helper()
	return b.do("GET", b.choose(b.start(""), subject), nil)
}

// session is what the browser presents.
func (b *browser) session() (credential.Token, bool) {
	r := httptest.NewRequest("GET", b.w.site.URL, nil)
	site, err := url.Parse(b.w.site.URL)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(site) {
		r.AddCookie(c)
	}
	return b.w.sessions.FromRequest(r)
}

// signedIn is whom the browser's session stands for; "" for nobody.
func (b *browser) signedIn() string {
	b.w.t.Helper()
	token, has := b.session()
	if !has {
		return ""
	}
	entry, err := b.w.cache.Resolve(b.w.t.Context(), token)
	var refused *credential.RefusedError
	if errors.As(err, &refused) {
		return ""
	}
	if err != nil {
		b.w.t.Fatal(err)
	}
	return entry.Principal.UserLabel
}

// events are those of signing in, each as PHASE ACTION RESOURCE CODE.
func (w *world) events() []string {
	w.t.Helper()
	var list []string
	if err := w.db.Select(&list, `select concat_ws(' ', phase, action, nullif(resource, ''), detail::jsonb ->> 'code') from rgw.audit_events
		where action like 'session.%' order by xid, writer_seq`); err != nil {
		w.t.Fatal(err)
	}
	return list
}

func (w *world) lastEvent() string {
	w.t.Helper()
	list := w.events()
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

func TestSomebodyWhoWasAddedSignsIn(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	at := b.start("/console/audit?q=1")
	q := at.Query()
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || len(q.Get("state")) != 43 ||
		len(q.Get("nonce")) != 43 || q.Get("client_id") != "gateway" || q.Get("redirect_uri") != w.handler.RedirectURL() || q.Get("scope") != "openid email profile" {
		t.Errorf("the issuer is asked %s", at)
	}
	p := b.do("GET", b.choose(at, "1"), nil)
	if p.status != http.StatusSeeOther || p.header.Get("Location") != "/console/audit?q=1" {
		t.Fatalf("it ends with %d to %s: %s", p.status, p.header.Get("Location"), p.text)
	}
	if who := b.signedIn(); who != "ana@acme.com" {
		t.Errorf("signed in is %q", who)
	}
	cookies := p.header.Values("Set-Cookie")
	if len(cookies) != 2 || !regexp.MustCompile(`^__Host-rgw-signin=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax$`).MatchString(cookies[0]) ||
		!regexp.MustCompile(`^__Host-rgw-session=rgw_ses_[0-9A-Za-z]{57}; Path=/; HttpOnly; Secure; SameSite=Lax$`).MatchString(cookies[1]) {
		t.Errorf("the cookies are %q", cookies)
	}
	if got := w.events(); len(got) != 1 || got[0] != "finished session.begin ana@acme.com" {
		t.Errorf("recorded is %q", got)
	}
	user, err := w.reader.User(t.Context(), "ana@acme.com")
	if err != nil || user.SignedInAt == nil {
		t.Errorf("%+v, %v", user, err)
	}
	token, _ := b.session()
	for what, text := range map[string]string{"log": w.log.String(), "page": p.text} {
		if strings.Contains(text, clientSecret) || strings.Contains(text, token.Reveal()) {
			t.Errorf("a secret is in the %s", what)
		}
	}
}

// Each sign-in has a state, a nonce, a verifier and a session of its own; a session that was there before is no good
// afterwards, whoever put it there.
func TestASignInTakesNothingOverFromBefore(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	first, second := b.start("").Query(), b.start("").Query()
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if first.Get(name) == second.Get(name) {
			t.Errorf("two sign-ins have one %s", name)
		}
	}
	planted, err := credential.New(credential.Session)
	if err != nil {
		t.Fatal(err)
	}
	site, err := url.Parse(w.site.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.Jar.SetCookies(site, []*http.Cookie{{Name: signin.SessionCookie, Value: planted.Reveal(), Path: "/", Secure: true}})
	b.signIn("1")
	before, _ := b.session()
	if before.Reveal() == planted.Reveal() || b.signedIn() != "ana@acme.com" {
		t.Error("the session that somebody planted has become a good one")
	}
	b.signIn("1")
	after, _ := b.session()
	if after.Reveal() == before.Reveal() || b.signedIn() != "ana@acme.com" {
		t.Error("a second sign-in goes on with the session of the first")
	}
	eventually(t, "the former session has ended", func() bool {
		_, err := w.cache.Resolve(t.Context(), before)
		return errors.Is(err, credential.ErrRevoked)
	})
	if got := w.lastEvent(); got != "finished session.revoke ana@acme.com" {
		t.Errorf("recorded last is %q", got)
	}
}

func TestWhoMayNotComeInIsToldWhyAndRecorded(t *testing.T) {
	w := newWorld(t).ready()
	for _, test := range []struct {
		subject, code, address string
	}{
		{"2", "not-a-member", "new@acme.com"},
		{"3", "address-unverified", "unverified@acme.com"},
		{"4", "other-domain", "eve@evil.com"},
		{"5", "other-domain", "eve@acme.com.evil.com"},
		{"6", "other-domain", "other-hd@acme.com"},
		{"7", "user-locked", "locked@acme.com"},
		{"8", "not-a-member", "removed@acme.com"},
		{"9", "bad-address", ""},
		{"10", "other-domain", "eve@evil.com@acme.com"},
	} {
		b := w.browser()
		p := b.signIn(test.subject)
		if p.status != http.StatusForbidden || p.code() != test.code || b.signedIn() != "" {
			t.Errorf("%s: %d %s, signed in %q", test.subject, p.status, p.code(), b.signedIn())
		}
		if _, has := b.session(); has {
			t.Errorf("%s has a session", test.subject)
		}
		want := strings.Join(strings.Fields("refused session.begin "+test.address+" "+test.code), " ")
		if got := w.lastEvent(); got != want {
			t.Errorf("recorded is %q, want %q", got, want)
		}
	}
}

// Google says by the claim hd who belongs to a domain: an address alone may be anybody's private account.
func TestOfGoogleTheHostedDomainCounts(t *testing.T) {
	w := newWorld(t, func(c *signin.Config) { c.HostedDomain = true }).ready()
	for subject, want := range map[string]string{"1": "", "2": "other-domain", "6": "other-domain"} {
		if p := w.browser().signIn(subject); p.code() != want {
			t.Errorf("%s: %d %s, want %q", subject, p.status, p.code(), want)
		}
	}
	w.idp.Forge(func(f *idp.Forgery) { f.Claims["email"], f.Claims["hd"] = "ana@acme.com", "ACME.com" })
	if p := w.browser().signIn("4"); p.code() != "" {
		t.Errorf("the domain in capitals: %d %s", p.status, p.code())
	}
}

// Whatever a token says that is not so, nobody is let in by it.
func TestATokenIsBelievedOnlyWhenAllOfItIsRight(t *testing.T) {
	w := newWorld(t).ready()
	claim := func(name string, value any) func(*idp.Forgery) {
		return func(f *idp.Forgery) {
			if f.Claims[name] = value; value == nil {
				delete(f.Claims, name)
			}
		}
	}
	at := func(name string, d time.Duration) func(*idp.Forgery) { return claim(name, time.Now().Add(d).Unix()) }
	algorithm := func(name string, secret []byte) func(*idp.Forgery) {
		return func(f *idp.Forgery) { f.Algorithm, f.Secret = name, secret }
	}
	for what, test := range map[string]struct {
		forge func(*idp.Forgery)
		code  string // "" when it is good
	}{
		"as it is":                           {func(*idp.Forgery) {}, ""},
		"signed with ES256":                  {algorithm("ES256", nil), ""},
		"another nonce":                      {claim("nonce", "another"), "bad-token"},
		"no nonce":                           {claim("nonce", nil), "bad-token"},
		"another issuer":                     {claim("iss", "https://evil.com"), "bad-token"},
		"the issuer with a slash":            {func(f *idp.Forgery) { f.Claims["iss"] = fmt.Sprint(f.Claims["iss"], "/") }, "bad-token"},
		"no issuer":                          {claim("iss", nil), "bad-token"},
		"another audience":                   {claim("aud", "another"), "bad-token"},
		"no audience":                        {claim("aud", nil), "bad-token"},
		"us among others, for us":            {func(f *idp.Forgery) { f.Claims["aud"], f.Claims["azp"] = []string{"another", "gateway"}, "gateway" }, ""},
		"us among others, for them":          {func(f *idp.Forgery) { f.Claims["aud"], f.Claims["azp"] = []string{"another", "gateway"}, "another" }, "bad-token"},
		"us among others, for whom?":         {func(f *idp.Forgery) { f.Claims["aud"] = []string{"another", "gateway"}; delete(f.Claims, "azp") }, "bad-token"},
		"another party":                      {claim("azp", "another"), "bad-token"},
		"no signature":                       {algorithm("none", nil), "bad-token"},
		"signed with the client's secret":    {algorithm("HS256", []byte(clientSecret+strings.Repeat("=", 32))), "bad-token"},
		"signed with the public key":         {algorithm("HS256", w.idp.PublicKeyPEM()), "bad-token"},
		"signed with PS256":                  {algorithm("PS256", nil), "bad-token"},
		"signed with an unknown key":         {func(f *idp.Forgery) { f.OtherKey = true }, "bad-token"},
		"just expired, within the skew":      {at("exp", -50*time.Second), ""},
		"expired":                            {at("exp", -70*time.Second), "bad-token"},
		"expired a year ago":                 {at("exp", -365*24*time.Hour), "bad-token"},
		"without an end":                     {claim("exp", nil), "bad-token"},
		"of the future, within the skew":     {at("iat", 50*time.Second), ""},
		"of the future":                      {at("iat", 70*time.Second), "bad-token"},
		"of no time":                         {claim("iat", nil), "bad-token"},
		"not before soon":                    {at("nbf", 50*time.Second), ""},
		"not before later":                   {at("nbf", 70*time.Second), "bad-token"},
		"not before whenever":                {claim("nbf", "soon"), "bad-token"},
		"about nobody":                       {claim("sub", nil), "bad-token"},
		"without an address":                 {claim("email", nil), "bad-token"},
		"an address that is no text":         {claim("email", 7), "bad-token"},
		"verified said as a text":            {claim("email_verified", "true"), "address-unverified"},
		"verified said as a number":          {claim("email_verified", 1), "address-unverified"},
		"verified left out":                  {claim("email_verified", nil), "address-unverified"},
		"not verified":                       {claim("email_verified", false), "address-unverified"},
		"another hosted domain":              {claim("hd", "evil.com"), "other-domain"},
		"another domain":                     {claim("email", "ana@evil.com"), "other-domain"},
		"a domain within ours":               {claim("email", "ana@sub.acme.com"), "other-domain"},
		"an address with a line end":         {claim("email", "ana@acme.com\n"), "bad-address"},
		"no token":                           {func(f *idp.Forgery) { f.Drop = true }, "bad-token"},
		"not a token":                        {func(f *idp.Forgery) { f.Raw = "a.b.c" }, "bad-token"},
		"a token in many parts":              {func(f *idp.Forgery) { f.Raw = strings.Repeat("a.", 5000) }, "bad-token"},
		"a name that is no name":             {claim("name", strings.Repeat("x", 5000)), ""},
		"a subject that is long and strange": {claim("sub", strings.Repeat("%\x00", 2000)), ""},
	} {
		w.idp.Forge(func(f *idp.Forgery) { test.forge(f) })
		b := w.browser()
		p := b.signIn("1")
		want := http.StatusSeeOther
		if test.code != "" {
			want = http.StatusForbidden
		}
		if p.status != want || p.code() != test.code || (b.signedIn() != "") != (test.code == "") {
			t.Errorf("%s: %d %s, signed in %q; want %d %s\n%s", what, p.status, p.code(), b.signedIn(), want, test.code, lastLine(w.log.String()))
		}
		if test.code != "" && !strings.Contains(w.lastEvent(), test.code) {
			t.Errorf("%s: recorded is %q", what, w.lastEvent())
		}
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// What comes back has to belong to this browser's own sign-in, once.
func TestOnlyWhatThisBrowserBeganComesBack(t *testing.T) {
	w := newWorld(t).ready()
	bad := func(what string, p page, code string) {
		t.Helper()
		if p.status != http.StatusBadRequest || p.code() != code {
			t.Errorf("%s: %d %s, want 400 %s", what, p.status, p.code(), code)
		}
		if got := w.lastEvent(); got != "refused session.begin "+code {
			t.Errorf("%s: recorded is %q", what, got)
		}
	}
	edit := func(address, name, value string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}

	mallory, victim := w.browser(), w.browser()
	back := mallory.choose(mallory.start(""), "1")
	bad("a browser that began nothing", victim.do("GET", back, nil), "not-started")
	victim.start("")
	bad("a browser that began another sign-in", victim.do("GET", back, nil), "wrong-state")
	bad("the same browser after that", victim.do("GET", back, nil), "not-started") // it is spent

	for what, test := range map[string]struct{ name, value, code string }{
		"another state":  {"state", strings.Repeat("A", 43), "wrong-state"},
		"no state":       {"state", "", "wrong-state"},
		"another issuer": {"iss", "https://evil.com", "other-issuer"},
		"no code":        {"code", "", "no-code"},
	} {
		b := w.browser()
		bad(what, b.do("GET", edit(b.choose(b.start(""), "1"), test.name, test.value), nil), test.code)
		if b.signedIn() != "" {
			t.Errorf("%s: signed in", what)
		}
	}
	b := w.browser()
	bad("two states", b.do("GET", b.choose(b.start(""), "1")+"&state=x", nil), "wrong-state")
	bad("two codes", b.do("GET", b.choose(b.start(""), "1")+"&code=x", nil), "no-code")

	if p := b.do("GET", edit(b.choose(b.start(""), "1"), "code", "guessed"), nil); p.status != http.StatusForbidden || p.code() != "code-refused" {
		t.Errorf("a guessed code: %d %s", p.status, p.code())
	}
	if p := b.do("GET", edit(edit(b.choose(b.start(""), "1"), "code", ""), "error", "access_denied<script>"), nil); p.status != http.StatusForbidden ||
		p.code() != "issuer-refused" || strings.Contains(p.text, "<script>") {
		t.Errorf("the issuer's own refusal: %d %s %s", p.status, p.code(), p.text)
	}
}

// A callback that was overheard, cookie and all, is worth nothing once it was used: neither here nor at the issuer.
func TestAReplayIsRefused(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	back := b.choose(b.start(""), "1")
	site, err := url.Parse(w.site.URL)
	if err != nil {
		t.Fatal(err)
	}
	overheard := b.Jar.Cookies(site)
	if p := b.do("GET", back, nil); p.status != http.StatusSeeOther {
		t.Fatalf("it ends with %d", p.status)
	}
	thief := w.browser()
	thief.Jar.SetCookies(site, secured(overheard))
	if p := thief.do("GET", back, nil); p.status != http.StatusBadRequest || p.code() != "replayed" || thief.signedIn() != "" {
		t.Errorf("the thief gets %d %s", p.status, p.code())
	}

	// The code alone, in a sign-in of the thief's own: the issuer has seen it, and PKCE binds it to another verifier.
	u, err := url.Parse(back)
	if err != nil {
		t.Fatal(err)
	}
	for _, used := range []bool{true, false} {
		code := u.Query().Get("code")
		if !used {
			fresh, err := url.Parse(b.choose(b.start(""), "1"))
			if err != nil {
				t.Fatal(err)
			}
			code = fresh.Query().Get("code")
		}
		at := thief.start("")
		p := thief.do("GET", "/login/callback?"+url.Values{"code": {code}, "state": {at.Query().Get("state")}}.Encode(), nil)
		if p.status != http.StatusForbidden || p.code() != "code-refused" || thief.signedIn() != "" {
			t.Errorf("another's code (used: %t) gets %d %s", used, p.status, p.code())
		}
	}
}

func secured(cookies []*http.Cookie) []*http.Cookie {
	for _, c := range cookies {
		c.Path, c.Secure = "/", true
	}
	return cookies
}

func TestTheCookieOfASignInCannotBeMadeUpOrKept(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	site, err := url.Parse(w.site.URL)
	if err != nil {
		t.Fatal(err)
	}
	back := b.choose(b.start(""), "1")
	var sealed string
	for _, c := range b.Jar.Cookies(site) {
		sealed = c.Value
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || strings.Contains(string(raw), "state") || strings.Contains(string(raw), "/console/") {
		t.Fatalf("the cookie is %q", sealed)
	}
	for what, value := range map[string]string{
		"nothing":      "",
		"plain":        base64.RawURLEncoding.EncodeToString([]byte(`{"s":"x","n":"y","v":"z"}`)),
		"cut":          sealed[:len(sealed)-4],
		"changed":      sealed[:20] + "AAAA" + sealed[24:],
		"not base 64":  "%%%%",
		"very long":    strings.Repeat("A", 3000),
		"of a session": w.sessions.CSRF(credential.Token{}),
	} {
		b.Jar.SetCookies(site, []*http.Cookie{{Name: "__Host-rgw-signin", Value: value, Path: "/", Secure: true}})
		if p := b.do("GET", back, nil); p.code() != "not-started" {
			t.Errorf("%s: %d %s", what, p.status, p.code())
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", back, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Cookie", "__Host-rgw-signin="+sealed+"; __Host-rgw-signin=x")
	if p := w.browser().send(r); p.code() != "not-started" {
		t.Errorf("two of them: %d %s", p.status, p.code())
	}
	w.advance(10*time.Minute + time.Second)
	b.Jar.SetCookies(site, []*http.Cookie{{Name: "__Host-rgw-signin", Value: sealed, Path: "/", Secure: true}})
	if p := b.do("GET", back, nil); p.code() != "not-started" {
		t.Errorf("after ten minutes: %d %s", p.status, p.code())
	}
}

func TestAnotherSiteCannotBeginOrEndASession(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	form := url.Values{"return": {"/console/"}}
	for _, from := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "none"},
		{"Sec-Fetch-Site", "", "Origin", "https://evil.com"},
		{"Sec-Fetch-Site", "", "Origin", "null"},
		{"Sec-Fetch-Site", ""},
	} {
		if p := b.do("POST", "/login/start", form, from...); p.status != http.StatusForbidden || p.code() != "cross-site" {
			t.Errorf("%q begins a sign-in: %d", from, p.status)
		}
	}
	if p := b.do("POST", "/login/start", form, "Sec-Fetch-Site", "", "Origin", w.site.URL); p.status != http.StatusSeeOther {
		t.Errorf("an older browser's own page cannot begin: %d", p.status)
	}

	b.signIn("1")
	token, _ := b.session()
	csrf := w.sessions.CSRF(token)
	other, err := credential.New(credential.Session)
	if err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		form   url.Values
		header []string
	}{
		"without a token":     {url.Values{}, nil},
		"another's token":     {url.Values{"csrf": {w.sessions.CSRF(other)}}, nil},
		"a cut token":         {url.Values{"csrf": {csrf[:len(csrf)-2]}}, nil},
		"from another site":   {url.Values{"csrf": {csrf}}, []string{"Sec-Fetch-Site", "cross-site"}},
		"an empty header too": {url.Values{"csrf": {csrf}}, []string{signin.CSRFHeader, ""}},
		"not as a form":       {url.Values{"csrf": {csrf}}, []string{"Content-Type", "text/plain"}},
		"a form beyond bound": {url.Values{"x": {strings.Repeat("x", 1<<20)}, "csrf": {csrf}}, nil},
	} {
		if p := b.do("POST", "/login/logout", test.form, test.header...); p.status != http.StatusForbidden || b.signedIn() == "" {
			t.Errorf("signing out %s: %d, signed in %q", what, p.status, b.signedIn())
		}
	}
	for _, method := range []string{"GET", "HEAD", "DELETE"} {
		if p := b.do(method, "/login/logout", nil); p.status != http.StatusMethodNotAllowed || b.signedIn() == "" {
			t.Errorf("%s signs out: %d", method, p.status)
		}
	}
	p := b.do("POST", "/login/logout", url.Values{"csrf": {csrf}})
	if p.status != http.StatusSeeOther || p.header.Get("Location") != "/login/?signed-out" {
		t.Errorf("signing out: %d to %s", p.status, p.header.Get("Location"))
	}
	if _, has := b.session(); has {
		t.Error("the browser keeps its session")
	}
	eventually(t, "the session is no good", func() bool {
		_, err := w.cache.Resolve(t.Context(), token)
		return errors.Is(err, credential.ErrRevoked)
	})
	if got := w.lastEvent(); got != "finished session.end ana@acme.com" {
		t.Errorf("recorded is %q", got)
	}
	if p := b.do("POST", "/logout", url.Values{}); p.status != http.StatusSeeOther { // somebody who is not signed in
		t.Errorf("signing out twice: %d", p.status)
	}
	b.signIn("1")
	token, _ = b.session()
	if p := b.do("POST", "/logout", url.Values{}, signin.CSRFHeader, w.sessions.CSRF(token)); p.status != http.StatusSeeOther || b.signedIn() != "" {
		t.Errorf("signing out by header: %d", p.status)
	}
}

func TestOneGoesBackToAPageOfOursAlone(t *testing.T) {
	w := newWorld(t).ready()
	for back, want := range map[string]string{
		"":                                      "/console/",
		"/console/apps/web":                     "/console/apps/web",
		"/console/?a=b&c=d#e":                   "/console/?a=b&c=d#e",
		"/login/u2f?token=x":                    "/login/u2f?token=x",
		"/login/callback?x":                     "/console/",
		"/login/logout":                         "/console/",
		"/":                                     "/console/",
		"//evil.com":                            "/console/",
		"///evil.com/console/":                  "/console/",
		"/\\evil.com":                           "/console/",
		"/console/\\evil.com":                   "/console/",
		"/console/..//evil.com":                 "/console/",
		"/console/../../evil":                   "/console/",
		"/console/%2e%2e/login/logout":          "/console/",
		"/console/%5cevil.com":                  "/console/",
		"/console/\r\nSet-Cookie:x":             "/console/",
		"/console/%0d%0aSet-Cookie:x":           "/console/",
		"https://evil.com/console/":             "/console/",
		"javascript:alert(1)":                   "/console/",
		"http:/console/":                        "/console/",
		"console/":                              "/console/",
		"/console/ü":                            "/console/",
		"/console/" + strings.Repeat("x", 2000): "/console/",
	} {
		b := w.browser()
		if p := b.do("GET", b.choose(b.start(back), "1"), nil); p.header.Get("Location") != want {
			t.Errorf("%q leads to %q, want %q", back, p.header.Get("Location"), want)
		}
	}
}

func TestEachPageIsOfNoUseToOtherSites(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	for what, p := range map[string]page{
		"the page":   b.do("GET", "/login/", nil),
		"a return":   b.do("GET", "/login/?return=%22%3E%3Cscript%3E", nil),
		"signed out": b.do("GET", "/login/?signed-out", nil),
		"a start":    b.do("POST", "/login/start", url.Values{}),
		"a refusal":  b.do("GET", "/login/callback", nil),
		"a sign-in":  b.signIn("1"),
	} {
		h := p.header
		csp := h.Get("Content-Security-Policy")
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" ||
			h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s has the headers %v", what, h)
		}
		if strings.Contains(p.text, "<script") {
			t.Errorf("%s has a script: %s", what, p.text)
		}
		if style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(p.text); style != nil {
			sum := sha256.Sum256([]byte(style[1]))
			if !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
				t.Errorf("%s has a style that its policy does not allow", what)
			}
		} else if what == "the page" || what == "a refusal" {
			t.Errorf("%s has no style", what)
		}
	}
	if csp := b.do("GET", "/login/", nil).header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' "+w.idp.URL+";") {
		t.Errorf("browsers would not follow the form to the issuer: %s", csp)
	}
	if p := b.do("GET", "/login", nil); p.status != http.StatusSeeOther || p.header.Get("Location") != "/login/" {
		t.Errorf("/login leads to %d %s", p.status, p.header.Get("Location"))
	}
}

// Anybody can come with nothing at all, as often as they like: that is recorded, and then counted.
func TestAFloodOfRefusalsIsRecordedAsACount(t *testing.T) {
	w := newWorld(t).ready()
	for range 75 {
		if p := w.browser().do("GET", "/login/callback?code=x&state=y", nil); p.code() != "not-started" {
			t.Fatalf("%d %s", p.status, p.code())
		}
	}
	if got := w.events(); len(got) > 120 || len(got) < 60 { // two minutes may have a share of it
		t.Errorf("%d events", len(got))
	}
}

// While the issuer is away, everything else is served, readiness says so, and it heals by itself.
func TestAnIssuerThatIsAwayIsWaitedFor(t *testing.T) {
	var away *httptest.Server
	var mu sync.Mutex
	down := true
	w := newWorld(t, func(c *signin.Config) {
		behind, err := url.Parse(c.Issuer)
		if err != nil {
			t.Fatal(err)
		}
		away = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				http.Error(rw, "maintenance", http.StatusBadGateway)
				return
			}
			issuer := "http://" + r.Host
			_ = json.NewEncoder(rw).Encode(map[string]any{
				"issuer": issuer, "authorization_endpoint": behind.JoinPath("authorize").String(), "token_endpoint": behind.JoinPath("oauth/token").String(), "jwks_uri": behind.JoinPath("keys").String(),
			})
		}))
		t.Cleanup(func() { away.Close() })
		c.Issuer = away.URL
	})
	eventually(t, "it says why it is not ready", func() bool {
		err := w.handler.Ready()
		return err != nil && strings.Contains(err.Error(), "502")
	})
	b := w.browser()
	p := b.do("GET", "/login/", nil)
	if p.status != http.StatusServiceUnavailable || p.code() != "issuer-unreachable" || strings.Contains(p.text, "<form") || p.header.Get("Retry-After") == "" {
		t.Errorf("the page says %d %s", p.status, p.text)
	}
	if p := b.do("POST", "/login/start", url.Values{}); p.status != http.StatusServiceUnavailable || p.code() != "issuer-unreachable" {
		t.Errorf("a start says %d %s", p.status, p.code())
	}
	mu.Lock()
	down = false
	mu.Unlock()
	w.ready()
	if p := b.do("GET", "/login/", nil); p.status != http.StatusOK || !strings.Contains(p.text, "<form") {
		t.Errorf("afterwards the page says %d", p.status)
	}
}

// An issuer that fails in the middle is told apart from one that refuses.
func TestAnIssuerThatFailsInTheMiddle(t *testing.T) {
	w := newWorld(t).ready()
	b := w.browser()
	back := b.choose(b.start(""), "1")
	if err := w.idp.Close(); err != nil {
		t.Log(err)
	}
	if p := b.do("GET", back, nil); p.status != http.StatusBadGateway || p.code() != "issuer-unreachable" {
		t.Errorf("%d %s", p.status, p.code())
	}
	if strings.Contains(w.log.String(), clientSecret) {
		t.Error("a secret is in the log")
	}
}

func TestWithoutADomainNothingStarts(t *testing.T) {
	if _, err := signin.New(signin.Config{BaseURL: &url.URL{Scheme: "https", Host: "x"}}); err == nil {
		t.Error("anybody could come in")
	}
	if _, err := signin.New(signin.Config{Domain: "acme.com"}); err == nil {
		t.Error("people could not come back")
	}
}

func TestASessionThatIsNotOneIsNone(t *testing.T) {
	w := newWorld(t)
	cli, err := credential.New(credential.CLI)
	if err != nil {
		t.Fatal(err)
	}
	session, err := credential.New(credential.Session)
	if err != nil {
		t.Fatal(err)
	}
	name := signin.SessionCookie + "="
	for what, test := range map[string]struct {
		cookie string
		has    bool
	}{
		"none":           {"", false},
		"a session":      {name + session.Reveal(), true},
		"a CLI token":    {name + cli.Reveal(), false},
		"noise":          {name + "x", false},
		"two":            {name + session.Reveal() + "; " + name + session.Reveal(), false},
		"without __Host": {"rgw-session=" + session.Reveal(), false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", test.cookie)
		if _, has := w.sessions.FromRequest(r); has != test.has {
			t.Errorf("%s: %t", what, has)
		}
		if w.sessions.CheckCSRF(r, cli) {
			t.Errorf("%s: a CLI token passes", what)
		}
	}
}
