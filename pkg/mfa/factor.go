package mfa

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"rackgateway/pkg/directory"
)

// Factor is one second factor of a person, without its secret.
type Factor struct {
	ID        uuid.UUID
	Kind      Kind
	Name      string
	CreatedAt time.Time
	UsedAt    *time.Time
	// Synced says of a passkey that it is kept by more than one device.
	Synced bool
}

// Overview is what somebody has of second factors.
type Overview struct {
	Email       string
	Factors     []Factor
	BackupCodes int // that are left
	// LockedUntil is until when some session of theirs checks no factors; nil when none is locked.
	LockedUntil *time.Time
	// Required says that the gateway asks everybody for one.
	Required bool
	// Kinds are those that can be added here.
	Kinds []Kind
}

// Enrolled reports whether they have any.
func (o *Overview) Enrolled() bool { return len(o.Factors) > 0 }

// factorRow is a factor with what it is checked by.
type factorRow struct {
	ID         uuid.UUID  `db:"id"`
	Kind       Kind       `db:"kind"`
	Name       string     `db:"name"`
	Credential []byte     `db:"credential"`
	Public     []byte     `db:"public"`
	Sealed     []byte     `db:"sealed"`
	YubiKey    *string    `db:"yubikey"`
	Counter    int64      `db:"counter"`
	CreatedAt  time.Time  `db:"created_at"`
	UsedAt     *time.Time `db:"used_at"`
}

const factorsOf = `
select f.id, f.kind, f.name, f.credential, f.public, f.sealed, f.yubikey, f.counter, f.created_at, f.used_at
from rgw.factors f
where f.user_id = $1 and f.removed_at is null
order by f.created_at, f.id`

const backupCodesLeft = `
select count(*) from rgw.backup_codes c where c.user_id = $1 and c.used_at is null and c.replaced_at is null`

const lockedUntil = `
select max(l.locked_until) from rgw.factor_locks l where l.user_id = $1 and l.lifted_at is null and l.locked_until > $2`

// List returns what somebody has, by id or address.
func (s *Service) List(ctx context.Context, who string) (Overview, error) {
	var o Overview
	err := s.Reader.View(ctx, func(v *directory.View) error {
		user, err := v.User(ctx, who)
		if err != nil {
			return err
		}
		settings, err := v.Settings(ctx)
		if err != nil {
			return err
		}
		o = Overview{Email: user.Email, Required: settings.MFARequired, Kinds: s.kinds()}
		var rows []factorRow
		if err := v.Select(ctx, &rows, factorsOf, user.ID); err != nil {
			return wrap("listing factors", err)
		}
		for _, row := range rows {
			f := Factor{ID: row.ID, Kind: row.Kind, Name: row.Name, CreatedAt: row.CreatedAt, UsedAt: row.UsedAt}
			if row.Kind.WebAuthn() {
				var credential webauthn.Credential
				if err := json.Unmarshal(row.Public, &credential); err != nil {
					return wrap("reading a passkey", err)
				}
				f.Synced = credential.Flags.BackupState
			}
			o.Factors = append(o.Factors, f)
		}
		if _, err := v.Get(ctx, &o.BackupCodes, backupCodesLeft, user.ID); err != nil {
			return wrap("counting backup codes", err)
		}
		_, err = v.Get(ctx, &o.LockedUntil, lockedUntil, user.ID, v.Now())
		return wrap("looking for locks", err)
	})
	return o, err
}

// kinds are those that can be added.
func (s *Service) kinds() []Kind {
	kinds := []Kind{Passkey, SecurityKey, TOTP}
	if s.Yubico != nil {
		kinds = append(kinds, YubiKeyOTP)
	}
	return kinds
}

// checkName makes sure that a name can be shown.
func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); !utf8.ValidString(name) || n < 1 || n > 100 ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return "", invalid("bad-name", "a factor's name has 1 to 100 letters that can be shown: give it another one")
	}
	return name, nil
}

const renameFactor = `
update rgw.factors set name = $3 where id = $1 and user_id = $2 and removed_at is null`

const nameOfFactor = `
select f.name, f.kind from rgw.factors f where f.id = $1 and f.user_id = $2 and f.removed_at is null`

func noSuchFactor() error {
	return notFound("no-such-factor", "you have no such second factor: list yours to see which there are")
}

