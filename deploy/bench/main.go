//go:build linux

// Command bench measures what the gateway costs: every speed and size that the quality page sets a bar for, side by
// side in one run with the yardstick, a tuned httputil.ReverseProxy.
//
// Everything measured is a process of its own: the proxy as it is shipped, over a PostgreSQL with fsync on; the
// yardstick; an upstream that costs next to nothing; and the load generator. Ratios are made of rounds that follow
// each other closely, first one and then the other, and of these ratios the median counts; so a machine that is
// busy with something else disturbs both. It prints a table, writes the same as JSON, and ends with code 1 when a
// bar is not reached. Memory and CPU are read from /proc, so it runs on Linux.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// Roles that this program runs itself in.
const (
	roleLoad     = "load"
	roleUpstream = "upstream"
	roleBare     = "bare"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case roleLoad, roleUpstream, roleBare:
			if err := play(args[0], args[1:], stdin, stdout); err != nil {
				fmt.Fprintf(stderr, "bench %s: %v\n", args[0], err)
				return 1
			}
			return 0
		}
	}
	var opts options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&opts.mfaOff, "mfa-off", false, "ask nobody for second factors; otherwise everybody has a fresh one")
	flags.BoolVar(&opts.short, "short", false, "less than two minutes: shorter and fewer rounds, smaller sizes")
	flags.BoolVar(&opts.profile, "profile", false, "write profiles of the proxy beside the results")
	flags.StringVar(&opts.out, "out", ".bench/results.json", "`file` for the results")
	flags.StringVar(&opts.bin, "bin", "", "`folder` that holds proxy and admin; built from the source when empty")
	only := flags.String("only", "", "measure only what matches this regular `expression`: "+measurementNames())
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "bench: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	var err error
	if opts.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintln(stderr, "bench: -only:", err)
		return 2
	}
	report := newReport(ctx)
	err = testenv.Run(ctx, "bench", stderr, func(tb testenv.TB) {
		b := &bench{TB: tb, whole: tb, shared: new(longRun), options: opts, report: report, stderr: stderr, suite: &testenv.Suite{Bin: opts.bin}}
		b.start()
		for _, m := range measurements() {
			if opts.only.MatchString(m.name) && (m.name != "profiles" || opts.profile) {
				began := time.Now()
				fmt.Fprintf(stderr, "%-12s %s…\n", m.name, m.what)
				if err := b.within(m.measure); err != nil {
					if ctx.Err() != nil {
						b.Fatalf("interrupted")
					}
					report.failed(m.what, err)
				}
				fmt.Fprintf(stderr, "%-12s took %s\n", m.name, time.Since(began).Round(100*time.Millisecond))
			}
		}
	})
	// What was measured before something went wrong is worth having.
	if werr := report.write(stdout, opts.out); werr != nil {
		fmt.Fprintln(stderr, "bench:", werr)
		return 1
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if missed := report.missed(); len(missed) > 0 {
		fmt.Fprintf(stderr, "bench: %d of the bars are not reached: %s\n", len(missed), list(missed))
		return 1
	}
	return 0
}

// play is the program in one of its other roles. It ends with its standard input.
func play(role string, args []string, stdin io.Reader, stdout io.Writer) error {
	if role == roleLoad {
		return serveLoad(bufio.NewReaderSize(stdin, 1<<20), stdout)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // until whoever started us is gone
		_ = listener.Close()
		os.Exit(0) // connections that are open are theirs
	}()
	fmt.Fprintln(stdout, listener.Addr())
	if role == roleUpstream {
		return serveUpstream(listener)
	}
	upstream, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	return serveBare(listener, upstream)
}

type options struct {
	short, profile bool
	mfaOff         bool
	out, bin       string
	only           *regexp.Regexp
}

// bench is one run: the processes that are measured, and what came of it. Its methods fail the run when they cannot
// do what they say.
type bench struct {
	testenv.TB
	options
	report *report
	stderr io.Writer

	suite    *testenv.Suite
	env      *testenv.Env // the one that most is measured in
	load     *child
	upstream *child
	bare     *child
	readers  []string   // tokens of viewers
	writers  []string   // tokens of deployers
	whole    testenv.TB // of the whole run
	shared   *longRun
}

// principals is how many people share the load, each within the limits of one.
const principals = 16

// start brings up what every measurement needs.
func (b *bench) start() {
	b.suite.PostgresSettings = []string{"shared_buffers=256MB", "min_wal_size=8GB", "max_wal_size=16GB", "wal_level=minimal", "max_wal_senders=0"}
	b.Cleanup(func() { b.must(b.suite.Close()) })
	b.upstream = b.child(roleUpstream)
	b.bare = b.child(roleBare, "http://"+b.upstream.addr)
	b.load = b.child(roleLoad)
	b.env = b.environment(1)
	b.settle()
	b.readers = b.populate(b.env, "reader", "viewer", principals, 1)
	b.writers = b.populate(b.env, "writer", "deployer", principals, 1)
	b.must(os.MkdirAll(filepath.Dir(b.out), 0o750))
	b.report.postgres(b.Context(), b.env)
}

