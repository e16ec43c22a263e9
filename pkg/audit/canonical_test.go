package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rackgateway/pkg/audit"
)

// The bytes are what auditors verify for years: they change only with a reason.
func TestCanonicalBytes(t *testing.T) {
	in, out, exit := int64(0), int64(2048), 137
	e := &audit.Event{
		OccurredAt: time.Date(2026, 11, 23, 15, 4, 5, 6789, time.FixedZone("", 3600)),
		ID:         uuid.MustParse("01a208fd-0686-78fd-a29c-47455527ce6f"),
		RequestID:  uuid.MustParse("01a208fd-0686-7900-ba3d-cdef951a43ed"),
		WriterID:   uuid.MustParse("01a208fd-067b-7dfd-b86b-a36370e20057"), WriterSeq: 42,
		Kind: audit.KindAction, Phase: audit.PhaseFinished, Decision: audit.DecisionAllow, ActorKind: audit.ActorAPIToken,
		ActorID: "5d1b0e0c", ActorLabel: "deploy “main”", Action: "process.exec", App: "web", Resource: `p-1"\`, Status: 101,
		Address: netip.MustParseAddr("::ffff:10.0.0.1"),
		Detail: audit.Detail{
			BytesIn: &in, BytesOut: &out, Closes: true, Count: 3, Duration: 1500, ExitCode: &exit,
			EnvKeys: audit.EnvKeys{Added: []string{"B", "A", "A"}}, Params: audit.Params{{"command", "ls\t<&>\u2028\x7f"}, {"b", "2"}, {"a", ""}, {"b", "3"}},
			Path: "/apps/web/processes/p-1/exec",
		},
	}
	const want = `{"action":"process.exec","actor_id":"5d1b0e0c","actor_kind":"api_token","actor_label":"deploy “main”",` +
		`"address":"10.0.0.1","app":"web","decision":"allow","detail":{"bytes_in":0,"bytes_out":2048,"closes":true,"count":3,` +
		`"duration_us":1500,"env_keys":{"added":["A","B"]},"exit_code":137,"params":{"a":"","b":"2, 3","command":"ls\t<&>` + "\u2028\x7f" + `"},` +
		`"path":"/apps/web/processes/p-1/exec"},"event_id":"01a208fd-0686-78fd-a29c-47455527ce6f","kind":"action",` +
		`"occurred_at":"2026-11-23T14:04:05.000006Z","phase":"finished","request_id":"01a208fd-0686-7900-ba3d-cdef951a43ed",` +
		`"resource":"p-1\"\\","status":101,"writer_id":"01a208fd-067b-7dfd-b86b-a36370e20057","writer_seq":42}`
	before := fmt.Sprintf("%+v", *e)
	if diff := cmp.Diff(want, string(e.AppendCanonical(nil))); diff != "" {
		t.Error(diff)
	}
	if after := fmt.Sprintf("%+v", *e); after != before {
		t.Errorf("encoding changed the event:\n%s\n%s", before, after)
	}

	minimal := &audit.Event{OccurredAt: e.OccurredAt, ID: e.ID, Kind: audit.KindSystem, Phase: audit.PhaseCut, Decision: audit.DecisionNone, ActorKind: audit.ActorNobody}
	const wantMinimal = `{"action":"","actor_id":"","actor_kind":"nobody","actor_label":"","app":"","decision":"none","detail":{},` +
		`"event_id":"01a208fd-0686-78fd-a29c-47455527ce6f","kind":"system","occurred_at":"2026-11-23T14:04:05.000006Z","phase":"cut",` +
		`"request_id":"01a208fd-0686-78fd-a29c-47455527ce6f","resource":"","status":0}`
	if diff := cmp.Diff(wantMinimal, string(minimal.AppendCanonical(nil))); diff != "" {
		t.Error(diff)
	}
}

// checkCanonical holds the bytes of any event to what is promised of them, by another implementation of
// RFC 8785 than ours.
func checkCanonical(t *testing.T, canonical []byte) {
	t.Helper()
	if len(canonical) > audit.MaxCanonical {
		t.Errorf("%d bytes, over the limit of %d", len(canonical), audit.MaxCanonical)
	}
	if !utf8.Valid(canonical) || bytes.ContainsRune(canonical, 0) || bytes.Contains(canonical, []byte(`\u0000`)) {
		t.Errorf("not text that can be stored: %q", canonical)
	}
	other := jsontext.Value(bytes.Clone(canonical))
	if err := other.Canonicalize(); err != nil {
		t.Fatalf("not JSON: %v: %q", err, canonical)
	}
	if diff := cmp.Diff(string(other), string(canonical)); diff != "" {
		t.Errorf("not RFC 8785: %s", diff)
	}
}

// hostile returns an event full of what clients might send.
func hostile(r *rand.Rand) *audit.Event {
	e := audit.NewEvent(time.UnixMicro(r.Int64N(4e15)))
	pieces := []string{"a", "Ω", "漢字", "😀", "\x00", "\xff", "\xc3", "\xed\xa0\x80", "\n", "\x1b[2J", "\u0085", "\u2028", `"`, `\`, "/", "%", "'", "{", "}", ",",
		"NULL", " ", "\x7f", strings.Repeat("x", 50), strings.Repeat("漢", 700), strings.Repeat("\x01", 300), strings.Repeat("a", 5000), "\ufffd", "\ufeff"}
	text := func() string {
		var b strings.Builder
		for range r.IntN(6) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		return b.String()
	}
	texts := func() (s []string) {
		for range r.IntN(4) * r.IntN(40) {
			s = append(s, text())
		}
		return s
	}
	number := func() *int64 {
		if r.IntN(2) == 0 {
			return nil
		}
		n := r.Int64() >> r.IntN(63)
		return &n
	}
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	e.Kind = audit.Kind(pick("action", "poll", "preflight", "system", "x\x00"))
	e.Phase = audit.Phase(pick("started", "finished", "refused", "cut", ""))
	e.Decision = audit.Decision(pick("none", "allow", "deny", "challenge", "wait", "maybe"))
	e.ActorKind = audit.ActorKind(pick("nobody", "user", "api_token", "system", "database", "ghost"))
	e.Status = int32(r.Uint32() >> r.IntN(32))
	switch r.IntN(5) {
	case 0:
		e.Address = netip.MustParseAddr("10.1.2.3")
	case 1:
		e.Address = netip.MustParseAddr("fe80::1%eth0")
	case 2:
		e.Address = netip.MustParseAddr("::ffff:192.0.2.1")
	case 3:
		e.Address = netip.MustParseAddr("2001:db8::8:800:200c:417a")
	}
	d := &e.Detail
	for _, field := range []*string{&e.ActorID, &e.ActorLabel, &e.Action, &e.App, &e.Resource, &d.Approval, &d.Auth, &d.Client, &d.Code,
		&d.Error, &d.Method, &d.MFA, &d.MFALevel, &d.Op, &d.Owner, &d.Path, &d.Permission, &d.Recording, &d.Rule, &d.Token, &d.TokenName, &d.UserAgent} {
		if r.IntN(3) > 0 {
			*field = text()
		}
	}
	d.BytesIn, d.BytesOut, d.Closes = number(), number(), r.IntN(2) == 0
	d.Count, d.Duration = r.Int64()>>r.IntN(63), -r.Int64()>>r.IntN(63)
	if r.IntN(2) == 0 {
		n := int(r.Int32())
		d.ExitCode = &n
	}
	d.EnvKeys = audit.EnvKeys{Added: texts(), Changed: texts(), Removed: texts()}
	d.Truncated = texts()
	for range r.IntN(4) * r.IntN(30) {
		d.Params.Add(text(), text())
	}
	switch r.IntN(20) {
	case 0:
		e.OccurredAt = time.Time{}.Add(-time.Hour)
	case 1:
		e.OccurredAt = time.Unix(math.MaxInt32*1000, 999)
	case 2:
		e.RequestID = uuid.UUID{}
	}
	return e
}

