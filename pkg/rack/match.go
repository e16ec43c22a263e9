// From a request's path to a route. The path is taken apart once, and what comes out is the one value that is
// authorised, recorded and forwarded.
//
// A rack matches on the decoded path: to it, GET /apps/demo%2Freleases is a list of releases. So a path that
// two readers could take apart in two ways is refused here, before anybody decides about it.

package rack

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrNoRoute says that a rack has nothing at the path.
var ErrNoRoute = errors.New("a rack has nothing at this path")

// PathError says why a path is refused: it is not well formed, or two readers could read it in two ways.
type PathError struct {
	Reason string // "the path …", fit to be shown
}

func (e *PathError) Error() string { return e.Reason }

// MethodError says that a rack has something at the path, but not for the method.
type MethodError struct {
	Allowed []string // the methods it has, sorted
}

func (e *MethodError) Error() string {
	return "at this path a rack takes only " + strings.Join(e.Allowed, ", ")
}

// Match is a path that was taken apart, and the route it leads to.
type Match struct {
	Route *Route

	// Path is the canonical escaped path, "/" first. Matching it again gives the same Segments, and
	// unescaping it as a whole, as a rack does, and splitting it gives them too.
	Path string

	// Segments are the unescaped segments. None is empty or a dot segment, and none holds a slash,
	// a backslash, a question mark, a number sign, a percent sign or a control character.
	Segments []string
}

// Var returns what the named part of the pattern stands for, unescaped: one segment, or, for the rest of a
// path, its segments with slashes between. It is "" when the pattern has no such part.
func (m *Match) Var(name string) string {
	if m.Route == nil {
		return ""
	}
	for i := range m.Route.segments {
		s := &m.Route.segments[i]
		if s.name != name || name == "" {
			continue
		}
		switch {
		case s.rest && i < len(m.Segments):
			return strings.Join(m.Segments[i:], "/")
		case s.rest:
			return ""
		default:
			return strings.TrimSuffix(m.Segments[i], s.suffix)
		}
	}
	return ""
}

// segment is one segment of a pattern: a literal, or a variable.
type segment struct {
	literal string // the text; "" for a variable
	name    string // of the variable
	suffix  string // that a variable's segment ends in, with at least a byte before it
	rest    bool   // the variable is the rest of the path
}

func (s *segment) matches(text string) bool {
	switch {
	case s.literal != "":
		return s.literal == text
	case s.suffix != "":
		return len(text) > len(s.suffix) && strings.HasSuffix(text, s.suffix)
	default:
		return true
	}
}

// Table finds routes. It does not change after NewTable, and any number of goroutines may use it at once.
type Table struct {
	routes []Route
	byOp   map[Op]*Route

	// byCount holds the routes that could match a path of so many segments, under its first segment, in
	// the order of the table. The last one is for all longer paths.
	byCount []map[string][]*Route
}

// NewTable parses the table of routes. An error is a mistake in the table.
func NewTable() (*Table, error) {
	return newTable(Routes())
}

func newTable(routes []Route) (*Table, error) {
	t := &Table{routes: routes, byOp: make(map[Op]*Route, len(routes))}
	longest := 0
	for i := range t.routes {
		r := &t.routes[i]
		if err := r.parse(); err != nil {
			return nil, fmt.Errorf("route %s %s: %w", r.Method, r.Pattern, err)
		}
		if t.byOp[r.Op] != nil {
			return nil, fmt.Errorf("route %s %s: operation %s is already taken", r.Method, r.Pattern, r.Op)
		}
		t.byOp[r.Op] = r
		longest = max(longest, len(r.segments))
	}

	t.byCount = make([]map[string][]*Route, longest+2)
	for n := range t.byCount {
		t.byCount[n] = map[string][]*Route{}
		for i := range t.routes {
			r := &t.routes[i]
			if r.spans(n) {
				first := r.segments[0].literal
				t.byCount[n][first] = append(t.byCount[n][first], r)
			}
		}
	}
	return t, nil
}

// Routes returns the rows, in order. They are shared and must not be changed.
func (t *Table) Routes() []Route { return t.routes }

// Route returns the row of an operation, or nil.
func (t *Table) Route(op Op) *Route { return t.byOp[op] }

// Match finds the route of a request: of those that match the path, the first whose method matches too, as
// a rack does. A socket request (see IsSocket) reaches only sockets, and any other request never does.
//
// The path is the escaped one (url.URL.EscapedPath), without the gateway's own prefix. Errors are a
// *PathError, a *MethodError, or ErrNoRoute; with the latter two the Match still has Path and Segments,
// fit to be recorded.
func (t *Table) Match(method string, socket bool, escapedPath string) (Match, error) {
	path, segments, err := split(escapedPath, t.takesBare)
	if err != nil {
		return Match{}, err
	}
	m := Match{Path: path, Segments: segments}
	if len(segments) == 0 {
		return m, ErrNoRoute
	}

	var allowed []string
	otherwise := false // the method is right, but one is a socket and the other is not
	for _, r := range t.byCount[min(len(segments), len(t.byCount)-1)][segments[0]] {
		if !r.matches(segments) {
			continue
		}
		switch {
		case r.Method == AnyMethod, r.Method == method && r.Socket == socket:
			m.Route = r
			return m, nil
		case r.Method == method:
			otherwise = true
		default:
			allowed = append(allowed, r.Method)
		}
	}
	if len(allowed) == 0 || otherwise {
		return m, ErrNoRoute
	}
	slices.Sort(allowed)
	return m, &MethodError{Allowed: slices.Compact(allowed)}
}

