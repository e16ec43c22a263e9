package audit

// What of a request may be recorded. Values that might be secret are not looked for at the end: whoever
// records a parameter either knows that it is safe, or records its length (Redacted), or, for the one
// free text that is recorded on purpose, the command of an exec or a run, masks it here.

import (
	"strconv"
	"strings"
)

// mask stands for a value that was left out of a command.
const mask = "***"

// Redacted is what is recorded in place of a value of that many bytes.
func Redacted(length int) string {
	return "[redacted, " + strconv.Itoa(length) + " bytes]"
}

// secretWords are the words that say that a name's value is secret.
var secretWords = [...]string{
	"SECRET", "TOKEN", "PASSWORD", "PASS", "KEY", "CREDENTIAL", "DSN", "PRIVATE", "PASSPHRASE", "PASSWD", "PWD", "AUTHORIZATION",
}

// SecretName tells whether a name, of an environment variable, a flag or a field, says that its value is
// secret: one of the secret words, or its plural, is a word of it or the end of a word of it. Words end at
// whatever is not a letter or a digit, and where camel case begins a new one. PWD alone is the working
// directory.
func SecretName(name string) bool {
	if name == "PWD" || name == "OLDPWD" {
		return false
	}
	for len(name) > 0 {
		n := wordLength(name)
		if n == 0 {
			name = name[1:]
			continue
		}
		if secretWord(name[:n]) {
			return true
		}
		name = name[n:]
	}
	return false
}

// wordLength returns the length of the word at the start of a name, 0 when there is none.
func wordLength(name string) int {
	for i := 0; i < len(name); i++ {
		if !isAlnum(name[i]) || i > 0 && isUpper(name[i]) && isLower(name[i-1]) {
			return i
		}
	}
	return len(name)
}

func secretWord(word string) bool {
	for _, secret := range secretWords {
		if endsFold(word, secret) || len(word) > 1 && (word[len(word)-1]|0x20) == 's' && endsFold(word[:len(word)-1], secret) {
			return true
		}
	}
	return false
}

func endsFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isAlnum(c byte) bool { return isUpper(c) || isLower(c) || '0' <= c && c <= '9' }
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// nameByte tells whether a byte can be part of a name: a variable's, a flag's, a header's, a field's.
func nameByte(c byte) bool { return isAlnum(c) || c == '_' || c == '-' || c == '.' }

// RedactCommand masks the secrets that a command line carries in the open: values assigned to names that
// SecretName knows (FOO_TOKEN=…, export …, "password": …, Authorization: …), values of flags named so
// (--password=… and --password …), the password flags of well-known programs (mysql -p…, redis-cli -a …,
// sshpass -p …, curl -u …), and the userinfo of URLs. It reads the line as a shell would, loosely: quotes,
// also nested ones, hold a value together. When in doubt it masks. All else stays as it is.
func RedactCommand(command string) string {
	r := redactor{in: command}
	r.out.Grow(len(command))
	r.run()
	return r.out.String()
}

type redactor struct {
	in      string
	at      int
	out     strings.Builder
	quotes  []byte // quotes that are open here, outermost first
	program string // the last word that stood where a program's name stands
	start   bool   // the next word stands there
	nested  int    // how many substitutions this text stands in

	wordEnd int // end of the word that at is in, when it is beyond at
	lastAt  int // the last @ in that word, -1 when there is none
}

func (r *redactor) run() {
	r.start = true
	for r.at < len(r.in) {
		c := r.in[r.at]
		switch {
		case c == '\'' || c == '"' || c == '`':
			r.quote(c)
			r.pass(1)
		case c == '\\' && r.at+1 < len(r.in):
			r.pass(2)
		case isSpace(c):
			r.pass(1)
		case c == ';' || c == '|' || c == '&' || c == '(' || c == '{' || c == ')' || c == '}':
			r.start = true
			r.pass(1)
		default:
			r.word()
		}
	}
}

// quote opens or closes a quote. A shell in a quote begins a command: sh -c "…".
func (r *redactor) quote(c byte) {
	for i := len(r.quotes) - 1; i >= 0; i-- {
		if r.quotes[i] == c {
			r.quotes = r.quotes[:i]
			return
		}
	}
	r.quotes = append(r.quotes, c)
	if strings.HasSuffix(r.program, "sh") || c == '`' {
		r.start = true
	}
}

func (r *redactor) pass(n int) {
	r.out.WriteString(r.in[r.at : r.at+n])
	r.at += n
}

