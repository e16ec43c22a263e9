package postgres

// lib/pq sends the server a cancel request when a context ends, and goes on waiting for its answer. A
// server that hangs never answers, and the wait has no end. The connections here do the same and then,
// after a grace, give the network connection a deadline in the past, which ends every wait on it. Such a
// connection is never used again.

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

type connector struct {
	cfg Config
	pq  pq.Config
}

func newConnector(cfg Config) (*connector, error) {
	c := &connector{cfg: cfg}
	dsn, err := c.dsn()
	if err != nil {
		return nil, err
	}
	parsed, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	c.pq = parsed
	return c, nil
}

// dsn returns the connection string with what the gateway adds. It holds the password.
func (c *connector) dsn() (string, error) {
	seconds := strconv.Itoa(int((c.cfg.ConnectTimeout + time.Second - 1) / time.Second))
	return c.cfg.URL.with([2]string{"connect_timeout", seconds}, [2]string{"fallback_application_name", c.cfg.Name})
}

// Driver returns the connector: a pool's driver is how connections beside the pool find its database.
func (c *connector) Driver() driver.Driver { return c }

// Open is there because driver.Driver asks for it.
func (c *connector) Open(string) (driver.Conn, error) { return c.Connect(context.Background()) }

// Connect opens a connection, within the context and the connect timeout.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) { return c.connect(ctx, c.pq) }

func (c *connector) connect(ctx context.Context, cfg pq.Config) (*conn, error) {
	inner, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	d := &dialer{net: net.Dialer{
		// So that a server that vanished is noticed while nothing is asked of it.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
	}}
	inner.Dialer(d)
	stop := context.AfterFunc(ctx, func() { d.interrupt() })
	opened, err := inner.Connect(ctx)
	d.opened.Store(true)
	if !stop() && err == nil {
		_ = opened.Close()
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	full, ok := opened.(pqConn)
	if !ok {
		_ = opened.Close()
		return nil, errors.New("the driver's connection lacks a method that is relied on")
	}
	cn := &conn{pqConn: full, dialer: d, grace: c.cfg.CancelGrace}
	if _, err := cn.ExecContext(ctx, "set synchronous_commit = on", nil); err != nil {
		_ = cn.Close()
		return nil, err
	}
	return cn, nil
}

// dialer remembers the network connection of the one database connection that it was made for. lib/pq
// dials again through it to cancel a statement; that connection is not remembered, and lib/pq itself
// bounds it by the connect timeout.
type dialer struct {
	net    net.Dialer
	conn   atomic.Pointer[net.Conn]
	opened atomic.Bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := d.net.DialContext(ctx, network, address)
	if err == nil && !d.opened.Load() {
		d.conn.Store(&nc)
	}
	return nc, err
}

// setDeadline bounds every wait on the connection.
func (d *dialer) setDeadline(t time.Time) {
	if nc := d.conn.Load(); nc != nil {
		_ = (*nc).SetDeadline(t)
	}
}

// interrupt ends every wait on the connection, now and later.
func (d *dialer) interrupt() { d.setDeadline(time.Unix(1, 0)) }

// pqConn is what lib/pq's connection can do.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	driver.NamedValueChecker
}

type conn struct {
	pqConn
	dialer *dialer
	grace  time.Duration
	broken atomic.Bool
}

