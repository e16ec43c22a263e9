package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/note"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

// SealPurpose is what the box for signing keys is derived for. It must never change.
const SealPurpose = "ledger signing key"

// KeySource says where signing keys come from: given ones, or made and sealed in the database.
type KeySource struct {
	Origin   string      // DOMAIN/ORG/RACK: names a key that is made
	Given    secret.Text // AUDIT_SIGNING_KEY, in the form of signed notes; empty when keys are kept in the database
	Previous secret.Text // the given key before, to sign the last checkpoint of its time with
	Box      *seal.Box   // for SealPurpose
}

// keyRow is a row of ledger_keys.
type keyRow struct {
	Number    int    `db:"number"`
	PublicKey string `db:"public_key"`
	Sealed    []byte `db:"sealed"`
}

const (
	selectKeys = `select number, public_key, sealed from rgw.ledger_keys order by number`
	insertKey  = `insert into rgw.ledger_keys (number, public_key, sealed) values ($1, $2, $3)`
	lockKeys   = `select pg_advisory_xact_lock(7220417052)`
	resealKey  = `update rgw.ledger_keys set sealed = $2 where number = $1`
)

// PublicKeys lists the keys that checkpoints have been signed with, the newest last.
func PublicKeys(ctx context.Context, db sqlx.QueryerContext) (Keyring, error) {
	var rows []keyRow
	if err := sqlx.SelectContext(ctx, db, &rows, selectKeys); err != nil {
		return nil, fmt.Errorf("read the ledger's keys: %w", err)
	}
	var ring Keyring
	for _, row := range rows {
		ring = append(ring, row.PublicKey)
	}
	return ring, nil
}

// newKey makes a key of that name.
func newKey(origin string) (signer secret.Text, public string, err error) {
	if strings.ContainsAny(origin, "+ \t\n") || origin == "" {
		return secret.Text{}, "", fmt.Errorf("%s cannot name a log: it has spaces or a plus sign, or is empty", strconv.Quote(origin))
	}
	private, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return secret.Text{}, "", fmt.Errorf("make a signing key: %w", err)
	}
	return secret.NewText(private), public, nil
}

// publicOf is the public half of a private key in the form of signed notes.
func publicOf(private secret.Text) (string, error) {
	signer, err := note.NewSigner(private.Reveal())
	if err != nil {
		return "", errors.New("the signing key is not of the form PRIVATE+KEY+NAME+HASH+BASE64, which admin audit key new prints")
	}
	// The form ends in base64 of the algorithm and the seed (golang.org/x/mod/sumdb/note).
	parts := strings.SplitN(private.Reveal(), "+", 5)
	public, err := ed25519Public(parts[4])
	if err != nil {
		return "", err
	}
	return note.NewEd25519VerifierKey(signer.Name(), public)
}

// NewKey makes a key of that name, for whoever wants to give it by AUDIT_SIGNING_KEY.
func NewKey(origin string) (private secret.Text, public string, err error) { return newKey(origin) }

// identityOf is what a sealed key is bound to.
func identityOf(public string) string { return public }

// ensureKeys returns the keys, and makes or notes the newest when it is not there: the given one, or a first one.
// Made tells that a key was made or first seen.
func (s KeySource) ensureKeys(ctx context.Context, db *sqlx.DB, rotate bool, record func(tx *sqlx.Tx, public string, first bool) error) (rows []keyRow, made bool, err error) {
	err = postgres.InTx(ctx, db, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, lockKeys); err != nil {
			return err
		}
		rows = nil
		if err := tx.SelectContext(ctx, &rows, selectKeys); err != nil {
			return err
		}
		var next keyRow
		switch {
		case !s.Given.IsZero():
			public, err := publicOf(s.Given)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(rows, func(row keyRow) bool { return row.PublicKey == public }) {
				if rows[len(rows)-1].PublicKey != public {
					return errors.New("AUDIT_SIGNING_KEY is a key that was replaced since: give the newest, or none")
				}
				return nil
			}
			next = keyRow{PublicKey: public}
		case len(rows) == 0 || rotate:
			origin := s.Origin
			if len(rows) > 0 { // of the same log, whatever it would be called today
				origin = nameOf(rows[len(rows)-1].PublicKey)
			}
			private, public, err := newKey(origin)
			if err != nil {
				return err
			}
			next = keyRow{PublicKey: public, Sealed: s.Box.Seal([]byte(private.Reveal()), identityOf(public))}
		default:
			return nil
		}
		next.Number = 1
		if len(rows) > 0 {
			next.Number = rows[len(rows)-1].Number + 1
			if was, is := nameOf(rows[len(rows)-1].PublicKey), nameOf(next.PublicKey); was != is {
				return fmt.Errorf("the ledger is that of %s, and the new key is named %s: a key of another name would be another log", was, is)
			}
		}
		if _, err := tx.ExecContext(ctx, insertKey, next.Number, next.PublicKey, next.Sealed); err != nil {
			return err
		}
		rows = append(rows, next)
		made = true
		return record(tx, next.PublicKey, len(rows) == 1)
	})
	if err != nil {
		return nil, false, fmt.Errorf("the ledger's signing key: %w", err)
	}
	return rows, made, nil
}

