package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/relay"
	"hotchoc/pkg/store"
)

func TestMain(m *testing.M) { servers.Main(m) }

// happened is an event as the door makes it.
func happened(stream string, version int64) event.Record {
	return event.Record{Body: []byte(`{"order_id":"1"}`), Envelope: event.Envelope{
		ID: event.NewID(), Type: "payment.captured", Schema: 1, Source: "pay", Stream: stream, Version: version,
		Saga: event.NewID(), Causation: event.NewID(), Hops: 3, Actor: "customer:ada", At: time.Now().UTC().Truncate(time.Microsecond),
	}}
}

// commit writes events and timers as a service does.
func commit(t *testing.T, s store.Store, c store.Changes) {
	t.Helper()
	tx, err := s.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if err := errors.Join(tx.Write(context.Background(), c), tx.Commit()); err != nil {
		t.Fatal(err)
	}
}

// run runs a relay until the test stops it, or ends.
func run(t *testing.T, r *relay.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(servers.Patience):
			t.Error("the relay does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// wire is a publisher that does as it is told.
type wire struct {
	away  atomic.Bool
	fails atomic.Bool
	keeps atomic.Bool // confirms nothing until let go
	full  chan struct{}

	mu        sync.Mutex
	published []uuid.UUID
	kept      []func()
}

func (w *wire) Ready() bool { return !w.away.Load() }

func (w *wire) Publish(ctx context.Context, events []event.Record, done func(event.Record, error)) {
	if w.full != nil {
		select {
		case <-w.full:
		case <-ctx.Done():
			for _, e := range events {
				done(e, ctx.Err())
			}
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		w.published = append(w.published, e.ID)
		switch {
		case w.fails.Load():
			go done(e, errors.New("for the test"))
		case w.keeps.Load():
			w.kept = append(w.kept, func() { done(e, nil) })
		default:
			go done(e, nil)
		}
	}
}

// letGo confirms what was kept.
func (w *wire) letGo() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, done := range w.kept {
		done()
	}
	w.kept = nil
}

func (w *wire) times(id uuid.UUID) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.published {
		if one == id {
			n++
		}
	}
	return n
}

func (w *wire) total() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.published)
}

// outbox is a store in memory whose outbox can fail, and tells what was removed.
type outbox struct {
	*store.Memory
	broken atomic.Bool

	mu      sync.Mutex
	removed map[uuid.UUID]bool
	swept   int
}

func newOutbox() *outbox { return &outbox{Memory: store.NewMemory(), removed: map[uuid.UUID]bool{}} }

func (o *outbox) Sweep(ctx context.Context, limit int, lease time.Duration) ([]event.Record, error) {
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.swept++
	}()
	if o.broken.Load() {
		return nil, store.ErrUnavailable
	}
	return o.Memory.Sweep(ctx, limit, lease)
}

func (o *outbox) Published(ctx context.Context, ids []uuid.UUID) error {
	if o.broken.Load() {
		return store.ErrUnavailable
	}
	o.mu.Lock()
	for _, id := range ids {
		o.removed[id] = true
	}
	o.mu.Unlock()
	return o.Memory.Published(ctx, ids)
}

func (o *outbox) Release(ctx context.Context, ids []uuid.UUID) error {
	if o.broken.Load() {
		return store.ErrUnavailable
	}
	return o.Memory.Release(ctx, ids)
}

func (o *outbox) sweeps() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.swept
}

// gone waits until messages have left the outbox.
func (o *outbox) gone(t *testing.T, records ...event.Record) {
	t.Helper()
	servers.Eventually(t, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, r := range records {
			if !o.removed[r.ID] {
				return fmt.Errorf("%s is in the outbox", r.ID)
			}
		}
		return nil
	})
}

const never = time.Hour

func TestWhatWasCommittedIsPublishedAtOnce(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: never})
	run(t, r)
	servers.Eventually(t, func() error {
		if o.sweeps() == 0 {
			return errors.New("the one sweep has not been")
		}
		return nil
	})
	e := happened("payment/1", 1)
	commit(t, o, store.Changes{Events: []event.Record{e}})
	r.Committed([]event.Record{e})
	o.gone(t, e)
	if n := w.times(e.ID); n != 1 {
		t.Errorf("published %d times", n)
	}
}

