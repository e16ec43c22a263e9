//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"rackgateway/pkg/testenv"
)

const megabyte = 1 << 20

// memory measures the peak of a proxy under 256 busy connections, reads and then writes.
func (b *bench) memory() {
	var peaks []string
	measure := func(of string, pid int, loads ...func()) float64 {
		for _, load := range loads {
			load()
		}
		m, err := memoryOf(pid)
		b.must(err)
		peaks = append(peaks, fmt.Sprintf("%s %v", of, round(float64(m.peak)/megabyte)))
		return float64(m.peak) / megabyte
	}
	var peak float64
	env := b.environment(1)
	readers, writers := b.populate(env, "reader", "viewer", principals, 1), b.populate(env, "writer", "deployer", principals, 1)
	pid := env.Proxies[0].PID()
	job := b.reading(nil, 256)
	measure("idle", pid)
	measure("after reads", pid, func() { b.loadOn(gatewaySubject(env, readers), job) })
	peak = measure("after writes", pid, func() { b.loadOn(gatewaySubject(env, writers), b.writing(nil, 256)) })
	bare := b.child(roleBare, "http://"+b.upstream.addr)
	measure("bare", bare.pid(), func() { b.loadOn(subject{addrs: []string{bare.addr}}, job) })
	b.report.add("peak RSS at 256 busy connections", peak, "MB", atMost(64), atMost(40), strings.Join(peaks, ", "))
}

// transfers measures long bodies: how fast they pass, and what they occupy.
func (b *bench) transfers() {
	size := pick[int64](b, 1<<30, 256<<20)
	n := pick(b, 5, 3)
	b.env.StepUp("admin")
	admin := []string{b.env.Token("admin")}
	gateway := b.env.Proxies[0]
	for _, kind := range []struct{ name, method, path string }{
		{"upload", "POST", "/apps/demo/objects/tmp/upload.tgz?"},
		{"download", "GET", downloadPath},
	} {
		job := func(addr string, size int64) Job {
			j := Job{Kind: kind.name, Method: kind.method, Path: kind.path, Addrs: []string{addr}, Tokens: admin, Bytes: size}
			if kind.name == "download" {
				j.Path += fmt.Sprint(size) + "?"
			}
			return j
		}
		// What a first transfer needs once is not growth.
		b.run(job(address(gateway), 32*megabyte))
		b.run(job(b.bare.addr, 32*megabyte))
		var ratio, grown sample
		for range n {
			bare := b.run(job(b.bare.addr, size))
			b.must(resetPeak(gateway.PID()))
			before, err := memoryOf(gateway.PID())
			b.must(err)
			through := b.run(job(address(gateway), size))
			after, err := memoryOf(gateway.PID())
			b.must(err)
			ratio = append(ratio, bare.Seconds/through.Seconds)
			grown = append(grown, max(0, float64(after.peak-before.resident)/megabyte))
		}
		b.report.add(kind.name+" throughput, against bare", ratio.median(), "×", atLeast(0.95), atLeast(1), ratio.spread())
		b.report.add(fmt.Sprintf("growth of RSS in an %s of %d MB", kind.name, size/megabyte), grown.median(), "MB", atMost(2), atMost(0), grown.spread())
	}
}

// statements counts the SQL of requests by people whom the proxy knows already: reads, which take no second factor, and
// writes, which take a fresh one.
func (b *bench) statements() {
	env := b.environment(1)
	counted := b.countRequests(env, b.populate(env, "reader", "viewer", principals, 1), b.reading(nil, 32))
	b.report.add("SQL statements on the path of a cached request, group commit apart", float64(counted.other)/countedRequests, "", atMost(0), atMost(0),
		fmt.Sprintf("%d requests: %d inserts of events, %d announcements, proofs of life and notes of last use, which no request waits for; others: %s", countedRequests, counted.inserts, counted.beside, orNone(counted.examples)))
	b.report.tell("events in one group commit at 32 connections", countedRequests/float64(max(counted.inserts, 1)), "", "")

	writers := b.populate(env, "writer", "deployer", principals, 1)
	b.inSessions(env)
	job := b.writing(nil, 32)
	job.Session = stepSession
	counted = b.countRequests(env, writers, job)
	b.report.add("SQL statements that a write with a fresh second factor adds, group commit apart", float64(counted.other)/countedRequests, "", atMost(0), atMost(0),
		fmt.Sprintf("%d promotions, each of which takes a factor: %d inserts of events; others: %s", countedRequests, counted.inserts, orNone(counted.examples)))
}

const countedRequests = 2000

