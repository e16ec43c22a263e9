package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

// heard is what a feed has delivered.
type heard struct {
	mu    sync.Mutex
	what  []string
	count atomic.Int64 // of resets
}

func (h *heard) add(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.what = append(h.what, s)
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.what)
}

// listen runs a feed until the test ends.
func listen(t *testing.T, url postgres.URL, opts postgres.FeedOptions) (*postgres.Feed, *heard) {
	t.Helper()
	feed, h := postgres.NewFeed(postgrestest.Open(t, url), []string{"rgw_access", "rgw_audit"}, opts), &heard{}
	feed.Subscribe("rgw_access", func(payload string) { h.add("access " + payload) })
	feed.Subscribe("rgw_audit", func(payload string) { h.add("audit " + payload) })
	feed.OnReset(func() { h.count.Add(1) })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = feed.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return feed, h
}

func TestAFeedDeliversInOrderAndProvesThatItLives(t *testing.T) {
	db := postgrestest.New(t)
	feed, h := listen(t, db.ProxyURL(), postgres.FeedOptions{Every: 20 * time.Millisecond})
	if err := feed.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.count.Load() != 1 {
		t.Errorf("%d resets for the first connection, want 1", h.count.Load())
	}
	owner := db.Owner(t)
	var want []string
	for i := range 50 {
		owner.MustExec(`select pg_notify('rgw_access', $1)`, fmt.Sprint(i))
		want = append(want, fmt.Sprintf("access %d", i))
	}
	owner.MustExec(`notify rgw_audit; notify rgw_other, 'not for us'`)
	want = append(want, "audit ")
	// The proof's meaning: what was committed before it was sent has been handled when it is back.
	committed := time.Now()
	eventually(t, "a proof that was sent after the changes", func() bool { return feed.ProofAge() < time.Since(committed) })
	if got := h.all(); !slices.Equal(got, want) {
		t.Errorf("with that proof, this was handled: %q, want %q", got, want)
	}
	if !feed.Connected() {
		t.Error("it says that it is not connected")
	}
}

func TestAFeedWhoseConnectionIsCutSaysThatItMayHaveMissedSomething(t *testing.T) {
	db := postgrestest.New(t)
	feed, h := listen(t, db.ProxyURL(), postgres.FeedOptions{Every: 20 * time.Millisecond})
	if err := feed.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	super := postgrestest.Open(t, db.SuperuserURL())
	for i := range int64(3) {
		super.MustExec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ilike 'listen%'`)
		eventually(t, "the connection is made anew", func() bool { return h.count.Load() == i+2 && feed.Connected() })
	}
	super.MustExec(`notify rgw_access, 'after'`)
	eventually(t, "what comes afterwards is heard", func() bool { return slices.Contains(h.all(), "access after") })
}

func TestTheProofAgesWhileTheServerHangs(t *testing.T) {
	db := postgrestest.NewCluster(t, cluster.Options{NoFSync: true})
	feed, h := listen(t, db.ProxyURL(), postgres.FeedOptions{Every: 20 * time.Millisecond, Silence: 400 * time.Millisecond})
	if feed.ProofAge() < time.Hour && h.count.Load() == 0 {
		t.Error("there is a proof before there is a connection")
	}
	if err := feed.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Cluster.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proof is old and the connection given up", func() bool { return feed.ProofAge() > time.Second && !feed.Connected() })
	resets := h.count.Load()
	if err := db.Cluster.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proof is young again", func() bool { return feed.ProofAge() < 300*time.Millisecond })
	if h.count.Load() == resets {
		t.Error("a new connection without a reset")
	}
	if err := db.Cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	if err := db.Cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it lives again", func() bool { return feed.Connected() && feed.ProofAge() < 300*time.Millisecond })
}

// A pooler in transaction mode runs LISTEN on whichever connection is free, says that it did, and
// delivers nothing. So does this one.
func TestAPoolerThatSwallowsListenIsFoundOut(t *testing.T) {
	db := postgrestest.New(t)
	pooler := swallow(t, fmt.Sprintf("127.0.0.1:%d", db.Cluster.Port()))
	through, err := url.Parse(string(db.ProxyURL()))
	if err != nil {
		t.Fatal(err)
	}
	through.Host = pooler
	feed, _ := listen(t, postgres.URL(through.String()), postgres.FeedOptions{})
	err = feed.Probe(t.Context())
	if err == nil || !strings.Contains(err.Error(), "pooler") {
		t.Errorf("got %v, want to be told of a pooler", err)
	}
	if feed.ProofAge() < time.Hour {
		t.Error("it claims a proof")
	}
}

func TestAProbeEndsWithItsContextAndSaysWhy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	feed, _ := listen(t, postgres.URL("postgres://x:y@"+nobody+"/rgw?sslmode=disable"), postgres.FeedOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := feed.Probe(ctx); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want why it did not come about", err)
	}
}

// swallow passes the protocol on, but for LISTEN, in whose place the server is asked something harmless.
func swallow(t *testing.T, server string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				up, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer up.Close()
				go func() {
					_, _ = io.Copy(client, up)
					_ = client.Close()
				}()
				head := make([]byte, 4) // the start-up message has no type
				for kind := []byte(nil); ; kind = make([]byte, 1) {
					if _, err := io.ReadFull(client, kind); err != nil {
						return
					}
					if _, err := io.ReadFull(client, head); err != nil {
						return
					}
					body := make([]byte, binary.BigEndian.Uint32(head)-4)
					if _, err := io.ReadFull(client, body); err != nil {
						return
					}
					if string(kind) == "Q" && bytes.HasPrefix(body, []byte("LISTEN")) {
						copy(body, append(bytes.Repeat([]byte(" "), len(body)-1), 0))
						copy(body, "set a.b = 1")
					}
					if _, err := up.Write(slices.Concat(kind, head, body)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
