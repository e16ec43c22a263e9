package faults

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

// books is what clients saw, to be compared with what the rack saw and with what the log says.
type books struct {
	env *testenv.Env

	mu      sync.Mutex
	entries map[string]*entry // by key

	pending []func() // wait for requests in the background; the test's goroutine's own
}

// entry is one request, as its client saw it.
type entry struct {
	key    string
	shape  *shape
	status int    // 0 when no answer came
	code   string // of a refusal
	says   string // likewise
	id     string // the request's, as the answer named it; "" when it did not
	err    error  // why no answer came
}

// fromRack is whether the answer is the rack's own, passed on.
func (e *entry) fromRack() bool { return e.err == nil && e.code == "" && e.status != 0 }

// unrecorded is the code of the refusal that says that nothing can be recorded.
const unrecorded = "record-unavailable"

func newBooks(env *testenv.Env) *books {
	return &books{env: env, entries: make(map[string]*entry)}
}

func (b *books) note(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[e.key] = e
}

// keyForm finds a request's key wherever it stands.
var keyForm = regexp.MustCompile(`\bk[0-9]+-[0-9]+-[0-9]+\b`)

// keyOf is the key of a request at the rack.
func keyOf(r *racktest.Request) string {
	if key := keyForm.FindString(r.Path); key != "" {
		return key
	}
	return keyForm.FindString(r.Header.Get("Command"))
}

// allowance says what a test's fault excuses.
type allowance struct {
	// killed: a proxy that is killed takes with it what it had not answered yet. A write may lack its outcome then,
	// and a read that nobody was answered its record.
	killed bool
}

// events returns the whole log, oldest first, after every MAC was checked.
func (b *books) events(t *testing.T) []*audit.Event {
	t.Helper()
	key, err := audit.NewKey([]byte(b.env.MACKey()))
	if err != nil {
		t.Fatal(err)
	}
	var all []*audit.Event
	filter := audit.Filter{Limit: 1000}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		page, next, err := audit.List(ctx, b.env.DB, filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			switch {
			case e.WriterID == uuid.Nil && e.Action == "gateway.changed_outside": // by the test itself
			case !key.Verify(e):
				t.Errorf("event %s (%s %s) does not carry its writer's MAC", e.ID, e.Action, e.Phase)
			}
		}
		all = append(all, page...)
		if next == "" {
			slices.Reverse(all)
			return all
		}
		filter.Before = next
	}
}

// recorded is what the log says of one key.
type recorded struct {
	requests map[uuid.UUID]bool
	phases   map[audit.Phase]*audit.Event
	statuses []int
}

