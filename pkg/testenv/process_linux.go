package testenv

import "syscall"

// endsWithUs has the kernel end the child when the thread that started it is gone, and keeps the terminal's Ctrl-C
// from it.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
