package cluster

import "syscall"

// endWithParent has the kernel end the server at once when the thread that started it is gone.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
