// The short way to mask: one pass over an answer that is in memory, for answers that hold nothing unusual. Most
// answers are such, and most people may not see secrets, so this is on the way of most reads.

package rack

import (
	"bytes"
	"unicode/utf8"
)

const (
	// plainLongest is the longest answer, in bytes, that is taken the short way.
	plainLongest = 64 << 10
	// plainDepth and plainMembers bound what is kept of an answer while it is read: levels of nesting, and members
	// of one object.
	plainDepth   = 32
	plainMembers = 64
)

// plainMasker masks an answer in one pass. It takes only what it understands wholly, and gives up at anything else:
// names with escapes or beyond ASCII, escapes in a value that has to be read, numbers with exponents, two members of
// one name, too deep or too many. Whoever gives up has written nothing that anybody sees, and the answer is masked
// the long way. So what it writes must be, byte for byte, what the long way writes.
type plainMasker struct {
	masker
	src   []byte
	at    int
	dst   []byte
	depth int
	apps  func(string) bool // not nil for a list of which elements are left out
}

// maskPlain appends the masked answer to dst. When it returns false, what it appended must be thrown away.
func (m masker) maskPlain(dst, src []byte, apps func(string) bool) ([]byte, bool) {
	p := &plainMasker{masker: m, src: src, dst: dst, apps: apps}
	var ok bool
	if apps != nil {
		ok = p.filtered()
	} else {
		ok = p.value(keep)
	}
	if !ok || p.next() != 0 || p.at != len(src) {
		return dst, false
	}
	return append(p.dst, '\n'), true
}

// next skips white space, and returns the byte that follows without taking it, or 0 at the end.
func (p *plainMasker) next() byte {
	for p.at < len(p.src) {
		switch c := p.src[p.at]; c {
		case ' ', '\n', '\r', '\t':
			p.at++
		default:
			return c
		}
	}
	return 0
}

// line begins a new line, indented as a rack does.
func (p *plainMasker) line() {
	const spaces = "\n                                                                "
	p.dst = append(p.dst, spaces[:1+2*p.depth]...) // plainDepth levels fit
}

// enter begins an object or list, whose opening byte comes next.
func (p *plainMasker) enter() bool {
	p.dst = append(p.dst, p.src[p.at])
	p.at++
	p.depth++
	return p.depth < plainDepth
}

// leave ends an object or list, whose closing byte comes next.
func (p *plainMasker) leave(empty bool) {
	p.depth--
	if !empty {
		p.line()
	}
	p.dst = append(p.dst, p.src[p.at])
	p.at++
}

// filtered copies a list, and leaves out the elements whose name is not to be seen.
func (p *plainMasker) filtered() bool {
	if p.next() != '[' || !p.enter() {
		return false
	}
	written := 0
	for first := true; ; first = false {
		if p.next() == ']' && first {
			break
		}
		if p.next() != '{' {
			return false
		}
		before := len(p.dst)
		if written > 0 {
			p.dst = append(p.dst, ',')
		}
		p.line()
		name, ok := p.object(keep)
		if !ok || name == nil { // the long way says what is wrong with it
			return false
		}
		if p.apps(string(name)) {
			written++
		} else {
			p.dst = p.dst[:before]
		}
		if c := p.next(); c == ']' {
			break
		} else if c != ',' {
			return false
		}
		p.at++
	}
	p.leave(written == 0)
	return true
}

// value copies one value under a mask.
func (p *plainMasker) value(how mask) bool {
	switch c := p.next(); c {
	case '{':
		_, ok := p.object(how)
		return ok
	case '[':
		return p.list(how)
	case '"':
		text, escaped, ok := p.text()
		switch {
		case !ok:
			return false
		case how == keep:
			p.dst = append(p.dst, '"')
			p.dst = append(p.dst, text...)
		case escaped:
			return false
		default:
			masked := how.text(string(text))
			// What a mask makes of plain text is plain, but that is its business and not ours.
			for i := range len(masked) {
				if c := masked[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
					return false
				}
			}
			p.dst = append(p.dst, '"')
			p.dst = append(p.dst, masked...)
		}
		p.dst = append(p.dst, '"')
		return true
	case 't':
		return p.literal("true", how)
	case 'f':
		return p.literal("false", how)
	case 'n':
		return p.literal("null", keep)
	default:
		return p.number(how)
	}
}

