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
	// Every is how often a service is killed. Default 2 s.
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
	d := newDriver(cfg.withDefaults())
	if err := d.begin(ctx); err != nil {
		return Report{}, err
	}
	defer d.end()
	d.storm(ctx)
	if err := d.heal(ctx); err != nil {
		return Report{}, err
	}
	d.calm(ctx)
	return d.judge(ctx)
}

// driver is one run.
type driver struct {
	cfg    Config
	name   string // in the keys of its requests
	faults []Fault
	coming []wish

	watch    *watch
	wire     *duplicator
	breaker  *breaker
	guests   *customers
	checker  *checker
	before   counts
	began    time.Time
	healed   time.Time
	beside   sync.WaitGroup // what watches and duplicates, to the end
	stop     context.CancelFunc
	visiting sync.WaitGroup
	leave    context.CancelFunc // ends all visits
	speaking sync.Mutex
}

func newDriver(cfg Config) *driver {
	d := &driver{cfg: cfg, began: time.Now()}
	d.name = fmt.Sprintf("chaos-%d-%x", cfg.Seed, d.began.UnixMilli())
	d.faults = Plan(cfg.Seed, cfg.Duration, cfg.Every, cfg.Only)
	d.coming = wishes(cfg.Seed, cfg.Orders, cfg.Duration, d.faults, d.name)
	share := 0.0
	if slices.Contains(cfg.Only, Duplicate) {
		share = cfg.Duplicates
	}
	d.watch = newWatch(cfg.Stack, cfg.Dir)
	d.wire = newDuplicator(cfg.Stack.AMQP(), cfg.Seed, share, slices.Contains(cfg.Only, Reorder))
	d.breaker = newBreaker(cfg.Stack, cfg.Dir, d.watch, d.wire, d.say)
	d.guests = newCustomers(cfg.Stack.URL("order"))
	d.checker = &checker{stack: cfg.Stack, out: cfg.Out}
	return d
}

func (d *driver) say(format string, args ...any) {
	d.speaking.Lock()
	defer d.speaking.Unlock()
	fmt.Fprintf(d.cfg.Out, "%6.1f s  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// begin notes what is there, and starts what runs beside.
func (d *driver) begin(ctx context.Context) (err error) {
	d.say("seed %d: %d faults in %.0f s, %d customers", d.cfg.Seed, len(d.faults), d.cfg.Duration.Seconds(), len(d.coming))
	if d.before, err = d.checker.look(ctx); err != nil {
		return fmt.Errorf("is the stack up? %w", err)
	}
	d.watch.begin(ctx)
	beside, stop := context.WithCancel(ctx)
	d.stop = stop
	reading := make(chan struct{})
	d.beside.Go(func() { d.wire.run(beside, reading) })
	d.beside.Go(func() { d.watch.run(beside) })
	d.beside.Go(func() { d.progress(beside) })
	select {
	case <-reading:
		return nil
	case <-time.After(10 * time.Second):
		err = errors.New("the history of the events cannot be read")
	case <-ctx.Done():
		err = ctx.Err()
	}
	d.end()
	return err
}

func (d *driver) end() {
	d.stop()
	d.beside.Wait()
}

// storm lets the customers come and everything break, until the time and the last fault are over.
func (d *driver) storm(ctx context.Context) {
	start := time.Now()
	visits, leave := context.WithCancel(ctx)
	d.leave = leave
	d.visiting.Go(func() { d.guests.come(visits, start, d.coming, d.cfg.Customers) })
	staffed, closed := context.WithCancel(ctx)
	defer closed()
	d.beside.Go(func() {
		d.guests.staff(staffed, d.cfg.Stack.URL("make"), d.cfg.Seed, max(time.Second, d.cfg.Duration/25), d.name)
	})
	var breaking sync.WaitGroup
	for l := range messageLane {
		mine := slices.DeleteFunc(slices.Clone(d.faults), func(f Fault) bool { return f.Kind.lane() != l })
		breaking.Go(func() { d.breaker.follow(ctx, start, mine) })
	}
	breaking.Wait()
	d.breaker.open.Wait()
	select {
	case <-time.After(time.Until(start.Add(d.cfg.Duration))):
	case <-ctx.Done():
	}
}

// heal leaves nothing broken, whatever happened: also when somebody has lost patience.
func (d *driver) heal(ctx context.Context) error {
	err := d.breaker.mend(context.WithoutCancel(ctx))
	d.healed = time.Now()
	switch {
	case err != nil:
		return fmt.Errorf("cannot bring everything back: %w", err)
	case ctx.Err() != nil:
		return errors.New("interrupted; everything runs again")
	}
	d.say("all is healed; waiting for the orders")
	return nil
}

// calm waits for the customers, and then reminds the services of what was long ago.
func (d *driver) calm(ctx context.Context) {
	gone := make(chan struct{})
	go func() { d.visiting.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(patience):
		d.say("some orders do not end")
	case <-ctx.Done():
	}
	d.leave()
	<-gone
	d.wire.held.Wait()
	d.wire.afterAll(ctx)
	d.say("all customers have gone; waiting for rest, then the audit")
}

// judge looks at what is left, and makes the report.
func (d *driver) judge(ctx context.Context) (r Report, err error) {
	r = Report{Seed: d.cfg.Seed, Began: d.began, Schedule: d.faults}
	d.breaker.fill(&r)
	d.guests.fill(&r, d.healed)
	d.wire.fill(&r)
	if r.Audit, err = d.checker.audit(ctx, slices.Concat(d.before.dead, d.breaker.poison), d.guests.orders); err != nil {
		return r, fmt.Errorf("audit: %w", err)
	}
	d.watch.fill(&r)
	after, err := d.checker.look(ctx)
	if err != nil {
		return r, err
	}
	r.compare(d.before, after, d.breaker.poison)
	// Whoever looks next finds the shop without our poison.
	if _, err := d.checker.dead(ctx, d.breaker.poison); err != nil {
		return r, err
	}
	r.Took = time.Since(d.began)
	r.judge(d.cfg)
	return r, nil
}

// progress tells now and then how far it is.
func (d *driver) progress(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		placed, open := d.guests.now()
		if open > 0 {
			d.say("%d orders placed, %d open; %d faults; %d messages delivered twice", placed, open, d.breaker.now(), d.wire.duplicated.Load())
		}
	}
}
