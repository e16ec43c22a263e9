package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

// The account of a side: what its rack saw against what its gateway recorded. What must hold after everything a
// person does is
//
//	the rack saw ⊆ recorded, and the rest of what was recorded never reached it and says why
//	no event twice, no event missing in a writer's numbering
//	every request has exactly one end, and what may change something has a beginning before it

// own are requests that the gateway makes for itself: facts for its decisions, and the check of its password.
func own(r racktest.Request) bool {
	return r.Header.Get("Convox-Actor") == "rack-gateway" || r.Path == "/auth"
}

// notReached are the codes of outcomes of requests that may not have reached the rack, though they were let through.
var notReached = []string{"client-hung-up", "rack-failed", "rack-timeout", "body-cut", "record-unavailable"}

// answeredByGateway are the actions that never reach the rack.
var answeredByGateway = []string{"gateway.auth", "gateway.racks", "gateway.rack", "gateway.machines"}

// request is what was recorded of one request.
type request struct {
	id     string
	events []testenv.Event
}

func (r request) first() testenv.Event { return r.events[0] }
func (r request) last() testenv.Event  { return r.events[len(r.events)-1] }

// end is the event that tells the outcome, if there is one yet.
func (r request) end() (testenv.Event, bool) {
	for _, e := range r.events {
		if e.Phase != "started" {
			return e, true
		}
	}
	return testenv.Event{}, false
}

func (r request) String() string {
	e := r.first()
	var phases []string
	for _, e := range r.events {
		phases = append(phases, fmt.Sprintf("%s %d", e.Phase, e.Status))
	}
	return fmt.Sprintf("%s %s by %s (%s: %s)", e.Text("method"), e.Text("path"), e.ActorLabel, e.Action, strings.Join(phases, ", "))
}

// recorded are the requests of the audit log, oldest first.
func recorded(env *testenv.Env) []request {
	var out []request
	at := make(map[string]int)
	for _, e := range env.Events(testenv.Filter{}) {
		if e.RequestID == "" || e.Text("method") == "" {
			continue // not of a request
		}
		i, ok := at[e.RequestID]
		if !ok {
			i = len(out)
			at[e.RequestID] = i
			out = append(out, request{id: e.RequestID})
		}
		out[i].events = append(out[i].events, e)
	}
	return out
}

// secrets are texts that no record and no log line may hold: what a rack is seeded with, what scenarios set, and the
// credentials of everybody.
func secrets(env *testenv.Env) []string {
	out := []string{
		racktest.SeedAPIKey, "p-4c1d9e", racktest.SeedRegistryPassword, racktest.SeedDockerPassword, "config-value-19d2", racktest.SeedWebhookURL,
		settingSecret, registrySecret, env.RackPassword(), env.MACKey(),
	}
	for _, who := range testenv.People() {
		out = append(out, env.Token(who.Name))
	}
	return out
}

// What scenarios set, and must be recorded of them by its length alone.
const (
	settingSecret  = "s3cr3t-of-a-setting"
	registrySecret = "a password with % and = in it"
)

// account holds the log of an environment against its rack's journal. It waits for what is still under way: the
// records that follow an answer. No secret may be in it, nor in what the proxies logged.
func account(t *testing.T, env *testenv.Env) {
	t.Helper()
	for _, secret := range secrets(env) {
		for _, e := range env.Events(testenv.Filter{}) {
			if strings.Contains(string(e.Detail), secret) || strings.Contains(e.Resource, secret) {
				t.Errorf("a record of %s holds the secret %.8s…: %s", e.Action, secret, e.Detail)
			}
		}
		for _, p := range env.Proxies {
			if strings.Contains(p.Log(), secret) {
				t.Errorf("%s logged the secret %.8s…", p.Name, secret)
			}
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		wrong := settle(env)
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, w := range wrong[:min(len(wrong), 20)] {
				t.Error(w)
			}
			return
		}
		<-every.C
	}
}

