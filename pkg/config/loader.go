package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"rackgateway/pkg/secret"
)

// Variable describes one environment variable, as the tags of a struct say.
type Variable struct {
	Name    string
	Aliases []string
	Group   string // the group's field in the process's struct, such as "Rack"
	Default string
	Needed  bool
	Secret  bool // may come from the file that NAME_FILE names, and is never shown
	Min     string
	Max     string
	Doc     string
	Example string

	address bool // may be given with a password in it, by mistake
}

// parsers are for the types that the library reads otherwise, or not at all.
func parsers() map[reflect.Type]env.ParserFunc {
	return map[reflect.Type]env.ParserFunc{
		reflect.TypeFor[url.URL]():        parseURL,
		reflect.TypeFor[[]netip.Prefix](): parsePrefixes,
		reflect.TypeFor[bool]():           parseBool,
		reflect.TypeFor[Addresses]():      parseAddresses,
	}
}

// variables lists those of a struct, in order.
func variables(t reflect.Type, group string) []Variable {
	var list []Variable
	for field := range t.Fields() {
		name, tagged := field.Tag.Lookup("env")
		if !tagged {
			if field.Type.Kind() == reflect.Struct {
				list = append(list, variables(field.Type, cmp.Or(group, field.Name))...)
			}
			continue
		}
		v := Variable{
			Name: name, Group: group, Default: field.Tag.Get("envDefault"), Needed: field.Tag.Get("need") == "yes",
			Secret: field.Type == reflect.TypeFor[secret.Text](), Min: field.Tag.Get("min"), Max: field.Tag.Get("max"),
			Doc: field.Tag.Get("doc"), Example: field.Tag.Get("example"),
			address: field.Type == reflect.TypeFor[*url.URL]() || name == "DOMAIN",
		}
		if aka := field.Tag.Get("aka"); aka != "" {
			v.Aliases = strings.Split(aka, ",")
		}
		list = append(list, v)
	}
	return list
}

// loader reads one process's configuration and gathers what is wrong with it.
type loader struct {
	program   string
	environ   map[string]string // not empty, as given
	variables []Variable
	values    map[string]string // by name: what is parsed
	sources   map[string]string // by name: where it came from
	mistakes  map[string]string // by name: the first thing that is wrong
}

func newLoader(program string, environ []string) *loader {
	l := &loader{
		program: program, environ: make(map[string]string), values: make(map[string]string),
		sources: make(map[string]string), mistakes: make(map[string]string),
	}
	for _, entry := range environ {
		// A variable that is set to nothing is not set: compose files and shells say it so.
		if name, value, ok := strings.Cut(entry, "="); ok && strings.TrimSpace(value) != "" {
			l.environ[name] = value
		}
	}
	return l
}

// mistake notes what is wrong with a variable, in words that go on from its name.
func (l *loader) mistake(name, what string) {
	if _, known := l.mistakes[name]; !known {
		l.mistakes[name] = what
	}
}

// read fills cfg, a pointer to a struct of groups, from the environment.
func (l *loader) read(cfg any) {
	l.variables = variables(reflect.TypeOf(cfg).Elem(), "")
	l.postgresVariables()
	for _, v := range l.variables {
		l.find(v)
	}
	// The library's errors name fields, which two groups may have alike; when there is one, each value is
	// parsed alone to say whose it is.
	if err := env.ParseWithOptions(cfg, env.Options{Environment: l.values, FuncMap: parsers()}); err != nil {
		l.blame(reflect.TypeOf(cfg).Elem())
	}
	l.bounds(reflect.ValueOf(cfg).Elem())
}

