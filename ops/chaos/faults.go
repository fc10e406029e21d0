package chaos

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/lib/pq"

	"hotchoc/ops/partners"
	"hotchoc/ops/stack"
)

// breaker carries faults out, heals them and measures how long that takes.
type breaker struct {
	stack  *stack.Stack
	dir    string
	watch  *watch
	wire   *duplicator
	told   func(format string, args ...any)
	client *http.Client

	// A service that starts needs the servers and the partners, and starting anything is for one at a time. So whoever
	// breaks a server holds this for writing until it is back, and whoever starts a service holds it for reading.
	servers sync.RWMutex
	start   sync.Mutex
	// shaken counts what disturbs the measurement of a start: faults on servers and partners, at their beginning and end.
	shaken atomic.Int64
	// calm is held while a fault on the services begins; a frozen broker is watched in peace.
	calm sync.Mutex

	open sync.WaitGroup // what has begun and is not healed or measured

	mu       sync.Mutex
	busy     map[string]Kind // services that are down or paused, and by what
	injected map[Kind]int
	poison   []string
	recovery map[string][]time.Duration
	trouble  []string // what went wrong with the faults themselves
}

func newBreaker(s *stack.Stack, dir string, w *watch, wire *duplicator, told func(string, ...any)) *breaker {
	return &breaker{
		stack: s, dir: dir, watch: w, wire: wire, told: told, client: &http.Client{Timeout: time.Second},
		busy: map[string]Kind{}, injected: map[Kind]int{}, recovery: map[string][]time.Duration{},
	}
}

func (b *breaker) hit(k Kind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.injected[k]++
}

// now is how many faults there were so far.
func (b *breaker) now() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, times := range b.injected {
		n += times
	}
	return n
}

func (b *breaker) measured(what string, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recovery[what] = append(b.recovery[what], took)
}

func (b *breaker) failed(f Fault, err error) {
	b.told("%s: %v", f, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble = append(b.trouble, fmt.Sprintf("%s: %v", f, err))
}

// follow carries out the faults of one lane, each at its time or as soon after as the one before is over.
func (b *breaker) follow(ctx context.Context, began time.Time, faults []Fault) {
	for _, f := range faults {
		select {
		case <-time.After(time.Until(began.Add(f.At))):
		case <-ctx.Done():
			return
		}
		if err := b.carryOut(ctx, f); err != nil && ctx.Err() == nil {
			b.failed(f, err)
		}
	}
}

func (b *breaker) carryOut(ctx context.Context, f Fault) error {
	if l := f.Kind.lane(); l == serverLane || l == partnerLane {
		b.shaken.Add(1)
		defer b.shaken.Add(1)
	}
	switch f.Kind {
	case KillService, StopService, PauseService:
		return b.onService(ctx, f)
	case KillBroker, RestartBroker, KillPostgres, RestartPostgres:
		return b.onServer(ctx, f)
	case PauseBroker, PausePostgres:
		return b.pauseServer(ctx, f)
	case FreezeBroker:
		return b.freezeBroker(ctx, f)
	case Poison:
		return b.injectPoison(ctx, f)
	case Twin:
		return b.twin(ctx, f)
	case KillPartners:
		return b.killPartners(ctx, f)
	}
	return b.onPartner(ctx, f)
}

// onService ends or pauses a service and returns at once; what follows goes on beside the next fault.
func (b *breaker) onService(ctx context.Context, f Fault) error {
	b.calm.Lock()
	defer b.calm.Unlock()
	if !b.take(&f) {
		b.told("%s: all services are down, left out", f)
		return nil
	}
	if f.Kind == PauseService {
		if err := signal(b.dir, f.Target, syscall.SIGSTOP); err != nil {
			b.give(f.Target)
			return err
		}
		b.hit(f.Kind)
		b.told("%s", f)
		b.open.Go(func() {
			defer b.give(f.Target)
			select {
			case <-time.After(f.For):
			case <-ctx.Done():
			}
			if err := signal(b.dir, f.Target, syscall.SIGCONT); err != nil {
				b.failed(f, err)
			}
		})
		return nil
	}
	b.watch.scrape(ctx, f.Target)
	sig := syscall.SIGKILL
	if f.Kind == StopService {
		sig = syscall.SIGTERM
	}
	if err := signal(b.dir, f.Target, sig); err != nil {
		b.give(f.Target)
		return err
	}
	b.hit(f.Kind)
	b.open.Go(func() {
		defer b.give(f.Target)
		if err := b.gone(ctx, f.Target); err != nil {
			b.failed(f, err)
		}
		s, err := b.startService(ctx, f.Target)
		if err != nil {
			b.failed(f, err)
			return
		}
		b.open.Go(func() {
			at, ok := b.watch.firstWork(ctx, 4*time.Second, s.exec, acks, f.Target)
			what := fmt.Sprintf("%s: ready after %.2f s", f, s.ready.Seconds())
			if ok {
				what += fmt.Sprintf(", first ack after %.2f s", at.Sub(s.exec).Seconds())
			}
			switch {
			case b.shaken.Load() != s.shaken:
				what += ", amid other trouble"
			case ok && s.waiting > 0:
				b.measured(serviceToAck, at.Sub(s.exec))
				b.measured(serviceToReady, s.ready)
			case ok:
				b.measured(serviceToReady, s.ready)
				what += ", with nothing to do before"
			}
			b.told("%s", what)
		})
	})
	return nil
}

// take marks a service as broken: the one that was drawn, or the next one that is up.
func (b *breaker) take(f *Fault) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := stack.Services()
	for i := range names {
		name := f.Target
		if i > 0 {
			name = names[(int(f.Draw%5)+i)%len(names)]
		}
		if b.busy[name] == "" {
			f.Target = name
			b.busy[name] = f.Kind
			return true
		}
	}
	return false
}

