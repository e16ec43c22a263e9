//go:build linux

package main

import (
	"fmt"
	"time"

	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/testenv"
)

// Loads, as the gateway's clients make them.

// reading is the read that is measured: the list of apps, 2 KB. A viewer's is masked on the way.
func (b *bench) reading(tokens []string, connections int) Job {
	return Job{
		Kind: "requests", Method: "GET", Path: "/apps?", Tokens: tokens, Connections: connections,
		Warm: pick(b, time.Second, 300*time.Millisecond), Measure: pick(b, 4*time.Second, time.Second),
	}
}

// writing is the write that is measured: a promotion, whose form the gateway reads before it decides, and which has
// a durable event before the rack is asked and another before the answer leaves.
func (b *bench) writing(tokens []string, connections int) Job {
	job := b.reading(tokens, connections)
	job.Method, job.Path, job.Type, job.Body = "POST", "/apps/demo/releases/RABCDEFGHI/promote?", "application/x-www-form-urlencoded", "force=false"
	return job
}

// subject is one of those that are measured side by side.
type subject struct {
	name   string
	addrs  []string
	tokens []string // none for one that asks nobody who they are
	pids   []int    // whose CPU time counts
	server *cluster.Cluster
}

func (b *bench) bareSubject() subject {
	return subject{name: "bare", addrs: []string{b.bare.addr}, pids: []int{b.bare.pid()}}
}

func gatewaySubject(env *testenv.Env, tokens []string) subject {
	s := subject{name: "gateway", tokens: tokens, server: env.Postgres}
	for _, p := range env.Proxies {
		s.addrs, s.pids = append(s.addrs, address(p)), append(s.pids, p.PID())
	}
	return s
}

// loadOn runs a job on a subject, and says what CPU time the subject and the database's server took for it.
func (b *bench) loadOn(s subject, job Job) (result Result, cpu, serverCPU time.Duration) {
	job.Addrs, job.Tokens = s.addrs, s.tokens
	before, serverBefore := b.cpu(s)
	result = b.run(job)
	after, serverAfter := b.cpu(s)
	return result, after - before, serverAfter - serverBefore
}

func (b *bench) cpu(s subject) (own, server time.Duration) {
	for _, pid := range s.pids {
		used, err := cpuOf(pid)
		b.must(err)
		own += used
	}
	if s.server != nil {
		var err error
		server, err = cpuOfServer(s.server)
		b.must(err)
	}
	return own, server
}

// figures are what came of one subject's rounds.
type figures struct {
	rate, p50, p99 sample // requests/s; milliseconds
	cpu, serverCPU sample // microseconds per request
}

// rounds runs a job on each subject in turn, several times; the order turns round from one round to the next.
func (b *bench) rounds(n int, job Job, subjects ...subject) map[string]*figures {
	all := make(map[string]*figures)
	for _, s := range subjects {
		all[s.name] = new(figures)
	}
	for round := range n {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			result, cpu, serverCPU := b.loadOn(s, job)
			f := all[s.name]
			f.rate = append(f.rate, result.PerSecond())
			f.p50, f.p99 = append(f.p50, result.P50), append(f.p99, result.P99)
			f.cpu = append(f.cpu, float64(cpu.Microseconds())/float64(result.Total))
			f.serverCPU = append(f.serverCPU, float64(serverCPU.Microseconds())/float64(result.Total))
		}
	}
	return all
}

// ratios divides round by round.
func ratios(of, by sample) sample {
	out := make(sample, len(of))
	for i := range of {
		out[i] = of[i] / by[i]
	}
	return out
}

// differences subtracts round by round.
func differences(of, less sample) sample {
	out := make(sample, len(of))
	for i := range of {
		out[i] = of[i] - less[i]
	}
	return out
}

func (b *bench) compared(name string, f map[string]*figures, must, aim bar) {
	r := ratios(f["gateway"].rate, f["bare"].rate)
	b.report.add(name+", against bare", r.median(), "×", must, aim, r.spread())
	for _, who := range []string{"bare", "gateway"} {
		b.report.tell(fmt.Sprintf("%s: %s", name, who), f[who].rate.median(), "requests/s",
			fmt.Sprintf("%s; p50 %v ms, p99 %v ms; CPU %v µs (+ %v PostgreSQL)", f[who].rate.spread(), round(f[who].p50.median()), round(f[who].p99.median()),
				round(f[who].cpu.median()), round(f[who].serverCPU.median())))
	}
}

