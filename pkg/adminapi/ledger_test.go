package adminapi_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
)

// keepLedger runs the ledger until the test ends, and waits until every event has its place.
func (w *world) keepLedger() {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{w.sequencer.Run, w.follower.Run} {
		go func() {
			_ = run(ctx)
			done <- struct{}{}
		}()
	}
	w.t.Cleanup(func() { stop(); <-done; <-done })
	w.placed()
}

// placed waits until every event has its place, and the follower knows.
func (w *world) placed() (size int64) {
	w.t.Helper()
	w.until(func() bool {
		var events, leaves int64
		if err := w.db.QueryRow(`select (select count(*) from rgw.audit_events), (select count(*) from rgw.ledger_leaves)`).Scan(&events, &leaves); err != nil {
			w.t.Fatal(err)
		}
		w.follower.Wake()
		size = leaves
		return events == leaves && w.follower.Size() == leaves
	})
	return size
}

func (a answer) into(t testing.TB, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), to); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

type foundEvent struct {
	ID    string `json:"id"`
	Actor string `json:"actor_label"`
	Act   string `json:"action"`
	Leaf  *int64 `json:"leaf_index"`
}

type foundPage struct {
	Items []foundEvent `json:"items"`
	Next  string       `json:"next"`
}

func TestASearchFindsEventsWithTheirPlaces(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.person("vic", "viewer")
	w.keepLedger()
	var page foundPage
	w.want(http.StatusOK, "", "ana", "GET", "/audit/events?q="+url.QueryEscape("action:user.add -resource:nobody since:1h"), nil).into(t, &page)
	if len(page.Items) != 2 {
		t.Fatalf("%d events, want the two people's: %+v", len(page.Items), page.Items)
	}
	for _, e := range page.Items {
		if e.Leaf == nil || e.Act != "user.add" {
			t.Errorf("%+v", e)
		}
	}
	// Page by page it is the same.
	var all []string
	for cursor := ""; ; {
		var page foundPage
		w.want(http.StatusOK, "", "ana", "GET", "/audit/events?limit=1&q=action%3Auser.*&cursor="+cursor, nil).into(t, &page)
		for _, e := range page.Items {
			all = append(all, e.ID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(all) < 2 {
		t.Errorf("page by page: %v", all)
	}
	w.want(http.StatusOK, "", "ana", "GET", "/audit/events?q="+url.QueryEscape("actor:nobody@example.com"), nil).into(t, &page)
	if len(page.Items) != 0 {
		t.Errorf("found of nobody: %+v", page.Items)
	}
	for q, column := range map[string]string{"actor:": "column 7", "a:b c": "column 1", `x "never closed`: "column 3", "status:x": "column 8", "app:web since:soon": "column 15"} {
		got := w.want(http.StatusBadRequest, "bad-search", "ana", "GET", "/audit/events?q="+url.QueryEscape(q), nil)
		if !strings.Contains(got.body, column+":") {
			t.Errorf("%s: %s, want %s", q, got.body, column)
		}
	}
	w.want(http.StatusBadRequest, "bad-parameter", "ana", "GET", "/audit/events?q=x&app=web", nil)
	for _, cursor := range []string{"x", "bm90aGluZw", base64.RawURLEncoding.EncodeToString([]byte("2026-11-23T00:00:00.000000Z '; drop table x"))} {
		w.want(http.StatusBadRequest, "bad-cursor", "ana", "GET", "/audit/events?q=x&cursor="+cursor, nil)
	}
}

func TestAProofLeadsFromAnEventToTheCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.keepLedger()
	var page foundPage
	w.want(http.StatusOK, "", "ana", "GET", "/audit/events?q=action%3Auser.add", nil).into(t, &page)
	var text struct {
		ledger.Proof

		Signed time.Time `json:"signed_at"`
	}
	w.want(http.StatusOK, "", "ana", "GET", "/audit/events/"+page.Items[0].ID+"/proof", nil).into(t, &text)
	var status struct {
		Keys   ledger.Keyring `json:"public_keys"`
		Size   int64          `json:"size"`
		Origin string         `json:"origin"`
	}
	w.want(http.StatusOK, "", "ana", "GET", "/audit/ledger", nil).into(t, &status)
	if status.Origin != "gateway.example.com/acme/staging" || status.Size == 0 || len(status.Keys) != 1 {
		t.Errorf("%+v", status)
	}
	if _, err := text.Check(status.Keys); err != nil {
		t.Error(err)
	}
	proof, err := json.Marshal(text.Proof)
	if err != nil {
		t.Fatal(err)
	}
	check := func(proof string) (verdict struct {
		Sound  bool   `json:"sound"`
		Reason string `json:"reason"`
	}) {
		w.want(http.StatusOK, "", "ana", "POST", "/audit/check", map[string]any{"proof": proof}).into(t, &verdict)
		return verdict
	}
	if v := check(string(proof)); !v.Sound {
		t.Error(v.Reason)
	}
	for name, forged := range map[string]string{
		"edited": strings.Replace(string(proof), "user.add", "user.adx", 1), "nonsense": "x", "empty": "{}",
		"path": strings.Replace(string(proof), `"path":["`, `"path":["AAAA`, 1), "checkpoint": strings.Replace(string(proof), "acme/staging", "acme/stagins", 1),
		"negative": strings.Replace(string(proof), `"leaf_index":`, `"leaf_index":-1`, 1),
	} {
		if v := check(forged); v.Sound || v.Reason == "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	w.want(http.StatusNotFound, "no-such-event", "ana", "GET", "/audit/events/0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f/proof", nil)

	// What the checkpoint and the consistency proof say is checked by package tlog alone.
	note := w.want(http.StatusOK, "", "ana", "GET", "/audit/checkpoint", nil).body
	before, err := ledger.ParseCheckpoint(note, status.Keys)
	if err != nil {
		t.Fatal(err)
	}
	w.placed()
	var consistency struct {
		Path       []string `json:"path"`
		Checkpoint string   `json:"checkpoint"`
	}
	w.want(http.StatusOK, "", "ana", "GET", "/audit/consistency?from="+strconv.FormatInt(before.N, 10), nil).into(t, &consistency)
	after, err := ledger.ParseCheckpoint(consistency.Checkpoint, status.Keys)
	if err != nil {
		t.Fatal(err)
	}
	var path tlog.TreeProof
	for _, text := range consistency.Path {
		hash, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		path = append(path, tlog.Hash(hash))
	}
	if err := tlog.CheckTree(path, after.N, after.Hash, before.N, before.Hash); err != nil {
		t.Error(err)
	}
	w.want(http.StatusBadRequest, "bad-parameter", "ana", "GET", "/audit/consistency?from=999999", nil)
}

// stream reads Server-Sent Events.
type stream struct {
	t     testing.TB
	lines *bufio.Scanner
	stop  func()
	id    int64 // the last
}

func (w *world) tail(who, query string, last int64) *stream {
	w.t.Helper()
	r := w.request(who, "GET", "/audit/tail"+query, nil)
	if last >= 0 {
		r.Header.Set("Last-Event-ID", strconv.FormatInt(last, 10))
	}
	ctx, stop := context.WithCancel(w.t.Context())
	resp, err := http.DefaultClient.Do(r.WithContext(ctx))
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		w.t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	w.t.Cleanup(stop)
	return &stream{t: w.t, lines: bufio.NewScanner(resp.Body), stop: stop, id: -1}
}

// next waits for an event.
func (s *stream) next() (e foundEvent, ok bool) {
	s.t.Helper()
	for s.lines.Scan() {
		if id, has := strings.CutPrefix(s.lines.Text(), "id: "); has {
			n, err := strconv.ParseInt(id, 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			s.id = n
		}
		if data, has := strings.CutPrefix(s.lines.Text(), "data: "); has {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				s.t.Fatal(err)
			}
			if e.Leaf == nil || *e.Leaf != s.id {
				s.t.Errorf("event %s with id %d has the place %v", e.ID, s.id, e.Leaf)
			}
			return e, true
		}
	}
	return foundEvent{}, false
}

func TestATailLosesAndDoublesNothingOverDrops(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.keepLedger()
	s := w.tail("ana", "?q=action%3Auser.add", -1)
	var want, got []string
	add := func(n int) {
		for range n {
			name := fmt.Sprintf("p%d", len(want))
			want = append(want, name+"@example.com")
			w.person(name, "viewer")
		}
	}
	read := func(n int) {
		for range n {
			e, ok := s.next()
			if !ok {
				t.Fatal("the stream ended")
			}
			got = append(got, e.ID)
		}
	}
	add(3)
	read(2)
	last := s.id
	s.stop()
	add(3)
	s = w.tail("ana", "?q=action%3Auser.add", last)
	add(2)
	read(6)
	seen := make(map[string]bool)
	for _, id := range got {
		if seen[id] {
			t.Errorf("event %s came twice", id)
		}
		seen[id] = true
	}
	if len(got) != len(want) {
		t.Errorf("%d events for %d", len(got), len(want))
	}
	// From the very first place on, which has none before it.
	first := w.tail("ana", "?q=kind%3Aall&after=-1", -1)
	if _, ok := first.next(); !ok || first.id != 0 {
		t.Errorf("the first place is %d", first.id)
	}
	first.stop()
	again := w.tail("ana", "?q=kind%3Aall&after=-1", first.id)
	if _, ok := again.next(); !ok || again.id != 1 {
		t.Errorf("behind the first place comes %d", again.id)
	}
	w.want(http.StatusBadRequest, "bad-parameter", "ana", "GET", "/audit/tail?after=-2", nil)
	for _, forged := range []string{"999999", "18446744073709551615", "x", "-1", "1 or 1=1", "+1", "01", "-0", "1e3", "0x1"} {
		r := w.request("ana", "GET", "/audit/tail", nil)
		r.Header.Set("Last-Event-ID", forged)
		if got := w.send(r); got.status != http.StatusBadRequest {
			t.Errorf("Last-Event-ID %s: %d %s", forged, got.status, got.body)
		}
	}
}

func TestATailEndsWhenItsReaderMayReadNoMore(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	second := w.person("ben", "admin")
	w.keepLedger()
	s := w.tail("ben", "", -1)
	if _, err := w.writer.Lock(t.Context(), console, second.Email, "left"); err != nil {
		t.Fatal(err)
	}
	w.person("more", "viewer") // which ben must not be shown once the lock is known
	for {
		e, ok := s.next()
		if !ok {
			break
		}
		if e.Act == "user.add" {
			t.Errorf("shown after the lock: %+v", e)
		}
	}
}

func TestAnExportHasCheckpointAndProofs(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.person("vic", "viewer")
	w.keepLedger()
	got := w.want(http.StatusOK, "", "ana", "GET", "/audit/export?q=kind%3Aall", nil)
	lines := strings.Split(strings.TrimSuffix(got.body, "\n"), "\n")
	var first struct {
		Checkpoint string         `json:"checkpoint"`
		Keys       ledger.Keyring `json:"public_keys"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	c, err := ledger.ParseCheckpoint(first.Checkpoint, first.Keys)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(lines)-1) != c.N {
		t.Errorf("%d events under a checkpoint of %d", len(lines)-1, c.N)
	}
	for i, line := range lines[1:] {
		var e struct {
			Index int64           `json:"leaf_index"`
			Event json.RawMessage `json:"event"`
			Path  []tlog.Hash     `json:"path"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Index != int64(i) {
			t.Errorf("line %d has the place %d", i, e.Index)
		}
		if err := tlog.CheckRecord(e.Path, c.N, c.Hash, e.Index, tlog.RecordHash(e.Event)); err != nil {
			t.Errorf("leaf %d: %v", e.Index, err)
		}
	}
	got = w.want(http.StatusOK, "", "ana", "GET", "/audit/export?format=csv&q=action%3Auser.add", nil)
	rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || rows[0][0] != "leaf_index" || rows[1][10] != "user.add" {
		t.Errorf("%v", rows)
	}
	w.want(http.StatusForbidden, "no-permission", "vic", "GET", "/audit/export", nil)
}

// lockingWriter has something happen once the answer has begun.
type lockingWriter struct {
	*httptest.ResponseRecorder
	once func()
}

func (l *lockingWriter) Write(b []byte) (int, error) {
	defer func() {
		if l.once != nil {
			l.once()
			l.once = nil
		}
	}()
	return l.ResponseRecorder.Write(b)
}

func TestAnExportEndsWhenItsReaderMayReadNoMore(t *testing.T) {
	for _, format := range []string{"csv", "jsonl"} {
		t.Run(format, func(t *testing.T) {
			w := newWorld(t)
			w.person("keeper", "admin")
			ben := w.person("ben", "admin")
			for range 100 {
				w.want(http.StatusOK, "", "keeper", "GET", "/audit/events", nil)
			}
			w.keepLedger()
			answer := &lockingWriter{ResponseRecorder: httptest.NewRecorder(), once: func() {
				must[directory.User](t)(w.writer.Lock(t.Context(), console, ben.Email, "left"))
				w.hear()
			}}
			cut := false
			func() {
				defer func() { cut = recover() == http.ErrAbortHandler }() //nolint:errorlint // net/http compares so
				request := w.request("ben", "GET", "/audit/export?q=kind%3Aall&format="+format, nil)
				request.RemoteAddr, request.Body = "192.0.2.1:1234", http.NoBody
				w.api.ServeHTTP(answer, request)
			}()
			if !cut {
				t.Errorf("an export of %d bytes went on after the lock", answer.Body.Len())
			}
		})
	}
}

func TestHoldsArePlacedAndLifted(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "admin")
	w.apiToken("robot", "ana", "ana", "admin")
	var hold struct {
		ID string `json:"id"`
	}
	w.want(http.StatusCreated, "", "robot", "POST", "/audit/holds", map[string]any{"since": "2026-01-01", "until": "2026-03-31", "reason": "case 17"}).into(t, &hold)
	w.want(http.StatusBadRequest, "bad-body", "robot", "POST", "/audit/holds", map[string]any{"since": "2026-03-01", "until": "2026-01-31", "reason": "case 17"})
	w.want(http.StatusNoContent, "", "robot", "DELETE", "/audit/holds/"+hold.ID, nil)
	w.want(http.StatusNotFound, "no-such-hold", "robot", "DELETE", "/audit/holds/"+hold.ID, nil)
	w.want(http.StatusAccepted, "", "robot", "POST", "/audit/verifications", nil)
	if w.verifications != 1 {
		t.Error("nothing was begun")
	}
	w.want(http.StatusConflict, "no-bucket", "robot", "POST", "/audit/anchors", nil)
}
