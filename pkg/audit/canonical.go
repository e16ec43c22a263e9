package audit

// The canonical bytes of an event: what its MAC covers and what becomes its leaf in the ledger.
//
// They are RFC 8785 JSON (sorted keys, no white space, shortest escapes) with integers only, so that
// anybody can compute them from a row in any language. The members are the columns that say what
// happened and who wrote it down. The transaction id and the cluster's epoch are not among them, since
// only the database knows them and they say where a row stands, not what happened.

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// timeFormat is RFC 3339 in UTC with six digits, always.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// AppendCanonical appends the canonical bytes of the event. Text that cannot be recorded as it is gets
// cut first, as the writer does it, so that the bytes are the same before and after it was stored.
func (e *Event) AppendCanonical(dst []byte) []byte {
	if e.detail == nil {
		ready := *e
		ready.prepare(nil)
		e = &ready
	}
	return e.appendWriter(e.appendFacts(dst))
}

// appendFacts appends the part of the canonical bytes that does not depend on the writer, which is
// known last. The keys of both parts are in order because "writer_…" sorts behind all others.
func (e *Event) appendFacts(dst []byte) []byte {
	dst = append(dst, `{"action":`...)
	dst = appendString(dst, e.Action)
	dst = append(dst, `,"actor_id":`...)
	dst = appendString(dst, e.ActorID)
	dst = append(dst, `,"actor_kind":`...)
	dst = appendString(dst, string(e.ActorKind))
	dst = append(dst, `,"actor_label":`...)
	dst = appendString(dst, e.ActorLabel)
	if e.Address.IsValid() {
		dst = append(dst, `,"address":"`...)
		dst = e.Address.AppendTo(dst)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"app":`...)
	dst = appendString(dst, e.App)
	dst = append(dst, `,"decision":`...)
	dst = appendString(dst, string(e.Decision))
	dst = append(dst, `,"detail":`...)
	dst = append(dst, e.detail...)
	dst = append(dst, `,"event_id":`...)
	dst = appendUUID(dst, e.ID)
	dst = append(dst, `,"kind":`...)
	dst = appendString(dst, string(e.Kind))
	dst = append(dst, `,"occurred_at":"`...)
	dst = e.OccurredAt.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, `","phase":`...)
	dst = appendString(dst, string(e.Phase))
	dst = append(dst, `,"request_id":`...)
	dst = appendUUID(dst, e.RequestID)
	dst = append(dst, `,"resource":`...)
	dst = appendString(dst, e.Resource)
	dst = append(dst, `,"status":`...)
	return strconv.AppendInt(dst, int64(e.Status), 10)
}

// appendWriter appends the rest.
func (e *Event) appendWriter(dst []byte) []byte {
	if e.WriterID != (uuid.UUID{}) {
		dst = append(dst, `,"writer_id":`...)
		dst = appendUUID(dst, e.WriterID)
		dst = append(dst, `,"writer_seq":`...)
		dst = strconv.AppendInt(dst, e.WriterSeq, 10)
	}
	return append(dst, '}')
}

