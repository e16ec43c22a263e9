package postgres_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func TestAURLCannotBePrinted(t *testing.T) {
	const password = "hunter2hunter2"
	url := postgres.URL("postgres://proxy:" + password + "@db.example/rgw")
	cfg := postgres.Config{URL: url}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "url", url, "config", cfg)
	for _, text := range []string{
		fmt.Sprint(url), fmt.Sprintf("%s %v %+v %#v %q %x %d", url, url, url, url, url, url, url),
		fmt.Sprintf("%v %+v %#v", cfg, cfg, &cfg), log.String(),
	} {
		if strings.Contains(text, password) || strings.Contains(text, fmt.Sprintf("%x", password)) {
			t.Errorf("prints the password: %s", text)
		}
	}
	if _, err := json.Marshal(url); err == nil {
		t.Error("it can be encoded")
	}
	_, err := postgres.Open(postgres.Config{URL: "postgres://proxy:" + password + "@db.example:port/%zz"})
	if err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("the error of a bad one: %v", err)
	}
}

func TestOpenTakesBothFormsOfAddress(t *testing.T) {
	db := postgrestest.New(t)
	parsed, err := pq.NewConfig(string(db.ProxyURL()))
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		string(db.ProxyURL()),
		db.Cluster.SocketURL(cluster.Proxy, db.Name),
		fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s sslmode=disable", db.Cluster.Port(), cluster.Proxy, parsed.Password, db.Name),
	} {
		pool, err := postgres.Open(postgres.Config{URL: postgres.URL(url), Name: "a test's"})
		if err != nil {
			t.Fatal(err)
		}
		var name, commit string
		if err := pool.QueryRow(`select current_setting('application_name'), current_setting('synchronous_commit')`).Scan(&name, &commit); err != nil {
			t.Error(err)
		}
		if name != "a test's" || commit != "on" {
			t.Errorf("application_name %q, synchronous_commit %q", name, commit)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A database whose default is otherwise does not make our commits less durable.
func TestSynchronousCommitIsOnWhateverTheDefault(t *testing.T) {
	db := postgrestest.New(t)
	db.Owner(t).MustExec(`alter database ` + db.Name + ` set synchronous_commit = off`)
	var commit string
	if err := db.Proxy(t).Get(&commit, `select current_setting('synchronous_commit')`); err != nil || commit != "on" {
		t.Errorf("synchronous_commit is %q (%v)", commit, err)
	}
}

func TestADatabaseThatMayLoseCommitsIsRefused(t *testing.T) {
	loose := postgrestest.New(t).Proxy(t) // the shared server does not sync
	err := postgres.CheckDurability(t.Context(), loose)
	if err == nil || !strings.Contains(err.Error(), "fsync and full_page_writes off") {
		t.Errorf("got %v, want a refusal that names both settings", err)
	}
	strict := postgrestest.NewCluster(t, cluster.Options{}).Proxy(t)
	if err := postgres.CheckDurability(t.Context(), strict); err != nil {
		t.Error(err)
	}
}

// Each way of waiting for a server that hangs ends with the context.
func TestAHangingServerHoldsNobodyLongerThanTheContext(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	pool, err := postgres.Open(postgres.Config{URL: db.OwnerURL(), ConnectTimeout: time.Second, CancelGrace: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	conn := func(t *testing.T) *sqlx.Conn {
		c, err := pool.Connx(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, way := range []struct {
		name  string
		begin func(t *testing.T, ctx context.Context) func(ctx context.Context) error // what to do before, and in, the hang
	}{
		{"exec", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				_, err := c.ExecContext(ctx, `select 1`)
				return err
			}
		}},
		{"exec with parameters", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				_, err := c.ExecContext(ctx, `select $1::text`, "x")
				return err
			}
		}},
		{"query", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				var n int
				return c.GetContext(ctx, &n, `select 1`)
			}
		}},
		{"prepared statement", func(t *testing.T, ctx context.Context) func(context.Context) error {
			c := conn(t)
			s, err := c.PrepareContext(ctx, `select $1::text`)
			if err != nil {
				t.Fatal(err)
			}
			return func(ctx context.Context) error {
				defer c.Close()
				_, err := s.ExecContext(ctx, "x")
				return err
			}
		}},
		{"prepare", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				s, err := c.PrepareContext(ctx, `select $1::text`)
				if err == nil {
					defer s.Close()
				}
				return err
			}
		}},
		{"ping", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				return c.PingContext(ctx)
			}
		}},
		{"begin", func(t *testing.T, _ context.Context) func(context.Context) error {
			c := conn(t)
			return func(ctx context.Context) error {
				defer c.Close()
				_, err := c.BeginTxx(ctx, nil)
				return err
			}
		}},
		{"commit", func(t *testing.T, ctx context.Context) func(context.Context) error {
			c := conn(t)
			tx, err := c.BeginTxx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			return func(context.Context) error {
				defer c.Close()
				return tx.Commit()
			}
		}},
		{"rows in the middle", func(t *testing.T, ctx context.Context) func(context.Context) error {
			c := conn(t)
			rows, err := c.QueryContext(ctx, `select repeat('x', 1000) from generate_series(1, 1000000)`) //nolint:rowserrcheck // it is, in the hang
			if err != nil {
				t.Fatal(err)
			}
			return func(context.Context) error {
				defer c.Close()
				defer rows.Close()
				for rows.Next() {
				}
				return rows.Err()
			}
		}},
		{"connect", func(*testing.T, context.Context) func(context.Context) error {
			return func(ctx context.Context) error {
				fresh, err := postgres.Open(postgres.Config{URL: db.OwnerURL(), ConnectTimeout: time.Minute})
				if err != nil {
					return err
				}
				defer fresh.Close()
				return fresh.PingContext(ctx)
			}
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			act := way.begin(t, ctx)
			if err := db.Cluster.Pause(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- act(ctx) }()
			select {
			case err := <-done:
				t.Fatalf("it ended in the hang, before its context did: %v", err)
			case <-time.After(200 * time.Millisecond): // it waits, as far as one can see
			}
			cancel()
			select {
			case err := <-done:
				if err == nil {
					t.Error("it succeeded, though nobody answered")
				}
			case <-time.After(20 * time.Second):
				t.Error("it still waits, 20 seconds after its context ended")
			}
			if err := db.Cluster.Resume(); err != nil {
				t.Fatal(err)
			}
			// The pool goes on, and does not hand out the connection that was given up.
			var n int
			if err := pool.GetContext(t.Context(), &n, `select 1`); err != nil || n != 1 {
				t.Errorf("afterwards: %d, %v", n, err)
			}
		})
	}
}

