// Package seal keeps secrets at rest and in cookies: sealed so that nobody without the application's key can read
// or change them, and signed so that nobody without it can make them up.
//
// Keys are derived from APP_SECRET_KEY by HKDF (RFC 5869, SHA-256), one for each purpose, so that what was sealed for
// one purpose opens for no other. What is sealed is bound to an identity, such as a row's, as associated data, so that
// rows cannot be swapped. With the key before given too, what it sealed still opens, and Reseal brings it over:
// that is how a key is rotated without an interruption.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"

	"rackgateway/pkg/secret"
)

// Keys are the application's present key and the one before, if there is one. They cannot be printed.
type Keys struct {
	current, previous secret.Text
}

// leastKey is the least length of a key's text, in bytes: package config asks for 256 bits of randomness, which no
// shorter text has.
const leastKey = 32

// NewKeys takes the present key and the one before, which may be empty.
func NewKeys(current, previous secret.Text) (Keys, error) {
	if len(current.Reveal()) < leastKey {
		return Keys{}, fmt.Errorf("the application's key has %d bytes and needs at least %d", len(current.Reveal()), leastKey)
	}
	if !previous.IsZero() && len(previous.Reveal()) < leastKey {
		return Keys{}, fmt.Errorf("the application's previous key has %d bytes and needs at least %d", len(previous.Reveal()), leastKey)
	}
	return Keys{current: current, previous: previous}, nil
}

// Purposes begin with what the key is used for, so that no sealing key is ever a signing key.
const (
	sealPurpose = "rack-gateway seal v1: "
	signPurpose = "rack-gateway sign v1: "
	idPurpose   = "rack-gateway seal key id v1: "
)

func derive(key secret.Text, info string, length int) []byte {
	derived, err := hkdf.Key(sha256.New, []byte(key.Reveal()), nil, info, length)
	if err != nil { // only for lengths beyond 255 hashes
		panic(err)
	}
	return derived
}

// ErrSealed says that something does not open: it was changed, or sealed for something else, or with a key that is
// not known any more. Which of them it was cannot be told.
var ErrSealed = errors.New("what was sealed cannot be opened: it was changed, or sealed with another key")

// What is sealed has the form
//
//	version (1 byte) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag (16 more than the plain text)
//
// The version and the key id are authenticated with the rest.
const (
	version    = 1
	idLength   = 4
	headLength = 1 + idLength

	// Overhead is by how many bytes what is sealed is longer than the plain text.
	Overhead = headLength + 12 + 16
)

// Box seals and opens for one purpose. It is safe for concurrent use.
type Box struct {
	current, previous *boxKey // previous may be nil
}

type boxKey struct {
	id   [idLength]byte
	aead cipher.AEAD
}

// Box returns the box of a purpose, such as "totp secret". The name is part of the key: it must never change.
func (k Keys) Box(purpose string) *Box {
	b := &Box{current: newBoxKey(k.current, purpose)}
	if !k.previous.IsZero() {
		b.previous = newBoxKey(k.previous, purpose)
	}
	return b
}

func newBoxKey(key secret.Text, purpose string) *boxKey {
	block, err := aes.NewCipher(derive(key, sealPurpose+purpose, 32))
	if err != nil { // only for keys of other lengths
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil { // only for other block sizes
		panic(err)
	}
	bk := &boxKey{aead: aead}
	copy(bk.id[:], derive(key, idPurpose+purpose, idLength))
	return bk
}

// Seal seals a plain text for the identity given. Each result is different. One box should not seal more than 2^32
// times (NIST SP 800-38D, section 8.3).
func (b *Box) Seal(plain []byte, identity string) []byte {
	sealed := make([]byte, headLength, Overhead+len(plain))
	sealed[0] = version
	copy(sealed[1:], b.current.id[:])
	return b.current.aead.Seal(sealed, nil, plain, associated(sealed[:headLength], identity)) //nolint:gosec // without a nonce, this AEAD draws one
}

func associated(head []byte, identity string) []byte {
	return append(append(make([]byte, 0, len(head)+len(identity)), head...), identity...)
}

// Open returns the plain text of what was sealed for the identity, with the present key or the one before. The error
// is ErrSealed.
func (b *Box) Open(sealed []byte, identity string) ([]byte, error) {
	plain, _, err := b.open(sealed, identity)
	return plain, err
}

func (b *Box) open(sealed []byte, identity string) (plain []byte, with *boxKey, err error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, nil, ErrSealed
	}
	for _, key := range []*boxKey{b.current, b.previous} {
		if key == nil || [idLength]byte(sealed[1:headLength]) != key.id {
			continue
		}
		plain, err := key.aead.Open(nil, nil, sealed[headLength:], associated(sealed[:headLength], identity))
		if err == nil {
			return plain, key, nil
		}
	}
	return nil, nil, ErrSealed
}

// Reseal seals with the present key what was sealed with the one before. Changed is false when it was the present one
// already; what comes back is then what was given.
func (b *Box) Reseal(sealed []byte, identity string) (again []byte, changed bool, err error) {
	plain, with, err := b.open(sealed, identity)
	if err != nil {
		return nil, false, err
	}
	if with == b.current {
		return sealed, false, nil
	}
	return b.Seal(plain, identity), true, nil
}

// Signer makes and checks signatures (HMAC-SHA256) for one purpose. It is safe for concurrent use.
type Signer struct {
	current, previous secret.Bytes // previous may be empty
}

// Signer returns the signer of a purpose. The name is part of the key: it must never change.
func (k Keys) Signer(purpose string) *Signer {
	s := &Signer{current: secret.NewBytes(derive(k.current, signPurpose+purpose, sha256.Size))}
	if !k.previous.IsZero() {
		s.previous = secret.NewBytes(derive(k.previous, signPurpose+purpose, sha256.Size))
	}
	return s
}

// Sign returns the signature of some data, 32 bytes.
func (s *Signer) Sign(data []byte) []byte { return sign(s.current, data) }

// Verify reports whether a signature of the data was made with the present key or the one before, in a time that
// does not depend on how much of it is right.
func (s *Signer) Verify(data, signature []byte) bool {
	if hmac.Equal(sign(s.current, data), signature) {
		return true
	}
	return !s.previous.IsZero() && hmac.Equal(sign(s.previous, data), signature)
}

func sign(key secret.Bytes, data []byte) []byte {
	mac := hmac.New(sha256.New, key.Reveal())
	_, _ = mac.Write(data)
	return mac.Sum(nil)
}
