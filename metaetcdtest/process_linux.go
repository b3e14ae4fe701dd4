package metaetcdtest

import "syscall"

// endWithParent lets no server outlive a test that is killed.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
