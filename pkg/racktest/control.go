// The control endpoint: faults, the journal and the listeners of a rack that runs in another process.

package racktest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// ControlFault is a Fault as JSON. Durations are written as Go does: 150ms, 2s.
type ControlFault struct {
	ID            int               `json:"id,omitempty"`
	Hits          int               `json:"hits,omitempty"`
	Method        string            `json:"method,omitempty"`
	Path          string            `json:"path,omitempty"`
	Skip          int               `json:"skip,omitempty"`
	Times         int               `json:"times,omitempty"`
	Delay         string            `json:"delay,omitempty"`
	Hang          bool              `json:"hang,omitempty"`
	Drop          bool              `json:"drop,omitempty"`
	Reset         bool              `json:"reset,omitempty"`
	Lose          bool              `json:"lose,omitempty"`
	Raw           string            `json:"raw,omitempty"`
	Status        int               `json:"status,omitempty"`
	Header        map[string]string `json:"header,omitempty"`
	Body          string            `json:"body,omitempty"`
	Garbage       int               `json:"garbage,omitempty"`
	ContentLength *int64            `json:"contentLength,omitempty"`
	Stall         string            `json:"stall,omitempty"`
	StallAfter    int64             `json:"stallAfter,omitempty"`
	Cut           bool              `json:"cut,omitempty"`
	CutAfter      int64             `json:"cutAfter,omitempty"`
}

// ControlState is the answer of GET /state.
type ControlState struct {
	Requests    int64            `json:"requests"`
	OpenSockets int              `json:"openSockets"`
	Routes      map[string]int64 `json:"routes"`
}

// ControlHandler serves the control endpoint. It has no authentication: bind it to loopback. It panics unless
// Options.Control is set.
//
//	POST   /faults                 a ControlFault, answered with its id
//	GET    /faults                 the armed ones with their hits
//	DELETE /faults, /faults/{id}
//	POST   /faults/{id}/release    let go what hangs in it
//	GET    /requests?after=ID      the journal; DELETE forgets it
//	GET    /state                  a ControlState
//	POST   /refuse, /accept        stop listening (connections are refused), and listen again
//	POST   /objects?app=A&key=K&size=N&seed=S   store N repeatable bytes, without sending them
func (r *Rack) ControlHandler() http.Handler {
	if !r.opts.Control {
		panic("racktest: Options.Control is not set")
	}
	m := http.NewServeMux()
	m.HandleFunc("POST /faults", r.controlInject)
	m.HandleFunc("GET /faults", r.controlFaults)
	m.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		r.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	m.HandleFunc("DELETE /faults/{id}", r.onFault(func(a *armed) { r.faults.clear(a.id) }))
	m.HandleFunc("POST /faults/{id}/release", r.onFault((*armed).release))
	m.HandleFunc("GET /requests", func(w http.ResponseWriter, req *http.Request) {
		after, _ := strconv.ParseInt(req.URL.Query().Get("after"), 10, 64)
		out := []Request{}
		for _, e := range r.Requests() {
			if e.ID > after {
				out = append(out, e)
			}
		}
		writeJSON(w, http.StatusOK, out)
	})
	m.HandleFunc("DELETE /requests", func(w http.ResponseWriter, _ *http.Request) {
		r.ClearJournal()
		w.WriteHeader(http.StatusNoContent)
	})
	m.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, ControlState{Requests: r.RequestCount(), OpenSockets: r.OpenSockets(), Routes: r.RouteCounts()})
	})
	m.HandleFunc("POST /refuse", r.onServers((*Server).Refuse))
	m.HandleFunc("POST /accept", r.onServers((*Server).Accept))
	m.HandleFunc("POST /objects", func(w http.ResponseWriter, req *http.Request) {
		q := req.URL.Query()
		size, err := strconv.ParseInt(q.Get("size"), 10, 64)
		seed, seedErr := strconv.ParseUint(q.Get("seed"), 10, 64)
		if err := errors.Join(err, seedErr); err != nil || size < 0 {
			http.Error(w, "size and seed must be numbers", http.StatusBadRequest)
			return
		}
		if err := r.PutObject(q.Get("app"), q.Get("key"), RandomBytes(size, seed)); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return m
}

func (r *Rack) controlInject(w http.ResponseWriter, req *http.Request) {
	var cf ControlFault
	dec := json.NewDecoder(io.LimitReader(req.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&cf); err != nil {
		http.Error(w, fmt.Sprintf("reading the fault: %s", err), http.StatusBadRequest)
		return
	}
	delay, err := optionalDuration(cf.Delay)
	stall, stallErr := optionalDuration(cf.Stall)
	if err := errors.Join(err, stallErr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := r.faults.add(Fault{
		Method: cf.Method, Path: cf.Path, Skip: cf.Skip, Times: cf.Times, Delay: delay, Hang: cf.Hang,
		Drop: cf.Drop, Reset: cf.Reset, Lose: cf.Lose, Raw: cf.Raw, Status: cf.Status, Header: cf.Header, Body: cf.Body,
		Garbage: cf.Garbage, ContentLength: cf.ContentLength, Stall: stall, StallAfter: cf.StallAfter, Cut: cf.Cut, CutAfter: cf.CutAfter,
	})
	cf.ID = a.id
	writeJSON(w, http.StatusCreated, cf)
}

func (r *Rack) controlFaults(w http.ResponseWriter, _ *http.Request) {
	r.faults.mu.Lock()
	out := make([]ControlFault, 0, len(r.faults.list))
	for _, a := range r.faults.list {
		out = append(out, ControlFault{ID: a.id, Hits: a.hits, Method: a.Method, Path: a.Path})
	}
	r.faults.mu.Unlock()
	writeJSON(w, http.StatusOK, out)
}

func (r *Rack) onFault(fn func(*armed)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		id, err := strconv.Atoi(req.PathValue("id"))
		a := r.faults.find(id)
		if err != nil || a == nil {
			http.Error(w, "no such fault", http.StatusNotFound)
			return
		}
		fn(a)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (r *Rack) onServers(fn func(*Server) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		r.serverMu.Lock()
		servers := append([]*Server(nil), r.servers...)
		r.serverMu.Unlock()
		for _, s := range servers {
			if err := fn(s); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func optionalDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return time.ParseDuration(s)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) //nolint:errcheck,errchkjson // the client is gone, then
}
