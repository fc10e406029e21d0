package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	poll    = 30 * time.Millisecond
	logKeep = 16 << 20 // a log longer than this is set aside when its process starts again
)

// process is named by its pid and the moment it was born: the kernel gives pids out again, and a
// stranger who got one of ours must never be killed.
type process struct {
	PID  int    `json:"pid"`
	Born uint64 `json:"born"` // clock ticks after boot, field 22 of /proc/<pid>/stat

	// Known only to the program that started it.
	exit    <-chan error
	logFrom int64 // where its part of the log begins
}

// command is what to start: in the background, in its own session, its output in its own log.
type command struct {
	name string
	path string
	args []string
	env  []string
	as   *account
	dir  *os.File // handed over as file descriptor 3
}

// account is the user a server drops to, when we are root.
type account struct{ uid, gid int }

// lookup finds the account for a server. Without root there is nothing to drop: nil.
func lookup(name string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("%w: its package makes it; is the package installed?", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return &account{uid, gid}, err
}

// reaches says whether the account can walk down to dir: a checkout below a closed home, such as
// root's own, is out of its reach.
func (a *account) reaches(dir string) bool {
	for dir = filepath.Dir(dir); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// own gives a folder and all in it to the account.
func (a *account) own(dir string) error {
	if a == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
}

func (c command) exec() *exec.Cmd {
	cmd := exec.Command(c.path, c.args...)
	cmd.Env = c.env
	cmd.Dir = "/" // no process of ours keeps a folder busy, or stumbles over one it may not read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.as.uid), Gid: uint32(c.as.gid)}
	}
	if c.dir != nil {
		cmd.ExtraFiles = []*os.File{c.dir}
	}
	return cmd
}

// handOver returns a path by which the command can use dir. An account that may not walk down to
// it may still use a folder that is already open.
func (c *command) handOver(dir string) (path string, err error) {
	if c.as == nil || c.as.reaches(dir) {
		return dir, nil
	}
	c.dir, err = os.Open(dir)
	return "/proc/self/fd/3", err
}

// launch starts a command that outlives us, and remembers it before anything else can go wrong.
func (s *Stack) launch(c command) (process, error) {
	log, from, err := openLog(s.logFile(c.name))
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	cmd := c.exec()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("%s: cannot start: %w", c.name, err)
	}
	exit := make(chan error, 1)
	p := process{PID: cmd.Process.Pid, exit: exit, logFrom: from}
	p.Born, _ = born(p.PID) // a child that nobody waited for keeps its entry even when it is dead
	go func() { exit <- cmd.Wait() }()
	if err := s.remember(c.name, p); err != nil {
		p.stop(syscall.SIGKILL, time.Second)
		return process{}, err
	}
	return p, nil
}

// await polls until the process is ready. A process that died, or a deadline, ends it with the end of the log.
func (s *Stack) await(ctx context.Context, name string, p process, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	last := errors.New("it was never asked")
	for {
		select {
		case err := <-p.exit:
			return s.failed(name, fmt.Sprintf("%s ended while starting (%v)", name, exitText(err)), p.logFrom)
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return context.Canceled
			}
			return s.failed(name, fmt.Sprintf("%s was not ready after %s: %v", name, s.cfg.Patience, last), p.logFrom)
		case <-tick.C:
			if !p.alive() {
				return s.failed(name, name+" ended while starting", p.logFrom)
			}
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := ready(attempt)
			cancel()
			if err == nil {
				return nil
			}
			if ctx.Err() == nil {
				last = err
			}
		}
	}
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// failed is an error that brings the end of the log along: the reason is nearly always there.
func (s *Stack) failed(name, text string, from int64) error {
	tail, _ := tailOf(s.logFile(name), from, 20)
	if len(tail) == 0 {
		return fmt.Errorf("%s; its log %s is empty", text, s.logFile(name))
	}
	return fmt.Errorf("%s; the end of its log %s:\n    %s", text, s.logFile(name), strings.Join(tail, "\n    "))
}

// alive says whether this very process still runs. A zombie does not.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	at, ok := born(p.PID)
	return ok && at == p.Born
}

// signal reaches this process or none: the handle is taken first, then the birth is compared.
func (p process) signal(sig os.Signal) error {
	handle, err := os.FindProcess(p.PID)
	if err != nil || !p.alive() {
		return os.ErrProcessDone
	}
	defer handle.Release()
	return handle.Signal(sig)
}

// stop asks with the first signal, waits, and kills when the grace is over. It returns when the process is gone.
func (p process) stop(first os.Signal, grace time.Duration) (killed bool, err error) {
	if p.PID == 0 {
		return false, nil
	}
	for sig, wait := first, grace; ; sig, wait, killed = syscall.SIGKILL, 5*time.Second, true {
		if err := p.signal(sig); errors.Is(err, os.ErrProcessDone) {
			return killed, nil
		} else if err != nil {
			return killed, fmt.Errorf("cannot stop pid %d: %w", p.PID, err)
		}
		for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(poll / 3) {
			if !p.alive() {
				return killed, nil
			}
		}
		if killed {
			return true, fmt.Errorf("pid %d does not die", p.PID)
		}
	}
}

// born reads when a process started; ok is false when there is none or only its remains.
func born(pid int) (ticks uint64, ok bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name, field 2, is in brackets and may hold anything; count from behind it.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 {
		return 0, false
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	// The first thread may be gone before the others, which still hold its ports: num_threads is field 20.
	gone := fields[0] == "X" || fields[0] == "Z" && (fields[17] == "0" || fields[17] == "1")
	return ticks, err == nil && !gone
}

// openLog opens a log to append, and says where the new part begins.
func openLog(path string) (log *os.File, from int64, err error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logKeep {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, 0, err
		}
	}
	log, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, 0, err
	}
	from, err = log.Seek(0, io.SeekEnd)
	return log, from, err
}

// tailOf returns the last n lines of a file behind an offset, reading no more than its last 64 KiB.
func tailOf(path string, from int64, n int) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, max(0, min(info.Size()-from, 64<<10)))
	if _, err := f.ReadAt(buf, info.Size()-int64(len(buf))); err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(buf), "\n")
	if text == "" {
		return nil, nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-n):], nil
}
