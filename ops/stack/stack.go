// Package stack starts, shows and stops what the shop runs on: RabbitMQ, Postgres, the simulated
// partners and the five services, as processes of this machine or as containers.
//
// Nothing of it stays in memory: each process is detached, and what a later command must know is
// in the run folder. Read Up for the walk.
package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says where a stack lives and what it may use. The zero value is the stack of `task up`,
// when the program lies in bin/ of the checkout.
type Config struct {
	Dir  string // the run folder: data, logs, pids, secrets; .run beside the folder of the program
	Bin  string // the folder of the services' programs; the one of this program
	Mode string // native or compose; compose where a Docker engine answers

	// Servers that run elsewhere, as their administrators reach them. They are used, not started.
	AMQPURL       string
	ManagementURL string // port 15672 of the host in AMQPURL
	DatabaseURL   string

	RabbitPassword   string            // of the administrator hotchoc; hotchoc, as only this machine can reach the port
	PostgresPassword string            // of the superuser hotchoc, in containers; hotchoc (natively it is a random one)
	RabbitHome       string            // an unpacked RabbitMQ release; the system's package
	Passwords        map[string]string // of services; random ones, made once
	Env              []string          // for the services: KEY=value for all, or pay:KEY=value for one

	// For tests: ports that the kernel chooses; and data that are worth nothing, so that Stop kills
	// and deletes, and a later start cleans up behind an owner that died.
	AnyPorts  bool
	Throwaway bool

	Patience time.Duration // how long anything may take to be ready; 90 s
	Out      io.Writer     // where the steps are told; nowhere
}

// Stack is one run folder and what runs in it.
type Stack struct {
	cfg Config

	secrets sync.Mutex // one makes a secret, the others read it

	mu      sync.Mutex // guards the rest, while several are started at once
	state   state
	started []string // under the present lock: what a failed start takes back
}

// Open reads what is known of a stack. It starts nothing.
func Open(cfg Config) (*Stack, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if cfg.Bin == "" {
		cfg.Bin = filepath.Dir(program)
	}
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(filepath.Dir(filepath.Dir(program)), ".run")
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Bin, err = filepath.Abs(cfg.Bin); err != nil {
		return nil, err
	}
	if cfg.Patience == 0 {
		cfg.Patience = 90 * time.Second
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	s := &Stack{cfg: cfg}
	return s, s.load()
}

// Up brings everything up and returns when all of it is ready. What already runs is left alone, so a
// second Up starts only what died or was built anew. When it fails it stops what it has started itself.
func Up(ctx context.Context, cfg Config) (*Stack, error) {
	s, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lockForStart()
	if err != nil {
		return nil, err
	}
	defer unlock()
	mode, err := s.mode(ctx)
	if err != nil {
		return nil, err
	}
	if mode == compose {
		return s, s.composeUp(ctx)
	}
	if err := s.checkPrograms(); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	return s, s.orUndo(s.up(ctx))
}

func (s *Stack) up(ctx context.Context) error {
	if err := s.startServers(ctx); err != nil {
		return err
	}
	s.say("Databases, queues, partners")
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Setup(both) })
	g.Go(func() error {
		return s.step(partners, func() (string, error) { return s.startService(both, partners) })
	})
	if err := g.Wait(); err != nil {
		return err
	}
	s.say("Services")
	return each(services, func(name string) error {
		return s.step(name, func() (string, error) { return s.startService(ctx, name) })
	})
}

// Down stops everything, in the order that lets each finish what it holds. Data stay, unless volumes is set.
func (s *Stack) Down(ctx context.Context, volumes bool) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if s.known().Mode == compose {
		err = s.composeDown(ctx, volumes)
	} else {
		err = s.stop(slices.Collect(maps.Keys(s.known().Processes))...)
	}
	if err != nil || !volumes {
		return err
	}
	for _, name := range []string{"postgres", "postgres.new", "rabbitmq", partners, "secrets", "env", "log", "pid", "state.json"} {
		if err := os.RemoveAll(s.path(name)); err != nil {
			return err
		}
	}
	s.say("the data are deleted")
	return nil
}

// Start starts one process of a stack that is up, and waits until it is ready.
func (s *Stack) Start(ctx context.Context, name string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case s.known().Mode == compose:
		return s.compose(ctx, "up", "--detach", "--no-deps", "--wait", name)
	case name == "postgres":
		_, err = s.startPostgres(ctx)
	case name == "rabbitmq":
		_, err = s.startRabbit(ctx)
	default:
		_, err = s.startService(ctx, name)
	}
	return s.orUndo(err)
}

// Stop asks one process to end, and kills it when it does not.
func (s *Stack) Stop(ctx context.Context, name string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if s.known().Mode == compose {
		return s.compose(ctx, "stop", name)
	}
	return s.stopOne(name, false)
}

