package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

// rackFault is one way for a rack to fail.
type rackFault struct {
	name  string
	fault racktest.Fault
	// statuses are what a client may see: 502 where the rack failed, 504 where it took too long.
	statuses []int
	// cut is for an answer that breaks off when its beginning has gone out: the client's connection is cut.
	cut bool
}

var rackFaults = []rackFault{
	{name: "hangs up without an answer", fault: racktest.Fault{Drop: true}, statuses: []int{502}},
	{name: "resets the connection", fault: racktest.Fault{Drop: true, Reset: true}, statuses: []int{502}},
	{name: "does it and loses the answer", fault: racktest.Fault{Lose: true, Cut: true}, statuses: []int{502}},
	{name: "answers with no HTTP", fault: racktest.Fault{Raw: "SSH-2.0-OpenSSH_9.2\r\n"}, statuses: []int{502}},
	{name: "answers with two lengths", fault: racktest.Fault{Raw: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}\n"}, statuses: []int{502}},
	{name: "breaks off in its headers", fault: racktest.Fault{Raw: "HTTP/1.1 200 OK\r\nContent-Ty"}, statuses: []int{502}},
	{name: "breaks off in mid-body", fault: racktest.Fault{ContentLength: new(int64(200)), Body: `{"name":"half of it`}, statuses: []int{200}, cut: true},
	{name: "refuses the password", fault: racktest.Fault{Status: 401, Body: `{"error":"invalid authentication"}`}, statuses: []int{502}},
}

// Whatever the rack does, the client gets a sentence with 502 or 504, the record says how it ended, and a write is
// sent once.
func TestTheRackFails(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{})
	random, books := chance(t), newBooks(env)
	here := at(env.Proxies[0])
	tokens := []string{env.Token("admin")}
	number := loads.Add(1)
	asked := 0
	// ask sends each shape once and checks what came of it.
	ask := func(fault rackFault) {
		t.Helper()
		for _, s := range everything {
			c := &caller{address: here, token: tokens[0], once: true}
			e := c.ask(t.Context(), s, fmt.Sprintf("k%d-0-%d", number, asked))
			asked++
			books.note(e)
			switch {
			case fault.cut && (e.err != nil || s.method == http.MethodHead):
			case e.err != nil:
				t.Errorf("a rack that %s: %s %s got no answer: %v", fault.name, e.key, s.name, e.err)
			case !slices.Contains(fault.statuses, e.status):
				t.Errorf("a rack that %s: %s %s came to %s", fault.name, e.key, s.name, e.told())
			case e.fromRack() || s.method == http.MethodHead:
			case !sentence(e.says):
				t.Errorf("a rack that %s: %s %s is told %q", fault.name, e.key, s.name, e.says)
			case s.write && !s.late && !strings.Contains(e.says, "check before you repeat it") && e.code != "rack-password":
				t.Errorf("a rack that %s: %s %s is not told that it may have been done: %q", fault.name, e.key, s.name, e.says)
			}
		}
	}
	for range pick(1, 20) {
		for _, fault := range rackFaults {
			for range 2 { // over connections that served before, and over those that follow the fault
				fault.fault.Path = "/apps/*" + fmt.Sprintf("k%d-0-*", number)
				armed := env.Rack.Inject(fault.fault)
				ask(fault)
				armed.Clear()
				if armed.Hits() == 0 {
					t.Errorf("a rack that %s: nothing reached it", fault.name)
				}
			}
			ask(rackFault{name: "is well", statuses: []int{200, 404}})
		}
	}

	// Garbage that was to be masked is not passed on, short or long.
	for i, size := range []int{200, 200_000} {
		key := fmt.Sprintf("k%d-2-%d", number, i)
		env.Rack.Inject(racktest.Fault{Path: "/apps/*" + key, Garbage: size})
		c := &caller{address: here, token: env.Token("deployer"), once: true}
		e := c.ask(t.Context(), aRead, key)
		books.note(e)
		if e.status != http.StatusBadGateway || !sentence(e.says) {
			t.Errorf("%d bytes of garbage in the place of secrets came to %s", size, e.told())
		}
	}

	// An upload that the rack breaks off is the rack's failure, and none of the client's.
	for i, fault := range []racktest.Fault{{Drop: true}, {Drop: true, Reset: true}, {Drop: true, Delay: 50 * time.Millisecond}} {
		fault.Path = fmt.Sprintf("/apps/*k%d-1-%d", number, i)
		env.Rack.Inject(fault)
		c := &caller{address: here, token: tokens[0], once: true}
		large := &shape{name: "large upload", method: "POST", path: "/apps/demo/objects/KEY", stream: strings.Repeat("x", 32<<20), write: true}
		e := c.ask(t.Context(), large, fmt.Sprintf("k%d-1-%d", number, i))
		books.note(e)
		if e.status != http.StatusBadGateway {
			t.Errorf("an upload that the rack broke off came to %s", e.told())
		}
	}

	// A rack that cannot be reached, in three ways, and comes back: under load, with writes among it.
	for range pick(1, 20) {
		l := books.put(t, loadOptions{callers: 8, addresses: []func() string{here}, tokens: tokens})
		l.goesOn(t, 30)
		must(t, env.RackServer.Refuse())
		refusals(t, l, "refuses connections", 20, 502)
		must(t, env.RackServer.Accept())
		l.goesOn(t, 30)

		// Another certificate: nothing may be sent to whoever shows it.
		must(t, env.RackServer.Refuse())
		impostor, err := env.Rack.Start(racktest.ServeOptions{TLS: true, Addr: env.RackServer.Addr()})
		must(t, err)
		before := env.Rack.RequestCount()
		refusals(t, l, "shows another certificate", 20, 502)
		if n := env.Rack.RequestCount() - before; n != 0 {
			t.Errorf("%d requests were sent to a rack with another certificate", n)
		}
		must(t, impostor.Refuse())
		must(t, env.RackServer.Accept())
		l.goesOn(t, 30)

		for range pick(5, 10) { // connections are dropped at any moment of a request
			moment(t.Context(), random, 0, 100*time.Millisecond)
			must(t, env.RackServer.Restart())
		}
		l.goesOn(t, 30)
		others := l.lift()
		for _, e := range others {
			if e.err == nil && e.status != http.StatusBadGateway || e.err != nil && !e.mayBreak() {
				t.Errorf("a rack that comes and goes: %s %s came to %s", e.key, e.shape.name, e.told())
			}
		}
		t.Logf("a rack that comes and goes: %d requests served, %d refused with 502 or cut", l.served.Load(), len(others))
	}
	books.close(t, allowance{})
}

