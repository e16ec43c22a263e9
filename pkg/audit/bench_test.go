package audit_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
)

// typicalEvent is what the proxy records of a read by a person at a command line.
func typicalEvent() *audit.Event {
	e := audit.NewEvent(time.Now())
	e.Decision, e.ActorKind = audit.DecisionAllow, audit.ActorUser
	e.ActorID, e.ActorLabel = "0a6c3c1e-6f5d-4a0e-9f43-0b4f2a1f7c55", "ana@acme.com"
	e.Action, e.App, e.Resource, e.Status = "process.list", "web", "web", 200
	e.Address = netip.MustParseAddr("10.20.30.40")
	in, out := int64(0), int64(2048)
	e.Detail = audit.Detail{
		Auth: "basic", Client: "cli", Method: "GET", Path: "/apps/web/processes", Op: "ProcessList", Permission: "convox:process:list",
		Rule: "role:deployer app:web-*", MFA: "not-enforced", MFALevel: "none", Token: "5d1b0e0c-3f4e-4a77-8a52-1b1f3f0a9be2",
		TokenName: "ana's laptop", BytesIn: &in, BytesOut: &out, Duration: 3812, UserAgent: "convox/3.19.4",
	}
	return e
}

// BenchmarkWriter shows what an event costs by how many wait at once. It has a server of its own that
// syncs to disk. PG-µs is PostgreSQL's processor time for each event, Go-µs this process's.
func BenchmarkWriter(b *testing.B) {
	db := postgrestest.NewCluster(b, cluster.Options{})
	pool := db.Proxy(b)
	for _, waiters := range []int{1, 8, 32, 64, 256} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			var batches int
			w := audit.NewWriter(pool, audit.WriterOptions{Key: testKey(b), Observer: audit.Observer{
				Committed: func(int, int, time.Duration) { batches++ },
			}})
			ctx := context.Background()
			go func() { _ = w.Run(ctx) }()
			if err := w.Record(ctx, typicalEvent()); err != nil {
				b.Fatal(err)
			}
			server, process := serverCPU(b, db.Cluster), processCPU(b)
			batches = 0
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for i := range waiters {
				all.Go(func() {
					for j := i; j < b.N; j += waiters {
						if err := w.Record(ctx, typicalEvent()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			n := float64(b.N)
			b.ReportMetric(float64((serverCPU(b, db.Cluster)-server).Microseconds())/n, "PG-µs/op")
			b.ReportMetric(float64((processCPU(b)-process).Microseconds())/n, "Go-µs/op")
			b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
			if err := w.Close(ctx); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(n/float64(max(batches-1, 1)), "events/batch")
		})
	}
	var bytes, rows float64
	if err := db.Owner(b).QueryRow(`
		select sum(pg_total_relation_size(c.oid)), (select count(*) from rgw.audit_events)
		from pg_inherits join pg_class c on c.oid = inhrelid where inhparent = 'rgw.audit_events'::regclass`).Scan(&bytes, &rows); err != nil {
		b.Fatal(err)
	}
	b.Logf("%.0f bytes a row with indexes, over %.0f rows", bytes/rows, rows)
}

func serverCPU(b *testing.B, c *cluster.Cluster) time.Duration {
	b.Helper()
	used, err := c.CPUTime()
	if err != nil {
		b.Fatal(err)
	}
	return used
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
