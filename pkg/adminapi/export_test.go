package adminapi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Operation is an operation of the document, for tests that walk over all.
type Operation struct {
	ID, Method, Path string
	Public           bool
	op               *operation
}

// Operations lists the document.
func (a *API) Operations() []Operation {
	var list []Operation
	for _, op := range a.document.operations {
		list = append(list, Operation{ID: op.ID, Method: op.Method, Path: op.Path, Public: op.Public, op: op})
	}
	return list
}

// Parameters are those that a request can carry.
func (o Operation) Parameters() []*Parameter { return o.op.Parameters }

// Body is the schema of the body; nil when it takes none.
func (o Operation) Body() *Schema {
	if o.op.Body == nil {
		return nil
	}
	return o.op.Body.follow()
}

// CheckResponse holds an answer to the document: status, type and body.
func (o Operation) CheckResponse(status int, contentType, body string) error {
	r, ok := o.op.Responses[strconv.Itoa(status)]
	if !ok {
		r, ok = o.op.Responses["default"]
	}
	if !ok {
		return fmt.Errorf("status %d is not in the document", status)
	}
	if len(r.Content) == 0 && body == "" {
		return nil
	}
	kind, _, _ := strings.Cut(contentType, ";")
	content, ok := r.Content[kind]
	if !ok {
		return fmt.Errorf("status %d with %q is not in the document", status, contentType)
	}
	if kind == "text/html" {
		return nil
	}
	var value any
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		return err
	}
	return content.Schema.check(value)
}

// Follow resolves references.
func (s *schema) Follow() *schema { return s.follow() }

// Schema is a schema of the document.
type Schema = schema

// Parameter is a parameter of an operation.
type Parameter = parameter

// ReadDocument reads another document than the one that is built in.
func ReadDocument(text []byte) error {
	_, err := readDocument(text)
	return err
}

// PlaceOf reads a Last-Event-ID.
var PlaceOf = placeOf
