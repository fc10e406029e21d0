package stack

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// state is what a later command must know about a running stack, kept in state.json.
type state struct {
	Mode      string             `json:"mode"` // native or compose
	Ports     map[string]int     `json:"ports"`
	Elsewhere urls               `json:"elsewhere"` // servers that are used, not started
	Rabbit    string             `json:"rabbitmq_password,omitempty"`
	Owner     process            `json:"owner,omitzero"` // of a throw-away stack: dead owner, dead stack
	Processes map[string]process `json:"processes"`
}

// urls are the servers as their administrators reach them.
type urls struct {
	AMQP       string `json:"amqp,omitempty"`
	Management string `json:"management,omitempty"`
	Database   string `json:"database,omitempty"`
}

func (s *Stack) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

func (s *Stack) logFile(name string) string { return s.path("log", name+".log") }

// load reads the state; a stack that never ran has an empty one.
func (s *Stack) load() error {
	fresh := state{Processes: map[string]process{}}
	raw, err := os.ReadFile(s.path("state.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if err := json.Unmarshal(raw, &fresh); err != nil {
			return fmt.Errorf("%s is damaged (%w): stop the processes named in %s by hand, then remove it", s.path("state.json"), err, s.path("pid"))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = fresh
	return nil
}

// update changes the state and writes it: at once, so that nobody ever reads half of it.
func (s *Stack) update(change func(*state)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
	raw, err := json.MarshalIndent(s.state, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.path("state.json"), append(raw, '\n'), 0o600)
}

// known is the state as it is now. Its maps are not to be changed.
func (s *Stack) known() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.state
	known.Processes = maps.Clone(known.Processes)
	return known
}

func (s *Stack) remember(name string, p process) error {
	return errors.Join(
		s.update(func(st *state) {
			st.Processes[name] = p
			s.started = append(s.started, name)
		}),
		writeFile(s.path("pid", name), []byte(strconv.Itoa(p.PID)+"\n"), 0o644))
}

func (s *Stack) forget(name string) error {
	if err := os.Remove(s.path("pid", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.update(func(st *state) { delete(st.Processes, name) })
}

func (s *Stack) process(name string) process { return s.known().Processes[name] }

func (s *Stack) port(name string) int { return s.known().Ports[name] }

// anyAlive says whether something of this stack runs.
func (s *Stack) anyAlive() bool {
	for _, p := range s.known().Processes {
		if p.alive() {
			return true
		}
	}
	return false
}

// folders makes what every stack needs. Others may pass through the run folder, since servers run
// under accounts of their own; what is secret in it is closed.
func (s *Stack) folders() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return err
	}
	for name, mode := range map[string]fs.FileMode{"log": 0o755, "pid": 0o755, "env": 0o700, "secrets": 0o700} {
		if err := os.MkdirAll(s.path(name), mode); err != nil {
			return err
		}
	}
	return nil
}

// owned refuses a run folder of another user: what we make in it would be in his way.
func (s *Stack) owned() error {
	info, err := os.Stat(s.cfg.Dir)
	if err != nil {
		return nil // there is none yet
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d: work as that user, or use another folder with --dir", s.cfg.Dir, owner)
	}
	return nil
}

// lock keeps two commands from changing the same stack at the same time.
func (s *Stack) lock() (unlock func(), err error) {
	if err := s.folders(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		s.say("waiting for another hotchoc command on %s", s.cfg.Dir)
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		f.Close()
		return nil, err
	}
	s.started = nil
	return func() { f.Close() }, nil
}

// secret returns a password that is made once and stays.
func (s *Stack) secret(name string) (string, error) {
	s.secrets.Lock() // databases and queues are set up side by side, and both want it
	defer s.secrets.Unlock()
	path := s.path("secrets", name)
	raw, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return strings.TrimSpace(string(raw)), err
	}
	random := make([]byte, 16)
	rand.Read(random)
	password := hex.EncodeToString(random)
	return password, writeFile(path, []byte(password+"\n"), 0o600)
}

// writeFile writes beside and renames, so that a reader sees the old or the new content.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
