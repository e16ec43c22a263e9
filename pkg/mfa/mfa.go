// Package mfa knows second factors: what people have (passkeys, security keys, TOTP, YubiKeys, backup codes), how each
// is checked, and what is asked for and given: step-ups.
//
// A step-up is asked for by the proxy, or by the API, and given here, by somebody who is signed in by the browser. It
// is for one credential, a CLI token or a browser session, and counts for a window of time; one for an operation that
// asks each time is bound to that very operation besides, and one use spends it. What the rest of the gateway sees of
// it is a row; who may do what with which factor is decided by access.Decide.
//
// Challenges are made, kept and spent here. A code or an assertion counts once. Wrong ones are counted by the session
// in which they were given, and too many lock that session's checks for a while: not the account, which somebody else
// could lock its owner out of. Every change, and everything that was refused, is an event in the same transaction.
package mfa

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
)

// Config is what a Service works with. All fields are needed unless they say otherwise.
type Config struct {
	Writer *directory.Writer
	Reader *directory.Reader
	// Keys seal secrets at rest. Without them factors can be listed and reset, and nothing else.
	Keys *seal.Keys
	// Origin is the scheme and host by which browsers reach admin. Its host is the relying party's id. Without it,
	// nothing can be done with passkeys and security keys.
	Origin *url.URL
	// Issuer is how authenticator apps name the gateway, such as "acme/staging".
	Issuer string
	// Yubico checks one-time passwords of YubiKeys; nil when that is not configured.
	Yubico *Yubico

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil for the system's clock
}

// Service keeps and checks second factors. Its methods are safe for concurrent use.
type Service struct {
	Config

	totp       *seal.Box
	ceremonies *seal.Box
	party      *webauthn.WebAuthn
}

// Boxes' names are part of their keys and must never change.
const (
	totpPurpose     = "totp secret"
	ceremonyPurpose = "factor ceremony"
)

// New makes a Service.
func New(config Config) (*Service, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	config.Issuer = strings.TrimSpace("Rack Gateway " + config.Issuer)
	s := &Service{Config: config}
	if config.Keys == nil {
		return s, nil
	}
	s.totp, s.ceremonies = config.Keys.Box(totpPurpose), config.Keys.Box(ceremonyPurpose)
	if config.Origin == nil {
		return s, nil
	}
	party, err := webauthn.New(&webauthn.Config{
		RPID:                  config.Origin.Hostname(),
		RPDisplayName:         config.Issuer,
		RPOrigins:             []string{config.Origin.Scheme + "://" + config.Origin.Host},
		AttestationPreference: protocol.PreferNoAttestation,
	})
	if err != nil {
		return nil, fmt.Errorf("configure WebAuthn: %w", err)
	}
	s.party = party
	return s, nil
}

// Kind is what sort of factor something is.
type Kind string

// The kinds of factors. Backup codes are no factor of their own: they stand in for one.
const (
	Passkey     Kind = "passkey"
	SecurityKey Kind = "security-key"
	TOTP        Kind = "totp"
	YubiKeyOTP  Kind = "yubikey-otp"
	BackupCode  Kind = "backup-code"
)

// WebAuthn reports whether the browser speaks to it.
func (k Kind) WebAuthn() bool { return k == Passkey || k == SecurityKey }

// Words says it in words.
func (k Kind) Words() string {
	switch k {
	case Passkey:
		return "passkey"
	case SecurityKey:
		return "security key"
	case TOTP:
		return "authenticator app"
	case YubiKeyOTP:
		return "YubiKey one-time password"
	case BackupCode:
		return "backup code"
	}
	return string(k)
}

// Run does what has to be done beside requests, until ctx ends: it notes which challenges nobody answered in time, and
// forgets what is over.
func (s *Service) Run(ctx context.Context) error {
	every := time.NewTicker(5 * time.Second)
	defer every.Stop()
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		var err error
		select {
		case <-every.C:
			err = s.Expire(ctx)
		case <-hourly.C:
			err = s.Forget(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "what is over of second factors could not be tidied up; it is tried again", "error", err)
		}
	}
}

// Answers that several operations give.

func invalid(code, format string, args ...any) *directory.Error {
	return directory.NewError(directory.Invalid, code, format, args...)
}

func notFound(code, format string, args ...any) *directory.Error {
	return directory.NewError(directory.NotFound, code, format, args...)
}

func conflict(code, format string, args ...any) *directory.Error {
	return directory.NewError(directory.Conflict, code, format, args...)
}

func refused(code, format string, args ...any) *directory.Error {
	return directory.NewError(directory.Refused, code, format, args...)
}

func wrap(doing string, err error) error {
	var answer *directory.Error
	if err == nil || errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func newID() uuid.UUID {
	id, err := uuid.NewRandom()
	if err != nil { // the system's source of randomness does not fail
		panic(err)
	}
	return id
}
