package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// begin starts a real process, as launch does, but leaves it to the test when it is waited for.
func begin(t *testing.T, script string) (p process, wait func() error) {
	t.Helper()
	cmd := command{path: "/bin/sh", args: []string{"-c", script}}.exec()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait = sync.OnceValue(cmd.Wait)
	t.Cleanup(func() { cmd.Process.Kill(); wait() })
	p = process{PID: cmd.Process.Pid}
	p.Born, _ = born(p.PID)
	return p, wait
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func TestARecycledPidIsNeverTouched(t *testing.T) {
	p, _ := begin(t, "exec sleep 60")
	stranger := process{PID: p.PID, Born: p.Born - 1} // the same pid, born at another time
	if stranger.alive() {
		t.Error("a stranger is taken for ours")
	}
	if err := stranger.signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal: %v", err)
	}
	if killed, err := stranger.stop(syscall.SIGKILL, time.Second); killed || err != nil {
		t.Errorf("stop: %v, %v", killed, err)
	}
	if !p.alive() {
		t.Error("the stranger was killed")
	}
}

func TestAZombieIsDead(t *testing.T) {
	p, wait := begin(t, "exit 0")
	eventually(t, "the child is dead though nobody waited for it", func() bool { return !p.alive() })
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestStopAsksFirstAndKillsThen(t *testing.T) {
	for _, test := range []struct {
		name, script string
		killed       bool
	}{
		{"a process that ends when asked", `trap "exit 0" TERM; : >"$READY"; while :; do sleep 0.01; done`, false},
		{"a process that does not", `trap "" TERM; : >"$READY"; while :; do sleep 0.01; done`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "ready")
			p, wait := begin(t, strings.ReplaceAll(test.script, "$READY", ready))
			eventually(t, "it is ready", func() bool { _, err := os.Stat(ready); return err == nil })
			go wait()
			killed, err := p.stop(syscall.SIGTERM, 300*time.Millisecond)
			if err != nil || killed != test.killed {
				t.Errorf("killed %v, %v; want %v", killed, err, test.killed)
			}
			if p.alive() {
				t.Error("it is alive")
			}
		})
	}
}

func TestPortsAreTheStandardOnesOrTheNextFree(t *testing.T) {
	first, err := choosePorts()
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(first["menu"])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	second, err := choosePorts()
	if err != nil {
		t.Fatal(err)
	}
	whose := map[int]string{}
	for name, port := range second {
		if other, double := whose[port]; double {
			t.Errorf("%s and %s both get %d", name, other, port)
		}
		whose[port] = name
		for other, its := range standard {
			if port == its && name != other {
				t.Errorf("%s gets %d, the standard port of %s", name, port, other)
			}
		}
		if port < standard[name] {
			t.Errorf("%s gets %d, below its standard port", name, port)
		}
	}
	if second["menu"] == first["menu"] {
		t.Errorf("menu gets %d, which is taken", second["menu"])
	}
}

func TestSettingsReplaceOurs(t *testing.T) {
	s := &Stack{cfg: Config{Env: []string{"LOG_LEVEL=debug", "pay:LOG_LEVEL=warn", "order:BATCH_MAX=1"}}}
	got, err := s.override("pay", []string{"A=1", "LOG_LEVEL=info"})
	if want := "A=1 LOG_LEVEL=warn"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	s.cfg.Env = []string{"LEDGER_DIR=/a path/with blanks"}
	if got, err := s.override("partners", nil); err != nil || len(got) != 1 || got[0] != s.cfg.Env[0] {
		t.Errorf("%q, %v; a path may have blanks", got, err)
	}
	for _, bad := range []string{"LOG_LEVEL", "=x", "A B=x", "A=two\nlines"} {
		s.cfg.Env = []string{bad}
		if _, err := s.override("pay", nil); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestASecretIsMadeOnceAndClosed(t *testing.T) {
	s := &Stack{cfg: Config{Dir: t.TempDir()}}
	if err := s.folders(); err != nil {
		t.Fatal(err)
	}
	first, err := s.secret("pay")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.secret("pay"); err != nil || again != first || len(first) != 32 {
		t.Errorf("%q, then %q, %v", first, again, err)
	}
	if other, _ := s.secret("order"); other == first {
		t.Error("two services share a secret")
	}
	for name, want := range map[string]os.FileMode{"secrets": 0o700, "secrets/pay": 0o600, "env": 0o700} {
		if info, err := os.Stat(s.path(name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestAThrowAwayStackDiesAfterItsOwner(t *testing.T) {
	test := filepath.Join(t.TempDir(), "test")
	lost := &Stack{cfg: Config{Dir: filepath.Join(test, "lost")}}
	if err := errors.Join(lost.folders(), lost.load()); err != nil {
		t.Fatal(err)
	}
	left, wait := begin(t, "exec sleep 60")
	go wait()
	owner, ended := begin(t, "exit 0")
	ended()
	if err := errors.Join(
		lost.remember("rabbitmq", left),
		lost.update(func(st *state) { st.Owner = owner }),
	); err != nil {
		t.Fatal(err)
	}
	next := &Stack{cfg: Config{Dir: filepath.Join(test, "next"), Throwaway: true, Out: os.Stderr}}
	unlock, err := next.lockForStart()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if left.alive() {
		t.Error("its process is alive")
	}
	if _, err := os.Stat(lost.cfg.Dir); err == nil {
		t.Error("its folder is there")
	}
}

func TestLogsAreFollowedAcrossARotation(t *testing.T) {
	s := &Stack{cfg: Config{Dir: t.TempDir(), Out: os.Stderr}}
	if err := s.folders(); err != nil {
		t.Fatal(err)
	}
	add := func(line string) {
		f, _, err := openLog(s.logFile("pay"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	add("one\ntwo\nthree\n")
	var out syncBuffer
	done := make(chan error, 1)
	go func() { done <- s.Logs(t.Context(), &out, []string{"pay"}, 2, true) }()
	eventually(t, "the end is shown", func() bool { return out.String() == "two\nthree\n" })
	shown := func(line string) func() bool { return func() bool { return strings.Contains(out.String(), line) } }
	// It may not have begun to follow when the end is shown; write until a line arrives.
	eventually(t, "a new line is shown", func() bool { add("four\n"); return shown("four\n")() })
	if err := os.Rename(s.logFile("pay"), s.logFile("pay")+".1"); err != nil {
		t.Fatal(err)
	}
	add("five\n")
	eventually(t, "a line of the next file is shown", shown("five\n"))
}

func TestANewPostgresWaitsForTheChildrenOfAKilledOne(t *testing.T) {
	data := t.TempDir()
	child := exec.Command("sleep", "60")
	child.Dir = data
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := awaitOrphans(short, data); err == nil || !strings.Contains(err.Error(), strconv.Itoa(child.Process.Pid)) {
		t.Errorf("with process %d in the folder: %v", child.Process.Pid, err)
	}
	waited := make(chan error, 1)
	go func() { waited <- awaitOrphans(t.Context(), data) }()
	if err := errors.Join(child.Process.Kill(), <-waited); err != nil {
		t.Error(err)
	}

	// Killed and not waited for, it is a zombie now: Postgres takes the one in its lock file for alive.
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), fmt.Appendln(nil, child.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { waited <- awaitOrphans(t.Context(), data) }()
	_ = child.Wait()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if pid, ok := orphan(data); ok {
		t.Errorf("process %s counts as left behind after its end", pid)
	}
}
