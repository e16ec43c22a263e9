// Package testenv starts the whole product on one machine, away from everything else: a PostgreSQL of its own,
// migrated and with people of each role in it, an in-memory rack, and any number of real proxy and admin processes. End-to-end
// tests, fault tests and benchmarks share it.
//
// Nothing is stood in for but the rack, and the company that vouches for its people: the binaries are the ones that are shipped, built once for each [Suite], each
// a process of its own with an environment that holds its configuration and nothing else. So they can be killed,
// stopped and restarted as in life.
//
//	var suite testenv.Suite
//
//	func TestMain(m *testing.M) {
//		code := m.Run()
//		suite.Close()
//		os.Exit(code)
//	}
//
//	func TestViewerSeesApps(t *testing.T) {
//		env := suite.Start(t, testenv.Options{Proxies: 2, TLS: true})
//		url := env.RackURL("viewer")
//		…
//	}
package testenv

import (
	"context"
	"fmt"
	"io"
	"sync"

	"rackgateway/pkg/racktest"
)

// TB is what an environment needs of whoever runs it: *testing.T and *testing.B have it, and [Run] gives it to
// programs that are no tests.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any) // does not return
	Failed() bool
	Cleanup(fn func()) // functions run last to first when the test is over
	Context() context.Context
}

// Options say what an environment consists of. The zero value is one proxy without TLS, before a rack with TLS, and
// a database of its own in the suite's PostgreSQL.
type Options struct {
	// Proxies is how many run; 0 means one, and a negative number none.
	Proxies int
	// Admins is how many admins serve, over TLS always, with an OpenID provider for the people of People. The proxies
	// are told of the first.
	Admins int
	// TLS has the proxies serve https as localhost, with a certificate that Env.CA signed.
	TLS bool
	// Config is added to the proxies' environment, NAME to value; it counts over what testenv sets. An empty value
	// takes a variable away.
	Config map[string]string

	// Rack describes the in-memory rack. A password is made when it has none.
	Rack racktest.Options
	// Factors has everybody asked for second factors, as is the gateway's default. Everybody of People has an
	// authenticator app; Env.TOTP gives its codes, and Env.StepUp what they give.
	Factors bool
	// FreshFactors is Factors, and has everybody's token count as having given one just now, those that are made later
	// too. What takes a factor each time finds one given for it.
	FreshFactors bool
	// PlainRack has the rack speak http.
	PlainRack bool
	// Upstream, an address such as http://127.0.0.1:5443, takes the place of the in-memory rack. Env.Rack and
	// Env.RackServer are nil then.
	Upstream string

	// Under is a command, with its first arguments, that each process is run by: the program and its own arguments follow.
	// It must become the program (exec), because signals are sent to it.
	Under []string

	// OwnPostgres gives the environment a server that it shares with nobody, so that it can be stopped and killed.
	OwnPostgres bool
	// PostgresSettings are more settings of an own server, such as "log_statement=all".
	PostgresSettings []string
	// PostgresDir is where an own server keeps its data; it stays when the environment ends. A temporary folder
	// when empty.
	PostgresDir string
}

// Seeded is somebody whom every environment has from the start.
type Seeded struct {
	Name  string   // as in Env.Token
	Email string   // of the person, or of the owner of an API token
	Roles []string // ROLE or ROLE@APP
	API   bool     // an API token, with these roles of its own
}

// ReadsSecrets is the custom role that sees releases' environment and other secrets.
const ReadsSecrets = "reads-secrets"

// People are those who are there from the start: one of each role, one whose deployments carry secrets, one confined
// to some apps, and one pipeline. Each has one token, which Env.Token returns.
func People() []Seeded {
	return []Seeded{
		{Name: "admin", Email: "ana@example.com", Roles: []string{"admin"}},
		{Name: "deployer", Email: "dan@example.com", Roles: []string{"deployer"}},
		{Name: "ops", Email: "olga@example.com", Roles: []string{"ops"}},
		{Name: "viewer", Email: "vic@example.com", Roles: []string{"viewer"}},
		{Name: "secrets", Email: "sam@example.com", Roles: []string{"deployer", ReadsSecrets}},
		{Name: "scoped", Email: "sue@example.com", Roles: []string{"deployer@web-*"}},
		{Name: "ci", Email: "ana@example.com", Roles: []string{"cicd"}, API: true},
	}
}

// Start is Suite.Start for somebody who needs one environment only.
func Start(t TB, opts Options) *Env {
	t.Helper()
	s := new(Suite)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the environment: %v", err)
		}
	})
	return s.Start(t, opts)
}

// Run gives a program that is no test what an environment needs. It returns when fn has returned and everything
// that was started has ended: an error when fn failed.
func Run(ctx context.Context, name string, out io.Writer, fn func(TB)) (err error) {
	p := &program{ctx: ctx, name: name, out: out}
	defer func() {
		stopped := recover()
		p.cleanUp()
		if _, ours := stopped.(stop); stopped != nil && !ours {
			panic(stopped)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		err = p.err
	}()
	fn(p)
	return nil
}

// stop is what Fatalf panics with.
type stop struct{}

type program struct {
	ctx  context.Context
	name string

	mu    sync.Mutex
	out   io.Writer
	err   error
	after []func()
}

func (p *program) Helper()                  {}
func (p *program) Name() string             { return p.name }
func (p *program) Context() context.Context { return p.ctx }

func (p *program) Logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *program) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	} else {
		fmt.Fprintf(p.out, format+"\n", args...)
	}
}

func (p *program) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(stop{})
}

func (p *program) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

func (p *program) Cleanup(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = append(p.after, fn)
}

func (p *program) cleanUp() {
	for {
		p.mu.Lock()
		n := len(p.after)
		if n == 0 {
			p.mu.Unlock()
			return
		}
		fn := p.after[n-1]
		p.after = p.after[:n-1]
		p.mu.Unlock()
		fn()
	}
}
