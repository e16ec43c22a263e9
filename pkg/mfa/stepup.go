package mfa

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// StepUp is a second factor that was asked for, as its page shows it.
type StepUp struct {
	ID        uuid.UUID
	UserID    uuid.UUID
	Request   uuid.UUID
	Mode      credential.StepUpMode
	Always    bool // for this very operation
	Operation credential.Operation
	// Words are what the terminal shows and has to be typed; "" where nothing has to be.
	Words string

	Device       string // name of the CLI token, or "browser"
	Address      netip.Addr
	NewDevice    bool // made within the last day
	NewAddress   bool // never seen of this person before
	OpenedAt     time.Time
	ExpiresAt    time.Time
	Outcome      string // "" while nobody has decided, "approved", "refused", "expired"
	CredentialID uuid.UUID
}

// AddressNeeded reports whether the person has to say that they know the address: it is new, and whoever asks has no
// terminal that could show words.
func (s *StepUp) AddressNeeded() bool {
	return s.NewAddress && (s.Mode == credential.StepUpHeld || s.Mode == credential.StepUpSilent)
}

// Pending reports whether it can still be decided.
func (s *StepUp) Pending(now time.Time) bool { return s.Outcome == "" && now.Before(s.ExpiresAt) }

type stepUpRow struct {
	ID           uuid.UUID  `db:"id"`
	UserID       uuid.UUID  `db:"user_id"`
	CredentialID uuid.UUID  `db:"credential_id"`
	RequestID    uuid.UUID  `db:"request_id"`
	Mode         string     `db:"mode"`
	Level        string     `db:"level"`
	Operation    []byte     `db:"operation"`
	Words        string     `db:"words"`
	Address      *string    `db:"address"`
	OpenedAt     time.Time  `db:"opened_at"`
	ExpiresAt    time.Time  `db:"expires_at"`
	Outcome      *string    `db:"outcome"`
	Device       string     `db:"device"`
	DeviceMade   *time.Time `db:"device_made"`
	AddressKnown bool       `db:"address_known"`
}

const stepUpColumns = `
select u.id, u.user_id, u.credential_id, u.request_id, u.mode, u.level, u.operation, u.words, host(u.address) as address,
  u.opened_at, u.expires_at, u.outcome, coalesce(t.name, 'this browser') as device, t.created_at as device_made,
  u.address is null
    or exists (select from rgw.sessions s where s.user_id = u.user_id and s.address = u.address and s.created_at < u.opened_at)
    or exists (select from rgw.step_ups o where o.user_id = u.user_id and o.address = u.address and o.outcome = 'approved') as address_known
from rgw.step_ups u
left join rgw.tokens t on t.id = u.credential_id
`

const findStepUp = stepUpColumns + `where u.id = $1 and u.user_id = $2`

const pendingStepUps = stepUpColumns + `
where u.user_id = $1 and u.outcome is null and u.expires_at > $2 and u.opened_at > $2::timestamptz - interval '1 day'
order by u.opened_at desc
limit 50`

func (r *stepUpRow) stepUp() (*StepUp, error) {
	s := &StepUp{
		ID: r.ID, UserID: r.UserID, Request: r.RequestID, CredentialID: r.CredentialID, Mode: credential.StepUpMode(r.Mode),
		Always: r.Level == access.LevelAlways.String(), Words: r.Words, Device: r.Device, OpenedAt: r.OpenedAt, ExpiresAt: r.ExpiresAt,
		NewDevice: r.DeviceMade != nil && r.OpenedAt.Sub(*r.DeviceMade) < 24*time.Hour, NewAddress: !r.AddressKnown,
	}
	if r.Outcome != nil {
		s.Outcome = *r.Outcome
	}
	if r.Address != nil {
		address, err := netip.ParseAddr(*r.Address)
		if err != nil {
			return nil, wrap("reading an address", err)
		}
		s.Address = address
	}
	return s, wrap("reading an operation", json.Unmarshal(r.Operation, &s.Operation))
}

func noSuchStepUp() error {
	return notFound("no-such-step-up", "you were not asked for this second factor: it may have been asked of somebody else, or long ago; run the command again")
}

// StepUp returns what a person was asked for.
func (s *Service) StepUp(ctx context.Context, user, id uuid.UUID) (*StepUp, error) {
	var out *StepUp
	err := s.Reader.View(ctx, func(v *directory.View) error {
		var row stepUpRow
		found, err := v.Get(ctx, &row, findStepUp, id, user)
		if err != nil {
			return wrap("finding a step-up", err)
		}
		if !found {
			return noSuchStepUp()
		}
		out, err = row.stepUp()
		return err
	})
	return out, err
}