type named struct {
	Name string `db:"name"`
	Kind Kind   `db:"kind"`
}

// Rename gives a factor of the actor's own another name.
func (s *Service) Rename(ctx context.Context, by directory.Actor, id uuid.UUID, name string) error {
	name, err := checkName(name)
	if err != nil {
		return err
	}
	return s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.rename", Resource: by.Label}, func(tx *directory.Tx) error {
		var old named
		if found, err := tx.Get(ctx, &old, nameOfFactor, id, by.User); err != nil || !found {
			return cmpErr(err, noSuchFactor())
		}
		if _, err := tx.Exec(ctx, renameFactor, id, by.User, name); err != nil {
			return wrap("renaming a factor", err)
		}
		tx.Record("factor.rename", by.Label, "id", id.String(), "kind", string(old.Kind), "old", old.Name, "new", name)
		return nil
	})
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

const removeFactor = `
update rgw.factors set removed_at = $3, removed_reason = $4, sealed = null, counter = 0
where id = $1 and user_id = $2 and removed_at is null`

const othersThan = `
select count(*) from rgw.factors f where f.user_id = $1 and f.removed_at is null and f.id <> $2`

// What was given so far may have been given by the factor that goes: the session that removes it stays as it is.
const endStepUps = `
update rgw.step_ups set ended_at = $2
where user_id = $1 and credential_id <> $3 and ended_at is null and outcome = 'approved' and opened_at > $2::timestamptz - interval '1 day'`

// Remove takes a factor of the actor's own away, and ends what was stepped up in other places. The last one stays
// while the gateway asks everybody for one.
func (s *Service) Remove(ctx context.Context, by directory.Actor, session, id uuid.UUID) error {
	return s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.remove", Resource: by.Label}, func(tx *directory.Tx) error {
		var old named
		if found, err := tx.Get(ctx, &old, nameOfFactor, id, by.User); err != nil || !found {
			return cmpErr(err, noSuchFactor())
		}
		settings, err := tx.Settings(ctx)
		if err != nil {
			return err
		}
		var others int
		if _, err := tx.Get(ctx, &others, othersThan, by.User, id); err != nil {
			return wrap("counting factors", err)
		}
		if others == 0 && settings.MFARequired {
			return refused("last-factor", "this is your last second factor, and the gateway asks everybody for one: add another one first")
		}
		if _, err := tx.Exec(ctx, removeFactor, id, by.User, tx.Now(), "removed by its owner"); err != nil {
			return wrap("removing a factor", err)
		}
		if _, err := tx.Exec(ctx, endStepUps, by.User, tx.Now(), session); err != nil {
			return wrap("ending step-ups", err)
		}
		if others == 0 {
			if _, err := tx.Exec(ctx, replaceBackupCodes, by.User, tx.Now()); err != nil {
				return wrap("taking backup codes away", err)
			}
		}
		tx.Record("factor.remove", by.Label, "id", id.String(), "kind", string(old.Kind), "name", old.Name)
		return nil
	})
}

const resetFactors = `
update rgw.factors set removed_at = $2, removed_reason = $3, sealed = null, counter = 0
where user_id = $1 and removed_at is null`

const distrustAll = `
update rgw.trusted_devices set revoked_at = $2 where user_id = $1 and revoked_at is null`

// A session from before may be somebody else's, who would be the one to add the first factor.
const revokeSessions = `
update rgw.sessions set revoked_at = $2, revoked_reason = $3 where user_id = $1 and revoked_at is null and expires_at > $2
returning id`

const spendCeremonies = `
update rgw.ceremonies set spent_at = $2, sealed = '' where user_id = $1 and spent_at is null`

const closeStepUps = `
update rgw.step_ups set outcome = 'refused', decided_at = $2 where user_id = $1 and outcome is null`

