package mfa

import (
	"context"
	"crypto/subtle"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/google/uuid"
	"github.com/lib/pq"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"rackgateway/pkg/directory"
)

// period is the time step of TOTP, in seconds (RFC 6238 section 4.1).
const period = 30

// matchTOTP returns the time step that a code is of: the present one or one beside it, and later than the last one
// that was used.
func matchTOTP(secret, code string, now time.Time, after int64) (step int64, ok bool) {
	code = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, code)
	if len(code) != 6 {
		return 0, false
	}
	present := now.Unix() / period
	for _, candidate := range []int64{present - 1, present, present + 1} {
		want, err := hotp.GenerateCodeCustom(secret, uint64(candidate), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}) // #nosec G115 -- seconds since 1970
		if err != nil {
			return 0, false
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && candidate > after {
			step, ok = candidate, true
		}
	}
	return step, ok
}

// given is a factor that was shown to be there.
type given struct {
	kind Kind
	id   string // of the factor; "" for a backup code
	name string
}

const useTOTP = `
update rgw.factors set counter = $2, used_at = $3 where id = $1 and removed_at is null and counter < $2`

const useFactor = `
update rgw.factors set counter = $2, used_at = $3 where id = $1 and removed_at is null`

const useBackupCode = `
update rgw.backup_codes set used_at = $3 where user_id = $1 and hash = $2 and used_at is null and replaced_at is null`

// check holds a proof against what the person has. A proof that is wrong is an answer, and no error; what it used up
// stays used up.
func (s *Service) check(ctx context.Context, tx *directory.Tx, user directory.User, session uuid.UUID, stepUp *uuid.UUID, proof Proof, yubikey string) (*given, *directory.Error, error) {
	var rows []factorRow
	if err := tx.Select(ctx, &rows, factorsOf, user.ID); err != nil {
		return nil, nil, wrap("listing factors", err)
	}
	if len(rows) == 0 {
		return nil, refused("no-factor", "you have no second factor yet: add one first"), nil
	}
	switch proof.Kind {
	case TOTP:
		return s.checkTOTP(ctx, tx, rows, proof.Code)
	case YubiKeyOTP:
		for _, row := range rows {
			if yubikey != "" && row.YubiKey != nil && *row.YubiKey == yubikey {
				_, err := tx.Exec(ctx, useFactor, row.ID, row.Counter, tx.Now())
				return &given{row.Kind, row.ID.String(), row.Name}, nil, wrap("noting the use of a factor", err)
			}
		}
		return nil, refused("wrong-code", "the validation server did not accept this one-time password, or it is of a key that is not yours: touch your key once more"), nil
	case BackupCode:
		n, err := tx.Exec(ctx, useBackupCode, user.ID, hashBackupCode(user.ID, proof.Code), tx.Now())
		switch {
		case err != nil:
			return nil, nil, wrap("using a backup code", err)
		case n != 1:
			return nil, refused("wrong-code", "that is none of your backup codes, or one that was used: each is good once"), nil
		}
		return &given{kind: BackupCode}, nil, nil
	case Passkey, SecurityKey:
		return s.checkAssertion(ctx, tx, user, rows, session, stepUp, proof)
	}
	return nil, invalid("bad-kind", "there is no second factor of that kind"), nil
}

func (s *Service) checkTOTP(ctx context.Context, tx *directory.Tx, rows []factorRow, code string) (*given, *directory.Error, error) {
	wrong := refused("wrong-code", "that code is wrong, too old, or was used already: wait for the next one that the app shows")
	for _, row := range rows {
		if row.Kind != TOTP {
			continue
		}
		secret, err := s.totp.Open(row.Sealed, row.ID.String())
		if err != nil {
			s.Log.ErrorContext(ctx, "the secret of an authenticator app cannot be opened: was APP_SECRET_KEY replaced?", "factor", row.ID, "error", err)
			continue
		}
		step, ok := matchTOTP(string(secret), code, tx.Now(), row.Counter)
		if !ok {
			continue
		}
		n, err := tx.Exec(ctx, useTOTP, row.ID, step, tx.Now())
		switch {
		case err != nil:
			return nil, nil, wrap("using a code", err)
		case n == 1:
			return &given{TOTP, row.ID.String(), row.Name}, nil, nil
		}
	}
	return nil, wrong, nil
}

