//go:build linux

package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

// bytesOf is a request as it goes over the wire.
func (c *caller) bytesOf(ctx context.Context, s *shape, key string) ([]byte, error) {
	req, err := c.request(ctx, s, key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = req.Write(&b)
	return b.Bytes(), err
}

// A client that hangs up right behind its request, or says that it will send no more, has asked all the same: whatever
// became of it is in the log, and a write is done once or not at all.
func TestClientsThatHangUpAreRecorded(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: -1})
	env.Admin("setting", "set", "in_flight_per_principal", "10000") // they come faster than the log takes them
	env.AddProxy().WaitReady(t.Context())
	books, token, number := newBooks(env), env.Token("admin"), loads.Add(1)
	env.Rack.Inject(racktest.Fault{Path: fmt.Sprintf("/apps/*k%d-*", number), Delay: 2 * time.Millisecond})
	each := pick(8, 100)
	var atOnce sync.WaitGroup
	var hungUp, halfClosed, answered atomic.Int64
	for i, s := range everything {
		for _, half := range []bool{false, true} {
			atOnce.Go(func() {
				for n := range each {
					c := &caller{address: at(env.Proxies[0]), token: token}
					key := fmt.Sprintf("k%d-%d-%d", number, i*2+btoi(half), n)
					e := &entry{key: key, shape: s, err: errNoAnswer}
					request, err := c.bytesOf(t.Context(), s, key)
					if err == nil {
						err = c.connect(t.Context())
					}
					if err == nil {
						_, err = c.conn.Write(request)
					}
					if err != nil {
						t.Error(err)
						return
					}
					books.note(e)
					if !half {
						hungUp.Add(1)
						c.hangUp()
						continue
					}
					halfClosed.Add(1)
					if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
						t.Error(err)
					}
					_ = c.conn.SetReadDeadline(time.Now().Add(patience))
					answer, err := io.ReadAll(c.conn) // an answer, or the end: never a connection that stays
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: a client that half-closed was left hanging", key)
					}
					if bytes.HasPrefix(answer, []byte("HTTP/1.1 ")) {
						answered.Add(1)
					}
					c.hangUp()
				}
			})
		}
	}
	atOnce.Wait()
	want := int(hungUp.Load() + halfClosed.Load())
	const outcomes = `select count(distinct detail->>'path') from rgw.audit_events where phase in ('finished', 'cut') and detail->>'path' ~ $1`
	eventually(t, "each request that was hung up on was recorded", func() bool {
		return count(t, env, outcomes, fmt.Sprintf(`\yk%d-`, number)) == want
	})
	t.Logf("hung up %d, half-closed %d, of which answered %d", hungUp.Load(), halfClosed.Load(), answered.Load())
	books.close(t, allowance{})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Thousands of connections on which nothing happens, and hundreds that send a byte from time to time, cost memory and
// nobody else's time.
func TestIdleAndSlowClientsHoldUpNobody(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{})
	books, p := newBooks(env), env.Proxies[0]
	before := memory(t, p.PID(), "VmRSS")

	l := books.put(t, loadOptions{callers: 8, addresses: []func() string{at(p)}, tokens: []string{env.Token("admin")}, fresh: true})
	idle := connections(t, at(p)(), idleConnections(t))
	asked := make([]byte, 0, 256)
	asked = append(asked, "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"...)
	for _, conn := range idle {
		_, err := conn.Write(asked)
		must(t, err)
	}
	for _, conn := range idle { // answered, and kept from then on
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		must(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	slow := connections(t, at(p)(), 300)
	for i, conn := range slow {
		_, err := conn.Write([]byte("POST /apps/demo/releases HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")[:10+i%50])
		must(t, err)
	}
	// A form that never comes whole, of somebody who may send it.
	trickling := connections(t, at(p)(), 20)
	c := &caller{token: env.Token("deployer")}
	for i, conn := range trickling {
		key := fmt.Sprintf("k%d-0-%d", loads.Add(1), i)
		request, err := c.bytesOf(t.Context(), &shape{method: "PUT", path: "/apps/demo/configs/KEY", form: "value=" + strings.Repeat("A", 1<<20)}, key)
		must(t, err)
		books.note(&entry{key: key, shape: aWrite, err: errNoAnswer})
		_, err = conn.Write(request[:2000])
		must(t, err)
	}
	l.goesOn(t, 300)
	with := memory(t, p.PID(), "VmRSS")
	if long { // the head of a request must come within half a minute, and so must a form
		for i, conn := range append(slow, trickling...) {
			must(t, conn.SetReadDeadline(time.Now().Add(patience)))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("slow connection %d was never closed", i)
			}
		}
	}
	for _, list := range [][]net.Conn{idle, slow, trickling} {
		for _, conn := range list {
			_ = conn.Close()
		}
	}
	l.goesOn(t, 100)
	l.liftUnharmed(t, fmt.Sprintf("%d idle, %d slow and %d trickling connections", len(idle), len(slow), len(trickling)))
	t.Logf("resident memory before %d MB, with them %d MB: %d KB each", before>>20, with>>20, (with-before)/int64(len(idle))>>10)
	books.close(t, allowance{})
}