// Reset takes all factors of somebody away, by id or address, with their backup codes, trusted devices, locks, and
// what was stepped up, and ends their browser sessions and what was begun in them. At their next sign-in they add new
// ones.
func (s *Service) Reset(ctx context.Context, by directory.Actor, who string) (Overview, error) {
	err := s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.reset", Resource: who}, func(tx *directory.Tx) error {
		user, err := tx.User(ctx, who)
		if err != nil {
			return err
		}
		var n int64
		for _, step := range []struct {
			doing, statement string
			args             []any
		}{
			{"taking factors away", resetFactors, []any{user.ID, tx.Now(), "reset by " + by.Label}},
			{"taking backup codes away", replaceBackupCodes, []any{user.ID, tx.Now()}},
			{"distrusting devices", distrustAll, []any{user.ID, tx.Now()}},
			{"ending step-ups", endStepUps, []any{user.ID, tx.Now(), uuid.Nil}},
			{"closing challenges", closeStepUps, []any{user.ID, tx.Now()}},
			{"lifting locks", liftLocks, []any{user.ID, tx.Now()}},
			{"forgiving failures", forgiveUser, []any{user.ID, tx.Now()}},
		} {
			changed, err := tx.Exec(ctx, step.statement, step.args...)
			if err != nil {
				return wrap(step.doing, err)
			}
			if step.statement == resetFactors {
				n = changed
			}
		}
		begun, err := tx.Keep(ctx, spendCeremonies, user.ID, tx.Now())
		if err != nil {
			return wrap("ending what was begun", err)
		}
		reason := "second factors reset by " + by.Label
		var sessions []uuid.UUID
		if err := tx.Change(ctx, &sessions, revokeSessions, user.ID, tx.Now(), reason); err != nil {
			return wrap("ending sessions", err)
		}
		tx.Record("factor.reset", user.Email, "factors", strconv.FormatInt(n, 10),
			"sessions", strconv.Itoa(len(sessions)), "ceremonies", strconv.FormatInt(begun, 10))
		for _, id := range sessions {
			tx.Record("session.revoke", user.Email, "id", id.String(), "reason", reason)
		}
		return nil
	})
	if err != nil {
		return Overview{}, err
	}
	return s.List(ctx, who)
}

// Backup codes have 80 bits, so that their hashes give nothing away.
const (
	backupCodes     = 10
	backupCodeBytes = 10
)

const replaceBackupCodes = `
update rgw.backup_codes set replaced_at = $2 where user_id = $1 and used_at is null and replaced_at is null`

const insertBackupCode = `
insert into rgw.backup_codes (hash, user_id, created_at) values ($1, $2, $3)`

// codeAlphabet has no letters that look like others (Crockford's base 32).
var codeAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newBackupCode is such as 8k3m-xw2p-0hdt-v9qe.
func newBackupCode() string {
	var b [backupCodeBytes]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	text := codeAlphabet.EncodeToString(b[:])
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

// hashBackupCode makes of a code, as somebody typed it, what it is kept as.
func hashBackupCode(user uuid.UUID, code string) []byte {
	code = strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == ' ':
			return -1
		case r == 'o' || r == 'O':
			return '0'
		case r == 'i' || r == 'I' || r == 'l' || r == 'L':
			return '1'
		}
		return unicode.ToLower(r)
	}, code)
	sum := sha256.Sum256([]byte("backup code " + user.String() + " " + code))
	return sum[:]
}

// addBackupCodes makes ten new ones in place of those there are.
func addBackupCodes(ctx context.Context, tx *directory.Tx, user uuid.UUID) ([]string, error) {
	if _, err := tx.Exec(ctx, replaceBackupCodes, user, tx.Now()); err != nil {
		return nil, wrap("replacing backup codes", err)
	}
	codes := make([]string, backupCodes)
	for i := range codes {
		codes[i] = newBackupCode()
		if _, err := tx.Exec(ctx, insertBackupCode, hashBackupCode(user, codes[i]), user, tx.Now()); err != nil {
			return nil, wrap("keeping a backup code", err)
		}
	}
	return codes, nil
}

// MakeBackupCodes makes ten backup codes of the actor's own, in place of those there are. They are shown once.
func (s *Service) MakeBackupCodes(ctx context.Context, by directory.Actor) (codes []string, err error) {
	err = s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.backup_codes", Resource: by.Label}, func(tx *directory.Tx) error {
		var rows []factorRow
		if err := tx.Select(ctx, &rows, factorsOf, by.User); err != nil {
			return wrap("listing factors", err)
		}
		if len(rows) == 0 {
			return refused("no-factor", "backup codes stand in for a second factor, and you have none yet: add one first")
		}
		if codes, err = addBackupCodes(ctx, tx, by.User); err != nil {
			return err
		}
		tx.Record("factor.backup_codes", by.Label, "codes", strconv.Itoa(len(codes)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}
