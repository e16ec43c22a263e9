package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"rackgateway/pkg/racktest"
)

// A scenario is what somebody does with a CLI. It is run once on each side, and what they see must be the same.
type scenario struct {
	name string
	// quick has it run in `make test`.
	quick bool
	// only names the one kind that the scenario is for: commands that the tests' own client does not have, or that
	// the stock CLI cannot do without a console.
	only string
	opts sideOptions
	run  func(s *side)
}

// modes are the ways to the gateway that the nth scenario takes: all, or each in turn.
func modes(n int) []mode {
	all := []mode{gateway, console, prefix, environ, slash}
	if full {
		return all
	}
	return all[n%len(all) : n%len(all)+1]
}

// TestCommandsDoTheSameThroughTheGateway runs every scenario directly and through the gateway.
func TestCommandsDoTheSameThroughTheGateway(t *testing.T) {
	n := 0
	for _, sc := range scenarios() {
		for _, k := range kinds() {
			if !full && !sc.quick || sc.only != "" && sc.only != k.name {
				continue
			}
			ways := modes(n)
			n++
			t.Run(k.name+"/"+sc.name, func(t *testing.T) {
				t.Parallel()
				compare(t, k, sc, ways)
			})
		}
	}
}

// seen is what came of a scenario on one side.
type seen struct {
	text string   // what the person saw
	rack []string // what the rack was asked to do, in order
	read []string // what it was asked for, once each
}

// compare runs a scenario on all sides at once, and holds each against the direct one.
func compare(t *testing.T, k kind, sc scenario, ways []mode) {
	sides := append([]mode{direct}, ways...)
	all := make([]seen, len(sides))
	t.Run("sides", func(t *testing.T) {
		for i, m := range sides {
			t.Run(string(m), func(t *testing.T) {
				t.Parallel()
				s := newSide(t, k, m, sc.opts)
				sc.run(s)
				if s.env != nil {
					account(t, s.env)
					for _, r := range recorded(s.env) {
						if e := r.first(); e.ActorLabel != "ana@example.com" || e.ActorKind != "user" || e.Address == nil || e.Text("token_name") != "admin's laptop" {
							t.Errorf("%s: recorded by %s (%s) with the token %q from %v", r, e.ActorLabel, e.ActorKind, e.Text("token_name"), e.Address)
						}
					}
				}
				all[i] = seen{text: s.text()}
				all[i].rack, all[i].read = arrived(s.rack)
			})
		}
	})
	if t.Failed() {
		return
	}
	want := all[0]
	if want.text == "" {
		t.Fatal("the scenario did nothing")
	}
	t.Logf("what a person sees:\n%s\nwhat the rack is asked to do:\n%s", want.text, strings.Join(want.rack, "\n"))
	for i, m := range sides[1:] {
		got := all[i+1]
		if d := difference(want.text, got.text); d != "" {
			t.Errorf("%s: what a person sees differs\n%s", m, d)
		}
		if d := difference(strings.Join(want.rack, "\n"), strings.Join(got.rack, "\n")); d != "" {
			t.Errorf("%s: what the rack is asked to do differs\n%s", m, d)
		}
		if d := difference(strings.Join(want.read, "\n"), strings.Join(got.read, "\n")); d != "" {
			t.Errorf("%s: what the rack is asked for differs\n%s", m, d)
		}
	}
}

// onTheWay are the headers in which a request through the gateway may differ from a direct one: the credential, the
// name of the actor, what belongs to one connection, and what a CLI says to a console alone.
var onTheWay = map[string]bool{
	"Authorization": true, "Convox-Actor": true, "X-Convox-Actor": true, "Origin": true, "Sec-Websocket-Key": true,
	"Connection": true, "Rack": true, "Session": true, "Content-Length": true,
}

// arrived tells what reached a rack: writes with their bodies in order, reads and sockets once each.
func arrived(rack *racktest.Rack) (writes, reads []string) {
	once := make(map[string]bool)
	for _, r := range rack.Requests() {
		if own(r) || r.Path == "/machines" || r.Path == "/racks" || strings.HasPrefix(r.Path, "/racks/") {
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s?%s", r.Method, alike(strings.Replace(r.Path, "//", "/", 1)), r.Query)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			if !onTheWay[name] {
				fmt.Fprintf(&b, " %s=%q", name, r.Header[name])
			}
		}
		if r.Method == http.MethodGet {
			once[b.String()] = true
			continue
		}
		fmt.Fprintf(&b, " status %d", r.Status)
		if !strings.HasSuffix(r.Path, "/builds") && !strings.HasSuffix(r.Path, "/builds/import") {
			// The one names an object, whose name is made anew each time, and the other holds moments.
			fmt.Fprintf(&b, " body %d %s", r.BodyBytes, r.BodySHA256)
		}
		writes = append(writes, b.String())
	}
	return writes, slices.Sorted(maps.Keys(once))
}
