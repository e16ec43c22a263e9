//go:build !linux

package main

import "syscall"

// childAttributes keeps the terminal's Ctrl-C from the children, which end in order when the demo says so.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
