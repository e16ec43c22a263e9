// Where a socket cannot be read without blocking, connections are used once.

//go:build !unix

package upstream

import (
	"errors"
	"syscall"
)

// canCheck says that kept connections cannot be checked for staleness here, so that
// none is kept: a write must never meet a connection that was closed long ago.
const canCheck = false

type stepStage int

var errNoSocket = errors.New("sockets cannot be read without blocking on this system")

func readNow(syscall.RawConn, []byte) (int, error) { return 0, errNoSocket }

func (c *conn) exchange([]byte) (int, error) { return 0, errNoSocket }

func (c *conn) doStep(uintptr) bool { return true }
