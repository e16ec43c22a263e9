package adminapi

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
)

// keyLife is how long an idempotency key is remembered.
const keyLife = 24 * time.Hour

const idempotencyHeader = "Idempotency-Key"

const expireKey = `
delete from rgw.idempotency_keys
where principal = $1 and operation = $2 and key = $3 and created_at < now() - $4 * interval '1 second'`

const reserveKey = `
insert into rgw.idempotency_keys (principal, operation, key, request, attempt) values ($1, $2, $3, $4, $5)
on conflict on constraint idempotency_keys_pkey do nothing`

const findKey = `
select k.request, k.attempt, k.status, k.answer, extract(epoch from now() - k.created_at)::float8 as age
from rgw.idempotency_keys k
where k.principal = $1 and k.operation = $2 and k.key = $3`

const answerKey = `
update rgw.idempotency_keys set status = $5, answer = $6
where principal = $1 and operation = $2 and key = $3 and attempt = $4`

const releaseKey = `
delete from rgw.idempotency_keys
where principal = $1 and operation = $2 and key = $3 and attempt = $4 and status is null`

const forgetKeys = `
delete from rgw.idempotency_keys where created_at < now() - $1 * interval '1 second'`

// once does a write, or, when it was done already under the same idempotency key, answers as then. The key is taken
// before the operation begins and answered when it ended, each durably: whatever happens in between, the operation
// is not begun again under this key by anything but a client that was told that nothing was done.
func (x *exchange) once(ctx context.Context, body []byte, do func()) {
	// The last look before something changes: rights may have been taken while the request was read.
	if err := x.entry.Confirm(ctx); err != nil {
		x.answer(x.unresolved(err))
		return
	}
	key := x.r.Header.Get(idempotencyHeader)
	if key == "" {
		do()
		return
	}
	k := idempotencyKey{x: x, principal: principalKey(x.principal), key: key}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s\n", x.r.Method, x.r.URL.RequestURI())
	_, _ = hash.Write(body)
	first, err := k.reserve(ctx, hash.Sum(nil))
	if err != nil {
		x.answer(problemOf(err))
		return
	}
	if !first {
		x.answer(k.replay(ctx, hash.Sum(nil)))
		return
	}
	defer func() {
		if x.w.keep { // a panic: leave answers it, and the key stays taken
			x.w.keep, x.w.wrote = false, false
		}
	}()
	x.w.keep = true
	do()
	k.settle()
}

// idempotencyKey is the key of one request.
type idempotencyKey struct {
	x         *exchange
	principal string
	key       string
}

// bound is what the sealed answer belongs to.
func (k idempotencyKey) bound() string { return boundTo(k.principal, k.x.op.ID, k.key) }

func boundTo(principal, operation, key string) string {
	return principal + "\n" + operation + "\n" + key
}

