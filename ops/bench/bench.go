// Package bench measures the shop: how many orders it brings to their end, how fast, for how much CPU and memory, and how
// that compares with what this machine's broker and database can do at most, with a pipeline written by hand for speed,
// and with Watermill.
//
// Read Run for the walk, then scenarios.go: each scenario works on a throw-away stack of its own (rig.go), lets customers
// place orders over HTTP (load.go), hears from the broker when each has ended (ends.go), and makes figures of it (trial.go,
// latency.go, proc.go, metrics.go). At the end of each the audit must be clean. report.go writes it down.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Defaults of Config.
const (
	DefaultSeconds = 10
	DefaultRounds  = 3
)

// Config says what to measure.
type Config struct {
	// Bin is the folder of the programs: the services, hotchoc, and the peer named Watermill.
	Bin string
	// Dir is where the throw-away stacks are made. What an earlier run left there because it was killed is removed.
	Dir string
	// Env are settings for the services, KEY=value, or for one of them, pay:KEY=value. Default none.
	Env []string
	// Scenarios are the names of those to run; see Names. Default all.
	Scenarios []string
	// InFlight are the loads of the scenario throughput. Default 1, 64, 256, 1,024.
	InFlight []int
	// Seconds is how long each load is measured. Default 10.
	Seconds float64
	// Rounds is how often the systems are compared, in turns; the medians count. Default 3.
	Rounds int
	// Smoke makes everything tiny, on one stack with one audit at its end: it shows that all works, and no figure means
	// anything. Seconds and Rounds are then ignored.
	Smoke bool
	// Out is told what happens. Default nobody.
	Out io.Writer
}

// Watermill is the name of the peer's program.
const Watermill = "watermill"

// sizes are how much of everything there is.
type sizes struct {
	warm, window time.Duration
	rounds       int
	inFlight     []int
	compared     []int // orders in flight when systems are compared
	busy         int   // orders in flight when a system is to be saturated
	shares       []float64
	backlog      int
	burst        int
	events       int // in the logs, for growth
}

func (c Config) sizes() sizes {
	if c.Smoke {
		return sizes{
			warm: 200 * time.Millisecond, window: 500 * time.Millisecond, rounds: 1, inFlight: []int{1, 16}, compared: []int{1, 16}, busy: 16, shares: []float64{0.5},
			backlog: 100, burst: 50, events: 2000,
		}
	}
	window := time.Duration(c.Seconds * float64(time.Second))
	inFlight := c.InFlight
	if len(inFlight) == 0 {
		inFlight = []int{1, 64, 256, 1024}
	}
	return sizes{
		warm: max(window/4, time.Second), window: window, rounds: c.Rounds, inFlight: inFlight, compared: []int{1, 256, 1024}, busy: 256,
		shares: []float64{0.25, 0.5, 0.75}, backlog: 5000, burst: 1000, events: 1_000_000,
	}
}

// Results are all that was measured.
type Results struct {
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds"` // all of it took
	Machine Machine   `json:"machine"`
	Smoke   bool      `json:"smoke,omitempty"`
	// WindowSeconds is how long each load was measured, after WarmSeconds that do not count.
	WindowSeconds float64    `json:"window_s"`
	WarmSeconds   float64    `json:"warm_s"`
	Rounds        int        `json:"rounds"`
	Scenarios     []Scenario `json:"scenarios"`
}

// Clean tells whether every audit was.
func (r Results) Clean() bool {
	return !slices.ContainsFunc(r.Scenarios, func(s Scenario) bool { return !s.Audit.Clean })
}

// Machine is what it was measured on.
type Machine struct {
	Cores    int    `json:"cores"`
	Model    string `json:"model,omitempty"`
	MemoryMB int    `json:"memory_mb,omitempty"`
	Go       string `json:"go"`
	Postgres string `json:"postgres"`
	RabbitMQ string `json:"rabbitmq"`
}

// Scenario is one question and its figures.
type Scenario struct {
	Name string `json:"name"`
	Asks string `json:"asks"`
	// Seconds is how long it took, without its audit.
	Seconds  float64   `json:"seconds"`
	Trials   []Trial   `json:"trials"`
	Ceilings []Ceiling `json:"ceilings,omitempty"`
	Ratios   []Ratio   `json:"ratios,omitempty"`
	Starts   []Start   `json:"starts,omitempty"`
	// Notes say what else is to be known of the figures.
	Notes []string `json:"notes,omitempty"`
	// Audit is that of the stack at its end, and Tables are its tables then. Scenarios of a smoke run share theirs.
	Audit  Audit   `json:"audit"`
	Tables []Table `json:"tables"`
}

