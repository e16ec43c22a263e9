// One request on its way through a handler: path variables, the places a value may come from, and the shapes
// an answer may have.

package racktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"rackgateway/pkg/racktest/wire"
)

// call is one request. Reading from it reads the body, or the socket's stream; writing to it writes the
// answer, or one text message.
type call struct {
	rack *Rack
	w    http.ResponseWriter
	r    *http.Request
	ws   *socket // nil but on SOCKET routes
	role string  // r, rw or rwa
	user string  // who the rack's own audit would name
}

// handler is what a route does. An error is answered as the rack's API does: its status if it is an
// *apiError, else 500.
type handler func(c *call) error

// apiError is an error with an HTTP status.
type apiError struct {
	code int
	text string
}

func (e *apiError) Error() string { return e.text }

func fail(code int, format string, args ...any) error {
	return &apiError{code: code, text: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error { return fail(http.StatusNotFound, format, args...) }

func badRequest(format string, args ...any) error {
	return fail(http.StatusBadRequest, format, args...)
}

func conflict(format string, args ...any) error { return fail(http.StatusConflict, format, args...) }

func notImplemented(text string) error { return fail(http.StatusNotImplemented, "%s", text) }

func (c *call) Read(p []byte) (int, error) {
	if c.ws != nil {
		return c.ws.Read(p)
	}
	return c.r.Body.Read(p)
}

func (c *call) Write(p []byte) (int, error) {
	if c.ws != nil {
		return c.ws.Write(p)
	}
	return c.w.Write(p)
}

// variable is a path variable, percent-decoded.
func (c *call) variable(name string) string { return mux.Vars(c.r)[name] }

// value is the rack's most forgiving way to read a field: form body, then query string, then a header of that name.
func (c *call) value(name string) string {
	if v := c.r.FormValue(name); v != "" {
		return v
	}
	return c.r.Header.Get(name)
}

// bodyValue is value for routes that also take a form in the body of DELETE, which net/http does not parse.
func (c *call) bodyValue(name string) string {
	r := c.r
	if r.Method == http.MethodDelete && r.PostForm == nil &&
		strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if vals, err := url.ParseQuery(string(body)); err == nil {
			r.PostForm = vals
			if r.Form == nil {
				r.Form = url.Values{}
			}
			for k, v := range vals {
				r.Form[k] = append(r.Form[k], v...)
			}
		}
	}
	return c.value(name)
}

// options reads optional fields, each from its one place, and remembers the first that does not parse.
type options struct {
	c   *call
	err error
}

// options parses the form as the rack's option reader does (a body of 10 MB at most; anything else is
// ignored without complaint) before any field is looked at.
func (c *call) options() *options {
	c.r.ParseMultipartForm(8192) //nolint:errcheck // the rack ignores it too
	return &options{c: c}
}

func (o *options) form(name string) (string, bool) {
	if v, ok := o.c.r.Form[name]; ok && len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func (o *options) query(name string) (string, bool) {
	if v, ok := o.c.r.URL.Query()[name]; ok && len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func (o *options) header(name string) (string, bool) {
	if v, ok := o.c.r.Header[name]; ok && len(v) > 0 {
		return v[0], true
	}
	return "", false
}

func text(v string, ok bool) *string {
	if !ok {
		return nil
	}
	return &v
}

func boolean(v string, ok bool) *bool {
	if !ok {
		return nil
	}
	b := v == "true"
	return &b
}

func (o *options) number(v string, ok bool) *int {
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		o.note(err)
		return nil
	}
	return &n
}

func (o *options) duration(v string, ok bool) *time.Duration {
	if !ok {
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		o.note(err)
		return nil
	}
	return &d
}

func (o *options) moment(v string, ok bool) *time.Time {
	if !ok {
		return nil
	}
	t, err := time.Parse(wire.TimeFormat, v)
	if err != nil {
		o.note(err)
		return nil
	}
	return &t
}

// values is a map that travels as a url-encoded string.
func (o *options) values(v string, ok bool) map[string]string {
	if !ok {
		return nil
	}
	uv, err := url.ParseQuery(v)
	if err != nil {
		o.note(err)
		return nil
	}
	m := make(map[string]string, len(uv))
	for k := range uv {
		m[k] = uv.Get(k)
	}
	return m
}

func (o *options) note(err error) {
	if o.err == nil {
		o.err = err
	}
}

// json answers with indented JSON and a newline. The length is set by net/http when it is small.
func (c *call) json(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	if _, err := c.w.Write(data); err != nil {
		return err
	}
	_, err = c.w.Write([]byte{'\n'})
	return err
}

// ok answers "ok".
func (c *call) ok() error {
	_, err := io.WriteString(c.w, "ok\n")
	return err
}

// copy streams r out with no explicit flush, as the rack does.
func (c *call) copy(r io.Reader) error {
	_, err := io.Copy(c.w, r)
	return err
}

// writeError answers err: JSON only for clients that ask for exactly that type, which the CLI does not.
func (c *call) writeError(err error) {
	code := http.StatusInternalServerError
	var api *apiError
	if errors.As(err, &api) {
		code = api.code
	}
	for part := range strings.SplitSeq(c.r.Header.Get("Accept"), ",") {
		media, _, _ := strings.Cut(part, ";")
		if strings.TrimSpace(media) == "application/json" {
			c.w.Header().Set("Content-Type", "application/json")
			c.w.WriteHeader(code)
			json.NewEncoder(c.w).Encode(map[string]string{"error": err.Error()}) //nolint:errcheck,errchkjson // the client is gone, then
			return
		}
	}
	http.Error(c.w, err.Error(), code)
}

// can says whether the caller's role contains a right: r, w or a.
func (c *call) can(right string) bool { return strings.Contains(c.role, right) }

// needWrite is the extra check of the sockets that act: a socket is a GET, so the general check lets readers in.
func (c *call) needWrite(what string) error {
	if !c.can("w") {
		return fail(http.StatusForbidden, "%s requires write access", what)
	}
	return nil
}
