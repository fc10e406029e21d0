package crash_test

import "syscall"

// dieWithUs lets the kernel end a process when the thread that started it is gone.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
