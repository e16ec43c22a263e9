package s3server

import "syscall"

// endWithParent has the server end when whoever started it is killed.
func endWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