// nameOf is the name that a public key begins with.
func nameOf(public string) string {
	name, _, _ := strings.Cut(public, "+")
	return name
}

// signerOf opens the private half of a key.
func (s KeySource) signerOf(row keyRow) (note.Signer, error) {
	if row.Sealed != nil {
		plain, err := s.Box.Open(row.Sealed, identityOf(row.PublicKey))
		if err != nil {
			return nil, fmt.Errorf("the ledger's signing key %d: %w; is APP_SECRET_KEY the one that it was sealed with?", row.Number, err)
		}
		return note.NewSigner(string(plain))
	}
	for _, given := range []secret.Text{s.Given, s.Previous} {
		if given.IsZero() {
			continue
		}
		if public, err := publicOf(given); err == nil && public == row.PublicKey {
			return note.NewSigner(given.Reveal())
		}
	}
	return nil, fmt.Errorf("the ledger's signing key %d was given by AUDIT_SIGNING_KEY, and is not any more: give it as AUDIT_SIGNING_KEY_PREVIOUS once, "+
		"so that it can sign the last checkpoint of its time", row.Number)
}

// Rotate makes a new signing key. The next checkpoint is signed with the one before too, and those after it with the
// new one alone.
func Rotate(ctx context.Context, db *sqlx.DB, source KeySource, key audit.Key, e *audit.Event) (public string, err error) {
	if !source.Given.IsZero() {
		return "", errors.New("the signing key is given by AUDIT_SIGNING_KEY: give a new one there, and the one before as AUDIT_SIGNING_KEY_PREVIOUS")
	}
	rows, _, err := source.ensureKeys(ctx, db, true, func(tx *sqlx.Tx, public string, _ bool) error {
		e.Detail.Params.Add("public_key", public)
		return recordIn(ctx, tx, key, e)
	})
	if err != nil {
		return "", err
	}
	return rows[len(rows)-1].PublicKey, nil
}

// Rekey seals anew, with the application's present key, what was sealed with the one before. Lost counts keys that
// open with neither.
func Rekey(ctx context.Context, tx *sqlx.Tx, box *seal.Box) (done, lost int, err error) {
	var rows []keyRow
	if err := tx.SelectContext(ctx, &rows, selectKeys); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, 0, fmt.Errorf("read the ledger's keys: %w", err)
	}
	for _, row := range rows {
		if row.Sealed == nil {
			continue
		}
		again, changed, err := box.Reseal(row.Sealed, identityOf(row.PublicKey))
		if err != nil {
			lost++
			continue
		}
		if !changed {
			continue
		}
		if _, err := tx.ExecContext(ctx, resealKey, row.Number, again); err != nil {
			return 0, 0, fmt.Errorf("seal the ledger's key anew: %w", err)
		}
		done++
	}
	return done, lost, nil
}

// recordIn records an event in a transaction that says that the gateway makes it.
func recordIn(ctx context.Context, tx *sqlx.Tx, key audit.Key, e *audit.Event) error {
	return audit.InsertTx(ctx, tx, key, e)
}

// ed25519Public reads the public key out of the last part of a private key of a signed note: base64 of the algorithm
// (1 for Ed25519) and the seed.
func ed25519Public(text string) (ed25519.PublicKey, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data) != 1+ed25519.SeedSize || data[0] != 1 {
		return nil, errors.New("the signing key is not an Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the signing key has no public half")
	}
	return public, nil
}
