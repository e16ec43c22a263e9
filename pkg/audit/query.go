package audit

// The grammar of searches:
//
//	actor:ana@acme.com app:web,api action:process.* -kind:poll status:>=400 since:24h "drop table"
//
// Terms stand beside each other and must all hold. A term is FIELD:VALUE or text to be found; VALUE may list several
// by commas, any of which may hold; a minus before the term turns it round. Text and values with spaces, commas or
// colons stand in double quotes. In names, * stands for any run of characters.

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Query is a search that was read. The zero value finds everything.
type Query struct {
	terms []term
	since time.Time // from then on; zero when not given
	until time.Time // before then
	all   bool      // polls and preflights too
}

// term is one condition.
type term struct {
	field  string // "" for text
	not    bool
	values []value
}

// value is one of a term's alternatives.
type value struct {
	text     string // as given
	pattern  bool   // has a *
	low      int32  // status from
	high     int32  // status to
	prefix   netip.Prefix
	id       uuid.UUID
	resolved *actorMatch // of actors, once looked up
}

// QueryError says what is wrong with a search, and where.
type QueryError struct {
	Column int // of the first character that is wrong, from 1
	What   string
}

// Error is the sentence for people.
func (e *QueryError) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.What) }

// maxQuery is the most bytes, and maxTerms the most terms, that a search has.
const (
	maxQuery  = 2000
	maxTerms  = 32
	maxValues = 64
)

// queryFields are the fields there are, with an example of each.
var queryFields = []struct{ name, example string }{
	{"actor", "actor:ana@acme.com"}, {"app", "app:web"}, {"action", "action:process.exec"}, {"resource", "resource:web"},
	{"decision", "decision:deny"}, {"phase", "phase:refused"}, {"kind", "kind:poll"}, {"status", "status:>=400"},
	{"address", "address:10.0.0.0/8"}, {"code", "code:no-permission"}, {"client", "client:cli"}, {"request", "request:ID"}, {"id", "id:ID"},
	{"since", "since:24h"}, {"until", "until:2026-11-23"},
}

// ParseQuery reads a search. Times that are given as how long ago are counted from now. The error is a *QueryError.
func ParseQuery(text string, now time.Time) (*Query, error) {
	if len(text) > maxQuery {
		return nil, &QueryError{utf8.RuneCountInString(text[:maxQuery]) + 1, fmt.Sprintf("the search is longer than %d bytes", maxQuery)}
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, &QueryError{1, "the search is not valid text"}
	}
	p := &queryParser{text: text, now: now}
	q := new(Query)
	for p.space(); p.at < len(p.text); p.space() {
		if len(q.terms) == maxTerms {
			return nil, p.wrong(p.at, "a search has at most %d terms", maxTerms)
		}
		if err := p.term(q); err != nil {
			return nil, err
		}
	}
	if !q.since.IsZero() && !q.until.IsZero() && !q.since.Before(q.until) {
		return nil, p.wrong(p.untilAt, "until is not after since, so nothing can be found")
	}
	return q, nil
}

type queryParser struct {
	text             string
	at               int
	now              time.Time
	sinceAt, untilAt int
}

// wrong makes an error about the byte at an offset. Columns are counted in characters.
func (p *queryParser) wrong(at int, format string, args ...any) *QueryError {
	return &QueryError{utf8.RuneCountInString(p.text[:min(at, len(p.text))]) + 1, fmt.Sprintf(format, args...)}
}

func (p *queryParser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t' || p.text[p.at] == '\n' || p.text[p.at] == '\r') {
		p.at++
	}
}

// word reads up to a space, and, where values are listed, a comma. Quoted says that it was in quotes.
func (p *queryParser) word(list bool) (text string, quoted bool, err *QueryError) {
	start := p.at
	if p.at < len(p.text) && p.text[p.at] == '"' {
		var b strings.Builder
		for p.at++; p.at < len(p.text); p.at++ {
			switch c := p.text[p.at]; c {
			case '"':
				p.at++
				return b.String(), true, nil
			case '\\':
				if p.at+1 < len(p.text) && (p.text[p.at+1] == '"' || p.text[p.at+1] == '\\') {
					p.at++
				}
				b.WriteByte(p.text[p.at])
			default:
				b.WriteByte(c)
			}
		}
		return "", true, p.wrong(start, "this quote is not closed")
	}
	for p.at < len(p.text) && !strings.ContainsRune(" \t\n\r\"", rune(p.text[p.at])) && (!list || p.text[p.at] != ',') {
		p.at++
	}
	return p.text[start:p.at], false, nil
}

