// Package rack knows what a Convox rack is: which requests its API takes, how it reads them, and which of its
// answers hold secrets. It does no I/O of its own and imports nothing of ours.
//
// This file says what a route is. The table itself is in table.go.
package rack

import (
	"net/http"
	"slices"
)

// Op names what a request does: the method of the rack's provider that it ends in, such as "ProcessExec".
// Each row of the table has an Op of its own; rows that the rack serves by one method, and that differ in what
// they give away, have names of ours.
type Op string

// Body says what a rack reads of a request's body.
type Body uint8

const (
	// NoBody: nothing.
	NoBody Body = iota
	// FormBody: an application/x-www-form-urlencoded body of at most MaxForm bytes, or none.
	FormBody
	// JSONBody: a small JSON document.
	JSONBody
	// StreamBody: raw bytes of any length, passed on as they come.
	StreamBody
)

// MaxForm is the largest form a rack reads, in bytes (net/http.Request.ParseForm).
const MaxForm = 10 << 20

// Answer says what a rack answers when all is well.
type Answer uint8

const (
	// AnswerText is a short text, "ok\n" as a rule.
	AnswerText Answer = iota
	// AnswerJSON is an indented JSON document.
	AnswerJSON
	// AnswerDownload is a stream of bytes of unknown length.
	AnswerDownload
	// AnswerSocket is a WebSocket.
	AnswerSocket
)

// ExitMarker begins the text message in which an exec, a run or a shell tells its exit code:
// the marker, the code in decimal, a line feed, in a message of its own.
const ExitMarker = "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:"

// AnyMethod is the Method of a route that the rack serves whatever the method.
const AnyMethod = "*"

// Route is one row of the table. Routes are shared and must not be changed.
type Route struct {
	Op     Op
	Method string // "GET" and so on; AnyMethod for any
	Socket bool   // reached by GET with "Upgrade: websocket", and only so

	// Pattern is the path: literal segments, {name} for one segment, {name}.tgz for one with that ending,
	// and last {name...} for one or more.
	Pattern string

	Body   Body
	Answer Answer

	// Headers, Query and Form name the options that the rack reads, and where: request headers in canonical
	// spelling, query parameters, form fields. The rack reads a form field from the query too when the form
	// lacks it, and many of them from a header of the same name after that; see Fields.
	Headers, Query, Form []string

	// LongRead marks a GET whose answer streams for long, so that its record starts before it does.
	LongRead bool

	// Shut marks what the gateway forwards for nobody. Such a route also takes its path with nothing
	// after the prefix, so that whoever asks is told why.
	Shut bool

	segments []segment // of Pattern; empty until the route is in a Table
	strip    []string  // canonical headers that could stand in for a field
}

// IsSocket reports whether the rack would take the request for a WebSocket: a GET with one Upgrade header
// that is exactly "websocket". A rack answers 404 to any other spelling, and so an Upgrade header with any
// other value is best refused.
func IsSocket(r *http.Request) bool {
	up := r.Header["Upgrade"]
	return r.Method == http.MethodGet && len(up) == 1 && up[0] == "websocket"
}

// HasHeader reports whether the rack reads the named header, in canonical spelling, as an option of the route.
func (r *Route) HasHeader(name string) bool { return slices.Contains(r.Headers, name) }

// LastVar returns the name of the last variable of the pattern: of what the request is about. It is "" when the
// pattern has none.
func (r *Route) LastVar() string {
	for _, s := range slices.Backward(r.segments) {
		if s.name != "" {
			return s.name
		}
	}
	return ""
}
