package upstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/upstream"
)

// identity is a self-signed certificate for rack.example, with its PEM text and pin.
type identity struct {
	server *tls.Config
	pem    []byte
	pin    pin
}

type pin = [sha256.Size]byte

func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rack.example"}, DNSNames: []string{"rack.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		server: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pin:    sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
	}
}

func TestTheCertificateIsVerified(t *testing.T) {
	rack, other := newIdentity(t), newIdentity(t)
	for _, c := range []struct {
		name    string
		ca      []byte
		pins    []pin
		server  string
		trusted bool
	}{
		{"by its authority", rack.pem, nil, "rack.example", true},
		{"by one of several authorities", append(append([]byte("# comment\n"), other.pem...), rack.pem...), nil, "rack.example", true},
		{"by its authority under another name", rack.pem, nil, "other.example", false},
		{"by another authority", other.pem, nil, "rack.example", false},
		{"by the system's authorities", nil, nil, "rack.example", false},
		{"by one of several pins", nil, []pin{other.pin, rack.pin}, "rack.example", true},
		{"by its pin", nil, []pin{rack.pin}, "rack.example", true},
		{"by its pin under any name", nil, []pin{rack.pin}, "", true},
		{"by another pin", nil, []pin{other.pin}, "rack.example", false},
		{"by authority and pin", rack.pem, []pin{rack.pin}, "rack.example", true},
		{"by authority and another pin", rack.pem, []pin{other.pin}, "rack.example", false},
		{"by another authority and its pin", other.pem, []pin{rack.pin}, "rack.example", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := upstream.TLSConfig(c.ca, c.pins, c.server)
			if err != nil {
				t.Fatal(err)
			}
			conform(t, settings{tls: cfg}, func(t *testing.T, at func(*url.URL) subject) {
				w := serveWireTLS(t, rack.server, answering(okAnswer))
				s := at(w.origin)
				resp, err := s.RoundTrip(newRequest(t, "GET", w.origin, "/", nil))
				if err == nil {
					defer resp.Body.Close()
				}
				if (err == nil) != c.trusted {
					t.Fatalf("got error %v, trusted %v", err, c.trusted)
				}
				if err == nil && (resp.TLS == nil || len(resp.TLS.PeerCertificates) == 0) {
					t.Error("the answer does not tell of TLS")
				}
				var e *upstream.Error
				if err != nil && s.lean != nil && (!errors.As(err, &e) || e.Sent || e.Stage != upstream.StageConnect) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestThePinIsCheckedOnResumedSessions(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		leavesNoGoroutine(t)
		rack, other := newIdentity(t), newIdentity(t)
		server := rack.server.Clone()
		server.MaxVersion = version
		w := serveWireTLS(t, server, answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		cfg, err := upstream.TLSConfig(nil, []pin{rack.pin}, "rack.example")
		if err != nil {
			t.Fatal(err)
		}
		checks := 0
		verify := cfg.VerifyConnection
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			checks++
			return verify(state)
		}
		lean := newLean(t, upstream.Config{Origin: w.origin, TLS: cfg})
		get(t, lean, w.origin)
		if resp, _ := get(t, lean, w.origin); !resp.TLS.DidResume || checks != 2 {
			t.Errorf("resumed %v, %d checks", resp.TLS.DidResume, checks)
		}
		// A session that was opened under another pin does not get past this one.
		strict, err := upstream.TLSConfig(nil, []pin{other.pin}, "rack.example")
		if err != nil {
			t.Fatal(err)
		}
		strict.ClientSessionCache = cfg.ClientSessionCache
		stranger := newLean(t, upstream.Config{Origin: w.origin, TLS: strict})
		if _, err := stranger.RoundTrip(newRequest(t, "GET", w.origin, "/", nil)); err == nil {
			t.Error("a resumed session got past the pin")
		}
	}
}

func TestTLSConfigRefusesWhatItCannotUse(t *testing.T) {
	good := newIdentity(t)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	for name, ca := range map[string]string{
		"no PEM":               "hello",
		"a key":                string(key),
		"a key behind":         string(good.pem) + string(key),
		"a cut certificate":    string(good.pem[:len(good.pem)/2]),
		"a cut second":         string(good.pem) + string(good.pem[:len(good.pem)/2]),
		"a broken certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
	} {
		if _, err := upstream.TLSConfig([]byte(ca), nil, ""); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := upstream.TLSConfig(append(good.pem, "\n# the end\n"...), []pin{good.pin}, "x"); err != nil {
		t.Error(err)
	}
}

func TestRequestsOverTLS(t *testing.T) {
	rack := newIdentity(t)
	cfg, err := upstream.TLSConfig(rack.pem, nil, "rack.example")
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 1<<20)
	conform(t, settings{tls: cfg}, func(t *testing.T, at func(*url.URL) subject) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			server := rack.server.Clone()
			server.MaxVersion = version
			w := serveWireTLS(t, server, func(_ int, c *wireConn) {
				in := c.in
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					body, _ := io.ReadAll(req.Body)
					answer := &http.Response{ProtoMajor: 1, ProtoMinor: 1, StatusCode: 200, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(string(body)))}
					_ = answer.Write(c.Conn)
				}
			})
			s := at(w.origin)
			for _, body := range []string{"", "small", large, ""} {
				if _, got := do(t, s, newRequest(t, "POST", w.origin, "/", strings.NewReader(body))); got != body {
					t.Errorf("got %d bytes back of %d", len(got), len(body))
				}
				idle(t, s, 1)
			}
			if w.accepted() != 1 {
				t.Errorf("it took %d connections", w.accepted())
			}
		}
	})
}