// throughput measures reads and writes at 32 and 256 connections, and the CPU time of a read.
func (b *bench) throughput() {
	n := pick(b, 5, 3)
	bare, readers, writers := b.bareSubject(), gatewaySubject(b.env, b.readers), gatewaySubject(b.env, b.writers)
	reads32 := b.rounds(n, b.reading(nil, 32), bare, readers)
	b.compared("reads at 32", reads32, atLeast(0.60), atLeast(0.80))
	b.compared("reads at 256", b.rounds(n, b.reading(nil, 256), bare, readers), atLeast(0.75), atLeast(1))
	b.compared("writes at 32", b.rounds(n, b.writing(nil, 32), bare, writers), atLeast(0.35), atLeast(0.55))
	b.compared("writes at 256", b.rounds(n, b.writing(nil, 256), bare, writers), atLeast(0.70), atLeast(0.90))
	own, server := reads32["gateway"].cpu, reads32["gateway"].serverCPU
	b.report.add("CPU per read at 32: proxy", own.median(), "µs", atMost(85), atMost(55), own.spread())
	b.report.add("CPU per read at 32: PostgreSQL", server.median(), "µs", atMost(25), atMost(10), server.spread())

	administrator := gatewaySubject(b.env, []string{b.env.Token("admin")})
	unmasked := b.rounds(pick(b, 3, 1), b.reading(nil, 32), bare, administrator)
	r := ratios(unmasked["gateway"].rate, unmasked["bare"].rate)
	b.report.tell("reads at 32 that need no masking, against bare", r.median(), "×",
		fmt.Sprintf("%s; CPU %v µs", r.spread(), round(unmasked["gateway"].cpu.median())))

	b.nginx()
}

// latency measures what the gateway adds at a rate that leaves the machine mostly idle.
func (b *bench) latency() {
	job := b.reading(nil, 32)
	job.Rate, job.Measure = 1000, pick(b, 6*time.Second, 2*time.Second)
	f := b.rounds(pick(b, 5, 3), job, b.bareSubject(), gatewaySubject(b.env, b.readers))
	p50, p99 := differences(f["gateway"].p50, f["bare"].p50), differences(f["gateway"].p99, f["bare"].p99)
	b.report.add("latency added at 1,000/s, p50", p50.median(), "ms", atMost(0.5), atMost(0.3), fmt.Sprintf("%s; bare %v", p50.spread(), round(f["bare"].p50.median())))
	b.report.add("latency added at 1,000/s, p99", p99.median(), "ms", atMost(2), atMost(1), fmt.Sprintf("%s; bare %v", p99.spread(), round(f["bare"].p99.median())))
}

// factors measures reads and writes whose callers carry the session of a fresh second factor, and the same with nobody
// asked for any, side by side: both against bare, by the bars of throughput, and the one against the other.
func (b *bench) factors() {
	const fresh, off = "with a fresh step-up", "with mfa_required=off"
	environment := func(name string, asked bool) (s subject, writers []string) {
		inner := *b
		inner.mfaOff = !asked
		env := inner.environment(1)
		s = gatewaySubject(env, b.populate(env, "reader", "viewer", principals, 1))
		s.name = name
		writers = b.populate(env, "writer", "deployer", principals, 1)
		b.inSessions(env)
		return s, writers
	}
	asked, askedWriters := environment(fresh, true)
	free, freeWriters := environment(off, false)
	for _, of := range []struct {
		name string
		job  Job
		must bar
	}{
		{"reads at 32", b.reading(nil, 32), atLeast(0.60)},
		{"writes at 32", b.writing(nil, 32), atLeast(0.35)},
	} {
		if of.job.Method != "GET" {
			asked.tokens, free.tokens = askedWriters, freeWriters
		}
		of.job.Session = stepSession
		f := b.rounds(pick(b, 5, 3), of.job, b.bareSubject(), asked, free)
		for _, name := range []string{fresh, off} {
			r := ratios(f[name].rate, f["bare"].rate)
			b.report.add(of.name+" "+name+", against bare", r.median(), "×", of.must, bar{}, r.spread())
		}
		r := ratios(f[fresh].rate, f[off].rate)
		b.report.add(of.name+" "+fresh+", against "+off, r.median(), "×", atLeast(0.95), atLeast(1), r.spread())
	}
}
