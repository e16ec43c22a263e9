package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469, section 2.4).
type Pin [sha256.Size]byte

// UnmarshalText reads a pin as base64, with "sha256/" or curl's "sha256//" before it or not, or as hex,
// with colons between the bytes or not.
func (p *Pin) UnmarshalText(text []byte) error {
	s := string(bytes.TrimSpace(text))
	s = strings.TrimPrefix(s, "sha256/")
	if len(s) == base64.StdEncoding.EncodedLen(len(p))+1 { // a pin may begin with a slash of its own
		s = strings.TrimPrefix(s, "/")
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		raw, err = base64.StdEncoding.DecodeString(s)
	}
	if err != nil || len(raw) != len(p) {
		return &valueError{"is not a SHA-256 in base64 (44 characters) or hex (64)"}
	}
	copy(p[:], raw)
	return nil
}

// String is the pin as RFC 7469 and curl write it.
func (p Pin) String() string { return "sha256/" + base64.StdEncoding.EncodeToString(p[:]) }
