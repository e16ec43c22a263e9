package main

import "syscall"

// childAttributes keeps the terminal's Ctrl-C from the children, which end in order when the demo says so, and ends
// them should the demo itself be killed. The kernel does the latter when the thread that started a child ends, so
// children are started on the main thread (see main).
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