// A context that ends while the server works has it stop, and tells so.
func TestACancelledStatementStopsAtTheServer(t *testing.T) {
	db := postgrestest.New(t)
	pool := db.Owner(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := pool.ExecContext(ctx, `select pg_sleep(600)`)
		done <- err
	}()
	running := func() (n int) {
		if err := pool.Get(&n, `select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'`); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the statement runs", func() bool { return running() == 1 })
	cancel()
	if err := <-done; err == nil {
		t.Error("it succeeded")
	}
	eventually(t, "the statement has stopped", func() bool { return running() == 0 })
}

func TestWhatIsWorthAnotherTry(t *testing.T) {
	pgError := func(code string) error { return fmt.Errorf("insert: %w", &pq.Error{Code: pqerror.Code(code)}) }
	for _, c := range []struct {
		err               error
		unavailable, data bool
	}{
		{nil, false, false},
		{errors.New("something else"), false, false},
		{context.Canceled, false, false},
		{context.DeadlineExceeded, false, false},
		{sql.ErrNoRows, false, false},
		{driver.ErrBadConn, true, false},
		{sql.ErrConnDone, true, false},
		{io.EOF, true, false},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), true, false},
		{os.ErrDeadlineExceeded, true, false},
		{net.ErrClosed, true, false},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true, false},
		{&net.DNSError{Err: "no such host"}, true, false},
		{errors.New("pq: server error: could not fork new process for connection"), true, false},
		{pgError("08006"), true, false},  // connection_failure
		{pgError("53100"), true, false},  // disk_full
		{pgError("53300"), true, false},  // too_many_connections
		{pgError("57P01"), true, false},  // admin_shutdown
		{pgError("57P03"), true, false},  // cannot_connect_now
		{pgError("57014"), true, false},  // query_canceled
		{pgError("25006"), true, false},  // read_only_sql_transaction
		{pgError("58030"), true, false},  // io_error
		{pgError("28P01"), false, false}, // invalid_password
		{pgError("3D000"), false, false}, // invalid_catalog_name
		{pgError("42P01"), false, false}, // undefined_table
		{pgError("42501"), false, false}, // insufficient_privilege
		{pgError("22P05"), false, true},  // untranslatable_character
		{pgError("23514"), false, true},  // check_violation
		{pgError("54000"), false, true},  // program_limit_exceeded
	} {
		if got := postgres.IsUnavailable(c.err); got != c.unavailable {
			t.Errorf("IsUnavailable(%v) = %v", c.err, got)
		}
		if got := postgres.IsData(c.err); got != c.data {
			t.Errorf("IsData(%v) = %v", c.err, got)
		}
	}
}

func TestAServerThatIsGoneIsUnavailable(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	pool := db.Proxy(t)
	try := func() error {
		var n int
		return pool.GetContext(t.Context(), &n, `select count(*) from rgw.users`)
	}
	for _, way := range []struct {
		name string
		end  func() error
	}{{"stopped", db.Cluster.Stop}, {"killed", db.Cluster.Kill}} {
		if err := try(); err != nil {
			t.Fatal(err)
		}
		if err := way.end(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // on the connection it had, and on a new one
			if err := try(); !postgres.IsUnavailable(err) {
				t.Errorf("%s: %v (%T) does not count as unavailable", way.name, err, err)
			}
		}
		if err := db.Cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := try(); err != nil {
		t.Error(err)
	}
}

func TestInTx(t *testing.T) {
	pool := postgrestest.New(t).Owner(t)
	pool.MustExec(`create table public.n (n integer)`)
	count := func() (n int) {
		if err := pool.Get(&n, `select count(*) from public.n`); err != nil {
			t.Fatal(err)
		}
		return n
	}
	insert := func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`insert into public.n values (1)`)
		return err
	}
	refused := errors.New("refused")
	if err := postgres.InTx(t.Context(), pool, func(tx *sqlx.Tx) error { return errors.Join(insert(tx), refused) }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d rows after a rollback", n)
	}
	if err := postgres.InTx(t.Context(), pool, insert); err != nil {
		t.Error(err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d rows after a commit", n)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for !so() {
		if time.Now().After(end) {
			t.Fatalf("in vain: until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
