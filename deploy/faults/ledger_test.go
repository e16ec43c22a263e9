package faults

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/testenv"
	"rackgateway/pkg/testenv/s3server"
)

// storage is a real S3 server with Object Lock, and a gate before it that something can happen at.
type storage struct {
	*ledger.Bucket

	config map[string]string // of an admin that copies the ledger there

	puts atomic.Int64                                  // steps of the copy so far: puts, and looks at what was put
	at   atomic.Pointer[func(step int64, before bool)] // called around each step
}

const chainID = "ledger"

var nothing = func(int64, bool) {} // happens at a step

// newStorage starts one, to which an admin copies in intervals of that many minutes. It ends with the test.
func newStorage(t *testing.T, interval string) *storage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program, err := s3server.Build(ctx)
	must(t, err)
	dir, err := os.MkdirTemp("", "rgw-s3-") //nolint:usetesting // what is locked there cannot be removed by the end of the test
	must(t, err)
	server, err := s3server.Start(ctx, program, dir, 0, "", "")
	must(t, err)
	t.Cleanup(func() { _ = server.Close(); _ = os.RemoveAll(dir) })
	must(t, server.EnsureBucket(ctx, "audit"))
	to, err := url.Parse(server.Endpoint)
	must(t, err)
	s := &storage{Bucket: ledger.NewBucket(server.Client(), ledger.BucketConfig{Bucket: "audit", Chain: chainID, Mode: "COMPLIANCE"})}
	s.at.Store(&nothing)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // which the signature is over
	}}
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		happen := s.at.Load()
		if r.Method != http.MethodPut && r.Method != http.MethodHead || r.URL.Query().Has("retention") {
			pass.ServeHTTP(w, r)
			return
		}
		step := s.puts.Add(1)
		if r.Method == http.MethodHead && path.Base(r.URL.Path) == "checkpoint" {
			s.puts.Store(0) // which ends a copy
		}
		(*happen)(step, true)
		answer := httptest.NewRecorder() // nobody is told before what happens after it has
		pass.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
		(*happen)(step, false)
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(gate.Close)
	s.config = server.Environ()
	maps.Copy(s.config, map[string]string{
		"AWS_ENDPOINT_URL_S3": gate.URL, "AUDIT_ANCHOR_BUCKET": "audit", "AUDIT_ANCHOR_CHAIN_ID": chainID, "AUDIT_ANCHOR_PATH_STYLE": "true", "AUDIT_ANCHOR_INTERVAL_MINUTES": interval,
	})
	return s
}

// verified holds the ledger of an environment, and its copy, to what is recorded: all of it has its place, all of it fits,
// and no alert says otherwise. That a process which was killed did not say so is told, and is true.
func verified(t *testing.T, env *testenv.Env, s *storage) *ledger.Report {
	t.Helper()
	eventually(t, "every event had its place", func() bool {
		return count(t, env, `select (select count(*) from rgw.audit_events) - (select count(*) from rgw.ledger_leaves)`) == 0
	})
	key, err := audit.NewKey([]byte(env.MACKey()))
	must(t, err)
	report, err := ledger.VerifyDatabase(t.Context(), env.DB, ledger.VerifyOptions{MACKeys: []audit.Key{key}})
	must(t, err)
	if !report.Sound() {
		t.Errorf("the ledger does not verify: %s", report)
	}
	keys, err := ledger.PublicKeys(t.Context(), env.DB)
	must(t, err)
	if s != nil {
		copied, err := ledger.VerifySource(t.Context(), s, ledger.SourceOptions{VerifyOptions: ledger.VerifyOptions{Keys: keys}, DB: env.DB})
		must(t, err)
		if !copied.Sound() || copied.Events == 0 {
			t.Errorf("the bucket does not verify: %s", copied)
		}
		t.Logf("in the bucket %d objects, %d events under %d checkpoints", copied.Objects, copied.Events, copied.Checkpoints)
	}
	var alerts []string
	must(t, env.DB.SelectContext(t.Context(), &alerts, `select resource || ': ' || detail::text from rgw.audit_events where action = 'ledger.alert' and resource not in ('writer-silent', 'changed-outside')`))
	for _, alert := range alerts {
		t.Errorf("a false alarm: %s", alert)
	}
	t.Logf("verified: %d events in %d leaves under %d checkpoints; %d notes of killed writers", report.Events, report.Size, report.Checkpoints,
		count(t, env, `select count(*) from rgw.audit_events where action = 'ledger.alert' and resource = 'writer-silent'`))
	return report
}