// idleConnections is how many idle connections there are to be: as many as this process may have, up to 10,000.
func idleConnections(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	}
	return int(min(uint64(10_000), limit.Cur-3000))
}

// connections opens many connections, a hundred at a time.
func connections(t *testing.T, address string, n int) []net.Conn {
	t.Helper()
	all := make([]net.Conn, n)
	var opening sync.WaitGroup
	var next atomic.Int64
	for range 100 {
		opening.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				conn, err := net.DialTimeout("tcp", address, patience)
				if err != nil {
					t.Error(err)
					return
				}
				all[i] = conn
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// memory is a figure of a process's memory, in bytes: VmRSS now, VmHWM at most so far.
func memory(t *testing.T, pid int, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return kilobytes << 10
		}
	}
	t.Fatalf("the process has no %s", name)
	return 0
}

// An upload of a gigabyte that is cut in the middle costs the proxy no memory, and the log says that it broke off and
// after how much.
func TestACutUploadIsRecordedAndNotHeld(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{})
	books, p, number := newBooks(env), env.Proxies[0], loads.Add(1)
	whole, sent := int64(1<<30), int64(pick(128, 512)<<20)
	before := memory(t, p.PID(), "VmHWM")
	for i, chunked := range []bool{false, true} {
		key := fmt.Sprintf("k%d-0-%d", number, i)
		books.note(&entry{key: key, shape: &shape{name: "upload", write: true}, err: errNoAnswer})
		conn, err := net.Dial("tcp", at(p)())
		must(t, err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/apps/demo/objects/"+key, &broken{left: sent})
		must(t, err)
		req.SetBasicAuth("convox", env.Token("admin"))
		if !chunked {
			req.ContentLength = whole
		}
		if err := req.Write(conn); err == nil || !strings.Contains(err.Error(), errBroken.Error()) {
			t.Errorf("sending %s: %v", key, err)
		}
		must(t, conn.Close())
		var got struct {
			Status int    `db:"status"`
			In     int64  `db:"bytes_in"`
			Error  string `db:"error"`
		}
		eventually(t, "the cut upload was recorded", func() bool {
			return env.DB.GetContext(t.Context(), &got, `select status, (detail->>'bytes_in')::bigint as bytes_in, detail->>'error' as error
from rgw.audit_events where phase = 'finished' and detail->>'path' like '%' || $1`, key) == nil
		})
		if got.In < sent/2 || got.In > sent || got.Status < 400 || !strings.Contains(got.Error, "broke off") {
			t.Errorf("an upload cut after %d bytes is recorded as %+v", sent, got)
		}
		t.Logf("upload cut after %d MB of 1 GB (chunked: %t): recorded with status %d, %d MB in, %q", sent>>20, chunked, got.Status, got.In>>20, got.Error)
	}
	grown := memory(t, p.PID(), "VmHWM") - before
	t.Logf("the proxy's memory grew by %d MB at most", grown>>20)
	if grown > 48<<20 {
		t.Errorf("the proxy's memory grew by %d MB", grown>>20)
	}
	books.close(t, allowance{})
}

var errBroken = errors.New("the client's file ended too soon")

// broken is a body that breaks off.
type broken struct{ left int64 }

func (b *broken) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errBroken
	}
	n := min(int64(len(p)), b.left)
	clear(p[:n])
	b.left -= n
	return int(n), nil
}