// appendDetail appends the canonical JSON of the detail.
func (d *Detail) appendDetail(dst []byte) []byte {
	o := object{dst: append(dst, '{')}
	o.text("approval", d.Approval)
	o.text("auth", d.Auth)
	o.optional("bytes_in", d.BytesIn)
	o.optional("bytes_out", d.BytesOut)
	o.text("client", d.Client)
	if d.Closes {
		o.key("closes")
		o.dst = append(o.dst, "true"...)
	}
	o.text("code", d.Code)
	o.number("count", d.Count)
	o.number("duration_us", d.Duration)
	if len(d.EnvKeys.Added)+len(d.EnvKeys.Changed)+len(d.EnvKeys.Removed) > 0 {
		o.key("env_keys")
		keys := object{dst: append(o.dst, '{')}
		keys.list("added", d.EnvKeys.Added)
		keys.list("changed", d.EnvKeys.Changed)
		keys.list("removed", d.EnvKeys.Removed)
		o.dst = append(keys.dst, '}')
	}
	o.text("error", d.Error)
	if d.ExitCode != nil {
		o.key("exit_code")
		o.dst = strconv.AppendInt(o.dst, int64(*d.ExitCode), 10)
	}
	o.text("method", d.Method)
	o.text("mfa", d.MFA)
	o.text("mfa_level", d.MFALevel)
	o.text("op", d.Op)
	o.text("owner", d.Owner)
	if len(d.Params) > 0 {
		o.key("params")
		params := object{dst: append(o.dst, '{')}
		for i := range d.Params {
			params.key(d.Params[i].Name)
			params.dst = appendString(params.dst, d.Params[i].Value)
		}
		o.dst = append(params.dst, '}')
	}
	o.text("path", d.Path)
	o.text("permission", d.Permission)
	o.text("recording", d.Recording)
	o.text("rule", d.Rule)
	o.text("token", d.Token)
	o.text("token_name", d.TokenName)
	o.list("truncated", d.Truncated)
	o.text("user_agent", d.UserAgent)
	return append(o.dst, '}')
}

// object appends the members of a JSON object, which its caller gives in the order of their keys.
type object struct {
	dst  []byte
	some bool
}

func (o *object) key(key string) {
	if o.some {
		o.dst = append(o.dst, ',')
	}
	o.some = true
	o.dst = appendString(o.dst, key)
	o.dst = append(o.dst, ':')
}

func (o *object) text(key, value string) {
	if value != "" {
		o.key(key)
		o.dst = appendString(o.dst, value)
	}
}

func (o *object) number(key string, value int64) {
	if value != 0 {
		o.key(key)
		o.dst = strconv.AppendInt(o.dst, value, 10)
	}
}

func (o *object) optional(key string, value *int64) {
	if value != nil {
		o.key(key)
		o.dst = strconv.AppendInt(o.dst, *value, 10)
	}
}

func (o *object) list(key string, values []string) {
	if len(values) == 0 {
		return
	}
	o.key(key)
	o.dst = append(o.dst, '[')
	for i, value := range values {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = appendString(o.dst, value)
	}
	o.dst = append(o.dst, ']')
}

// appendString appends a JSON string as RFC 8785 section 3.2.2.2 spells it: the two-character escapes
// where there is one, \u00xx in lower case for other control characters, all else as it is.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

func appendUUID(dst []byte, id uuid.UUID) []byte {
	n := len(dst)
	dst = append(dst, `"00000000-0000-0000-0000-000000000000"`...)
	text := dst[n+1:]
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	return dst
}

// MaxCanonical is the length in bytes that no event's canonical form is over.
const MaxCanonical = 8 << 10

// writerRoom is what appendWriter takes at most.
const writerRoom = len(`,"writer_id":"00000000-0000-0000-0000-000000000000","writer_seq":9223372036854775807}`)

// Longest values in bytes, by what they hold.
const (
	maxName    = 128  // ids, actions, apps and other names
	maxLabel   = 320  // an e-mail address (RFC 5321 section 4.5.3.1: 64 + 1 + 255)
	maxLine    = 512  // a sentence, a resource, a user agent
	maxPath    = 2048 // paths
	maxValue   = 2048 // the value of a parameter
	maxParams  = 32   // how many parameters
	maxKeys    = 64   // how many environment keys in one list
	maxMarks   = 32   // how many names in Truncated
	minAllowed = 16   // what no field is cut below to make an event fit
)

// prepare makes the event fit to be stored, whatever a client put into it, and encodes its detail into
// the buffer given. It never fails. The event must be the caller's own: its text is replaced, but no
// slice that it points to is written to.
func (e *Event) prepare(buf []byte) []byte {
	e.OccurredAt = clampTime(e.OccurredAt)
	if e.RequestID == (uuid.UUID{}) {
		e.RequestID = e.ID
	}
	e.Address = e.Address.Unmap().WithZone("")
	c := cutter{scale: 1, marks: e.Detail.Truncated}
	for {
		c.event(e)
		e.Detail.Truncated = c.marks
		buf = e.Detail.appendDetail(buf[:0])
		e.detail = buf
		if len(buf) <= MaxCanonical/4 {
			return buf // the columns cannot fill the rest
		}
		if n := len(e.appendFacts(make([]byte, 0, MaxCanonical))); n+writerRoom <= MaxCanonical {
			return buf
		}
		c.scale *= 2
	}
}

