// Package cluster runs a private PostgreSQL server from the binaries of the machine, for tests and for
// the demo: its own data directory, a free port on the loopback interface, a password of its own. Started
// by root, the server runs as an unprivileged user, since PostgreSQL refuses to run as root.
package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/lib/pq" // to see whether the server answers
)

// The logins that a cluster has. Superuser exists from the start. Owner owns the gateway's schema and may
// create roles and databases, nothing more; Proxy and Admin are members of the gateway's two roles. Setup
// makes these three.
const (
	Superuser = "postgres"
	Owner     = "rgw_owner"
	Proxy     = "rgw_proxy_login"
	Admin     = "rgw_admin_login"
)

// ErrNoBinaries says that PostgreSQL is not installed.
var ErrNoBinaries = errors.New("PostgreSQL's server binaries are missing: apt-get install postgresql")

// Options says how a cluster is made. The zero value makes one that is thrown away when it is closed.
type Options struct {
	Dir     string   // holds data and log, kept when the cluster is closed; a temporary folder when empty
	Port    int      // on 127.0.0.1; a free one when 0
	NoFSync bool     // for tests that do not pull plugs: faster, and what was committed may be lost
	Extra   []string // more settings, such as "log_statement=all"
}

// Cluster is one server. Its methods may be called from any goroutine, one at a time.
type Cluster struct {
	opts      Options
	bin       string
	dir       string
	port      int
	password  string
	temporary bool
	settled   bool // the port was handed out
	account   *syscall.Credential

	mu      sync.Mutex
	process *os.Process   // the postmaster
	exited  chan struct{} // closed when it is gone
}

// Binaries returns the folder of the newest PostgreSQL server on the machine, or ErrNoBinaries.
func Binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	sort.Slice(found, func(i, j int) bool { return versionOf(found[i]) > versionOf(found[j]) })
	if path, err := exec.LookPath("postgres"); err == nil {
		found = append(found, path)
	}
	for _, path := range found {
		dir := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	return "", ErrNoBinaries
}

func versionOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// Start makes the cluster where it does not exist yet, and starts its server. It returns when the server
// answers. The server ends with this process, however that ends, and with Close.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, bin: bin, dir: opts.Dir, port: opts.Port}
	if c.account, err = account(); err != nil {
		return nil, err
	}
	if c.dir == "" {
		sweep()
		if c.dir, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", temporaryPrefix, os.Getpid())); err != nil {
			return nil, err
		}
		c.temporary = true
	}
	if c.dir, err = filepath.Abs(c.dir); err == nil {
		err = c.initialise(ctx)
	}
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// temporaryPrefix begins the name of a temporary folder; the id of the process that made it follows.
const temporaryPrefix = "rgw-postgres-"

// sweep removes the temporary folders of processes that ended without closing their cluster. Their servers
// ended with them.
func sweep() {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*-*"))
	if err != nil {
		return // the pattern is good
	}
	for _, dir := range left {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), temporaryPrefix), "-")
		if pid, err := strconv.Atoi(text); err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // whoever may not remove it is not who left it
		}
	}
}

// account returns who the server runs as, when that must be somebody else.
func account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as")
}

// initialise runs initdb where that was not done, and reads the password of the superuser.
func (c *Cluster) initialise(ctx context.Context) error {
	data, passfile := filepath.Join(c.dir, "data"), filepath.Join(c.dir, "password")
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(passfile); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(passfile, []byte(rand.Text()+"\n"), 0o600); err != nil {
			return err
		}
	}
	password, err := os.ReadFile(passfile)
	if err != nil {
		return err
	}
	c.password = strings.TrimSpace(string(password))
	for _, path := range []string{c.dir, passfile} {
		if c.account != nil {
			if err := os.Chown(path, int(c.account.Uid), int(c.account.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), "--pgdata", data, "--username", Superuser, "--pwfile", passfile,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account}
	cmd.Env = append(os.Environ(), "TZ=UTC", "PGTZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(data) // or the next start would take it for a cluster
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Start starts the server again after it was stopped or killed, on the same port.
func (c *Cluster) Start(ctx context.Context) error {
	var err error
	for range 50 {
		if err = c.launch(); err != nil {
			return err
		}
		if err = c.answers(ctx); err == nil {
			c.settled = true
			return nil
		}
		switch {
		case strings.Contains(err.Error(), "pre-existing shared memory block"):
			time.Sleep(50 * time.Millisecond) // a killed server's last sessions are still going
		case strings.Contains(err.Error(), "Address already in use") && c.opts.Port == 0 && !c.settled:
			c.port = 0 // somebody else took the free port first
		default:
			return err
		}
	}
	return err
}

func (c *Cluster) launch() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		select {
		case <-c.exited:
		default:
			return errors.New("the server runs already")
		}
	}
	if c.port == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it waits for nothing
		if err != nil {
			return err
		}
		c.port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return err
		}
	}
	onOff := map[bool]string{true: "on", false: "off"}
	args := []string{"-D", filepath.Join(c.dir, "data"), "-p", strconv.Itoa(c.port)}
	for _, setting := range append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=" + c.dir, "max_connections=200",
		"fsync=" + onOff[!c.opts.NoFSync], "full_page_writes=" + onOff[!c.opts.NoFSync],
		"shared_buffers=64MB", "max_wal_size=1GB", "timezone=UTC", "log_timezone=UTC", "lc_messages=C",
		"logging_collector=off", "log_line_prefix=%m [%p] %u@%d ",
	}, c.opts.Extra...) {
		args = append(args, "-c", setting)
	}
	logFile, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command(filepath.Join(c.bin, "postgres"), args...) //nolint:noctx // it outlives the caller; Close ends it
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account, Setpgid: true}
	endWithParent(cmd.SysProcAttr)

	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The kernel ties the child to the thread that made it, so this thread stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	c.process, c.exited = cmd.Process, exited
	return nil
}

