package adminapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/adminapi"
)

// good makes a value that fits a schema, as far as a value alone can.
func good(s *adminapi.Schema) any {
	s = s.Follow()
	if len(s.OneOf) > 0 {
		return good(s.OneOf[0])
	}
	switch s.Type {
	case "object":
		members := map[string]any{}
		for _, name := range s.Required {
			members[name] = good(s.Properties[name])
		}
		return members
	case "array":
		if s.MinItems != nil && *s.MinItems > 0 {
			return []any{good(s.Items)}
		}
		return []any{}
	case "integer":
		if s.Minimum != nil {
			return *s.Minimum
		}
		return 1
	case "boolean":
		return true
	}
	switch {
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Format == "uuid":
		return uuid.NewString()
	case s.Format == "date-time":
		return "2026-11-23T15:00:00Z"
	}
	return "web-and-more"
}

// bad lists values that do not fit a schema.
func bad(s *adminapi.Schema) []any {
	s = s.Follow()
	list := []any{nil, map[string]any{"no": "such"}, []any{[]any{}}}
	switch s.Type {
	case "object":
		list = append(list[:1], "text", 1.5, true)
		whole := good(s).(map[string]any)
		with := func(name string, value any) {
			other := maps.Clone(whole)
			other[name] = value
			list = append(list, other)
		}
		if s.AdditionalProperties.Value != "true" {
			with("no_such_field", 1)
		}
		for _, name := range s.Required {
			other := maps.Clone(whole)
			delete(other, name)
			list = append(list, other)
		}
		for name, part := range s.Properties {
			for _, value := range bad(part) {
				with(name, value)
			}
		}
		return list
	case "array":
		list = append(list, "text", 7)
		for _, item := range bad(s.Items) {
			list = append(list, []any{item})
		}
		if s.MaxItems != nil {
			var many []any
			for range *s.MaxItems + 1 {
				many = append(many, good(s.Items))
			}
			list = append(list, many)
		}
	case "string":
		list = append(list, 7, true, "a\x00b")
		switch {
		case s.MaxLength != nil:
			list = append(list, strings.Repeat("x", *s.MaxLength+1))
		case s.Pattern != "":
			list = append(list, "", "UPPER CASE", strings.Repeat("x", 200))
		case len(s.Enum) > 0, s.Format != "":
			list = append(list, "", "no such", strings.Repeat("x", 100_000))
		}
		if s.MinLength != nil {
			list = append(list, "")
		}
	case "integer":
		list = append(list, "7", 1.5, true, 1e300, -1e300)
		if s.Maximum != nil {
			list = append(list, *s.Maximum+1, *s.Minimum-1)
		}
	case "boolean":
		list = append(list, "true", 1)
	}
	return list
}

// badTexts lists parameters that do not fit a schema.
func badTexts(s *adminapi.Schema) []string {
	switch s := s.Follow(); s.Type {
	case "integer":
		texts := []string{"", "x", "1.5", "0", "501", "+5", "05", "1e2", "99999999999999999999", " 5", "0x1"}
		if s.Minimum == nil || *s.Minimum > -1 {
			texts = append(texts, "-1")
		}
		return texts
	case "boolean":
		return []string{"", "1", "yes", "True", "null"}
	}
	var list []string
	for _, value := range bad(s) {
		if text, ok := value.(string); ok && len(text) < 50_000 { // longer ones the server refuses as headers
			list = append(list, text)
		}
	}
	return list
}

// goodPath fills the variables of a path with what fits and is not there.
func goodPath(op adminapi.Operation) string { return fill(op.Path) }

// refusedAsBad holds an answer to what becomes of bad input: a problem that blames the client, with a stable code.
func refusedAsBad(t *testing.T, what string, got answer) adminapi.Problem {
	t.Helper()
	p := got.problem(t)
	if got.status < 400 || got.status > 499 || got.status == http.StatusUnauthorized || got.status == http.StatusForbidden {
		t.Errorf("%s: %d %s", what, got.status, got.body)
	}
	if strings.Contains(p.Detail, "pq:") || strings.Contains(p.Detail, "sql") {
		t.Errorf("%s: the answer tells of the inside: %s", what, p.Detail)
	}
	return p
}

func TestBadInputToEveryOperationIsAProblemAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	const who = "admin's session" // may call everything
	before := w.state()
	for _, op := range w.api.Operations() {
		path := goodPath(op)
		name := op.Method + " " + op.Path
		is := func(what string, codes ...string) func(answer) {
			return func(got answer) {
				t.Helper()
				if p := refusedAsBad(t, name+" "+what, got); !slices.Contains(codes, p.Code) {
					t.Errorf("%s %s: code %s, want one of %v (%s)", name, what, p.Code, codes, p.Detail)
				}
			}
		}
		for _, p := range op.Parameters() {
			for _, text := range badTexts(p.Schema) {
				what := fmt.Sprintf("with %s %.20q", p.Name, text)
				switch p.In {
				case "query":
					is(what, "bad-parameter")(w.do(who, op.Method, path+"?"+url.QueryEscape(p.Name)+"="+url.QueryEscape(text), nil))
				case "path":
					if text != "" {
						other := strings.Replace(op.Path, "{"+p.Name+"}", url.PathEscape(text), 1)
						is(what, "bad-parameter")(w.do(who, op.Method, fill(other), nil))
					}
				case "header":
					if !strings.ContainsRune(text, 0) {
						r := w.request(who, op.Method, path, nil)
						r.Header.Set(p.Name, text)
						is(what, "bad-parameter")(w.send(r))
					}
				}
			}
			switch p.In {
			case "query":
				is("with "+p.Name+" twice", "bad-parameter")(w.do(who, op.Method, path+"?"+p.Name+"=1&"+p.Name+"=1", nil))
			case "path":
				for _, text := range []string{"%2e%2e", "%00", "a%2fb", "%ff", "%25%32%65"} {
					other := strings.Replace(op.Path, "{"+p.Name+"}", text, 1)
					is("with "+p.Name+" "+text, "bad-parameter")(w.do(who, op.Method, fill(other), nil))
				}
			}
			if p.Name == "cursor" {
				for _, cursor := range []string{"AAAA", "!!!!", "AAAAAAAAAAAAAAAAAAAAAEA", strings.Repeat("A", 400)} {
					got := w.do(who, op.Method, path+"?cursor="+cursor, nil)
					if op.ID == "getSettingHistory" || op.ID == "getAppSettingHistory" {
						continue // there is no such setting, which is found first
					}
					if got.status == http.StatusOK {
						continue // people are listed by address, and any text can be one
					}
					is("with cursor "+cursor, "bad-cursor")(got)
				}
			}
		}
		is("with an unknown parameter", "bad-parameter")(w.do(who, op.Method, path+"?no_such=1", nil))
		is("with a query that cannot be read", "bad-query")(w.do(who, op.Method, path+"?a=%zz", nil))
		body := op.Body()
		if body == nil {
			is("with a body", "unexpected-body")(w.do(who, op.Method, path, "{}"))
			continue
		}
		for _, value := range bad(body) {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			is(fmt.Sprintf("with body %.60s", text), "bad-body")(w.do(who, op.Method, path, string(text)))
		}
		whole, err := json.Marshal(good(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"", "{", "null", "[]", "true", string(whole) + "{}", `{"a":1,"a":1}`, "{\"\xff\":1}", strings.Repeat("[", 100_000), `"` + strings.Repeat("x", 100_000) + `"`} {
			is(fmt.Sprintf("with body %.20q", text), "bad-body")(w.do(who, op.Method, path, text))
		}
		is("with a huge body", "too-large")(w.do(who, op.Method, path, `{"x":"`+strings.Repeat("x", 2<<20)+`"}`))
		r := w.request(who, op.Method, path, string(whole))
		r.Header.Set("Content-Type", "text/plain")
		is("as text", "not-json")(w.send(r))
		r = w.request(who, op.Method, path, string(whole))
		r.Header["Idempotency-Key"] = []string{"one-of-them", "another-one"}
		is("with two idempotency keys", "bad-parameter")(w.send(r))
	}
	if after := w.state(); after != before {
		t.Error("bad input changed something")
	}
}

