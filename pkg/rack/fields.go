// How a rack reads a request's options, and so how they must be read to decide about it.
//
// A rack takes an option of a form from the body, failing that from the query, and many of them, failing that,
// from a header of the same name; it takes exec's command from the query before the header. It takes the first
// of several values. The gateway reads what the rack would read, and refuses a request that says a thing
// twice, so that nothing is decided about one value while the rack acts on another.

package rack

import (
	"fmt"
	"mime"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// FieldError says why a request's options are refused.
type FieldError struct {
	Field  string // the option, or ""
	Reason string // a sentence fit to be shown
}

func (e *FieldError) Error() string { return e.Reason }

// Fields are the options of one request, as the rack will read them.
type Fields struct {
	route  *Route
	query  url.Values
	header http.Header
	form   url.Values
}

// ParseForm reads the whole body of a form route. A body that is not a form, that is compressed, or that a
// rack would read in part, is refused: a rack passes over what it cannot parse. An empty body may have any
// content type, for the CLI sends application/octet-stream when it has nothing to say.
func ParseForm(header http.Header, body []byte) (url.Values, error) {
	if len(body) == 0 {
		return nil, nil
	}
	if n := len(header["Content-Type"]); n > 1 {
		return nil, &FieldError{Reason: "the request has several Content-Type headers; send one"}
	}
	// A rack takes the budget's DELETE for a form by the first bytes of the header, in lower case, and all
	// others by their media type. Both agree on this.
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || media != FormType || !strings.HasPrefix(header.Get("Content-Type"), FormType) {
		return nil, &FieldError{Reason: "the body of this request must be a form (" + FormType + ")"}
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &FieldError{Reason: "the body of this request must not be compressed"}
	}
	if len(body) > MaxForm {
		return nil, &FieldError{Reason: "the form is larger than the 10 MB that a rack reads"}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, &FieldError{Reason: "the form is not well formed"}
	}
	return form, nil
}

// FormType is the media type of a form.
const FormType = "application/x-www-form-urlencoded"

// Read takes a request's options from its raw query, its headers and, on a form route, its parsed form. It
// refuses, with a *FieldError, a query that is not well formed, an option that is said twice, a form field that
// stands in the query of a request with a body, and on sockets any query parameter that the route does
// not list.
//
// Headers that could stand in for a field are not looked at: they are to be taken off the request before it is
// forwarded (StripHeaders).
func (r *Route) Read(rawQuery string, header http.Header, form url.Values) (Fields, error) {
	var query url.Values
	if rawQuery != "" {
		var err error
		if query, err = url.ParseQuery(rawQuery); err != nil {
			return Fields{}, &FieldError{Reason: "the query of this request is not well formed"}
		}
	}
	f := Fields{route: r, query: query, header: header, form: form}

	for name, values := range query {
		switch {
		case r.Socket && !slices.Contains(r.Query, name):
			return f, fieldError(name, "is not an option of this request; the rack takes its options as headers")
		case !slices.Contains(r.Query, name) && !slices.Contains(r.Form, name):
			continue // no option: the rack does not read it
		case len(values) > 1:
			return f, fieldError(name, "is given more than once in the query")
		case len(form[name]) > 0:
			return f, fieldError(name, "is given in the form and in the query")
		case r.Body == FormBody && r.Method != http.MethodGet && slices.Contains(r.Form, name):
			return f, fieldError(name, "is given in the query; it belongs in the form")
		case r.HasHeader(canonical(name)) && len(header[canonical(name)]) > 0:
			return f, fieldError(name, "is given in the query and as a header")
		}
	}
	for _, name := range r.Form {
		if len(form[name]) > 1 {
			return f, fieldError(name, "is given more than once in the form")
		}
	}
	for _, name := range r.Headers {
		if len(header[name]) > 1 {
			return f, fieldError(name, "is given more than once as a header")
		}
	}
	return f, nil
}

func fieldError(name, what string) error {
	shown := strings.Map(func(c rune) rune {
		if c < ' ' || c == '%' || c == 0x7f || c == utf8Invalid {
			return '?'
		}
		return c
	}, name)
	if len(shown) > 64 {
		shown = "of a name that long"
	}
	return &FieldError{Field: name, Reason: fmt.Sprintf("option %s %s; say each thing once, where the rack reads it", shown, what)}
}

const utf8Invalid = '\uFFFD'

// Get returns what the rack will read for the named option: a form field or query parameter by its name, or a
// header by its canonical name. It is "" when the option is absent or not the route's.
func (f Fields) Get(name string) string {
	value, _ := f.Lookup(name)
	return value
}

// Has reports whether the request gives the option, be it empty.
func (f Fields) Has(name string) bool {
	_, ok := f.Lookup(name)
	return ok
}

// Lookup returns what the rack will read for the named option, as Get does, and whether it is given.
func (f Fields) Lookup(name string) (string, bool) {
	if f.route == nil {
		return "", false
	}
	if slices.Contains(f.route.Form, name) {
		if v := f.form[name]; len(v) > 0 {
			return v[0], true
		}
	}
	if slices.Contains(f.route.Form, name) || slices.Contains(f.route.Query, name) {
		if v := f.query[name]; len(v) > 0 {
			return v[0], true
		}
	}
	if f.route.HasHeader(name) {
		if v := f.header[name]; len(v) > 0 {
			return v[0], true
		}
	}
	return "", false
}

// Command returns the command of an exec, run or shell, wherever it was given.
func (f Fields) Command() string {
	if c := f.Get("command"); c != "" {
		return c
	}
	return f.Get("Command")
}

// PrivilegedHeaders are the headers of ProcessRun that give a process more than its service has: another image,
// the node's disks, the kernel. They are in canonical spelling.
func PrivilegedHeaders() []string {
	return []string{"Image", "Volumes", "Privileged", "Environment", "System-Critical", "Node-Labels"}
}

// Privileged reports whether a ProcessRun asks for more than its service has.
func (f Fields) Privileged() bool {
	return f.route != nil && f.route.Op == "ProcessRun" && slices.ContainsFunc(PrivilegedHeaders(), f.Has)
}

// CarriesEnv reports whether a ReleaseCreate brings an environment of its own.
func (f Fields) CarriesEnv() bool {
	return f.route != nil && f.route.Op == "ReleaseCreate" && f.Has("env")
}

// ExternalBuild reports whether a BuildCreate is to be built outside the rack, which the rack answers with its
// own password. Anything but an absent value, "" and "false" counts.
func (f Fields) ExternalBuild() bool {
	if f.route == nil || f.route.Op != "BuildCreate" {
		return false
	}
	v := f.Get("external")
	return v != "" && v != "false"
}

// CheckApp refuses, with a *FieldError, options that reach further than the app in the path: an object URL of
// another app, a release or build that is not a plain id, or a file whose name a rack would take for an option.
func (f Fields) CheckApp(app string) error {
	if f.route == nil {
		return nil
	}
	switch f.route.Op {
	case "FilesDownload", "FilesDelete":
		// A rack hands these to a command in the process, which would take a leading dash for an option.
		for _, name := range []string{"file", "files"} {
			for _, path := range strings.Split(f.Get(name), ",") {
				if f.Has(name) && !strings.HasPrefix(path, "/") {
					return &FieldError{Field: name, Reason: "option " + name + " must be an absolute path, beginning with a slash"}
				}
			}
		}
		return nil
	case "BuildCreate":
		return checkObject("url", f.Get("url"), app)
	case "BuildUpdate":
		return checkObject("logs", f.Get("logs"), app)
	case "ReleaseCreate":
		for _, name := range []string{"parent-release", "build"} {
			if !plainID(f.Get(name)) {
				return &FieldError{Field: name, Reason: "option " + name + " must be an id of the app in the path"}
			}
		}
	}
	return nil
}

// checkObject lets pass a URL of no object, and one of an object of the app: object://APP/KEY.
func checkObject(name, value, app string) error {
	if !strings.Contains(strings.ToLower(value), "object:") {
		return nil
	}
	key, ok := strings.CutPrefix(value, "object://"+app+"/")
	if !ok || strings.ContainsAny(key, "\\%?#") || slices.Contains(strings.Split(key, "/"), "..") {
		return &FieldError{Field: name, Reason: "option " + name + " must name an object of the app in the path: object://" + app + "/KEY"}
	}
	return nil
}

// plainID reports whether the text is empty or of letters and digits only, as a rack's ids are.
func plainID(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// StripHeaders returns the headers, in canonical spelling, that a rack could read in place of one of the route's
// fields. None is an option of the route, and none means anything else to a rack, so they are taken off every
// request. The slice is shared and must not be changed.
func (r *Route) StripHeaders() []string { return r.strip }

// standIns computes StripHeaders. Version, User-Agent, Accept* and Content-* say things of their own with every
// request and are never a second place for a field: what a rack reads by those names it reads from the form alone.
func (r *Route) standIns() []string {
	var names []string
	for _, name := range slices.Concat(r.Form, r.Query) {
		c := canonical(name)
		if r.HasHeader(c) || c == "Version" || c == "User-Agent" || strings.HasPrefix(c, "Accept") || strings.HasPrefix(c, "Content-") {
			continue
		}
		names = append(names, c)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
