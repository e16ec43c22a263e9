//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// The load generator: one thread, one event loop, keep-alive connections, and no more parsing of answers than it
// takes to find their end. So it costs the machine little, and the same for whoever is measured. It runs as a
// process of its own, which takes jobs as lines of JSON and answers each with a line.

// A Job is one load.
type Job struct {
	Kind   string   // "requests", "upload" or "download"
	Addrs  []string // host:port; connections are spread over them
	Method string
	Path   string
	Type   string   // Content-Type
	Body   string   // of each request
	Tokens []string // request n carries token n modulo their number; none means no Authorization
	// Session is the step-up session that each request carries, as the CLI's do in console mode; "" for none.
	Session string

	Connections int
	// Rate is requests a second on a schedule that does not wait for answers: what comes late waits in a queue, and
	// its latency counts from when it was due (so a stall is not omitted from the figures). 0 sends the next request
	// of a connection when the answer to the last is there.
	Rate float64
	// Count ends the load after so many requests; otherwise it goes on for Warm, which is not counted, and Measure.
	Count   int
	Warm    time.Duration
	Measure time.Duration

	Bytes int64 // of an upload or download
}

// A Result is what came of a job. Latencies are in milliseconds.
type Result struct {
	Total    int     // requests answered, warm-up included
	Requests int     // of which measured
	Seconds  float64 // that they took together
	Bad      int     // answers with a status other than 2xx, warm-up included
	FirstBad string
	P50      float64
	P99      float64
	Max      float64
	Error    string
}

// PerSecond is the rate that was reached.
func (r Result) PerSecond() float64 { return float64(r.Requests) / r.Seconds }

// serveLoad is the process: jobs from in, results to out, until in ends.
func serveLoad(in io.Reader, out io.Writer) error {
	jobs, results := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var job Job
		if err := jobs.Decode(&job); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var result Result
		var err error
		if job.Kind == "requests" {
			result, err = runRequests(job)
		} else {
			result, err = runTransfer(job)
		}
		if err != nil {
			result.Error = err.Error()
		}
		if err := results.Encode(result); err != nil {
			return err
		}
	}
}

// head is the head of a request as the CLI sends it.
func (j *Job) head(token string, length int64) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: convox.go/dev\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n", j.Method, j.Path)
	if token != "" {
		fmt.Fprintf(&b, "Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte("convox:"+token)))
	}
	if j.Session != "" {
		fmt.Fprintf(&b, "Session: %s\r\n", j.Session)
	}
	fmt.Fprintf(&b, "Content-Type: %s\r\nVersion: dev\r\n", cmp.Or(j.Type, "application/octet-stream"))
	if j.Method != "GET" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// answerBuffer is the longest answer that a generator takes, head included.
const answerBuffer = 16 << 10

// client is one connection of the generator.
type client struct {
	fd     int
	buf    []byte
	have   int
	need   int       // length of the answer; 0 while its head is not complete
	due    time.Time // when the request under way should have been sent
	busy   bool
	number int
}

// generator runs one job of kind "requests".
type generator struct {
	job      Job
	requests [][]byte
	clients  []*client
	epoll    int
	timer    int // file descriptor of a timer; -1 without a schedule

	begin, from, until time.Time // measured are answers between from and until
	sent               int
	idle               []*client   // with a schedule: those without a request under way
	waiting            []time.Time // with a schedule: due, and no connection free

	result    Result
	latencies []time.Duration
}

func runRequests(job Job) (Result, error) {
	// The timer and the loop stay on one thread, which the collector does not disturb: nothing is allocated in it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &generator{job: job, timer: -1}
	defer g.close()
	tokens := job.Tokens
	if len(tokens) == 0 {
		tokens = []string{""}
	}
	for _, token := range tokens {
		g.requests = append(g.requests, append(job.head(token, int64(len(job.Body))), job.Body...))
	}
	if err := g.open(); err != nil {
		return g.result, err
	}
	g.begin = time.Now()
	g.from = g.begin.Add(job.Warm)
	g.until = g.from.Add(job.Measure)
	if job.Count > 0 {
		g.from, g.until = g.begin, g.begin.Add(10*time.Minute)
	}
	g.latencies = make([]time.Duration, 0, 1<<20)
	if err := g.loop(); err != nil {
		return g.result, err
	}
	g.result.Seconds = job.Measure.Seconds()
	if job.Count > 0 {
		g.result.Seconds = time.Since(g.begin).Seconds()
	}
	g.result.Requests = len(g.latencies)
	slices.Sort(g.latencies)
	g.result.P50, g.result.P99 = milliseconds(quantile(g.latencies, 0.50)), milliseconds(quantile(g.latencies, 0.99))
	g.result.Max = milliseconds(quantile(g.latencies, 1))
	return g.result, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile returns the q-quantile of a sorted list, by the nearest rank.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func (g *generator) close() {
	for _, c := range g.clients {
		_ = syscall.Close(c.fd)
	}
	if g.timer >= 0 {
		_ = syscall.Close(g.timer)
	}
	if g.epoll > 0 {
		_ = syscall.Close(g.epoll)
	}
}

func (g *generator) open() error {
	var err error
	if g.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for i := range g.job.Connections {
		fd, err := dial(g.job.Addrs[i%len(g.job.Addrs)])
		if err != nil {
			return err
		}
		c := &client{fd: fd, buf: make([]byte, answerBuffer), number: i}
		g.clients = append(g.clients, c)
		if err := g.watch(fd, i); err != nil {
			return err
		}
	}
	if g.job.Rate > 0 {
		if g.timer, err = newTimer(); err != nil {
			return err
		}
		return g.watch(g.timer, -1)
	}
	return nil
}

func (g *generator) watch(fd, number int) error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(number)} // #nosec G115 -- our own small numbers
	if err := syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// dial makes a connection that never blocks once it is made.
func dial(address string) (int, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return 0, fmt.Errorf("connect to %s: %w", address, err)
	}
	return fd, nil
}