// An admin that is killed at any step of copying the ledger, before storage took it or after, leaves a bucket that
// verifies, and goes on where it was.
func TestAnAdminKilledAtAnyStepOfCopyingGoesOn(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: 1})
	s := newStorage(t, "60") // no copy but those asked for
	admin := env.AddAdminWith(s.config)
	admin.WaitReady(t.Context())
	// copyMore has more copied than was, and returns when it is, or when that was cut.
	copyMore := func(cut <-chan struct{}) (done bool) {
		for range 5 {
			if got := env.Do("viewer", http.MethodGet, "/apps", nil); got.Status != http.StatusOK {
				t.Fatalf("%d %s", got.Status, got.Body)
			}
		}
		size := 0
		eventually(t, "every event had its place", func() bool {
			size = count(t, env, `select count(*) from rgw.ledger_leaves`)
			return size == count(t, env, `select count(*) from rgw.audit_events`)
		})
		if got := admin.Do("admin", http.MethodPost, "/api/v1/audit/anchors", nil); got.Status != http.StatusAccepted {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
		eventually(t, "it was copied, or cut", func() bool {
			select {
			case <-cut:
				return true
			default:
			}
			done = count(t, env, `select coalesce(max(size), 0) from rgw.ledger_anchors where whole`) >= size
			return done
		})
		return done
	}
	copyMore(nil)
	kills := 0
	for round := int64(0); ; round++ {
		step, before := round/2+1, round%2 == 0
		if !long { // every step, each at one of its sides
			step = round + 1
		}
		killed := make(chan struct{})
		var once atomic.Bool
		happen := func(at int64, early bool) {
			if at == step && early == before && once.CompareAndSwap(false, true) {
				admin.Kill()
				close(killed)
			}
		}
		s.at.Store(&happen)
		done := copyMore(killed)
		s.at.Store(&nothing)
		if done { // a copy has no more steps than that
			break
		}
		kills++
		s.puts.Store(0)
		admin.Start()
		admin.WaitReady(t.Context())
		copyMore(nil)
	}
	// Put and looked at: a bundle, its hashes, the checkpoint under its own name and under that of the newest.
	if least := pick(8, 16); kills < least {
		t.Errorf("only %d steps were found to kill it at, and a copy has %d", kills, least)
	}
	t.Logf("admins killed in mid-copy: %d", kills)
	verified(t, env, s)
}

// Three proxies under load, two admins, a bucket, and kills of all of them at random: the ledger verifies, and nothing that
// honest processes did is taken for tampering. The long form makes a million events.
func TestNoHonestEventIsTakenForTampering(t *testing.T) {
	t.Parallel()
	events := pick(15_000, 1_000_000)
	if text := os.Getenv("FAULTS_EVENTS"); text != "" {
		_, err := fmt.Sscan(text, &events)
		must(t, err)
	}
	env := start(t, testenv.Options{Proxies: 3})
	s, random, books := newStorage(t, "1"), chance(t), newBooks(env)
	for range 2 {
		env.AddAdminWith(s.config).WaitReady(t.Context())
	}
	var addresses []func() string
	for _, p := range env.Proxies {
		addresses = append(addresses, at(p))
	}
	var tokens []string
	for i := range 4 { // no more than one principal may have in flight
		tokens = append(tokens, env.AddUser(fmt.Sprintf("load%d", i), "admin"))
	}
	l := books.put(t, loadOptions{callers: pick(24, 96), addresses: addresses, tokens: tokens, every: pick(5*time.Millisecond, time.Millisecond)})
	recorded := func() int { return count(t, env, `select count(*) from rgw.ledger_leaves`) }
	var killed [2]int
	began := time.Now()
	for recorded() < events {
		l.goesOn(t, int64(pick(300, 5000)))
		moment(t.Context(), random, 0, 500*time.Millisecond)
		if random.IntN(2) == 0 {
			p := env.Proxies[random.IntN(len(env.Proxies))]
			p.Kill()
			p.Start()
			p.WaitReady(t.Context())
			killed[0]++
		} else {
			a := env.Admins[random.IntN(len(env.Admins))]
			a.Kill()
			a.Start()
			a.WaitReady(t.Context())
			killed[1]++
		}
	}
	l.lift()
	t.Logf("%d proxies and %d admins killed, %d events in %s", killed[0], killed[1], recorded(), time.Since(began).Round(time.Second))
	if killed[0] == 0 || killed[1] == 0 {
		t.Error("too few were killed for the test to show anything")
	}
	books.close(t, allowance{killed: true})
	eventually(t, "all was copied", func() bool {
		if got := env.Admins[0].Do("admin", http.MethodPost, "/api/v1/audit/anchors", nil); got.Status != http.StatusAccepted {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
		return count(t, env, `select coalesce(max(size), 0) from rgw.ledger_anchors where whole`) >= events
	})
	report := verified(t, env, s)
	if report.Events < int64(events) {
		t.Errorf("%d events, want %d", report.Events, events)
	}
	var twice []uuid.UUID
	must(t, env.DB.SelectContext(t.Context(), &twice, `select event_id from rgw.ledger_leaves group by event_id having count(*) > 1`))
	if len(twice) > 0 {
		t.Errorf("%d events have two places", len(twice))
	}
}
