package faults

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

// restarted is what a session is told when its proxy is.
const restarted = "the gateway is being restarted: run the command again"

// Two proxies behind a balancer are restarted one after the other, as a deployment does: no request fails, sessions end
// with a message and the exit code 1 after the drain time and not before, and everything is in the log.
func TestARollingRestartFailsNoRequest(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: 2, Config: map[string]string{"DRAIN_TIMEOUT": "12s"}})
	random, books := chance(t), newBooks(env)
	front := newBalancer(t, env, &env.Proxies[0].Server, &env.Proxies[1].Server)
	eventually(t, "both proxies were ready", func() bool { return front.backends[0].ready.Load() && front.backends[1].ready.Load() })
	token := env.Token("admin")
	pid, err := env.Rack.AwaitProcess(t.Context(), "demo", "web")
	must(t, err)

	l := books.put(t, loadOptions{callers: 16, addresses: []func() string{front.address}, tokens: []string{token}, fresh: true})
	var ended, failed atomic.Int64
	var people sync.WaitGroup
	ctx, home := context.WithCancel(t.Context())
	defer home()
	for i := range 6 {
		number := loads.Add(1)
		people.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				s, err := books.openSession(t.Context(), "http://"+front.address(), token, pid, fmt.Sprintf("k%d-%d-%d", number, i, n))
				if err != nil {
					failed.Add(1)
					t.Errorf("a session could not be opened: %v", err)
					return
				}
				if stop := s.use(ctx); stop != nil {
					stop(t)
					s.close()
					continue
				}
				if err := s.endedBy(t.Context(), restarted); err != nil {
					failed.Add(1)
					t.Error(err)
				}
				ended.Add(1)
				s.close()
			}
		})
	}
	restarts := 0
	for range pick(1, 15) {
		for i, p := range env.Proxies {
			l.goesOn(t, 50)
			moment(t.Context(), random, 0, 300*time.Millisecond)
			p.Restart()
			restarts++
			eventually(t, "the balancer saw the proxy again", front.backends[i].ready.Load)
		}
	}
	l.goesOn(t, 50)
	l.liftUnharmed(t, "a rolling restart")
	home()
	people.Wait()
	t.Logf("restarts %d, sessions ended with their message %d, failed %d, connections refused %d", restarts, ended.Load(), failed.Load(), front.refused.Load())
	if ended.Load() == 0 {
		t.Error("no session was ended by a restart")
	}
	books.close(t, allowance{})
}

// use talks in a session until the gateway ends it or the context does. In the second case it returns how a person
// ends the session.
func (s *session) use(ctx context.Context) func(*testing.T) {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.ended:
			return nil
		case <-ctx.Done():
			return s.finish
		case <-every.C:
			// An end in between is told by the next round.
			if err := s.echo(ctx, fmt.Sprintf("line %d", i)); err != nil && ctx.Err() != nil {
				return s.finish
			}
		}
	}
}

// What is still under way when the drain time is over is cut off, and its record says so.
func TestWhatOutlastsTheDrainIsRecorded(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Config: map[string]string{"DRAIN_TIMEOUT": "500ms"}})
	books, number := newBooks(env), loads.Add(1)
	armed := env.Rack.Inject(racktest.Fault{Path: fmt.Sprintf("/apps/*k%d-*", number), Hang: true})
	var asking sync.WaitGroup
	for i, s := range everything {
		asking.Go(func() {
			c := &caller{address: at(env.Proxies[0]), token: env.Token("admin"), once: true}
			e := c.ask(t.Context(), s, fmt.Sprintf("k%d-0-%d", number, i))
			books.note(e)
			if e.fromRack() {
				t.Errorf("%s was answered by a rack that hangs: %s", s.name, e.told())
			}
		})
	}
	must(t, armed.AwaitHit(t.Context(), len(everything)))
	if code := env.Proxies[0].Stop(); code != 0 {
		t.Errorf("the proxy stopped with code %d", code)
	}
	asking.Wait()
	for i, s := range everything {
		key := fmt.Sprintf("k%d-0-%d", number, i)
		if n := count(t, env, `select count(*) from rgw.audit_events where phase = 'finished' and detail->>'path' like '%' || $1`, key); n != 1 {
			t.Errorf("%s has %d records of its outcome", s.name, n)
		}
	}
	books.close(t, allowance{})
}