// newTimer makes a timer that an event loop can wait for, exact to microseconds.
func newTimer() (int, error) {
	const monotonic, closeOnExec = 1, 0x80000
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, closeOnExec|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return -1, fmt.Errorf("timer: %w", errno)
	}
	return int(fd), nil // #nosec G115 -- a file descriptor
}

// setTimer has the timer ring once, after d.
func setTimer(fd int, d time.Duration) error {
	var spec struct{ interval, value syscall.Timespec }
	spec.value = syscall.NsecToTimespec(max(int64(d), 1))
	_, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0) // #nosec G103
	if errno != 0 {
		return fmt.Errorf("timer: %w", errno)
	}
	return nil
}

// drainTime is how long answers are waited for when the load has ended.
const drainTime = 20 * time.Second

func (g *generator) loop() error {
	if g.job.Rate > 0 {
		g.idle = slices.Clone(g.clients)
		if err := setTimer(g.timer, 0); err != nil {
			return err
		}
	} else {
		for _, c := range g.clients {
			if err := g.send(c, time.Now()); err != nil {
				return err
			}
		}
	}
	events := make([]syscall.EpollEvent, 512)
	for {
		n, err := syscall.EpollWait(g.epoll, events, 1000)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		now := time.Now()
		for _, event := range events[:max(n, 0)] {
			if event.Fd < 0 {
				err = g.tick(now)
			} else {
				err = g.readable(g.clients[event.Fd])
			}
			if err != nil {
				return err
			}
		}
		if g.over(now) {
			busy := 0
			for _, c := range g.clients {
				busy += btoi(c.busy)
			}
			if busy == 0 && len(g.waiting) == 0 {
				return nil
			}
			if now.Sub(g.until) > drainTime {
				return fmt.Errorf("%d answers had not come %s after the end", busy, drainTime)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// over reports whether no more requests are to be sent.
func (g *generator) over(now time.Time) bool {
	return now.After(g.until) || (g.job.Count > 0 && g.sent >= g.job.Count)
}

// tick sends what is due by the schedule, and has the timer ring for what is next.
func (g *generator) tick(now time.Time) error {
	var expirations [8]byte
	_, _ = syscall.Read(g.timer, expirations[:])
	for {
		due := g.begin.Add(time.Duration(float64(g.sent+len(g.waiting)) / g.job.Rate * float64(time.Second)))
		if due.After(g.until) {
			return nil
		}
		if wait := due.Sub(now); wait > 0 {
			return setTimer(g.timer, wait)
		}
		if len(g.idle) == 0 {
			g.waiting = append(g.waiting, due)
			continue
		}
		c := g.idle[len(g.idle)-1]
		g.idle = g.idle[:len(g.idle)-1]
		if err := g.send(c, due); err != nil {
			return err
		}
	}
}

// send sends the next request over a connection that has none under way.
func (g *generator) send(c *client, due time.Time) error {
	request := g.requests[g.sent%len(g.requests)]
	g.sent++
	c.due, c.busy, c.have, c.need = due, true, 0, 0
	// A request is far shorter than a socket's buffer, which is empty.
	if n, err := syscall.Write(c.fd, request); err != nil || n < len(request) {
		return fmt.Errorf("writing a request: %d of %d bytes: %w", n, len(request), err)
	}
	return nil
}

// readable takes what came over a connection.
func (g *generator) readable(c *client) error {
	n, err := syscall.Read(c.fd, c.buf[c.have:])
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("reading an answer: %w", err)
	case n == 0:
		return fmt.Errorf("the connection was closed; what had come of an answer: %q", c.buf[:c.have])
	}
	c.have += n
	if c.need == 0 {
		if err := c.measure(); err != nil {
			return err
		}
	}
	if c.need == 0 || c.have < c.need {
		if c.have == len(c.buf) {
			return fmt.Errorf("an answer is longer than %d bytes", len(c.buf))
		}
		return nil
	}
	if c.have > c.need {
		return fmt.Errorf("%d bytes came after an answer", c.have-c.need)
	}
	return g.answered(c)
}

// measure finds the length of the answer once its head is complete.
func (c *client) measure() error {
	head := bytes.Index(c.buf[:c.have], []byte("\r\n\r\n"))
	if head < 0 {
		return nil
	}
	const name = "\r\nContent-Length: "
	at := bytes.Index(c.buf[:head+2], []byte(name))
	if at < 0 {
		return fmt.Errorf("an answer without Content-Length: %q", c.buf[:head])
	}
	value := c.buf[at+len(name) : head+2]
	value = value[:bytes.IndexByte(value, '\r')]
	length, err := strconv.Atoi(string(value))
	if err != nil {
		return fmt.Errorf("content length: %w", err)
	}
	c.need = head + 4 + length
	return nil
}

// answered notes an answer that has come whole, and sends the connection's next request.
func (g *generator) answered(c *client) error {
	now := time.Now()
	c.busy = false
	g.result.Total++
	if c.buf[9] != '2' { // HTTP/1.1 200
		if g.result.Bad++; g.result.FirstBad == "" {
			g.result.FirstBad = strings.ToValidUTF8(string(c.buf[:c.have]), "?")
		}
	}
	if !c.due.Before(g.from) && (now.Before(g.until) || g.job.Rate > 0) {
		g.latencies = append(g.latencies, now.Sub(c.due))
	}
	if g.job.Rate > 0 {
		if len(g.waiting) == 0 {
			g.idle = append(g.idle, c)
			return nil
		}
		due := g.waiting[0]
		g.waiting = g.waiting[1:]
		return g.send(c, due)
	}
	if g.over(now) {
		return nil
	}
	return g.send(c, now)
}

// transferTimeout bounds one upload or download.
const transferTimeout = 5 * time.Minute

// runTransfer sends or fetches one long body.
func runTransfer(job Job) (Result, error) {
	var result Result
	conn, err := net.Dial("tcp", job.Addrs[0])
	if err != nil {
		return result, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(transferTimeout)); err != nil {
		return result, err
	}
	begin := time.Now()
	token := ""
	if len(job.Tokens) > 0 {
		token = job.Tokens[0]
	}
	if _, err := conn.Write(job.head(token, job.Bytes)); err != nil {
		return result, err
	}
	if job.Kind == "upload" {
		err = upload(conn, job.Bytes)
	}
	if err != nil {
		return result, err
	}
	n, status, err := readAnswer(conn)
	if err != nil {
		return result, err
	}
	if status/100 != 2 {
		return result, fmt.Errorf("the answer has status %d", status)
	}
	if job.Kind == "download" && n != job.Bytes {
		return result, fmt.Errorf("%d bytes came of %d", n, job.Bytes)
	}
	result.Total, result.Requests, result.Seconds = 1, 1, time.Since(begin).Seconds()
	return result, nil
}

// upload writes so many bytes.
func upload(conn net.Conn, size int64) error {
	block := make([]byte, 256<<10)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for size > 0 {
		n, err := conn.Write(block[:min(size, int64(len(block)))])
		if err != nil {
			return fmt.Errorf("uploading: %w", err)
		}
		size -= int64(n)
	}
	return nil
}
