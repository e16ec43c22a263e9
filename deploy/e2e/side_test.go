package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/convoxclient"
	"rackgateway/pkg/testenv"
)

// A mode is a way to point a CLI at a rack.
type mode string

const (
	direct  mode = "direct"  // RACK_URL of the rack itself
	gateway mode = "gateway" // RACK_URL of the gateway
	prefix  mode = "prefix"  // the same with the prefix that the gateway has on a shared domain
	slash   mode = "slash"   // the same with a slash at the end
	console mode = "console" // login, racks, switch
	environ mode = "environ" // CONVOX_HOST, CONVOX_PASSWORD and CONVOX_RACK, as pipelines have them
)

// rackAge is how old everything in a test's rack is, so that "2 months ago" is what every side says of everything.
const rackAge = 75 * 24 * time.Hour

// A side is one side of a comparison: a fresh rack, a gateway before it unless it is the direct one, and one
// person's CLI. It writes down what that person sees.
type side struct {
	t    *testing.T
	ctx  context.Context
	kind kind
	mode mode
	env  *testenv.Env // nil on the direct side
	rack *racktest.Rack
	dir  string // working directory; its name is the app's
	url  string // for a client of this side

	database *relay // before the gateway's database, with sideOptions.losesDatabase

	cli      cli
	loggedIn bool
	script   *script
}

// A script is what was done and seen, in order. Several people may write into one.
type script struct {
	mu    sync.Mutex
	steps []step
}

// step is one thing that a scenario did, and what came of it.
type step struct{ what, stdout, stderr, end string }

func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ %s\n%s", s.what, indent("", s.stdout))
	b.WriteString(indent("stderr: ", s.stderr))
	if s.end != "" {
		fmt.Fprintf(&b, "=> %s\n", s.end)
	}
	return b.String()
}

func indent(before, text string) string {
	if text == "" {
		return ""
	}
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		b.WriteString("    " + before + line + "\n")
	}
	if !strings.HasSuffix(text, "\n") {
		b.WriteString("    " + before + "(no newline)\n")
	}
	return b.String()
}

// result is what came of one command.
type result struct {
	Stdout, Stderr string
	Code           int
}

// sideOptions describe a side beside its mode.
type sideOptions struct {
	rack   racktest.Options
	who    string // of testenv.People; "" is admin
	config map[string]string
	// losesDatabase puts a relay before the gateway's database that can be taken away.
	losesDatabase bool
	// allowDestructive turns the setting on that lets deletions through.
	allowDestructive bool
	// factors has everybody asked for second factors, and starts an admin, where they are given.
	factors bool
}

