package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"rackgateway/pkg/rack"
	"rackgateway/pkg/secret"
)

// A password is what the rack is shown: the present one, and, while the rack's password is being changed,
// the next one, which takes over for good once the rack refuses the first.
type password struct {
	first, next shown

	current atomic.Pointer[shown]

	mu     sync.Mutex // guards the two below; never held across I/O
	probed time.Time  // when the rack last took the current one
	probe  *probe     // the probe under way
}

// shown is a password as the rack is shown it.
type shown struct {
	text   secret.Text
	header secret.Text // the value of Authorization
}

func showing(username string, text secret.Text) shown {
	return shown{text, secret.NewText("Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+text.Reveal())))}
}

type probe struct {
	done chan struct{}
	err  error
}

var errRackPassword = errors.New("the rack refused the gateway's password")

const (
	probeLife    = time.Second      // how long a probe's answer is believed while a next password waits
	probeTimeout = 10 * time.Second // how long requests wait for a probe
)

func (w *password) init(c Config) {
	w.first, w.next = showing(c.RackUsername, c.RackToken), showing(c.RackUsername, c.RackTokenNext)
	w.current.Store(&w.first)
}

// use puts the password on a request to the rack, in place of whatever is there.
func (w *password) use(h http.Header) {
	h["Authorization"] = []string{w.current.Load().header.Reveal()}
}

// changing reports whether a next password waits to be needed.
func (w *password) changing() bool {
	return !w.next.text.IsZero() && w.current.Load() == &w.first
}

// ready makes sure that the rack takes the password, while it is being changed. A body that streams cannot be sent
// again, and so goes by nothing that was found out before.
func (w *password) ready(x *exchange) *refusal {
	if !w.changing() {
		return nil
	}
	if x.match.Route.Body == rack.StreamBody {
		w.doubt()
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), probeTimeout)
	defer cancel()
	if err := w.settle(ctx, x.p); err != nil {
		return refuse(http.StatusBadGateway, "rack-password", "the rack refused the gateway's password, or could not be asked: try again, and tell an administrator if it goes on").because(err)
	}
	return x.confirm() // rights may have changed while it waited
}

// refused notes that the rack has just refused the password, so that the next request asks at once.
func (w *password) refused(p *Proxy) {
	p.Metrics.RackRefusals.Inc()
	w.doubt()
}

// doubt forgets what the last probe found out.
func (w *password) doubt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probed = time.Time{}
}

// replaced reports whether a request that the rack has just refused (401) carried a password that is not the one to show
// any more, because the rack's was changed meanwhile. Such a request may be sent once more: the rack looks at the
// password before anything else, so that nothing was done.
func (w *password) replaced(ctx context.Context, p *Proxy, sent http.Header) bool {
	if w.next.text.IsZero() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for range 2 { // a probe that was under way may have been answered before the change
		if !w.changing() {
			break
		}
		w.doubt()
		if w.settle(ctx, p) != nil {
			return false
		}
	}
	shown := sent["Authorization"]
	return len(shown) == 1 && shown[0] != w.current.Load().header.Reveal()
}

// settle finds out which password the rack takes. Several requests share one probe.
func (w *password) settle(ctx context.Context, p *Proxy) error {
	w.mu.Lock()
	if p.Now().Sub(w.probed) < probeLife {
		w.mu.Unlock()
		return nil
	}
	under := w.probe
	if under == nil {
		under = &probe{done: make(chan struct{})}
		w.probe = under
		go func() { //nolint:gosec // it serves several requests, so the context of none may end it
			ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
			defer cancel()
			under.err = w.try(ctx, p)
			w.mu.Lock()
			if under.err == nil {
				w.probed = p.Now()
			}
			w.probe = nil
			w.mu.Unlock()
			close(under.done)
		}()
	}
	w.mu.Unlock()
	select {
	case <-under.done:
		return under.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *password) try(ctx context.Context, p *Proxy) error {
	err := w.takes(ctx, p, &w.first)
	if !errors.Is(err, errRackPassword) {
		return err
	}
	if err := w.takes(ctx, p, &w.next); err != nil {
		return err
	}
	w.current.Store(&w.next)
	p.recordStart(ctx, &w.next)
	p.Log.Info("the rack has changed its password; RACK_TOKEN_NEXT is used from now on")
	return nil
}

// takes asks the rack whether it takes a password.
func (w *password) takes(ctx context.Context, p *Proxy, this *shown) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.rackURL("/auth", "", false).String(), nil)
	if err != nil {
		return err
	}
	req.Header["Authorization"] = []string{this.header.Reveal()}
	req.Header["User-Agent"] = ownUserAgent
	resp, err := p.Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return errRackPassword
	case resp.StatusCode >= 300:
		return errors.New("the rack answered " + resp.Status + " to a probe")
	}
	return nil
}