func TestWhatACrashLeftBehindIsSwept(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	a, b := happened("payment/1", 1), happened("payment/1", 2)
	commit(t, o, store.Changes{Events: []event.Record{a, b}})
	run(t, relay.New(o, w, zap.NewNop(), relay.Config{Interval: 20 * time.Millisecond}))
	o.gone(t, a, b)
	if w.times(a.ID) != 1 || w.times(b.ID) != 1 {
		t.Errorf("published %d and %d times", w.times(a.ID), w.times(b.ID))
	}
}

func TestWhatFailsStaysAndIsPublishedAgain(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	w.fails.Store(true)
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: 20 * time.Millisecond})
	run(t, r)
	e := happened("payment/1", 1)
	commit(t, o, store.Changes{Events: []event.Record{e}})
	began := time.Now()
	r.Committed([]event.Record{e})
	servers.Eventually(t, func() error {
		if n := w.times(e.ID); n < 3 {
			return fmt.Errorf("published %d times", n)
		}
		return nil
	})
	servers.Took(t, "publishing three times", began, 8*time.Second) // a lease takes longer
	if n := w.times(e.ID); n > 3+int(time.Since(began)/time.Second) {
		t.Errorf("published %d times within %v", n, time.Since(began))
	}
	w.fails.Store(false)
	o.gone(t, e)
}

func TestWhatIsNeverHeardOfIsPublishedAgainAfterItsLease(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	w.keeps.Store(true)
	e := happened("payment/1", 1)
	commit(t, o, store.Changes{Events: []event.Record{e}})
	began := time.Now()
	run(t, relay.New(o, w, zap.NewNop(), relay.Config{Interval: 20 * time.Millisecond, Lease: 500 * time.Millisecond}))
	servers.Eventually(t, func() error {
		if w.times(e.ID) < 2 {
			return errors.New("it is published once")
		}
		return nil
	})
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("published again after %v", took)
	}
	w.keeps.Store(false)
	w.letGo()
	o.gone(t, e)
}

func TestWithoutABrokerNothingIsTakenFromTheOutbox(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	w.away.Store(true)
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: 5 * time.Millisecond, QueueMax: 1, Lease: never})
	stop := run(t, r)
	e := happened("payment/1", 1)
	commit(t, o, store.Changes{Events: []event.Record{e}})
	for range 100 {
		r.Committed([]event.Record{e})
	}
	stop()
	if w.total() != 0 || o.sweeps() != 0 {
		t.Errorf("%d published, %d sweeps", w.total(), o.sweeps())
	}
	w.away.Store(false)
	run(t, relay.New(o, w, zap.NewNop(), relay.Config{Interval: 5 * time.Millisecond}))
	o.gone(t, e)
}

// TestACommitNeverWaitsForTheRelay: what comes on top of its queue is swept.
func TestACommitNeverWaitsForTheRelay(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{full: make(chan struct{})}
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: 20 * time.Millisecond, QueueMax: 2})
	run(t, r)
	var all []event.Record
	for v := range 50 {
		e := happened("payment/1", int64(v+1))
		all = append(all, e)
		commit(t, o, store.Changes{Events: []event.Record{e}})
		r.Committed([]event.Record{e})
	}
	close(w.full)
	o.gone(t, all...)
}

func TestATimerIsPublishedWhenItIsDueAndNotBefore(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	run(t, relay.New(o, w, zap.NewNop(), relay.Config{Interval: 10 * time.Millisecond}))
	soon, late := store.Timer{Record: happened("", 0), DueAt: time.Now().Add(300 * time.Millisecond)}, store.Timer{Record: happened("", 0), DueAt: time.Now().Add(never)}
	commit(t, o, store.Changes{Timers: []store.Timer{soon, late}})
	servers.Eventually(t, func() error {
		if n := w.times(soon.ID); n == 0 {
			return errors.New("it has not come")
		}
		return nil
	})
	if time.Now().Before(soon.DueAt) {
		t.Error("it came too early")
	}
	o.gone(t, soon.Record)
	if w.times(late.ID) != 0 {
		t.Error("the other came, too")
	}
}