// Pending returns what a person is asked for at present, the newest first.
func (s *Service) Pending(ctx context.Context, user uuid.UUID) ([]*StepUp, error) {
	var out []*StepUp
	err := s.Reader.View(ctx, func(v *directory.View) error {
		var rows []stepUpRow
		if err := v.Select(ctx, &rows, pendingStepUps, user, v.Now()); err != nil {
			return wrap("listing step-ups", err)
		}
		for i := range rows {
			one, err := rows[i].stepUp()
			if err != nil {
				return err
			}
			out = append(out, one)
		}
		return nil
	})
	return out, err
}

// undecided finds a step-up and makes sure that it can be decided.
func (s *Service) undecided(ctx context.Context, tx *directory.Tx, user, id uuid.UUID) (*StepUp, error) {
	var row stepUpRow
	found, err := tx.Get(ctx, &row, findStepUp, id, user)
	if err != nil {
		return nil, wrap("finding a step-up", err)
	}
	if !found {
		return nil, noSuchStepUp()
	}
	step, err := row.stepUp()
	switch {
	case err != nil:
		return nil, err
	case step.Outcome == "expired", step.Outcome == "" && !tx.Now().Before(step.ExpiresAt):
		return nil, conflict("step-up-expired", "nobody answered within five minutes, and the command has given up: run it again")
	case step.Outcome != "":
		return nil, conflict("step-up-decided", "this was %s already", step.Outcome)
	}
	return step, nil
}

// BeginAssertion makes a challenge for the person's passkeys and security keys, and returns what
// navigator.credentials.get takes, as JSON. The answer goes to Approve, with the id.
func (s *Service) BeginAssertion(ctx context.Context, by directory.Actor, session, stepUp uuid.UUID) (ceremony uuid.UUID, publicKey json.RawMessage, err error) {
	ceremony = newID()
	err = s.Writer.Change(ctx, by, directory.Attempt{Action: "step-up.assert", Resource: by.Label}, func(tx *directory.Tx) error {
		step, err := s.undecided(ctx, tx, by.User, stepUp)
		if err != nil {
			return err
		}
		user, err := tx.User(ctx, by.User.String())
		if err != nil {
			return err
		}
		var rows []factorRow
		if err := tx.Select(ctx, &rows, factorsOf, user.ID); err != nil {
			return wrap("listing factors", err)
		}
		p, err := personOf(user, rows)
		if err != nil {
			return err
		}
		if len(p.credentials) == 0 {
			return conflict("no-passkey", "you have neither a passkey nor a security key: give another factor")
		}
		verification := protocol.VerificationPreferred
		if step.Always {
			verification = protocol.VerificationRequired
		}
		options, data, err := s.party.BeginLogin(p, webauthn.WithUserVerification(verification))
		if err != nil {
			return wrap("beginning an assertion", err)
		}
		data.Expires = time.Time{} // the ceremony's own end counts, by the database
		text, err := json.Marshal(pending{WebAuthn: data})
		if err != nil {
			return wrap("keeping an assertion", err)
		}
		if publicKey, err = json.Marshal(options.Response); err != nil {
			return wrap("writing an assertion", err)
		}
		_, err = tx.Keep(ctx, insertCeremony, ceremony, user.ID, session, "assert", &stepUp, string(Passkey), "",
			s.ceremonies.Seal(text, ceremony.String()), tx.Now(), tx.Now().Add(ceremonyLife))
		return wrap("keeping an assertion", err)
	})
	if err != nil {
		return uuid.Nil, nil, err
	}
	return ceremony, publicKey, nil
}

// Approval is what somebody gives.
type Approval struct {
	Proof
	Words string // as typed
	// KnownAddress is what StepUp.AddressNeeded asks for.
	KnownAddress bool
	// Callback says that the browser can go on to the command line that waits for it. Without, what was asked for in that
	// mode is not approved: the factor would be given in vain, and not where it was asked for.
	Callback bool
	// Trust has the browser's next sign-ins of 30 days go without a factor.
	Trust bool
}

// Approved is what came of it.
type Approved struct {
	StepUp *StepUp
	// Code is what the browser brings to the CLI's callback; nil where there is none. It is good once.
	Code []byte
	// Device is the secret of a browser that is trusted from now on; "" when it is not.
	Device string
}

const approveStepUp = `
update rgw.step_ups
set outcome = 'approved', decided_at = $2, factor = $3, code_hash = $4,
  exchanged_at = case when mode in ('page', 'console', 'sign-in') then $2 else exchanged_at end
where id = $1 and outcome is null`

