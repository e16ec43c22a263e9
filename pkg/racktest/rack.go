// Package racktest is a Convox rack in memory. It speaks a rack's real protocol on every route, quirks
// included, and keeps real state: builds run and log, releases are promoted, processes start, run commands
// and stop, files and database dumps come back as they went in. Tests, the demo, and people who write tools
// against a rack use it; faults can be injected and every request is journalled.
//
// The facts come from reading and running rack 3.24 (its API server, its gorilla/mux and gorilla/websocket).
// Where the rack does something odd, so does this one, and the comment says so.
package racktest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
)

// Options describe a rack. The zero value is a working rack without authentication.
type Options struct {
	// Password is the rack's. When it is empty every request has every right, as on a real rack.
	Password string
	// Name, Version, Provider and Region are what GET /system tells. Clients compare Version.
	Name, Version, Provider, Region string
	// Parameters are the rack's own parameters; nil gives a small set with secrets in it.
	Parameters map[string]string
	// Apps are created besides the app demo, each with the same service web, resource and release.
	Apps []string
	// Bare leaves out the app demo and everything else that New seeds.
	Bare bool

	// StartTime is how long a process is pending, PromoteTime how long a promotion keeps the app updating,
	// BuildTime how long a build runs. Zero means 50, 400 and 300 ms; negative means at once.
	StartTime, PromoteTime, BuildTime time.Duration
	// LogEvery makes each running process of a service log a line that often; zero means only when
	// something happens.
	LogEvery time.Duration

	// Seed makes identifiers repeatable when it is not zero.
	Seed uint64
	// Now is the clock of what the rack reports; nil means time.Now. Timers always run in real time.
	Now func() time.Time

	// Journal bounds how many requests are kept; zero means 10,000. A negative value keeps none and hashes
	// no bodies, for benchmarks; the counters still count.
	Journal int
	// Control allows ControlHandler to be used.
	Control bool
	// AllowSystemUpdate lets PUT /system change parameters and version, as racks of version 2 do. Racks of
	// version 3 refuse it with 501.
	AllowSystemUpdate bool
	// Dial connects /proxy sockets to hosts the rack does not stand in for itself. Nil: unknown hosts fail.
	Dial func(ctx context.Context, host string, port int) (net.Conn, error)
	// Log receives what goes wrong inside the rack; nil discards it.
	Log *slog.Logger
}

// Rack is a rack in memory. It is an http.Handler and safe for concurrent use. Close it to end what runs in it.
type Rack struct {
	opts    Options
	router  *mux.Router
	journal *journal
	faults  *faults
	renewed atomic.Pointer[string] // the password, when it was changed

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // every goroutine that New's caller did not start

	mu           sync.Mutex // guards everything below; never held across I/O or a wait
	closed       bool
	random       *mrand.Rand
	jwtKey       []byte
	apps         map[string]*app
	registries   map[string]registry
	certificates map[string]*certificate
	instances    map[string]*instance
	hooks        map[string]*webhook
	images       *imageStore
	parameters   map[string]string
	version      string
	status       string
	letsEncrypt  letsEncrypt
	events       []Event
	systemLog    *logBuffer
	changed      chan struct{} // closed and replaced when an app or a process changes its status

	connMu      sync.Mutex
	conns       map[net.Conn]struct{}
	connChanged chan struct{} // closed and replaced when conns changes

	serverMu sync.Mutex
	servers  []*Server
}