// settle says what does not add up.
func settle(env *testenv.Env) (wrong []string) {
	events := env.Events(testenv.Filter{})
	wrong = append(wrong, numbering(events)...)

	type asked struct{ method, path string }
	type balance struct {
		saw      []int // statuses
		recorded []int
		perhaps  int
	}
	balances := make(map[asked]*balance)
	at := func(method, path string) *balance {
		key := asked{method, path}
		if balances[key] == nil {
			balances[key] = new(balance)
		}
		return balances[key]
	}
	for _, r := range env.Rack.Requests() {
		if !own(r) {
			b := at(r.Method, r.Path)
			b.saw = append(b.saw, r.Status)
		}
	}
	for _, r := range recorded(env) {
		wrong = append(wrong, phases(r)...)
		first := r.first()
		end, ended := r.end()
		if !ended || first.Decision != "allow" || slices.Contains(answeredByGateway, first.Action) {
			continue
		}
		b := at(first.Text("method"), first.Text("path"))
		if slices.Contains(notReached, end.Text("code")) {
			b.perhaps++
		} else {
			b.recorded = append(b.recorded, end.Status)
		}
	}
	for key, b := range balances {
		if len(b.saw) < len(b.recorded) || len(b.saw) > len(b.recorded)+b.perhaps {
			wrong = append(wrong, fmt.Sprintf("%s %s: the rack saw it %d times, and %d are recorded, with %d more that may not have reached it", key.method, key.path, len(b.saw), len(b.recorded), b.perhaps))
			continue
		}
		if b.perhaps == 0 {
			slices.Sort(b.saw)
			slices.Sort(b.recorded)
			if !slices.Equal(b.saw, b.recorded) {
				wrong = append(wrong, fmt.Sprintf("%s %s: the rack answered %v, and recorded is %v", key.method, key.path, b.saw, b.recorded))
			}
		}
	}
	return wrong
}

// numbering checks that each writer numbered its events from 1 without a gap, and that no event is there twice.
func numbering(events []testenv.Event) (wrong []string) {
	ids := make(map[string]bool)
	writers := make(map[string][]int64)
	for _, e := range events {
		if ids[e.ID] {
			wrong = append(wrong, fmt.Sprintf("event %s is there twice", e.ID))
		}
		ids[e.ID] = true
		if e.WriterID != nil && e.WriterSeq != nil {
			writers[*e.WriterID] = append(writers[*e.WriterID], *e.WriterSeq)
		}
	}
	for writer, numbers := range writers {
		slices.Sort(numbers)
		for i, n := range numbers {
			if n != int64(i+1) {
				wrong = append(wrong, fmt.Sprintf("writer %s: event %d of its numbering is missing or there twice", writer, i+1))
				break
			}
		}
	}
	return wrong
}

// phases checks that a request has the events that its kind must have.
func phases(r request) (wrong []string) {
	var told []string
	for _, e := range r.events {
		told = append(told, e.Phase)
		if e.ActorLabel != r.first().ActorLabel || e.Action != r.first().Action || e.App != r.first().App {
			wrong = append(wrong, fmt.Sprintf("%s: its events do not agree on who did what", r))
		}
	}
	got := strings.Join(told, " ")
	first := r.first()
	allowed := []string{"finished", "refused", "finished cut"}
	if first.Decision == "allow" && first.Text("method") != http.MethodGet && first.Text("method") != http.MethodHead && first.Text("method") != http.MethodOptions {
		allowed = []string{"started finished", "started finished cut"}
	} else if first.Phase == "started" {
		allowed = []string{"started finished", "started cut"}
	}
	if r.last().Text("code") == "record-unavailable" {
		// Its beginning was not durable in time, and was written all the same when the database was back.
		allowed = append(allowed, "started refused")
	}
	if !slices.Contains(allowed, got) {
		wrong = append(wrong, fmt.Sprintf("%s: its events are %q, and not one of %q", r, got, allowed))
	}
	return wrong
}
