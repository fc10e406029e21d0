package partners

import (
	"os"
	"syscall"
)

// syncData makes what was written durable, and of the metadata only what is needed to read it: not the times, which would
// cost a second write to the file system's journal.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
