// Package postgres is how the gateway talks to its database: connections whose every wait ends with its
// context, what an error means for whoever retries, migrations and roles, and the feed of notifications
// that proves that it is alive.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// URL is a connection string, as a URL (postgres://…) or as key=value pairs. It may hold a password and
// cannot be printed.
type URL string

// Format prints that there is one, whatever the verb.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[database url]") }

// LogValue logs that there is one.
func (u URL) LogValue() slog.Value { return slog.StringValue("[database url]") }

// MarshalText refuses.
func (u URL) MarshalText() ([]byte, error) {
	return nil, errors.New("a database url is not for storing")
}

// with returns the connection string with parameters added, where it does not set them itself.
func (u URL) with(params ...[2]string) (string, error) {
	s := string(u)
	if !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for _, p := range params {
			if !strings.Contains(s, p[0]+"=") {
				s += " " + p[0] + "='" + quote.Replace(p[1]) + "'"
			}
		}
		return strings.TrimSpace(s), nil
	}
	parsed, err := url.Parse(s)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the text, which holds the password
		}
		return "", fmt.Errorf("database url: %w", err)
	}
	query := parsed.Query()
	for _, p := range params {
		if !query.Has(p[0]) {
			query.Set(p[0], p[1])
		}
	}
	parsed.RawQuery = query.Encode()
	return parsed.String(), nil
}

// Config says which database, and how many connections to it. The zero value of each field but URL is
// its default.
type Config struct {
	URL            URL
	Name           string        // of the process, shown in pg_stat_activity; default "rackgateway"
	MaxOpen        int           // connections in the pool; default 25
	MaxIdle        int           // of which idle; default half of MaxOpen
	MaxLifetime    time.Duration // of a connection; default 30 minutes
	MaxIdleTime    time.Duration // default 5 minutes
	ConnectTimeout time.Duration // for one attempt, with sign-in; default 5 seconds; whole seconds
	CancelGrace    time.Duration // how long after its context's end an answer is waited for; default 500 ms
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	if c.MaxOpen <= 0 {
		c.MaxOpen = 25
	}
	if c.MaxIdle <= 0 {
		c.MaxIdle = max(c.MaxOpen/2, 2)
	}
	set(&c.MaxLifetime, 30*time.Minute)
	set(&c.MaxIdleTime, 5*time.Minute)
	set(&c.ConnectTimeout, 5*time.Second)
	set(&c.CancelGrace, 500*time.Millisecond)
	if c.Name == "" {
		c.Name = "rackgateway"
	}
	return c
}

// Open returns a pool of connections to the database. It connects to nothing: whoever needs the database
// to be there calls PingContext, or tries. Every statement's wait ends with its context, also when the
// server hangs; and every connection sets synchronous_commit = on, so that what was committed is durable.
func Open(cfg Config) (*sqlx.DB, error) {
	connector, err := newConnector(cfg.withDefaults())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(connector.cfg.MaxOpen)
	db.SetMaxIdleConns(connector.cfg.MaxIdle)
	db.SetConnMaxLifetime(connector.cfg.MaxLifetime)
	db.SetConnMaxIdleTime(connector.cfg.MaxIdleTime)
	return sqlx.NewDb(db, "postgres"), nil
}

// InTx runs f in a transaction, commits when it returns nil, and rolls back otherwise.
func InTx(ctx context.Context, db *sqlx.DB, f func(tx *sqlx.Tx) error) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

const selectDurability = `
select current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on'`

// CheckDurability refuses a server that may lose what it said was committed when its machine fails.
func CheckDurability(ctx context.Context, db sqlx.QueryerContext) error {
	var fsync, fullPages bool
	if err := db.QueryRowxContext(ctx, selectDurability).Scan(&fsync, &fullPages); err != nil {
		return fmt.Errorf("durability of the database: %w", err)
	}
	var off []string
	if !fsync {
		off = append(off, "fsync")
	}
	if !fullPages {
		off = append(off, "full_page_writes")
	}
	if len(off) > 0 {
		return fmt.Errorf("the database has %s off, so a record that it says is durable may be lost: "+
			"switch it on (alter system set %s = on; select pg_reload_conf())", strings.Join(off, " and "), off[0])
	}
	return nil
}
