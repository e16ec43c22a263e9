package mfa

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"image/png"
	"strconv"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"
	"github.com/pquerna/otp/totp"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/secret"
)

// ceremonyLife is how long an enrolment, or an assertion, may take.
const ceremonyLife = 10 * time.Minute

// mostFactors bounds how many factors somebody has.
const mostFactors = 20

// Enrolment is a factor on its way.
type Enrolment struct {
	ID        uuid.UUID
	Kind      Kind
	ExpiresAt time.Time
	// PublicKey is what navigator.credentials.create takes, as JSON; for WebAuthn.
	PublicKey json.RawMessage
	// Secret, URI and QR (a PNG) are what an authenticator app takes; for TOTP.
	Secret secret.Text
	URI    secret.Text
	QR     []byte
}

// pending is what is kept, sealed, of an enrolment or an assertion.
type pending struct {
	WebAuthn *webauthn.SessionData `json:"webauthn,omitempty"`
	TOTP     string                `json:"totp,omitempty"` // secret, base 32
}

// person is somebody as WebAuthn knows them.
type person struct {
	id          uuid.UUID
	email, name string
	credentials []webauthn.Credential
}

func (p *person) WebAuthnID() []byte                         { return p.id[:] }
func (p *person) WebAuthnName() string                       { return p.email }
func (p *person) WebAuthnDisplayName() string                { return p.name }
func (p *person) WebAuthnCredentials() []webauthn.Credential { return p.credentials }

// personOf makes of somebody and their factors what WebAuthn takes.
func personOf(user directory.User, rows []factorRow) (*person, error) {
	p := &person{id: user.ID, email: user.Email, name: user.Name}
	if p.name == "" {
		p.name = user.Email
	}
	for _, row := range rows {
		if !row.Kind.WebAuthn() {
			continue
		}
		var credential webauthn.Credential
		if err := json.Unmarshal(row.Public, &credential); err != nil {
			return nil, wrap("reading a passkey", err)
		}
		credential.Authenticator.SignCount = uint32(row.Counter) // #nosec G115 -- it was one
		p.credentials = append(p.credentials, credential)
	}
	return p, nil
}

const insertCeremony = `
insert into rgw.ceremonies (id, user_id, session_id, purpose, step_up_id, kind, name, sealed, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

// BeginEnrolment begins to add a factor of the actor's own. It can be ended once, within ten minutes, in the same
// browser session.
func (s *Service) BeginEnrolment(ctx context.Context, by directory.Actor, session uuid.UUID, kind Kind, name string) (Enrolment, error) {
	name, err := checkName(name)
	if err != nil {
		return Enrolment{}, err
	}
	e := Enrolment{ID: newID(), Kind: kind}
	err = s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.enrol", Resource: by.Label}, func(tx *directory.Tx) error {
		user, err := tx.User(ctx, by.User.String())
		if err != nil {
			return err
		}
		var rows []factorRow
		if err := tx.Select(ctx, &rows, factorsOf, user.ID); err != nil {
			return wrap("listing factors", err)
		}
		if len(rows) >= mostFactors {
			return conflict("too-many-factors", "you have %d second factors, and nobody may have more: remove one first", len(rows))
		}
		var kept pending
		switch kind {
		case Passkey, SecurityKey:
			if kept.WebAuthn, e.PublicKey, err = s.beginRegistration(user, rows, kind); err != nil {
				return err
			}
		case TOTP:
			if kept.TOTP, err = s.newTOTP(&e, user.Email); err != nil {
				return err
			}
		case YubiKeyOTP:
			if s.Yubico == nil {
				return conflict("no-yubico", "this gateway has no validation server for YubiKey one-time passwords: add the key as a security key, or have YUBICO_CLIENT_ID set")
			}
		case BackupCode:
			return invalid("bad-kind", "backup codes are made by themselves, not added as a factor")
		default:
			return invalid("bad-kind", "there is no second factor of that kind: take passkey, security-key, totp or yubikey-otp")
		}
		text, err := json.Marshal(kept)
		if err != nil {
			return wrap("keeping an enrolment", err)
		}
		e.ExpiresAt = tx.Now().Add(ceremonyLife)
		_, err = tx.Keep(ctx, insertCeremony, e.ID, user.ID, session, "enrol", nil, string(kind), name,
			s.ceremonies.Seal(text, e.ID.String()), tx.Now(), e.ExpiresAt)
		return wrap("keeping an enrolment", err)
	})
	if err != nil {
		return Enrolment{}, err
	}
	return e, nil
}

func (s *Service) beginRegistration(user directory.User, rows []factorRow, kind Kind) (*webauthn.SessionData, json.RawMessage, error) {
	p, err := personOf(user, rows)
	if err != nil {
		return nil, nil, err
	}
	var exclude []protocol.CredentialDescriptor
	for i := range p.credentials {
		exclude = append(exclude, p.credentials[i].Descriptor())
	}
	selection := protocol.AuthenticatorSelection{
		ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationRequired,
	}
	if kind == SecurityKey {
		selection = protocol.AuthenticatorSelection{
			AuthenticatorAttachment: protocol.CrossPlatform,
			ResidentKey:             protocol.ResidentKeyRequirementDiscouraged, UserVerification: protocol.VerificationPreferred,
		}
	}
	options, session, err := s.party.BeginRegistration(p, webauthn.WithAuthenticatorSelection(selection), webauthn.WithExclusions(exclude))
	if err != nil {
		return nil, nil, wrap("beginning a registration", err)
	}
	session.Expires = time.Time{} // the ceremony's own end counts, by the database
	text, err := json.Marshal(options.Response)
	return session, text, wrap("writing a registration", err)
}

// newTOTP draws a secret of 160 bits, as RFC 4226 section 4 asks for.
func (s *Service) newTOTP(e *Enrolment, email string) (string, error) {
	key, err := totp.Generate(totp.GenerateOpts{Issuer: s.Issuer, AccountName: email, SecretSize: 20})
	if err != nil {
		return "", wrap("drawing a secret", err)
	}
	image, err := key.Image(240, 240)
	if err != nil {
		return "", wrap("drawing a QR code", err)
	}
	var text bytes.Buffer
	if err := png.Encode(&text, image); err != nil {
		return "", wrap("drawing a QR code", err)
	}
	e.Secret, e.URI, e.QR = secret.NewText(key.Secret()), secret.NewText(key.URL()), text.Bytes()
	return key.Secret(), nil
}

// QRDataURL is the QR code for an image's address.
func (e *Enrolment) QRDataURL() string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(e.QR)
}

// Proof is what somebody shows: a code that was typed, or what the browser's authenticator answered.
type Proof struct {
	Kind     Kind            // passkey and security-key are the same here
	Code     string          // of an app, a YubiKey, or a backup code
	Ceremony uuid.UUID       // of an assertion
	Response json.RawMessage // of navigator.credentials, as JSON (WebAuthn level 3, section 5.1)
	// First says of an enrolment that it was allowed because the person had no factor (access.MFAFirst).
	First bool
}

type ceremonyRow struct {
	Kind   Kind   `db:"kind"`
	Name   string `db:"name"`
	Sealed []byte `db:"sealed"`
}

const findCeremony = `
select c.kind, c.name, c.sealed from rgw.ceremonies c
where c.id = $1 and c.user_id = $2 and c.session_id = $3 and c.purpose = $4 and c.step_up_id is not distinct from $5
  and c.spent_at is null and c.expires_at > $6
