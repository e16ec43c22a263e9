package credential

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"

	"rackgateway/pkg/secret"
)

// Kind says what sort of credential a token is.
type Kind string

const (
	// CLI is a person's token on one device; it has that person's rights.
	CLI Kind = "cli"
	// API is a pipeline's token, with rights of its own.
	API Kind = "api"
	// Session is a person's browser session; it has that person's rights. It is in a cookie, and goes to the proxy
	// only by way of admin.
	Session Kind = "ses"
)

// kindOf returns the constant for a text, so that the caller's string is not kept alive; "" when it is no kind.
func kindOf(text string) Kind {
	for _, kind := range [...]Kind{CLI, API, Session} {
		if text == string(kind) {
			return kind
		}
	}
	return ""
}

// A token's text is
//
//	rgw_<kind>_<id><secret><checksum>
//
// where everything after the second underscore is base 62 (0-9, A-Z, a-z), because the convox CLI sends
// userinfo still percent-encoded and so can carry nothing else unchanged. The id makes a token
// recognisable in lists and logs. The secret is drawn from 62^43 > 2^256 values. The checksum is the
// CRC-32 (IEEE 802.3) of all that stands before it, in base 62, most significant digit first, so that
// a scanner for leaked secrets, and the proxy, can tell a token from noise without asking anybody.
// Lengths are in characters.
const (
	// TokenIDLength is the length of the id.
	TokenIDLength = 8
	// TokenSecretLength is the length of the secret.
	TokenSecretLength = 43
	// TokenChecksumLength is the length of the checksum.
	TokenChecksumLength = 6
	// TokenPrefixLength is the length of what comes before the secret: "rgw_", kind, "_", id.
	TokenPrefixLength = len("rgw_") + kindLength + len("_") + TokenIDLength
	// TokenLength is the length of a whole token, the same for each kind.
	TokenLength = TokenPrefixLength + TokenSecretLength + TokenChecksumLength

	kindLength = 3
	digits     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// ErrMalformed is returned by Parse for a text that cannot be a token. It never quotes the text.
var ErrMalformed = errors.New("not a token of this gateway")

// Token is one token, whose secret prints as its prefix and an ellipsis only. The zero value is no token.
type Token struct {
	hash [sha256.Size]byte
	kind Kind
	text secret.Text
}

// New draws a token of the given kind from the system's source of randomness.
func New(kind Kind) (Token, error) {
	if kindOf(string(kind)) == "" {
		return Token{}, fmt.Errorf("no tokens of kind %q", string(kind))
	}
	text := make([]byte, 0, TokenLength)
	text = append(text, "rgw_"...)
	text = append(text, kind...)
	text = append(text, '_')
	text = appendRandom(text, TokenIDLength+TokenSecretLength)
	text = appendChecksum(text)
	return Parse(string(text))
}

// Parse reads a token, and tells by its form and checksum whether it can be one. It returns
// ErrMalformed otherwise. It allocates one small object and touches nothing but its argument.
func Parse(s string) (Token, error) {
	if len(s) != TokenLength || s[:4] != "rgw_" || s[7] != '_' {
		return Token{}, ErrMalformed
	}
	kind := kindOf(s[4:7])
	if kind == "" {
		return Token{}, ErrMalformed
	}
	body, checksum := s[:TokenLength-TokenChecksumLength], s[TokenLength-TokenChecksumLength:]
	for i := len("rgw_cli_"); i < len(body); i++ {
		if !isDigit(body[i]) {
			return Token{}, ErrMalformed
		}
	}
	var buf [TokenLength]byte
	copy(buf[:], s)
	if string(appendChecksum(buf[:len(body):TokenLength])[len(body):]) != checksum {
		return Token{}, ErrMalformed
	}
	return Token{hash: sha256.Sum256(buf[:]), kind: kind, text: secret.NewText(s)}, nil
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// appendRandom appends n digits, each drawn evenly: a byte over the largest multiple of 62 is drawn again.
func appendRandom(dst []byte, n int) []byte {
	var random [128]byte
	for n > 0 {
		_, _ = rand.Read(random[:]) // never fails, by its documentation
		for _, b := range random {
			if n > 0 && b < 4*62 {
				dst = append(dst, digits[b%62])
				n--
			}
		}
	}
	return dst
}

func appendChecksum(body []byte) []byte {
	sum := crc32.ChecksumIEEE(body)
	var text [TokenChecksumLength]byte
	for i := len(text) - 1; i >= 0; i-- {
		text[i] = digits[sum%62]
		sum /= 62
	}
	return append(body, text[:]...)
}

// Kind says what sort of token it is; empty for the zero value.
func (t Token) Kind() Kind { return t.kind }

// Hash is the SHA-256 of the whole text: what a token is stored and looked up by.
func (t Token) Hash() [sha256.Size]byte { return t.hash }

// Prefix is the part that may be shown: kind and id.
func (t Token) Prefix() string {
	if t.kind == "" {
		return ""
	}
	return t.text.Reveal()[:TokenPrefixLength]
}

// LastFour is the last four characters, which may be shown: they are part of the checksum, not of the secret.
func (t Token) LastFour() string {
	if t.kind == "" {
		return ""
	}
	return t.text.Reveal()[TokenLength-4:]
}

// Reveal returns the whole text, to be shown once to whoever it was made for.
func (t Token) Reveal() string { return t.text.Reveal() }

// String returns the prefix and an ellipsis.
func (t Token) String() string { return t.Prefix() + "…" }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// Format writes String for every verb.
func (t Token) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, t.String()) }

// LogValue makes package slog log String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns String; it never fails.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON returns String as a JSON string; it never fails.
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }
