// Package relay brings committed events from the outbox to the broker, at least once.
//
// What a commit wrote is published at once, from memory, by the process that wrote it; a row leaves the outbox when the
// broker has confirmed it and did not return it. What is left behind (the process died, the broker was away, a confirm
// was lost) and timers that are due are taken by the sweeper, which has no cursor and so cannot miss a late commit.
package relay

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"hotchoc/pkg/crash"
	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// Defaults of Config.
const (
	DefaultInterval = 200 * time.Millisecond
	DefaultLease    = 10 * time.Second
	DefaultBatchMax = 500
	DefaultQueueMax = 256
	DefaultFlush    = 2 * time.Second
	DefaultGather   = 50 * time.Millisecond
)

// Config are the limits of a relay; the zero value has the defaults.
type Config struct {
	// Interval is how often the outbox is swept. Default 200 ms: it is also how late a timer may be.
	Interval time.Duration
	// Lease is how long a swept message belongs to the sweeper that took it. Default 10 s.
	Lease time.Duration
	// BatchMax is how many messages one sweep takes. Default 500.
	BatchMax int
	// QueueMax is how many commits may wait to be published from memory. Default 256; what comes on top is left to the
	// sweeper.
	QueueMax int
	// Observed, if not nil, is told how many messages were "confirmed", "failed" or "swept", for metrics.
	Observed func(what string, messages int)
	// Gather is how long a confirmed message may stay in the outbox, to be removed together with others. Default 50 ms. What
	// is still there when the process dies is published again.
	Gather time.Duration
	// Flush bounds the wait for outstanding confirms at the end. Default 2 s.
	Flush time.Duration
}

// Publisher sends events to the broker. done is called once for each event, in any order: nil means confirmed and
// routed. Publish may block while the window of unconfirmed messages is full, and must not once ctx is done.
type Publisher interface {
	Publish(ctx context.Context, events []event.Record, done func(event.Record, error))
	// Ready tells whether there is a connection.
	Ready() bool
}

// Relay is the only publisher of events.
type Relay struct {
	outbox    store.Outbox
	publisher Publisher
	log       *zap.Logger
	cfg       Config
	fresh     chan []event.Record

	mu        sync.Mutex
	confirmed []uuid.UUID
	failed    []uuid.UUID
	open      int // handed to the publisher and not heard of
	wake      chan struct{}
}

// New returns a relay; nothing is published until Run.
func New(outbox store.Outbox, p Publisher, log *zap.Logger, cfg Config) *Relay {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Lease == 0 {
		cfg.Lease = DefaultLease
	}
	if cfg.BatchMax == 0 {
		cfg.BatchMax = DefaultBatchMax
	}
	if cfg.QueueMax == 0 {
		cfg.QueueMax = DefaultQueueMax
	}
	if cfg.Gather == 0 {
		cfg.Gather = DefaultGather
	}
	if cfg.Flush == 0 {
		cfg.Flush = DefaultFlush
	}
	if cfg.Observed == nil {
		cfg.Observed = func(string, int) {}
	}
	return &Relay{outbox: outbox, publisher: p, log: log, cfg: cfg, fresh: make(chan []event.Record, cfg.QueueMax), wake: make(chan struct{}, 1)}
}

// Committed hands over what a commit just wrote. It never blocks: when the broker is away or far behind, the sweeper does
// it later.
func (r *Relay) Committed(events []event.Record) {
	if r.publisher.Ready() {
		select {
		case r.fresh <- events:
			return
		default:
		}
	}
	r.leave(events)
}

// leave gives up the head start that this process has over the sweepers.
func (r *Relay) leave(events []event.Record) {
	r.mu.Lock()
	for _, e := range events {
		r.failed = append(r.failed, e.ID)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx is done, then what is left in the queue, and waits for its confirms.
func (r *Relay) Run(ctx context.Context) error {
	// What was taken to be published when ctx is done is still published, for as long as the flush may take.
	flush, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(r.cfg.Flush, cancel) })()
	var loops sync.WaitGroup
	loops.Go(func() { r.fastPath(ctx, flush) })
	loops.Go(func() { r.sweep(ctx, flush) })
	loops.Go(func() { r.clear(ctx) })
	loops.Wait()
	for len(r.fresh) > 0 {
		r.publish(flush, <-r.fresh)
	}
	for r.settle(flush) > 0 {
		select {
		case <-r.wake:
		case <-flush.Done():
			return nil // the rest is still in the outbox
		}
	}
	return nil
}