// takesBare reports whether the path belongs to a shut route, whose prefix may stand alone.
func (t *Table) takesBare(segments []string) bool {
	for _, r := range t.byCount[min(len(segments), len(t.byCount)-1)][segments[0]] {
		if r.Shut && r.Method == AnyMethod && r.matches(segments) {
			return true
		}
	}
	return false
}

// spans reports whether a path of n segments could match. A number beyond the longest pattern's stands for
// all longer paths.
func (r *Route) spans(n int) bool {
	last := len(r.segments) - 1
	if !r.segments[last].rest {
		return n == len(r.segments)
	}
	if r.Shut {
		return n >= last
	}
	return n >= len(r.segments)
}

// matches reports whether the segments, whose number the route spans, are those of the pattern.
func (r *Route) matches(segments []string) bool {
	for i := range r.segments {
		s := &r.segments[i]
		if s.rest {
			return true
		}
		if !s.matches(segments[i]) {
			return false
		}
	}
	return true
}

// parse fills in what is derived from the row.
func (r *Route) parse() error {
	if !strings.HasPrefix(r.Pattern, "/") {
		return errors.New("the pattern does not begin with a slash")
	}
	parts := strings.Split(r.Pattern[1:], "/")
	for i, part := range parts {
		s := segment{literal: part}
		if strings.HasPrefix(part, "{") {
			name, suffix, closed := strings.Cut(part[1:], "}")
			if !closed || name == "" {
				return fmt.Errorf("segment %q is not closed or has no name", part)
			}
			s = segment{name: name, suffix: suffix}
			if rest, ok := strings.CutSuffix(name, "..."); ok {
				s.name, s.rest = rest, true
			}
			if s.rest && (i != len(parts)-1 || suffix != "") {
				return fmt.Errorf("segment %q is not the last, or has an ending", part)
			}
		} else if part == "" || strings.ContainsAny(part, "{}") {
			return fmt.Errorf("segment %q is neither a literal nor a variable", part)
		}
		r.segments = append(r.segments, s)
	}
	if r.segments[0].literal == "" {
		return errors.New("the first segment is not a literal")
	}
	r.strip = r.standIns()
	return nil
}

// split takes an escaped path apart: its canonical escaped form, and its unescaped segments. A slash at the
// end is dropped where bare, which is asked with the segments before it, says so.
func split(escaped string, bare func([]string) bool) (string, []string, error) {
	if !strings.HasPrefix(escaped, "/") {
		return "", nil, &PathError{"the path does not begin with a slash"}
	}
	if escaped == "/" {
		return "/", nil, nil
	}

	segments := make([]string, 0, strings.Count(escaped, "/"))
	canonical := true
	for rest, more := escaped[1:], true; more; {
		var raw string
		raw, rest, more = strings.Cut(rest, "/")
		if raw == "" && !more && len(segments) > 0 && bare(segments) {
			escaped = escaped[:len(escaped)-1]
			break
		}
		segment, same, err := unescape(raw)
		if err != nil {
			return "", nil, err
		}
		segments = append(segments, segment)
		canonical = canonical && same
	}
	if canonical {
		return escaped, segments, nil
	}

	var path strings.Builder
	path.Grow(len(escaped))
	for _, s := range segments {
		path.WriteByte('/')
		path.WriteString(url.PathEscape(s))
	}
	return path.String(), segments, nil
}

// unescape returns a segment's text, and whether the segment is already in canonical form.
func unescape(raw string) (text string, canonical bool, err error) {
	if raw == "" {
		return "", false, &PathError{"the path has an empty segment (two slashes in a row, or one at its end), which readers understand in two ways"}
	}
	if plain(raw) {
		if raw == "." || raw == ".." {
			return "", false, &PathError{"the path has a dot segment, which readers understand in two ways"}
		}
		return raw, true, nil
	}

	text, uerr := url.PathUnescape(raw)
	if uerr != nil {
		return "", false, &PathError{"the path has an escape that is not two hexadecimal digits"}
	}
	if text == "." || text == ".." {
		return "", false, &PathError{"the path has a dot segment, which readers understand in two ways"}
	}
	if !utf8.ValidString(text) {
		return "", false, &PathError{"the path is not UTF-8"}
	}
	for _, c := range text {
		switch {
		case c == '/' || c == '\\' || c == '?' || c == '#':
			return "", false, &PathError{"the path has a slash, a backslash, a question mark or a number sign inside a segment, which readers understand in two ways"}
		case c == '%':
			return "", false, &PathError{"the path has an escape inside an escape, which readers understand in two ways"}
		case unicode.IsControl(c):
			return "", false, &PathError{"the path has a control character"}
		}
	}
	return text, url.PathEscape(text) == raw, nil
}

// plain reports whether the segment has only bytes that url.PathEscape leaves alone.
func plain(segment string) bool {
	for i := range len(segment) {
		if !plainByte[segment[i]] {
			return false
		}
	}
	return true
}

// plainByte is true for the bytes that stand for themselves in a path segment (RFC 3986 section 3.3,
// without those that url.PathEscape escapes all the same).
var plainByte = func() (plain [256]bool) {
	const bytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~$&+=:@"
	for i := range len(bytes) {
		plain[bytes[i]] = true
	}
	return plain
}()
