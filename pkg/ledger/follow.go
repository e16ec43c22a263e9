package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
)

// Follower hands on the leaves of the ledger as they come, in their order, to any number of readers: each event is
// read from the database once for all who are up to date, and once more for whoever is behind. Nothing is lost or
// doubled, since a reader goes by leaf indexes alone. It must be made by NewFollower.
type Follower struct {
	db  *sqlx.DB
	log *slog.Logger

	wake chan struct{}

	mu      sync.Mutex
	recent  []*Entry      // the newest leaves, without gaps
	size    int64         // leaves there are, as far as known
	changed chan struct{} // closed, and made anew, when there are more
	known   bool          // size has been read
}

// mostRecent is how many leaves are kept for readers that are up to date.
const mostRecent = 4096

// followPoll is how often the follower looks without having been woken: announcements may get lost.
const followPoll = 2 * time.Second

// NewFollower returns a follower, which works while Run runs. A nil logger discards.
func NewFollower(db *sqlx.DB, log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{db: db, log: log, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Wake tells the follower that the ledger has grown.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	poll := time.NewTicker(followPoll)
	defer poll.Stop()
	for {
		if err := f.read(ctx); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "new leaves of the ledger could not be read; it is tried again", "error", err)
		}
		select {
		case <-f.wake:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const selectSize = `select coalesce(max(size), 0) from rgw.ledger_checkpoints`

// Size returns how many leaves there are.
func Size(ctx context.Context, db sqlx.QueryerContext) (size int64, err error) {
	if err := sqlx.GetContext(ctx, db, &size, selectSize); err != nil {
		return 0, fmt.Errorf("size of the ledger: %w", err)
	}
	return size, nil
}

// read takes in what is new.
func (f *Follower) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	size, err := Size(ctx, f.db)
	if err != nil {
		return err
	}
	f.mu.Lock()
	from, known := f.size, f.known
	f.mu.Unlock()
	if known && size <= from {
		return nil
	}
	if !known || size-from > mostRecent { // those who want more read for themselves
		from = max(size-mostRecent, 0)
		if !known {
			from = size
		}
		f.grow(nil, from, true)
	}
	for from < size {
		to := min(from+512, size)
		entries, err := f.between(ctx, from, to)
		if err != nil {
			return err
		}
		f.grow(entries, to, false)
		from = to
	}
	f.grow(nil, size, false)
	return nil
}

// grow adds leaves, or begins anew at a size.
func (f *Follower) grow(entries []*Entry, size int64, anew bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if anew {
		f.recent = nil
	}
	f.recent = append(f.recent, entries...)
	if over := len(f.recent) - mostRecent; over > mostRecent { // moved seldom
		f.recent = append([]*Entry(nil), f.recent[over:]...)
	}
	if size != f.size || !f.known {
		f.size, f.known = size, true
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// between reads leaves with their details.
func (f *Follower) between(ctx context.Context, from, to int64) (list []*Entry, err error) {
	next := from
	err = Entries(ctx, f.db, from, to, func(e *Entry) error {
		if e.Index != next {
			return fmt.Errorf("leaf %d is missing: it was deleted from the database; see admin audit verify", next)
		}
		next++
		entry := *e
		if !entry.Gone {
			if err := entry.Event.Unpack(); err != nil {
				return err
			}
		}
		list = append(list, &entry)
		return nil
	})
	return list, err
}

// mostAtOnce bounds what Next returns.
const mostAtOnce = 512

// Next returns leaves from an index on, at least one, and waits for it when there is none yet. What it returns belongs
// to others too, and must not be changed. It is safe for concurrent use.
func (f *Follower) Next(ctx context.Context, from int64) ([]*Entry, error) {
	for {
		f.mu.Lock()
		size, changed := f.size, f.changed
		first := size - int64(len(f.recent))
		if from >= first && from < size {
			list := f.recent[from-first:]
			list = list[:min(len(list), mostAtOnce)]
			f.mu.Unlock()
			return list, nil
		}
		f.mu.Unlock()
		if from < first {
			return f.between(ctx, from, min(from+mostAtOnce, first))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Size returns how many leaves there are as far as is known; -1 when nothing is known yet.
func (f *Follower) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return -1
	}
	return f.size
}