func (b *breaker) give(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.busy, name)
}

// started is how a start went.
type started struct {
	exec    time.Time
	ready   time.Duration
	waiting int   // messages in its queue before it began; a start that has nothing to do says nothing about the first ack
	shaken  int64 // as it was then
}

// startService starts a service when the servers are there, and waits until it is ready.
func (b *breaker) startService(ctx context.Context, name string) (s started, err error) {
	b.servers.RLock()
	defer b.servers.RUnlock()
	b.start.Lock()
	defer b.start.Unlock()
	s.waiting, s.shaken = b.wire.waiting(name), b.shaken.Load()
	s.exec = time.Now()
	err = b.startAgain(ctx, name)
	s.ready = time.Since(s.exec)
	return s, err
}

// startAgain tries until it is up: a killed Postgres holds its files for a moment.
func (b *breaker) startAgain(ctx context.Context, name string) (err error) {
	for end := time.Now().Add(time.Minute); ; {
		if err = b.stack.Start(context.WithoutCancel(ctx), name); err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// onServer ends the broker or Postgres, starts it again, and sees how long the services take to work with it.
func (b *breaker) onServer(ctx context.Context, f Fault) error {
	b.servers.Lock()
	defer b.servers.Unlock()
	b.watch.count(ctx)
	down := time.Now()
	switch f.Kind {
	case RestartBroker, RestartPostgres:
		if err := b.stack.Stop(ctx, f.Target); err != nil {
			return err
		}
	default:
		if err := signal(b.dir, f.Target, syscall.SIGKILL); err != nil {
			return err
		}
		if err := b.gone(ctx, f.Target); err != nil {
			return err
		}
	}
	b.hit(f.Kind)
	done, what := acks, brokerToDelivery
	if f.Target == "postgres" {
		done, what = commits, postgresToCommit
	}
	up := make(chan time.Time, 1)
	watching, stop := context.WithTimeout(ctx, time.Minute)
	b.open.Go(func() {
		defer stop()
		at, ok := b.comesBack(watching, f.Target)
		up <- at
		if !ok {
			return
		}
		paused := b.anyPaused()
		work, ok := b.watch.firstWork(ctx, 20*time.Second, at, done, stack.Services()...)
		told := fmt.Sprintf("%s: open after %.1f s", f, at.Sub(down).Seconds())
		if ok {
			told += fmt.Sprintf(", first work %.2f s later", work.Sub(at).Seconds())
		}
		switch {
		case ok && paused:
			told += ", while a service was paused"
		case ok:
			b.measured(what, work.Sub(at))
		}
		b.told("%s", told)
	})
	if err := b.startAgain(ctx, f.Target); err != nil {
		stop()
		return err
	}
	<-up
	return nil
}

// comesBack waits until a server is away and then until it lets clients in. It may be so quick that it never was away.
func (b *breaker) comesBack(ctx context.Context, name string) (at time.Time, ok bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began, away := time.Now(), false; ctx.Err() == nil; <-tick.C {
		accepts := b.accepts(ctx, name)
		if accepts && (away || time.Since(began) > time.Second) {
			return time.Now(), true
		}
		away = away || !accepts
	}
	return time.Now(), false
}

// accepts tells whether a server lets clients in: the broker by its port, Postgres by an answer.
func (b *breaker) accepts(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if name == "postgres" {
		db, err := sql.Open("postgres", b.stack.Database())
		if err != nil {
			return false
		}
		defer db.Close()
		return db.PingContext(ctx) == nil
	}
	u, err := url.Parse(b.stack.AMQP())
	if err != nil {
		return false
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// pauseServer lets a server hang, with all its processes.
func (b *breaker) pauseServer(ctx context.Context, f Fault) error {
	b.servers.Lock()
	defer b.servers.Unlock()
	main, err := processOf(b.dir, f.Target)
	if err != nil {
		return err
	}
	if err := signal(b.dir, f.Target, syscall.SIGSTOP); err != nil { // so that it begets no more
		return err
	}
	children := childrenOf(main.PID)
	each := func(sig syscall.Signal) {
		for _, pid := range children {
			_ = syscall.Kill(pid, sig) // they cannot have ended: they are stopped, or just being so
		}
	}
	each(syscall.SIGSTOP)
	b.hit(f.Kind)
	b.told("%s", f)
	select {
	case <-time.After(f.For):
	case <-ctx.Done():
	}
	each(syscall.SIGCONT)
	return signal(b.dir, f.Target, syscall.SIGCONT)
}

// twin starts a second instance of a service, and ends it after a while.
func (b *breaker) twin(ctx context.Context, f Fault) error {
	env, err := b.stack.Env(f.Target)
	if err != nil {
		return err
	}
	log, err := os.CreateTemp(filepath.Join(b.dir, "log"), f.Target+"-twin-*.log")
	if err != nil {
		return err
	}
	cmd := exec.Command(b.stack.Program(f.Target))
	cmd.Env = append(env, "HTTP_ADDR=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close(), os.Remove(log.Name()))
	}
	b.hit(f.Kind)
	hangs := f.Draw%3 == 0 && f.For > 4*time.Second
	if hangs {
		b.told("%s, most of which it hangs", f)
	} else {
		b.told("%s", f)
	}
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	b.open.Go(func() {
		defer os.Remove(log.Name())
		defer log.Close()
		if hangs {
			wait(time.Second)
			_ = cmd.Process.Signal(syscall.SIGSTOP)
			wait(f.For - 2*time.Second)
			_ = cmd.Process.Signal(syscall.SIGCONT)
			wait(time.Second) // it goes on with what it holds
		} else {
			wait(f.For)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		text, err := os.ReadFile(log.Name())
		if err != nil {
			b.failed(f, err)
			return
		}
		for line := range bytes.Lines(text) {
			b.watch.line(bytes.TrimSpace(line))
		}
	})
	return nil
}

// killPartners lets the outside be away for a while. To a service it is one more server.
func (b *breaker) killPartners(ctx context.Context, f Fault) error {
	b.servers.Lock()
	defer b.servers.Unlock()
	if err := signal(b.dir, "partners", syscall.SIGKILL); err != nil {
		return err
	}
	b.hit(f.Kind)
	b.told("%s", f)
	if err := b.gone(ctx, "partners"); err != nil {
		return err
	}
	select {
	case <-time.After(f.For):
	case <-ctx.Done():
	}
	return b.startAgain(ctx, "partners")
}

// freezeBroker lets the broker hang until every service says that it is away.
func (b *breaker) freezeBroker(ctx context.Context, f Fault) error {
	b.calm.Lock()
	defer b.calm.Unlock()
	for b.anyBusy() && ctx.Err() == nil { // who is paused or starting notices nothing
		<-time.After(50 * time.Millisecond)
	}
	b.servers.Lock()
	defer b.servers.Unlock()
	if err := signal(b.dir, f.Target, syscall.SIGSTOP); err != nil {
		return err
	}
	b.hit(f.Kind)
	b.told("%s", f)
	frozen := time.Now()
	ctx, cancel := context.WithTimeout(ctx, f.For)
	defer cancel()
	var all sync.WaitGroup
	for _, name := range stack.Services() {
		all.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				var answer struct{ Checks map[string]string }
				if b.readiness(ctx, name, &answer) == nil && answer.Checks["publishing"] != "ok" && answer.Checks["consuming"] != "ok" {
					b.measured(frozenToNoticed, time.Since(frozen))
					return
				}
				<-tick.C
			}
		})
	}
	all.Wait()
	b.told("%s: noticed after %.1f s", f, time.Since(frozen).Seconds())
	return signal(b.dir, f.Target, syscall.SIGCONT)
}

func (b *breaker) anyBusy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.busy) > 0
}