// word reads what stands between white space, quotes and separators, or at least one byte of it.
func (r *redactor) word() {
	if r.userinfo() {
		return
	}
	dashes := r.at
	for dashes < len(r.in) && r.in[dashes] == '-' {
		dashes++
	}
	end := dashes
	for end < len(r.in) && nameByte(r.in[end]) {
		end++
	}
	name := r.in[dashes:end]
	flag := dashes > r.at
	switch {
	case flag && r.knownFlag(name):
		return
	case flag && name == "user" && r.program == "curl" && end < len(r.in) && (r.in[end] == '=' || isSpace(r.in[end])):
		r.pass(end + 1 - r.at)
		r.maskValue()
		return
	case name == "":
		r.pass(max(end-r.at, 1))
		return
	case !SecretName(name):
		if !flag && r.start && (end == len(r.in) || r.in[end] != '=' && r.in[end] != '/') {
			r.program, r.start = name, false
		}
		r.pass(end - r.at)
		return
	}
	r.pass(end - r.at)
	// What follows the name says whether a value does: = or += or :=, "name": value, name: value, or, for a flag, a space.
	value := end
	for value < len(r.in) && (r.in[value] == '"' || r.in[value] == '\'' || r.in[value] == '\\') {
		value++ // the quotes around the name of a JSON field
	}
	quoted := value > end
	for value < len(r.in) && (r.in[value] == '+' || r.in[value] == '?' || r.in[value] == ']') {
		value++
	}
	switch {
	case value < len(r.in) && r.in[value] == '=':
		value++
	case value+1 < len(r.in) && r.in[value] == ':' && r.in[value+1] == '=':
		value += 2
	case value < len(r.in) && r.in[value] == ':' && !flag:
		value++
		for value < len(r.in) && isSpace(r.in[value]) {
			value++
		}
		if !quoted { // a header: a scheme such as Bearer, and then the value
			r.passTo(value)
			if len(r.quotes) > 0 {
				r.maskRest()
				return
			}
			scheme := r.at
			r.maskValue()
			for _, known := range [...]string{"bearer", "basic", "token", "digest"} {
				if strings.EqualFold(r.in[scheme:r.at], known) && r.at < len(r.in) && r.in[r.at] == ' ' {
					r.pass(1)
					r.maskValue()
					break
				}
			}
			return
		}
	case flag && !quoted && value < len(r.in) && isSpace(r.in[value]):
		for value < len(r.in) && isSpace(r.in[value]) {
			value++
		}
		if value < len(r.in) && r.in[value] == '-' {
			return // a flag without a value
		}
	default:
		if !flag && r.start && !quoted {
			r.program, r.start = name, false
		}
		return
	}
	r.passTo(value)
	r.maskValue()
}

// passTo copies up to there, quotes included.
func (r *redactor) passTo(to int) {
	for r.at < to {
		if c := r.in[r.at]; c == '\'' || c == '"' {
			r.quote(c)
		}
		r.pass(1)
	}
}

// knownFlag masks the values of short flags that carry a password in some programs.
func (r *redactor) knownFlag(name string) bool {
	dash := r.at + 1
	if dash+len(name) > len(r.in) || r.in[r.at:dash] != "-" || name == "" || r.in[dash] != name[0] {
		return false // two dashes
	}
	letter := name[0]
	switch program := r.program; {
	case letter == 'p' && len(name) > 1 && (strings.HasPrefix(program, "mysql") || strings.HasPrefix(program, "mariadb")):
		r.pass(2)
		r.maskValue()
		return true
	case letter == 'p' && len(name) == 1 && (strings.HasPrefix(program, "mysql") || strings.HasPrefix(program, "mariadb")) &&
		dash+1 < len(r.in) && !isSpace(r.in[dash+1]):
		r.pass(2)
		if !r.closes(r.in[r.at]) {
			r.maskValue()
		}
		return true
	case letter == 'a' && program == "redis-cli", letter == 'p' && program == "sshpass", letter == 'u' && program == "curl",
		letter == 'w' && strings.HasPrefix(program, "ldap"):
		r.pass(2)
		for r.at < len(r.in) && isSpace(r.in[r.at]) {
			r.pass(1)
		}
		r.maskValue()
		return true
	}
	return false
}