func (p *queryParser) term(q *Query) error {
	start := p.at
	var t term
	if p.text[p.at] == '-' {
		t.not = true
		p.at++
		if p.at == len(p.text) || p.text[p.at] == ' ' {
			return p.wrong(start, "a minus stands right before what is not wanted")
		}
	}
	nameAt := p.at
	if name, ok := p.field(); ok {
		t.field = name
		if !slices.ContainsFunc(queryFields, func(f struct{ name, example string }) bool { return f.name == name }) {
			return p.wrong(nameAt, "there is no field %s: there are %s; put text that has a colon in quotes", strconv.Quote(name), fieldNames())
		}
		return p.values(q, t, start)
	}
	text, _, err := p.word(false)
	if err != nil {
		return err
	}
	if text == "" {
		return p.wrong(nameAt, "there is nothing to look for between the quotes")
	}
	t.values = []value{{text: text}}
	q.terms = append(q.terms, t)
	return nil
}

// field reads NAME: where there is one.
func (p *queryParser) field() (name string, ok bool) {
	for i := p.at; i < len(p.text); i++ {
		c := p.text[i]
		switch {
		case c == ':' && i > p.at:
			name = p.text[p.at:i]
			p.at = i + 1
			return name, true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '-':
		default:
			return "", false
		}
	}
	return "", false
}

func fieldNames() string {
	var names []string
	for _, f := range queryFields {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// values reads what follows NAME: and adds the term.
func (p *queryParser) values(q *Query, t term, start int) error {
	for {
		at := p.at
		text, quoted, err := p.word(true)
		if err != nil {
			return err
		}
		if text == "" {
			return p.wrong(at, "a value is missing: write, for example, %s", example(t.field))
		}
		v, what := p.value(t.field, text, quoted)
		if what != "" {
			return p.wrong(at, "%s", what)
		}
		if len(t.values) == maxValues {
			return p.wrong(at, "a field takes at most %d values", maxValues)
		}
		t.values = append(t.values, v)
		if p.at == len(p.text) || p.text[p.at] != ',' {
			break
		}
		p.at++
	}
	switch t.field {
	case "since", "until":
		return p.moment(q, t, start)
	case "kind":
		if len(t.values) == 1 && t.values[0].text == "all" {
			if t.not {
				return p.wrong(start, "without any kind there is nothing to find")
			}
			q.all = true
			return nil
		}
		if !t.not {
			q.all = true
		}
	case "id", "request":
		q.all = q.all || !t.not
	}
	q.terms = append(q.terms, t)
	return nil
}

func example(field string) string {
	for _, f := range queryFields {
		if f.name == field {
			return f.example
		}
	}
	return ""
}

// moment sets since or until.
func (p *queryParser) moment(q *Query, t term, start int) error {
	if t.not || len(t.values) > 1 {
		return p.wrong(start, "%s takes one moment, and cannot be turned round: use the other of since and until", t.field)
	}
	at, ok := ParseMoment(t.values[0].text, p.now)
	if !ok {
		return p.wrong(start+len(t.field)+1, "%s takes a date (2026-11-23), a time (2026-11-23T15:04:05Z), or how long ago (90m, 24h, 7d)", t.field)
	}
	place, seen := &q.since, &p.sinceAt
	if t.field == "until" {
		place, seen = &q.until, &p.untilAt
	}
	if !place.IsZero() {
		return p.wrong(start, "%s is given twice", t.field)
	}
	*place, *seen = at, start
	return nil
}

// ParseMoment reads a date, a time, or how long before now: 2026-11-23, 2026-11-23T15:04:05Z, 90m, 24h, 7d.
func ParseMoment(text string, now time.Time) (at time.Time, ok bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			if year := at.UTC().Year(); year < 1 || year > 9999 || at.IsZero() {
				return time.Time{}, false
			}
			return at.UTC(), true
		}
	}
	if days, has := strings.CutSuffix(text, "d"); has {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > 36500 {
			return time.Time{}, false
		}
		return now.Add(-time.Duration(n) * 24 * time.Hour).UTC(), true // #nosec G115 -- at most a hundred years
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago < 0 || ago > 100*365*24*time.Hour {
		return time.Time{}, false
	}
	return now.Add(-ago).UTC(), true
}

var queryEnums = map[string][]string{
	"decision": {string(DecisionNone), string(DecisionAllow), string(DecisionDeny), string(DecisionChallenge), string(DecisionWait)},
	"phase":    {string(PhaseStarted), string(PhaseFinished), string(PhaseRefused), string(PhaseCut)},
	"kind":     {string(KindAction), string(KindPoll), string(KindPreflight), string(KindSystem), "all"},
}

// value reads one value of a field. What is wrong with it is a sentence.
func (p *queryParser) value(field, text string, quoted bool) (v value, what string) {
	v.text = text
	switch field {
	case "decision", "phase", "kind":
		if known := queryEnums[field]; !slices.Contains(known, text) {
			return v, fmt.Sprintf("%s is none of %s", strconv.Quote(text), strings.Join(known, ", "))
		}
	case "status":
		var ok bool
		if v.low, v.high, ok = statusRange(text); !ok {
			return v, "a status is 404, 4xx, 400..499, >=400, >399, <=299 or <300"
		}
	case "address":
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, errAddress := netip.ParseAddr(text)
			if errAddress != nil || address.Zone() != "" {
				return v, "an address is 192.0.2.1, 2001:db8::1, or a network such as 192.0.2.0/24"
			}
			address = address.Unmap()
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return v, "IPv4 networks are written as such, 192.0.2.0/24"
		}
		v.prefix = prefix.Masked()
	case "request", "id":
		id, err := uuid.Parse(text)
		if err != nil || len(text) != 36 {
			return v, "an id looks like 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f"
		}
		v.id = id
	case "actor", "app", "action", "resource":
		v.pattern = !quoted && strings.Contains(text, "*")
		if v.pattern && strings.Trim(text, "*") == "" && field != "app" && field != "resource" {
			return v, "a pattern needs more than *"
		}
	}
	return v, ""
}