// anyPaused tells whether a service holds up what the others wait for.
func (b *breaker) anyPaused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, kind := range b.busy {
		if kind == PauseService {
			return true
		}
	}
	return false
}

// readiness asks a service how it is; it answers 503 when something is missing.
func (b *breaker) readiness(ctx context.Context, name string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.stack.URL(name)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// onPartner lets the gateway or the courier make trouble for a while.
func (b *breaker) onPartner(ctx context.Context, f Fault) error {
	var trouble partners.Fault
	switch f.Kind {
	case GatewayFails, CourierFails:
		trouble.ErrorRate = f.Rate
	case GatewayLoses, CourierLoses:
		trouble.LostRate = f.Rate
	case GatewaySlows:
		trouble.LatencyMS = 500 + int(f.Draw%4000) // pay waits 3 s
	}
	all := partners.Faults{Gateway: trouble}
	if f.Target == "courier" {
		all = partners.Faults{Courier: trouble}
	}
	if err := b.setFaults(ctx, all); err != nil {
		return err
	}
	b.hit(f.Kind)
	b.told("%s", f)
	select {
	case <-time.After(f.For):
	case <-ctx.Done():
	}
	return b.setFaults(context.WithoutCancel(ctx), partners.Faults{})
}

func (b *breaker) setFaults(ctx context.Context, f partners.Faults) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, b.stack.URL("partners")+"/faults", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the partners answer %s", resp.Status)
	}
	return nil
}