// fastPath publishes straight from the commit.
func (r *Relay) fastPath(ctx, flush context.Context) {
	for {
		select {
		case events := <-r.fresh:
			r.publish(flush, events)
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relay) publish(ctx context.Context, events []event.Record) {
	r.mu.Lock()
	r.open += len(events)
	r.mu.Unlock()
	crashAt("relay.publish", events)
	r.publisher.Publish(ctx, events, r.done)
}

// sweep is the safety net, and the clock of the timers.
func (r *Relay) sweep(ctx, flush context.Context) {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		if r.sweepOnce(ctx, flush) {
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweepOnce takes what is due; true when there may be more.
func (r *Relay) sweepOnce(ctx, flush context.Context) bool {
	if !r.publisher.Ready() {
		return false
	}
	left, err := r.outbox.Sweep(ctx, r.cfg.BatchMax, r.cfg.Lease)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("sweep of the outbox", zap.Error(err))
	}
	if len(left) > 0 {
		crashAt("relay.leased", left)
		r.cfg.Observed("swept", len(left))
		r.log.Debug("swept", zap.Int("messages", len(left)))
		r.publish(flush, left)
	}
	return len(left) == r.cfg.BatchMax
}

// done notes what became of one message.
func (r *Relay) done(e event.Record, err error) {
	r.mu.Lock()
	r.open--
	if err == nil {
		r.confirmed = append(r.confirmed, e.ID)
	} else {
		r.failed = append(r.failed, e.ID)
	}
	r.mu.Unlock()
	if err != nil {
		r.log.Warn("not published, will be again", zap.Stringer("saga", e.Saga), zap.String("event", e.Type), zap.Stringer("message", e.ID), zap.Error(err))
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// clear removes what was confirmed, what is confirmed within a while at once: nobody waits for it.
func (r *Relay) clear(ctx context.Context) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(r.cfg.Gather):
			r.settle(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// settle removes what was confirmed so far, and returns how many messages have not been heard of.
func (r *Relay) settle(ctx context.Context) int {
	r.mu.Lock()
	open, confirmed, failed := r.open, r.confirmed, r.failed
	r.confirmed, r.failed = nil, nil
	r.mu.Unlock()
	r.cfg.Observed("confirmed", len(confirmed))
	r.cfg.Observed("failed", len(failed))
	if len(confirmed) > 0 {
		crash.At("relay.confirmed")
		if err := r.outbox.Published(ctx, confirmed); err != nil {
			// They are published again when their time is over, and suppressed by the inboxes.
			r.log.Warn("published messages stay in the outbox for now", zap.Int("messages", len(confirmed)), zap.Error(err))
		}
		crash.At("relay.cleared")
	}
	if len(failed) > 0 {
		if err := r.outbox.Release(ctx, failed); err != nil {
			r.log.Warn("unpublished messages wait for their lease", zap.Int("messages", len(failed)), zap.Error(err))
		}
	}
	return open
}

// Fresh, Sweep and Settle are the steps that Run repeats, for a simulation that takes them itself. None of them waits.

// Fresh publishes what one commit wrote, from memory; false when there is nothing.
func (r *Relay) Fresh(ctx context.Context) bool {
	select {
	case events := <-r.fresh:
		r.publish(ctx, events)
		return true
	default:
		return false
	}
}

// Sweep publishes what is due in the outbox; true when there may be more.
func (r *Relay) Sweep(ctx context.Context) bool { return r.sweepOnce(ctx, ctx) }

// Settle takes out of the outbox what was confirmed since the last time, and releases what failed.
func (r *Relay) Settle(ctx context.Context) { r.settle(ctx) }

// crashAt is a point where tests let the process die, with the types of the events at hand.
func crashAt(point string, events []event.Record) {
	if crash.On {
		types := make([]string, len(events))
		for i, e := range events {
			types[i] = e.Type
		}
		crash.At(point, types...)
	}
}