// close stops the proxies, so that each writes what it has left, compares the three sets, and prints the counts.
func (b *books) close(t *testing.T, allow allowance) {
	t.Helper()
	for _, wait := range b.pending {
		wait()
	}
	for _, p := range b.env.Proxies {
		if p.PID() == 0 {
			continue
		}
		if code := p.Stop(); code != 0 {
			t.Errorf("%s stopped with code %d", p.Name, code)
		}
		if log := p.Log(); strings.Contains(log, "panic") || strings.Contains(log, "not every record could be written") {
			t.Errorf("%s logged a panic, or that it lost records", p.Name)
		}
	}
	log := b.events(t)
	var problems trouble
	byKey := make(map[string]*recorded)
	checkWriters(log, &problems)
	for _, e := range log {
		key := keyForm.FindString(e.Detail.Path)
		if key == "" {
			key = keyForm.FindString(e.Detail.Params.Get("Command"))
		}
		if key == "" {
			continue
		}
		of := byKey[key]
		if of == nil {
			of = &recorded{requests: make(map[uuid.UUID]bool), phases: make(map[audit.Phase]*audit.Event)}
			byKey[key] = of
		}
		of.requests[e.RequestID] = true
		if before := of.phases[e.Phase]; before != nil && before.RequestID == e.RequestID {
			problems.add("recorded twice", "%s: %s", key, e.Phase)
		}
		of.phases[e.Phase] = e
		of.statuses = append(of.statuses, int(e.Status))
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	var answered, refused, unanswered, unsaid, uncounted int
	for key, e := range b.entries {
		switch {
		case e.err != nil:
			unanswered++
			continue
		case e.code == unrecorded:
			unsaid++
			continue
		case e.fromRack():
			answered++
		default:
			refused++
		}
		of := byKey[key]
		switch {
		case of == nil && e.code == "token-unknown": // of those only the first of an address are recorded one by one
			uncounted++
		case of == nil:
			problems.add("answered and not recorded", "%s %s: %d %s", key, e.shape.name, e.status, e.code)
		case e.code == "outcome-unknown" && of.phases[audit.PhaseStarted] != nil:
		case allow.killed && e.shape.late && of.phases[audit.PhaseStarted] != nil:
		case !slices.Contains(of.statuses, e.status):
			problems.add("recorded with another status", "%s %s: the client saw %d %s, the log has %v", key, e.shape.name, e.status, e.code, of.statuses)
		case e.id != "" && !of.has(e.id):
			problems.add("recorded under another id", "%s %s: %s", key, e.shape.name, e.id)
		}
	}

	for _, e := range log {
		if e.Action == "credential.refused" {
			uncounted -= int(e.Detail.Count)
		}
	}
	if uncounted > 0 {
		problems.add("refused and not counted", "%d wrong credentials", uncounted)
	}

	seen := make(map[string]int)
	var writes, reads, again, lostReads, lostOutcomes int
	for _, r := range b.env.Rack.Requests() {
		key := keyOf(&r)
		if key == "" {
			continue
		}
		e := b.entries[key]
		if e == nil {
			problems.add("at the rack and sent by nobody", "%s", key)
			continue
		}
		of := byKey[key]
		if r.Status == http.StatusUnauthorized { // the rack looks at the password first: it did nothing, and may be asked again
			continue
		}
		seen[key]++
		if !e.shape.write {
			reads++
			switch {
			case seen[key] == 2:
				again++
			case seen[key] > 2:
				problems.add("read more than twice at the rack", "%s", key)
			}
			if of == nil {
				if allow.killed && e.err != nil {
					lostReads++
				} else if e.code != unrecorded {
					problems.add("read at the rack and not recorded", "%s %s", key, e.shape.name)
				}
			}
			continue
		}
		writes++
		switch {
		case e.shape.late && seen[key] == 2: // a read all the same
			again++
		case seen[key] > 1:
			problems.add("written twice at the rack", "%s %s", key, e.shape.name)
		case e.code == unrecorded:
			problems.add("written at the rack and answered as not served", "%s %s", key, e.shape.name)
		case of == nil || of.phases[audit.PhaseStarted] == nil:
			problems.add("written at the rack and not recorded", "%s %s", key, e.shape.name)
		case of.phases[audit.PhaseStarted].OccurredAt.After(r.Time):
			problems.add("written at the rack before it was recorded", "%s %s", key, e.shape.name)
		}
	}
	for key, of := range byKey {
		if len(of.requests) > 1 {
			problems.add("several requests of one key", "%s", key)
		}
		if of.phases[audit.PhaseStarted] != nil && len(of.phases) == 1 {
			if lostOutcomes++; !allow.killed {
				problems.add("started and never finished", "%s", key)
			}
		}
	}
	problems.report(t)
	t.Logf("answers %d (refusals %d, unrecordable %d, none came %d); rack saw %d writes and %d reads (%d asked twice); events %d, of %d requests; "+
		"of killed proxies: outcomes missing %d, reads nobody was answered %d",
		answered, refused, unsaid, unanswered, writes, reads, again, len(log), len(byKey), lostOutcomes, lostReads)
}

func (r *recorded) has(id string) bool {
	parsed, err := uuid.Parse(id)
	return err == nil && r.requests[parsed]
}

// checkWriters checks that nothing is there twice and that each writer's numbers have no gaps.
func checkWriters(log []*audit.Event, problems *trouble) {
	ids := make(map[uuid.UUID]bool)
	numbers := make(map[uuid.UUID][]int64)
	for _, e := range log {
		if ids[e.ID] {
			problems.add("event id twice", "%s", e.ID)
		}
		ids[e.ID] = true
		if e.WriterID != uuid.Nil {
			numbers[e.WriterID] = append(numbers[e.WriterID], e.WriterSeq)
		}
	}
	for writer, list := range numbers {
		slices.Sort(list)
		for i, n := range list {
			if n != int64(i+1) {
				problems.add("gap or repetition in a writer's numbers", "%s has %d where %d should be, of %d", writer, n, i+1, len(list))
				break
			}
		}
	}
}

// trouble is what was found wrong, by sort.
type trouble map[string][]string

func (t *trouble) add(sort, format string, args ...any) {
	if *t == nil {
		*t = make(map[string][]string)
	}
	(*t)[sort] = append((*t)[sort], fmt.Sprintf(format, args...))
}

// report fails the test with a few of each sort.
func (t *trouble) report(test *testing.T) {
	test.Helper()
	for sort, list := range *t {
		test.Errorf("%s: %d, such as %s", sort, len(list), strings.Join(list[:min(len(list), 5)], "; "))
	}
}