func (b *breaker) injectPoison(ctx context.Context, f Fault) error {
	id, what, err := b.wire.poison(ctx, f.Target, f.Draw)
	b.mu.Lock()
	b.poison = append(b.poison, id) // perhaps it came, even if that was not confirmed
	b.mu.Unlock()
	if err != nil {
		return err
	}
	b.hit(f.Kind)
	b.told("%s: %s", f, what)
	return nil
}

// mend brings everything back, whatever state it is in.
func (b *breaker) mend(ctx context.Context) error {
	names := append([]string{"postgres", "rabbitmq", "partners"}, stack.Services()...)
	for _, name := range names {
		_ = signal(b.dir, name, syscall.SIGCONT) // it may be dead
	}
	if p, err := processOf(b.dir, "postgres"); err == nil && p.alive() {
		for _, child := range childrenOf(p.PID) {
			_ = syscall.Kill(child, syscall.SIGCONT)
		}
	}
	var errs error
	for _, name := range names {
		errs = errors.Join(errs, b.startAgain(ctx, name))
	}
	return errors.Join(errs, b.setFaults(ctx, partners.Faults{}))
}

// process is how the run folder knows a process: the kernel gives pids out again, the birth tells strangers.
type process struct {
	PID  int    `json:"pid"`
	Born uint64 `json:"born"`
}

func processOf(dir, name string) (process, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return process{}, err
	}
	var state struct{ Processes map[string]process }
	if err := json.Unmarshal(raw, &state); err != nil {
		return process{}, err
	}
	return state.Processes[name], nil
}

// alive tells whether this very process runs. Its first thread is dead before the others are, and the last one takes the
// ports along.
func (p process) alive() bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if p.PID == 0 || err != nil {
		return false
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 || fields[0] == "X" || fields[0] == "Z" && (fields[17] == "0" || fields[17] == "1") {
		return false
	}
	born, err := strconv.ParseUint(fields[19], 10, 64)
	return err == nil && born == p.Born
}

// childrenOf lists the processes that a process has started.
func childrenOf(pid int) (children []int) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range threads {
		raw, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(raw)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// signal reaches the process of that name or none: the handle is taken first, then the birth is compared.
func signal(dir, name string, sig os.Signal) error {
	p, err := processOf(dir, name)
	if err != nil {
		return err
	}
	handle, err := os.FindProcess(p.PID)
	if err != nil || !p.alive() {
		return fmt.Errorf("%s does not run", name)
	}
	defer handle.Release()
	return handle.Signal(sig)
}

// gone waits until a process that was told to end has ended.
func (b *breaker) gone(ctx context.Context, name string) error {
	p, err := processOf(b.dir, name)
	if err != nil {
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); p.alive(); <-tick.C {
		if time.Now().After(end) {
			return fmt.Errorf("%s does not end", name)
		}
	}
	return nil
}
