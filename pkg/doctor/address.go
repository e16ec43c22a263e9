package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func addressChecks() []check {
	return []check{
		{
			id: "https", group: "Addresses", title: "The console is reached by HTTPS, with a certificate that verifies",
			remedy:  "serve it by https with a certificate for that name, by the front or by TLS_CERT_FILE and TLS_KEY_FILE; ADMIN_URL must begin with https://",
			examine: examineHTTPS,
		},
		{
			id: "certificate-age", group: "Addresses", title: "The certificate lasts, and is renewed in time",
			remedy:  "renew it now, and see why it was not renewed by itself",
			examine: examineCertificateAge,
		},
		{
			id: "hsts", group: "Addresses", title: "Browsers are told to use nothing but HTTPS (HSTS), for half a year at least",
			remedy:  "have the front pass Strict-Transport-Security on, or send it itself: max-age=31536000",
			examine: examineHSTS,
		},
		{
			id: "paths", group: "Addresses", title: "The front sends each path to the right process",
			remedy:  "send /api/v1/rack-proxy and below to the proxy, then /api/, /console/ and /login/ to admin, and all else to the proxy: see deploy/compose/Caddyfile",
			examine: examinePaths,
		},
	}
}

// publicAnswer is what a public address answered.
type publicAnswer struct {
	status int
	header http.Header
	body   []byte
	tls    *tls.ConnectionState
	err    error
}

// ask asks one of the gateway's public addresses.
func (d *Doctor) ask(ctx context.Context, base *url.URL, path string) (a publicAnswer) {
	if base == nil {
		return publicAnswer{err: errors.New("no address is configured here: DOMAIN and ADMIN_URL are not set")}
	}
	to := *base
	to.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return publicAnswer{err: err}
	}
	req.Header.Set("User-Agent", "rack-gateway-doctor")
	resp, err := client(d.Public).Do(req)
	if err != nil {
		return publicAnswer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	a = publicAnswer{status: resp.StatusCode, header: resp.Header, tls: resp.TLS}
	a.body, a.err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return a
}

// badCertificate reports whether an error is about the certificate itself, and not about the way there.
func badCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &record)
}

func examineHTTPS(_ context.Context, d *Doctor, seen *sight) finding {
	at := d.Config.Server.AdminURL
	if at == nil {
		return unknown("DOMAIN is not set here: run this with the environment of admin serve")
	}
	if at.Scheme != "https" {
		return fail("ADMIN_URL is %s", at)
	}
	switch answer := seen.answer(); {
	case badCertificate(answer.err):
		return fail("%s: %v", at, answer.err)
	case answer.err != nil:
		return unknown("%s cannot be reached from here: %v", at, answer.err)
	}
	return pass("%s answers with a certificate that verifies", at)
}

// leastLeft is how long before its end a certificate should have been renewed, and longestLife how long none may last
// by the rules of browsers.
const (
	leastLeft   = 14 * 24 * time.Hour
	longestLife = 398 * 24 * time.Hour
)

func examineCertificateAge(_ context.Context, d *Doctor, seen *sight) finding {
	answer := seen.answer()
	if answer.tls == nil || len(answer.tls.PeerCertificates) == 0 {
		var invalid x509.CertificateInvalidError
		if errors.As(answer.err, &invalid) && invalid.Reason == x509.Expired {
			return fail("it has ended: %v", invalid)
		}
		return unknown("no certificate was seen from here")
	}
	certificate := answer.tls.PeerCertificates[0]
	left := certificate.NotAfter.Sub(d.Now())
	switch {
	case left < leastLeft:
		return fail("it ends on %s, in %s", certificate.NotAfter.UTC().Format(time.DateOnly), inDays(left))
	case certificate.NotAfter.Sub(certificate.NotBefore) > longestLife+24*time.Hour:
		return fail("it was made for %s, and browsers take none for more than 398 days", inDays(certificate.NotAfter.Sub(certificate.NotBefore)))
	}
	return pass("it ends on %s, in %s", certificate.NotAfter.UTC().Format(time.DateOnly), inDays(left))
}

func inDays(d time.Duration) string {
	n := int(d / (24 * time.Hour))
	if n == 1 {
		return "1 day"
	}
	return strconv.Itoa(n) + " days"
}

// leastHSTS is half a year, in seconds.
const leastHSTS = 180 * 24 * 3600

func examineHSTS(_ context.Context, _ *Doctor, seen *sight) finding {
	answer := seen.answer()
	if answer.err != nil {
		return unknown("the console's address cannot be reached from here")
	}
	value := answer.header.Get("Strict-Transport-Security")
	for part := range strings.SplitSeq(value, ";") {
		if age, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(part)), "max-age="); ok {
			if seconds, err := strconv.Atoi(strings.Trim(age, `"`)); err == nil && seconds >= leastHSTS {
				return pass("%s", value)
			}
			return fail("it says %s", value)
		}
	}
	return fail("no Strict-Transport-Security came with the answer")
}

func examinePaths(ctx context.Context, d *Doctor, seen *sight) finding {
	if d.Config.Server.Domain == "" {
		return unknown("DOMAIN is not set here: run this with the environment of admin serve")
	}
	admin := seen.answer()
	if admin.err != nil {
		return unknown("the console's address cannot be reached from here")
	}
	// Each process says by its policy for browsers which it is: what the proxy passes on is the rack's, and harmless.
	isProxy := func(a publicAnswer) bool {
		return strings.HasPrefix(a.header.Get("Content-Security-Policy"), "sandbox; default-src 'none'")
	}
	if document := d.ask(ctx, d.Config.Server.AdminURL, "/api/v1/openapi.json"); document.err != nil || !isDocument(document) {
		return fail("%s/api/v1/openapi.json was not answered by admin (%s)", d.Config.Server.AdminURL, short(document))
	}
	gateway := &url.URL{Scheme: "https", Host: d.Config.Server.Domain}
	if d.Config.Server.AdminURL.Host == d.Config.Server.Domain {
		gateway.Scheme = d.Config.Server.AdminURL.Scheme
	}
	for _, path := range []string{"/api/v1/rack-proxy/health", "/apps"} {
		a := d.ask(ctx, gateway, path)
		if a.err != nil {
			return unknown("%s cannot be reached from here: %v", gateway, a.err)
		}
		if !isProxy(a) {
			return fail("%s%s was not answered by the proxy (%s)", gateway, path, short(a))
		}
	}
	return pass("%s reaches the proxy, %s the console", gateway, d.Config.Server.AdminURL)
}

func isDocument(a publicAnswer) bool {
	var document struct {
		OpenAPI string `json:"openapi"`
		Info    struct{ Title string }
	}
	return a.status == http.StatusOK && json.Unmarshal(a.body, &document) == nil && document.OpenAPI != "" && document.Info.Title == "Rack Gateway"
}

func short(a publicAnswer) string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("status %d", a.status)
}
