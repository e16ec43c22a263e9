package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

// A short restart of the database drops the whole cache and fails no request: who asks meanwhile waits.
func TestARestartOfTheDatabaseFailsNobody(t *testing.T) {
	database := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	p := people{t, postgrestest.Open(t, database.OwnerURL())}
	ana := p.user("ana@acme.com", "viewer")
	var tokens []made
	for range 30 {
		tokens = append(tokens, p.token(CLI, ana, ""))
	}
	c := listening(t, postgrestest.Open(t, database.ProxyURL()), Options{MaxStaleness: 2 * time.Second})
	e := resolve(t, c, tokens[0].Token)
	ended, detach := attach(t, e)
	defer detach()

	asking := make(chan struct{})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := i; ; n++ {
				select {
				case <-asking:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				got, err := c.Resolve(ctx, tokens[n%len(tokens)].Token)
				if err == nil {
					err = got.Confirm(ctx)
				}
				cancel()
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
			}
		})
	}
	for _, end := range []func() error{database.Cluster.Stop, database.Cluster.Kill} {
		epoch := c.epoch.Load()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := database.Cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait(t, "the reset after the restart", func() bool { return c.epoch.Load() > epoch })
		wait(t, "proof of life", func() bool { return c.ProofAge() < time.Second })
	}
	close(asking)
	all.Wait()
	wait(t, "the check of the socket", e.Current)
	stays(t, ended)
	p.exec(`update rgw.users set locked_at = now() where id = $1`, ana)
	endOf(t, ended)
}

// A database that hangs, rather than refuses, ends neither requests nor the cache.
func TestADatabaseThatHangsIsUnavailable(t *testing.T) {
	database := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	p := people{t, postgrestest.Open(t, database.OwnerURL())}
	ana := p.user("ana@acme.com", "viewer")
	known, unknown := p.token(CLI, ana, ""), p.token(CLI, ana, "")
	hand := &clock{}
	c := listening(t, postgrestest.Open(t, database.ProxyURL()), Options{Now: hand.now, MaxStaleness: time.Minute})
	e := resolve(t, c, known.Token)
	if err := database.Cluster.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Resolve(ctx, unknown.Token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a token that is not in memory is answered with %v", err)
	}
	if got, err := c.Resolve(t.Context(), known.Token); err != nil || got != e {
		t.Errorf("a token in memory is answered with %v while proof is young", err)
	}
	hand.advance(2 * time.Minute)
	late, cancelLate := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancelLate()
	if _, err := c.Resolve(late, known.Token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a token in memory is answered with %v without proof", err)
	}
	if e.Current() {
		t.Error("an entry passes for current without proof")
	}
	waiting := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := c.Resolve(ctx, unknown.Token)
		waiting <- err
	}()
	if err := database.Cluster.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("a request that waited long enough failed: %v", err)
	}
}

func BenchmarkResolve(b *testing.B) {
	database := postgrestest.New(b)
	p := people{b, database.Owner(b)}
	for _, n := range []int{10, 20_000} {
		b.Run(fmt.Sprintf("%d tokens", n), func(b *testing.B) {
			var tokens []Token
			ana := p.user(fmt.Sprintf("ana%d@acme.com", n), "deployer", "ops@web-*")
			p.exec(`insert into rgw.tokens (kind, name, owner_id, expires_at, created_by)
				select 'cli', 'n', $1, now() + interval '1 day', 'test' from generate_series(1, $2)`, ana, n)
			var ids []string
			if err := p.db.Select(&ids, `select id from rgw.tokens where owner_id = $1`, ana); err != nil {
				b.Fatal(err)
			}
			feed := postgres.NewFeed(database.Proxy(b), []string{Channel}, postgres.FeedOptions{})
			c := NewCache(database.Proxy(b), feed, Options{})
			run(b, func(ctx context.Context) { _ = feed.Run(ctx) })
			run(b, func(ctx context.Context) { _ = c.Run(ctx) })
			if err := feed.Probe(b.Context()); err != nil {
				b.Fatal(err)
			}
			for _, id := range ids[:min(n, 2000)] {
				tokens = append(tokens, p.secretOf(id, CLI))
			}
			for _, token := range tokens {
				resolve(b, c, token)
			}
			b.Run("hit", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					ctx := context.Background()
					for i := 0; pb.Next(); i++ {
						if _, err := c.Resolve(ctx, tokens[i%len(tokens)]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
			b.Run("current", func(b *testing.B) {
				e := resolve(b, c, tokens[0])
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if !e.Current() {
							b.Error("not current")
							return
						}
					}
				})
			})
			b.Run("used", func(b *testing.B) {
				e, from := resolve(b, c, tokens[0]), addr("198.51.100.7")
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						c.Used(e.Principal.TokenID, from)
					}
				})
			})
			b.Run("miss", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						if _, err := c.load(context.Background(), tokens[i%len(tokens)].hash, CLI); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		})
	}
}

// BenchmarkRevocation measures from the commit of a revocation to its refusal by a cache in another process,
// which has its own LISTEN connection, and to the end of an open socket there.
func BenchmarkRevocation(b *testing.B) {
	database := postgrestest.NewCluster(b, cluster.Options{}) // with fsync
	p := people{b, postgrestest.Open(b, database.OwnerURL())}
	ana := p.user("ana@acme.com", "viewer")
	first := listening(b, postgrestest.Open(b, database.ProxyURL()), Options{})
	second := listening(b, postgrestest.Open(b, database.ProxyURL()), Options{})
	var toRefusal, toEnd []time.Duration
	for b.Loop() {
		token := p.token(CLI, ana, "")
		p.settle(second)
		resolve(b, first, token.Token)
		ended := make(chan time.Time, 1)
		detach, ok := resolve(b, second, token.Token).Attach(func(string) { ended <- time.Now() })
		if !ok {
			b.Fatal("not attached")
		}
		p.exec(`update rgw.tokens set revoked_at = now() where id = $1`, token.ID)
		committed := time.Now()
		for {
			if _, err := second.Resolve(b.Context(), token.Token); errors.Is(err, ErrRevoked) {
				break
			}
			time.Sleep(50 * time.Microsecond) // leaves the machine to the database
		}
		toRefusal = append(toRefusal, time.Since(committed))
		toEnd = append(toEnd, (<-ended).Sub(committed))
		detach()
	}
	for name, list := range map[string][]time.Duration{"refusal": toRefusal, "end": toEnd} {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(list[len(list)*99/100].Microseconds())/1000, name+"-p99-ms")
		b.ReportMetric(float64(list[len(list)-1].Microseconds())/1000, name+"-max-ms")
	}
}
