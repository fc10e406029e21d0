package broker_test

import (
	"encoding/json"
	"testing"
	"time"

	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/rabbit"
)

// memory is the broker in memory, with a clock that goes on when somebody waits.
type memory struct {
	t     *testing.T
	b     *broker.Broker
	clock time.Time
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	m := &memory{t: t, clock: time.Date(2026, 12, 6, 16, 0, 0, 0, time.UTC)}
	var all map[string][]map[string]any
	must(t, json.Unmarshal(definitions(t), &all))
	for list, more := range extras("/") {
		all[list] = append(all[list], more...)
	}
	document, err := json.Marshal(all)
	must(t, err)
	m.b, err = broker.New(document, m.now)
	must(t, err)
	return m
}

func definitions(t testing.TB) []byte {
	t.Helper()
	document, err := rabbit.Definitions("/", flows(), map[string]string{"pay": "a", "order": "b"})
	if err != nil {
		t.Fatal(err)
	}
	return document
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

func (m *memory) restart()       { m.b.Restart() }
func (m *memory) now() time.Time { return m.clock }
func (m *memory) four() bool     { return false }

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
		c.clock = at
		c.b.Advance()
	}
}

func (c *memoryConsumer) ack(tag uint64, multiple bool) error { return c.c.Ack(tag, multiple) }
func (c *memoryConsumer) nack(tag uint64, requeue bool) error { return c.c.Nack(tag, false, requeue) }
func (c *memoryConsumer) close()                              { c.c.Close() }

func TestAClonedBrokerHasItsOwnMessages(t *testing.T) {
	a := newMemory(t)
	place(t, a, "1")
	b := &memory{t: t, b: a.b.Clone(a.now)}
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

func TestWhatExpiredWhileNobodyLookedArrivesInTheOrderInWhichItExpired(t *testing.T) {
	m := newMemory(t)
	one := message("first")
	one.UserID = "pay"
	begin := m.clock
	_, err := m.publish("pay", "pay.retry", "10s", one)
	must(t, err)
	m.clock = begin.Add(9500 * time.Millisecond)
	one.MessageID = "second"
	_, err = m.publish("pay", "pay.retry", "1s", one)
	must(t, err)
	if at, waits := m.b.NextExpiry(); !waits || !at.Equal(begin.Add(10*time.Second)) {
		t.Errorf("the next expires at %v, %t", at, waits)
	}
	m.clock = begin.Add(time.Hour)
	m.b.Advance()
	expect(t, listen(t, m, "pay", "pay", 10), false, "first", "second")
}

func BenchmarkPublishConsumeAck(b *testing.B) {
	now := time.Now()
	m, err := broker.New(definitions(b), func() time.Time { return now })
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