// Audit is what an audit came to.
type Audit struct {
	Clean  bool `json:"clean"`
	Orders int  `json:"orders"` // accepted, and looked for
	Events int  `json:"events"`
	// Seconds is how long it took, the wait for rest included. It is in no other figure.
	Seconds    float64  `json:"seconds"`
	Violations []string `json:"violations,omitempty"`
}

// Start is how long a service took from its start to being ready.
type Start struct {
	Label   string  `json:"label"`
	Service string  `json:"service"`
	Seconds float64 `json:"seconds"`
}

// Run measures. An error means that it could not be done; what the shop did wrong is in the audits of the results.
func Run(ctx context.Context, cfg Config) (_ Results, err error) {
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	chosen, err := choose(cfg.Scenarios)
	if err != nil {
		return Results{}, err
	}
	if cfg.Seconds == 0 {
		cfg.Seconds = DefaultSeconds
	}
	if cfg.Rounds == 0 {
		cfg.Rounds = DefaultRounds
	}
	if _, err := os.Stat(filepath.Join(cfg.Bin, Watermill)); err != nil && slices.ContainsFunc(chosen, func(s scenario) bool { return s.name == "peers" }) {
		return Results{}, fmt.Errorf("the peer is not built (%w): run ./task bench, or leave the scenario peers out", err)
	}
	b := &bench{cfg: cfg, sizes: cfg.sizes(), began: time.Now()}
	defer func() { err = errors.Join(err, b.leave()) }()
	r := Results{At: b.began.UTC(), Smoke: cfg.Smoke, WindowSeconds: b.sizes.window.Seconds(), WarmSeconds: b.sizes.warm.Seconds(), Rounds: b.sizes.rounds}
	first := 0 // of the scenarios on the present stack
	for i, s := range chosen {
		if b.rig == nil {
			if err := b.enter(ctx); err != nil {
				return r, err
			}
			r.Machine = b.rig.machine(ctx)
		}
		b.say("%s: %s", s.name, s.asks)
		begin := time.Now()
		b.now = Scenario{Name: s.name, Asks: s.asks}
		if err := s.run(b, ctx); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		b.now.Seconds = time.Since(begin).Seconds()
		r.Scenarios = append(r.Scenarios, b.now)
		if cfg.Smoke && i < len(chosen)-1 {
			continue
		}
		if err := b.judge(ctx, r.Scenarios[first:]); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		if err := b.leave(); err != nil {
			return r, err
		}
		first = len(r.Scenarios)
	}
	r.Seconds = time.Since(b.began).Seconds()
	return r, nil
}

// bench is one run.
type bench struct {
	cfg   Config
	sizes sizes
	began time.Time
	rig   *rig
	now   Scenario // that is measured
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.cfg.Out, "%6.1f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// enter starts a stack.
func (b *bench) enter(ctx context.Context) (err error) {
	b.say("starting a stack")
	b.rig, err = newRig(ctx, b.cfg)
	return err
}

// leave stops it, if there is one.
func (b *bench) leave() error {
	if b.rig == nil {
		return nil
	}
	r := b.rig
	b.rig = nil
	return r.close()
}

// judge audits the stack, for these scenarios.
func (b *bench) judge(ctx context.Context, scenarios []Scenario) error {
	b.say("the audit")
	audit, err := b.rig.audit(ctx)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	tables, err := tables(ctx, b.rig.stack)
	if err != nil {
		return err
	}
	what := "clean"
	if !audit.Clean {
		what = "NOT CLEAN: " + strings.Join(audit.Violations[:min(3, len(audit.Violations))], "; ")
	}
	b.say("  %s: %d orders, %d events, %.1f s", what, audit.Orders, audit.Events, audit.Seconds)
	for i := range scenarios {
		scenarios[i].Audit, scenarios[i].Tables = audit, tables
	}
	return nil
}

// add notes a trial, and tells it.
func (b *bench) add(t Trial) {
	b.now.Trials = append(b.now.Trials, t)
	b.say("  %s", t)
}

// thousands writes a number with commas.
func thousands(n int) string {
	digits := fmt.Sprint(n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// machine reads what can be known of the machine.
func (r *rig) machine(ctx context.Context) Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), MemoryMB: memTotal("/proc/meminfo")}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(info) {
		if name, value, _ := strings.Cut(string(line), ":"); strings.TrimSpace(name) == "model name" {
			m.Model = strings.TrimSpace(value)
			break
		}
	}
	m.Postgres, m.RabbitMQ = r.versions(ctx)
	return m
}

func memTotal(path string) int {
	info, _ := os.ReadFile(path)
	var kb int
	_, _ = fmt.Sscanf(string(info), "MemTotal: %d kB", &kb)
	return kb >> 10
}
