package mfa

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// trustLife is how long a browser is trusted.
const trustLife = 30 * 24 * time.Hour

// TrustedDevice is a browser whose sign-ins go without a factor.
type TrustedDevice struct {
	ID        uuid.UUID
	UserAgent string
	Address   netip.Addr
	CreatedAt time.Time
	ExpiresAt time.Time
}

const insertTrusted = `
insert into rgw.trusted_devices (id, hash, user_id, user_agent, address, created_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7)`

// trust has a browser trusted from now on, and returns the secret that it is recognised by.
func trust(ctx context.Context, tx *directory.Tx, by directory.Actor, user uuid.UUID) (string, error) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	text := base64.RawURLEncoding.EncodeToString(random[:])
	hash := HashDevice(text)
	var address *string
	if by.Address.IsValid() {
		plain := by.Address.Unmap().WithZone("").String()
		address = &plain
	}
	agent := []rune(strings.ToValidUTF8(strings.ReplaceAll(by.UserAgent, "\x00", ""), "?"))
	_, err := tx.Exec(ctx, insertTrusted, newID(), hash[:], user, string(agent[:min(400, len(agent))]), address, tx.Now(), tx.Now().Add(trustLife))
	return text, wrap("trusting a browser", err)
}

const listTrusted = `
select d.id, d.user_agent, host(d.address) as address, d.created_at, d.expires_at
from rgw.trusted_devices d
where d.user_id = $1 and d.revoked_at is null and d.expires_at > $2
order by d.created_at desc
limit 100`

// TrustedDevices lists the browsers that somebody trusts.
func (s *Service) TrustedDevices(ctx context.Context, user uuid.UUID) ([]TrustedDevice, error) {
	var out []TrustedDevice
	err := s.Reader.View(ctx, func(v *directory.View) error {
		var rows []struct {
			ID        uuid.UUID `db:"id"`
			UserAgent string    `db:"user_agent"`
			Address   *string   `db:"address"`
			CreatedAt time.Time `db:"created_at"`
			ExpiresAt time.Time `db:"expires_at"`
		}
		if err := v.Select(ctx, &rows, listTrusted, user, v.Now()); err != nil {
			return wrap("listing trusted browsers", err)
		}
		for _, row := range rows {
			device := TrustedDevice{ID: row.ID, UserAgent: row.UserAgent, CreatedAt: row.CreatedAt, ExpiresAt: row.ExpiresAt}
			if row.Address != nil {
				device.Address, _ = netip.ParseAddr(*row.Address) // the database keeps only addresses
			}
			out = append(out, device)
		}
		return nil
	})
	return out, err
}

const distrust = `
update rgw.trusted_devices set revoked_at = $3 where id = $1 and user_id = $2 and revoked_at is null`

// Distrust has one of the actor's own browsers asked for a factor again.
func (s *Service) Distrust(ctx context.Context, by directory.Actor, id uuid.UUID) error {
	return s.Writer.Change(ctx, by, directory.Attempt{Action: "trusted-device.remove", Resource: by.Label}, func(tx *directory.Tx) error {
		n, err := tx.Exec(ctx, distrust, id, by.User, tx.Now())
		if err != nil {
			return wrap("distrusting a browser", err)
		}
		if n == 0 {
			return notFound("no-such-trusted-device", "you trust no such browser: list them to see which there are")
		}
		tx.Record("trusted-device.remove", by.Label, "id", id.String())
		return nil
	})
}

// gateway is the actor of what nobody asked for.
func gateway() directory.Actor {
	return directory.Actor{Kind: audit.ActorSystem, ID: "gateway", Label: "gateway"}
}
