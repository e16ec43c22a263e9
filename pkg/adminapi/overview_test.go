package adminapi_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/directory"
)

func TestTheOverviewShowsEachCallerTheFiguresThatTheyMayList(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.person("locked", "admin")
	w.person("scoped", "admin@web")
	w.person("nothing")
	must[directory.Role](t)(w.writer.CreateRole(t.Context(), console, directory.NewRole{Name: "auditor", Permissions: []string{"gateway:audit:read"}}))
	w.person("auditor", "auditor")
	w.session("admin")
	w.apiToken("pipeline", "admin", "admin", "cicd")
	must[directory.User](t)(w.writer.Lock(t.Context(), console, "locked@example.com", "left"))
	w.want(http.StatusForbidden, "no-permission", "auditor", "GET", "/users", nil)

	all := read[adminapi.Overview](t, w.want(http.StatusOK, "", "admin's session", "GET", "/overview", nil))
	if all.People == nil || all.People.Total != 5 || all.People.Locked != 1 || all.People.WithoutRole != 1 || all.People.Admins != 1 {
		t.Errorf("people: %+v", all.People)
	}
	if all.Sessions == nil || *all.Sessions != 1 || all.Tokens == nil || all.Tokens.Active != 1 || all.Tokens.Expiring != 0 || all.CliConnected == nil || !*all.CliConnected {
		t.Errorf("%+v", all)
	}
	if r := all.Record; r == nil || r.Events < 5 || r.Refusals != 1 || len(r.RefusalsByHour) != 24 || r.RefusalsByHour[23] != 1 || r.LastAt == nil || all.Deploys == nil {
		t.Errorf("the record: %+v", r)
	}
	for who, want := range map[string][4]bool{"auditor": {false, false, false, true}, "scoped": {}, "nothing": {}, "pipeline": {}} {
		o := read[adminapi.Overview](t, w.want(http.StatusOK, "", who, "GET", "/overview", nil))
		if got := [4]bool{o.Sessions != nil, o.People != nil, o.Tokens != nil, o.Record != nil && o.Deploys != nil}; got != want {
			t.Errorf("%s sees %v, want %v", who, got, want)
		}
		if (o.CliConnected == nil) != (who == "pipeline") {
			t.Errorf("%s: whether the CLI is connected is %v", who, o.CliConnected)
		}
	}
	// Looking leaves nothing in the record, so that it can be looked at whenever the record has grown.
	if events := w.since(func() { w.want(http.StatusOK, "", "admin", "GET", "/overview", nil) }); len(events) != 0 {
		t.Errorf("it left %v", events)
	}
}

func TestPermissionsOfTheGatewayAreToldOnlyWhereTheyAreOverAllApps(t *testing.T) {
	w := newWorld(t)
	w.person("scoped", "admin@web")
	me := read[adminapi.Me](t, w.want(http.StatusOK, "", "scoped", "GET", "/me", nil))
	if len(me.Permissions) == 0 {
		t.Fatal("an admin of one app may nothing")
	}
	for _, permission := range me.Permissions {
		if strings.HasPrefix(permission, "gateway:") {
			t.Errorf("an admin of one app is told to have %s, and is refused it", permission)
		}
	}
}

func TestPeopleAreFoundByRoleAndLock(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.person("one", "viewer@web", "ops")
	w.person("two", "viewer")
	must[directory.User](t)(w.writer.Lock(t.Context(), console, "two@example.com", "left"))
	for query, want := range map[string]string{
		"role=viewer": "one@example.com two@example.com", "role=ops": "one@example.com", "role=nosuch": "", "locked=true": "two@example.com",
		"locked=false": "admin@example.com one@example.com", "role=viewer&locked=false": "one@example.com",
	} {
		var got []string
		for _, u := range read[adminapi.UserPage](t, w.want(http.StatusOK, "", "admin", "GET", "/users?"+query, nil)).Items {
			got = append(got, u.Email)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

// listening is a stream that somebody reads.
type listening struct {
	t      *testing.T
	lines  chan string
	cancel context.CancelFunc
}

func (w *world) listen(t *testing.T, who string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := w.request(who, "GET", "/live", nil).WithContext(ctx)
	resp, err := w.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	l := &listening{t: t, lines: make(chan string, 100), cancel: cancel}
	go func() {
		defer close(l.lines)
		defer resp.Body.Close()
		scanner := bufio.NewScanner(resp.Body)
		for scanner.Scan() {
			l.lines <- scanner.Text()
		}
	}()
	if line := <-l.lines; !strings.HasPrefix(line, "retry: ") {
		t.Fatalf("it begins with %q", line)
	}
	return l
}

// hears waits until a topic was told, and returns false when the stream ends before.
func (l *listening) hears(topic string) bool {
	l.t.Helper()
	patience := time.After(time.Minute)
	for {
		select {
		case line, ok := <-l.lines:
			if !ok {
				return false
			}
			if data, is := strings.CutPrefix(line, "data: "); is {
				for _, word := range strings.Fields(data) {
					if word == topic {
						return true
					}
				}
			}
		case <-patience:
			l.t.Fatalf("nobody tells of %s", topic)
		}
	}
}

func TestWhoListensIsToldWhatHasChangedUntilTheyAreLocked(t *testing.T) {
	w := newWorld(t)
	w.person("keeper", "admin")
	w.person("viewer", "viewer")
	w.session("viewer")
	l := w.listen(t, "viewer's session")
	// The first look only finds where to begin, so the change is made until it is heard of.
	heard := make(chan bool)
	go func() { heard <- l.hears("roles") }()
	for made, n := false, 0; !made; n++ {
		w.want(http.StatusCreated, "", "keeper", "POST", "/roles", map[string]any{"name": "role-" + string(rune('a'+n%26)) + string(rune('a'+n/26)), "permissions": []string{"convox:app:list"}})
		select {
		case ok := <-heard:
			if !ok {
				t.Fatal("the stream ended")
			}
			made = true
		case <-time.After(200 * time.Millisecond):
		}
	}
	must[directory.User](t)(w.writer.SetRoles(t.Context(), console, "viewer@example.com", bindings(t, "ops")))
	if !l.hears("people") {
		t.Error("the stream ended by a change of roles")
	}
	must[directory.User](t)(w.writer.Lock(t.Context(), console, "viewer@example.com", "left"))
	for range l.lines { // it ends
	}
}

func TestStreamsEndWhenTheProcessIsStopped(t *testing.T) {
	w := newWorld(t)
	w.person("viewer", "viewer")
	l := w.listen(t, "viewer")
	w.api.StopBeingReady()
	for range l.lines { // it ends
	}
	w.want(http.StatusServiceUnavailable, "unavailable", "viewer", "GET", "/live", nil)
}

func TestNobodyListensWithoutBound(t *testing.T) {
	w := newWorld(t)
	w.person("viewer", "viewer")
	w.person("other", "viewer")
	var first *listening
	for range 20 {
		l := w.listen(t, "viewer")
		if first == nil {
			first = l
		}
	}
	w.want(http.StatusTooManyRequests, "too-many-streams", "viewer", "GET", "/live", nil)
	w.listen(t, "other")
	first.cancel()
	w.until(func() bool {
		r := w.request("viewer", "GET", "/live", nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp, err := w.server.Client().Do(r.WithContext(ctx))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}
