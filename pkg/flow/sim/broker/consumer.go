package broker

import (
	"cmp"
	"fmt"
	"slices"
)

// Delivery is a message in the hands of a consumer.
type Delivery struct {
	Tag uint64
	// Redelivered: it has been in a consumer's hands before. The header x-delivery-count says how often it came back.
	Redelivered bool
	Message
}

// Consumer is a channel with one consumer and manual acks.
type Consumer struct {
	broker   *Broker
	queue    int
	prefetch int
	last     uint64 // tag
	open     []held // by tag
	closed   bool
}

type held struct {
	tag uint64
	entry
}

// Consume opens a channel on a queue with a limit of unacked messages, from 1 on.
func (b *Broker) Consume(user, queue string, prefetch int) (*Consumer, error) {
	i, ok := b.index[queue]
	switch {
	case !b.mayRead(user, queue):
		return nil, fmt.Errorf("%w: %s may not read %s", ErrRefused, user, queue)
	case !ok:
		return nil, fmt.Errorf("%w: queue %s", ErrNotFound, queue)
	case b.topology.queues[i].stream:
		return nil, errStream
	case prefetch < 1:
		return nil, errUnlimited
	}
	c := &Consumer{broker: b, queue: i, prefetch: prefetch}
	b.consumers = append(b.consumers, c)
	return c, nil
}

// Ready tells whether Next has something.
func (c *Consumer) Ready() bool {
	return !c.closed && len(c.open) < c.prefetch && len(c.broker.queues[c.queue].ready) > 0
}

// Next takes the next message; false when there is none, or when the prefetch is used up.
func (c *Consumer) Next() (Delivery, bool) {
	if !c.Ready() {
		return Delivery{}, false
	}
	q := &c.broker.queues[c.queue]
	e := q.ready[0]
	q.ready = q.ready[1:]
	q.unacked++
	c.last++
	c.open = append(c.open, held{c.last, e})
	d := Delivery{Tag: c.last, Redelivered: e.returned > 0, Message: e.Message}
	if d.Redelivered {
		d.Headers = withRoom(d.Headers)
		d.Headers["x-delivery-count"] = int64(e.returned)
	}
	return d, true
}

// Ack is done with a message, or with all up to it. A tag that is not open closes the channel, as with the real broker.
func (c *Consumer) Ack(tag uint64, multiple bool) error {
	_, err := c.settle(tag, multiple)
	return err
}

// Nack gives a message back to the head of its queue, or to the dead letters; or all up to it. What is given back counts
// as a failed delivery, as with RabbitMQ 3 and unlike with RabbitMQ 4.
func (c *Consumer) Nack(tag uint64, multiple, requeue bool) error {
	settled, err := c.settle(tag, multiple)
	if err != nil {
		return err
	}
	if requeue {
		c.giveBack(settled)
		return nil
	}
	for _, h := range settled {
		c.broker.bury(c.queue, h.entry, rejected)
	}
	return nil
}

// settle takes messages out of the consumer's hands.
func (c *Consumer) settle(tag uint64, multiple bool) ([]held, error) {
	if c.closed {
		return nil, ErrClosed
	}
	at, ok := slices.BinarySearchFunc(c.open, tag, func(h held, tag uint64) int { return cmp.Compare(h.tag, tag) })
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%w: unknown delivery tag %d", ErrPrecond, tag)
	}
	first := at
	if multiple {
		first = 0
	}
	settled := slices.Clone(c.open[first : at+1])
	c.open = slices.Delete(c.open, first, at+1)
	c.broker.queues[c.queue].unacked -= len(settled)
	return settled, nil
}

// giveBack puts messages at the head of their queue in their old order; those that came back too often are dead letters.
func (c *Consumer) giveBack(back []held) {
	limit := c.broker.topology.queues[c.queue].deliveryLimit
	var ready []entry
	for _, h := range back {
		if h.returned++; limit > 0 && h.returned > limit {
			c.broker.bury(c.queue, h.entry, deliveryLimit)
			continue
		}
		ready = append(ready, h.entry)
	}
	q := &c.broker.queues[c.queue]
	q.ready = append(ready, q.ready...)
}

// Close ends the channel: what was not acked goes back to the queue. It may be called again.
func (c *Consumer) Close() {
	if c.closed {
		return
	}
	c.closed = true
	c.broker.queues[c.queue].unacked -= len(c.open)
	c.giveBack(c.open)
	c.open = nil
	c.broker.consumers = slices.DeleteFunc(c.broker.consumers, func(o *Consumer) bool { return o == c })
}
