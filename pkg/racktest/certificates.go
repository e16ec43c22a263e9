// Certificates, and how Let's Encrypt is told who owns a domain.

package racktest

import (
	"crypto/sha1"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

type certificate struct {
	wire.Certificate
	key       string // never answered
	generated bool
}

type letsEncrypt = wire.LetsEncrypt

func (r *Rack) certificateList(c *call) error {
	o := c.options()
	generated := boolean(o.form("generated"))
	only := generated != nil && *generated
	out := []wire.Certificate{}
	r.mu.Lock()
	for _, cert := range r.certificates {
		if cert.generated == only || !only {
			out = append(out, cert.Certificate)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b wire.Certificate) int {
		return strings.Compare(strings.ToUpper(a.ID), strings.ToUpper(b.ID))
	})
	return c.json(out)
}

func (r *Rack) certificateCreate(c *call) error {
	pub, key := c.value("pub"), c.value("key")
	c.options()
	r.mu.Lock()
	cert, err := r.addCertificate(pub, key, false)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := cert.Certificate
	r.mu.Unlock()
	return c.json(out)
}

// addCertificate takes a certificate in PEM. The caller holds r.mu.
func (r *Rack) addCertificate(pub, key string, generated bool) (*certificate, error) {
	block, _ := pem.Decode([]byte(pub))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("invalid certificate")
	}
	if b, _ := pem.Decode([]byte(key)); b == nil {
		return nil, errors.New("invalid key")
	}
	x, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	cert := &certificate{key: key, generated: generated, Certificate: wire.Certificate{
		ID: "cert-" + r.letters(5, podLetters), Domain: x.Subject.CommonName, Domains: x.DNSNames, Expiration: x.NotAfter.UTC(),
	}}
	if cert.Domain == "" && len(x.DNSNames) > 0 {
		cert.Domain = x.DNSNames[0]
	}
	r.certificates[cert.ID] = cert
	return cert, nil
}

func (r *Rack) certificateDelete(c *call) error {
	id := c.variable("id")
	r.mu.Lock()
	cert := r.certificates[id]
	delete(r.certificates, id)
	r.mu.Unlock()
	if cert == nil {
		return fmt.Errorf("secrets %q not found", id)
	}
	return c.ok()
}

func (r *Rack) certificateGenerate(c *call) error {
	domains := strings.Split(c.value("domains"), ",")
	o := c.options()
	issuer, byIssuer := o.form("issuer")
	life := o.duration(o.form("duration"))
	switch {
	case byIssuer && issuer != "letsencrypt":
		return badRequest("invalid issuer")
	case o.err != nil:
		return badRequest("invalid duration: %s", o.err)
	case !byIssuer && len(domains) > 1:
		return badRequest("must specify only one domain")
	case len(domains) > 10:
		return badRequest("can not specify more than 10 domain name")
	}
	expires := r.now().Add(365 * 24 * time.Hour)
	if byIssuer {
		expires = r.now().Add(4320 * time.Hour)
		if life != nil {
			expires = r.now().Add(*life)
		}
	}
	for i := range domains {
		domains[i] = strings.TrimSpace(domains[i])
	}
	out := wire.Certificate{Domain: domains[0], Domains: domains, Expiration: expires}
	r.mu.Lock()
	if byIssuer {
		out.ID = fmt.Sprintf("cert-%x", sha1.Sum([]byte(strings.Join(domains, "-"))))
	} else {
		out.ID = "cert-" + r.letters(5, podLetters)
	}
	r.certificates[out.ID] = &certificate{Certificate: out, generated: byIssuer}
	r.mu.Unlock()
	return c.json(out)
}

// certificateRenew takes an app's name for its id.
func (r *Rack) certificateRenew(c *call) error {
	if _, err := r.app(c.variable("id")); err != nil {
		return err
	}
	return c.ok()
}

func (r *Rack) certificateApply(c *call) error {
	id := c.value("id")
	if _, err := strconv.Atoi(c.variable("port")); err != nil {
		return err
	}
	return r.changeService(c, func(s *service) error {
		if r.certificates[id] == nil {
			return fmt.Errorf("secrets %q not found", id)
		}
		s.certificate = id
		return nil
	})
}

func (r *Rack) letsEncryptGet(c *call) error {
	r.mu.Lock()
	out := r.letsEncrypt
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) letsEncryptApply(c *call) error {
	var in letsEncrypt
	if err := json.NewDecoder(c).Decode(&in); err != nil {
		return err
	}
	r.mu.Lock()
	in.Role = r.letsEncrypt.Role
	r.letsEncrypt = in
	r.mu.Unlock()
	return c.ok()
}