// find settles what a variable's value is and where it comes from.
func (l *loader) find(v Variable) {
	from := "" // the name that gave the value
	for _, name := range append([]string{v.Name}, v.Aliases...) {
		value, given := l.environ[name]
		file, byFile := "", false
		if v.Secret {
			file, byFile = l.environ[name+"_FILE"]
		}
		if given && byFile {
			l.mistake(v.Name, fmt.Sprintf("is given twice, by %s and by %s_FILE; keep one", name, name))
			return
		}
		if byFile {
			content, err := os.ReadFile(file)
			if err != nil {
				l.mistake(v.Name, fmt.Sprintf("cannot be read from the file that %s_FILE names: %v", name, err))
				return
			}
			if value = strings.TrimSpace(string(content)); value == "" {
				l.mistake(v.Name, fmt.Sprintf("is nothing: the file that %s_FILE names, %s, is empty", name, file))
				return
			}
		}
		if !given && !byFile {
			continue
		}
		value = strings.TrimSpace(value)
		if from != "" {
			if value != l.values[v.Name] {
				l.mistake(v.Name, fmt.Sprintf("is given twice, by %s and by %s, with different values; keep one", from, name))
			}
			continue
		}
		from = name
		l.values[v.Name] = value
		switch {
		case byFile:
			l.sources[v.Name] = "file " + file
		case name != v.Name:
			l.sources[v.Name] = cmp.Or(l.sources[name], "environment, as "+name)
		default:
			l.sources[v.Name] = cmp.Or(l.sources[name], "environment")
		}
	}
	if from == "" {
		if v.Needed {
			l.mistake(v.Name, "is not set")
		}
		l.sources[v.Name] = "not set"
		if v.Default != "" {
			l.sources[v.Name] = "default"
		}
	}
}

// blame finds out which variables do not parse, and says so.
func (l *loader) blame(t reflect.Type) {
	for field := range t.Fields() {
		name, tagged := field.Tag.Lookup("env")
		if !tagged {
			if field.Type.Kind() == reflect.Struct {
				l.blame(field.Type)
			}
			continue
		}
		value, given := l.values[name]
		if !given {
			continue
		}
		err := parseAlone(field, name, value)
		var parse env.ParseError
		if err == nil {
			continue
		}
		if errors.As(err, &parse) {
			err = parse.Err
		}
		l.mistake(name, explain(field.Type, err))
	}
}

// parseAlone parses one field as the library does it within its struct.
func parseAlone(field reflect.StructField, name, value string) error {
	alone := reflect.New(reflect.StructOf([]reflect.StructField{{Name: field.Name, Type: field.Type, Tag: field.Tag}}))
	return env.ParseWithOptions(alone.Interface(), env.Options{
		Environment: map[string]string{name: value},
		FuncMap:     parsers(),
	})
}

// explain puts a parser's error in words that go on from a variable's name.
func explain(t reflect.Type, err error) string {
	var wrong *valueError
	switch {
	case errors.As(err, &wrong):
		return wrong.what
	case t == reflect.TypeFor[time.Duration]():
		return "is not a duration: write a number and a unit, such as 500ms, 30s, 5m or 1h"
	case t == reflect.TypeFor[slog.Level]():
		return "is none of debug, info, warn and error"
	case t == reflect.TypeFor[int]():
		return "is not a whole number"
	default:
		return err.Error()
	}
}

// valueError is what is wrong with a value, in words that go on from a variable's name.
type valueError struct{ what string }

func (w *valueError) Error() string { return w.what }

// bounds checks numbers and durations against the tags min and max.
func (l *loader) bounds(group reflect.Value) {
	for field, value := range group.Fields() {
		name, tagged := field.Tag.Lookup("env")
		if !tagged {
			if value.Kind() == reflect.Struct {
				l.bounds(value)
			}
			continue
		}
		least, most := field.Tag.Get("min"), field.Tag.Get("max")
		if least == "" || l.values[name] == "" {
			continue
		}
		if value.Int() < number(least) || value.Int() > number(most) {
			l.mistake(name, fmt.Sprintf("is %s, which is not between %s and %s", l.values[name], least, most))
		}
	}
}

// number reads the text of a min or max tag; a test reads all of them.
func number(s string) int64 {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	d, _ := time.ParseDuration(s)
	return int64(d)
}

