package credential

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
	"rackgateway/pkg/postgres"
)

// uses gathers when tokens were used, to the minute.
type uses struct {
	mu      sync.Mutex
	minute  int64               // since 1970
	seen    map[string]struct{} // tokens noted in this minute
	pending map[string]netip.Addr
	writing bool
}

// Used notes that a token, or with NoteSessions a session, was used from an address. It is written to the database in the background, at most
// once a minute for each token; what is lost with the process is a minute of it.
func (c *Cache) Used(tokenID string, from netip.Addr) {
	minute, u := c.opts.Now().Unix()/60, &c.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	if minute != u.minute || u.seen == nil {
		u.minute, u.seen = minute, make(map[string]struct{})
	}
	if _, noted := u.seen[tokenID]; noted {
		return
	}
	u.seen[tokenID] = struct{}{}
	if u.pending == nil {
		u.pending = make(map[string]netip.Addr)
	}
	u.pending[tokenID] = from
}

// begin reports whether there is something to write that nobody writes already; who is told so calls writeUses.
func (u *uses) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.writing || len(u.pending) == 0 {
		return false
	}
	u.writing = true
	return true
}

const noteUses = `
select rgw.token_used(t.id, p.address)
  from unnest($1::uuid[], $2::inet[]) with ordinality as p (id, address, place)
  join rgw.tokens t on t.id = p.id
 order by p.place`

const noteSessionUses = `
select rgw.session_used(s.id, p.address)
  from unnest($1::uuid[], $2::inet[]) with ordinality as p (id, address, place)
  join rgw.sessions s on s.id = p.id
 order by p.place`

// writeUses writes what is pending. When the database is away it stays pending.
func (c *Cache) writeUses(ctx context.Context) {
	u := &c.uses
	u.mu.Lock()
	pending := u.pending
	u.pending = nil
	u.mu.Unlock()

	// In one order everywhere, so that two proxies that write the same tokens do not wait for each other.
	ids := make([]string, 0, len(pending))
	for id := range pending {
		if _, err := uuid.Parse(id); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	addresses := make([]sql.NullString, len(ids))
	for i, id := range ids {
		if from := pending[id]; from.IsValid() {
			addresses[i] = sql.NullString{String: from.Unmap().WithZone("").String(), Valid: true}
		}
	}
	var err error
	if len(ids) > 0 {
		err = c.attempt(ctx, func(ctx context.Context) error {
			_, err := c.db.ExecContext(ctx, noteUses, pq.Array(ids), pq.Array(addresses))
			if err == nil && c.opts.NoteSessions {
				_, err = c.db.ExecContext(ctx, noteSessionUses, pq.Array(ids), pq.Array(addresses))
			}
			return err
		})
	}
	again := postgres.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if err != nil && !again {
		c.opts.Logger.ErrorContext(ctx, "the last use of tokens cannot be written", "error", err)
	}

	u.mu.Lock()
	defer u.mu.Unlock()
	u.writing = false
	if again {
		for id, from := range u.pending { // what came meanwhile is newer
			pending[id] = from
		}
		u.pending = pending
	}
}

const selectStarter = `
select s.token_id, s.owner_id from rgw.started_processes s where s.app = $1 and s.pid = $2`

// StartedBy returns which token started a process through the gateway, and the owner of that token. It
// waits for the database as long as ctx allows; an error is ErrUnavailable.
func (c *Cache) StartedBy(ctx context.Context, app, pid string) (tokenID, ownerID string, found bool, err error) {
	err = c.ask(ctx, func(ctx context.Context) error {
		return c.db.QueryRowxContext(ctx, selectStarter, app, pid).Scan(&tokenID, &ownerID)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", "", false, nil
	case err != nil:
		return "", "", false, unavailable(fmt.Errorf("who started a process: %w", err))
	}
	return tokenID, ownerID, true, nil
}

const noteStarter = `
select rgw.process_started($1, $2, $3, $4)`

// NoteStarted notes that the principal's token started a process. It waits for the database as long as ctx
// allows; an error is ErrUnavailable.
func (c *Cache) NoteStarted(ctx context.Context, app, pid string, by *access.Principal) error {
	err := c.ask(ctx, func(ctx context.Context) error {
		_, err := c.db.ExecContext(ctx, noteStarter, app, pid, by.TokenID, by.UserID)
		return err
	})
	if err != nil {
		return unavailable(fmt.Errorf("note who started a process: %w", err))
	}
	return nil
}