// guard sees to it that no wait on the connection lasts longer than the context and a grace. The
// function that it returns ends that.
func (c *conn) guard(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	stop := context.AfterFunc(ctx, func() {
		c.broken.Store(true)
		c.dialer.setDeadline(time.Now().Add(c.grace))
	})
	return func() { stop() }
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	release := c.guard(ctx)
	inner, err := c.pqConn.BeginTx(ctx, opts)
	if err != nil {
		release()
		return nil, err
	}
	return &tx{inner, release}, nil
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	defer c.guard(ctx)()
	inner, err := c.pqConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	full, ok := inner.(pqStmt)
	if !ok {
		_ = inner.Close()
		return nil, errors.New("the driver's statement lacks a method that is relied on")
	}
	return &stmt{full, c}, nil
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	defer c.guard(ctx)()
	return c.pqConn.ExecContext(ctx, query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return guardRows(c.guard(ctx), func() (driver.Rows, error) { return c.pqConn.QueryContext(ctx, query, args) })
}

func (c *conn) Ping(ctx context.Context) error {
	defer c.guard(ctx)()
	return c.pqConn.Ping(ctx)
}

func (c *conn) ResetSession(ctx context.Context) error {
	if c.broken.Load() {
		return driver.ErrBadConn
	}
	return c.pqConn.ResetSession(ctx)
}

func (c *conn) IsValid() bool { return !c.broken.Load() && c.pqConn.IsValid() }

type tx struct {
	driver.Tx
	release func()
}

func (t *tx) Commit() error {
	defer t.release()
	return t.Tx.Commit()
}

func (t *tx) Rollback() error {
	defer t.release()
	return t.Tx.Rollback()
}

type pqStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	pqStmt
	conn *conn
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	defer s.conn.guard(ctx)()
	return s.pqStmt.ExecContext(ctx, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return guardRows(s.conn.guard(ctx), func() (driver.Rows, error) { return s.pqStmt.QueryContext(ctx, args) })
}

// rows are under guard until they are closed.
type rows struct {
	pqRows
	release func()
}

type pqRows interface {
	driver.RowsNextResultSet
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeScanType
}

func guardRows(release func(), query func() (driver.Rows, error)) (driver.Rows, error) {
	inner, err := query()
	if err != nil {
		release()
		return nil, err
	}
	full, ok := inner.(pqRows)
	if !ok {
		release()
		_ = inner.Close()
		return nil, errors.New("the driver's rows lack a method that is relied on")
	}
	return &rows{full, release}, nil
}

func (r *rows) Close() error {
	defer r.release()
	return r.pqRows.Close()
}

// Conn is one connection beside the pool, for whoever must own one. Its []byte parameters travel in
// PostgreSQL's binary format, which costs the server the least. Only one goroutine may use it at a time,
// but for Interrupt.
type Conn struct{ c *conn }

// Connect opens a connection beside the pool that Open returned, to the same database.
func Connect(ctx context.Context, db *sqlx.DB) (*Conn, error) {
	pool, ok := db.Driver().(*connector)
	if !ok {
		return nil, errors.New("the pool was not opened by this package")
	}
	cfg := pool.pq.Clone()
	cfg.BinaryParameters = true
	c, err := pool.connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}

// Exec runs statements without parameters.
func (c *Conn) Exec(ctx context.Context, query string) error {
	_, err := c.c.ExecContext(ctx, query, nil)
	return err
}

// Prepare prepares a statement.
func (c *Conn) Prepare(ctx context.Context, query string) (*Stmt, error) {
	s, err := c.c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &Stmt{s.(*stmt)}, nil
}

// SetDeadline bounds every wait of the statements to come, at less cost than a context. The zero time
// takes the bound away.
func (c *Conn) SetDeadline(t time.Time) { c.c.dialer.setDeadline(t) }

// Interrupt ends the wait of whoever uses the connection, which is good for nothing afterwards.
func (c *Conn) Interrupt() {
	c.c.broken.Store(true)
	c.c.dialer.interrupt()
}

// Close closes the connection. It does not wait for the server.
func (c *Conn) Close() error {
	c.c.dialer.setDeadline(time.Now().Add(time.Second)) // for the farewell
	return c.c.Close()
}

// Stmt is a prepared statement of a Conn.
type Stmt struct{ s *stmt }

// Exec runs the statement.
func (s *Stmt) Exec(ctx context.Context, args []driver.NamedValue) error {
	_, err := s.s.ExecContext(ctx, args)
	return err
}
