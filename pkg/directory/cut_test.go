package directory_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres/postgrestest"
)

// Somebody left a transaction open: a change gives up after a while, with neither a change nor an event.
func TestAChangeDoesNotWaitForeverForAnother(t *testing.T) {
	w := newWorld(t)
	held, err := w.db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.ExecContext(t.Context(), `select pg_advisory_xact_lock(7220417003)`); err != nil {
		t.Fatal(err)
	}
	writer := directory.NewWriter(w.db, w.key, directory.WriterOptions{MaxWait: 50 * time.Millisecond})
	add := func() error {
		_, err := writer.AddUsers(t.Context(), console, []directory.NewUser{{Email: "ana@example.com"}})
		return err
	}
	got := w.since(t, func() {
		if err := add(); !errors.Is(err, directory.ErrBusy) {
			t.Errorf("the change ended with %v", err)
		}
	})
	if len(got) != 0 {
		t.Errorf("recorded %v", got)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := add(); err != nil {
		t.Errorf("after the other ended: %v", err)
	}
}

// Whatever is under way when a process dies, or when its connection does, the database ends the transaction: the
// change and its event both stay, or both go.
func TestAChangeThatIsCutOffLeavesBothOrNeither(t *testing.T) {
	w := newWorld(t)
	w.add(t, "dan@example.com", "viewer")
	cutter := postgrestest.Open(t, w.superuserURL)

	ctx, stop := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	var cutError error
	cutting.Go(func() {
		for ctx.Err() == nil {
			_, err := cutter.ExecContext(ctx, `
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and usename <> current_user and state <> 'idle' and random() < 0.3`)
			if err != nil && ctx.Err() == nil {
				cutError = err
				return
			}
		}
	})
	cut, done := 0, 0
	for i := 0; i < 5000 && (cut < 20 || done < 20); i++ {
		var err error
		if i%2 == 0 {
			_, err = w.Lock(t.Context(), console, "dan@example.com", "x")
		} else {
			_, err = w.Unlock(t.Context(), console, "dan@example.com")
		}
		switch {
		case err == nil:
			done++
		case directory.CodeOf(err) == "":
			cut++
		}
	}
	stop()
	cutting.Wait()
	if cutError != nil {
		t.Fatal(cutError)
	}
	if cut < 20 || done < 20 {
		t.Fatalf("only %d changes were cut off, and %d done", cut, done)
	}
	locks, unlocks := 0, 0
	for _, e := range w.events(t) {
		switch e.String() {
		case "finished user.lock dan@example.com":
			locks++
		case "finished user.unlock dan@example.com":
			unlocks++
		}
	}
	u := must[directory.User](t)(w.User(t.Context(), "dan@example.com"))
	if locked := locks - unlocks; locked < 0 || locked > 1 || (locked == 1) != (u.LockedAt != nil) {
		t.Errorf("%d locks and %d unlocks are recorded, and the user's lock is %v", locks, unlocks, u.LockedAt)
	}
	t.Logf("%d changes done, %d cut off; %d locks and %d unlocks recorded", done, cut, locks, unlocks)
}