// userinfo masks user and password of a URL that begins here: scheme://user:password@host.
func (r *redactor) userinfo() bool {
	rest := r.in[r.at:]
	scheme := 0
	for scheme < len(rest) && (isAlnum(rest[scheme]) || rest[scheme] == '+' || rest[scheme] == '-' || rest[scheme] == '.') {
		scheme++
	}
	if scheme == 0 || !strings.HasPrefix(rest[scheme:], "://") {
		return false
	}
	from := scheme + len("://")
	if r.wordEnd <= r.at {
		r.lastAt = -1
		for r.wordEnd = r.at; r.wordEnd < len(r.in); r.wordEnd++ {
			c := r.in[r.wordEnd]
			if isSpace(c) || isQuote(c) || c == '<' || c == '>' {
				break
			}
			if c == '@' {
				r.lastAt = r.wordEnd
			}
		}
	}
	authority := r.in[r.at+from : max(r.wordEnd, r.at+from)]
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority = authority[:i]
	}
	at := -1
	if strings.Contains(authority, "@") || !hostPort(authority) {
		// A password that was not escaped may hold what would end the authority: look for the end of the
		// userinfo in all of the word.
		if r.lastAt >= r.at+from {
			at = r.lastAt - r.at
		}
	}
	colon := at >= 0 && strings.Contains(rest[from:at], ":")
	if at < 0 {
		r.start = false
		r.pass(from)
		return true
	}
	r.start = false
	r.pass(from)
	if colon {
		r.out.WriteString(mask + ":" + mask)
	} else {
		r.out.WriteString(mask)
	}
	r.at += at - from
	return true
}

// hostPort tells whether an authority without userinfo is one: a host, and a port that is a number.
func hostPort(authority string) bool {
	if strings.HasPrefix(authority, "[") {
		return true // an IPv6 address
	}
	_, port, _ := strings.Cut(authority, ":")
	return strings.Trim(port, "0123456789") == ""
}

// closes tells whether a quote ends one that is open.
func (r *redactor) closes(c byte) bool {
	for _, open := range r.quotes {
		if open == c {
			return true
		}
	}
	return false
}

// maskValue leaves out a value: up to white space, a separator or the end of the quote around it, while
// quotes that begin in it hold it together.
func (r *redactor) maskValue() {
	from := r.at
	var inner string // what ends the quote within the value
	for r.at < len(r.in) {
		rest := r.in[r.at:]
		c := rest[0]
		if inner != "" {
			if strings.HasPrefix(rest, inner) {
				r.at += len(inner)
				inner = ""
				continue
			}
			if c == '\\' && inner == `"` && len(rest) > 1 {
				r.at++
			}
			if r.closes(c) {
				break // the quote around it ends first: the line is broken, and so is the value
			}
			r.at++
			continue
		}
		if c == '\\' && len(rest) > 1 {
			if rest[1] == '"' || rest[1] == '\'' {
				inner = rest[:2]
			}
			r.at += 2
			continue
		}
		if isSpace(c) || c == ';' || c == '|' || c == '&' || c == ')' || c == '}' || c == ',' && r.at > from && isQuote(r.in[r.at-1]) || isQuote(c) && r.closes(c) {
			break
		}
		if isQuote(c) {
			inner = rest[:1]
		}
		r.at++
	}
	if r.at > len(r.in) {
		r.at = len(r.in)
	}
	if r.at > from {
		r.out.WriteString(mask)
		r.substitutions(r.in[from:r.at])
	}
}

// mostNested is how deep command substitutions are looked into.
const mostNested = 3

// substitutions keeps, redacted in turn, the commands that a masked value runs: TOKEN="$(rm -rf /)" must not
// hide what it does.
func (r *redactor) substitutions(value string) {
	for {
		dollar, tick := strings.Index(value, "$("), strings.IndexByte(value, '`')
		var inner, opened, closed string
		switch {
		case dollar < 0 && tick < 0:
			return
		case tick < 0 || dollar >= 0 && dollar < tick:
			opened, closed = "$(", ")"
			value = value[dollar+2:]
			end, depth := len(value), 1
			for i := 0; i < len(value) && depth > 0; i++ {
				switch value[i] {
				case '(':
					depth++
				case ')':
					if depth--; depth == 0 {
						end = i
					}
				}
			}
			if end == len(value) {
				closed = "" // the value ends before it does, and the rest is shown as it stands
			}
			inner, value = value[:end], value[min(end+1, len(value)):]
		default:
			opened, closed = "`", "`"
			inner, value, _ = strings.Cut(value[tick+1:], "`")
		}
		r.out.WriteString(opened)
		if r.nested < mostNested {
			deeper := redactor{in: inner, nested: r.nested + 1}
			deeper.run()
			r.out.WriteString(deeper.out.String())
		} else {
			r.out.WriteString(mask)
		}
		r.out.WriteString(closed)
	}
}

func isQuote(c byte) bool { return c == '\'' || c == '"' || c == '`' }

// maskRest leaves out all up to the end of the quote around it or of the line: the value of a header.
func (r *redactor) maskRest() {
	from := r.at
	for r.at < len(r.in) && !(isQuote(r.in[r.at]) && r.closes(r.in[r.at])) && r.in[r.at] != '\n' {
		if r.in[r.at] == '\\' && r.at+1 < len(r.in) {
			if isQuote(r.in[r.at+1]) {
				break
			}
			r.at++
		}
		r.at++
	}
	if r.at > from {
		r.out.WriteString(mask)
		r.substitutions(r.in[from:r.at])
	}
}