func TestABacklogIsSweptWithoutAPause(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	var all []event.Record
	for v := range 95 {
		all = append(all, happened("payment/1", int64(v+1)))
	}
	commit(t, o, store.Changes{Events: all})
	run(t, relay.New(o, w, zap.NewNop(), relay.Config{Interval: never, BatchMax: 10}))
	o.gone(t, all...)
	if w.total() != 95 {
		t.Errorf("%d published of 95", w.total())
	}
}

func TestAStopPublishesWhatIsQueuedAndWaitsForItsConfirms(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	w.away.Store(true)
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: never, Flush: servers.Patience})
	var all []event.Record
	for v := range 20 {
		all = append(all, happened("payment/1", int64(v+1)))
	}
	commit(t, o, store.Changes{Events: all})
	w.away.Store(false)
	for _, e := range all {
		r.Committed([]event.Record{e})
	}
	w.keeps.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // it is stopped before it ever ran
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	servers.Eventually(t, func() error {
		if n := w.total(); n < 20 {
			return fmt.Errorf("%d of 20 are published", n)
		}
		return nil
	})
	select {
	case <-stopped:
		t.Error("it did not wait for the confirms")
	default:
	}
	w.letGo()
	select {
	case <-stopped:
	case <-time.After(servers.Patience):
		t.Fatal("it does not stop")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.removed) != 20 {
		t.Errorf("%d of 20 were removed from the outbox before the end", len(o.removed))
	}
}

func TestAStopDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]*wire{"nothing is confirmed": {}, "the window is full": {full: make(chan struct{})}} {
		w.keeps.Store(true)
		o := newOutbox()
		r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: never, Flush: 300 * time.Millisecond})
		stop := run(t, r)
		e := happened("payment/1", 1)
		commit(t, o, store.Changes{Events: []event.Record{e}})
		for range 5 {
			r.Committed([]event.Record{e})
		}
		began := time.Now()
		stop()
		servers.Took(t, "stopping while "+name, began, 3*time.Second)
		o.mu.Lock()
		if o.removed[e.ID] {
			t.Errorf("while %s: it is gone, and nobody has it", name)
		}
		o.mu.Unlock()
	}
}

func TestAnOutboxInTroubleIsTriedAgain(t *testing.T) {
	t.Parallel()
	o, w := newOutbox(), &wire{}
	o.broken.Store(true)
	r := relay.New(o, w, zap.NewNop(), relay.Config{Interval: 5 * time.Millisecond})
	run(t, r)
	a, b := happened("payment/1", 1), happened("payment/1", 2)
	commit(t, o, store.Changes{Events: []event.Record{a, b}})
	r.Committed([]event.Record{a})
	servers.Eventually(t, func() error {
		if w.times(a.ID) == 0 || o.sweeps() < 3 {
			return errors.New("it does not try")
		}
		return nil
	})
	o.broken.Store(false)
	o.gone(t, a, b)
}

func TestTheStepsOfARelayCanBeTakenOneByOne(t *testing.T) {
	memory, w, ctx := store.NewMemory(), &wire{}, t.Context()
	w.keeps.Store(true)
	r := relay.New(memory, w, zap.NewNop(), relay.Config{})
	first, second := happened("payment/1", 1), happened("payment/2", 1)
	commit(t, memory, store.Changes{Events: []event.Record{first, second}})
	if r.Fresh(ctx) {
		t.Error("something was published that was not handed over")
	}
	r.Committed([]event.Record{first})
	if !r.Fresh(ctx) || w.times(first.ID) != 1 || w.total() != 1 {
		t.Errorf("%d messages were published", w.total())
	}
	if r.Settle(ctx); len(memory.Outbox()) != 2 {
		t.Error("a message left the outbox before it was confirmed")
	}
	w.letGo()
	if r.Settle(ctx); len(memory.Outbox()) != 1 {
		t.Error("a confirmed message is still in the outbox")
	}
	if r.Sweep(ctx); w.times(first.ID) != 1 || w.times(second.ID) != 1 {
		t.Error("the sweep did not publish what was left")
	}
}