func TestStaleAndPoisonedConnectionsAreFoundThroughTLS(t *testing.T) {
	rack := newIdentity(t)
	cfg, err := upstream.TLSConfig(rack.pem, nil, "rack.example")
	if err != nil {
		t.Fatal(err)
	}
	for name, after := range map[string]func(*wireConn){
		"closed":        func(c *wireConn) { _ = c.Close() },
		"closed rudely": func(c *wireConn) { _ = c.Conn.(*tls.Conn).NetConn().Close() },
		"poisoned":      func(c *wireConn) { c.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison") },
		"closed for us": func(c *wireConn) { _ = c.Conn.(*tls.Conn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			leavesNoGoroutine(t)
			done := make(chan struct{})
			w := serveWireTLS(t, rack.server, func(n int, c *wireConn) {
				for c.head() != "" {
					c.say(okAnswer)
					if n == 1 {
						after(c)
						close(done) // over loopback, what was sent has arrived
						c.waitClosed()
						return
					}
				}
			})
			lean := newLean(t, upstream.Config{Origin: w.origin, TLS: cfg})
			get(t, lean, w.origin)
			within(t, "the server", func() { <-done })
			if _, body := do(t, lean, newRequest(t, "POST", w.origin, "/", strings.NewReader("x"))); body != "ok" {
				t.Errorf("got %q", body)
			}
			if stats := lean.Stats(); w.accepted() != 2 || stats.Stale != 1 {
				t.Errorf("got %+v on %d connections", stats, w.accepted())
			}
		})
	}
}

func TestATunnelOverTLSIsHandedOver(t *testing.T) {
	leavesNoGoroutine(t)
	rack := newIdentity(t)
	w := serveWireTLS(t, rack.server, func(_ int, c *wireConn) {
		c.head()
		c.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly-")
		_, _ = io.Copy(c.Conn, c.in)
	})
	cfg, err := upstream.TLSConfig(nil, []pin{rack.pin}, "")
	if err != nil {
		t.Fatal(err)
	}
	lean := newLean(t, upstream.Config{Origin: w.origin, TLS: cfg})
	req := newRequest(t, "GET", w.origin, "/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	resp, err := lean.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the tunnel", func() {
		s := resp.Body.(*upstream.Switched)
		_, _ = io.WriteString(s, "late")
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(s); string(got) != "early-late" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		_ = s.Close()
	})
}
