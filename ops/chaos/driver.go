// Package chaos breaks the shop while it is busy, by a seed, and finds out whether it kept its promises: nothing lost,
// nothing done twice, everything brought to its end.
//
// Read Run for the walk. What is broken and when is drawn before anything starts (plan.go), carried out on the real
// processes (faults.go, duplicator.go) while customers come and go (customers.go), and watched (watch.go). At the end all
// is healed, and what the databases, the broker and the payment gateway hold is compared with what the customers were told
// (check.go). report.go says what came of it.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"hotchoc/ops/stack"
)

// Defaults of Config.
const (
	DefaultOrders     = 1000
	DefaultDuration   = 2 * time.Minute
	DefaultEvery      = 2 * time.Second
	DefaultCustomers  = 500
	DefaultDuplicates = 0.2
)

// Config is how much chaos there should be. The zero value is a run as in CI, but for the stack.
type Config struct {
	// Stack is what is broken: a native one that is up. Dir is its run folder.
	Stack *stack.Stack
	Dir   string

	// Orders is how many customers come. Default 1,000.
	Orders int
	// Seed is what everything is drawn from.
	Seed uint64
	// Duration is how long things break. Default 2 minutes.
	Duration time.Duration
	// Every is how often a service is killed, stopped or paused. Default 2 s.
	Every time.Duration
	// Customers is how many may be waiting for their order at once. Default 500.
	Customers int
	// Duplicates is which share of all deliveries comes twice. Default 0.2.
	Duplicates float64
	// Only are the kinds of faults. Default all.
	Only []Kind
	// AllowZero says that it is no failure when a fault or a guard was not hit: for small runs.
	AllowZero bool
	// Out is told what happens. Default nobody.
	Out io.Writer
}

func (c Config) withDefaults() Config {
	if c.Orders == 0 {
		c.Orders = DefaultOrders
	}
	if c.Duration == 0 {
		c.Duration = DefaultDuration
	}
	if c.Every == 0 {
		c.Every = DefaultEvery
	}
	if c.Customers == 0 {
		c.Customers = DefaultCustomers
	}
	if c.Duplicates == 0 {
		c.Duplicates = DefaultDuplicates
	}
	if len(c.Only) == 0 {
		c.Only = Kinds
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// endsWithin is how long orders may take after everything is healed; patience is how long they are waited for, so that one
// can tell late from stuck.
const (
	endsWithin = time.Minute
	patience   = 3 * time.Minute
)

// Run makes a run. An error means that it could not be made; what the shop did wrong is in the report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg = cfg.withDefaults()
	began := time.Now()
	run := fmt.Sprintf("chaos-%d-%x", cfg.Seed, began.UnixMilli())
	faults := Plan(cfg.Seed, cfg.Duration, cfg.Every, cfg.Only)
	coming := wishes(cfg.Seed, cfg.Orders, cfg.Duration, faults, run)
	var speaking sync.Mutex
	say := func(format string, args ...any) {
		speaking.Lock()
		defer speaking.Unlock()
		fmt.Fprintf(cfg.Out, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	say("seed %d: %d faults in %.0f s, %d customers", cfg.Seed, len(faults), cfg.Duration.Seconds(), len(coming))

	w := newWatch(cfg.Stack, cfg.Dir)
	share := 0.0
	if slices.Contains(cfg.Only, Duplicate) {
		share = cfg.Duplicates
	}
	wire := newDuplicator(cfg.Stack.AMQP(), cfg.Seed, share, slices.Contains(cfg.Only, Reorder))
	b := &breaker{
		stack: cfg.Stack, dir: cfg.Dir, watch: w, wire: wire, told: say, client: &http.Client{Timeout: time.Second},
		busy: map[string]bool{}, injected: map[Kind]int{}, recovery: map[string][]time.Duration{},
	}
	guests := newCustomers(cfg.Stack.URL("order"))
	check := &checker{stack: cfg.Stack, out: cfg.Out}
	before, err := check.look(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("is the stack up? %w", err)
	}
	w.begin(ctx)

	// What runs beside: it ends when all is over.
	beside, end := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer end()
	ready := make(chan struct{})
	others.Go(func() { wire.run(beside, ready) })
	others.Go(func() { w.run(beside) })
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		return Report{}, errors.New("the history of the events cannot be read")
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}

	// Whatever happens, nothing is left broken.
	whole := false
	defer func() {
		if !whole {
			_ = b.mend(context.WithoutCancel(ctx))
		}
	}()

	start := time.Now()
	visits, closing := context.WithCancel(ctx)
	defer closing()
	staffed, off := context.WithCancel(ctx)
	defer off()
	others.Go(func() { guests.staff(staffed, cfg.Stack.URL("make"), cfg.Seed, max(time.Second, cfg.Duration/25), run) })
	others.Go(func() { progress(beside, guests, b, wire, say) })
	var visiting, breaking sync.WaitGroup
	visiting.Go(func() { guests.come(visits, start, coming, cfg.Customers) })
	for l := range messageLane {
		mine := slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool { return f.Kind.lane() != l })
		breaking.Go(func() { b.follow(ctx, start, mine) })
	}
	breaking.Wait()
	b.open.Wait()
	if err := b.mend(ctx); err != nil {
		return Report{}, fmt.Errorf("cannot bring everything back: %w", err)
	}
	whole = true
	off()
	healed := time.Now()
	say("all is healed; waiting for the orders")

	gone := make(chan struct{})
	go func() { visiting.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(patience):
		closing()
		<-gone
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	wire.held.Wait()
	wire.afterAll(ctx)
	say("all customers have gone; waiting for rest, then the audit")
	r := Report{Seed: cfg.Seed, Began: began, Schedule: faults}
	b.fill(&r)
	guests.fill(&r, healed)
	wire.fill(&r)
	w.fill(&r)
	if r.Audit, err = check.audit(ctx, slices.Concat(before.dead, b.poison), guests.orders); err != nil {
		return r, fmt.Errorf("audit: %w", err)
	}
	after, err := check.look(ctx)
	if err != nil {
		return r, err
	}
	r.compare(before, after, b.poison)
	poison := map[string]bool{}
	for _, id := range b.poison {
		poison[id] = true
	}
	if _, err := check.dead(ctx, poison); err != nil { // so that the next one who looks finds the shop as it was
		return r, err
	}
	r.Took = time.Since(began)
	r.judge(cfg)
	return r, nil
}

// progress tells now and then how far it is.
func progress(ctx context.Context, c *customers, b *breaker, d *duplicator, say func(string, ...any)) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		placed, open := len(c.orders), c.open
		c.mu.Unlock()
		b.mu.Lock()
		injected := 0
		for _, n := range b.injected {
			injected += n
		}
		b.mu.Unlock()
		say("%d orders placed, %d open; %d faults; %d messages delivered twice", placed, open, injected, d.duplicated.Load())
	}
}
