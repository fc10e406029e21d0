package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/rabbit"

	"google.golang.org/protobuf/proto"
)

// transport is a broker as the platform uses it. The cases below run on RabbitMQ and on the one in memory, so that the
// simulator cannot lie.
type transport interface {
	// publish is mandatory and confirmed; an error is what the broker closes the channel for.
	publish(user, exchange, key string, m broker.Message) (returned bool, err error)
	consume(user, queue string, prefetch int) (consumer, error)
	// ready is how many messages wait in a queue.
	ready(queue string) int
	// restart ends all connections.
	restart()
	// circles tells whether a message that keeps what the broker wrote on it may go the same way again. RabbitMQ 3 keeps it
	// where it is for ever, RabbitMQ 4 does not believe what clients say; the one in memory does what is more dangerous.
	circles() bool
}

type consumer interface {
	// next waits for a message, at most some seconds.
	next() broker.Delivery
	ack(tag uint64, multiple bool) error
	nack(tag uint64, requeue bool) error
	close()
}

// flows are a service that hears orders and one that hears of payments: enough for a topology.
func flows() []*flow.Flow {
	type nothing struct{}
	payments := flow.NewStream("payment", func(*nothing, proto.Message) {})
	orders := flow.NewStream("order", func(*nothing, proto.Message) {})
	return []*flow.Flow{
		flow.New("pay", payments, flow.On("charge", payments, func(*nothing, *orderv1.OrderPlaced) flow.Outcome { return flow.Nothing() }).
			Emits(&payv1.PaymentCaptured{}).NotCompensated("a test")),
		flow.New("order", orders, flow.On("close", orders, func(*nothing, *payv1.PaymentCaptured) flow.Outcome { return flow.Nothing() }).
			Emits(&orderv1.OrderCompleted{}).NotCompensated("a test")),
	}
}

func onBoth(t *testing.T, name string, test func(*testing.T, transport)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Run("in memory", func(t *testing.T) { test(t, newMemory(t)) })
		t.Run("on RabbitMQ", func(t *testing.T) { t.Parallel(); test(t, newRabbit(t)) })
	})
}

