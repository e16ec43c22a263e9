package adminapi_test

import (
	"net/http"
	"sync"
	"testing"

	"rackgateway/pkg/adminapi"
)

// keyed is a request with an idempotency key.
func (w *world) keyed(who, key, method, path string, body any) answer {
	w.t.Helper()
	r := w.request(who, method, path, body)
	r.Header.Set("Idempotency-Key", key)
	return w.send(r)
}

func TestAWriteSentAgainIsAnsweredAsBeforeAndDoneOnce(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	body := map[string]any{"name": "ci", "bindings": []any{map[string]any{"role": "cicd", "app": "web"}}}
	var first, again answer
	events := w.since(func() {
		first = w.keyed("admin", "make-the-token", "POST", "/tokens", body)
		again = w.keyed("admin", "make-the-token", "POST", "/tokens", body)
	})
	if first.status != http.StatusCreated || again.status != first.status || again.body != first.body || again.header.Get("Content-Type") != "application/json" {
		t.Fatalf("first %d %s\nagain %d %s", first.status, first.body, again.status, again.body)
	}
	if first.header.Get("Idempotent-Replayed") != "" || again.header.Get("Idempotent-Replayed") != "true" {
		t.Error("nothing tells the answer of before from a new one")
	}
	if len(events) != 1 {
		t.Errorf("it left %v", events)
	}
	issued := read[adminapi.IssuedToken](t, first)
	var kept int
	if err := w.db.GetContext(t.Context(), &kept, `select count(*) from rgw.idempotency_keys where position(convert_to($1, 'UTF8') in answer) > 0`, issued.Secret); err != nil || kept != 0 {
		t.Errorf("the secret lies open in the database (%v)", err)
	}

	// Another key is another deed; a refusal is kept like any answer.
	conflict := w.keyed("admin", "make-another", "POST", "/tokens", body)
	if conflict.status != http.StatusConflict || conflict.problem(t).Code != "token-exists" {
		t.Fatalf("another key: %d %s", conflict.status, conflict.body)
	}
	if got := w.keyed("admin", "make-another", "POST", "/tokens", body); got.status != conflict.status || got.body != conflict.body || got.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the refusal again: %d %s", got.status, got.body)
	}
	if got := w.keyed("admin", "revoke-it", "DELETE", "/tokens/"+issued.Token.Id.String(), nil); got.status != http.StatusNoContent {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := w.keyed("admin", "revoke-it", "DELETE", "/tokens/"+issued.Token.Id.String(), nil); got.status != http.StatusNoContent || got.body != "" {
		t.Errorf("revoked again: %d %s", got.status, got.body)
	}
}

func TestAKeyIsOfOneRequestOfOnePrincipal(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.person("other", "admin")
	add := func(who, email string) answer {
		return w.keyed(who, "add-a-person", "POST", "/users", map[string]any{"email": email})
	}
	if got := add("admin", "ana@example.com"); got.status != http.StatusCreated {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := add("admin", "ben@example.com"); got.status != http.StatusUnprocessableEntity || got.problem(t).Code != "key-reused" {
		t.Errorf("another body: %d %s", got.status, got.body)
	}
	if got := add("other", "ben@example.com"); got.status != http.StatusCreated {
		t.Errorf("somebody else's key of the same text: %d %s", got.status, got.body)
	}
	if got := w.keyed("admin", "add-a-person", "POST", "/roles", map[string]any{"name": "r", "permissions": []string{"convox:app:list"}}); got.status != http.StatusCreated {
		t.Errorf("another operation: %d %s", got.status, got.body)
	}
	w.exec(`update rgw.idempotency_keys set created_at = now() - interval '25 hours'`)
	if got := add("admin", "carl@example.com"); got.status != http.StatusCreated {
		t.Errorf("a day later: %d %s", got.status, got.body)
	}
}

func TestManyAtOnceUnderOneKeyDoItOnce(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	var together sync.WaitGroup
	answers := make([]answer, 16)
	events := w.since(func() {
		for i := range answers {
			r := w.request("admin", "POST", "/users", map[string]any{"email": "ana@example.com"})
			r.Header.Set("Idempotency-Key", "add-ana-once")
			together.Go(func() { answers[i] = w.send(r) })
		}
		together.Wait()
	})
	made := 0
	for _, a := range answers {
		switch {
		case a.status == http.StatusCreated:
			made++
		case a.status != http.StatusConflict || a.problem(t).Code != "in-progress" || a.header.Get("Retry-After") == "":
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if made == 0 || len(events) != 1 {
		t.Errorf("%d say that they made it, and it left %v", made, events)
	}
}

func TestAKeyWhoseRequestWasCutOffIsNotDoneAgain(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	body := map[string]any{"email": "ana@example.com"}
	if got := w.keyed("admin", "add-ana-once", "POST", "/users", body); got.status != http.StatusCreated {
		t.Fatalf("%d %s", got.status, got.body)
	}
	w.exec(`update rgw.idempotency_keys set status = null, answer = null`) // as a process leaves it that is killed
	if got := w.keyed("admin", "add-ana-once", "POST", "/users", body); got.problem(t).Code != "in-progress" {
		t.Errorf("at once: %d %s", got.status, got.body)
	}
	w.exec(`update rgw.idempotency_keys set created_at = created_at - interval '5 minutes'`)
	if got := w.keyed("admin", "add-ana-once", "POST", "/users", body); got.status != http.StatusConflict || got.problem(t).Code != "outcome-unknown" {
		t.Errorf("later: %d %s", got.status, got.body)
	}
	w.exec(`update rgw.idempotency_keys set status = 201, answer = 'sealed by another key'`)
	if got := w.keyed("admin", "add-ana-once", "POST", "/users", body); got.problem(t).Code != "answer-lost" {
		t.Errorf("with a new APP_SECRET_KEY: %d %s", got.status, got.body)
	}
}

func TestAKeyIsNoWayAroundADemotion(t *testing.T) {
	w := newWorld(t)
	w.person("keeper", "admin")
	w.person("admin", "admin")
	body := map[string]any{"name": "ci", "bindings": []any{map[string]any{"role": "viewer", "app": "*"}}}
	if got := w.keyed("admin", "make-the-token", "POST", "/tokens", body); got.status != http.StatusCreated {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if _, err := w.writer.SetRoles(t.Context(), console, "admin@example.com", bindings(t, "viewer")); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool {
		return w.keyed("admin", "make-the-token", "POST", "/tokens", body).status == http.StatusForbidden
	})
}