// Kill ends one process at once, as a crash would. It returns when the process is gone.
func (s *Stack) Kill(ctx context.Context, name string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if s.known().Mode == compose {
		return s.compose(ctx, "kill", name)
	}
	p := s.process(name)
	if !p.alive() {
		return fmt.Errorf("%s does not run", name)
	}
	_, err = p.stop(syscall.SIGKILL, 10*time.Second)
	return err
}

// prepare decides what the start will use: servers, packages, ports. A stack that partly runs keeps
// what it has, since its processes have been told.
func (s *Stack) prepare(ctx context.Context) error {
	elsewhere := urls{AMQP: s.cfg.AMQPURL, Management: s.cfg.ManagementURL, Database: s.cfg.DatabaseURL}
	if elsewhere.AMQP != "" && elsewhere.Management == "" {
		var err error
		if elsewhere.Management, err = managementOf(elsewhere.AMQP); err != nil {
			return err
		}
	}
	if s.anyAlive() {
		if elsewhere != s.known().Elsewhere {
			return errors.New("this stack runs, and uses other servers than AMQP_URL and DATABASE_URL ask for: run down first")
		}
		return nil
	}
	if err := s.requirePackages(ctx, elsewhere); err != nil {
		return err
	}
	choose := choosePorts
	if s.cfg.AnyPorts {
		choose = anyPorts
	}
	ports, err := choose()
	if err != nil {
		return err
	}
	return s.update(func(st *state) {
		st.Mode, st.Elsewhere, st.Ports = native, elsewhere, ports
		st.Rabbit = cmp.Or(s.cfg.RabbitPassword, broker)
		if s.cfg.Throwaway {
			st.Owner.PID = os.Getpid()
			st.Owner.Born, _ = born(os.Getpid())
		}
	})
}

// startServers starts the two servers beside each other, or sees that those elsewhere answer.
func (s *Stack) startServers(ctx context.Context) error {
	s.say("Servers")
	g, ctx := errgroup.WithContext(ctx)
	server := func(name, elsewhere string, ping func(context.Context, string) error, start func(context.Context) (string, error)) {
		g.Go(func() error {
			return s.step(name, func() (string, error) {
				if elsewhere == "" {
					return start(ctx)
				}
				ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				defer cancel()
				if err := ping(ctx, elsewhere); err != nil {
					return "", fmt.Errorf("%s elsewhere: %w", name, err)
				}
				return "elsewhere", nil
			})
		})
	}
	server("postgres", s.known().Elsewhere.Database, reachPostgres, s.startPostgres)
	server("rabbitmq", s.known().Elsewhere.Management, pingRabbit, s.startRabbit)
	return g.Wait()
}

// orUndo stops what was started under the present lock when the start failed: nothing stays half-running.
func (s *Stack) orUndo(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if len(s.started) > 0 {
		s.say("That did not work; stopping what was started")
	}
	return errors.Join(err, s.stop(s.started...))
}

// stop stops these processes: first who works, then what they work on, and epmd last, which the broker needs to leave.
func (s *Stack) stop(names ...string) error {
	var errs error
	for _, rank := range [][]string{append([]string{partners}, services...), {"postgres", "rabbitmq"}, {"epmd"}} {
		rank = slices.DeleteFunc(rank, func(name string) bool { return !slices.Contains(names, name) })
		errs = errors.Join(errs, each(rank, func(name string) error { return s.stopOne(name, s.cfg.Throwaway) }))
	}
	return errs
}

func (s *Stack) stopOne(name string, quick bool) error {
	first, grace := syscall.SIGTERM, 20*time.Second
	switch {
	case name == "postgres" && quick:
		first = syscall.SIGQUIT // a killed one would leave its shared memory behind
	case name == "postgres":
		first = syscall.SIGINT // SIGTERM would wait for every client
	case quick:
		first = syscall.SIGKILL
	}
	begin := time.Now()
	if link := detour(s.path("rabbitmq")); name == "rabbitmq" && link != "" {
		defer os.Remove(link)
	}
	p := s.process(name)
	if !p.alive() {
		return s.forget(name)
	}
	killed, err := p.stop(first, grace)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case killed:
		s.tell(name, fmt.Sprintf("killed, as it did not stop within %s", grace), begin)
	case !quick:
		s.tell(name, "stopped", begin)
	}
	return s.forget(name)
}

// each runs f for all names at once and waits for all of them, also when one fails.
func each(names []string, f func(string) error) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = f(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// step tells what was done and how long it took.
func (s *Stack) step(name string, do func() (detail string, err error)) error {
	begin := time.Now()
	detail, err := do()
	if err == nil {
		s.tell(name, detail, begin)
	}
	return err
}

func (s *Stack) tell(name, detail string, begin time.Time) {
	s.say("  %-11s %-44s %5.1f s", name, detail, time.Since(begin).Seconds())
}

func (s *Stack) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.cfg.Out, format+"\n", args...)
}
