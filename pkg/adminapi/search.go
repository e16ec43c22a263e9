package adminapi

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

// search reads a search, and tells where it cannot be read.
func (a *API) search(q *string) (*audit.Query, error) {
	query, err := audit.ParseQuery(text(q), a.Now())
	var bad *audit.QueryError
	if errors.As(err, &bad) {
		p := malformed("bad-search", "the search cannot be read, at column %d: %s", bad.Column, bad.What)
		p.Field = "q"
		return nil, p
	}
	return query, err
}

// searchEvents finds a page of the record. That it was read, and what was looked for, is recorded before anything is shown.
func (a operations) searchEvents(ctx context.Context, p ListEventsParams) (ListEventsResponseObject, error) {
	for _, other := range []bool{p.Actor != nil, p.App != nil, p.Action != nil, p.Decision != nil, p.Phase != nil, p.Kind != nil, p.Since != nil, p.Until != nil, p.RequestId != nil} {
		if other {
			return nil, badParameter("q", "takes the place of the other parameters: write them into it")
		}
	}
	query, err := a.search(p.Q)
	if err != nil {
		return nil, err
	}
	limit := limitOf(p.Limit)
	if limit == 0 {
		limit = 100
	}
	params := []string{"q", *p.Q, "limit", strconv.Itoa(limit)}
	if p.Cursor != nil {
		params = append(params, "goes_on", "true")
	}
	if err := exchangeIn(ctx).record(ctx, "", params...); err != nil {
		return nil, err
	}
	page, err := query.Search(ctx, a.DB, audit.Cursor(text(p.Cursor)), limit)
	if err != nil {
		return nil, err
	}
	out := EventPage{Items: make([]Event, len(page.Events)), Next: next(string(page.Next))}
	for i, e := range page.Events {
		out.Items[i] = eventOf(e)
	}
	if !page.SearchedTo.IsZero() {
		out.SearchedTo = &page.SearchedTo
	}
	if err := a.places(ctx, page.Events, out.Items); err != nil {
		return nil, err
	}
	return ListEvents200JSONResponse(out), nil
}

// tails counts who follows the record.
type tails struct {
	mu    sync.Mutex
	count map[string]int
	all   int
}

// How many tails one principal may have, and all together.
const (
	mostTailsEach = 20
	mostTails     = 500
)

func (t *tails) begin(who string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == nil {
		t.count = make(map[string]int)
	}
	if t.all >= mostTails || t.count[who] >= mostTailsEach {
		return false
	}
	t.all++
	t.count[who]++
	return true
}

func (t *tails) end(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.count[who]--; t.count[who] == 0 {
		delete(t.count, who)
	}
}

// TailEvents streams events as they get their places.
func (a operations) TailEvents(ctx context.Context, in TailEventsRequestObject) (TailEventsResponseObject, error) {
	x := exchangeIn(ctx)
	query, err := a.search(in.Params.Q)
	if err != nil {
		return nil, err
	}
	known := a.Ledger.Follower.Size()
	if known < 0 {
		if known, err = ledger.Size(ctx, a.DB); err != nil {
			return nil, err
		}
	}
	from, given, name := known, "", "after"
	switch {
	case in.Params.LastEventID != nil: // which a browser sends again and again, whatever the address says
		given, name = *in.Params.LastEventID, "Last-Event-ID"
		last, err := placeOf(given)
		if err != nil {
			return nil, badParameter("Last-Event-ID", "is not a place in the ledger")
		}
		from = last + 1
	case in.Params.After != nil:
		given = strconv.FormatInt(*in.Params.After, 10)
		from = *in.Params.After + 1
	}
	if from > known {
		size, err := ledger.Size(ctx, a.DB) // the follower may be a moment behind
		if err != nil {
			return nil, err
		}
		if from > size {
			return nil, badParameter(name, fmt.Sprintf("is %s, beyond the ledger, which has %d places: leave it out to begin with what is new", given, size))
		}
	}
	recording, cancel := context.WithTimeout(ctx, a.MaxWait)
	defer cancel()
	if err := query.Resolve(recording, a.DB); err != nil {
		return nil, err
	}
	if err := x.record(recording, "", "q", text(in.Params.Q), "after", given); err != nil {
		return nil, err
	}
	who := principalKey(x.principal)
	if !a.tails.begin(who) {
		return nil, refuse(http.StatusTooManyRequests, "too-many-tails", "you follow the record %d times already: close some", mostTailsEach)
	}
	return &tail{a: a.API, x: x, ctx: ctx, query: query, from: from, who: who}, nil
}