func parseURL(value string) (any, error) {
	if !strings.Contains(value, "://") {
		value = "https://" + value
	}
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return nil, &valueError{"cannot be read as an address"} // the error would quote a password
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, &valueError{fmt.Sprintf("begins with %s://; it must be https:// or http://", u.Scheme)}
	case u.Hostname() == "":
		return nil, &valueError{"names no host"}
	case u.User != nil:
		return nil, &valueError{"carries a user name or password, which do not belong in an address"}
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, &valueError{"goes on after the host; it must be scheme, host and port alone"}
	}
	u.Path, u.RawPath = "", ""
	return *u, nil
}

func parsePrefixes(value string) (any, error) {
	var list []netip.Prefix
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, errAddr := netip.ParseAddr(text)
			if errAddr != nil || addr.Zone() != "" {
				return nil, &valueError{fmt.Sprintf("has %q, which is not a network: write ADDRESS/BITS, several by commas", text)}
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Masked() != prefix {
			return nil, &valueError{fmt.Sprintf("has %s, whose address has bits beyond the network's; the network is %s", prefix, prefix.Masked())}
		}
		if prefix.Bits() == 0 {
			return nil, &valueError{fmt.Sprintf("has %s, which is every address there is: anybody could then claim to be anywhere", prefix)}
		}
		if prefix.Addr().Is4In6() {
			return nil, &valueError{fmt.Sprintf("has %s: write IPv4 networks as such", prefix)}
		}
		list = append(list, prefix)
	}
	return list, nil
}

// Addresses are e-mail addresses of people, case-folded, none twice.
type Addresses []string

func parseAddresses(value string) (any, error) {
	var list Addresses
	for text := range strings.SplitSeq(value, ",") {
		text = strings.ToLower(strings.TrimSpace(text))
		if text == "" || slices.Contains(list, text) {
			continue
		}
		name, domain, ok := strings.Cut(text, "@")
		if parsed, err := mail.ParseAddress(text); err != nil || parsed.Address != text || !ok || name == "" || !hostForm.MatchString(domain) {
			return nil, &valueError{fmt.Sprintf("has %q, which is not an e-mail address: write name@example.com, several by commas", text)}
		}
		list = append(list, text)
	}
	return list, nil
}

func parseBool(value string) (any, error) {
	switch strings.ToLower(value) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return nil, &valueError{"is neither true nor false"}
}

// Mistake is one thing that is wrong with the configuration.
type Mistake struct {
	Name    string // the variable
	What    string // goes on from the name
	Example string // of a good value
}

// MistakesError lists everything that is wrong with the configuration of a process, ordered as the
// variables are documented.
type MistakesError struct {
	Program  string
	Mistakes []Mistake
}

// Error lists the mistakes, one paragraph each, without any secret.
func (e *MistakesError) Error() string {
	var b strings.Builder
	count := "one mistake"
	if len(e.Mistakes) != 1 {
		count = strconv.Itoa(len(e.Mistakes)) + " mistakes"
	}
	fmt.Fprintf(&b, "%s cannot start: %s in its configuration", e.Program, count)
	for _, m := range e.Mistakes {
		fmt.Fprintf(&b, "\n\n  %s %s.\n    For example: %s=%s", m.Name, m.What, m.Name, m.Example)
	}
	return b.String()
}

// finish makes the report, and the error when there is anything wrong. The configuration is returned then too, as
// far as it could be read: a command that does not use what is wrong can go on.
func finish[T any](l *loader, cfg *T) (*T, *Report, error) {
	report := l.report()
	if len(l.mistakes) == 0 {
		return cfg, report, nil
	}
	err := &MistakesError{Program: l.program}
	for _, v := range l.variables {
		if what, wrong := l.mistakes[v.Name]; wrong {
			err.Mistakes = append(err.Mistakes, Mistake{Name: v.Name, What: what, Example: v.Example})
		}
	}
	return cfg, report, err
}
