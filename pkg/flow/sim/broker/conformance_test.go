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
	"hotchoc/pkg/internal/servers"
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
	// restart ends all connections from the broker's side: with RabbitMQ, through its management API.
	restart()
	now() time.Time
	// four tells whether it is RabbitMQ 4. In three things it differs from RabbitMQ 3, and the one in memory does what
	// RabbitMQ 3 does, since more can go wrong with it:
	//   - It does not believe what a client says that happened to a message; RabbitMQ 3 counts on from there, and keeps a
	//     message for ever that it thinks goes in a circle.
	//   - A message may be nacked back to its queue for ever; with RabbitMQ 3 that counts as a failed delivery.
	//   - The failed deliveries go with a message to the dead letters, where it is marked as redelivered.
	four() bool
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

// tester is a user for what the platform does not have.
const tester = "tester"

// extras are what the cases need beside the topology of flows, as lists of a definitions document: exchanges with
// alternates, and who may use them.
func extras(vhost string) map[string][]map[string]any {
	type object = map[string]any
	exchange := func(name, kind, alternate string) object {
		return object{"name": name, "vhost": vhost, "type": kind, "durable": true, "auto_delete": false, "arguments": object{"alternate-exchange": alternate}}
	}
	bind := func(source, key, queue string) object {
		return object{"source": source, "vhost": vhost, "destination": queue, "destination_type": "queue", "routing_key": key, "arguments": object{}}
	}
	return map[string][]map[string]any{
		"users":       {{"name": tester, "password": servers.Password(tester), "tags": ""}},
		"permissions": {{"user": tester, "vhost": vhost, "configure": "^$", "write": "^(wide|narrow|blind|gone)$", "read": "^(caught|gone)$"}},
		"queues":      {{"name": "caught", "vhost": vhost, "durable": true, "auto_delete": false, "arguments": object{"x-queue-type": "quorum", "x-delivery-limit": 200}}},
		"exchanges": {
			exchange("wide", "topic", "narrow"), exchange("narrow", "direct", "net"), exchange("net", "fanout", "missing"),
			exchange("blind", "direct", "blinder"), exchange("blinder", "fanout", "blind"),
		},
		"bindings": {bind("wide", "a.*.#", "pay"), bind("narrow", "b", "pay"), bind("net", "whatever", "caught")},
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

// failures is how often a message came back from consumers, as it says itself.
func failures(d broker.Delivery) any { return d.Headers["x-delivery-count"] }

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
	onBoth(t, "what no queue is bound for goes to the alternate exchange as it is, and is returned when nobody there wants it", func(t *testing.T, b transport) {
		m := message("1")
		m.UserID = tester
		for _, c := range []struct {
			exchange, key string
			want          string // the queue
		}{
			{"wide", "a.b", "pay"},    // bound to the first
			{"wide", "a.b.c", "pay"},  // also
			{"wide", "b", "pay"},      // to its alternate
			{"wide", "a", "caught"},   // to the alternate of that
			{"narrow", "c", "caught"}, // whatever the key
			{"blind", "a", ""},        // two that are each other's
		} {
			returned, err := b.publish(tester, c.exchange, c.key, m)
			must(t, err)
			if returned != (c.want == "") {
				t.Errorf("%s to %s: returned %t", c.key, c.exchange, returned)
			}
			if c.want == "" {
				continue
			}
			reader := map[string]string{"pay": "pay", "caught": tester}[c.want]
			in := listen(t, b, reader, c.want, 1)
			d := expect(t, in, false, "1")
			if d.Exchange != c.exchange || d.Key != c.key {
				t.Errorf("%s to %s came as %s to %s", c.key, c.exchange, d.Key, d.Exchange)
			}
			must(t, in.ack(d.Tag, false))
			in.close()
		}
	})
	onBoth(t, "who may not write is refused", func(t *testing.T, b transport) {
		for _, c := range []struct {
			user, exchange, key, as string
			want                    error
		}{
			{"pay", "nonsense", "order.placed", "pay", broker.ErrRefused},
			{tester, "gone", "a", tester, broker.ErrNotFound},
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
		for _, queue := range []string{"pay", "pay.dead", "order.retry.1s", "history", "nonsense"} {
			if _, err := b.consume("order", queue, 1); !errors.Is(err, broker.ErrRefused) {
				t.Errorf("order reads %s: %v", queue, err)
			}
		}
		if _, err := b.consume(tester, "gone", 1); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a queue that is not there: %v", err)
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
	onBoth(t, "what was not acked comes back in order when the channel closes, marked and counted", func(t *testing.T, b transport) {
		place(t, b, "1", "2", "3", "4")
		c := listen(t, b, "pay", "pay", 3)
		if d := expect(t, c, false, "1", "2", "3"); failures(d) != nil {
			t.Errorf("the first time it came back %v times", failures(d))
		}
		for times := range int64(2) {
			c.close()
			c = listen(t, b, "pay", "pay", 3)
			if d := expect(t, c, true, "1", "2", "3"); failures(d) != times+1 {
				t.Errorf("it came back %v times, want %d", failures(d), times+1)
			}
		}
		expect(t, listen(t, b, "pay", "pay", 1), false, "4")
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
	onBoth(t, "a message that is given back more often than its limit is a dead letter, with RabbitMQ 4 never", func(t *testing.T, b transport) {
		place(t, b, "1")
		c := listen(t, b, "pay", "pay", 1)
		must(t, c.nack(expect(t, c, false, "1").Tag, true))
		for range 200 {
			must(t, c.nack(expect(t, c, true, "1").Tag, true))
		}
		if b.four() {
			expect(t, c, true, "1")
			return
		}
		d := expect(t, listen(t, b, "pay", "pay.dead", 1), false, "1")
		if got := death(d.Message); !strings.HasPrefix(got, "pay delivery_limit x1 ") {
			t.Errorf("got %q", got)
		}
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
		// The real client does not wait for what the broker says to an ack.
		if err := c.ack(d.Tag+7, false); err != nil && !errors.Is(err, broker.ErrPrecond) {
			t.Error(err)
		}
		c = listen(t, b, "pay", "pay", 2)
		d = expect(t, c, true, "2")
		place(t, b, "3")
		expect(t, c, false, "3")
		must(t, c.ack(d.Tag, false))
		if err := c.ack(d.Tag, false); err != nil && !errors.Is(err, broker.ErrPrecond) {
			t.Error(err) // it was open once
		}
		expect(t, listen(t, b, "pay", "pay", 1), true, "3")
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
	onBoth(t, "a dead letter that is sent back with what is written on it is counted on, with RabbitMQ 4 anew", func(t *testing.T, b transport) {
		place(t, b, "1")
		in := listen(t, b, "pay", "pay", 1)
		must(t, in.nack(expect(t, in, false, "1").Tag, false))
		dead := listen(t, b, "pay", "pay.dead", 1)
		sent := expect(t, dead, false, "1")
		m := sent.Message
		m.UserID = "pay"
		_, err := b.publish("pay", "pay.retry", "pay", m)
		must(t, err)
		must(t, dead.ack(sent.Tag, false))
		must(t, in.nack(expect(t, in, false, "1").Tag, false))
		want := "pay rejected x2 by way of order.events [order.placed], first pay rejected"
		if b.four() {
			want = "pay rejected x1 by way of pay.retry [pay], first pay rejected"
		}
		if got := death(expect(t, dead, false, "1").Message); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	onBoth(t, "a message in a wait queue comes back to its service, to no other, not before its time, and waits for none that waits longer", func(t *testing.T, b transport) {
		m, begin := message("late"), b.now()
		m.UserID = "pay"
		_, err := b.publish("pay", "pay.retry", "10s", m)
		must(t, err)
		for _, id := range []string{"1", "2"} {
			m.MessageID = id
			_, err := b.publish("pay", "pay.retry", "1s", m)
			must(t, err)
		}
		if n := b.ready("pay"); n != 0 {
			t.Errorf("%d came at once", n)
		}
		d := expect(t, listen(t, b, "pay", "pay", 10), false, "1", "2")
		if waited := b.now().Sub(begin); waited < time.Second {
			t.Errorf("they came after %v", waited)
		}
		if got, want := death(d.Message), "pay.retry.1s expired x1 by way of pay.retry [1s], first pay.retry.1s expired"; got != want || d.Exchange != "pay.retry" || d.Key != "pay" || d.UserID != "pay" {
			t.Errorf("got %q by %s %s as %s, want %q", got, d.Exchange, d.Key, d.UserID, want)
		}
		for queue, want := range map[string]int{"pay": 0, "order": 0, "pay.retry.10s": 1} {
			if n := b.ready(queue); n != want {
				t.Errorf("%s has %d messages, want %d", queue, n, want)
			}
		}
	})
	onBoth(t, "a message that kills its consumers becomes a dead letter, and would go in a circle with what is written on it", func(t *testing.T, b transport) {
		place(t, b, "1")
		for range 201 {
			c := listen(t, b, "pay", "pay", 1)
			c.next()
			c.close()
		}
		d := expect(t, listen(t, b, "pay", "pay.dead", 1), b.four(), "1")
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
		c := listen(t, b, "pay", "pay", 10)
		if b.four() {
			expect(t, c, false, "1", "2")
			return
		}
		expect(t, c, false, "2")
		if n := b.ready("pay"); n != 0 {
			t.Errorf("%d more came back", n)
		}
	})
	onBoth(t, "of 10,000 messages over restarts none is lost, and none comes twice without a mark", func(t *testing.T, b transport) {
		const all, atOnce = 10_000, 1000
		acked := map[string]bool{}
		for session, placed := 0, 0; len(acked) < all; session++ {
			var ids []string
			for ; len(ids) < atOnce && placed < all; placed++ {
				ids = append(ids, fmt.Sprint(placed))
			}
			place(t, b, ids...)
			c := listen(t, b, "pay", "pay", 200)
			for n := range min(atOnce, all-len(acked)) {
				d := c.next()
				if acked[d.MessageID] && !d.Redelivered {
					t.Errorf("%s came again without a mark", d.MessageID)
				}
				if n%7 == 6 && placed < all {
					continue // stays open until the end of the session
				}
				must(t, c.ack(d.Tag, false))
				acked[d.MessageID] = true
			}
			// Acks are not confirmed: RabbitMQ may lose the last ones, and hand these messages over again.
			if session%4 == 2 {
				b.restart()
			} else {
				c.close()
			}
		}
		if n := b.ready("pay.dead"); n != 0 {
			t.Errorf("%d are dead letters", n)
		}
	})
}