const verifySession = `
update rgw.sessions set verified_at = $2 where id = $1 and user_id = $3 and verified_at is null`

// Approve gives a second factor for what was asked for. A factor that is wrong is an *Error of kind Refused; it was
// counted, and five of them within five minutes lock the session's checks for a while.
func (s *Service) Approve(ctx context.Context, by directory.Actor, session, id uuid.UUID, a Approval) (Approved, error) {
	var yubikey string
	var silent *directory.Error
	if a.Kind == YubiKeyOTP { // outside the transaction: it asks somebody else
		var err error
		if yubikey, err = s.Yubico.verify(ctx, a.Code); err != nil {
			silent = yubicoSilent(err)
			s.Log.InfoContext(ctx, "a YubiKey's one-time password was not accepted", "user", by.Label, "cause", err)
		}
	}
	var out Approved
	var wrong *directory.Error
	err := s.Writer.Change(ctx, by, directory.Attempt{Action: "step-up.approve", Resource: by.Label}, func(tx *directory.Tx) error {
		step, err := s.undecided(ctx, tx, by.User, id)
		if err != nil {
			return err
		}
		switch {
		case step.Mode == credential.StepUpCallback && !a.Callback:
			return refused("bad-callback", "a command line waits for this with a browser beside it: approve it on the page that it opened there; or refuse it, if it was not you")
		case step.AddressNeeded() && !a.KnownAddress:
			return refused("new-address", "this was asked from %s, an address that was never seen of you before: say that you know it, or refuse", step.Address)
		}
		user, err := tx.User(ctx, by.User.String())
		if err != nil {
			return err
		}
		lock, err := s.locked(ctx, tx, user.ID, session)
		if err != nil || lock != nil {
			return orRefuse(err, lock)
		}
		if step.Words != "" && subtle.ConstantTimeCompare([]byte(plainWords(a.Words)), []byte(plainWords(step.Words))) != 1 {
			wrong = refused("wrong-words", "those are not the two words that the terminal shows: look again; and if it was not you who ran this, refuse it")
			return s.failed(ctx, tx, by, session, step.Request, "step-up.approve", wrong)
		}
		if silent != nil {
			return silent
		}
		var with *given
		if with, wrong, err = s.check(ctx, tx, user, session, &id, a.Proof, yubikey); err != nil {
			return err
		}
		if wrong != nil {
			return s.failed(ctx, tx, by, session, step.Request, "step-up.approve", wrong)
		}
		var codeHash any
		if step.Mode == credential.StepUpCallback {
			out.Code = make([]byte, 32)
			_, _ = rand.Read(out.Code) // never fails, by its documentation
			sum := sha256.Sum256(out.Code)
			codeHash = sum[:]
		}
		n, err := tx.Exec(ctx, approveStepUp, id, tx.Now(), string(with.kind), codeHash)
		if err != nil || n != 1 {
			return wrap("approving", orRefuse(err, conflict("step-up-decided", "this was decided already")))
		}
		if _, err := tx.Exec(ctx, verifySession, session, tx.Now(), user.ID); err != nil {
			return wrap("noting that a factor was given", err)
		}
		if _, err := tx.Exec(ctx, forgive, session, tx.Now()); err != nil {
			return wrap("forgiving failures", err)
		}
		params := []string{
			"id", id.String(), "operation", step.Operation.Sentence, "level", levelOf(step), "mode", string(step.Mode),
			"device", step.Device, "factor", string(with.kind), "factor_id", with.id, "factor_name", with.name,
		}
		if a.Trust {
			if out.Device, err = trust(ctx, tx, by, user.ID); err != nil {
				return err
			}
			params = append(params, "trusted", "true")
		}
		tx.RecordUnder(step.Request, "step-up.approve", step.Operation.Action, params...)
		step.Outcome = "approved"
		out.StepUp = step
		return nil
	})
	switch {
	case err != nil:
		return Approved{}, err
	case wrong != nil:
		return Approved{}, wrong
	}
	return out, nil
}

func levelOf(s *StepUp) string {
	if s.Always {
		return access.LevelAlways.String()
	}
	return access.LevelStepUp.String()
}

const refuseStepUp = `
update rgw.step_ups set outcome = 'refused', decided_at = $2 where id = $1 and outcome is null`

