//go:build crashpoints

// Package crash has the points at which tests let a process die.
package crash

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// On tells whether the points are compiled in.
const On = true

var (
	// CRASH_AT is a point, such as "door.committed", or a point and a label, such as "door.committed/payment.captured".
	point, label, _ = strings.Cut(os.Getenv("CRASH_AT"), "/")
	// CRASH_ONCE is a file: the process dies only if it can make it, so that it does not die again when it is restarted.
	once = os.Getenv("CRASH_ONCE")
	// CRASH_LOG is a file to which every point that is passed is written, once for each label.
	passed = os.Getenv("CRASH_LOG")
)

// At kills the process, as SIGKILL does, if this is the point it is to die at: nothing is flushed, no deferred function
// runs. Labels say what the process is at: event types and steps.
func At(at string, labels ...string) {
	note(at, labels)
	if at != point || label != "" && !contains(labels, label) {
		return
	}
	mark, err := os.OpenFile(once, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	fmt.Fprintf(mark, "%s %s\n", at, strings.Join(labels, " "))
	_ = mark.Close()
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // it comes at any moment
}

func contains(labels []string, want string) bool {
	for _, l := range labels {
		if l == want {
			return true
		}
	}
	return false
}

// note appends one line per point; O_APPEND makes short lines of several processes whole.
func note(at string, labels []string) {
	if passed == "" {
		return
	}
	f, err := os.OpenFile(passed, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if len(labels) == 0 {
		labels = []string{"-"}
	}
	for _, l := range labels {
		fmt.Fprintf(f, "%s/%s\n", at, l)
	}
}
