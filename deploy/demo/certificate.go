package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificate is where a self-made certificate and the authority that signed it lie, in PEM.
type certificate struct{ authority, chain, key string }

// pin is the hash of the certificate's public key, as RACK_TLS_PIN takes it.
func (c certificate) pin() (string, error) {
	text, err := os.ReadFile(c.chain)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", fmt.Errorf("%s holds no certificate", c.chain)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(hash[:]), nil
}

// makeCertificate returns the certificate of that name for localhost, 127.0.0.1 and ::1, with an authority of its own,
// from the folder; it makes both when they are missing, do not fit, or end within a month. The authority's key is
// kept nowhere, so that nobody can sign anything else with it.
func makeCertificate(folder, name string, now time.Time) (certificate, error) {
	files := certificate{
		authority: filepath.Join(folder, name+"-ca.pem"),
		chain:     filepath.Join(folder, name+".pem"),
		key:       filepath.Join(folder, name+".key"),
	}
	if files.good(now.Add(30 * 24 * time.Hour)) {
		return files, nil
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, err
	}
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "Rack Gateway demo, authority of its " + name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return files, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, err
	}
	leaf := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano() + 1),
		Subject:               pkix.Name{CommonName: "localhost"},
		NotBefore:             authority.NotBefore,
		NotAfter:              authority.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), authorityKey)
	if err != nil {
		return files, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return files, err
	}
	for _, file := range []struct {
		path  string
		block pem.Block
		mode  os.FileMode
	}{
		{files.authority, pem.Block{Type: "CERTIFICATE", Bytes: authorityDER}, 0o644},
		{files.chain, pem.Block{Type: "CERTIFICATE", Bytes: leafDER}, 0o644},
		{files.key, pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}, 0o600},
	} {
		if err := os.WriteFile(file.path, pem.EncodeToMemory(&file.block), file.mode); err != nil {
			return files, err
		}
	}
	return files, nil
}

// good reports whether the files are there, fit together, and serve localhost at the time given.
func (c certificate) good(at time.Time) bool {
	pair, err := tls.LoadX509KeyPair(c.chain, c.key)
	if err != nil {
		return false
	}
	roots, err := c.roots()
	if err != nil {
		return false
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return false
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: roots, CurrentTime: at})
	return err == nil
}

// roots is the authority, as whoever connects verifies by it.
func (c certificate) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(c.authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", c.authority)
	}
	return roots, nil
}