// placeOf reads a place in the ledger as messages' ids spell it.
func placeOf(text string) (int64, error) {
	place, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (place < 0 || strconv.FormatInt(place, 10) != text) {
		err = strconv.ErrSyntax
	}
	return place, err
}

// tail is an answer that goes on.
type tail struct {
	a     *API
	x     *exchange
	ctx   context.Context // of the request
	query *audit.Query
	from  int64
	who   string
}

// tailPing is how often a tail without news shows that it lives, and whoever reads it is looked at anew.
const tailPing = 10 * time.Second

// VisitTailEventsResponse streams.
func (t *tail) VisitTailEventsResponse(w http.ResponseWriter) error {
	defer t.a.tails.end(t.who)
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with this function
		select {
		case <-t.a.stopping:
			cancel()
		case <-stop:
		}
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold it back
	controller := http.NewResponseController(w)
	out := bufio.NewWriterSize(w, 32<<10)
	flush := func() error {
		_ = controller.SetWriteDeadline(time.Now().Add(t.a.MaxWait)) // a reader that does not read is not waited for
		if err := out.Flush(); err != nil {
			return err
		}
		return controller.Flush()
	}
	fmt.Fprintf(out, "retry: 1000\nid: %d\n\n", max(t.from-1, 0))
	if t.from == 0 { // there is no place before the first
		out.Reset(w)
		fmt.Fprint(out, "retry: 1000\n\n")
	}
	if err := flush(); err != nil {
		return nil
	}
	for {
		waiting, done := context.WithTimeout(ctx, tailPing)
		entries, err := t.a.Ledger.Follower.Next(waiting, t.from)
		done()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			fmt.Fprint(out, ": nothing new\n\n")
		case err != nil:
			t.a.Log.Warn("a live tail was cut off; its reader comes back", "request", t.x.id, "error", err)
			return nil
		}
		if !t.x.stillAllowed(ctx) {
			return nil
		}
		sent := false
		for _, e := range entries {
			t.from = e.Index + 1
			if sent = !e.Gone && t.query.Match(&e.Event); sent {
				one := eventOf(&e.Event)
				one.LeafIndex = &e.Index
				data, err := json.Marshal(one)
				if err != nil {
					return nil
				}
				fmt.Fprintf(out, "id: %d\ndata: %s\n\n", e.Index, data)
			}
		}
		if len(entries) > 0 && !sent { // so that a reader that comes back goes on here
			fmt.Fprintf(out, "id: %d\n\n", t.from-1)
		}
		if err := flush(); err != nil {
			return nil
		}
	}
}

// stillAllowed decides anew whether a stream may go on: its reader may have lost the right, or the credential.
func (x *exchange) stillAllowed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, x.a.MaxWait)
	defer cancel()
	entry, err := x.a.Credentials.Resolve(ctx, x.token)
	if err != nil {
		return false
	}
	decision := access.Decide(entry.Principal, access.Request{Rule: x.op.Rule, Source: x.address}, access.Facts{}, x.a.Credentials.Settings(), access.Factor{})
	return decision.Effect == access.Allow
}

// ExportEvents streams all that a search finds.
func (a operations) ExportEvents(ctx context.Context, in ExportEventsRequestObject) (ExportEventsResponseObject, error) {
	query, err := a.search(in.Params.Q)
	if err != nil {
		return nil, err
	}
	exporter, err := ledger.NewExporter(ctx, a.DB)
	if err != nil {
		return nil, err
	}
	if exporter == nil {
		return nil, errNoCheckpoint()
	}
	format := text(in.Params.Format)
	if format == "" {
		format = "jsonl"
	}
	recording, cancel := context.WithTimeout(ctx, a.MaxWait)
	defer cancel()
	if err := exchangeIn(ctx).record(recording, "", "q", text(in.Params.Q), "format", format, "size", strconv.FormatInt(exporter.Checkpoint.N, 10)); err != nil {
		return nil, err
	}
	return &export{a: a.API, x: exchangeIn(ctx), ctx: ctx, query: query, exporter: exporter, csv: format == "csv", proofs: in.Params.Proofs == nil || *in.Params.Proofs}, nil
}

// export is an answer of any size.
type export struct {
	a        *API
	x        *exchange
	ctx      context.Context // of the request
	query    *audit.Query
	exporter *ledger.Exporter
	csv      bool
	proofs   bool
}

