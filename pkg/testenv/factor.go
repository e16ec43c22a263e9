package testenv

import (
	"crypto/sha256"
	"time"

	"github.com/google/uuid"
	"github.com/pquerna/otp/totp"

	"rackgateway/pkg/credential"
)

// appOf is under what name the secret of somebody's authenticator app is kept.
func appOf(who string) string { return who + "'s authenticator app" }

// TOTP is what somebody's authenticator app shows, so many steps of half a minute from now. The gateway takes the
// steps beside the present one too, and each once.
func (e *Env) TOTP(who string, steps int) string {
	e.t.Helper()
	code, err := totp.GenerateCode(e.Token(appOf(who)), time.Now().Add(time.Duration(steps)*30*time.Second))
	if err != nil {
		e.t.Fatalf("the code of %s: %v", who, err)
	}
	return code
}

const giveStepUp = `
with own as (select set_config('rgw.request_id', $1, true))
insert into rgw.step_ups (id, credential_id, user_id, request_id, mode, level, binding, operation, opened_at, expires_at,
  outcome, decided_at, factor, exchanged_at)
select gen_random_uuid(), t.id, t.owner_id, $1::uuid, 'page', 'step-up', $3, '{}', now(), now(), 'approved', now(), 'totp', now()
from own, rgw.token_secrets s join rgw.tokens t on t.id = s.token_id where s.hash = $2`

// StepUp has somebody's token count as having given a second factor just now, as if it had been approved on the page.
func (e *Env) StepUp(who string) {
	e.t.Helper()
	token, err := credential.Parse(e.Token(who))
	if err != nil {
		e.t.Fatalf("the token of %s: %v", who, err)
	}
	hash, binding := token.Hash(), sha256.Sum256([]byte("testenv"))
	result, err := e.DB.ExecContext(e.t.Context(), giveStepUp, uuid.NewString(), hash[:], binding[:])
	if err != nil {
		e.t.Fatalf("stepping %s up: %v", who, err)
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		e.t.Fatalf("stepping %s up: %d rows (%v)", who, n, err)
	}
}

const grantAlways = `
create or replace function rgw.step_up_spend(in_credential uuid, in_session bytea, in_binding bytea, in_seconds integer) returns uuid
  language sql security definer set search_path = pg_catalog, pg_temp as $$ select gen_random_uuid() $$`

// grantAlways has the environment's database find a grant for every operation that takes a factor each time.
func (e *Env) grantAlways() {
	e.t.Helper()
	if _, err := e.DB.ExecContext(e.t.Context(), grantAlways); err != nil {
		e.t.Fatalf("granting everything: %v", err)
	}
}
