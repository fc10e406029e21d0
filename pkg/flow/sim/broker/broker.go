// Package broker is RabbitMQ in memory, as far as this platform uses it, for the simulator.
//
// It is loaded from the same definitions document as the real broker (rabbit.Definitions) and refuses what it does not know
// in one, so that it cannot be believed about something that it does not do. What it does was compared with the real broker:
// the conformance suite beside runs on both.
//
// It is deterministic and has no clock, no goroutine and no lock of its own; it may be used by one goroutine at a time.
// Confirms are the return of Publish: what a network does to them is the simulator's business.
package broker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"hotchoc/pkg/rabbit"
)

// Message is a message as a broker has it.
type Message = rabbit.Wire

// Outcome is what a publisher is told of a message that was confirmed.
type Outcome struct {
	// Returned: it was mandatory, and no queue is bound for it.
	Returned bool
}

// Errors for which the real broker closes the channel. Nothing was done.
var (
	ErrNotFound  = errors.New("not found")           // 404: told only to those who may use what has this name
	ErrRefused   = errors.New("access refused")      // 403
	ErrPrecond   = errors.New("precondition failed") // 406: a user ID that is not the publisher's, a tag that is not open
	ErrClosed    = errors.New("the channel is closed")
	errUnlimited = errors.New("the prefetch must be from 1 on")
	errStream    = errors.New("the broker in memory has no consumers of streams")
)

// Broker has the exchanges and queues of one definitions document.
type Broker struct {
	*topology
	now       func() time.Time
	queues    []queue // as in topology.queues
	consumers []*Consumer
}

// queue is what is in a queue. A stream is a queue that nothing leaves.
type queue struct {
	ready   []entry
	unacked int
	// stuck are dead letters that have nowhere to go: at-least-once dead-lettering keeps them.
	stuck []entry
}

type entry struct {
	Message
	since    time.Time // in this queue
	returned int       // how often it came back from a consumer
}

// New makes a broker from a definitions document. The error says what in it is not understood.
func New(definitions []byte, now func() time.Time) (*Broker, error) {
	t, err := parse(definitions)
	if err != nil {
		return nil, fmt.Errorf("the broker in memory cannot be made from these definitions: %w", err)
	}
	return &Broker{topology: t, now: now, queues: make([]queue, len(t.queues))}, nil
}

// Clone makes a broker with the same messages, which shares nothing that changes. There must be no consumers: they would
// belong to both.
func (b *Broker) Clone(now func() time.Time) *Broker {
	if len(b.consumers) > 0 {
		panic("broker: a broker with consumers cannot be cloned")
	}
	c := &Broker{topology: b.topology, now: now, queues: make([]queue, len(b.queues))}
	for i, q := range b.queues {
		c.queues[i] = queue{ready: slices.Clone(q.ready), stuck: slices.Clone(q.stuck)}
	}
	return c
}

// Publish is what a publisher with confirms and the mandatory flag does. When it returns without an error, the message is
// confirmed. A message is not copied: nobody may change its headers or its body any more.
func (b *Broker) Publish(user, exchange, key string, m Message, mandatory bool) (Outcome, error) {
	route, err := b.route(user, exchange, key)
	switch {
	case err != nil:
		return Outcome{}, err
	case m.UserID != "" && m.UserID != user:
		return Outcome{}, fmt.Errorf("%w: the user ID is %q, the user is %q", ErrPrecond, m.UserID, user)
	}
	m.Exchange, m.Key = exchange, key
	for _, i := range route {
		b.put(i, m)
	}
	return Outcome{Returned: mandatory && len(route) == 0}, nil
}

func (b *Broker) put(i int, m Message) {
	q := &b.queues[i]
	q.ready = append(q.ready, entry{Message: m, since: b.now()})
}

// Why messages are dead-lettered, in the broker's words.
const (
	expired       = "expired"
	rejected      = "rejected"
	deliveryLimit = "delivery_limit"
)

