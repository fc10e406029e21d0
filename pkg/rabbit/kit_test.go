package rabbit_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/store"
)

func TestMain(m *testing.M) { servers.Main(m) }

// payment is the state of a payment.
type payment struct{ Captured int }

func (p *payment) evolve(proto.Message) { p.Captured++ }

var payments = flow.NewStream("payment", (*payment).evolve)

// desk is a pay service that hears order.placed and decides as it is told.
func desk(retry flow.Retry, decide func(*orderv1.OrderPlaced) flow.Outcome) *flow.Flow {
	charge := func(_ *payment, placed *orderv1.OrderPlaced) flow.Outcome { return decide(placed) }
	return flow.New("pay", payments, flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}).Retry(retry))
}

func captured(placed *orderv1.OrderPlaced) flow.Outcome {
	return flow.Emit(&payv1.PaymentCaptured{OrderId: placed.OrderId, Customer: placed.Customer})
}

// pay is the desk at which all goes well.
var pay = desk(flow.Forward, captured)

type counter struct{ N int }

// order is an order service that hears something, and its own timer.
var order = func() *flow.Flow {
	orders := flow.NewStream("order", func(c *counter, _ proto.Message) { c.N++ })
	return flow.New("order", orders,
		flow.On("close", orders, func(_ *counter, d *deliveryv1.DeliveryDelivered) flow.Outcome {
			return flow.Emit(&orderv1.OrderCompleted{OrderId: d.OrderId})
		}).Emits(&orderv1.OrderCompleted{}),
		flow.On("expire", orders, func(*counter, *orderv1.OrderDeadline) flow.Outcome { return flow.Nothing() }),
	)
}()

// placed is an order.placed as it stands in the order service's log.
func placed(customer string) event.Record {
	saga := event.NewID()
	fact := &orderv1.OrderPlaced{OrderId: saga.String(), Customer: customer}
	body, err := contract.Marshal(fact)
	if err != nil {
		panic(err)
	}
	return event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: "order.placed", Schema: 1, Source: "order", Stream: "order/" + saga.String(), Version: 1,
		Saga: saga, Causation: event.NewID(), Hops: 1, Actor: "customer:ada", At: time.Now().UTC().Truncate(time.Microsecond),
	}}
}

// onTheWire is the message of an event, spelled out: it is what other programs rely on.
func onTheWire(r event.Record) amqp.Publishing {
	return amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent,
		MessageId: r.ID.String(), Type: r.Type, CorrelationId: r.Saga.String(), AppId: r.Source, UserId: r.Source, Timestamp: r.At.Truncate(time.Second),
		Headers: amqp.Table{
			"cloudEvents_time": r.At.Format(time.RFC3339Nano), "cloudEvents_causationid": r.Causation.String(),
			"cloudEvents_subject": r.Stream, "cloudEvents_sequence": strconv.FormatInt(r.Version, 10),
			"schema": int64(r.Schema), "hops": int64(r.Hops), "actor": r.Actor,
		},
		Body: r.Body,
	}
}

// sender publishes with confirms, as a service's user or as the administrator.
type sender struct {
	t       *testing.T
	channel *amqp.Channel
}

func newSender(t *testing.T, target string) sender {
	t.Helper()
	channel := servers.Dial(t, target)
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return sender{t, channel}
}

func (s sender) send(exchange, key string, messages ...amqp.Publishing) {
	s.t.Helper()
	var confirms []*amqp.DeferredConfirmation
	for _, m := range messages {
		confirm, err := s.channel.PublishWithDeferredConfirm(exchange, key, true, false, m)
		if err != nil {
			s.t.Fatal(err)
		}
		confirms = append(confirms, confirm)
	}
	for _, c := range confirms {
		if ok, err := c.WaitContext(servers.Soon(s.t)); !ok || err != nil {
			s.t.Fatalf("not confirmed: %v", err)
		}
	}
}

// place publishes n orders, as the order service does.
func place(t *testing.T, b *servers.Broker, n int) []event.Record {
	t.Helper()
	s := newSender(t, b.As("order"))
	var records []event.Record
	var messages []amqp.Publishing
	for range n {
		r := placed("ada")
		records, messages = append(records, r), append(messages, onTheWire(r))
	}
	s.send("order.events", "order.placed", messages...)
	return records
}

// moody is a store that can be away or slow.
type moody struct {
	*store.Memory
	away atomic.Bool // neither begins a transaction nor answers a ping
	full atomic.Bool // begins none, but looks well
	gate atomic.Pointer[chan struct{}]

	mu       sync.Mutex
	attempts []store.Attempt
	began    int
}

func (m *moody) Begin(ctx context.Context) (store.Tx, error) {
	m.mu.Lock()
	m.began++
	m.mu.Unlock()
	if m.away.Load() || m.full.Load() {
		return nil, fmt.Errorf("%w: for the test", store.ErrUnavailable)
	}
	if gate := m.gate.Load(); gate != nil {
		<-*gate
	}
	return m.Memory.Begin(ctx)
}