func TestIdsOfNobodyAreNotFound(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	for _, op := range w.api.Operations() {
		if !strings.Contains(op.Path, "{") || op.ID == "listAppSettings" { // the gateway does not know which apps there are
			continue
		}
		var body any
		if op.Body() != nil {
			body = good(op.Body())
			switch op.ID {
			case "setUserBindings":
				body = map[string]any{"bindings": []any{}}
			case "editRole":
				body = map[string]any{"permissions": []string{"convox:app:list"}}
			case "setTokenRights":
				body = map[string]any{"permissions": []string{"convox:app:list"}}
			}
		}
		got := w.do("admin's session", op.Method, strings.Replace(goodPath(op), "allow_destructive", "nosuch", 1), body)
		if p := got.problem(t); got.status != http.StatusNotFound || !strings.HasPrefix(p.Code, "no-such-") {
			t.Errorf("%s: %d %s", op.ID, got.status, got.body)
		}
	}
}

func TestAnythingElseIsNotFoundOrNotAllowed(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	for _, path := range []string{"", "/", "/nosuch", "/users/", "//users", "/users/../roles", "/users/%2e%2e/roles", "/openapi.yaml", "/rack-proxy/apps"} {
		if got := w.do("admin", "GET", path, nil); got.status != http.StatusNotFound || got.problem(t).Code != "no-such-path" {
			if path != "/users/../roles" && path != "/users/%2e%2e/roles" || got.status != http.StatusBadRequest && got.status != http.StatusNotFound {
				t.Errorf("GET %s: %d %s", path, got.status, got.body)
			}
		}
	}
	for _, method := range []string{"PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		got := w.do("admin", method, "/users", nil)
		if got.status != http.StatusMethodNotAllowed || got.problem(t).Code != "no-such-method" || got.header.Get("Allow") != "GET, POST" {
			t.Errorf("%s /users: %d %v %s", method, got.status, got.header["Allow"], got.body)
		}
	}
}

func TestABodyThatNeverArrivesIsNotWaitedForForEver(t *testing.T) {
	w := newWorld(t, func(c *adminapi.Config) { c.MaxWait = time.Second })
	w.person("admin", "admin")
	for _, what := range []string{"POST /api/v1/users", "GET /api/v1/live", "GET /api/v1/audit/export"} {
		t.Run(what, func(t *testing.T) { w.neverSendsAll(t, what) })
	}
}

func (w *world) neverSendsAll(t *testing.T, what string) {
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", what, w.tokens["admin"].Reveal())
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := (answer{resp.StatusCode, resp.Header, string(body)}); got.status != http.StatusBadRequest || got.problem(t).Code != "bad-body" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// FuzzRequests sends anything at all to any operation as somebody who may do everything.
func FuzzRequests(f *testing.F) {
	w := newWorld(f)
	w.person("admin", "admin")
	w.person("keeper", "admin")
	f.Add(uint8(0), "limit=5&cursor=AAAA", `{}`, "")
	f.Add(uint8(7), "", `{"email":"x@example.com","bindings":[{"role":"viewer","app":"*"}]}`, "key-of-mine")
	f.Add(uint8(31), "since=2026-11-23T15:00:00Z&actor=%00", "", "")
	f.Add(uint8(28), "", `{"value":1e2}`, "")
	f.Fuzz(func(t *testing.T, which uint8, query, body, key string) {
		ops := w.api.Operations()
		op := ops[int(which)%len(ops)]
		r, err := http.NewRequestWithContext(t.Context(), op.Method, w.server.URL+"/api/v1"+goodPath(op), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if u, err := url.Parse("http://x/?" + query); err != nil || strings.ContainsAny(query, "\r\n #") || u.RawQuery != query {
			return
		}
		for _, c := range key {
			if c < '!' || c > '~' {
				return
			}
		}
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", "application/json")
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		w.t = t
		w.authenticate(r, "keeper")
		got := w.send(r)
		switch {
		case got.status >= 500 && op.ID != "getReady":
			t.Errorf("%s: %d %s", op.ID, got.status, got.body)
		case got.status >= 400 && got.status != http.StatusServiceUnavailable:
			got.problem(t)
		}
		if err := op.CheckResponse(got.status, got.header.Get("Content-Type"), got.body); err != nil {
			t.Errorf("%s: the answer is not as the document says: %v\n%s", op.ID, err, got.body)
		}
	})
}