// clampTime keeps a moment within what both RFC 3339 and PostgreSQL can say.
func clampTime(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Microsecond)
	switch year := t.Year(); {
	case year < 1:
		return time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	case year > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// cutter makes text valid and short enough, and remembers which fields it changed.
type cutter struct {
	scale int // limits are divided by it
	marks []string
	owned bool // marks is ours to write to
}

func (c *cutter) event(e *Event) {
	known(c, "kind", &e.Kind, KindSystem, KindAction, KindPoll, KindPreflight)
	known(c, "phase", &e.Phase, PhaseFinished, PhaseStarted, PhaseRefused, PhaseCut)
	known(c, "decision", &e.Decision, DecisionNone, DecisionAllow, DecisionDeny, DecisionChallenge, DecisionWait)
	known(c, "actor_kind", &e.ActorKind, ActorNobody, ActorUser, ActorAPIToken, ActorSystem, ActorDatabase)
	c.line("actor_id", &e.ActorID, maxName)
	c.line("actor_label", &e.ActorLabel, maxLabel)
	c.line("action", &e.Action, maxName)
	c.line("app", &e.App, maxName)
	c.line("resource", &e.Resource, maxLine)
	d := &e.Detail
	c.text("approval", &d.Approval, maxName)
	c.text("auth", &d.Auth, maxName)
	c.text("client", &d.Client, maxName)
	c.text("code", &d.Code, maxName)
	c.text("error", &d.Error, maxLine)
	c.text("method", &d.Method, maxName)
	c.text("mfa", &d.MFA, maxName)
	c.text("mfa_level", &d.MFALevel, maxName)
	c.text("op", &d.Op, maxName)
	c.text("owner", &d.Owner, maxLabel)
	c.text("path", &d.Path, maxPath)
	c.text("permission", &d.Permission, maxName)
	c.text("recording", &d.Recording, maxName)
	c.text("rule", &d.Rule, maxLine)
	c.text("token", &d.Token, maxName)
	c.text("token_name", &d.TokenName, maxLabel)
	c.text("user_agent", &d.UserAgent, maxLine)
	c.number("count", &d.Count)
	c.number("duration_us", &d.Duration)
	c.optional("bytes_in", &d.BytesIn)
	c.optional("bytes_out", &d.BytesOut)
	c.params(&d.Params)
	c.keys("env_keys.added", &d.EnvKeys.Added)
	c.keys("env_keys.changed", &d.EnvKeys.Changed)
	c.keys("env_keys.removed", &d.EnvKeys.Removed)
	c.truncated()
}

// known replaces a value that the database's enumeration does not have by the first one given.
func known[T ~string](c *cutter, name string, value *T, good ...T) {
	if !slices.Contains(good, *value) {
		*value = good[0]
		c.mark(name)
	}
}

// text makes a value valid UTF-8 without NUL and no longer than the limit.
func (c *cutter) text(name string, value *string, limit int) {
	if clean, changed := cut(*value, max(limit/c.scale, minAllowed)); changed {
		*value = clean
		c.mark(name)
	}
}

// maxNumber is the largest number that RFC 8785 spells as an integer, to the last digit.
const maxNumber = 1<<53 - 1

func (c *cutter) number(name string, value *int64) {
	if n := min(max(*value, -maxNumber), maxNumber); n != *value {
		*value = n
		c.mark(name)
	}
}

func (c *cutter) optional(name string, value **int64) {
	if *value != nil {
		n := **value
		if c.number(name, &n); n != **value {
			*value = &n // what it pointed to is the caller's
		}
	}
}

// line is text for a column: control characters are replaced too, so that whoever lists events on a
// terminal is shown no more than text.
func (c *cutter) line(name string, value *string, limit int) {
	c.text(name, value, limit)
	if strings.IndexFunc(*value, isControl) >= 0 {
		*value = strings.Map(func(r rune) rune {
			if isControl(r) {
				return '?'
			}
			return r
		}, *value)
		c.mark(name)
	}
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

func (c *cutter) params(params *Params) {
	in := *params
	if len(in) == 0 {
		return
	}
	limit, sorted, clean := max(maxValue/c.scale, minAllowed), true, true
	for i := range in {
		sorted = sorted && (i == 0 || in[i-1].Name < in[i].Name)
		clean = clean && plainName(in[i].Name) && len(in[i].Value) <= limit && plain(in[i].Value)
	}
	if most := max(maxParams/c.scale, 1); sorted && clean && len(in) <= most {
		return
	} else if len(in) > most {
		in = in[:most]
		c.mark("params")
	}
	out := slices.Clone(in)
	for i := range out {
		if !plainName(out[i].Name) {
			out[i].Name = safeName(out[i].Name)
			c.mark("params")
		}
	}
	out.sort()
	last := 0
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[last].Name {
			out[last].Value += ", " + out[i].Value
			continue
		}
		last++
		out[last] = out[i]
	}
	out = out[:last+1]
	for i := range out {
		if value, changed := cut(out[i].Value, limit); changed {
			out[i].Value = value
			c.mark("params." + out[i].Name)
		}
	}
	*params = out
}

func (c *cutter) keys(name string, keys *[]string) {
	in, most := *keys, max(maxKeys/c.scale, 1)
	if len(in) == 0 {
		return
	}
	out := slices.Clone(in[:min(len(in), most)])
	if len(in) > most {
		c.mark(name)
	}
	for i := range out {
		c.text(name, &out[i], maxName)
	}
	slices.Sort(out)
	*keys = slices.Compact(out)
}

// mark notes that a field was changed.
func (c *cutter) mark(name string) {
	if slices.Contains(c.marks, name) {
		return
	}
	if !c.owned {
		c.marks, c.owned = slices.Clone(c.marks), true
	}
	c.marks = append(c.marks, name)
}

// truncated puts the notes themselves in order, since a caller may have given some.
func (c *cutter) truncated() {
	if len(c.marks) == 0 {
		return
	}
	if !c.owned {
		c.marks, c.owned = slices.Clone(c.marks), true
	}
	for i := range c.marks {
		c.marks[i], _ = cut(c.marks[i], maxName)
	}
	slices.Sort(c.marks)
	c.marks = slices.Compact(c.marks)
	if most := max(maxMarks/c.scale, 1); len(c.marks) > most {
		c.marks = c.marks[:most]
	}
}

// cut returns the text as valid UTF-8 without NUL and at most so many bytes, and whether that is a change.
func cut(s string, limit int) (string, bool) {
	if len(s) <= limit && plain(s) {
		return s, false
	}
	if len(s) > 4*limit {
		s = s[:4*limit] // whatever it holds, no more can survive
	}
	clean := strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if len(clean) > limit {
		end := limit
		for end > 0 && !utf8.RuneStart(clean[end]) {
			end--
		}
		clean = clean[:end]
	}
	return clean, true
}

// plain tells whether a text can be stored as it is.
func plain(s string) bool {
	ascii := true
	for i := 0; i < len(s); i++ {
		if s[i] == 0 {
			return false
		}
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	return ascii || utf8.ValidString(s)
}

// plainName tells whether a parameter's name is one that sorts the same by bytes and by UTF-16, which
// RFC 8785 sorts by.
func plainName(s string) bool {
	if s == "" || len(s) > maxName/2 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}

func safeName(s string) string {
	b := []byte(s[:min(len(s), maxName/2)])
	for i := range b {
		if b[i] <= ' ' || b[i] >= 0x7f || b[i] == '"' || b[i] == '\\' {
			b[i] = '_'
		}
	}
	if len(b) == 0 {
		return "_"
	}
	return string(b)
}