// answers waits until the server takes connections.
func (c *Cluster) answers(ctx context.Context) error {
	db, err := sql.Open("postgres", c.URL(Superuser, "postgres")+"&connect_timeout=5")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("PostgreSQL did not start: %s", c.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL did not answer: %w: %w", ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Cluster) logPath() string { return filepath.Join(c.dir, "log") }

// lastWords returns the end of the server's log.
func (c *Cluster) lastWords() string {
	f, err := os.Open(c.logPath())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// URL returns the address of a database for a login, with its password. Every login has the same one.
func (c *Cluster) URL(login, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(login, c.password), Path: "/" + database, RawQuery: "sslmode=disable",
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))}
	return u.String()
}

// SocketURL is URL through the server's Unix socket.
func (c *Cluster) SocketURL(login, database string) string {
	q := url.Values{"host": {c.dir}, "port": {strconv.Itoa(c.port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(login, c.password), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// Port is the server's TCP port on 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// Dir is the folder of the data, the log and the Unix socket.
func (c *Cluster) Dir() string { return c.dir }

// Done returns a channel that is closed when the server that runs now has ended, however it did.
func (c *Cluster) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exited
}

// Setup makes the logins and the gateway's two roles, where they are missing.
func (c *Cluster) Setup(ctx context.Context) error {
	db, err := sql.Open("postgres", c.URL(Superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for _, role := range [][2]string{
		{Owner, "login createrole createdb password '" + c.password + "'"},
		{"rgw_proxy", "nologin"},
		{"rgw_admin", "nologin"},
		{Proxy, "login password '" + c.password + "' in role rgw_proxy"},
		{Admin, "login password '" + c.password + "' in role rgw_admin"},
	} {
		var there bool
		if err := db.QueryRowContext(ctx, `select exists (select from pg_roles where rolname = $1)`, role[0]).Scan(&there); err != nil {
			return fmt.Errorf("role %s: %w", role[0], err)
		}
		if there {
			continue
		}
		if _, err := db.ExecContext(ctx, "create role "+role[0]+" "+role[1]); err != nil {
			return fmt.Errorf("role %s: %w", role[0], err)
		}
	}
	return nil
}

// CreateDatabase makes a database that Owner owns, as a copy of another when a template is named. It does
// nothing when it is there.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) error {
	db, err := sql.Open("postgres", c.URL(Superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var there bool
	if err := db.QueryRowContext(ctx, `select exists (select from pg_database where datname = $1)`, name).Scan(&there); err != nil || there {
		return err
	}
	if template == "" {
		template = "template1"
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf(`create database %q owner %s template %q`, name, Owner, template))
	return err
}

// DropDatabase removes a database, and ends whoever is connected to it.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	db, err := sql.Open("postgres", c.URL(Superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, fmt.Sprintf(`drop database if exists %q with (force)`, name))
	return err
}

// Stop shuts the server down as an administrator does who does not wait for clients (mode fast).
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Kill ends the postmaster and all its sessions as a crash does: nobody gets to say goodbye.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return nil
	}
	sessions := c.sessions() // they have another parent afterwards
	if err := c.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for _, pid := range sessions {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-c.exited
	return nil
}

// Pause stops the server and all its sessions in their tracks (SIGSTOP): connections stay open, and
// nobody answers. Resume lets them go on.
func (c *Cluster) Pause() error { return c.signalAll(syscall.SIGSTOP) }

// Resume ends a Pause.
func (c *Cluster) Resume() error { return c.signalAll(syscall.SIGCONT) }

func (c *Cluster) signalAll(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return errors.New("the server does not run")
	}
	if err := c.process.Signal(sig); err != nil {
		return err
	}
	for _, pid := range c.sessions() {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// sessions returns the postmaster's children. Each is the leader of its own process group, so that no
// one signal reaches them all.
func (c *Cluster) sessions() []int {
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.process.Pid, c.process.Pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (c *Cluster) end(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return nil
	}
	select {
	case <-c.exited:
		return nil
	default:
	}
	if err := c.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		_ = c.process.Kill()
		<-c.exited
		return errors.New("the server did not stop in time and was killed")
	}
	return nil
}

// Close stops the server and removes a temporary folder.
func (c *Cluster) Close() error {
	var err error
	if c.process != nil {
		_ = c.Resume() // a paused server does not hear
		sig := syscall.SIGINT
		if c.temporary {
			sig = syscall.SIGQUIT // its data is thrown away, so nothing needs to be written down
		}
		err = c.end(sig)
	}
	if c.temporary {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

// CPUTime returns the processor time that the server and its present sessions have used (Linux only).
func (c *Cluster) CPUTime() (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var total time.Duration
	for _, pid := range append(c.sessions(), c.process.Pid) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended
		}
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(stat))
		if len(fields) == 0 {
			continue
		}
		ns, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ns)
	}
	return total, nil
}
