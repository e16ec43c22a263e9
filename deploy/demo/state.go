package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// state is what the demo keeps from one run to the next, besides the database: secrets that it made up, and the tokens
// that it was given once. It lies in one file that only its owner can read.
type state struct {
	path string

	MACKey       string            `json:"macKey"`
	AppKey       string            `json:"appKey"`
	ClientSecret string            `json:"clientSecret"` // admin's, at the identity provider
	RackPassword string            `json:"rackPassword"`
	S3Secret     string            `json:"s3Secret"`
	Tokens       map[string]string `json:"tokens"` // by the key of whoever holds it, see people
	TOTP         map[string]string `json:"totp"`   // secrets of authenticator apps, likewise
}

// loadState reads the state, or makes one up when there is none yet.
func loadState(folder string) (*state, error) {
	s := &state{path: filepath.Join(folder, "state.json")}
	text, err := os.ReadFile(s.path)
	if err == nil {
		if err := json.Unmarshal(text, s); err != nil {
			return nil, fmt.Errorf("%s: %w; make demo-clean begins anew", s.path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.Tokens == nil {
		s.Tokens = map[string]string{}
	}
	if s.TOTP == nil {
		s.TOTP = map[string]string{}
	}
	for _, secret := range []*string{&s.MACKey, &s.AppKey, &s.ClientSecret, &s.RackPassword, &s.S3Secret} {
		if *secret == "" {
			*secret = random()
		}
	}
	return s, s.save()
}

// save writes the state. A crash in the middle leaves the one before.
func (s *state) save() error {
	text, err := json.MarshalIndent(s, "", "  ") //nolint:gosec // G117: secrets are what the file is for
	if err != nil {
		return err
	}
	return replaceFile(s.path, append(text, '\n'))
}

// replaceFile writes a file that only its owner can read; whoever reads it sees the old text or the new one.
func replaceFile(path string, text []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// random returns 256 random bits in hex.
func random() string {
	var bytes [32]byte
	_, _ = rand.Read(bytes[:]) // never fails
	return hex.EncodeToString(bytes[:])
}
