package directory

import (
	"errors"
	"fmt"
)

// Kind says what sort of answer an [Error] is, so that a caller can choose a status or an exit code.
type Kind uint8

// The kinds of error.
const (
	// Invalid: the request could never be carried out as it was put.
	Invalid Kind = iota + 1
	// NotFound: it names something that is not there.
	NotFound
	// Conflict: it does not fit what is there now.
	Conflict
	// Refused: a rule of the gateway forbids it.
	Refused
)

// Error is an answer for the person who asked: what is wrong, and what to do. Code is stable and may be
// matched by programs; Message may change, and never contains a percent sign of ours.
type Error struct {
	Kind    Kind
	Code    string
	Message string
}

// Error returns the sentence for the person who asked.
func (e *Error) Error() string { return e.Message }

// CodeOf returns the stable code of an answer of this package, and "" for every other error.
func CodeOf(err error) string {
	var answer *Error
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

func invalid(code, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Code: code, Message: fmt.Sprintf(format, args...)}
}

func notFound(code, format string, args ...any) *Error {
	return &Error{Kind: NotFound, Code: code, Message: fmt.Sprintf(format, args...)}
}

func conflict(code, format string, args ...any) *Error {
	return &Error{Kind: Conflict, Code: code, Message: fmt.Sprintf(format, args...)}
}

func refused(code, format string, args ...any) *Error {
	return &Error{Kind: Refused, Code: code, Message: fmt.Sprintf(format, args...)}
}