func (s *Service) checkAssertion(ctx context.Context, tx *directory.Tx, user directory.User, rows []factorRow, session uuid.UUID, stepUp *uuid.UUID, proof Proof) (*given, *directory.Error, error) {
	_, kept, err := s.takeCeremony(ctx, tx, proof.Ceremony, user.ID, session, "assert", stepUp)
	var over *directory.Error
	if errors.As(err, &over) {
		return nil, over, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if _, err := tx.Keep(ctx, spendCeremony, proof.Ceremony, tx.Now()); err != nil {
		return nil, nil, wrap("ending an assertion", err)
	}
	p, err := personOf(user, rows)
	if err != nil {
		return nil, nil, err
	}
	bad := refused("wrong-assertion", "the answer of the passkey or security key could not be verified: try again, in this window")
	parsed, err := protocol.ParseCredentialRequestResponseBytes(proof.Response)
	if err != nil || kept.WebAuthn == nil {
		return nil, bad, nil
	}
	credential, err := s.party.ValidateLogin(p, *kept.WebAuthn, parsed)
	if err != nil {
		var why *protocol.Error
		if errors.As(err, &why) {
			s.Log.InfoContext(ctx, "an assertion was refused", "user", user.Email, "cause", why.Details, "detail", why.DevInfo)
			if strings.Contains(why.DevInfo+why.Details, "verif") && kept.WebAuthn.UserVerification == protocol.VerificationRequired {
				bad = refused("wrong-assertion", "the answer of the key could not be verified: what asks for a factor each time takes a key that verifies you, by PIN or finger; try again, or take another factor")
			}
		}
		return nil, bad, nil
	}
	if credential.Authenticator.CloneWarning {
		return nil, refused("factor-cloned", "the counter of this key went back, as that of a copy does: it is not accepted; remove it, and tell an administrator"), nil
	}
	for _, row := range rows {
		if !row.Kind.WebAuthn() || string(row.Credential) != string(credential.ID) {
			continue
		}
		if _, err := tx.Exec(ctx, useFactor, row.ID, int64(credential.Authenticator.SignCount), tx.Now()); err != nil {
			return nil, nil, wrap("noting the use of a factor", err)
		}
		return &given{row.Kind, row.ID.String(), row.Name}, nil, nil
	}
	return nil, bad, nil
}

// Failures lock when so many come within so long.
const (
	failuresToLock = 5
	failureWindow  = 5 * time.Minute
	// lastAdminPause is how long the only administrator waits in place of being locked: nobody could let them in again.
	lastAdminPause = 30 * time.Second
)

const lockOf = `
select max(l.locked_until) from rgw.factor_locks l where l.credential_id = $1 and l.lifted_at is null and l.locked_until > $2`

// Whoever has the first factor alone could sign in anew after every lock, and go on trying. So failures in sessions in
// which no factor was ever given count for the person too: beyond so many within an hour, such sessions check none for
// a while. Those in which one was given go on, so that nobody can be shut out by somebody else's guesses.
const (
	failuresToPause = 20
	pauseWindow     = time.Hour
	// lastAdminLongest is how long that lasts at most for the only administrator.
	lastAdminLongest = 5 * time.Minute
)

// A pause is a lock whose credential is the person.
const pauseOf = `
select max(l.locked_until) from rgw.factor_locks l
where l.credential_id = $1 and l.lifted_at is null and l.locked_until > $3
  and exists (select from rgw.sessions s where s.id = $2 and s.user_id = $1 and s.verified_at is null)`

// What an administrator forgave by lifting a pause or a lock counts no more; what a session's lock forgave does.
const unverifiedFailures = `
select count(*) from rgw.factor_failures f
join rgw.sessions s on s.id = f.credential_id and s.verified_at is null
where f.user_id = $1 and f.failed_at > $3
  and f.failed_at > coalesce((select max(l.lifted_at) from rgw.factor_locks l where l.user_id = $1), '-infinity')
  and exists (select from rgw.sessions o where o.id = $2 and o.verified_at is null)`

// locked returns why the session checks no factors now; nil when it does.
func (s *Service) locked(ctx context.Context, tx *directory.Tx, user, session uuid.UUID) (*directory.Error, error) {
	var paused *time.Time
	if _, err := tx.Get(ctx, &paused, pauseOf, user, session, tx.Now()); err != nil {
		return nil, wrap("looking for a pause", err)
	}
	if paused != nil {
		wait := paused.Sub(tx.Now()).Round(time.Second)
		return refused("factor-locked", "too many second factors were wrong in new sign-ins of yours: wait %s, go on in a browser where you gave one, or ask an administrator to unlock them; and if it was not you, change your password", wait), nil
	}
	var until *time.Time
	if _, err := tx.Get(ctx, &until, lockOf, session, tx.Now()); err != nil {
		return nil, wrap("looking for a lock", err)
	}
	if until == nil {
		return nil, nil
	}
	wait := until.Sub(tx.Now()).Round(time.Second)
	return refused("factor-locked", "too many second factors were wrong in this session: wait %s, or ask an administrator to unlock it", wait), nil
}

func orRefuse(err error, answer *directory.Error) error {
	if err != nil {
		return err
	}
	return answer
}

const insertFailure = `
insert into rgw.factor_failures (user_id, credential_id, failed_at) values ($1, $2, $3)`

const failuresOf = `
select count(*) from rgw.factor_failures f where f.credential_id = $1 and f.forgiven_at is null and f.failed_at > $2`

const forgive = `
update rgw.factor_failures set forgiven_at = $2 where credential_id = $1 and forgiven_at is null`

const forgiveUser = `
update rgw.factor_failures set forgiven_at = $2 where user_id = $1 and forgiven_at is null`

const insertLock = `
insert into rgw.factor_locks (id, user_id, credential_id, locked_at, locked_until) values ($1, $2, $3, $4, $5)`

const liftLocks = `
update rgw.factor_locks set lifted_at = $2 where user_id = $1 and lifted_at is null and locked_until > $2`

// failed counts a factor that was wrong, and records it. The fifth within five minutes locks.
func (s *Service) failed(ctx context.Context, tx *directory.Tx, by directory.Actor, session, request uuid.UUID, action string, wrong *directory.Error) error {
	tx.RecordRefusal(request, action, by.Label, wrong)
	if _, err := tx.Exec(ctx, insertFailure, by.User, session, tx.Now()); err != nil {
		return wrap("counting a failure", err)
	}
	var n int
	if _, err := tx.Get(ctx, &n, failuresOf, session, tx.Now().Add(-failureWindow)); err != nil {
		return wrap("counting failures", err)
	}
	var all int
	if _, err := tx.Get(ctx, &all, unverifiedFailures, by.User, session, tx.Now().Add(-pauseWindow)); err != nil {
		return wrap("counting failures", err)
	}
	if n < failuresToLock && all < failuresToPause {
		return nil
	}
	settings, err := tx.Settings(ctx)
	if err != nil {
		return err
	}
	last, err := tx.IsLastAdmin(ctx, by.User)
	if err != nil {
		return err
	}
	if all >= failuresToPause {
		length := settings.FactorLock
		if last {
			length = min(length, lastAdminLongest)
		}
		until := tx.Now().Add(length)
		if _, err := tx.Exec(ctx, insertLock, newID(), by.User, by.User, tx.Now(), until); err != nil {
			return wrap("pausing", err)
		}
		tx.RecordUnder(or(request, tx.Request()), "factor.pause", by.Label, "failures", strconv.Itoa(all),
			"until", until.Format(time.RFC3339), "only_administrator", yes(last))
	}
	if n < failuresToLock {
		return nil
	}
	length := settings.FactorLock
	if last {
		length = lastAdminPause
	} else if _, err := tx.Exec(ctx, forgive, session, tx.Now()); err != nil {
		return wrap("beginning to count anew", err)
	}
	until := tx.Now().Add(length)
	if _, err := tx.Exec(ctx, insertLock, newID(), by.User, session, tx.Now(), until); err != nil {
		return wrap("locking", err)
	}
	tx.RecordUnder(or(request, tx.Request()), "factor.lock", by.Label, "session", session.String(), "failures", strconv.Itoa(n),
		"until", until.Format(time.RFC3339), "only_administrator", yes(last))
	return nil
}

func or(id, otherwise uuid.UUID) uuid.UUID {
	if id == uuid.Nil {
		return otherwise
	}
	return id
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// Unlock lifts every lock on the factor checks of somebody, by id or address.
func (s *Service) Unlock(ctx context.Context, by directory.Actor, who string) (Overview, error) {
	err := s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.unlock", Resource: who}, func(tx *directory.Tx) error {
		user, err := tx.User(ctx, who)
		if err != nil {
			return err
		}
		n, err := tx.Exec(ctx, liftLocks, user.ID, tx.Now())
		if err != nil {
			return wrap("lifting locks", err)
		}
		if n == 0 {
			return conflict("not-locked", "no session of %s is locked", user.Email)
		}
		if _, err := tx.Exec(ctx, forgiveUser, user.ID, tx.Now()); err != nil {
			return wrap("forgiving failures", err)
		}
		tx.Record("factor.unlock", user.Email, "locks", strconv.FormatInt(n, 10))
		return nil
	})
	if err != nil {
		return Overview{}, err
	}
	return s.List(ctx, who)
}

// isDuplicate reports whether a row was there already.
func isDuplicate(err error) bool {
	var bad *pq.Error
	return errors.As(err, &bad) && bad.Code == "23505"
}
