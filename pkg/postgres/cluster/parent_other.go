//go:build !linux

package cluster

import "syscall"

// endWithParent does nothing where the kernel cannot: Close ends the server.
func endWithParent(*syscall.SysProcAttr) {}
