//go:build !linux

package testenv

import "syscall"

// endsWithUs keeps the terminal's Ctrl-C from the child; where the kernel cannot end it, clean-up does.
func endsWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
