package idp

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// Forgery is an ID token that a test changes before it is given out. What it leaves as it is stays right.
type Forgery struct {
	Claims    map[string]any
	Algorithm string // RS256, ES256 or PS256 with the provider's own keys; HS256 with Secret; or none
	OtherKey  bool   // signs with a key that the provider never published, under the id of one that it did
	Secret    []byte // of HS256
	Drop      bool   // gives no ID token at all
	Raw       string // gives this text in its place
}

// Forge has every ID token from now on changed by the function; nil makes the provider honest again.
func (p *Provider) Forge(change func(*Forgery)) {
	p.mu.Lock()
	p.forge = change
	p.mu.Unlock()
}

// PublicKeyPEM is the provider's public RSA key, which a confused client might take for a secret.
func (p *Provider) PublicKeyPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(&p.storage.rsa.PublicKey)
	if err != nil { // of an RSA key it always can be
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// answerToken is the token endpoint: honest, but for what is to be forged.
func (p *Provider) answerToken(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	change := p.forge
	p.mu.Unlock()
	if change == nil {
		p.openid.ServeHTTP(w, r)
		return
	}
	honest := httptest.NewRecorder()
	p.openid.ServeHTTP(honest, r)
	body := honest.Body.Bytes()
	if honest.Code == http.StatusOK {
		var err error
		if body, err = p.forged(body, change); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(honest.Code)
	_, _ = w.Write(body) // a client that hung up is not told
}

// forged replaces the ID token in an answer.
func (p *Provider) forged(answer []byte, change func(*Forgery)) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(answer, &fields); err != nil {
		return nil, fmt.Errorf("read the honest answer: %w", err)
	}
	token, _ := fields["id_token"].(string)
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("the honest answer has no ID token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("read the honest token: %w", err)
	}
	f := Forgery{Algorithm: string(jose.RS256)}
	if err := json.Unmarshal(payload, &f.Claims); err != nil {
		return nil, fmt.Errorf("read the honest token: %w", err)
	}
	change(&f)
	switch {
	case f.Drop:
		delete(fields, "id_token")
	case f.Raw != "":
		fields["id_token"] = f.Raw
	default:
		if fields["id_token"], err = p.sign(f); err != nil {
			return nil, err
		}
	}
	return json.Marshal(fields)
}

func (p *Provider) sign(f Forgery) (string, error) {
	payload, err := json.Marshal(f.Claims)
	if err != nil {
		return "", fmt.Errorf("write the forged token: %w", err)
	}
	if f.Algorithm == "none" {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + ".", nil
	}
	alg := jose.SignatureAlgorithm(f.Algorithm)
	with := p.storage.signingKey(alg)
	private := with.private
	if f.OtherKey {
		if private, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return "", fmt.Errorf("make another key: %w", err)
		}
	}
	if alg == jose.HS256 {
		private = f.Secret
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: private}, (&jose.SignerOptions{}).WithHeader("kid", with.id))
	if err != nil {
		return "", fmt.Errorf("sign the forged token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign the forged token: %w", err)
	}
	return signed.CompactSerialize()
}
