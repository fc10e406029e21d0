package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/relay"
	"hotchoc/pkg/store"
)

type nothing struct{}

// The pay service writes; the order service hears it, and has a timer.
var (
	payments = flow.NewStream("payment", func(*nothing, proto.Message) {})
	orders   = flow.NewStream("order", func(*nothing, proto.Message) {})
	pay      = flow.New("pay", payments)
	order    = flow.New("order", orders,
		flow.On("note", orders, func(*nothing, *payv1.PaymentCaptured) flow.Outcome { return flow.Nothing() }),
		flow.On("expire", orders, func(*nothing, *orderv1.OrderDeadline) flow.Outcome { return flow.Nothing() }))
)

// real is a service with its database and its broker, each behind a proxy.
type real struct {
	*store.Postgres
	db           *servers.Database
	broker       *servers.Broker
	toDB, toAMQP *servers.Proxy
	service      string
	log          *zap.Logger
}

func newReal(t *testing.T, service string, grace time.Duration) *real {
	t.Helper()
	r := &real{db: servers.NewDatabase(t), broker: servers.NewBroker(t, pay, order), service: service, log: zap.NewNop()}
	r.toDB, r.toAMQP = servers.NewProxy(t, r.db.URL), servers.NewProxy(t, r.broker.URL)
	r.Postgres = r.open(t, grace)
	return r
}

func (r *real) open(t *testing.T, grace time.Duration) *store.Postgres {
	t.Helper()
	target := r.toDB.URL(r.db.URL)
	return store.NewPostgres(servers.Open(t, target), servers.Open(t, target), store.PostgresConfig{Service: r.service, Grace: grace})
}

// relay starts a relay as a process of its own would.
func (r *real) relay(t *testing.T, outbox store.Outbox) (out *relay.Relay, stop func()) {
	t.Helper()
	p := rabbit.NewPublisher(rabbit.Config{URLs: []string{r.toAMQP.URL(r.broker.As(r.service))}, Service: r.service}, r.log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	servers.Eventually(t, func() error {
		if !p.Ready() {
			return errors.New("it is not connected")
		}
		return nil
	})
	out = relay.New(outbox, p, r.log, relay.Config{Interval: 30 * time.Millisecond, Lease: 2 * time.Second})
	return out, run(t, out)
}

// empty waits until the outbox is empty.
func (r *real) empty(t *testing.T) {
	t.Helper()
	servers.Eventually(t, func() error {
		if n := r.db.Int(t, `SELECT count(*) FROM outbox`); n != 0 {
			return fmt.Errorf("%d messages are in the outbox", n)
		}
		return nil
	})
}

// arrived takes all that is in a queue, and counts how often each message is.
func (r *real) arrived(t *testing.T, queue string) map[uuid.UUID]int {
	t.Helper()
	n := r.broker.Ready(t, queue)
	times := map[uuid.UUID]int{}
	for _, d := range r.broker.Take(t, queue, n) {
		times[uuid.MustParse(d.MessageId)]++
		if d.AppId != d.UserId || d.Headers["cloudEvents_subject"] != "payment/1" {
			t.Errorf("%s came as %+v", d.MessageId, d)
		}
	}
	return times
}

func TestASweptEventArrivesAsAFreshOne(t *testing.T) {
	t.Parallel()
	r := newReal(t, "pay", time.Nanosecond)
	fresh, left := happened("payment/1", 1), happened("payment/1", 2)
	commit(t, r, store.Changes{Events: []event.Record{left}})
	out, _ := r.relay(t, r)
	commit(t, r, store.Changes{Events: []event.Record{fresh}})
	out.Committed([]event.Record{fresh})
	r.empty(t)
	times := r.arrived(t, "order")
	if times[fresh.ID] == 0 || times[left.ID] == 0 {
		t.Errorf("arrived: %v", times)
	}
}

// TestEverythingIsPublishedThoughTheServersComeAndGo writes while the broker and the database are taken away in turn.
func TestEverythingIsPublishedThoughTheServersComeAndGo(t *testing.T) {
	t.Parallel()
	r := newReal(t, "pay", 100*time.Millisecond)
	out, _ := r.relay(t, r)
	var version atomic.Int64
	var all []event.Record
	write := func(n int) {
		t.Helper()
		for range n {
			e := happened("payment/1", version.Add(1))
			// As the door does: a commit whose outcome is unknown is looked up, and done again.
			servers.Eventually(t, func() error {
				tx, err := r.Begin(context.Background())
				if err != nil {
					return err
				}
				defer tx.Rollback()
				if err := tx.Write(context.Background(), store.Changes{Events: []event.Record{e}}); errors.Is(err, store.ErrConflict) {
					return nil // it had been committed
				} else if err != nil {
					return err
				}
				return tx.Commit()
			})
			out.Committed([]event.Record{e})
			all = append(all, e)
		}
	}
	for range 4 {
		write(30)
		r.toAMQP.Cut()
		write(30)
		r.toAMQP.Down()
		write(30)
		r.toAMQP.Up()
		write(10)
		r.toDB.Cut()
		write(20)
	}
	r.empty(t)
	times := r.arrived(t, "order")
	twice := 0
	for _, e := range all {
		if times[e.ID] == 0 {
			t.Errorf("version %d was never published", e.Version)
		}
		twice += times[e.ID] - 1
		delete(times, e.ID)
	}
	if len(times) != 0 {
		t.Errorf("%d messages were published that nobody wrote", len(times))
	}
	t.Logf("%d events, %d of them once more", len(all), twice)
}

func TestTwoProcessesDoNotPublishTheSame(t *testing.T) {
	t.Parallel()
	r := newReal(t, "pay", time.Nanosecond)
	var all []event.Record
	for v := range 600 {
		all = append(all, happened("payment/1", int64(v+1)))
	}
	commit(t, r, store.Changes{Events: all})
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { r.relay(t, r.open(t, time.Nanosecond)) })
	}
	both.Wait()
	r.empty(t)
	times := r.arrived(t, "order")
	for _, e := range all {
		if times[e.ID] != 1 {
			t.Errorf("version %d was published %d times", e.Version, times[e.ID])
		}
	}
}

