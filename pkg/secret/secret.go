// Package secret holds values that must not be shown: passwords, tokens, keys.
//
// Redaction is by type. A value of this package prints as "[hidden]" whichever way it is formatted,
// logged or encoded, and whatever struct it sits in; the only way to the value is Reveal, so that
// every use of a secret can be found by searching for that word.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// hidden is what every secret looks like from outside.
const hidden = "[hidden]"

// Text is a secret string. The zero value is the empty secret. Values are immutable and safe for
// concurrent use; they cannot be compared with ==, which would take a time that tells how much matched.
type Text struct {
	_ [0]func() // not comparable

	// A pointer to a string, because package fmt reads unexported fields of a struct without asking
	// the methods of their type: it prints the address of such a pointer, and would print the contents
	// of a string, and of a slice behind a pointer too.
	text *string
}

// NewText hides s.
func NewText(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{text: &s}
}

// Reveal returns the secret itself. What is done with it is the caller's responsibility.
func (t Text) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// IsZero reports whether the secret is empty.
func (t Text) IsZero() bool { return t.text == nil }

// Equal reports whether both hold the same secret, in a time that depends on their lengths alone.
func (t Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(other.Reveal())) == 1
}

// String returns "[hidden]".
func (Text) String() string { return hidden }

// GoString returns "[hidden]".
func (Text) GoString() string { return hidden }

// Format writes "[hidden]" for every verb.
func (Text) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, hidden) }

// LogValue makes package slog log "[hidden]".
func (Text) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "[hidden]"; it never fails.
func (Text) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON returns "[hidden]" as a JSON string; it never fails.
func (Text) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// UnmarshalText reads a secret from a text form, such as an environment variable.
func (t *Text) UnmarshalText(text []byte) error {
	*t = NewText(string(text))
	return nil
}

// Bytes is a secret byte string, such as a key. The same holds for it as for Text.
type Bytes struct {
	_ [0]func() // not comparable

	bytes *string
}

// NewBytes hides a copy of b.
func NewBytes(b []byte) Bytes {
	if len(b) == 0 {
		return Bytes{}
	}
	s := string(b)
	return Bytes{bytes: &s}
}

// Reveal returns a copy of the secret itself. What is done with it is the caller's responsibility.
func (b Bytes) Reveal() []byte {
	if b.bytes == nil {
		return nil
	}
	return []byte(*b.bytes)
}

// IsZero reports whether the secret is empty.
func (b Bytes) IsZero() bool { return b.bytes == nil }

// Equal reports whether both hold the same secret, in a time that depends on their lengths alone.
func (b Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(b.Reveal(), other.Reveal()) == 1
}

// String returns "[hidden]".
func (Bytes) String() string { return hidden }

// GoString returns "[hidden]".
func (Bytes) GoString() string { return hidden }

// Format writes "[hidden]" for every verb.
func (Bytes) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, hidden) }

// LogValue makes package slog log "[hidden]".
func (Bytes) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "[hidden]"; it never fails.
func (Bytes) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON returns "[hidden]" as a JSON string; it never fails.
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
