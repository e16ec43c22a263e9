package adminapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/credential"
)

// What tells consoles that something has changed. The record is what it is told by: there is no change without an event, so
// that one question a second, asked only while somebody listens, finds all of them. What is told are topics and nothing
// else; whoever hears one asks for what they may see.

// Times of the streams.
const (
	recordEvery  = time.Second      // between looks at the record
	streamPulse  = 15 * time.Second // between signs of life, at each of which the credential is looked at anew
	streamsEach  = 20               // of one principal at once: a person has that many tabs
	streamRetry  = 2 * time.Second  // what browsers are told to wait before they come back
	writePatient = 10 * time.Second // how long one message may take to be written
)

// liveHub hands topics to those who listen.
type liveHub struct {
	mu       sync.Mutex
	ended    bool
	watchers map[*liveWatcher]struct{}
	came     chan struct{} // closed when the first one comes, made anew when the last one went
}

type liveWatcher struct {
	principal string
	wake      chan struct{} // holds one
	over      chan struct{} // closed when the hub ends

	mu     sync.Mutex
	topics map[string]bool
}

func newLiveHub() *liveHub {
	return &liveHub{watchers: make(map[*liveWatcher]struct{}), came: make(chan struct{})}
}

// join adds a listener, unless the principal has too many or the hub has ended.
func (h *liveHub) join(principal string) (*liveWatcher, *problem) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil, &problem{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "this process is being stopped: another one answers in a moment", retryAfter: 2}
	}
	n := 0
	for w := range h.watchers {
		if w.principal == principal {
			n++
		}
	}
	if n >= streamsEach {
		return nil, &problem{Status: http.StatusTooManyRequests, Code: "too-many-streams", Detail: fmt.Sprintf("you listen %d times already: close some tabs", n), retryAfter: 30}
	}
	w := &liveWatcher{principal: principal, wake: make(chan struct{}, 1), over: make(chan struct{}), topics: make(map[string]bool)}
	if len(h.watchers) == 0 {
		close(h.came)
	}
	h.watchers[w] = struct{}{}
	return w, nil
}

func (h *liveHub) leave(w *liveWatcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, in := h.watchers[w]; !in {
		return
	}
	delete(h.watchers, w)
	if len(h.watchers) == 0 {
		h.came = make(chan struct{})
	}
}

// someone returns a channel that is closed while anybody listens.
func (h *liveHub) someone() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.came
}

func (h *liveHub) anybody() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

// tell hands topics to everybody. It never waits: what somebody has not taken yet is joined with what comes.
func (h *liveHub) tell(topics map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.mu.Lock()
		maps.Copy(w.topics, topics)
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// end has every stream end, and no other begin.
func (h *liveHub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.ended = true
	for w := range h.watchers {
		close(w.over)
	}
}

// take returns what has changed since it was last asked, by blanks.
func (w *liveWatcher) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.topics))
	clear(w.topics)
	return strings.Join(names, " ")
}

// Each event is seen once: the horizon is the transaction below which all have ended, as the ledger's order has it.
const recordSince = `
select h.horizon::text as horizon, coalesce(e.action, '') as action, coalesce(e.write, false) as write,
  coalesce(e.challenge, false) as challenge
from (select pg_snapshot_xmin(pg_current_snapshot()) as horizon) h
left join lateral (
  select action, bool_or(phase <> 'started' and detail ->> 'method' in ('POST', 'PUT', 'DELETE') and detail ->> 'op' ~ '^[A-Z]') as write,
    bool_or(decision = 'challenge') as challenge
  from rgw.audit_events
  where xid >= $1::text::xid8 and xid < h.horizon and kind <> 'system'
  group by action
) e on true`

const recordHorizon = `select pg_snapshot_xmin(pg_current_snapshot())::text`