// object copies an object. It returns its name: the text of its one member that is called so, in whatever case.
// The name is nil when there is none.
func (p *plainMasker) object(how mask) (name []byte, ok bool) {
	if !p.enter() {
		return nil, false
	}
	var members [plainMembers][]byte
	n := 0
	for ; ; n++ {
		c := p.next()
		if c == '}' && n == 0 {
			break
		}
		if c != '"' || n == plainMembers {
			return nil, false
		}
		member, escaped, ok := p.text()
		if !ok || escaped || !isASCII(member) {
			return nil, false
		}
		for _, other := range members[:n] {
			if bytes.Equal(other, member) {
				return nil, false
			}
		}
		members[n] = member
		if n > 0 {
			p.dst = append(p.dst, ',')
		}
		p.line()
		p.dst = append(p.dst, '"')
		p.dst = append(p.dst, member...)
		p.dst = append(p.dst, '"', ':', ' ')
		if p.next() != ':' {
			return nil, false
		}
		p.at++
		if p.apps != nil && p.depth == 2 && len(member) == 4 && bytes.EqualFold(member, []byte("name")) {
			if name != nil || p.next() != '"' {
				return nil, false
			}
			start := p.at
			text, escaped, ok := p.text()
			if !ok || escaped {
				return nil, false
			}
			name, p.at = text[:len(text):len(text)], start
			if name == nil {
				name = []byte{}
			}
		}
		if !p.value(p.belowName(how, member)) {
			return nil, false
		}
		if c := p.next(); c == '}' {
			n++
			break
		} else if c != ',' {
			return nil, false
		}
		p.at++
	}
	p.leave(n == 0)
	return name, true
}

// list copies a list under a mask.
func (p *plainMasker) list(how mask) bool {
	if !p.enter() {
		return false
	}
	empty := true
	for {
		if p.next() == ']' && empty {
			break
		}
		if !empty {
			p.dst = append(p.dst, ',')
		}
		empty = false
		p.line()
		if !p.value(how) {
			return false
		}
		if c := p.next(); c == ']' {
			break
		} else if c != ',' {
			return false
		}
		p.at++
	}
	p.leave(empty)
	return true
}

// text takes a string, whose opening quote comes next, and returns what stands between the quotes.
func (p *plainMasker) text() (raw []byte, escaped, ok bool) {
	p.at++
	start := p.at
	foreign := false // beyond ASCII
	for p.at < len(p.src) {
		switch c := p.src[p.at]; {
		case c == '"':
			raw = p.src[start:p.at]
			p.at++
			return raw, escaped, !foreign || utf8.Valid(raw)
		case c == '\\':
			if !p.escape() {
				return nil, false, false
			}
			escaped = true
		case c < ' ':
			return nil, false, false
		case c >= utf8.RuneSelf:
			foreign = true
			p.at++
		default:
			p.at++
		}
	}
	return nil, false, false
}

// escape takes an escape. Halves of surrogate pairs are for the long way to judge.
func (p *plainMasker) escape() bool {
	rest := p.src[p.at+1:]
	if len(rest) == 0 {
		return false
	}
	switch rest[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		p.at += 2
		return true
	case 'u':
		if len(rest) < 5 || rest[1]|0x20 == 'd' {
			return false
		}
		for _, c := range rest[1:5] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
		}
		p.at += 6
		return true
	}
	return false
}

// literal takes a word.
func (p *plainMasker) literal(word string, how mask) bool {
	if len(p.src)-p.at < len(word) || string(p.src[p.at:p.at+len(word)]) != word {
		return false
	}
	p.at += len(word)
	return p.scalar([]byte(word), how)
}

// number takes a number without an exponent.
func (p *plainMasker) number(how mask) bool {
	start := p.at
	digits := func() int {
		from := p.at
		for p.at < len(p.src) && '0' <= p.src[p.at] && p.src[p.at] <= '9' {
			p.at++
		}
		return p.at - from
	}
	if p.src[start:] == nil || p.at == len(p.src) {
		return false
	}
	if p.src[p.at] == '-' {
		p.at++
	}
	first := p.at
	if n := digits(); n == 0 || n > 1 && p.src[first] == '0' {
		return false
	}
	if p.at < len(p.src) && p.src[p.at] == '.' {
		p.at++
		if digits() == 0 {
			return false
		}
	}
	return p.scalar(p.src[start:p.at], how)
}

// scalar writes what is no text, under a mask.
func (p *plainMasker) scalar(raw []byte, how mask) bool {
	// A word or number that goes on is none, or one of another kind.
	if p.at < len(p.src) {
		switch p.src[p.at] {
		case ' ', '\n', '\r', '\t', ',', ']', '}':
		default:
			return false
		}
	}
	if how == keep {
		p.dst = append(p.dst, raw...)
	} else {
		p.dst = append(p.dst, `"`+Masked+`"`...)
	}
	return true
}

func isASCII(text []byte) bool {
	for _, c := range text {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