// VisitExportEventsResponse streams. An export that breaks off ends without its last line's end, and its connection is
// cut, so that nobody takes it for the whole.
func (e *export) VisitExportEventsResponse(w http.ResponseWriter) error {
	name := "audit-" + e.a.Now().UTC().Format("20060102T150405Z")
	kind := "application/jsonl"
	if e.csv {
		kind, name = "text/csv; charset=utf-8", name+".csv"
	} else {
		name += ".jsonl"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	w.Header().Set("Gateway-Checkpoint", base64.StdEncoding.EncodeToString([]byte(e.exporter.Checkpoint.Note)))
	controller := http.NewResponseController(w)
	to := &patientWriter{w: w, controller: controller, patience: e.a.MaxWait, allowed: func() bool { return e.x.stillAllowed(e.ctx) }}
	var err error
	if e.csv {
		err = WriteCSV(e.ctx, to, e.exporter, e.query, e.proofs)
	} else {
		err = WriteJSONLines(e.ctx, to, e.exporter, e.query, e.proofs)
	}
	if err != nil {
		if e.ctx.Err() == nil {
			e.a.Log.Warn("an export was cut off", "request", e.x.id, "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	return nil
}

// patientWriter gives each write a deadline of its own, and writes no more for somebody who may not have it any more.
type patientWriter struct {
	w          io.Writer
	controller *http.ResponseController
	patience   time.Duration
	allowed    func() bool
}

var errNoLongerAllowed = errors.New("whoever asked for it may not have it any more")

// Write writes, or gives up.
func (p *patientWriter) Write(b []byte) (int, error) {
	if !p.allowed() {
		return 0, errNoLongerAllowed
	}
	_ = p.controller.SetWriteDeadline(time.Now().Add(p.patience))
	return p.w.Write(b)
}

// WriteJSONLines writes what a search finds: a line with the checkpoint and the public keys, and one for each event.
func WriteJSONLines(ctx context.Context, w io.Writer, x *ledger.Exporter, q *audit.Query, proofs bool) error {
	out := bufio.NewWriterSize(w, 64<<10)
	first, err := json.Marshal(map[string]any{"checkpoint": x.Checkpoint.Note, "origin": x.Checkpoint.Origin, "size": x.Checkpoint.N, "public_keys": x.Keys})
	if err != nil {
		return err
	}
	if _, err := out.Write(append(first, '\n')); err != nil {
		return err
	}
	var line []byte
	err = x.Each(ctx, q, func(e *ledger.Entry) error {
		line = append(line[:0], `{"leaf_index":`...)
		line = strconv.AppendInt(line, e.Index, 10)
		line = append(line, `,"event":`...)
		line = e.Event.AppendCanonical(line)
		if proofs {
			path, err := x.Path(e.Index)
			if err != nil {
				return err
			}
			line = append(line, `,"path":[`...)
			for i := range path {
				if i > 0 {
					line = append(line, ',')
				}
				line = append(line, '"')
				line = base64.StdEncoding.AppendEncode(line, path[i][:])
				line = append(line, '"')
			}
			line = append(line, ']')
		}
		line = append(line, "}\n"...)
		_, err := out.Write(line)
		return err
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// csvColumns are those of an export as CSV.
var csvColumns = []string{
	"leaf_index", "occurred_at", "event_id", "request_id", "kind", "phase", "decision", "actor_kind", "actor_id", "actor_label",
	"action", "app", "resource", "status", "address", "writer_id", "writer_seq", "detail", "leaf_hash", "path",
}

// WriteCSV writes what a search finds as CSV (RFC 4180).
func WriteCSV(ctx context.Context, w io.Writer, x *ledger.Exporter, q *audit.Query, proofs bool) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvColumns); err != nil {
		return err
	}
	err := x.Each(ctx, q, func(e *ledger.Entry) error {
		v := &e.Event
		address := ""
		if v.Address.IsValid() {
			address = v.Address.String()
		}
		path := ""
		if proofs {
			hashes, err := x.Path(e.Index)
			if err != nil {
				return err
			}
			path = joinPath(hashes)
		}
		return out.Write([]string{
			strconv.FormatInt(e.Index, 10), v.OccurredAt.Format(time.RFC3339Nano), v.ID.String(), v.RequestID.String(), string(v.Kind), string(v.Phase),
			string(v.Decision), string(v.ActorKind), cell(v.ActorID), cell(v.ActorLabel), cell(v.Action), cell(v.App), cell(v.Resource),
			strconv.Itoa(int(v.Status)), address, v.WriterID.String(), strconv.FormatInt(v.WriterSeq, 10), string(v.DetailJSON()),
			base64.StdEncoding.EncodeToString(e.Hash[:]), path,
		})
	})
	if err != nil {
		return err
	}
	out.Flush()
	return out.Error()
}

func joinPath(path []tlog.Hash) string {
	parts := make([]string, len(path))
	for i := range path {
		parts[i] = base64.StdEncoding.EncodeToString(path[i][:])
	}
	return strings.Join(parts, " ")
}

// cell keeps a spreadsheet from taking a text for a formula.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
