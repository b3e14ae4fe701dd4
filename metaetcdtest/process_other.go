//go:build !linux

package metaetcdtest

import "syscall"

// endWithParent knows no way here.
func endWithParent() *syscall.SysProcAttr { return nil }