// newSide makes a side that ends with the test.
func newSide(t *testing.T, k kind, m mode, opts sideOptions) *side {
	t.Helper()
	s := &side{t: t, ctx: t.Context(), kind: k, mode: m, script: new(script)}
	rack := opts.rack
	if rack.Seed == 0 {
		rack.Seed = 7
	}
	if rack.StartTime == 0 {
		rack.StartTime = -1
	}
	if rack.PromoteTime == 0 {
		rack.PromoteTime = 100 * time.Millisecond
	}
	rack.Now = func() time.Time { return time.Now().Add(-rackAge) }
	rack.Password = rand.Text()
	if opts.who == "" {
		opts.who = "admin"
	}
	if m == direct {
		s.rack = racktest.New(rack)
		t.Cleanup(s.rack.Close)
		server, err := s.rack.Start(racktest.ServeOptions{TLS: true})
		if err != nil {
			t.Fatal(err)
		}
		s.url = server.RackURL()
		s.install(installation{rackURL: s.url})
		return s
	}
	// A machine that is busy with other things must not make the gateway give up.
	patient := map[string]string{"AUDIT_MAX_WAIT": "1m", "ACCESS_MAX_STALENESS": "1m", "ACCESS_SOCKET_GRACE": "5m"}
	maps.Copy(patient, opts.config)
	later := opts.allowDestructive || opts.losesDatabase
	proxies := 1
	if later {
		proxies = -1
	}
	if opts.losesDatabase {
		s.database = newRelay(t) // made first, so that it is still there when the proxies end
	}
	s.env = suite.Start(t, testenv.Options{TLS: true, Rack: rack, Proxies: proxies, Config: patient, Factors: opts.factors, Admins: btoi(opts.factors),
		FreshFactors: freshFactors && !opts.factors})
	s.rack = s.env.Rack
	if opts.allowDestructive {
		s.env.Admin("setting", "set", "allow_destructive", "true")
	}
	config := make(map[string]string)
	if opts.losesDatabase {
		database, err := url.Parse(s.env.Postgres.URL(cluster.Proxy, s.env.Database))
		if err != nil {
			t.Fatal(err)
		}
		s.database.leadTo(database.Host)
		database.Host = s.database.address
		config["DATABASE_URL"] = database.String()
	}
	if later {
		s.env.AddProxyWith(config).WaitReady(t.Context())
	}
	return s.as(opts.who)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// as is the same side for somebody else, with a CLI of their own.
func (s *side) as(who string) *side {
	s.t.Helper()
	other := *s
	other.url = s.env.RackURL(who)
	switch s.mode {
	case prefix:
		other.install(installation{rackURL: other.url + "/api/v1/rack-proxy"})
	case slash:
		other.install(installation{rackURL: other.url + "/"})
	case console:
		other.install(installation{})
		other.login(who)
	case environ:
		other.install(installation{host: s.host(), token: s.env.Token(who), rack: testenv.RackName})
	default:
		other.install(installation{rackURL: other.url})
	}
	return &other
}

// install gives the side a CLI in a folder of its own.
func (s *side) install(on installation) {
	s.t.Helper()
	on.home, s.loggedIn = s.t.TempDir(), false
	s.dir = filepath.Join(on.home, "demo")
	on.dir = s.dir
	writeProject(s.t, s.dir)
	s.cli = s.kind.install(s.t, on)
}

// login is what somebody does once: it leaves no trace in the transcript, because the direct side has no such thing.
func (s *side) login(who string) {
	s.t.Helper()
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"login", s.host(), "-t", s.env.Token(who)}, "Authenticating with " + s.host() + "... OK\n"},
		{[]string{"racks"}, "NAME          PROVIDER  STATUS\nacme/staging  aws       running\n"},
		{[]string{"switch", "staging"}, "Switched to acme/staging\n"},
	} {
		got := s.quietly("", step.args...)
		if got.Code != 0 || got.Stdout != step.want || got.Stderr != "" {
			s.t.Fatalf("convox %s: exit %d\n%s%s\nwant\n%s", step.args[0], got.Code, got.Stdout, got.Stderr, step.want)
		}
	}
	s.loggedIn = true
}

// host is the gateway's host and port.
func (s *side) host() string {
	s.t.Helper()
	u, err := url.Parse(s.env.Proxies[0].URL)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.Host
}

// patience is how long one command may take.
const patience = 3 * time.Minute

// quietly runs a command that does not come into the transcript.
func (s *side) quietly(in string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var out, errs bytes.Buffer
	code := s.cli.command(ctx, strings.NewReader(in), &out, &errs, args...)
	if ctx.Err() != nil {
		s.t.Fatalf("convox %s did not end\n%s%s", strings.Join(args, " "), out.String(), errs.String())
	}
	return result{out.String(), errs.String(), code}
}

// run runs a command with an empty standard input.
func (s *side) run(args ...string) result {
	s.t.Helper()
	return s.feed("", args...)
}

// feed runs a command with a text as its standard input.
func (s *side) feed(in string, args ...string) result {
	s.t.Helper()
	got := s.quietly(in, args...)
	s.note(step{what: "convox " + strings.Join(args, " "), stdout: got.Stdout, stderr: got.Stderr, end: fmt.Sprintf("exit %d", got.Code)})
	return got
}

// must is run for a command that the scenario cannot go on without.
func (s *side) must(args ...string) result {
	s.t.Helper()
	got := s.run(args...)
	if got.Code != 0 {
		s.t.Fatalf("convox %s: exit %d\n%s%s", strings.Join(args, " "), got.Code, got.Stdout, got.Stderr)
	}
	return got
}

// note writes a step down.
func (s *side) note(made step) {
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	s.script.steps = append(s.script.steps, made)
}

// tell writes down a fact about the rack or the working directory.
func (s *side) tell(what string, value any) { s.note(step{what: what, end: fmt.Sprint(value)}) }

// text is the transcript, with what differs from run to run made alike.
func (s *side) text() string {
	s.script.mu.Lock()
	defer s.script.mu.Unlock()
	var b strings.Builder
	for _, step := range s.script.steps {
		step.what, step.stdout, step.stderr = alike(step.what), alike(step.stdout), alike(step.stderr)
		b.WriteString(step.String())
	}
	return b.String()
}