// mayBreak is whether a request whose answer broke off is of a shape whose answer goes out while the rack still sends.
func (e *entry) mayBreak() bool { return e.status == 0 && strings.Contains(e.err.Error(), "broke off") }

// refusals waits until n more requests were refused with a status.
func refusals(t *testing.T, l *load, what string, n, status int) {
	t.Helper()
	count := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, e := range l.others {
			if e.status == status {
				n++
			}
		}
		return n
	}
	from := count()
	eventually(t, "requests to a rack that "+what+" were refused", func() bool { return count() >= from+n })
}

// A rack that takes connections and says nothing is given up on, and a rack that was asked and does not answer is
// waited for, for as long as the client waits.
func TestTheRackHangs(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{})
	books := newBooks(env)
	here, token, number := at(env.Proxies[0]), env.Token("admin"), loads.Add(1)

	// Asked, and silent: clients hang up, and each record says so.
	armed := env.Rack.Inject(racktest.Fault{Path: fmt.Sprintf("/apps/*k%d-1-*", number), Hang: true})
	var waiting []chan *entry
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	for i, s := range everything {
		done := make(chan *entry, 1)
		waiting = append(waiting, done)
		go func() {
			c := &caller{address: here, token: token, once: true}
			if err := c.connect(ctx); err != nil {
				done <- &entry{err: err}
				return
			}
			stop := context.AfterFunc(ctx, c.abandon)
			defer stop()
			done <- c.ask(ctx, s, fmt.Sprintf("k%d-1-%d", number, i))
		}()
	}
	must(t, armed.AwaitHit(t.Context(), len(everything)))
	hangUp()
	for _, done := range waiting {
		e := <-done
		if e.err == nil {
			t.Errorf("%s %s was answered by a rack that hangs: %s", e.key, e.shape.name, e.told())
		}
		books.note(e)
	}
	for i, s := range everything {
		key := fmt.Sprintf("k%d-1-%d", number, i)
		eventually(t, "the record of "+s.name+" said that the client hung up", func() bool {
			return count(t, env, `select count(*) from rgw.audit_events where phase = 'finished' and status = 499 and detail->>'path' like '%' || $1`, key) == 1
		})
	}
	armed.Clear()

	// Nothing but an open port: the handshake is given up on after ten seconds.
	must(t, env.RackServer.Refuse())
	mute, err := net.Listen("tcp", env.RackServer.Addr())
	must(t, err)
	var wait []chan *entry
	for i, s := range []*shape{aRead, aWrite} {
		done := make(chan *entry, 1)
		wait = append(wait, done)
		go func() {
			c := &caller{address: here, token: token, once: true}
			done <- c.ask(t.Context(), s, fmt.Sprintf("k%d-2-%d", number, i))
		}()
	}
	for _, done := range wait {
		e := <-done
		books.note(e)
		if e.status != http.StatusGatewayTimeout || !sentence(e.says) {
			t.Errorf("%s through a rack that only takes connections came to %s", e.shape.name, e.told())
		}
	}
	must(t, mute.Close())
	must(t, env.RackServer.Accept())
	l := books.put(t, loadOptions{callers: 4, addresses: []func() string{here}, tokens: []string{token}})
	l.goesOn(t, 20)
	l.liftUnharmed(t, "a rack that hung and is back")
	books.close(t, allowance{})
}

// abandon hangs up under a request.
func (c *caller) abandon() {
	if conn := c.conn; conn != nil {
		_ = conn.Close()
	}
}

// sentence is whether a text is one that a person can act on, and that the CLI prints as it stands.
func sentence(text string) bool {
	return len(text) > 40 && !strings.Contains(text, "%") && strings.Contains(text, ": ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

// count runs a query that counts.
func count(t *testing.T, env *testenv.Env, query string, args ...any) int {
	t.Helper()
	var n int
	must(t, env.DB.GetContext(t.Context(), &n, query, args...))
	return n
}
