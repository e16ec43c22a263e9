// Log streams of apps, services, processes, builds and the rack.

package racktest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxLogLines is how many lines a log keeps.
const maxLogLines = 20000

type logLine struct {
	time    time.Time
	service string // web, build, or system/k8s/…
	pid     string
	text    string
}

// format is the line as a stream shows it, with or without the prefix that clients usually ask for.
func (l logLine) format(prefix bool) string {
	if !prefix {
		return l.text + "\n"
	}
	source := l.service
	if l.pid != "" {
		source = "service/" + l.service + "/" + l.pid
	}
	return fmt.Sprintf("%s %s %s\n", l.time.Format(time.RFC3339), source, l.text)
}

// logBuffer is a log that can be followed. Safe for concurrent use.
type logBuffer struct {
	mu      sync.Mutex
	lines   []logLine
	first   int // number of lines[0]
	ended   bool
	changed chan struct{}
}

func newLogBuffer() *logBuffer { return &logBuffer{changed: make(chan struct{})} }

func (b *logBuffer) add(l logLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	if len(b.lines) >= maxLogLines {
		drop := maxLogLines / 2
		b.lines = append(b.lines[:0:0], b.lines[drop:]...)
		b.first += drop
	}
	b.lines = append(b.lines, l)
	b.announce()
}

// end lets followers finish.
func (b *logBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.ended = true
		b.announce()
	}
}

func (b *logBuffer) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// logOptions are the header options of a log socket.
type logOptions struct {
	filter string
	follow bool
	prefix bool
	since  time.Duration // how far back; 0 is everything
	tail   int           // at most so many old lines; negative is all
}

func (c *call) logOptions() (logOptions, error) {
	o := c.options()
	lo := logOptions{follow: true, prefix: true, since: 2 * time.Minute, tail: -1}
	if v, ok := o.header("Filter"); ok {
		lo.filter = v
	}
	if b := boolean(o.header("Follow")); b != nil {
		lo.follow = *b
	}
	if b := boolean(o.header("Prefix")); b != nil {
		lo.prefix = *b
	}
	if d := o.duration(o.header("Since")); d != nil {
		lo.since = *d
	}
	if n := o.number(o.header("Tail")); n != nil {
		lo.tail = *n
	}
	o.number(o.header("Maxlogrequests"))
	return lo, o.err
}

// stream writes the log to the socket, one message per line, until the log ends (or at once, without follow),
// the peer goes away, or the rack closes. Nothing is read from the socket but to notice the first of these.
func (c *call) stream(b *logBuffer, lo logOptions, accept func(logLine) bool) error {
	c.ws.ignore()
	var oldest time.Time
	if lo.since > 0 {
		oldest = c.rack.now().Add(-lo.since)
	}
	wanted := func(l logLine) bool {
		return (accept == nil || accept(l)) && strings.Contains(l.text, lo.filter)
	}
	next, backlog := 0, true
	for {
		b.mu.Lock()
		lines := b.lines
		if next < b.first {
			next = b.first
		}
		lines = lines[next-b.first:]
		next += len(lines)
		ended, changed := b.ended, b.changed
		b.mu.Unlock()

		chosen := make([]logLine, 0, len(lines))
		for _, l := range lines {
			if wanted(l) && !(backlog && l.time.Before(oldest)) {
				chosen = append(chosen, l)
			}
		}
		if backlog && lo.tail >= 0 && len(chosen) > lo.tail {
			chosen = chosen[len(chosen)-lo.tail:]
		}
		backlog = false
		for _, l := range chosen {
			if _, err := c.ws.Write([]byte(l.format(lo.prefix))); err != nil {
				return nil //nolint:nilerr // the peer is gone: nobody is left to tell
			}
		}
		if ended || !lo.follow {
			return nil
		}
		select {
		case <-changed:
		case <-c.ws.ctx.Done():
			return nil
		}
	}
}

// logTicks writes a line for a process that often until ctx ends.
func (r *Rack) logTicks(ctx context.Context, a *app, p *process, every time.Duration) {
	for n := 1; pause(ctx, every); n++ {
		r.logProcess(a, p, fmt.Sprintf("GET /health 200 (%d)", n))
	}
}

// logProcess writes a line of a process: to its own log and to its app's.
func (r *Rack) logProcess(a *app, p *process, text string) {
	l := logLine{time: r.now(), service: p.Name, pid: p.ID, text: text}
	p.log.add(l)
	a.log.add(l)
}

// logSystem writes a line about an app itself, such as the progress of a promotion.
func (r *Rack) logSystem(a *app, source, text string) {
	a.log.add(logLine{time: r.now(), service: "system/k8s/" + source, text: text})
}

func (r *Rack) appLogs(c *call) error {
	lo, err := c.logOptions()
	if err != nil {
		return err
	}
	a, err := r.app(c.variable("name"))
	if err != nil {
		return err
	}
	return c.stream(a.log, lo, nil)
}

func (r *Rack) serviceLogs(c *call) error {
	lo, err := c.logOptions()
	if err != nil {
		return err
	}
	a, err := r.app(c.variable("app"))
	if err != nil {
		return err
	}
	service := c.variable("service")
	return c.stream(a.log, lo, func(l logLine) bool { return l.service == service })
}

func (r *Rack) processLogs(c *call) error {
	lo, err := c.logOptions()
	if err != nil {
		return err
	}
	a, err := r.app(c.variable("app"))
	if err != nil {
		return err
	}
	pid := c.variable("pid")
	r.mu.Lock()
	p := a.processes[pid]
	r.mu.Unlock()
	if p == nil {
		return errNoPod(pid)
	}
	lo.since = 0
	return c.stream(p.log, lo, nil)
}

func (r *Rack) systemLogs(c *call) error {
	lo, err := c.logOptions()
	if err != nil {
		return err
	}
	return c.stream(r.systemLog, lo, nil)
}

// last is the end of the log without prefixes.
func (b *logBuffer) last(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	for _, l := range b.lines[max(0, len(b.lines)-n):] {
		s.WriteString(l.text + "\n")
	}
	return s.String()
}
