package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/rabbit"
)

// ends hears from the broker how orders end, by a queue of its own that takes nothing from anybody: it is exclusive, not
// durable, and gone with the connection. So an end is known when its event arrives, and nothing is polled.
type ends struct {
	conn *amqp.Connection
	gone chan *amqp.Error

	mu     sync.Mutex
	heard  map[string]marks           // what was heard of orders that have not ended, or that nobody expects yet
	awaits map[string]func(time.Time) // by order
}

// marks are the events that have been heard of an order.
type marks struct {
	completed, cancelled, settled bool
	at                            time.Time // of the last one
}

// ended is what order/view.go calls ended: completed, or cancelled and the payment known to be failed or given back.
func (m marks) ended() bool { return m.completed || m.cancelled && m.settled }

// Events that tell of an end, by the exchange of their service.
var shopEnds = map[string][]string{
	rabbit.EventsExchange("order"): {"order.completed", "order.cancelled"},
	rabbit.EventsExchange("pay"):   {"payment.failed", "payment.refunded"},
}

// hearEnds begins to hear. The keys of bindings are exchanges, their values routing keys; the order is in the correlation
// ID of a message and what happened in its routing key.
func hearEnds(url string, bindings map[string][]string) (_ *ends, err error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	channel, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return nil, err
	}
	for exchange, keys := range bindings {
		for _, key := range keys {
			if err := channel.QueueBind(queue.Name, key, exchange, false, nil); err != nil {
				return nil, err
			}
		}
	}
	deliveries, err := channel.Consume(queue.Name, "", true, true, false, false, nil)
	if err != nil {
		return nil, err
	}
	e := newEnds()
	e.conn, e.gone = conn, conn.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		for d := range deliveries {
			e.hear(d.CorrelationId, d.RoutingKey, time.Now())
		}
	}()
	return e, nil
}

func newEnds() *ends { return &ends{heard: map[string]marks{}, awaits: map[string]func(time.Time){}} }

// close ends the hearing.
func (e *ends) close() error { return e.conn.Close() }

// hear notes an event of an order, and tells who expects its end if this was it.
func (e *ends) hear(order, event string, at time.Time) {
	e.mu.Lock()
	m := e.heard[order]
	m.at = at
	switch event {
	case "order.completed":
		m.completed = true
	case "order.cancelled":
		m.cancelled = true
	default:
		m.settled = true
	}
	ended := e.awaits[order]
	if ended == nil || !m.ended() {
		e.heard[order], ended = m, nil
	} else {
		delete(e.heard, order)
		delete(e.awaits, order)
	}
	e.mu.Unlock()
	if ended != nil {
		ended(at)
	}
}

// expect calls ended when the order has ended: at once if that was heard before the order's own answer came. ended must
// not block.
func (e *ends) expect(order string, ended func(time.Time)) {
	e.mu.Lock()
	m := e.heard[order]
	if m.ended() {
		delete(e.heard, order)
	} else {
		e.awaits[order] = ended
	}
	e.mu.Unlock()
	if m.ended() {
		ended(m.at)
	}
}

// open is how many orders are expected to end and have not.
func (e *ends) open() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.awaits)
}

// drained waits until none is open, for as long as patience.
func (e *ends) drained(ctx context.Context, patience time.Duration) error {
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n := e.open()
		if n == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-e.gone:
			if err == nil {
				return errors.New("the broker ended the hearing of ends")
			}
			return fmt.Errorf("the broker ended the hearing of ends: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return fmt.Errorf("%d orders have not ended after %v", n, patience)
		}
	}
}