// New makes a rack and seeds it.
func New(opts Options) *Rack {
	if opts.Name == "" {
		opts.Name = "demo"
	}
	if opts.Version == "" {
		opts.Version = "3.24.6"
	}
	if opts.Provider == "" {
		opts.Provider = "aws"
	}
	if opts.Region == "" {
		opts.Region = "us-east-1"
	}
	opts.StartTime = defaultDuration(opts.StartTime, 50*time.Millisecond)
	opts.PromoteTime = defaultDuration(opts.PromoteTime, 400*time.Millisecond)
	opts.BuildTime = defaultDuration(opts.BuildTime, 300*time.Millisecond)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Journal == 0 {
		opts.Journal = 10000
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	seed := opts.Seed
	if seed == 0 {
		seed = mrand.Uint64()
	}

	r := &Rack{
		opts:         opts,
		journal:      newJournal(opts.Journal),
		random:       mrand.New(mrand.NewPCG(seed, 0)),
		apps:         map[string]*app{},
		registries:   map[string]registry{},
		certificates: map[string]*certificate{},
		instances:    map[string]*instance{},
		hooks:        map[string]*webhook{},
		images:       newImageStore(),
		parameters:   map[string]string{},
		version:      opts.Version,
		status:       "running",
		systemLog:    newLogBuffer(),
		changed:      make(chan struct{}),
		conns:        map[net.Conn]struct{}{},
		connChanged:  make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.faults = newFaults(r.ctx)
	r.jwtKey = newJWTKey()
	r.router = r.routes()
	r.seed()
	return r
}

// Name is the rack's name.
func (r *Rack) Name() string { return r.opts.Name }

// Close ends sockets, builds and everything else that runs in the rack, stops its servers, and waits for all of it.
func (r *Rack) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()

	r.serverMu.Lock()
	servers := r.servers
	r.servers = nil
	r.serverMu.Unlock()
	for _, s := range servers {
		s.stop()
	}
	r.connMu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.connMu.Unlock()
	r.work.Wait()
}

// ServeHTTP answers as the rack's API server does.
func (r *Rack) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.enter() {
		http.Error(w, "the rack is closed", http.StatusServiceUnavailable)
		return
	}
	defer r.work.Done()

	entry, body := r.journal.begin(req, r.opts.Now())
	if body != nil {
		req.Body = body
	}
	rec := &recorder{ResponseWriter: w, started: time.Now(), status: http.StatusOK}
	defer func() { r.journal.end(entry, body, rec) }()

	fault := r.faults.match(req)
	if fault != nil && fault.play(rec, req) {
		return
	}
	rec.fault = fault
	r.router.ServeHTTP(rec, req)
	if rec.lost {
		rec.dropped = true
		panic(http.ErrAbortHandler)
	}
}

// OpenSockets counts websockets whose TCP connection is still open. The rack closes none of its own accord
// except on /proxy, so this shows whether a proxy tears down what it carried.
func (r *Rack) OpenSockets() int {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	return len(r.conns)
}

// AwaitSockets waits until exactly n sockets are open.
func (r *Rack) AwaitSockets(ctx context.Context, n int) error {
	return await(ctx, func() (bool, <-chan struct{}) {
		r.connMu.Lock()
		defer r.connMu.Unlock()
		return len(r.conns) == n, r.connChanged
	})
}

// AwaitApp waits until an app has a status, such as running.
func (r *Rack) AwaitApp(ctx context.Context, app, status string) error {
	return await(ctx, func() (bool, <-chan struct{}) {
		r.mu.Lock()
		defer r.mu.Unlock()
		a := r.apps[app]
		return a != nil && a.status == status, r.changed
	})
}

// AwaitProcess waits until an app has a running process of a service, and returns its id.
func (r *Rack) AwaitProcess(ctx context.Context, app, service string) (pid string, err error) {
	err = await(ctx, func() (bool, <-chan struct{}) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if a := r.apps[app]; a != nil {
			for _, p := range a.sortedProcesses() {
				if p.Name == service && p.Status == "running" {
					pid = p.ID
					return true, nil
				}
			}
		}
		return false, r.changed
	})
	return pid, err
}

// await asks again at every change until the answer is yes.
func await(ctx context.Context, ask func() (bool, <-chan struct{})) error {
	for {
		ok, changed := ask()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// setStatus changes an app's status. The caller holds r.mu.
func (r *Rack) setStatus(a *app, status string) {
	a.status = status
	r.announce()
}

// announce wakes those that wait for a change. The caller holds r.mu.
func (r *Rack) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// keepConn enters or removes a socket's connection.
func (r *Rack) keepConn(c net.Conn, keep bool) {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	if keep {
		r.conns[c] = struct{}{}
	} else {
		delete(r.conns, c)
	}
	close(r.connChanged)
	r.connChanged = make(chan struct{})
}

// enter counts a request into the rack's work, unless the rack is closed.
func (r *Rack) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.work.Add(1)
	return true
}

// spawn runs fn in the background; Close ends ctx and waits for it. The caller holds r.mu.
func (r *Rack) spawn(fn func(ctx context.Context)) {
	if r.closed {
		return
	}
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		fn(r.ctx)
	}()
}

// now is the rack's clock, in UTC.
func (r *Rack) now() time.Time { return r.opts.Now().UTC() }

// letters returns n random characters of an alphabet. The caller holds r.mu.
func (r *Rack) letters(n int, alphabet string) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.random.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	upperLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	podLetters   = "bcdfghjklmnpqrstvwxz2456789"
	hexLetters   = "0123456789abcdef"
)

// requestID is the value of the Request-Id header.
func requestID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// pause waits for d or until ctx ends, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func defaultDuration(d, def time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return 0
	}
	return d
}