func TestATimerReachesItsServiceWhenItIsDue(t *testing.T) {
	t.Parallel()
	r := newReal(t, "order", time.Nanosecond)
	r.relay(t, r)
	e := happened("", 0)
	e.Source, e.Type = "order", "order.deadline"
	due := time.Now().Add(time.Second)
	later := happened("", 0)
	later.Source, later.Type = "order", "order.deadline"
	commit(t, r, store.Changes{Timers: []store.Timer{{Record: e, DueAt: due}, {Record: later, DueAt: due.Add(time.Hour)}}})
	d := r.broker.Take(t, "order", 1)[0]
	if late := time.Since(due); late < 0 || late > 3*time.Second {
		t.Errorf("it came %v after it was due", late)
	}
	if d.MessageId != e.ID.String() || d.Type != "order.deadline" || d.AppId != "order" || d.UserId != "order" {
		t.Errorf("got %+v", d)
	}
	servers.Eventually(t, func() error {
		if n := r.db.Int(t, `SELECT count(*) FROM outbox`); n != 1 {
			return fmt.Errorf("%d timers are armed, not 1", n)
		}
		return nil
	})
}

// TestWhatNobodyHearsStaysInTheOutbox takes every binding of the event away: a confirm alone would lose it.
func TestWhatNobodyHearsStaysInTheOutbox(t *testing.T) {
	t.Parallel()
	r := newReal(t, "pay", time.Nanosecond)
	r.broker.Unbind(t, "pay.events", "#", "history")
	r.broker.Unbind(t, "pay.events", "payment.captured", "order")
	out, _ := r.relay(t, r)
	e := happened("payment/1", 1)
	commit(t, r, store.Changes{Events: []event.Record{e}})
	out.Committed([]event.Record{e})
	servers.Eventually(t, func() error {
		var x struct {
			Stats struct {
				Returned int `json:"return_unroutable"`
			} `json:"message_stats"`
		}
		r.broker.Call(t, http.MethodGet, "vhosts/"+r.broker.VHost, nil, &x)
		if x.Stats.Returned == 0 {
			return errors.New("the broker has returned nothing yet")
		}
		return nil
	})
	if n := r.db.Int(t, `SELECT count(*) FROM outbox`); n != 1 {
		t.Fatalf("%d messages are in the outbox", n)
	}
	r.broker.Bind(t, "pay.events", "payment.captured", "order")
	r.empty(t)
	if times := r.arrived(t, "order"); times[e.ID] == 0 {
		t.Error("it is lost")
	}
}

func TestAStopLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	r := newReal(t, "pay", time.Hour)
	out, stop := r.relay(t, r)
	var all []event.Record
	for v := range 300 {
		e := happened("payment/1", int64(v+1))
		all = append(all, e)
	}
	commit(t, r, store.Changes{Events: all})
	for i := 0; i < len(all); i += 10 {
		out.Committed(all[i : i+10])
	}
	stop()
	if n := r.db.Int(t, `SELECT count(*) FROM outbox`); n != 0 {
		t.Errorf("%d messages are left in the outbox", n)
	}
	if times := r.arrived(t, "order"); len(times) != 300 {
		t.Errorf("%d arrived of 300", len(times))
	}
}
