package testenv

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"strconv"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv/idp"
)

// The name by which the provider knows admin, and its password there.
const (
	providerClient = "gateway"
	providerSecret = "secret-of-the-test-environment"
)

// AdminServer is one process of admin that serves, over TLS as localhost.
type AdminServer struct{ Server }

// AddAdmin starts one more admin; it may not be ready yet. People sign in at Env.Provider, under the names of People.
// The rack is shown by the first proxy, which has to be told so by Options.Admins or ADMIN_CIDRS.
func (e *Env) AddAdmin() *AdminServer {
	e.t.Helper()
	return e.AddAdminWith(nil)
}

// AddAdminWith is AddAdmin with more configuration, NAME to value, which counts over what testenv sets.
func (e *Env) AddAdminWith(config map[string]string) *AdminServer {
	e.t.Helper()
	port, metrics := 0, e.freePort()
	if len(e.Admins) == 0 {
		port = e.adminPort
	}
	port = cmp.Or(port, e.freePort())
	base := "https://localhost:" + strconv.Itoa(port)
	if e.Provider == nil {
		e.startProvider()
	}
	e.Provider.AllowRedirect(base + "/login/callback")
	proxy := "http://127.0.0.1:1" // nobody
	if len(e.Proxies) > 0 {
		proxy = e.Proxies[0].URL
	}
	name := "admin-" + strconv.Itoa(len(e.Admins)+1)
	a := &AdminServer{e.server(name, "https", port, metrics, "admin", []string{"serve"}, map[string]string{
		"DOMAIN":                "localhost:" + strconv.Itoa(port),
		"PORT":                  strconv.Itoa(port),
		"LISTEN_LOCAL":          "true",
		"METRICS_ADDR":          net.JoinHostPort("127.0.0.1", strconv.Itoa(metrics)),
		"TLS_CERT_FILE":         e.suite.ca.chainFile,
		"TLS_KEY_FILE":          e.suite.ca.keyFile,
		"DATABASE_URL":          e.Postgres.URL(cluster.Admin, e.Database),
		"AUDIT_MAC_KEY":         e.suite.mac,
		"APP_SECRET_KEY":        e.suite.app,
		"RACK_ORGANIZATION":     Organization,
		"RACK_ALIAS":            Alias,
		"PROXY_URL":             proxy,
		"PROXY_CA_FILE":         e.suite.ca.rootFile,
		"GOOGLE_OAUTH_BASE_URL": e.Provider.URL,
		"GOOGLE_CLIENT_ID":      providerClient,
		"GOOGLE_CLIENT_SECRET":  providerSecret,
		"GOOGLE_ALLOWED_DOMAIN": "example.com",
		"DRAIN_TIMEOUT":         "2s",
		"LOG_FORMAT":            "text",
		// What is not about second factors is not asked for any.
		"RGW_SETTING_MFA_REQUIRED": strconv.FormatBool(e.opts.Factors || e.opts.FreshFactors),
	}, config)}
	e.Admins = append(e.Admins, a)
	a.Start()
	return a
}

// startProvider starts the OpenID provider that vouches for the people of People.
func (e *Env) startProvider() {
	e.t.Helper()
	options := idp.Options{ClientID: providerClient, ClientSecret: providerSecret}
	for _, who := range People() {
		if !who.API {
			options.People = append(options.People, idp.Person{Subject: who.Name, Email: who.Email, Name: who.Name})
		}
	}
	var err error
	if e.Provider, err = idp.Listen(e.t.Context(), "127.0.0.1:0", options); err != nil {
		e.t.Fatalf("starting the provider: %v", err)
	}
}

// Do sends a request to this admin with somebody's token, or with none when who is empty. Redirects are not followed.
// A body is JSON.
func (a *AdminServer) Do(who, method, path string, body io.Reader) Answer {
	a.env.t.Helper()
	req, err := http.NewRequestWithContext(a.env.t.Context(), method, a.URL+path, body)
	if err != nil {
		a.env.t.Fatalf("%v", err)
	}
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+a.env.Token(who))
	}
	if body != nil {
		req.Header.Set("Content-Type", JSONType)
	}
	resp, err := a.env.client.Transport.RoundTrip(req)
	if err != nil {
		a.env.t.Fatalf("%s %s: %v", method, path, err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		a.env.t.Fatalf("%s %s: reading the answer: %v", method, path, err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(text)}
}

// SignIn signs somebody of People in, and returns their browser. It ends with the test.
func (a *AdminServer) SignIn(who string) *Browser {
	a.env.t.Helper()
	a.waitFor(a.env.t.Context(), "/login/") // once the provider was asked
	b, err := NewBrowser(a.URL, a.env.CA())
	if err != nil {
		a.env.t.Fatalf("%v", err)
	}
	a.env.t.Cleanup(b.Close)
	if _, err := b.SignIn(a.env.t.Context(), who, "/console/"); err != nil {
		a.env.t.Fatalf("signing %s in: %v", who, err)
	}
	return b
}
