// How the upstream's certificate is verified.

package upstream

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// TLSConfig returns how to verify the upstream's certificate.
//
//   - With neither caFile nor pin: by the system's certificate authorities.
//   - With caFile, the PEM text of certificates: by these authorities alone.
//   - With pins alone: the certificate's public key must be a pinned one;
//     chain, name and validity are not looked at, so a self-signed one will do.
//   - With both: by these authorities, and the key must be a pinned one.
//
// A pin is the SHA-256 of the leaf's SubjectPublicKeyInfo (RFC 7469 section 2.4).
// It is checked on resumed sessions too.
// serverName is verified and sent (SNI); empty means the origin's host.
func TLSConfig(caFile []byte, pins [][sha256.Size]byte, serverName string) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         serverName,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	if len(caFile) > 0 {
		roots, err := certificates(caFile)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = roots
	}
	if len(pins) > 0 {
		cfg.InsecureSkipVerify = len(caFile) == 0 // then VerifyConnection compares the key instead
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the upstream showed no certificate")
			}
			got := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if !slices.Contains(pins, got) {
				return fmt.Errorf("the upstream's certificate has another key than a pinned one: its pin is %s",
					base64.StdEncoding.EncodeToString(got[:]))
			}
			return nil
		}
	}
	return cfg, nil
}

// certificates parses PEM text that must hold certificates and nothing else.
func certificates(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil && n > 0 && !bytes.Contains(rest, []byte("-----BEGIN")) {
			break // text after the last certificate, as bundles have
		}
		if block == nil {
			return nil, fmt.Errorf("the CA file is not PEM text after %d certificates", n)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the CA file has a block of type %q, and may have certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the CA file: %w", n+1, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("the CA file has no certificate")
	}
	return pool, nil
}