// Refuse says that it was not, or should not be. Whatever waits for it ends.
func (s *Service) Refuse(ctx context.Context, by directory.Actor, id uuid.UUID) (*StepUp, error) {
	var step *StepUp
	err := s.Writer.Change(ctx, by, directory.Attempt{Action: "step-up.refuse", Resource: by.Label}, func(tx *directory.Tx) (err error) {
		if step, err = s.undecided(ctx, tx, by.User, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, refuseStepUp, id, tx.Now()); err != nil {
			return wrap("refusing", err)
		}
		step.Outcome = "refused"
		tx.RecordUnder(step.Request, "step-up.refuse", step.Operation.Action,
			"id", id.String(), "operation", step.Operation.Sentence, "level", levelOf(step), "mode", string(step.Mode), "device", step.Device)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return step, nil
}

const insertStepUp = `
insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, opened_at, expires_at, outcome,
  decided_at, factor, exchanged_at)
values ($1, $2, $3, $4, 'sign-in', 'step-up', $5, $6, $7, $7, 'approved', $7, $8, $7)`

// stepUpSession notes that a factor was just given in a browser session, without having been asked for.
func stepUpSession(ctx context.Context, tx *directory.Tx, session, user uuid.UUID, kind Kind) error {
	operation, err := json.Marshal(credential.Operation{Action: "factor.add", Sentence: "add a second factor"})
	if err != nil {
		return err
	}
	binding := sha256.Sum256([]byte("factor.add " + session.String()))
	if _, err := tx.Exec(ctx, insertStepUp, newID(), session, user, tx.Request(), binding[:], operation, tx.Now(), string(kind)); err != nil {
		return wrap("noting that a factor was given", err)
	}
	_, err = tx.Exec(ctx, verifySession, session, tx.Now(), user)
	return wrap("noting that a factor was given", err)
}

const overdue = `
select count(*) from rgw.step_ups u where u.outcome is null and u.expires_at <= $1`

const expireStepUps = `
update rgw.step_ups set outcome = 'expired', decided_at = $1
where id in (select u.id from rgw.step_ups u where u.outcome is null and u.expires_at <= $1 order by u.expires_at limit 100)
returning id, user_id, request_id, operation, mode, level`

// Expire notes and records what nobody answered in time.
func (s *Service) Expire(ctx context.Context) error {
	var n int
	if err := s.Reader.View(ctx, func(v *directory.View) error {
		_, err := v.Get(ctx, &n, overdue, v.Now())
		return err
	}); err != nil || n == 0 {
		return wrap("looking for challenges without an answer", err)
	}
	return s.Writer.Change(ctx, gateway(), directory.Attempt{Action: "step-up.expire"}, func(tx *directory.Tx) error {
		var rows []struct {
			ID        uuid.UUID `db:"id"`
			UserID    uuid.UUID `db:"user_id"`
			RequestID uuid.UUID `db:"request_id"`
			Operation []byte    `db:"operation"`
			Mode      string    `db:"mode"`
			Level     string    `db:"level"`
		}
		if err := tx.Change(ctx, &rows, expireStepUps, tx.Now()); err != nil {
			return wrap("ending challenges", err)
		}
		if len(rows) == 0 { // another process was faster
			tx.Unchanged()
			return nil
		}
		for _, row := range rows {
			var operation credential.Operation
			if err := json.Unmarshal(row.Operation, &operation); err != nil {
				return wrap("reading an operation", err)
			}
			user, err := tx.User(ctx, row.UserID.String())
			if err != nil {
				return err
			}
			tx.RecordUnder(row.RequestID, "step-up.expire", operation.Action, "id", row.ID.String(), "user", user.Email,
				"operation", operation.Sentence, "mode", row.Mode, "level", row.Level)
		}
		return nil
	})
}

const forgetStepUps = `
delete from rgw.step_ups where opened_at < $1 and (outcome is not null or expires_at < $1)`

const forgetCeremonies = `
delete from rgw.ceremonies where expires_at < $1`

const forgetFailures = `
delete from rgw.factor_failures where failed_at < $1`

// Forget deletes what is over for good; the record keeps what was decided.
func (s *Service) Forget(ctx context.Context) error {
	return s.Writer.Change(ctx, gateway(), directory.Attempt{Action: "step-up.forget"}, func(tx *directory.Tx) error {
		for statement, age := range map[string]time.Duration{
			forgetStepUps: 2 * 24 * time.Hour, forgetCeremonies: time.Hour, forgetFailures: 24 * time.Hour,
		} {
			if _, err := tx.Keep(ctx, statement, tx.Now().Add(-age)); err != nil {
				return wrap("forgetting what is over", err)
			}
		}
		return nil
	})
}

// plainWords makes words comparable, as somebody types them.
func plainWords(words string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(words), func(r rune) bool { return r < 'a' || r > 'z' }), " ")
}
