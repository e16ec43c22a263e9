package daemon

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestMain(m *testing.M) { postgrestest.Main(m) }

// recording starts a writer that has written an event, so that its end is one to record.
func recording(t *testing.T, db *postgrestest.Database, log *slog.Logger) (stop func()) {
	t.Helper()
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	writer := audit.NewWriter(db.Proxy(t), audit.WriterOptions{Key: key, MaxWait: 30 * time.Second, Logger: log})
	stop = StartRecording(t.Context(), writer, time.Second, log)
	e := audit.NewEvent(time.Now())
	e.Kind, e.ActorKind, e.ActorLabel, e.Action = audit.KindSystem, audit.ActorSystem, "test", "test"
	if err := writer.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	return stop
}

// in runs something that must come to an end, on whatever machine.
func in(t *testing.T, bound time.Duration, what string, run func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	select {
	case <-done:
	case <-time.After(bound):
		t.Fatalf("%s did not end within %s", what, bound)
	}
}

func TestRecordingEndsThoughItsDatabaseIsAway(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	var said lines
	stop := recording(t, db, slog.New(slog.NewTextHandler(&said, nil)))
	if err := db.Cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	in(t, 30*time.Second, "recording", stop)
	if !strings.Contains(said.String(), "not every record could be written before the end") {
		t.Errorf("the log does not say that records were given up: %s", said.String())
	}
}

func TestRecordingEndsInOrderWithItsDatabase(t *testing.T) {
	db := postgrestest.New(t)
	var said lines
	in(t, 30*time.Second, "recording", recording(t, db, slog.New(slog.NewTextHandler(&said, nil))))
	if strings.Contains(said.String(), "level=ERROR") {
		t.Errorf("the log complains: %s", said.String())
	}
	var closed bool
	if err := db.Admin(t).GetContext(t.Context(), &closed, `select exists (select from rgw.audit_events where action = 'audit.close')`); err != nil {
		t.Fatal(err)
	}
	if !closed {
		t.Error("its end is not in the record")
	}
}