func statusRange(text string) (low, high int32, ok bool) {
	number := func(s string) (int32, bool) {
		n, err := strconv.ParseUint(s, 10, 16)
		return int32(n), err == nil && n <= 999 && s == strconv.FormatUint(n, 10) // #nosec G115 -- 16 bits
	}
	for _, op := range []string{">=", "<=", ">", "<"} {
		rest, has := strings.CutPrefix(text, op)
		if !has {
			continue
		}
		n, ok := number(rest)
		switch op {
		case ">=":
			return n, 999, ok
		case "<=":
			return 0, n, ok
		case ">":
			return n + 1, 999, ok
		default:
			return 0, n - 1, ok
		}
	}
	if from, to, has := strings.Cut(text, ".."); has {
		a, okA := number(from)
		b, okB := number(to)
		return a, b, okA && okB && a <= b
	}
	if len(text) == 3 && text[1:] == "xx" && text[0] >= '1' && text[0] <= '5' {
		n := int32(text[0]-'0') * 100
		return n, n + 99, true
	}
	n, ok := number(text)
	return n, n, ok
}

// Since and Until are the times that the search names; zero when it does not.
func (q *Query) Since() time.Time { return q.since }

// Until is the time before which the search looks.
func (q *Query) Until() time.Time { return q.until }

// foldASCII is lower case for what ASCII has of letters: what the database's lower(… collate "C") makes.
func foldASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// matchPattern tells whether a text is what a pattern says, in which * is any run of characters.
func matchPattern(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return strings.HasSuffix(rest, last)
}

// Match tells whether an event is what the search wants. It says the same as the database does of what it was asked
// with Search; actors that came by a name since the search was resolved are known by that name.
func (q *Query) Match(e *Event) bool {
	switch {
	case !q.since.IsZero() && e.OccurredAt.Before(q.since), !q.until.IsZero() && !e.OccurredAt.Before(q.until):
		return false
	case !q.all && (e.Kind == KindPoll || e.Kind == KindPreflight):
		return false
	}
	for i := range q.terms {
		t := &q.terms[i]
		if slices.ContainsFunc(t.values, func(v value) bool { return v.match(t.field, e) }) == t.not {
			return false
		}
	}
	return true
}

func (v *value) is(text string) bool {
	if v.pattern {
		return matchPattern(v.text, text)
	}
	return v.text == text
}

func (v *value) match(field string, e *Event) bool {
	switch field {
	case "":
		return v.within(e)
	case "actor":
		folded := value{text: foldASCII(v.text), pattern: v.pattern}
		return e.ActorID == v.text && v.text != "" || folded.is(foldASCII(e.ActorLabel)) || v.resolved != nil && e.ActorID != "" && slices.Contains(v.resolved.ids, e.ActorID)
	case "app":
		return v.is(e.App)
	case "action":
		return v.is(e.Action)
	case "resource":
		return v.is(e.Resource)
	case "decision":
		return v.text == string(e.Decision)
	case "phase":
		return v.text == string(e.Phase)
	case "kind":
		return v.text == string(e.Kind)
	case "status":
		return v.low <= e.Status && e.Status <= v.high
	case "address":
		return e.Address.IsValid() && v.prefix.Contains(e.Address.Unmap())
	case "request":
		return e.RequestID == v.id
	case "id":
		return e.ID == v.id
	case "code", "client":
		return strings.Contains(string(e.detailText()), jsonMember(field, v.text))
	}
	return false
}

// jsonMember is how a member of a detail is spelled.
func jsonMember(name, text string) string {
	return string(appendString(append([]byte(`"`+name+`"`), ':'), text))
}

func (e *Event) detailText() []byte {
	if e.detail != nil {
		return e.detail
	}
	return e.Detail.appendDetail(nil)
}

// within tells whether a text stands anywhere in what an event says.
func (v *value) within(e *Event) bool {
	needle := foldASCII(v.text)
	for _, text := range []string{e.ActorLabel, e.Action, e.App, e.Resource} {
		if strings.Contains(foldASCII(text), needle) {
			return true
		}
	}
	return strings.Contains(foldASCII(string(e.detailText())), foldASCII(jsonInner(v.text)))
}

// jsonInner is how a text is spelled within a JSON string.
func jsonInner(text string) string {
	quoted := appendString(nil, text)
	return string(quoted[1 : len(quoted)-1])
}
