package mfa

import (
	"context"
	"strconv"

	"github.com/google/uuid"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/seal"
)

const sealedFactors = `
select f.id, f.sealed from rgw.factors f where f.sealed is not null and f.removed_at is null order by f.id`

const resealFactor = `
update rgw.factors set sealed = $3 where id = $1 and sealed = $2`

// Rekey seals anew, with the present key, the secrets that were sealed with the one before, and records that it did.
// It returns how many, and how many could be opened with neither.
func Rekey(ctx context.Context, w *directory.Writer, by directory.Actor, keys seal.Keys) (done, lost int, err error) {
	box := keys.Box(totpPurpose)
	err = w.Change(ctx, by, directory.Attempt{Action: "gateway.rekey", Resource: "factors"}, func(tx *directory.Tx) error {
		var rows []struct {
			ID     uuid.UUID `db:"id"`
			Sealed []byte    `db:"sealed"`
		}
		if err := tx.Select(ctx, &rows, sealedFactors); err != nil {
			return wrap("reading what is sealed", err)
		}
		for _, row := range rows {
			again, changed, err := box.Reseal(row.Sealed, row.ID.String())
			switch {
			case err != nil:
				lost++
				continue
			case !changed:
				continue
			}
			if _, err := tx.Exec(ctx, resealFactor, row.ID, row.Sealed, again); err != nil {
				return wrap("keeping what was sealed anew", err)
			}
			done++
		}
		tx.Record("gateway.rekey", "factors", "sealed", strconv.Itoa(done), "lost", strconv.Itoa(lost))
		return nil
	})
	return done, lost, err
}