func message(id string) broker.Message {
	return broker.Message{MessageID: id, Type: "order.placed", UserID: "order", Headers: map[string]any{"attempt": int64(1)}, Body: []byte(id)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place publishes orders, which pay hears.
func place(t *testing.T, b transport, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if returned, err := b.publish("order", "order.events", "order.placed", message(id)); err != nil || returned {
			t.Fatalf("publish %s: returned %t, %v", id, returned, err)
		}
	}
}

func listen(t *testing.T, b transport, user, queue string, prefetch int) consumer {
	t.Helper()
	c, err := b.consume(user, queue, prefetch)
	must(t, err)
	return c
}

// expect takes messages, which must be these in this order.
func expect(t *testing.T, c consumer, redelivered bool, ids ...string) (last broker.Delivery) {
	t.Helper()
	for _, id := range ids {
		last = c.next()
		if last.MessageID != id || last.Redelivered != redelivered {
			t.Fatalf("got %q, redelivered %t; want %q, redelivered %t", last.MessageID, last.Redelivered, id, redelivered)
		}
	}
	return last
}

// death is the latest death that a message carries.
func death(m broker.Message) string {
	deaths, _ := m.Headers["x-death"].([]any)
	if len(deaths) == 0 {
		return "none"
	}
	d := deaths[0].(rabbit.Table)
	return fmt.Sprintf("%v %v x%v by way of %v %v, first %v %v", d["queue"], d["reason"], d["count"], d["exchange"], d["routing-keys"], m.Headers["x-first-death-queue"], m.Headers["x-first-death-reason"])
}

func TestATransportDoesWhatRabbitMQDoes(t *testing.T) {
	onBoth(t, "a message comes as it was sent, to those who are bound", func(t *testing.T, b transport) {
		place(t, b, "1")
		d := expect(t, listen(t, b, "pay", "pay", 10), false, "1")
		if d.Exchange != "order.events" || d.Key != "order.placed" || d.UserID != "order" || d.Headers["attempt"] != int64(1) || string(d.Body) != "1" {
			t.Errorf("got %+v", d)
		}
		if n := b.ready("order"); n != 0 {
			t.Errorf("order has %d messages; it is not bound", n)
		}
	})
	onBoth(t, "a message for nobody is returned, then confirmed", func(t *testing.T, b transport) {
		m := message("1")
		m.UserID = "pay"
		returned, err := b.publish("pay", "pay.retry", "nowhere", m)
		if !returned || err != nil {
			t.Errorf("returned %t, %v", returned, err)
		}
	})
	onBoth(t, "who may not write is refused", func(t *testing.T, b transport) {
		for _, c := range []struct {
			user, exchange, key, as string
			want                    error
		}{
			{"pay", "order.events", "order.placed", "pay", broker.ErrRefused},
			{"pay", "order.retry", "order", "pay", broker.ErrRefused},
			{"pay", "", "pay", "pay", broker.ErrRefused},
			{"pay", "pay.events", "order.placed", "pay", broker.ErrRefused},
			{"order", "order.events", "order.placed", "pay", broker.ErrPrecond},
			{"order", "order.events", "order.placed", "", nil},
		} {
			m := message("1")
			m.UserID = c.as
			if _, err := b.publish(c.user, c.exchange, c.key, m); !errors.Is(err, c.want) {
				t.Errorf("%s to %q with %q as %q: %v, want %v", c.user, c.exchange, c.key, c.as, err, c.want)
			}
		}
		if n := b.ready("pay"); n != 1 {
			t.Errorf("pay has %d messages, want the one without a user ID", n)
		}
	})
	onBoth(t, "who may not read is refused", func(t *testing.T, b transport) {
		for _, queue := range []string{"pay", "pay.dead", "order.retry.1s", "history"} {
			if _, err := b.consume("order", queue, 1); !errors.Is(err, broker.ErrRefused) {
				t.Errorf("order reads %s: %v", queue, err)
			}
		}
	})
	onBoth(t, "no more is handed over than the prefetch", func(t *testing.T, b transport) {
		place(t, b, "1", "2", "3")
		c := listen(t, b, "pay", "pay", 2)
		d := expect(t, c, false, "1", "2")
		if n := b.ready("pay"); n != 1 {
			t.Errorf("%d are ready, want 1", n)
		}
		must(t, c.ack(d.Tag, true))
		expect(t, c, false, "3")
	})
	onBoth(t, "what was not acked comes back in order when the channel closes, marked", func(t *testing.T, b transport) {
		place(t, b, "1", "2", "3", "4")
		c := listen(t, b, "pay", "pay", 3)
		expect(t, c, false, "1", "2", "3")
		c.close()
		c = listen(t, b, "pay", "pay", 10)
		expect(t, c, true, "1", "2", "3")
		expect(t, c, false, "4")
	})
	onBoth(t, "a restart gives everything back and loses nothing", func(t *testing.T, b transport) {
		place(t, b, "1", "2")
		c := listen(t, b, "pay", "pay", 1)
		d := expect(t, c, false, "1")
		b.restart()
		if err := c.ack(d.Tag, false); err == nil {
			t.Error("an ack went through after the end")
		}
		c = listen(t, b, "pay", "pay", 10)
		expect(t, c, true, "1")
		expect(t, c, false, "2")
	})
	onBoth(t, "a message that is given back is the next", func(t *testing.T, b transport) {
		place(t, b, "1", "2")
		c := listen(t, b, "pay", "pay", 1)
		must(t, c.nack(expect(t, c, false, "1").Tag, true))
		must(t, c.ack(expect(t, c, true, "1").Tag, false))
		expect(t, c, false, "2")
	})
	onBoth(t, "an ack for several is one for all up to it", func(t *testing.T, b transport) {
		place(t, b, "1", "2", "3")
		c := listen(t, b, "pay", "pay", 10)
		expect(t, c, false, "1")
		second := expect(t, c, false, "2")
		expect(t, c, false, "3")
		must(t, c.ack(second.Tag, true))
		c.close()
		expect(t, listen(t, b, "pay", "pay", 10), true, "3")
	})
	onBoth(t, "a tag that is not open closes the channel", func(t *testing.T, b transport) {
		place(t, b, "1", "2")
		c := listen(t, b, "pay", "pay", 1)
		d := expect(t, c, false, "1")
		must(t, c.ack(d.Tag, false))
		d = expect(t, c, false, "2")
		if err := c.ack(d.Tag+7, false); err != nil && !errors.Is(err, broker.ErrPrecond) {
			t.Error(err)
		}
		expect(t, listen(t, b, "pay", "pay", 1), true, "2")
	})
	onBoth(t, "a rejected message is a dead letter", func(t *testing.T, b transport) {
		place(t, b, "1")
		c := listen(t, b, "pay", "pay", 1)
		must(t, c.nack(expect(t, c, false, "1").Tag, false))
		d := expect(t, listen(t, b, "pay", "pay.dead", 1), false, "1")
		if got, want := death(d.Message), "pay rejected x1 by way of order.events [order.placed], first pay rejected"; got != want || d.Exchange != "pay.retry" || d.Key != "pay.dead" {
			t.Errorf("got %q by %s %s, want %q", got, d.Exchange, d.Key, want)
		}
	})
	onBoth(t, "a message in a wait queue comes back to its service, in time and to no other", func(t *testing.T, b transport) {
		m := message("1")
		m.UserID = "pay"
		for _, id := range []string{"1", "2"} {
			m.MessageID = id
			_, err := b.publish("pay", "pay.retry", "1s", m)
			must(t, err)
		}
		if n := b.ready("pay"); n != 0 {
			t.Errorf("%d came at once", n)
		}
		d := expect(t, listen(t, b, "pay", "pay", 10), false, "1", "2")
		if got, want := death(d.Message), "pay.retry.1s expired x1 by way of pay.retry [1s], first pay.retry.1s expired"; got != want || d.Exchange != "pay.retry" || d.Key != "pay" || d.UserID != "pay" {
			t.Errorf("got %q by %s %s as %s, want %q", got, d.Exchange, d.Key, d.UserID, want)
		}
		if n := b.ready("order"); n != 0 {
			t.Errorf("order has %d messages", n)
		}
	})
	onBoth(t, "a message that kills its consumers becomes a dead letter, and would go in a circle with what is written on it", func(t *testing.T, b transport) {
		place(t, b, "1")
		for range 201 {
			c := listen(t, b, "pay", "pay", 1)
			c.next()
			c.close()
		}
		c := listen(t, b, "pay", "pay.dead", 1)
		d := expect(t, c, false, "1")
		if got := death(d.Message); !strings.HasPrefix(got, "pay delivery_limit x1 ") {
			t.Errorf("got %q", got)
		}
		// Sent on its way back as it is, and a clean one after it.
		dirty, clean := d.Message, message("2")
		dirty.UserID, clean.UserID = "pay", "pay"
		for _, m := range []broker.Message{dirty, clean} {
			_, err := b.publish("pay", "pay.retry", "1s", m)
			must(t, err)
		}
		c = listen(t, b, "pay", "pay", 10)
		if b.circles() {
			expect(t, c, false, "1", "2")
			return
		}
		expect(t, c, false, "2")
		if n := b.ready("pay"); n != 0 {
			t.Errorf("%d more came back", n)
		}
	})
	onBoth(t, "10,000 messages over restarts all come", func(t *testing.T, b transport) {
		const all = 10_000
		var ids []string
		for i := range all {
			ids = append(ids, fmt.Sprint(i))
		}
		place(t, b, ids...)
		acked := map[string]bool{}
		for session := 1; len(acked) < all; session++ {
			c := listen(t, b, "pay", "pay", 200)
			for n := range min(1000, all-len(acked)) {
				d := c.next()
				if n%7 == 6 {
					continue // stays open until the end of the session
				}
				must(t, c.ack(d.Tag, false))
				acked[d.MessageID] = true
			}
			c.close() // acks are not confirmed: RabbitMQ may lose the last ones, and send these messages again
			if session%2 == 0 {
				b.restart()
			}
		}
	})
}

// memory is the broker in memory, with a clock that goes on when somebody waits.
type memory struct {
	t   *testing.T
	b   *broker.Broker
	now time.Time
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	m := &memory{t: t, now: time.Date(2026, 12, 6, 16, 0, 0, 0, time.UTC)}
	definitions, err := rabbit.Definitions("/", flows(), map[string]string{"pay": "a", "order": "b"})
	must(t, err)
	m.b, err = broker.New(definitions, func() time.Time { return m.now })
	must(t, err)
	return m
}

func (m *memory) publish(user, exchange, key string, message broker.Message) (bool, error) {
	o, err := m.b.Publish(user, exchange, key, message, true)
	return o.Returned, err
}

func (m *memory) consume(user, queue string, prefetch int) (consumer, error) {
	c, err := m.b.Consume(user, queue, prefetch)
	if err != nil {
		return nil, err
	}
	return &memoryConsumer{m, c}, nil
}

func (m *memory) ready(queue string) int {
	n, _ := m.b.Depth(queue)
	return n
}

func (m *memory) restart()      { m.b.Restart() }
func (m *memory) circles() bool { return false }

type memoryConsumer struct {
	*memory
	c *broker.Consumer
}

func (c *memoryConsumer) next() broker.Delivery {
	c.t.Helper()
	for {
		if d, ok := c.c.Next(); ok {
			return d
		}
		at, waits := c.b.NextExpiry()
		if !waits {
			c.t.Fatal("nothing comes any more")
		}
		c.now = at
		c.b.Advance()
	}
}

func (c *memoryConsumer) ack(tag uint64, multiple bool) error { return c.c.Ack(tag, multiple) }
func (c *memoryConsumer) nack(tag uint64, requeue bool) error { return c.c.Nack(tag, false, requeue) }
func (c *memoryConsumer) close()                              { c.c.Close() }

func TestAClonedBrokerHasItsOwnMessages(t *testing.T) {
	a := newMemory(t)
	place(t, a, "1")
	b := &memory{t: t, b: a.b.Clone(func() time.Time { return a.now })}
	place(t, b, "2")
	expect(t, listen(t, b, "pay", "pay", 10), false, "1", "2")
	if got := a.b.Messages("pay"); len(got) != 1 {
		t.Errorf("the first one has %d messages", len(got))
	}
	defer func() {
		if recover() == nil {
			t.Error("a broker with consumers was cloned")
		}
	}()
	b.b.Clone(time.Now)
}

func BenchmarkPublishConsumeAck(b *testing.B) {
	definitions, err := rabbit.Definitions("/", flows(), map[string]string{"pay": "a", "order": "b"})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	m, err := broker.New(definitions, func() time.Time { return now })
	if err != nil {
		b.Fatal(err)
	}
	c, err := m.Consume("pay", "pay", 10)
	if err != nil {
		b.Fatal(err)
	}
	order := message("1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Publish("order", "order.events", "order.placed", order, true); err != nil {
			b.Fatal(err)
		}
		d, ok := c.Next()
		if !ok {
			b.Fatal("nothing came")
		}
		if err := c.Ack(d.Tag, false); err != nil {
			b.Fatal(err)
		}
	}
}
