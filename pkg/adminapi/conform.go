package adminapi

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/gorilla/mux"
)

// largestBody is how many bytes of a body are read.
const largestBody = 1 << 20

// conform holds a request to what the document says of its operation, and returns the body, which the request then
// has again. What the document does not name (parameters, fields) is refused, so that a misspelt one is not
// silently left out.
func (x *exchange) conform() ([]byte, *problem) {
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return nil, malformed("bad-query", "the part of the address behind the ? cannot be read: check how it is escaped").because(err)
	}
	known := make(map[string]bool)
	for _, p := range x.op.Parameters {
		var values []string
		switch p.In {
		case "path":
			values = []string{mux.Vars(x.r)[p.Name]}
		case "query":
			values = query[p.Name]
			known[p.Name] = true
		case "header":
			values = x.r.Header[http.CanonicalHeaderKey(p.Name)]
		}
		if len(values) > 1 {
			return nil, badParameter(p.Name, "is given twice")
		}
		if len(values) == 0 {
			if p.Required {
				return nil, badParameter(p.Name, "is missing")
			}
			continue
		}
		if err := p.Schema.checkText(values[0]); err != nil {
			return nil, badParameter(p.Name, err.Error())
		}
	}
	for name := range query {
		if !known[name] {
			return nil, badParameter(clean(name), "is not a parameter of this")
		}
	}
	return x.conformBody()
}

func badParameter(name, what string) *problem {
	p := malformed("bad-parameter", "the parameter %s %s", name, what)
	p.Field = name
	return p
}

func (x *exchange) conformBody() ([]byte, *problem) {
	r := x.r
	text, err := io.ReadAll(http.MaxBytesReader(x.w, r.Body, largestBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, (&problem{Status: http.StatusRequestEntityTooLarge, Code: "too-large", Detail: "the body is larger than 1 MiB, which nothing here needs"}).because(err)
	case err != nil:
		return nil, malformed("bad-body", "the body did not arrive whole: send it again").because(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(text))
	if x.op.Body == nil {
		if len(text) > 0 {
			return nil, malformed("unexpected-body", "this takes no body: leave it out")
		}
		return nil, nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, &problem{Status: http.StatusUnsupportedMediaType, Code: "not-json", Detail: "the body has to be JSON: send Content-Type: application/json"}
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil { // strict: names once, valid UTF-8, nothing behind it
		return nil, malformed("bad-body", "the body is not valid JSON").because(err)
	}
	if err := x.op.Body.check(value); err != nil {
		p := malformed("bad-body", "the body is not as it should be: %s", err)
		var bad *unfit
		if errors.As(err, &bad) {
			p.Field = bad.field
		}
		return nil, p
	}
	return text, nil
}