for update`

const spendCeremony = `
update rgw.ceremonies set spent_at = $2, sealed = '' where id = $1`

// takeCeremony finds what was begun, and opens it.
func (s *Service) takeCeremony(ctx context.Context, tx *directory.Tx, id, user, session uuid.UUID, purpose string, stepUp *uuid.UUID) (*ceremonyRow, *pending, error) {
	var row ceremonyRow
	found, err := tx.Get(ctx, &row, findCeremony, id, user, session, purpose, stepUp, tx.Now())
	if err != nil {
		return nil, nil, wrap("finding what was begun", err)
	}
	if !found && purpose == "enrol" {
		return nil, nil, notFound("no-such-enrolment", "this was begun more than ten minutes ago, in another browser, or was ended already: begin again")
	}
	if !found {
		return nil, nil, refused("ceremony-over", "this was begun more than ten minutes ago, in another browser, or was ended already: begin again")
	}
	text, err := s.ceremonies.Open(row.Sealed, id.String())
	if err != nil {
		return nil, nil, wrap("opening what was begun", err)
	}
	var kept pending
	return &row, &kept, wrap("reading what was begun", json.Unmarshal(text, &kept))
}

const insertFactor = `
insert into rgw.factors (id, user_id, kind, name, credential, public, sealed, yubikey, counter, created_at, created_by, used_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $10)`

// FinishEnrolment adds the factor, once it was shown to work. The first factor of somebody brings backup codes with it,
// and counts as given in the session.
func (s *Service) FinishEnrolment(ctx context.Context, by directory.Actor, session, id uuid.UUID, proof Proof) (f Factor, codes []string, err error) {
	otpOK, otpID := false, ""
	var silent *directory.Error
	if proof.Kind == YubiKeyOTP || proof.Code != "" && len(proof.Code) > 12 && s.Yubico != nil {
		if otpID, err = s.Yubico.verify(ctx, proof.Code); err == nil {
			otpOK = true
		}
		silent = yubicoSilent(err)
	}
	var wrong *directory.Error
	err = s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.add", Resource: by.Label}, func(tx *directory.Tx) error {
		user, err := tx.User(ctx, by.User.String())
		if err != nil {
			return err
		}
		if wrong, err = s.locked(ctx, tx, user.ID, session); err != nil || wrong != nil {
			return orRefuse(err, wrong)
		}
		row, kept, err := s.takeCeremony(ctx, tx, id, user.ID, session, "enrol", nil)
		if err != nil {
			return err
		}
		var rows []factorRow
		if err := tx.Select(ctx, &rows, factorsOf, user.ID); err != nil {
			return wrap("listing factors", err)
		}
		if proof.First && len(rows) > 0 {
			return conflict("not-first", "you have a second factor by now, and another one takes it: begin again")
		}
		f = Factor{ID: newID(), Kind: row.Kind, Name: row.Name, CreatedAt: tx.Now(), UsedAt: ptr(tx.Now())}
		var credentialID, public, sealed []byte
		var yubikey *string
		var counter int64
		switch row.Kind {
		case Passkey, SecurityKey:
			credential, bad := s.finishRegistration(user, rows, kept.WebAuthn, proof.Response)
			if bad != nil {
				wrong = bad
				break
			}
			credentialID, counter = credential.ID, int64(credential.Authenticator.SignCount)
			f.Synced = credential.Flags.BackupState
			if public, err = json.Marshal(credential); err != nil {
				return wrap("keeping a passkey", err)
			}
		case TOTP:
			step, ok := matchTOTP(kept.TOTP, proof.Code, tx.Now(), 0)
			if !ok {
				wrong = refused("wrong-code", "that is not the code which the app shows now: check the clock of the phone, and type the next one")
				break
			}
			counter, sealed = step, s.totp.Seal([]byte(kept.TOTP), f.ID.String())
		case YubiKeyOTP:
			if silent != nil {
				return silent
			}
			if !otpOK {
				wrong = refused("wrong-code", "the validation server did not accept this one-time password: touch the key once more")
				break
			}
			yubikey = &otpID
		case BackupCode:
			return invalid("bad-kind", "backup codes are no factor of their own")
		}
		if wrong != nil {
			if row.Kind.WebAuthn() { // a challenge is good for one answer
				if _, err := tx.Keep(ctx, spendCeremony, id, tx.Now()); err != nil {
					return wrap("ending an enrolment", err)
				}
			}
			return s.failed(ctx, tx, by, session, uuid.Nil, "factor.add", wrong)
		}
		if _, err := tx.Keep(ctx, spendCeremony, id, tx.Now()); err != nil {
			return wrap("ending an enrolment", err)
		}
		var publicText any
		if public != nil {
			publicText = string(public)
		}
		if _, err := tx.Exec(ctx, insertFactor, f.ID, user.ID, string(f.Kind), f.Name, bytesOrNull(credentialID), publicText,
			bytesOrNull(sealed), yubikey, counter, tx.Now(), by.Label); err != nil {
			if isDuplicate(err) {
				return conflict("factor-known", "this one is enrolled already: take another one")
			}
			return wrap("keeping a factor", err)
		}
		params := []string{"id", f.ID.String(), "kind", string(f.Kind), "name", f.Name}
		if len(rows) == 0 {
			if codes, err = addBackupCodes(ctx, tx, user.ID); err != nil {
				return err
			}
			if err := stepUpSession(ctx, tx, session, user.ID, f.Kind); err != nil {
				return err
			}
			params = append(params, "backup_codes", strconv.Itoa(len(codes)))
		}
		tx.Record("factor.add", user.Email, params...)
		return nil
	})
	switch {
	case err != nil:
		return Factor{}, nil, err
	case wrong != nil:
		return Factor{}, nil, wrong
	}
	return f, codes, nil
}

func (s *Service) finishRegistration(user directory.User, rows []factorRow, session *webauthn.SessionData, response json.RawMessage) (*webauthn.Credential, *directory.Error) {
	bad := refused("wrong-assertion", "the browser's answer could not be verified: begin again, in this window")
	p, err := personOf(user, rows)
	if err != nil || session == nil {
		return nil, bad
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(response)
	if err != nil {
		return nil, bad
	}
	credential, err := s.party.CreateCredential(p, *session, parsed)
	if err != nil {
		return nil, bad
	}
	return credential, nil
}

// AddTOTP gives somebody an authenticator app without them: for a trial, and to let somebody in again. It returns
// the secret, to be handed over once.
func (s *Service) AddTOTP(ctx context.Context, by directory.Actor, who, name string) (e Enrolment, err error) {
	if name, err = checkName(name); err != nil {
		return Enrolment{}, err
	}
	e = Enrolment{ID: newID(), Kind: TOTP}
	err = s.Writer.Change(ctx, by, directory.Attempt{Action: "factor.add", Resource: who}, func(tx *directory.Tx) error {
		user, err := tx.User(ctx, who)
		if err != nil {
			return err
		}
		if !user.Active() {
			return conflict("user-locked", "%s is locked or was removed: a factor would be of no use", user.Email)
		}
		text, err := s.newTOTP(&e, user.Email)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertFactor, e.ID, user.ID, string(TOTP), name, nil, nil, s.totp.Seal([]byte(text), e.ID.String()), nil,
			0, tx.Now(), by.Label); err != nil {
			return wrap("keeping a factor", err)
		}
		tx.Record("factor.add", user.Email, "id", e.ID.String(), "kind", string(TOTP), "name", name)
		return nil
	})
	return e, err
}

func ptr[T any](v T) *T { return &v }

func bytesOrNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
