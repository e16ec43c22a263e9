//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
)

// socketTimeout bounds each step of a socket's life here.
const socketTimeout = 30 * time.Second

// openExec opens an exec session through a proxy, as the CLI does.
func openExec(address, token string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", address, socketTimeout)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (net.Conn, *bufio.Reader, error) {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("opening an exec session: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(socketTimeout)); err != nil {
		return fail(err)
	}
	_, err = fmt.Fprintf(conn, "GET /apps/demo/processes/web-5d9c7b8f6d-abcde/exec HTTP/1.1\r\nHost: localhost\r\nUser-Agent: convox.go/dev\r\n"+
		"Authorization: Basic %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		"Command: sh\r\nTty: false\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("convox:"+token)))
	if err != nil {
		return fail(err)
	}
	r := bufio.NewReaderSize(conn, 512)
	resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // of a 101 there is none, and any other ends with conn
	if err != nil {
		return fail(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		return fail(fmt.Errorf("status %d: %s", resp.StatusCode, body))
	}
	return conn, r, conn.SetDeadline(time.Time{})
}

// ping is an empty ping frame of a client (RFC 6455, section 5.5.2), which the CLI sends every five seconds.
var ping = []byte{0x89, 0x80, 1, 2, 3, 4}

// sessions measures what an exec session in which nothing happens occupies in the proxy.
func (b *bench) sessions() {
	count := pick(b, 1000, 1000)
	env := b.environment(1)
	tokens := b.populate(env, "operator", "ops", principals, 1)
	proxy := env.Proxies[0]
	b.loadOn(gatewaySubject(env, tokens), b.reading(nil, 32))
	open := make([]net.Conn, 0, count)
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	begin := func(n int) {
		for range n {
			conn, _, err := openExec(address(proxy), tokens[len(open)%len(tokens)])
			b.must(err)
			open = append(open, conn)
		}
		for _, conn := range open {
			_, err := conn.Write(ping)
			b.must(err)
		}
	}
	begin(10) // what the first ones need once is not counted
	before := b.settled(proxy.PID())
	begin(count)
	after := b.settled(proxy.PID())
	perSession := float64(after-before) / float64(count) / 1024
	b.report.add(fmt.Sprintf("RSS per idle exec session at %d", count), perSession, "KB", atMost(64), atMost(32),
		fmt.Sprintf("%v MB before, %v MB with them", round(float64(before)/megabyte), round(float64(after)/megabyte)))
}

// settled waits until a process's memory has kept still for a second, and returns it.
func (b *bench) settled(pid int) int64 {
	var last int64
	still := 0
	ctx, cancel := context.WithTimeout(b.Context(), 15*time.Second)
	defer cancel()
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	for still < 4 {
		m, err := memoryOf(pid)
		b.must(err)
		if m.resident == last {
			still++
		} else {
			last, still = m.resident, 0
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return last // it moves all the time; what it is now counts
		}
	}
	return last
}

// revocation measures how long a revoked token is good for: on another proxy, and for a socket that is open.
func (b *bench) revocation() {
	count := pick(b, 300, 200)
	env := b.environment(2)
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(env.Postgres.URL(cluster.Admin, env.Database)), Name: "bench"})
	b.must(err)
	defer func() { _ = db.Close() }()
	key, err := audit.NewKey([]byte(env.MACKey()))
	b.must(err)
	writer := directory.NewWriter(db, key, directory.WriterOptions{})
	by := directory.Actor{Kind: audit.ActorSystem, ID: "bench", Label: "bench", Client: "bench"}

	var refused, ended sample
	for i := range count {
		made, token, err := writer.CreateToken(b.Context(), by, directory.NewToken{Kind: credential.CLI, Name: fmt.Sprintf("laptop %d", i), Owner: "olga@example.com"})
		b.must(err)
		refusal, end := b.revoke(address(env.Proxies[i%2]), address(env.Proxies[(i+1)%2]), token.Reveal(), i, func() {
			_, err := writer.Revoke(b.Context(), by, made.ID.String(), "measured")
			b.must(err)
		})
		refused, ended = append(refused, milliseconds(refusal)), append(ended, milliseconds(end))
	}
	for _, row := range []struct {
		name string
		of   sample
	}{{"revocation to refusal on another proxy", refused}, {"revocation to the end of an open exec", ended}} {
		slices.Sort(row.of)
		at := func(q float64) float64 { return row.of[min(int(q*float64(count)+0.999999), count)-1] }
		b.report.add(row.name+", p99", at(0.99), "ms", atMost(100), atMost(20),
			fmt.Sprintf("p50 %v ms, max %v ms, of %d; from before the revoking transaction", round(at(0.5)), round(at(1)), count))
	}
}

// revoke has a token in use by an exec session through one proxy and requests through another, revokes it, and
// returns how long it took until each was refused.
func (b *bench) revoke(execAt, askAt, token string, number int, revoke func()) (refusal, end time.Duration) {
	session, frames, err := openExec(execAt, token)
	b.must(err)
	defer func() { _ = session.Close() }()
	b.must(session.SetDeadline(time.Now().Add(socketTimeout)))
	// Each from an address of its own: many refusals of one address would be cut short.
	from := &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+number/250), byte(1+number%250))}
	conn, err := (&net.Dialer{LocalAddr: from, Timeout: socketTimeout}).DialContext(b.Context(), "tcp", askAt)
	b.must(err)
	defer func() { _ = conn.Close() }()
	b.must(conn.SetDeadline(time.Now().Add(socketTimeout)))

	request := (&Job{Method: "GET", Path: "/apps?"}).head(token, 0)
	answers := bufio.NewReader(conn)
	ask := func() (int, error) {
		if _, err := conn.Write(request); err != nil {
			return 0, err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, errors.Join(err, resp.Body.Close())
	}
	status, err := ask()
	b.must(err)
	if status != http.StatusOK {
		b.Fatalf("before it is revoked, the token is answered with %d", status)
	}

	type outcome struct {
		at  time.Time
		err error
	}
	refused, ended := make(chan outcome, 1), make(chan outcome, 1)
	go func() {
		for {
			status, err := ask()
			if err != nil || status == http.StatusUnauthorized {
				refused <- outcome{time.Now(), err}
				return
			}
			if status != http.StatusOK {
				refused <- outcome{time.Now(), fmt.Errorf("refused with status %d", status)}
				return
			}
		}
	}()
	go func() {
		err := waitEnd(frames)
		ended <- outcome{time.Now(), err}
	}()
	began := time.Now()
	revoke()
	was, is := <-refused, <-ended
	b.must(errors.Join(was.err, is.err))
	return was.at.Sub(began), is.at.Sub(began)
}

// waitEnd reads a session until its end, and makes sure that the CLI would have told the person and exited with 1.
func waitEnd(frames *bufio.Reader) error {
	var seen bytes.Buffer
	buf := make([]byte, 512)
	for {
		n, err := frames.Read(buf)
		seen.Write(buf[:n])
		if bytes.HasSuffix(seen.Bytes(), []byte{0x82, 0}) { // an empty binary frame: the end
			break
		}
		if err != nil {
			return fmt.Errorf("the session broke off without its end; it said %q: %w", seen.String(), err)
		}
	}
	if text := seen.String(); !strings.Contains(text, "ERROR: ") || !strings.Contains(text, "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:1\n") {
		return fmt.Errorf("the session ended without a message and the exit code 1: %q", text)
	}
	return nil
}
