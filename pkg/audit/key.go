package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"

	"rackgateway/pkg/secret"
)

// Key is the key that events are MACed with. The database never holds it. It cannot be printed.
type Key struct {
	id     string
	secret secret.Bytes
}

// NewKey returns the key made of a secret of at least 32 bytes. Its id, which events carry so that they
// can be verified after the key was rotated, is derived from it and gives nothing away.
func NewKey(text []byte) (Key, error) {
	if len(text) < sha256.Size {
		return Key{}, fmt.Errorf("the audit key has %d bytes and needs at least %d", len(text), sha256.Size)
	}
	id := hmac.New(sha256.New, text)
	_, _ = id.Write([]byte("rack-gateway audit key id"))
	return Key{id: hex.EncodeToString(id.Sum(nil)[:4]), secret: secret.NewBytes(text)}, nil
}

// ID is what events carry as MACKeyID: eight hexadecimal digits.
func (k Key) ID() string { return k.id }

// Fingerprint tells one text from another of the same purpose: eight hexadecimal digits, which say nothing about the
// text to whoever lacks the key.
func (k Key) Fingerprint(purpose string, text secret.Text) string {
	mac := hmac.New(sha256.New, k.secret.Reveal())
	_, _ = mac.Write([]byte("rack-gateway fingerprint\x00" + purpose + "\x00" + text.Reveal()))
	return hex.EncodeToString(mac.Sum(nil)[:4])
}

// IsZero tells whether the key was never made.
func (k Key) IsZero() bool { return k.secret.IsZero() }

// Format prints that there is a key, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[audit key "+k.id+"]") }

// LogValue logs that there is a key.
func (k Key) LogValue() slog.Value { return slog.StringValue("[audit key " + k.id + "]") }

// MarshalJSON refuses.
func (k Key) MarshalJSON() ([]byte, error) { return nil, errors.New("an audit key is not for storing") }

func (k Key) mac() hash.Hash { return hmac.New(sha256.New, k.secret.Reveal()) }

// Verify tells whether the event carries a MAC that this key made over what it says now.
func (k Key) Verify(e *Event) bool {
	if k.IsZero() || e.MACKeyID != k.id || len(e.MAC) != sha256.Size {
		return false
	}
	mac := k.mac()
	_, _ = mac.Write(e.AppendCanonical(nil))
	return hmac.Equal(mac.Sum(nil), e.MAC)
}

// sign fills the writer's columns.
func (k Key) sign(e *Event) {
	e.MACKeyID = k.id
	mac := k.mac()
	_, _ = mac.Write(e.AppendCanonical(nil))
	e.MAC = mac.Sum(nil)
}

// VerifyCanonical is Verify for whoever has the event's canonical bytes at hand.
func (k Key) VerifyCanonical(e *Event, canonical []byte) bool {
	if k.IsZero() || e.MACKeyID != k.id || len(e.MAC) != sha256.Size {
		return false
	}
	mac := k.mac()
	_, _ = mac.Write(canonical)
	var sum [sha256.Size]byte
	return hmac.Equal(mac.Sum(sum[:0]), e.MAC)
}
