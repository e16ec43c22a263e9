package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pair makes a certificate with a serial number, and its key, as PEM.
func pair(t *testing.T, serial int64) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files are a certificate's two files, and a clock that goes by itself when told.
type files struct {
	t         *testing.T
	cert, key string
	served    *Certificate
	ahead     atomic.Int64
	log       strings.Builder
}

func newFiles(t *testing.T) *files {
	t.Helper()
	dir := t.TempDir()
	f := &files{t: t, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	f.put(1)
	var err error
	if f.served, err = NewCertificate(f.cert, f.key, slog.New(slog.NewTextHandler(&f.log, nil))); err != nil {
		t.Fatal(err)
	}
	f.served.now = func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }
	return f
}

func (f *files) put(serial int64) {
	f.t.Helper()
	certificate, key := pair(f.t, serial)
	write(f.t, f.cert, certificate)
	write(f.t, f.key, key)
}

// serial is which certificate is served after the files have been looked at again.
func (f *files) serial() int64 {
	f.t.Helper()
	f.ahead.Add(int64(2 * lookEvery))
	got, err := f.served.Get(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return got.Leaf.SerialNumber.Int64()
}

func TestANewCertificateIsServedWithoutARestart(t *testing.T) {
	f := newFiles(t)
	for serial := int64(1); serial < 5; serial++ {
		if serial > 1 {
			f.put(serial)
		}
		if got := f.serial(); got != serial {
			t.Errorf("the one with number %d is served, want %d", got, serial)
		}
	}
}

// As a mounted secret of Kubernetes is changed: a link to a folder is made to lead to another folder.
func TestALinkThatLeadsElsewhereIsNoticed(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for _, version := range []string{"first", "second"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		certificate, key := pair(t, int64(len(version)))
		write(t, filepath.Join(dir, version, "tls.crt"), certificate)
		write(t, filepath.Join(dir, version, "tls.key"), key)
		for _, name := range []string{"tls.crt", "tls.key"} { // with the same times
			if err := os.Chtimes(filepath.Join(dir, version, name), now, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := filepath.Join(dir, "data")
	if err := os.Symlink("first", link); err != nil {
		t.Fatal(err)
	}
	served, err := NewCertificate(filepath.Join(link, "tls.crt"), filepath.Join(link, "tls.key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	served.now = func() time.Time { return time.Now().Add(time.Hour) }
	if err := os.Symlink("second", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	if got, err := served.Get(nil); err != nil || got.Leaf.SerialNumber.Int64() != int64(len("second")) {
		t.Errorf("the old one is served on (%v)", err)
	}
}

func TestWhatCannotBeUsedDoesNotReplaceWhatCan(t *testing.T) {
	f := newFiles(t)
	certificate, key := pair(t, 2)
	write(t, f.cert, certificate) // and its key is not there yet
	if got := f.serial(); got != 1 {
		t.Errorf("%d is served with the key of another", got)
	}
	write(t, f.key, []byte("half of a key"))
	if got := f.serial(); got != 1 {
		t.Errorf("%d is served", got)
	}
	if err := os.Remove(f.key); err != nil {
		t.Fatal(err)
	}
	if got := f.serial(); got != 1 {
		t.Errorf("%d is served", got)
	}
	write(t, f.key, key)
	if got := f.serial(); got != 2 {
		t.Errorf("%d is served when all is there", got)
	}
	if text := f.log.String(); strings.Count(text, "cannot be used") != 2 || strings.Contains(text, "PRIVATE") {
		t.Errorf("the log says\n%s", text)
	}
	for _, missing := range []string{f.cert, f.key} {
		if _, err := NewCertificate(missing+".gone", missing, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("a certificate that is not there was taken")
		}
	}
}

// Under handshakes without end the certificate is changed again and again, and none fails.
func TestNoHandshakeFailsWhileTheCertificateChanges(t *testing.T) {
	f := newFiles(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{GetCertificate: f.served.Get, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	server.TLS.Certificates = nil // httptest's own

	seen := make(map[int64]bool)
	var mu sync.Mutex
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				f.ahead.Add(int64(2 * lookEvery))
				conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
				if err != nil {
					t.Errorf("a handshake failed: %v", err)
					return
				}
				mu.Lock()
				seen[conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()] = true
				mu.Unlock()
				_ = conn.Close()
			}
		})
	}
	for serial := int64(2); serial <= 6; serial++ {
		f.put(serial)
		for deadline := time.Now().Add(time.Minute); ; {
			mu.Lock()
			arrived := seen[serial]
			mu.Unlock()
			if arrived {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("certificate %d was never served", serial)
			}
			runtime.Gosched()
		}
	}
	close(stop)
	asking.Wait()
}

func TestItIsToldWhenMetricsWereAskedFor(t *testing.T) {
	var scrapes Scrapes
	at := httptest.NewUnstartedServer(nil)
	address := at.Listener.Addr().String()
	_ = at.Listener.Close()
	stop, err := ServeMetrics(t.Context(), address, prometheus.NewRegistry(), &scrapes, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	get := func(path string) string {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(body))
	}
	if got := get(ScrapedPath); got != "null" || !scrapes.Last().IsZero() {
		t.Errorf("before anybody asked: %s", got)
	}
	get("/metrics")
	if got := get(ScrapedPath); !strings.HasPrefix(got, `"20`) || time.Since(scrapes.Last()).Abs() > time.Minute {
		t.Errorf("afterwards: %s", got)
	}
}
