package rack

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// plainOps are operations with each kind of mask, and one with none.
var plainOps = []Op{"AppList", "AppGet", "ResourceList", "RegistryList", "BuildGet", "SystemGet", "SystemResourceList", "ServiceList"}

// bothWays masks an answer by the short way and by the long one. The short one may give up.
func bothWays(op Op, in string, apps func(string) bool) (short string, taken bool, long string, err error) {
	m := masker{fields: maskOf(op)}
	out, taken := m.maskPlain(nil, []byte(in), apps)
	var b bytes.Buffer
	err = m.maskLong(&b, strings.NewReader(in), apps, MaxMasked)
	return string(out), taken, b.String(), err
}

// FuzzMaskPlain holds the short way to the long one: what it takes, the long way takes too, and both write the same.
func FuzzMaskPlain(f *testing.F) {
	for _, in := range []string{
		"", " ", "null", "[]", "{}", " [ ] ", "[{}]", `{"a":{}, "b":[[]] }`, `"text"`, "0", "-0", "01", "-", "1.", "1.50", "1e5", "truer", "true", "nul", "[1 2]", "[1,]", "[,1]",
		`{"a":1,"a":2}`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1}{`, `{"a":1} x`, `{"\u0061":1}`, `{"ä":1}`, "{\"\xff\":1}", "\"\xff\"", `"\ud800"`, `"\ud83d\ude00"`, `"\u00e9ä"`, `"\x"`, "\"a\nb\"", `"a`,
		`[{"name":"web","parameters":{"BuildCpu":"1","A":"s","B":"","C":null,"D":[1,true,"x"],"E":{"f":"g"}}},{"Name":"api"}]`,
		`[{"name":"a"},{"name":"bb"},{"name":"c"}]`, `[{"name":"bb"}]`, `[{"name":"","NAME":"x"}]`, `[{"name":7}]`, `[{"n":1}]`, `[[{"name":"a"}]]`, `[{"x":{"name":"a"},"name":"b"}]`, `[{"name":"a\u0062"}]`,
		`{"url":"postgres://u:p@h:1/d?x=y"}`, `{"url":"postgres://u:p\u0040h:1/d"}`, `{"URL":["redis://:p@h"]}`, `{"repository":"demo@sha256:0a"}`, `{"parameters":{"parameters":{"a":1}}}`,
		strings.Repeat("[", 40) + strings.Repeat("]", 40),
	} {
		for i := range plainOps {
			f.Add(uint8(i), in, i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, in string, filter bool) {
		op := plainOps[int(n)%len(plainOps)]
		var apps func(string) bool
		if filter {
			apps = func(name string) bool { return len(name)%2 == 1 }
		}
		short, taken, long, err := bothWays(op, in, apps)
		if !taken {
			return
		}
		if err != nil {
			t.Fatalf("%s: the short way takes %q, which the long way refuses: %v", op, in, err)
		}
		if short != long {
			t.Fatalf("%s: of %q the short way makes\n%s\nand the long way\n%s", op, in, short, long)
		}
	})
}

func TestWhatARackAnswersIsMaskedTheShortWay(t *testing.T) {
	all := func(string) bool { return true }
	for _, c := range []struct {
		op   Op
		in   any
		apps func(string) bool
	}{
		{"AppList", []any{map[string]any{"name": "web", "parameters": map[string]any{"A": "b"}, "budget": nil, "locked": false}}, all},
		{"AppList", []any{}, all},
		{"AppGet", map[string]any{"name": "web", "parameters": map[string]any{}}, nil},
		{"BuildGet", map[string]any{"id": "B1", "manifest": "services:\n  web:\n    port: \"3000\"\n", "description": "fix <b> & ünïcode", "repository": "https://convox:s3cret@api.example.com/demo"}, nil},
		{"ResourceList", []any{map[string]any{"name": "db", "url": "postgres://u:p@h:5432/app", "parameters": map[string]any{"Class": "x"}}}, nil},
		{"SystemGet", map[string]any{"count": 3, "parameters": map[string]any{"A": "b"}, "outputs": map[string]any{"X": "y"}}, nil},
	} {
		in := rackJSON(t, c.in)
		short, taken, long, err := bothWays(c.op, in, c.apps)
		if err != nil || !taken || short != long {
			t.Errorf("%s: %s\ntaken %t, error %v:\n%s\n%s", c.op, in, taken, err, short, long)
		}
	}
}

func TestWhatIsUnusualIsMaskedTheLongWay(t *testing.T) {
	deep := strings.Repeat("[", plainDepth) + strings.Repeat("]", plainDepth)
	var wide strings.Builder
	for i := range plainMembers + 1 {
		fmt.Fprintf(&wide, `,"m%d":1`, i)
	}
	for _, in := range []string{
		deep, "{" + wide.String()[1:] + "}", `{"\u0061":1}`, `{"ä":1}`, `{"a":1e5}`, `{"a":"\ud83d\ude00"}`, `{"parameters":{"a":"\u0061"}}`,
	} {
		if _, taken, _, err := bothWays("AppGet", in, nil); taken || err != nil {
			t.Errorf("%s: taken %t, error %v", in, taken, err)
		}
	}
}

// BenchmarkMaskApps is the list that `make bench` reads.
func BenchmarkMaskApps(b *testing.B) {
	apps := make([]any, 7)
	for i := range apps {
		apps[i] = map[string]any{"generation": "3", "locked": false, "name": fmt.Sprintf("app-%d", i), "release": "RABCDEFGHIJ", "router": "router.0a1b2c3d4e5f.convox.cloud",
			"status": "running", "parameters": map[string]string{"BuildCpu": "500", "BuildMem": "1024", "SharedSecret": "b16b00b5"}}
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
