// The small grammar of HTTP fields (RFC 9110 section 5): tokens, values, lists.

package upstream

import (
	"net/textproto"
	"strings"
)

// isToken reports whether s is a token (RFC 9110 section 5.6.2), as names and methods are.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	// One bit for each allowed byte below 128; shifting by more than 63 gives 0.
	const mask = 0 |
		(1<<(10)-1)<<'0' |
		(1<<(26)-1)<<'a' |
		(1<<(26)-1)<<'A' |
		1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' |
		1<<'-' | 1<<'.' | 1<<'^' | 1<<'_' | 1<<'`' | 1<<'|' | 1<<'~'
	return (uint64(1)<<c)&(mask&(1<<64-1))|(uint64(1)<<(c-64))&(mask>>64) != 0
}

// isValue reports whether s may stand in a field value or a reason phrase: no control
// character but the tab (RFC 9110 section 5.5).
func isValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// trimSpace removes spaces and tabs at both ends.
func trimSpace(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// hasToken reports whether one of the comma-separated lists has the token, in any case.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for list != "" {
			var item string
			item, list, _ = strings.Cut(list, ",")
			if strings.EqualFold(trimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// canonical returns a token in the form that http.Header uses, without copying one
// that has that form already, as most have.
func canonical(name string) string {
	start := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if start && 'a' <= c && c <= 'z' || !start && 'A' <= c && c <= 'Z' {
			return textproto.CanonicalMIMEHeaderKey(name)
		}
		start = c == '-'
	}
	return name
}