func (k idempotencyKey) reserve(ctx context.Context, request []byte) (bool, error) {
	db := k.x.a.DB
	if _, err := db.ExecContext(ctx, expireKey, k.principal, k.x.op.ID, k.key, keyLife.Seconds()); err != nil {
		return false, fmt.Errorf("expire an idempotency key: %w", err)
	}
	result, err := db.ExecContext(ctx, reserveKey, k.principal, k.x.op.ID, k.key, request, k.x.id)
	if err != nil {
		return false, fmt.Errorf("take an idempotency key: %w", err)
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// replay answers a request whose key was used before: as then, or with the reason why not. It returns nil when it has
// answered.
func (k idempotencyKey) replay(ctx context.Context, request []byte) *problem {
	var row struct {
		Request []byte        `db:"request"`
		Attempt uuid.UUID     `db:"attempt"`
		Status  sql.NullInt32 `db:"status"`
		Answer  []byte        `db:"answer"`
		Age     float64       `db:"age"`
	}
	err := k.x.a.DB.GetContext(ctx, &row, findKey, k.principal, k.x.op.ID, k.key)
	switch {
	case errors.Is(err, sql.ErrNoRows): // the first one has just ended with nothing done
		return k.busy()
	case err != nil:
		return problemOf(fmt.Errorf("look for an idempotency key: %w", err))
	case string(row.Request) != string(request):
		return &problem{Status: http.StatusUnprocessableEntity, Code: "key-reused",
			Detail: "this " + idempotencyHeader + " was sent with another request before: take a new key for each deed"}
	case row.Status.Valid:
		answer, err := k.x.a.Answers.Open(row.Answer, k.bound())
		if err != nil { // APP_SECRET_KEY was replaced
			return (&problem{Status: http.StatusConflict, Code: "answer-lost",
				Detail: "this was done before, and its answer can no longer be read: look at what there is"}).because(err)
		}
		k.x.w.Header().Set("Idempotent-Replayed", "true")
		k.send(int(row.Status.Int32), answer)
		return nil
	case row.Age < 2*k.x.a.MaxWait.Seconds():
		return k.busy()
	}
	return &problem{Status: http.StatusConflict, Code: "outcome-unknown",
		Detail: "the request that first carried this key (" + row.Attempt.String() + ") was cut off: look whether it was done, and take a new key to do it again"}
}

func (k idempotencyKey) busy() *problem {
	return &problem{Status: http.StatusConflict, Code: "in-progress", retryAfter: 1,
		Detail: "the request that first carried this key is still under way: send this again in a moment"}
}

// settle keeps the answer under the key, and sends it. Where nothing was done, the key is free again; where that is
// not known it stays taken, without an answer.
func (k idempotencyKey) settle() {
	w := k.x.w
	status, answer := w.status, w.kept
	w.keep, w.wrote, w.kept = false, false, nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.x.r.Context()), k.x.a.MaxWait)
	defer cancel()
	var err error
	switch {
	case status == http.StatusInternalServerError:
	case status > http.StatusInternalServerError:
		_, err = k.x.a.DB.ExecContext(ctx, releaseKey, k.principal, k.x.op.ID, k.key, k.x.id)
	default:
		_, err = k.x.a.DB.ExecContext(ctx, answerKey, k.principal, k.x.op.ID, k.key, k.x.id, status, k.x.a.Answers.Seal(answer, k.bound()))
	}
	if err != nil {
		k.x.a.Log.WarnContext(ctx, "an answer could not be kept under its idempotency key", "request", k.x.id, "error", err)
	}
	k.send(status, answer)
}

// send sends an answer that was kept.
func (k idempotencyKey) send(status int, body []byte) {
	h := k.x.w.Header()
	switch {
	case status >= http.StatusBadRequest:
		h.Set("Content-Type", "application/problem+json")
	case len(body) > 0:
		h.Set("Content-Type", "application/json")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if status == http.StatusNoContent {
		h.Del("Content-Length")
	}
	k.x.w.WriteHeader(status)
	if len(body) > 0 {
		_, _ = k.x.w.Write(body)
	}
}

// forgetKeys deletes the keys whose day is over.
func (a *API) forgetKeys(ctx context.Context) error {
	_, err := a.DB.ExecContext(ctx, forgetKeys, keyLife.Seconds())
	return err
}

const answeredKeys = `
select k.principal, k.operation, k.key, k.answer from rgw.idempotency_keys k
where k.answer is not null and (k.principal, k.operation, k.key) > ($1, $2, $3)
order by k.principal, k.operation, k.key
limit 500`

const resealKey = `
update rgw.idempotency_keys set answer = $5
where principal = $1 and operation = $2 and key = $3 and answer = $4`

// Rekey seals anew, with the present key, the answers that were sealed with the one before, and records that it did.
// It returns how many, and how many could be opened with neither.
func Rekey(ctx context.Context, db *sqlx.DB, key audit.Key, by directory.Actor, box *seal.Box) (done, lost int, err error) {
	e := by.Event(time.Now(), "gateway.rekey", "idempotency_keys")
	e.Decision = audit.DecisionAllow
	err = audit.Change(ctx, db, key, e, func(tx *sqlx.Tx) error {
		type sealed struct {
			Principal string `db:"principal"`
			Operation string `db:"operation"`
			Key       string `db:"key"`
			Answer    []byte `db:"answer"`
		}
		for last := (sealed{}); ; {
			var rows []sealed
			if err := tx.SelectContext(ctx, &rows, answeredKeys, last.Principal, last.Operation, last.Key); err != nil {
				return fmt.Errorf("read what is sealed: %w", err)
			}
			for _, row := range rows {
				last = row
				again, changed, err := box.Reseal(row.Answer, boundTo(row.Principal, row.Operation, row.Key))
				switch {
				case err != nil:
					lost++
					continue
				case !changed:
					continue
				}
				if _, err := tx.ExecContext(ctx, resealKey, row.Principal, row.Operation, row.Key, row.Answer, again); err != nil {
					return fmt.Errorf("keep what was sealed anew: %w", err)
				}
				done++
			}
			if len(rows) == 0 {
				e.Detail.Params.Add("sealed", strconv.Itoa(done))
				e.Detail.Params.Add("lost", strconv.Itoa(lost))
				return nil
			}
		}
	})
	return done, lost, err
}
