package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rackgateway/pkg/access"
)

// settings keeps what administrators set, as fresh as principals are.
type settings struct {
	value    atomic.Pointer[readSettings] // nil until they were read once
	outdate  atomic.Int64                 // since when a change is known that was not read, nanoseconds since 1970; 0 when none is
	reads    flights[struct{}, struct{}]
	mu       sync.Mutex // guards what follows, and orders changes of outdate
	sequence uint64     // changes so far
	hooks    []func(access.Settings)
}

type readSettings struct {
	access.Settings
	at time.Time // when the query began
}

// changed notes that what is in memory is not what is in the database.
func (s *settings) changed(now time.Time) {
	s.mu.Lock()
	s.sequence++
	s.outdate.CompareAndSwap(0, now.UnixNano())
	s.mu.Unlock()
}

func (s *settings) outdated() bool { return s.outdate.Load() != 0 }

// fresh reports whether the settings may be used: no change is known of, or not for long.
func (s *settings) fresh(now time.Time, most time.Duration) bool {
	since := s.outdate.Load()
	return since == 0 || now.UnixNano()-since <= int64(most)
}

// Settings returns the settings in force, and the defaults before any were read; Resolve succeeds only
// after that.
func (c *Cache) Settings() access.Settings {
	if v := c.settings.value.Load(); v != nil {
		return v.Settings
	}
	return c.defaultSettings()
}

// defaultSettings are those in force where the database says nothing.
func (c *Cache) defaultSettings() access.Settings {
	settings := access.DefaultSettings()
	for _, d := range c.opts.SettingDefaults {
		if err := put(&settings, d.App, d.Key, d.Value); err != nil {
			c.odd("default "+d.App+" "+d.Key, "a default from outside the database is ignored", "app", d.App, "key", d.Key, "cause", err)
		}
	}
	return settings
}

// put puts a value into force, for an app or, where that is empty, for the gateway.
func put(into *access.Settings, app, key string, value json.RawMessage) error {
	if app == "" {
		return into.Set(key, value)
	}
	return into.SetFor(app, key, value)
}

// OnSettings has the function called with the settings after each change, one call after the other. It must
// return soon, and must be set before Run.
func (c *Cache) OnSettings(hook func(access.Settings)) {
	c.settings.mu.Lock()
	c.settings.hooks = append(c.settings.hooks, hook)
	c.settings.mu.Unlock()
}

// currentSettings makes sure that the settings are no older than principals may be.
func (c *Cache) currentSettings(ctx context.Context) error {
	now, s := c.opts.Now(), &c.settings
	if s.fresh(now, c.opts.MaxStaleness) {
		if c.feed.ProofAge() <= c.opts.MaxStaleness || now.Sub(s.value.Load().at) <= c.opts.MaxStaleness {
			return nil
		}
	}
	_, err := s.reads.do(ctx, struct{}{}, c.readSettings)
	return err
}

// refreshSettings reads the settings in the background, as Run asks.
func (c *Cache) refreshSettings(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.MaxWait)
	defer cancel()
	if _, err := c.settings.reads.do(ctx, struct{}{}, c.readSettings); err != nil && ctx.Err() == nil {
		c.opts.Logger.ErrorContext(ctx, "the settings cannot be read", "error", err)
	}
}

const selectSettings = `
select s.key, s.app, s.value from rgw.settings s`

// readSettings reads the settings until what was read is still true when it arrives.
func (c *Cache) readSettings(ctx context.Context) (struct{}, error) {
	s := &c.settings
	for {
		s.mu.Lock()
		sequence := s.sequence
		s.mu.Unlock()
		read := &readSettings{}
		err := c.ask(ctx, func(ctx context.Context) error {
			read.Settings, read.at = c.defaultSettings(), c.opts.Now()
			return c.querySettings(ctx, &read.Settings)
		})
		if err != nil {
			return struct{}{}, err
		}
		s.mu.Lock()
		if s.sequence != sequence {
			s.mu.Unlock()
			continue
		}
		before := s.value.Swap(read)
		s.outdate.Store(0)
		if before == nil || !before.Equal(read.Settings) {
			for _, hook := range s.hooks {
				hook(read.Settings)
			}
		}
		s.mu.Unlock()
		return struct{}{}, nil
	}
}

// querySettings puts what the database has into the settings. What this version does not know, or cannot
// read, leaves the default.
func (c *Cache) querySettings(ctx context.Context, into *access.Settings) error {
	rows, err := c.db.QueryxContext(ctx, selectSettings)
	if err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key, app string
		var value []byte
		if err := rows.Scan(&key, &app, &value); err != nil {
			return fmt.Errorf("read a setting: %w", err)
		}
		if err := put(into, app, key, json.RawMessage(value)); err != nil {
			c.odd("setting "+key+" "+app+" "+string(value), "a setting in the database is ignored", "app", app, "key", key, "cause", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	return nil
}