func TestCanonicalBytesOfHostileEvents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	marked := 0
	for range 3000 {
		e := hostile(r)
		e.ID = audit.NewID(time.Now())
		canonical := e.AppendCanonical(nil)
		checkCanonical(t, canonical)
		if again := e.AppendCanonical(nil); !bytes.Equal(again, canonical) {
			t.Errorf("two encodings of one event:\n%s\n%s", canonical, again)
		}
		if bytes.Contains(canonical, []byte(`"truncated":["`)) {
			marked++
		}
		if t.Failed() {
			t.Fatal("of one of the events")
		}
	}
	if marked < 1000 {
		t.Errorf("only %d of 3000 are marked as cut: the events are not hostile", marked)
	}
}

func TestWhatIsCutIsMarked(t *testing.T) {
	e := audit.NewEvent(time.Now())
	e.App = strings.Repeat("漢", 100)
	e.Resource = "a\x1b[2Jb"
	e.Kind = "wrong"
	e.Detail.UserAgent = strings.Repeat("x", 600)
	e.Detail.Path = "/ok"
	e.Detail.Error = "bad \xff byte"
	e.Detail.Params.Add("command", strings.Repeat("y", 3000))
	e.Detail.Params.Add("fine", "ok")
	var got struct {
		App, Kind, Resource string
		Detail              struct {
			UserAgent   string `json:"user_agent"`
			Path, Error string
			Params      map[string]string
			Truncated   []string
		}
	}
	canonical := e.AppendCanonical(nil)
	checkCanonical(t, canonical)
	if err := json.Unmarshal(canonical, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app", "error", "kind", "params.command", "resource", "user_agent"}, got.Detail.Truncated); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ name, got, want string }{
		{"app", got.App, strings.Repeat("漢", 42)}, // 126 bytes: no rune is cut in two
		{"resource", got.Resource, "a?[2Jb"},
		{"kind", got.Kind, "system"},
		{"user agent", got.Detail.UserAgent, strings.Repeat("x", 512)},
		{"path", got.Detail.Path, "/ok"},
		{"error", got.Detail.Error, "bad \ufffd byte"},
		{"command", got.Detail.Params["command"], strings.Repeat("y", 2048)},
		{"fine", got.Detail.Params["fine"], "ok"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

// Every field of a detail reaches the canonical bytes, and comes back from them: none is forgotten when
// one is added.
func TestNoFieldOfADetailIsForgotten(t *testing.T) {
	fields := reflect.TypeFor[audit.Detail]()
	empty := audit.NewEvent(time.Now())
	for i := range fields.NumField() {
		e := *empty
		name := fields.Field(i).Name
		switch f := reflect.ValueOf(&e.Detail).Elem().Field(i); f.Interface().(type) {
		case string:
			f.SetString("x")
		case bool:
			f.SetBool(true)
		case int64:
			f.SetInt(7)
		case *int64, *int:
			f.Set(reflect.New(f.Type().Elem()))
		case []string:
			f.Set(reflect.ValueOf([]string{"x"}))
		case audit.Params:
			f.Set(reflect.ValueOf(audit.Params{{Name: "n", Value: "v"}}))
		case audit.EnvKeys:
			f.Set(reflect.ValueOf(audit.EnvKeys{Added: []string{"a"}, Changed: []string{"c"}, Removed: []string{"r"}}))
		default:
			t.Fatalf("%s has a type that this test does not know", name)
		}
		canonical := e.AppendCanonical(nil)
		checkCanonical(t, canonical)
		if bytes.Equal(canonical, empty.AppendCanonical(nil)) {
			t.Errorf("%s is not recorded", name)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add(int64(0), "ana@acme.com", "/apps/web", "command", "ls -la", "convox/3", int32(200))
	f.Add(int64(-1), "\x00\xff", strings.Repeat("\x01", 9000), "a\"\\", "\ud7ff\uE000", strings.Repeat("漢", 3000), int32(-1))
	f.Fuzz(func(t *testing.T, at int64, label, path, name, value, agent string, status int32) {
		e := audit.NewEvent(time.UnixMicro(at))
		e.ActorID, e.ActorLabel, e.Action, e.App, e.Resource, e.Status = label, label, name, value, path, status
		e.Kind, e.Decision = audit.Kind(name), audit.Decision(value)
		e.Detail = audit.Detail{Path: path, UserAgent: agent, Error: value, Rule: label, Owner: label, TokenName: value, Count: at,
			Params: audit.Params{{name, value}, {value, name}, {name, agent}}, EnvKeys: audit.EnvKeys{Changed: []string{name, value, label}}, Truncated: []string{name}}
		canonical := e.AppendCanonical(nil)
		checkCanonical(t, canonical)
	})
}

func TestIDsAreUUIDv7InOrderOfTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)
	last := ""
	for i := range 5000 {
		id := audit.NewID(now.Add(time.Duration(i) * time.Microsecond))
		if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is not a UUIDv7", id)
		}
		if id.String() <= last {
			t.Fatalf("%s comes after %s, and sorts before it", id, last)
		}
		last = id.String()
	}
	sec, nsec := audit.NewID(now).Time().UnixTime()
	if got := time.Unix(sec, nsec); !got.Equal(now) {
		t.Errorf("it says %s, want %s", got, now)
	}
}

func TestAKeyCannotBePrinted(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	key, err := audit.NewKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	holder := struct{ key audit.Key }{key}
	for _, text := range []string{fmt.Sprintf("%s %v %+v %#v %x %q", key, key, key, key, key, key), fmt.Sprintf("%v %+v %#v %x", holder, holder, holder, holder)} {
		if strings.Contains(text, secret[:8]) || strings.Contains(text, fmt.Sprintf("%x", secret[:8])) {
			t.Errorf("it shows in %s", text)
		}
	}
	if b, err := json.Marshal(key); err == nil {
		t.Errorf("it can be encoded: %s", b)
	}
	other, err := audit.NewKey([]byte(strings.ToUpper(secret)))
	if err != nil {
		t.Fatal(err)
	}
	if key.ID() == other.ID() || len(key.ID()) != 8 {
		t.Errorf("ids %q and %q", key.ID(), other.ID())
	}
	if _, err := audit.NewKey([]byte(secret[:31])); err == nil {
		t.Error("31 bytes are taken for a key")
	}
}