// pid is a running process of a service of the app demo.
func (s *side) pid(service string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	pid, err := s.rack.AwaitProcess(ctx, "demo", service)
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// client speaks to this side as its CLI would, in the words of the protocol.
func (s *side) client() *convoxclient.Client {
	s.t.Helper()
	c, err := convoxclient.New(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// path is a file of the working directory.
func (s *side) path(name string) string { return filepath.Join(s.dir, name) }

// write makes a file in the working directory.
func (s *side) write(name, content string) {
	s.t.Helper()
	writeFile(s.t, s.path(name), content)
	setTimes(s.t, s.dir)
}

// tellFile writes down a file's size and content; what is not text is told by its hash.
func (s *side) tellFile(name string) {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	s.tell("sha256sum "+name, fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data)))
}

// tellArchive writes down what is in a gzipped tar archive: moments in JSON files made alike, archives within it
// opened too.
func (s *side) tellArchive(name string) {
	s.t.Helper()
	f, err := os.Open(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if err := s.listArchive(name, f); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
}

func (s *side) listArchive(name string, r io.Reader) error {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(tr)
		switch {
		case err != nil:
			return err
		case bytes.HasPrefix(data, []byte{0x1f, 0x8b}): // gzip, whatever its name says
			if err := s.listArchive(name+"/"+h.Name, bytes.NewReader(data)); err != nil {
				return err
			}
		case strings.HasSuffix(h.Name, ".json"):
			s.tell(name+": "+h.Name, alike(string(data)))
		default:
			s.tell(name+": "+h.Name, fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data)))
		}
	}
}

// running is a command that goes on while the scenario does other things.
type running struct {
	s     *side
	what  string
	stop  context.CancelFunc
	ended chan struct{}
	code  int
	out   *watched
	errs  *watched
	stdin io.WriteCloser
}

// start runs a command in the background, with an input that stays open.
func (s *side) start(args ...string) *running {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	in, into := io.Pipe()
	r := &running{
		s: s, what: "convox " + strings.Join(args, " "), stop: cancel, ended: make(chan struct{}),
		out: newWatched(), errs: newWatched(), stdin: into,
	}
	go func() {
		defer close(r.ended)
		r.code = s.cli.command(ctx, in, r.out, r.errs, args...)
		in.Close()
	}()
	s.t.Cleanup(func() { cancel(); into.Close(); <-r.ended })
	return r
}

// await waits until the command's standard output holds a text.
func (r *running) await(text string) {
	r.s.t.Helper()
	ctx, cancel := context.WithTimeout(r.s.ctx, patience)
	defer cancel()
	if err := r.out.await(ctx, text, r.ended); err != nil {
		r.s.t.Fatalf("%s: waiting for %q: %v\nit printed:\n%s%s", r.what, text, err, r.out.String(), r.errs.String())
	}
}

// kill ends the command as a closed terminal does, and writes it down.
func (r *running) kill() {
	r.stop()
	<-r.ended
	r.s.note(step{what: r.what, stdout: r.out.String(), stderr: r.errs.String(), end: "killed"})
}

// wait waits until the command ends by itself, and writes it down.
func (r *running) wait() result {
	r.s.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.s.t.Fatalf("%s did not end\nit printed:\n%s%s", r.what, r.out.String(), r.errs.String())
	}
	got := result{r.out.String(), r.errs.String(), r.code}
	r.s.note(step{what: r.what, stdout: got.Stdout, stderr: got.Stderr, end: fmt.Sprintf("exit %d", got.Code)})
	return got
}

// watched is a buffer that can be waited on.
type watched struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func newWatched() *watched { return &watched{changed: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
	return w.b.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func (w *watched) await(ctx context.Context, text string, ended <-chan struct{}) error {
	for {
		w.mu.Lock()
		found, changed := strings.Contains(w.b.String(), text), w.changed
		w.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			if strings.Contains(w.String(), text) {
				return nil
			}
			return fmt.Errorf("the command has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// project is the source that scenarios build. Times are fixed, so that archives of it are the same on all sides.
var project = map[string]string{
	"convox.yml":        racktest.SeedManifest,
	"Dockerfile":        "FROM scratch\nCOPY . /app\n",
	"public/index.html": "<h1>It works.</h1>\n",
}

func writeProject(t *testing.T, dir string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(project)) {
		writeFile(t, filepath.Join(dir, name), project[name])
	}
	setTimes(t, dir)
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// setTimes gives everything below a folder one time.
func setTimes(t *testing.T, dir string) {
	t.Helper()
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		t.Fatal(err)
	}
}
