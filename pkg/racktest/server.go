// A rack that listens: over TLS with a certificate of its own making, or plainly on loopback.

package racktest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// ServeOptions say where a rack listens.
type ServeOptions struct {
	// Addr is host:port; empty means a free port of 127.0.0.1.
	Addr string
	// TLS serves https. Without Certificate one is made for localhost, 127.0.0.1, ::1 and Names.
	TLS         bool
	Certificate *tls.Certificate
	Names       []string
	// Ready, when set, is called once the rack listens.
	Ready func(*Server)
}

// Server is a listening rack. Rack.Close ends it.
type Server struct {
	rack *Rack
	addr string
	tls  *tls.Config
	pem  []byte

	mu      sync.Mutex
	current *http.Server // nil while connections are refused
	done    chan struct{}
}

// Serve makes a rack and listens on loopback without TLS. It is the short way for tests; Rack.Close ends both.
func Serve(opts Options) (*Rack, *Server, error) {
	r := New(opts)
	s, err := r.Start(ServeOptions{})
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, s, nil
}

// ListenAndServe runs a rack until ctx ends.
func ListenAndServe(ctx context.Context, opts Options, serve ServeOptions) error {
	r := New(opts)
	defer r.Close()
	if _, err := r.Start(serve); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Start listens. A rack may listen in several places at once.
func (r *Rack) Start(opts ServeOptions) (*Server, error) {
	s := &Server{rack: r, addr: opts.Addr}
	if s.addr == "" {
		s.addr = "127.0.0.1:0"
	}
	if opts.TLS {
		cert := opts.Certificate
		if cert == nil {
			made, err := selfSigned(opts.Names)
			if err != nil {
				return nil, fmt.Errorf("making a certificate: %w", err)
			}
			cert = &made
		}
		// Racks speak HTTP/1.1 only.
		s.tls = &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		for _, der := range cert.Certificate {
			s.pem = append(s.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	}
	if err := s.Accept(); err != nil {
		return nil, err
	}
	r.serverMu.Lock()
	r.servers = append(r.servers, s)
	r.serverMu.Unlock()
	if opts.Ready != nil {
		opts.Ready(s)
	}
	return s, nil
}

// Addr is host:port of the listener.
func (s *Server) Addr() string { return s.addr }

// URL is the rack's address without credentials.
func (s *Server) URL() string {
	if s.tls != nil {
		return "https://" + s.addr
	}
	return "http://" + s.addr
}

// RackURL is what a CLI takes as RACK_URL: the address with the rack's password in it.
func (s *Server) RackURL() string {
	u, _ := url.Parse(s.URL())
	u.User = url.UserPassword("convox", s.rack.opts.Password)
	return u.String()
}

// CertificatePEM is the certificate chain that the server shows, nil without TLS.
func (s *Server) CertificatePEM() []byte { return s.pem }

// Refuse stops listening and drops idle connections: new connections are refused until Accept.
// Requests and sockets that are under way go on.
func (s *Server) Refuse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	// Shutdown with a context that has ended closes listeners and idle connections, and waits for nothing.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.current.Shutdown(ended); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	<-s.done
	s.current = nil
	return nil
}

// Restart drops every connection, under way or not, and listens again: a rack that was restarted.
func (s *Server) Restart() error {
	s.stop()
	s.rack.connMu.Lock()
	for c := range s.rack.conns {
		c.Close()
	}
	s.rack.connMu.Unlock()
	return s.Accept()
}

// Accept listens (again) on the same address.
func (s *Server) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		return nil
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	s.addr = ln.Addr().String()
	if s.tls != nil {
		ln = tls.NewListener(ln, s.tls)
	}
	srv := &http.Server{
		Handler: s.rack,
		// The rack's own limits.
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       120 * time.Second,
		ErrorLog:          log.New(logWriter{s.rack}, "", 0),
	}
	done := make(chan struct{})
	s.current, s.done = srv, done
	go func() {
		defer close(done)
		srv.Serve(ln) //nolint:errcheck // it ends with ErrServerClosed
	}()
	return nil
}

// stop closes the listener and every connection that is not a socket.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return
	}
	s.current.Close() //nolint:errcheck // it is being thrown away
	<-s.done
	s.current = nil
}

type logWriter struct{ rack *Rack }

func (w logWriter) Write(p []byte) (int, error) {
	w.rack.opts.Log.Debug("http server", "message", string(p))
	return len(p), nil
}

func selfSigned(names []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "api", Organization: []string{"convox"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(365 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// It is its own authority, so that it can be handed to a client as a CA file.
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              append([]string{"localhost"}, names...),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