// watchRecord looks for what is new in the record while somebody listens.
func (a *API) watchRecord(ctx context.Context) {
	every := time.NewTicker(recordEvery)
	defer every.Stop()
	horizon := ""
	for {
		if horizon == "" || !a.live.anybody() {
			select {
			case <-ctx.Done():
				return
			case <-a.live.someone():
			}
			horizon = "" // what came while nobody listened is nobody's news
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		next, err := a.lookAtRecord(ctx, horizon)
		switch {
		case err == nil:
			horizon = next
		case ctx.Err() == nil:
			a.Log.WarnContext(ctx, "the record could not be looked at, so that consoles are not told of changes; it is tried again", "error", err)
		}
	}
}

// lookAtRecord tells what is new since a horizon, and returns the next one. Without one it only finds where to begin.
func (a *API) lookAtRecord(ctx context.Context, horizon string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, a.MaxWait)
	defer cancel()
	if horizon == "" {
		var next string
		err := a.DB.GetContext(ctx, &next, recordHorizon)
		return next, err
	}
	var rows []struct {
		Horizon string `db:"horizon"`
		Action  string `db:"action"`
		Write   bool   `db:"write"`
		Asked   bool   `db:"challenge"`
	}
	if err := a.DB.SelectContext(ctx, &rows, recordSince, horizon); err != nil {
		return horizon, err
	}
	topics := make(map[string]bool)
	for _, row := range rows {
		horizon = row.Horizon
		if row.Action != "" {
			topics["record"] = true
			if topic := topicOf(row.Action); topic != "" {
				topics[topic] = true
			}
			if row.Write {
				topics["rack"] = true
			}
			if row.Asked {
				topics["challenges"] = true
			}
		}
	}
	if len(topics) > 0 {
		a.live.tell(topics)
	}
	return horizon, nil
}

// topicOf says what an action of the gateway's own may have changed.
func topicOf(action string) string {
	resource, verb, _ := strings.Cut(action, ".")
	if verb == "list" || verb == "get" || verb == "read" {
		return ""
	}
	switch resource {
	case "user", "factor":
		return "people"
	case "token", "device":
		return "tokens"
	case "session":
		return "sessions"
	case "role":
		return "roles"
	case "setting":
		return "settings"
	case "step-up":
		return "challenges"
	}
	return ""
}

// Watch streams what has changed, until the client goes or its credential is no good any more.
func (a operations) Watch(ctx context.Context, _ WatchRequestObject) (WatchResponseObject, error) {
	x := exchangeIn(ctx)
	watcher, refused := a.live.join(principalKey(x.principal))
	if refused != nil {
		return nil, refused
	}
	return &liveStream{ctx: ctx, x: x, watcher: watcher}, nil
}

// liveStream is an answer that goes on.
type liveStream struct {
	ctx     context.Context
	x       *exchange
	watcher *liveWatcher
}

// VisitWatchResponse writes the stream.
func (s *liveStream) VisitWatchResponse(w http.ResponseWriter) error {
	defer s.x.a.live.leave(s.watcher)
	control := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no") // some fronts would gather it
	write := func(text string) bool {
		// What cannot have a deadline is a recorder in a test.
		_ = control.SetWriteDeadline(time.Now().Add(writePatient))
		if _, err := io.WriteString(w, text); err != nil { //nolint:gosec // an event stream, and names of what changed
			return false // the client is gone, and there is nobody to tell
		}
		return control.Flush() == nil
	}
	w.WriteHeader(http.StatusOK)
	if !write(fmt.Sprintf("retry: %d\n\n", streamRetry.Milliseconds())) {
		return nil
	}
	pulse := time.NewTicker(streamPulse)
	defer pulse.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return nil
		case <-s.watcher.over:
			return nil
		case <-pulse.C:
			if !s.good() || !write(": \n\n") {
				return nil
			}
		case <-s.watcher.wake:
			topics := s.watcher.take()
			if topics == "" {
				continue
			}
			if !s.good() || !write("event: changed\ndata: "+topics+"\n\n") {
				return nil
			}
		}
	}
}

// good reports whether the credential that opened the stream still is. That it cannot be looked up just now ends nothing:
// what is told is no secret, and everything that is asked for because of it is decided by itself.
func (s *liveStream) good() bool {
	ctx, cancel := context.WithTimeout(s.ctx, s.x.a.MaxWait)
	defer cancel()
	_, err := s.x.a.Credentials.Resolve(ctx, s.x.token)
	var refused *credential.RefusedError
	return !errors.As(err, &refused)
}