func (m *moody) ping(context.Context) error {
	if m.away.Load() {
		return fmt.Errorf("%w: for the test", store.ErrUnavailable)
	}
	return nil
}

// close lets transactions wait at their beginning until open is called; open may be called again.
func (m *moody) close() (open func()) {
	gate := make(chan struct{})
	m.gate.Store(&gate)
	return sync.OnceFunc(func() { m.gate.Store(nil); close(gate) })
}

func (m *moody) begun() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.began
}

func (m *moody) Attempted(_ context.Context, attempts []store.Attempt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempts = append(m.attempts, attempts...)
	return nil
}

func (m *moody) tried() []store.Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]store.Attempt(nil), m.attempts...)
}

// service is one instance of a service, as host puts it together, over a store in memory.
type service struct {
	*moody
	t         *testing.T
	consumer  *rabbit.Consumer
	publisher *rabbit.Publisher
	logs      *observer.ObservedLogs
	stop      func() // in order; may be called again

	mu       sync.Mutex
	verdicts map[uuid.UUID]int // how often each message was handled, duplicates included
	repeated int               // the duplicates
	fates    map[string]int
}

// start starts an instance; it is stopped at the end of the test.
func start(t *testing.T, target string, f *flow.Flow, cfg rabbit.Config) *service {
	t.Helper()
	return startOn(t, target, f, cfg, &moody{Memory: store.NewMemory()}, flow.IntakeConfig{})
}

func startOn(t *testing.T, target string, f *flow.Flow, cfg rabbit.Config, m *moody, in flow.IntakeConfig) *service {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	log := zap.New(core)
	cfg.URLs, cfg.Service = []string{target}, f.Service
	s := &service{moody: m, t: t, logs: logs, verdicts: map[uuid.UUID]int{}, fates: map[string]int{}}
	in.Observed = func(batch []flow.Message, verdicts []flow.Verdict, _ time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, v := range verdicts {
			if v.Err == nil {
				s.verdicts[batch[i].ID]++
			}
			if v.Duplicate {
				s.repeated++
			}
		}
	}
	intake := flow.NewIntake(f, flow.NewDoor(f, m, nil, nil), log, in)
	s.publisher = rabbit.NewPublisher(cfg, log)
	s.consumer = rabbit.NewConsumer(cfg, f, intake, s.publisher, m, m.ping, s.settled, log)
	var stops []func()
	for _, part := range []func(context.Context) error{s.publisher.Run, intake.Run, s.consumer.Run} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := part(ctx); err != nil {
				t.Error(err)
			}
		}()
		stops = append(stops, func() {
			cancel()
			select {
			case <-done:
			case <-time.After(servers.Patience):
				t.Error("a part does not stop")
			}
		})
	}
	s.stop = sync.OnceFunc(func() {
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *service) settled(_ flow.Message, f flow.Fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.Ack:
		s.fates["ack"]++
	case f.Requeue:
		s.fates["requeue"]++
	case f.Dead != "":
		s.fates["dead"]++
	default:
		s.fates["retry"]++
	}
}

func (s *service) fate(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fates[name]
}

// consuming waits until the queue is being consumed.
func (s *service) consuming() {
	s.t.Helper()
	servers.Eventually(s.t, func() error {
		if !s.consumer.Ready() {
			return errors.New("the queue is not being consumed")
		}
		return nil
	})
}

// sessions is how often consuming began.
func (s *service) sessions() int { return s.logs.FilterMessage("consuming").Len() }

// handled waits until n messages have left their mark in the log.
func (s *service) handled(n int) {
	s.t.Helper()
	servers.Eventually(s.t, func() error {
		if got := len(s.Log()); got != n {
			return fmt.Errorf("%d of %d messages are handled", got, n)
		}
		return nil
	})
}

// once fails the test unless exactly these messages were handled, each with one effect.
func (s *service) once(records []event.Record) {
	s.t.Helper()
	effects := map[uuid.UUID]int{}
	for _, r := range s.Log() {
		effects[r.Causation]++
	}
	for _, r := range records {
		if effects[r.ID] != 1 {
			s.t.Errorf("%s had %d effects", r.ID, effects[r.ID])
		}
		delete(effects, r.ID)
	}
	if len(effects) != 0 {
		s.t.Errorf("%d messages were handled that nobody sent", len(effects))
	}
}

// settledAll stops the instance and fails the test unless the queue is empty then.
func (s *service) settledAll(b *servers.Broker) {
	s.t.Helper()
	s.stop()
	if n := b.Ready(s.t, "pay"); n != 0 {
		s.t.Errorf("%d messages are left in the queue", n)
	}
}
