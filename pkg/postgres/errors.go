package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/lib/pq"
)

// SQLState returns the five characters of the server's error (PostgreSQL appendix A), "" when the error
// did not come from the server.
func SQLState(err error) string {
	var e *pq.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return ""
}

// IsUnavailable tells whether the error says that the database cannot be reached or cannot serve just
// now, so that the same thing may work in a while: the connection was refused, broke or timed out, the
// server starts or stops, is read-only because it fails over, or lacks disk, memory or connections. The
// end of the caller's own context is not that.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if state := SQLState(err); state != "" {
		switch state[:2] {
		case "08", "53", "58": // connection, resources, system error
			return true
		}
		switch state {
		case "57P01", "57P02", "57P03", "57P05", // shut down, crashed, starting, idle too long
			"25006", // read only
			"XX000", // a crash of another session says so at times
			"40001", "40P01", "55P03", "57014":
			return true
		}
		return false
	}
	var network net.Error
	var errno syscall.Errno
	switch {
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &network), errors.As(err, &errno):
		return true
	}
	// Before it can speak the protocol, a server says in plain text that it cannot start a session.
	return strings.HasPrefix(err.Error(), "pq: server error:")
}

// IsData tells whether the error is about the values of a statement (classes 22 and 23): the same values
// will fail again, and others will not. Text that the protocol itself cannot carry counts too (54000:
// over a limit of the server's).
func IsData(err error) bool {
	state := SQLState(err)
	return len(state) == 5 && (state[:2] == "22" || state[:2] == "23" || state[:2] == "54")
}