// settle brings the server to where one is that has run for a while: it writes into log files that it used before. A
// new server makes each of them first, 16 MB of zeros at a time, while the commit that needs it waits.
func (b *bench) settle() {
	ctx := b.Context()
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(b.env.Postgres.URL(cluster.Superuser, b.env.Database)), Name: "bench"})
	b.must(err)
	defer func() { _ = db.Close() }()
	for range pick(b, 256, 64) { // of 16 MB
		_, err := db.ExecContext(ctx, `select pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()`)
		b.must(err)
	}
	for range 2 { // the second finds the files of the first one's time out of use
		_, err := db.ExecContext(ctx, `checkpoint`)
		b.must(err)
	}
	b.calm(ctx, db)
}

// within runs a part, whose processes end with it, and returns why it failed if it did.
func (b *bench) within(part func(*bench)) error {
	return testenv.Run(b.Context(), b.Name(), b.stderr, func(tb testenv.TB) {
		inner := *b
		inner.TB = tb
		part(&inner)
	})
}

func (b *bench) must(err error) {
	if err != nil {
		b.Fatalf("%v", err)
	}
}

func (b *bench) child(role string, args ...string) *child {
	c, err := startChild(role, args...)
	b.must(err)
	b.Cleanup(func() {
		if err := c.stop(); err != nil {
			b.Errorf("%v", err)
		}
	})
	return c
}

// environment starts proxies over a database of their own, in front of the upstream.
func (b *bench) environment(proxies int) *testenv.Env { return b.environmentWith(proxies, 0) }

// environmentWith is environment with admins too, which keep the ledger.
func (b *bench) environmentWith(proxies, admins int) *testenv.Env {
	return b.suite.Start(b, testenv.Options{
		Proxies: proxies, Admins: admins, Upstream: "http://" + b.upstream.addr,
		Config:  map[string]string{"LOG_LEVEL": "warn", "RGW_SETTING_STEP_UP_MINUTES": "720"},
		Factors: !b.mfaOff,
	})
}

// run has the load generator do a job.
func (b *bench) run(job Job) Result {
	if err := b.Context().Err(); err != nil {
		b.Fatalf("interrupted: %v", err)
	}
	result, err := b.load.run(job)
	b.must(err)
	return result
}

// pick returns the first for a full run, the second for a short one.
func pick[T any](b *bench, full, short T) T {
	if b.short {
		return short
	}
	return full
}

func address(p *testenv.Proxy) string { return fmt.Sprintf("127.0.0.1:%d", p.Port) }

// A measurement fills one or more rows.
type measurement struct {
	name, what string
	measure    func(*bench)
}

// measurements are all there are, in the order that they are made. What costs the machine's caches most comes last.
func measurements() []measurement {
	return []measurement{
		{"throughput", "reads and writes against the yardstick, at 32 and 256 connections", (*bench).throughput},
		{"factors", "reads and writes with a fresh second factor, and with none asked for", (*bench).factors},
		{"latency", "latency added at 1,000 requests/s", (*bench).latency},
		{"statements", "SQL statements on the path of a cached request", (*bench).statements},
		{"storage", "bytes per event", (*bench).storage},
		{"sequencing", "how fast events get their places, and are verified", (*bench).sequencing},
		{"sequenced", "a proxy whose events get their places meanwhile, against one whose events wait", (*bench).sequenced},
		{"tail", "how soon an event is on a live tail", (*bench).tail},
		{"memory", "memory at 256 busy connections", (*bench).memory},
		{"transfers", "long uploads and downloads", (*bench).transfers},
		{"sessions", "memory of idle exec sessions", (*bench).sessions},
		{"revocation", "revocation to refusal, and to the end of an open exec", (*bench).revocation},
		{"changes", "changes of access by the API, the command line and SQL", (*bench).changes},
		{"notices", "the proxy and the sequencer while 1,000 people a minute are told of something", (*bench).notices},
		{"people", "admin with many people signed in and many tokens", (*bench).people},
		{"proxies", "three proxies against one", (*bench).proxies},
		{"tokens", "many tokens against few", (*bench).tokens},
		{"log", "a long log against an empty one", (*bench).longLog},
		{"search", "searches of a long log", (*bench).search},
		{"profiles", "profiles of the proxy", (*bench).profiles},
	}
}

func measurementNames() string {
	var names []string
	for _, m := range measurements() {
		names = append(names, m.name)
	}
	return list(names)
}