// countRequests has people whom the proxy knows make requests, and counts what its database is asked meanwhile.
func (b *bench) countRequests(env *testenv.Env, tokens []string, job Job) statementCount {
	s := gatewaySubject(env, tokens)
	job.Warm, job.Measure, job.Count = 0, 0, 20*principals
	b.loadOn(s, job) // everybody is known, and their use of the token is noted

	db := b.superuser(env)
	setting := func(value string) {
		for _, statement := range []string{`alter system set log_statement = '` + value + `'`, `select pg_reload_conf()`} {
			_, err := db.ExecContext(b.Context(), statement)
			b.must(err)
		}
	}
	log := filepath.Join(env.Postgres.Dir(), "log")
	setting("all")
	began := b.sizeWhen(log, "select 'the count begins'", env)
	job.Count = countedRequests
	b.loadOn(s, job)
	b.sizeWhen(log, "select 'the count ends'", env)
	setting("none")
	text, err := os.ReadFile(log) // #nosec G304 -- the server's log
	b.must(err)
	return countStatements(string(text[began:]), "rgw_proxy_login@"+env.Database+" ")
}

// sizeWhen runs a statement that can be found in the server's log, waits until it is there, and returns the size of
// the log. The server writes its log in order, and takes a new setting a moment after it was told to.
func (b *bench) sizeWhen(path, mark string, env *testenv.Env) int64 {
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := env.DB.ExecContext(ctx, mark)
		b.must(err)
		text, err := os.ReadFile(path) // #nosec G304 -- the server's log
		b.must(err)
		if strings.Contains(string(text), mark) {
			return int64(len(text))
		}
	}
}

type statementCount struct {
	inserts, beside, other int
	examples               []string
}

// statementLine is how the server logs a statement; the text may go on over lines that begin with a tab.
var statementLine = regexp.MustCompile(`(?s)LOG:  (?:statement|execute [^:]*): (.*)`)

// countStatements reads a log of the server's: what one login ran in one database.
func countStatements(log, who string) statementCount {
	var c statementCount
	for entry := range strings.SplitSeq(strings.ReplaceAll(log, "\n\t", " "), "\n") {
		match := statementLine.FindStringSubmatch(entry)
		if match == nil || !strings.Contains(entry, who) {
			continue
		}
		statement := strings.TrimSpace(strings.ToLower(match[1]))
		switch {
		case strings.Contains(statement, "insert into rgw.audit_events"):
			c.inserts++
		case strings.Contains(statement, "pg_notify"), strings.Contains(statement, "rgw.token_used"), strings.HasPrefix(statement, "notify"), strings.HasPrefix(statement, "listen"):
			c.beside++
		case strings.HasPrefix(statement, "begin"), strings.HasPrefix(statement, "commit"), strings.HasPrefix(statement, "set "):
		default:
			if c.other++; len(c.examples) < 3 {
				c.examples = append(c.examples, strings.Join(strings.Fields(statement), " "))
			}
		}
	}
	return c
}

func orNone(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, "; ")
}

const (
	countEvents = `select count(*) from rgw.audit_events`
	sizeOfLog   = `
select sum(pg_total_relation_size(oid)) from pg_class
where relnamespace = 'rgw'::regnamespace and relkind = 'r' and (relname like 'audit\_events\_%' or relname like 'ledger\_%')`
)

// storage measures what an event occupies in the database, indexes included, after a load of reads and writes.
func (b *bench) storage() {
	env := b.environmentWith(1, 1)
	readers, writers := b.populate(env, "reader", "viewer", principals, 1), b.populate(env, "writer", "deployer", principals, 1)
	look := func() (events, size int64) {
		b.must(env.DB.QueryRowContext(b.Context(), countEvents).Scan(&events))
		b.untilPlaced(env, events)
		b.must(env.DB.QueryRowContext(b.Context(), sizeOfLog).Scan(&size))
		return events, size
	}
	eventsBefore, sizeBefore := look()
	for _, job := range []struct {
		tokens []string
		job    Job
	}{{readers, b.reading(nil, 32)}, {writers, b.writing(nil, 32)}} {
		job.job.Warm, job.job.Measure, job.job.Count = 0, 0, pick(b, 40_000, 8_000)
		b.loadOn(gatewaySubject(env, job.tokens), job.job)
	}
	events, size := look()
	perEvent := float64(size-sizeBefore) / float64(events-eventsBefore)
	b.report.add("PostgreSQL per event, indexes and ledger included", perEvent, "bytes", atMost(1200), atMost(800),
		fmt.Sprintf("%d events of reads and writes", events-eventsBefore))
}
