package rack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// rackJSON is how a rack writes an answer.
func rackJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func masked(op Op, in string, opts MaskOptions) (string, error) {
	var out bytes.Buffer
	err := MaskJSON(op, &out, strings.NewReader(in), opts)
	return out.String(), err
}

func TestSecretsAreMaskedAndTheRestStays(t *testing.T) {
	for _, c := range []struct {
		name     string
		op       Op
		in, want string
	}{
		{"an app's parameters", "AppGet",
			`{"name":"web","parameters":{"BuildCpu":"512","Other":"512","Empty":"","Nested":{"a":["x",1,true,null]}},"status":"running"}`,
			`{"name":"web","parameters":{"BuildCpu":"512","Other":"****","Empty":"","Nested":{"a":["****","****","****",null]}},"status":"running"}`},
		{"apps", "AppList", `[{"name":"web","parameters":{"A":"1"}},{"name":"api","parameters":null}]`,
			`[{"name":"web","parameters":{"A":"****"}},{"name":"api","parameters":null}]`},
		{"a resource", "ResourceGet", `{"name":"db","url":"postgres://app:s3cret@db.internal:5432/app?sslmode=disable&password=x","type":"postgres"}`,
			`{"name":"db","url":"postgres://***:***@db.internal:5432/app?password=****&sslmode=****","type":"postgres"}`},
		{"a resource without a user", "ResourceGet", `{"url":"redis://cache.internal:6379/0"}`, `{"url":"redis://cache.internal:6379/0"}`},
		{"a resource with a password alone", "ResourceGet", `{"url":"redis://:pw@cache:6379"}`, `{"url":"redis://***:***@cache:6379"}`},
		{"a resource at an address", "ResourceGet", `{"url":"redis://:pw@[2001:db8::1]:6379"}`, `{"url":"redis://***:***@[2001:db8::1]:6379"}`},
		{"a resource without a host", "ResourceGet", `{"url":"file:///s3cret"}`, `{"url":"****"}`},
		{"a query that does not parse", "ResourceGet", `{"url":"redis://cache:6379/?a;b"}`, `{"url":"****"}`},
		{"a resource of host and port", "ResourceGet", `{"url":"cache.internal:11211"}`, `{"url":"cache.internal:11211"}`},
		{"a resource of anything else", "ResourceGet", `{"url":"s3cret"}`, `{"url":"****"}`},
		{"a password with a slash in it", "ResourceGet", `{"url":"postgres://app:1/x@db:5432/app"}`, `{"url":"****"}`},
		{"a password with a question mark", "ResourceGet", `{"url":"postgres://app:1?x@db:5432/app"}`, `{"url":"****"}`},
		{"a password with a number sign", "ResourceGet", `{"url":"postgres://app:1#x@db:5432/app"}`, `{"url":"****"}`},
		{"a password with an at sign", "ResourceGet", `{"url":"postgres://app:p@ss@db:5432/app"}`, `{"url":"postgres://***:***@db:5432/app"}`},
		{"a URL in another member's spelling", "ResourceList", `[{"URL":"redis://:pw@cache:6379"}]`, `[{"URL":"redis://***:***@cache:6379"}]`},
		{"a URL that is no text", "ResourceList", `[{"url":7},{"url":["postgres://a:b@c:1/"]},{"url":{"x":"y"}},{"url":null}]`,
			`[{"url":"****"},{"url":["postgres://***:***@c:1/"]},{"url":{"x":"****"}},{"url":null}]`},
		{"a webhook of the rack", "SystemResourceGet", `{"name":"hook","url":"https://hooks.example.com/services/T0/SECRET?x=y","parameters":{"Url":"https://hooks.example.com/services/T0/SECRET"}}`,
			`{"name":"hook","url":"https://hooks.example.com/****?x=****","parameters":{"Url":"****"}}`},
		{"apps linked to a resource of the rack", "SystemResourceList", `[{"apps":[{"name":"web","parameters":{"A":"s"}}]}]`,
			`[{"apps":[{"name":"web","parameters":{"A":"****"}}]}]`},
		{"registries", "RegistryList", `[{"server":"docker.io","username":"me","password":"s3cret"}]`,
			`[{"server":"docker.io","username":"me","password":"****"}]`},
		{"the budget's webhook", "AppBudgetSimulate", `{"app":"web","webhook-url":"https://hooks.example.com/services/s3cret"}`,
			`{"app":"web","webhook-url":"https://hooks.example.com/****"}`},
		{"a config", "AppConfigGet", `{"name":"x","value":"czNjcmV0"}`, `{"name":"x","value":"****"}`},
		{"the rack", "SystemGet", `{"name":"staging","outputs":{"A":"b"},"parameters":{"Password":"s3cret"},"version":"3.24.1"}`,
			`{"name":"staging","outputs":{"A":"****"},"parameters":{"Password":"****"},"version":"3.24.1"}`},
		{"a build", "BuildGet", `{"id":"B1","repository":"https://convox:s3cret@api.example.com/demo","manifest":"services:"}`,
			`{"id":"B1","repository":"https://***:***@api.example.com/demo","manifest":"services:"}`},
		{"builds of images", "BuildList", `[{"repository":"registry.example.com:5000/demo:v1"},{"repository":"demo@sha256:0a1b"},{"repository":"u:p@registry/demo"},{"repository":"demo@sha256:x@y"},{"repository":""}]`,
			`[{"repository":"registry.example.com:5000/demo:v1"},{"repository":"demo@sha256:0a1b"},{"repository":"****"},{"repository":"****"},{"repository":""}]`},
		{"a private key", "InstanceKeyroll", `{"name":"k","private-key":"-----BEGIN"}`, `{"name":"k","private-key":"****"}`},
		{"an answer without secrets", "ServiceList", `[{"url":"postgres://a:b@c/","password":"x"}]`, `[{"url":"postgres://a:b@c/","password":"x"}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := masked(c.op, c.in, MaskOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var flat bytes.Buffer
			if err := json.Compact(&flat, []byte(got)); err != nil {
				t.Fatal(err)
			}
			if flat.String() != c.want {
				t.Errorf("got  %s\nwant %s", flat.String(), c.want)
			}
		})
	}
}

func TestAnswersKeepARacksShape(t *testing.T) {
	answer := rackJSON(t, []any{
		map[string]any{"name": "a<b>&\u2028", "parameters": map[string]string{}, "list": []int{}, "n": json.Number("1.50e+3"), "deep": map[string]any{"x": []any{1, "y", nil, true}}},
		map[string]any{"name": "", "parameters": nil, "big": json.Number("12345678901234567890.0")},
	})
	for _, op := range []Op{"AppList", "ServiceList", "RegistryList"} {
		if got, err := masked(op, answer, MaskOptions{}); err != nil || got != answer {
			t.Errorf("%s: %v\ngot  %s\nwant %s", op, err, got, answer)
		}
	}
	withSecrets := rackJSON(t, map[string]any{"parameters": map[string]string{"A": "b"}})
	if got, err := masked("AppGet", withSecrets, MaskOptions{ClearSecrets: true}); err != nil || got != withSecrets {
		t.Errorf("whoever may see secrets gets %s (%v)", got, err)
	}
}

func TestTheListOfAppsHoldsThoseInScope(t *testing.T) {
	only := MaskOptions{Apps: func(name string) bool { return strings.HasPrefix(name, "web") }}
	got, err := masked("AppList", `[{"name":"api","parameters":{"A":"s"}},{"name":"web","parameters":{"A":"s"}},{"name":"web-2"}]`, only)
	want := rackJSON(t, []any{map[string]any{"name": "web", "parameters": map[string]string{"A": "****"}}, map[string]any{"name": "web-2"}})
	if err != nil || got != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	only.ClearSecrets = true
	if got, err := masked("AppList", `[{"name":"web","parameters":{"A":"s"}}]`, only); err != nil || !strings.Contains(got, `"s"`) {
		t.Errorf("secrets of an app in scope are masked: %s (%v)", got, err)
	}
	for in, want := range map[string]string{"[]": "[]\n", "null": "null\n", `[{"name":"api"}]`: "[]\n"} {
		if got, err := masked("AppList", in, only); err != nil || got != want {
			t.Errorf("%s becomes %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`{}`, `"x"`, `[1]`, `[{}]`, `[{"name":1}]`, `[{"name":"web","Name":"api"}]`, `[{"name":null}]`, `[[]]`, `[`, `[{"name":"web"}`} {
		if got, err := masked("AppList", in, only); err == nil {
			t.Errorf("%s becomes %s", in, got)
		}
	}
	// The filter is for the list of apps alone.
	if got, err := masked("AppGet", `{"name":"api"}`, only); err != nil || !strings.Contains(got, "api") {
		t.Errorf("an app becomes %s (%v)", got, err)
	}
}

func TestWhatIsNotOneDocumentIsNoAnswer(t *testing.T) {
	for _, in := range []string{
		"", " ", "{", "[1", "nope", `{"a":1}{"b":2}`, `{"a":1} x`, `{"a":1,"a":2}`, "{\"a\":\"\xff\"}", `{"a":01}`, `[1,]`,
		"<html>502</html>", "\x1f\x8b\x08", `{"parameters":{"A":"s3cret"`, strings.Repeat("[", 20_000),
	} {
		got, err := masked("AppGet", in, MaskOptions{})
		if err == nil {
			t.Errorf("%.40q becomes %.40q", in, got)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "nope") {
			t.Errorf("the error quotes the answer: %v", err)
		}
	}
	if err := MaskJSON("AppGet", io.Discard, iotest.ErrReader(io.ErrUnexpectedEOF), MaskOptions{}); err == nil {
		t.Error("an answer that breaks off is passed on")
	}
	if err := MaskJSON("AppGet", failing{}, strings.NewReader(`{}`), MaskOptions{}); err == nil {
		t.Error("a client that left is not noticed")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// endless is a JSON list that does not end.
type endless struct{ begun bool }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "1,"[i%2]
	}
	n := len(p) &^ 1
	if !e.begun {
		e.begun, p[0] = true, '['
		return 1, nil
	}
	return n, nil
}

func TestAnswersHaveABound(t *testing.T) {
	const most = 4096
	err := maskJSON("AppGet", io.Discard, &endless{}, MaskOptions{}, most)
	if err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("an endless answer ends with %v", err)
	}
	long := `["` + strings.Repeat("x", most-4) + `"]`
	if err := maskJSON("ServiceList", io.Discard, strings.NewReader(long), MaskOptions{}, most); err != nil {
		t.Errorf("an answer of %d bytes: %v", len(long), err)
	}
	if err := maskJSON("ServiceList", io.Discard, strings.NewReader(long+" "), MaskOptions{}, most); err == nil {
		t.Errorf("an answer of %d bytes is taken", len(long)+1)
	}
}

func TestEveryMaskedOperationIsARoute(t *testing.T) {
	table := table(t)
	n := 0
	for _, r := range table.Routes() {
		if NeedsMask(r.Op) {
			n++
			if r.Answer != AnswerJSON {
				t.Errorf("%s is masked, and does not answer JSON", r.Op)
			}
		}
	}
	if n != 23 {
		t.Errorf("%d routes are masked", n)
	}
	if NeedsMask("ServiceList") {
		t.Error("services are masked")
	}
}

// FuzzMaskJSON gives it anything: what it takes is one well-formed document, what it gives is one too, and no
// value differs but masked ones.
func FuzzMaskJSON(f *testing.F) {
	ops := []Op{"AppGet", "AppList", "ResourceList", "RegistryList", "BuildGet", "SystemGet", "SystemResourceList", "ServiceList"}
	for _, in := range []string{"", "null", "[]", "{}", `{"a":[1,2.5e3,"x\u003c",null,true]}`, `[{"name":"web","parameters":{"A":"s"}}]`,
		`{"url":"postgres://a:b@c:1/d?e=f"}`, `{"a":1}{"b":2}`, `{"a":1,"a":2}`, "[", `{"Parameters":{"x":{"y":[1]}}}`, "\"\\ud800\""} {
		for i := range ops {
			f.Add(uint8(i), in, i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, in string, filter bool) {
		op := ops[int(n)%len(ops)]
		opts := MaskOptions{}
		if filter {
			opts.Apps = func(name string) bool { return len(name)%2 == 1 }
		}
		out, err := masked(op, in, opts)
		if err != nil {
			return
		}
		was, err := decoded(in)
		if err != nil {
			t.Fatalf("garbage is taken: %v", err)
		}
		is, err := decoded(out)
		if err != nil {
			t.Fatalf("garbage is given: %v", err)
		}
		if !NeedsMask(op) && !reflect.DeepEqual(was, is) {
			t.Fatalf("%s becomes %s", in, out)
		}
		if !filter || op != "AppList" {
			same(t, was, is, false)
		}
		again, err := masked(op, out, opts)
		if err != nil || again != out {
			t.Fatalf("masked twice, %q becomes %q (%v)", out, again, err)
		}
	})
}

func decoded(text string) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if token, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("after the document: %v, %w", token, err)
	}
	return v, nil
}

// same fails when values differ other than by a mask, which only holds below a member of such a name.
func same(t *testing.T, was, is any, below bool) {
	t.Helper()
	switch w := was.(type) {
	case map[string]any:
		i, ok := is.(map[string]any)
		if !ok || len(i) != len(w) {
			t.Fatalf("%v becomes %v", was, is)
		}
		for k, v := range w {
			fold := strings.ToLower(k)
			same(t, v, i[k], below || strings.Contains("parameters outputs value url repository password private-key", fold) || fold != k)
		}
	case []any:
		i, ok := is.([]any)
		if !ok || len(i) != len(w) {
			t.Fatalf("%v becomes %v", was, is)
		}
		for k, v := range w {
			same(t, v, i[k], below)
		}
	default:
		if text, ok := is.(string); reflect.DeepEqual(was, is) || below && ok && strings.Contains(text, "***") {
			return
		}
		// A URL may change in its spelling alone.
		if _, ok := is.(string); !ok || !below {
			t.Fatalf("%v becomes %v", was, is)
		}
	}
}

// FuzzMaskHides puts a secret wherever one may be, and looks for it in what comes out.
func FuzzMaskHides(f *testing.F) {
	for _, s := range []string{"s3cret-canary", "pa/ss:w@rd?x#y", "1/x-canary", "1?x-canary", "1#x-canary", "%41%zz-canary", "canary\\", "<canary>", "[canary", "canary]:1"} {
		for shape := range uint8(14) {
			f.Add(shape, s)
		}
	}
	f.Fuzz(func(t *testing.T, shape uint8, secret string) {
		canary := "KaNaRy7" + secret
		docs := []struct {
			op Op
			v  any
		}{
			{"AppGet", map[string]any{"parameters": map[string]any{"A": canary}}},
			{"AppList", []any{map[string]any{"name": "x", "parameters": []any{canary, map[string]any{"b": canary}}}}},
			{"ResourceGet", map[string]any{"url": "postgres://user:" + canary + "@db.internal:5432/app"}},
			{"ResourceGet", map[string]any{"url": "postgres://user:" + url.QueryEscape(canary) + "@db.internal:5432/app"}},
			{"ResourceGet", map[string]any{"url": "postgres://" + canary + "@db.internal:5432/app"}},
			{"ResourceGet", map[string]any{"url": "postgres://db.internal:5432/app?password=" + url.QueryEscape(canary)}},
			{"ResourceGet", map[string]any{"url": "user:" + canary + "@db.internal"}},
			{"ResourceGet", map[string]any{"url": "postgres:user:" + canary + "@db.internal"}},
			{"RegistryList", []any{map[string]any{"password": canary}}},
			{"AppConfigList", []any{map[string]any{"value": canary}}},
			{"BuildGet", map[string]any{"repository": "https://convox:" + canary + "@api.example.com/demo"}},
			{"BuildGet", map[string]any{"repository": "convox:" + canary + "@api.example.com/demo"}},
			{"SystemGet", map[string]any{"parameters": map[string]any{"A": canary}, "outputs": map[string]any{"B": canary}}},
			{"SystemResourceGet", map[string]any{"url": "https://hooks.example.com/services/" + url.PathEscape(canary)}},
		}
		doc := docs[int(shape)%len(docs)]
		in, err := json.Marshal(doc.v)
		if err != nil {
			return // no rack could send it
		}
		out, err := masked(doc.op, string(in), MaskOptions{})
		if strings.Contains(strings.ToLower(out), "kanary7") || err != nil && strings.Contains(strings.ToLower(err.Error()), "kanary7") {
			t.Fatalf("%s: %s becomes %s (%v)", doc.op, in, out, err)
		}
	})
}

func BenchmarkMaskJSON(b *testing.B) {
	apps := make([]any, 100)
	for i := range apps {
		apps[i] = map[string]any{"name": fmt.Sprintf("app-%d", i), "status": "running", "release": "RABCDEFGHIJ", "parameters": map[string]string{"A": "b"}}
	}
	in := rackJSON(b, apps)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := MaskJSON("AppList", io.Discard, strings.NewReader(in), MaskOptions{Apps: func(string) bool { return true }}); err != nil {
			b.Fatal(err)
		}
	}
}
