//go:build !linux

package crash_test

import "syscall"

// dieWithUs is for Linux; elsewhere a process outlives a test that was killed.
func dieWithUs() *syscall.SysProcAttr { return nil }