// bury dead-letters a message of a queue: through the exchange that the queue names, or into nothing if it names none.
func (b *Broker) bury(i int, e entry, reason string) {
	of := &b.topology.queues[i]
	if of.deadExchange == "" {
		return
	}
	m := e.Message
	m.Headers = died(m, of.name, reason, b.now())
	m.Exchange, m.Key = of.deadExchange, of.deadKey
	moved := false
	for _, to := range b.routed(m.Exchange, m.Key) {
		if reason == rejected || !cycles(m.Headers, b.topology.queues[to].name) {
			b.put(to, m)
			moved = true
		}
	}
	if !moved {
		b.queues[i].stuck = append(b.queues[i].stuck, e)
	}
}

// died notes a death in the headers, the latest first. A death like an earlier one is that one, once more. RabbitMQ 3
// counts on from what a client has published, RabbitMQ 4 does not; here it is counted on.
func died(m Message, queue, reason string, at time.Time) map[string]any {
	headers := withRoom(m.Headers)
	latest := rabbit.Table{
		"queue": queue, "reason": reason, "count": int64(1), "exchange": m.Exchange, "routing-keys": []any{m.Key}, "time": at.Truncate(time.Second),
	}
	earlier, _ := headers["x-death"].([]any)
	deaths := []any{nil}
	for _, d := range earlier {
		t, ok := d.(rabbit.Table)
		if !ok || t["queue"] != queue || t["reason"] != reason {
			deaths = append(deaths, d)
			continue
		}
		n, _ := t["count"].(int64)
		latest = maps.Clone(t)
		latest["count"] = n + 1
	}
	deaths[0] = latest
	headers["x-death"] = deaths
	if headers["x-first-death-queue"] == nil {
		headers["x-first-death-queue"], headers["x-first-death-reason"], headers["x-first-death-exchange"] = queue, reason, m.Exchange
	}
	return headers
}

// withRoom makes headers that may be written to: those of a message are shared.
func withRoom(headers map[string]any) map[string]any {
	if headers == nil {
		return map[string]any{}
	}
	return maps.Clone(headers)
}

// cycles tells whether a message has been dead-lettered in the queue it would now come to, without a consumer's reject
// since. RabbitMQ ends such circles; with at-least-once dead-lettering the message waits for ever.
func cycles(headers map[string]any, queue string) bool {
	deaths, _ := headers["x-death"].([]any)
	for _, d := range deaths {
		t, _ := d.(rabbit.Table)
		if t["reason"] == rejected {
			return false
		}
		if t["queue"] == queue {
			return true
		}
	}
	return false
}

// Advance moves what has expired by now, in the order in which it expired.
func (b *Broker) Advance() {
	for {
		i, at, waits := b.earliest()
		if !waits || at.After(b.now()) {
			return
		}
		q := &b.queues[i]
		e := q.ready[0]
		q.ready = q.ready[1:]
		b.bury(i, e, expired)
	}
}

// NextExpiry tells when Advance has something to do; false when nothing waits.
func (b *Broker) NextExpiry() (next time.Time, waits bool) {
	_, next, waits = b.earliest()
	return next, waits
}

// earliest is the queue whose head expires next. All messages of a queue have the same time to live.
func (b *Broker) earliest() (earliest int, next time.Time, waits bool) {
	for i := range b.queues {
		ttl, q := b.topology.queues[i].ttl, &b.queues[i]
		if ttl == 0 || len(q.ready) == 0 {
			continue
		}
		if at := q.ready[0].since.Add(ttl); !waits || at.Before(next) {
			earliest, next, waits = i, at, true
		}
	}
	return earliest, next, waits
}

// Restart is the end of all channels. Every message and every queue is durable.
func (b *Broker) Restart() {
	for len(b.consumers) > 0 {
		b.consumers[0].Close()
	}
}

// Depth is how many messages of a queue are ready or stuck, and how many are with consumers. A queue that does not exist
// has none.
func (b *Broker) Depth(queue string) (ready, unacked int) {
	if i, ok := b.index[queue]; ok {
		q := &b.queues[i]
		return len(q.ready) + len(q.stuck), q.unacked
	}
	return 0, 0
}

// Messages are those of a queue that are ready or stuck, not those with consumers.
func (b *Broker) Messages(queue string) []Message {
	var all []Message
	if i, ok := b.index[queue]; ok {
		for _, e := range b.queues[i].ready {
			all = append(all, e.Message)
		}
		for _, e := range b.queues[i].stuck {
			all = append(all, e.Message)
		}
	}
	return all
}
