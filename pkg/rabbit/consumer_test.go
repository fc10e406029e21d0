package rabbit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/store"
)

// fast is a retry policy for tests.
var fast = flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}}

func TestAMessageIsAckedAfterItsCommit(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	s.consuming()
	open := s.close()
	defer open()
	records := place(t, b, 3)
	servers.Eventually(t, func() error {
		if s.begun() == 0 {
			return errors.New("nothing has arrived")
		}
		return nil
	})
	if n := s.fate("ack"); n != 0 {
		t.Errorf("%d messages are acked before their commit", n)
	}
	open()
	s.handled(3)
	s.once(records)
	s.settledAll(b)
	if s.fate("ack") != 3 || s.sessions() != 1 {
		t.Errorf("acked %d in %d sessions", s.fate("ack"), s.sessions())
	}
}

// TestMessagesAreSettledInWhateverOrderTheyAreDone lets every third message wait for a confirm, or for nothing, or for an
// answer from outside, so that acks overtake each other.
func TestMessagesAreSettledInWhateverOrderTheyAreDone(t *testing.T) {
	t.Parallel()
	ask := func(_ context.Context, c flow.Call, placed *orderv1.OrderPlaced) (bool, error) {
		// Some calls take as long as five others.
		if c.ID[15]%3 == 0 {
			time.Sleep(time.Duration(c.ID[14]%16) * time.Millisecond)
		}
		return true, nil
	}
	tried := sync.Map{}
	charge := func(_ *payment, placed *orderv1.OrderPlaced, _ bool) flow.Outcome {
		id := uuid.MustParse(placed.OrderId)
		if _, again := tried.LoadOrStore(placed.OrderId, true); !again && id[15]%4 == 0 {
			return flow.NotYet("for the test")
		}
		return captured(placed)
	}
	f := flow.New("pay", payments, flow.Ask("charge", payments, ask, charge).Emits(&payv1.PaymentCaptured{}).Retry(fast))
	b := servers.NewBroker(t, order, f)
	s := start(t, b.As("pay"), f, rabbit.Config{Prefetch: 40})
	s.consuming()
	records := place(t, b, 600)
	s.handled(600)
	s.once(records)
	s.settledAll(b)
	if s.sessions() != 1 || s.repeated != 0 {
		t.Errorf("%d sessions, %d duplicates: an ack was refused", s.sessions(), s.repeated)
	}
	if s.fate("retry") == 0 {
		t.Error("nothing was tried again: the test shows nothing")
	}
	if got, want := s.fate("ack")+s.fate("retry"), 600+len(s.tried()); got != want {
		t.Errorf("%d fates were told for %d deliveries", got, want)
	}
}

// poison are messages that nobody can handle, with what is said of each.
func poison() map[string]struct {
	message amqp.Publishing
	says    string
} {
	type bad = struct {
		message amqp.Publishing
		says    string
	}
	with := func(change func(*amqp.Publishing), says string) bad {
		m := onTheWire(placed("ada"))
		m.Headers = maps.Clone(m.Headers)
		change(&m)
		return bad{m, says}
	}
	return map[string]bad{
		"a body that is not JSON":       with(func(m *amqp.Publishing) { m.Body = []byte("\x00\xff{") }, "order.placed"),
		"an empty body":                 with(func(m *amqp.Publishing) { m.Body = nil }, "order.placed"),
		"half a body":                   with(func(m *amqp.Publishing) { m.Body = m.Body[:len(m.Body)/2] }, "order.placed"),
		"a field of another type":       with(func(m *amqp.Publishing) { m.Body = []byte(`{"order_id":7}`) }, "order.placed"),
		"a key that is empty":           with(func(m *amqp.Publishing) { m.Body = []byte(`{"customer":"ada"}`) }, "order_id"),
		"deep JSON":                     with(func(m *amqp.Publishing) { m.Body = bytes.Repeat([]byte("["), 100_000) }, "order.placed"),
		"a very long value":             with(func(m *amqp.Publishing) { m.Body = []byte(`{"order_id":` + strings.Repeat("7", 200_000) + `}`) }, "order.placed"),
		"a body over the limit":         with(func(m *amqp.Publishing) { m.Body = append(m.Body, bytes.Repeat([]byte(" "), 256<<10)...) }, "more than 262144"),
		"an unknown type":               with(func(m *amqp.Publishing) { m.Type = "order.eaten" }, "not a declared event type"),
		"no type":                       with(func(m *amqp.Publishing) { m.Type = "" }, "no type"),
		"a type that is no text":        with(func(m *amqp.Publishing) { m.Type = "\x00\xff\xfe" }, "not a declared event type"),
		"a type that is not heard":      with(func(m *amqp.Publishing) { m.Type = "order.completed" }, "does not hear"),
		"a type of another service":     with(func(m *amqp.Publishing) { m.Type = "payment.captured" }, "payment.captured"),
		"no headers":                    with(func(m *amqp.Publishing) { m.Headers = nil }, "schema is missing"),
		"no schema":                     with(func(m *amqp.Publishing) { delete(m.Headers, "schema") }, "schema is missing"),
		"no hops":                       with(func(m *amqp.Publishing) { delete(m.Headers, "hops") }, "hops is missing"),
		"no actor":                      with(func(m *amqp.Publishing) { delete(m.Headers, "actor") }, "actor is missing"),
		"no causation":                  with(func(m *amqp.Publishing) { delete(m.Headers, "cloudEvents_causationid") }, "cloudEvents_causationid"),
		"no time":                       with(func(m *amqp.Publishing) { delete(m.Headers, "cloudEvents_time") }, "cloudEvents_time"),
		"a time that is none":           with(func(m *amqp.Publishing) { m.Headers["cloudEvents_time"] = "yesterday" }, "cloudEvents_time"),
		"a schema that is a text":       with(func(m *amqp.Publishing) { m.Headers["schema"] = "1" }, "schema is missing or not"),
		"a schema of the future":        with(func(m *amqp.Publishing) { m.Headers["schema"] = int64(99) }, "schema version 99"),
		"a sequence that is no number":  with(func(m *amqp.Publishing) { m.Headers["cloudEvents_sequence"] = "one" }, "cloudEvents_sequence"),
		"a stream that is not its own":  with(func(m *amqp.Publishing) { m.Headers["cloudEvents_subject"] = "order/other" }, "belong to"),
		"no stream":                     with(func(m *amqp.Publishing) { delete(m.Headers, "cloudEvents_subject") }, "belong to"),
		"a loop":                        with(func(m *amqp.Publishing) { m.Headers["hops"] = int64(event.MaxHops + 1) }, "loop"),
		"an attempt that is a text":     with(func(m *amqp.Publishing) { m.Headers["attempt"] = "1" }, "attempt"),
		"no message ID":                 with(func(m *amqp.Publishing) { m.MessageId = "" }, "message ID"),
		"a message ID that is none":     with(func(m *amqp.Publishing) { m.MessageId = "7" }, "message ID"),
		"a message ID of zeros":         with(func(m *amqp.Publishing) { m.MessageId = uuid.Nil.String() }, "no message ID"),
		"no correlation ID":             with(func(m *amqp.Publishing) { m.CorrelationId = "" }, "correlation ID"),
		"a correlation ID of zeros":     with(func(m *amqp.Publishing) { m.CorrelationId = uuid.Nil.String() }, "no correlation ID"),
		"another sender than its user":  with(func(m *amqp.Publishing) { m.AppId = "pay" }, `it says it is from "pay", but the user "order"`),
		"no sender":                     with(func(m *amqp.Publishing) { m.AppId = "" }, `it says it is from ""`),
		"nobody's name on it":           with(func(m *amqp.Publishing) { m.UserId = "" }, `but the user "" published it`),
		"headers that fill a frame":     with(oneLargeHeader, "the headers have"),
		"an actor of many names":        with(func(m *amqp.Publishing) { m.Headers["actor"] = strings.Repeat("ada", 10_000) }, "the headers have"),
		"many headers that fill it":     with(manyHeaders, "the headers have"),
		"strange kinds of headers":      with(strangeHeaders, "not a declared event type"),
		"everything missing, all named": {amqp.Publishing{Body: []byte("hello")}, "message ID"},
	}
}

// room is how much of a frame the headers of a message leave, but for a hundred bytes.
func room(m *amqp.Publishing) int {
	const frame, around = 131_072, 8 + 14 + 4
	taken := 1 + 8
	for _, property := range []string{m.ContentType, m.MessageId, m.Type, m.CorrelationId, m.AppId, m.UserId} {
		taken += 1 + len(property)
	}
	for k, v := range m.Headers {
		taken += 1 + len(k) + 1 + 8
		if text, ok := v.(string); ok {
			taken += len(text) - 4
		}
	}
	return frame - around - taken - 100
}

func oneLargeHeader(m *amqp.Publishing) {
	m.Headers["junk"] = strings.Repeat("x", room(m)-10)
}

func manyHeaders(m *amqp.Publishing) {
	for i := range room(m) / 64 {
		m.Headers[fmt.Sprintf("junk%04d", i)] = strings.Repeat("x", 50)
	}
}

func strangeHeaders(m *amqp.Publishing) {
	m.Type = "order.eaten"
	m.Headers["table"] = amqp.Table{"a": []any{int32(1), nil, 1.5, []byte{1}}, "t": time.Unix(1, 0)}
	m.Headers["x-death"] = "it was I"
	m.Headers["dead_reason"] = "no"
}

// TestPoisonIsSetAsideAtOnceAndItsNeighboursAreHandled sends each kind of poison between good messages.
func TestPoisonIsSetAsideAtOnceAndItsNeighboursAreHandled(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	s.consuming()
	from := newSender(t, b.As("order"))
	kinds := poison()
	kind := map[string]string{}
	byID := map[string]string{} // those whose headers are too large to be kept
	var good []event.Record
	for name, bad := range kinds {
		if bad.message.Headers == nil {
			bad.message.Headers = amqp.Table{}
		}
		bad.message.Headers["test"] = name
		kind[name], byID[bad.message.MessageId] = bad.says, name
		r := placed("ada")
		good = append(good, r)
		from.send("order.events", "order.placed", bad.message, onTheWire(r))
	}
	// By another user, who has the right to: an administrator with a forged sender.
	admin := newSender(t, b.URL)
	forged := onTheWire(placed("eve"))
	forged.UserId, forged.Headers["test"] = "", "forged"
	kind["forged"] = `but the user "" published it`
	admin.send("order.events", "order.placed", forged)

	s.handled(len(good))
	s.once(good)
	for _, d := range b.Take(t, "pay.dead", len(kind)) {
		name, marked := d.Headers["test"].(string)
		if !marked {
			name = byID[d.MessageId]
		}
		says, there := kind[name]
		if !there {
			t.Errorf("%q is dead twice, or nobody sent it: %v", name, d.Headers["dead_reason"])
			continue
		}
		delete(kind, name)
		reason, _ := d.Headers["dead_reason"].(string)
		if !strings.Contains(reason, says) || len(reason) > 4096 {
			t.Errorf("%s: the reason is %.200q (%d bytes), want %q", name, reason, len(reason), says)
		}
		if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(d.Headers["dead_at"])); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: dead at %v", name, d.Headers["dead_at"])
		}
		sent := kinds[name].message
		if name != "forged" && (d.MessageId != sent.MessageId || d.Type != sent.Type || d.CorrelationId != sent.CorrelationId || d.AppId != sent.AppId || !bytes.Equal(d.Body, sent.Body)) {
			t.Errorf("%s is not what it was: %+v", name, d)
		}
		if d.UserId != "pay" || d.Headers["first_exchange"] != "order.events" || d.Headers["first_key"] != "order.placed" || d.Headers["first_user"] != sent.UserId {
			t.Errorf("%s: it is not told where it came from: %v", name, d.Headers)
		}
	}
	for name := range kind {
		t.Errorf("%s is not in the dead letters", name)
	}
	s.settledAll(b)
	if s.sessions() != 1 {
		t.Errorf("poison ended %d sessions", s.sessions()-1)
	}
	for _, a := range s.tried() {
		if a.N != 1 || !a.NextAt.IsZero() || a.Error == "" || len(a.Error) > 4096 {
			t.Errorf("the ledger says %.300v", a)
		}
	}
}

// TestAMessageInTroubleWaitsAndComesBack follows one through two wait queues to its third attempt.
func TestAMessageInTroubleWaitsAndComesBack(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	f := desk(flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second, 10 * time.Second}}, func(placed *orderv1.OrderPlaced) flow.Outcome {
		if tries.Add(1) < 3 {
			return flow.NotYet("the till is closed")
		}
		return captured(placed)
	})
	b := servers.NewBroker(t, order, f)
	s := start(t, b.As("pay"), f, rabbit.Config{})
	r := placed("ada")
	m := onTheWire(r)
	m.Headers["other"] = "kept"
	began := time.Now()
	newSender(t, b.As("order")).send("order.events", "order.placed", m)

	// After the second attempt it waits for ten seconds: long enough to look at it.
	waiting := b.Take(t, "pay.retry.10s", 1)[0]
	if took := time.Since(began); took < time.Second {
		t.Errorf("the second attempt was after %v", took)
	}
	if waiting.MessageId != m.MessageId || waiting.Type != m.Type || waiting.CorrelationId != m.CorrelationId || waiting.AppId != "order" || waiting.UserId != "pay" ||
		!waiting.Timestamp.Equal(m.Timestamp) || waiting.DeliveryMode != amqp.Persistent || !bytes.Equal(waiting.Body, m.Body) || waiting.ContentType != m.ContentType {
		t.Errorf("it has changed: %+v", waiting)
	}
	want := maps.Clone(m.Headers)
	want["attempt"], want["first_exchange"], want["first_key"], want["first_user"] = int64(3), "order.events", "order.placed", "order"
	delete(waiting.Headers, "x-delivery-count") // the broker's, for those that take a message without consuming
	if fmt.Sprint(waiting.Headers) != fmt.Sprint(want) {
		t.Errorf("headers\n got %v\nwant %v", waiting.Headers, want)
	}
	// And back it comes, as the wait queue would send it.
	newSender(t, b.As("pay")).send("pay.retry", "pay", amqp.Publishing{
		ContentType: waiting.ContentType, DeliveryMode: waiting.DeliveryMode, MessageId: waiting.MessageId, Type: waiting.Type, UserId: "pay",
		CorrelationId: waiting.CorrelationId, AppId: waiting.AppId, Timestamp: waiting.Timestamp, Headers: waiting.Headers, Body: waiting.Body,
	})
	s.handled(1)
	s.once([]event.Record{r})
	s.settledAll(b)
	var tried []string
	for _, a := range s.tried() {
		tried = append(tried, fmt.Sprintf("%d %s %s %v %v", a.N, a.Step, a.Type, a.Message == r.ID && a.Saga == r.Saga, a.NextAt.Sub(a.At)))
		if !strings.Contains(a.Error, "the till is closed") {
			t.Errorf("the ledger says %q", a.Error)
		}
	}
	if got := strings.Join(tried, ", "); got != "1 charge order.placed true 1s, 2 charge order.placed true 10s" {
		t.Errorf("the ledger says %s", got)
	}
}

func TestAMessageWhoseBudgetIsSpentIsSetAside(t *testing.T) {
	t.Parallel()
	f := desk(flow.Retry{Attempts: 2, Delays: []time.Duration{time.Second}}, func(placed *orderv1.OrderPlaced) flow.Outcome {
		if placed.Customer == "bad" {
			panic("the till is broken")
		}
		return captured(placed)
	})
	b := servers.NewBroker(t, order, f)
	s := start(t, b.As("pay"), f, rabbit.Config{})
	s.consuming()
	bad := placed("bad")
	newSender(t, b.As("order")).send("order.events", "order.placed", onTheWire(bad))
	records := place(t, b, 20)
	d := b.Take(t, "pay.dead", 1)[0]
	if reason := fmt.Sprint(d.Headers["dead_reason"]); !strings.Contains(reason, "2 attempts failed") || !strings.Contains(reason, "the till is broken") {
		t.Errorf("the reason is %s", reason)
	}
	if d.MessageId != bad.ID.String() || d.Headers["dead_step"] != "charge" || d.Headers["attempt"] != int64(2) || d.Headers["first_user"] != "order" || d.Headers["x-death"] != nil {
		t.Errorf("got %+v", d)
	}
	s.handled(20)
	s.once(records)
	s.settledAll(b)
	tried := s.tried()
	if len(tried) != 2 || tried[0].NextAt.IsZero() || !tried[1].NextAt.IsZero() || tried[1].N != 2 {
		t.Errorf("the ledger says %+v", tried)
	}
	if s.fate("dead") != 1 || s.fate("retry") != 1 || s.fate("ack") != 20 {
		t.Errorf("fates: %v", s.fates)
	}

	// An operator sends it once more: the same message, back to the service's own queue.
	s = startOn(t, b.As("pay"), desk(fast, captured), rabbit.Config{}, s.moody, flow.IntakeConfig{})
	again := amqp.Publishing{ContentType: d.ContentType, DeliveryMode: d.DeliveryMode, MessageId: d.MessageId, Type: d.Type, CorrelationId: d.CorrelationId, AppId: d.AppId, Timestamp: d.Timestamp, Headers: d.Headers, Body: d.Body}
	delete(again.Headers, "attempt")
	newSender(t, b.URL).send("pay.retry", "pay", again)
	s.handled(21)
	s.once(append(records, bad))
}

func TestWhileTheStoreIsAwayNothingIsConsumedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	s.consuming()
	first := place(t, b, 10)
	s.handled(10)

	s.away.Store(true)
	second := place(t, b, 30)
	servers.Eventually(t, func() error {
		if n := b.Ready(t, "pay"); n != 30 || s.consumer.Ready() {
			return fmt.Errorf("%d of 30 messages are back in the queue", n)
		}
		return nil
	})
	tries := s.begun()
	servers.Eventually(t, func() error {
		if s.logs.FilterMessage("no broker").Len() < 4 {
			return errors.New("it does not look whether the store is back")
		}
		return nil
	})
	if n := s.begun() - tries; n != 0 {
		t.Errorf("it consumes while the store is away: %d tries", n)
	}
	s.away.Store(false)
	s.handled(40)
	s.once(append(first, second...))
	s.settledAll(b)
	if len(s.tried()) != 0 || s.fate("dead")+s.fate("retry") != 0 {
		t.Errorf("the messages are to blame for it: %v, %v", s.tried(), s.fates)
	}
}

// TestAStoreThatOnlyLooksWellIsTriedLessAndLess: each session that it ends counts against every message that had been
// handed over, and the queue sets them aside after 200. Its disk is full, say.
func TestAStoreThatOnlyLooksWellIsTriedLessAndLess(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	s.full.Store(true)
	records := place(t, b, 10)
	servers.Eventually(t, func() error {
		if s.sessions() < 6 {
			return fmt.Errorf("%d sessions", s.sessions())
		}
		return nil
	})
	sessions := s.logs.FilterMessage("consuming").All()
	if took := sessions[5].Time.Sub(sessions[0].Time); took < 1500*time.Millisecond {
		t.Errorf("five sessions ended within %v: 200 will within %v, and the messages with them", took, took*40)
	}
	s.full.Store(false)
	s.handled(10)
	s.once(records)
	s.settledAll(b)
}

func TestAConnectionThatTheBrokerClosesIsMadeAnew(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pay consuming", "pay publishing", "pay"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			tried := map[string]bool{}
			f := desk(fast, func(placed *orderv1.OrderPlaced) flow.Outcome {
				mu.Lock()
				defer mu.Unlock()
				// Each tenth goes through a wait queue, and so needs the publisher.
				if placed.OrderId[35] == '0' && !tried[placed.OrderId] {
					tried[placed.OrderId] = true
					return flow.NotYet("for the test")
				}
				return captured(placed)
			})
			b := servers.NewBroker(t, order, f)
			s := start(t, b.As("pay"), f, rabbit.Config{})
			s.consuming()
			records := place(t, b, 200)
			servers.Eventually(t, func() error {
				if b.Kill(t, name) == 0 {
					return errors.New("the broker knows no such connection yet")
				}
				return nil
			})
			records = append(records, place(t, b, 200)...)
			s.handled(400)
			s.once(records)
			servers.Eventually(t, func() error {
				if !s.consumer.Ready() || !s.publisher.Ready() {
					return errors.New("it is not back")
				}
				return nil
			})
			s.settledAll(b)
		})
	}
}

func TestAQueueThatIsDeletedIsMissedAndFoundAgain(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	s.consuming()
	channel := servers.Dial(t, b.URL)
	if _, err := channel.QueueDelete("pay", false, false, false); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, func() error {
		for _, l := range s.logs.FilterMessage("no broker").All() {
			if strings.Contains(fmt.Sprint(l.ContextMap()["error"]), "queue pay is missing") {
				return nil
			}
		}
		return errors.New("it does not say that the queue is missing")
	})
	if err := rabbit.Apply(t.Context(), b.ManagementURL, b.Definitions(t, order, pay)); err != nil {
		t.Fatal(err)
	}
	s.consuming()
	records := place(t, b, 5)
	s.handled(5)
	s.once(records)
}

func TestAServiceStartedBeforeTheTopologyWaitsForIt(t *testing.T) {
	t.Parallel()
	b := servers.ReserveBroker(t)
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	servers.Eventually(t, func() error {
		if s.logs.FilterMessage("no broker").Len() < 3 {
			return errors.New("it does not try")
		}
		return nil
	})
	for _, l := range s.logs.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, servers.Password("pay")) || strings.Contains(text, "pay%27s") {
			t.Errorf("the log shows the password: %s", text)
		}
	}
	b.Apply(t, order, pay)
	s.consuming()
	records := place(t, b, 1)
	s.handled(1)
	s.once(records)
}

// TestAMessageThatCannotBeMovedIsNotLost takes the binding of a wait queue away.
func TestAMessageThatCannotBeMovedIsNotLost(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	tried := map[string]int{}
	f := desk(fast, func(placed *orderv1.OrderPlaced) flow.Outcome {
		mu.Lock()
		defer mu.Unlock()
		if tried[placed.OrderId]++; placed.Customer == "ada" && tried[placed.OrderId] < 4 {
			return flow.NotYet("for the test")
		}
		return captured(placed)
	})
	b := servers.NewBroker(t, order, f)
	b.Unbind(t, "pay.retry", "1s", "pay.retry.1s")
	s := start(t, b.As("pay"), f, rabbit.Config{})
	records := place(t, b, 1)
	servers.Eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if tried[records[0].Saga.String()] < 2 {
			return errors.New("it does not come again")
		}
		return nil
	})
	b.Bind(t, "pay.retry", "1s", "pay.retry.1s")
	s.handled(1)
	s.once(records)
	s.settledAll(b)
}

func TestAStopFinishesWhatIsInWorkAndLeavesTheRest(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	s := start(t, proxy.URL(b.As("pay")), pay, rabbit.Config{Prefetch: 8})
	s.consuming()
	open := s.close()
	defer open()
	records := place(t, b, 50)
	servers.Eventually(t, func() error {
		if s.begun() == 0 || b.Ready(t, "pay") != 42 {
			return errors.New("it has not taken all it may")
		}
		return nil
	})
	stopped := make(chan struct{})
	cancelled := make(chan struct{})
	cancel := sync.OnceFunc(func() { close(cancelled) })
	proxy.Watch(func(toServer bool, data []byte) bool {
		if toServer && bytes.Contains(data, []byte{0, 60, 0, 30}) { // basic.cancel
			cancel()
		}
		return true
	})
	go func() { s.stop(); close(stopped) }()
	<-cancelled
	select {
	case <-stopped:
		t.Fatal("it stopped before its messages were handled")
	default:
	}
	open()
	<-stopped
	handled := len(s.Log())
	if left := b.Ready(t, "pay"); handled < 1 || handled+left != 50 || s.fate("ack") != handled {
		t.Errorf("%d handled, %d acked, %d left in the queue of 50", handled, s.fate("ack"), left)
	}
	// The next instance, over the same store, has nothing to do twice.
	next := startOn(t, b.As("pay"), pay, rabbit.Config{}, s.moody, flow.IntakeConfig{})
	next.handled(50)
	next.once(records)
	if next.repeated != 0 {
		t.Errorf("%d messages were handled and not acked", next.repeated)
	}
	next.settledAll(b)
}

// TestAStopDoesNotWaitForEveryMessageThatWasHandedOver: what has not been begun goes back.
func TestAStopDoesNotWaitForEveryMessageThatWasHandedOver(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	ask := func(ctx context.Context, _ flow.Call, _ *orderv1.OrderPlaced) (bool, error) {
		asked.Add(1)
		<-ctx.Done() // the outside never answers
		return false, ctx.Err()
	}
	f := flow.New("pay", payments, flow.Ask("charge", payments, ask, func(_ *payment, placed *orderv1.OrderPlaced, _ bool) flow.Outcome { return captured(placed) }).
		Emits(&payv1.PaymentCaptured{}).Retry(flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}, Timeout: time.Second}))
	b := servers.NewBroker(t, order, f)
	s := startOn(t, b.As("pay"), f, rabbit.Config{StopTimeout: time.Second}, &moody{Memory: store.NewMemory()}, flow.IntakeConfig{AsksMax: 1})
	s.consuming()
	place(t, b, 20)
	servers.Eventually(t, func() error {
		if asked.Load() == 0 {
			return errors.New("nobody asks")
		}
		return nil
	})
	servers.Eventually(t, func() error {
		if n := b.Ready(t, "pay"); n > 0 {
			return fmt.Errorf("%d messages are not handed over", n)
		}
		return nil
	})
	began := time.Now()
	s.stop()
	// The deadline of the stop, and the one call that was under way.
	servers.Took(t, "stopping", began, 5*time.Second)
}

func TestABrokerThatHangsIsNoticedByItsHeartbeat(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	s := start(t, proxy.URL(b.As("pay")), pay, rabbit.Config{Heartbeat: time.Second})
	s.consuming()
	proxy.Freeze()
	frozen := time.Now()
	servers.Eventually(t, func() error {
		if s.consumer.Ready() || s.publisher.Ready() {
			return errors.New("it has not noticed")
		}
		return nil
	})
	servers.Took(t, "noticing", frozen, 5*time.Second)
	records := place(t, b, 5)
	proxy.Thaw()
	s.handled(5)
	s.once(records)
	s.settledAll(b)
}

func TestAStopEndsAlsoWhenTheBrokerHangs(t *testing.T) {
	t.Parallel()
	var decided atomic.Int32
	f := desk(fast, func(*orderv1.OrderPlaced) flow.Outcome {
		decided.Add(1)
		return flow.NotYet("for the test")
	})
	b := servers.NewBroker(t, order, f)
	proxy := servers.NewProxy(t, b.URL)
	s := start(t, proxy.URL(b.As("pay")), f, rabbit.Config{Window: 2, StopTimeout: time.Second, Heartbeat: time.Minute})
	s.consuming()
	place(t, b, 40)
	servers.Eventually(t, func() error {
		if n := decided.Load(); n < 40 {
			return fmt.Errorf("%d of 40 are decided", n)
		}
		return nil
	})
	// From now on no confirm comes, and more messages are held for a while, to be republished, than the window takes.
	proxy.Freeze()
	frozen := time.Now()
	servers.Eventually(t, func() error {
		if time.Since(frozen) < fast.Delays[0] {
			return errors.New("some are still held")
		}
		return nil
	})
	began := time.Now()
	s.stop()
	servers.Took(t, "stopping", began, 10*time.Second)
}

// TestALateVerdictAcksNothingOfTheNextSession: delivery tags begin anew on each channel.
func TestALateVerdictAcksNothingOfTheNextSession(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	s := start(t, proxy.URL(b.As("pay")), pay, rabbit.Config{})
	s.consuming()
	open := s.close()
	defer open()
	records := place(t, b, 5)
	servers.Eventually(t, func() error {
		if s.begun() == 0 {
			return errors.New("nothing has arrived")
		}
		return nil
	})
	proxy.Cut()
	servers.Eventually(t, func() error {
		if s.sessions() < 2 {
			return errors.New("there is no second session")
		}
		return nil
	})
	records = append(records, place(t, b, 5)...)
	open()
	s.handled(10)
	s.once(records)
	servers.Eventually(t, func() error {
		if n := s.fate("ack"); n < 10 {
			return fmt.Errorf("%d acks", n)
		}
		return nil
	})
	s.settledAll(b)
	if s.sessions() != 2 {
		t.Errorf("there were %d sessions: an ack was refused", s.sessions())
	}
	if s.repeated == 0 || s.fate("ack") != 10 {
		t.Errorf("%d duplicates and %d acks, want some and 10", s.repeated, s.fate("ack"))
	}
}

// TestTenThousandMessagesSurviveEveryLossOfTheConnection: each is handled at least once, and the inbox makes it once.
func TestTenThousandMessagesSurviveEveryLossOfTheConnection(t *testing.T) {
	t.Parallel()
	const messages = 10_000
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	target := proxy.URL(b.As("pay"))
	m := &moody{Memory: store.NewMemory()}
	// Two instances share the queue and the store.
	one, two := startOn(t, target, pay, rabbit.Config{}, m, flow.IntakeConfig{}), startOn(t, target, pay, rabbit.Config{Prefetch: 64}, m, flow.IntakeConfig{})
	one.consuming()
	records := make(chan []event.Record)
	go func() {
		var all []event.Record
		for range messages / 500 {
			all = append(all, place(t, b, 500)...)
		}
		records <- all
	}()
	cuts := 0
	servers.Eventually(t, func() error {
		n := len(m.Log())
		if n > messages*cuts/8 && cuts < 8 {
			proxy.Cut()
			cuts++
		}
		if n < messages {
			return fmt.Errorf("%d of %d messages are handled", n, messages)
		}
		return nil
	})
	one.once(<-records)
	one.settledAll(b)
	two.settledAll(b)
	if cuts < 8 || one.repeated+two.repeated == 0 {
		t.Errorf("%d cuts and %d duplicates: the test shows little", cuts, one.repeated+two.repeated)
	}
}

// TestATimerIsHeardByTheServiceItself: it comes from the service's own retry exchange, where no other may write.
func TestATimerIsHeardByTheServiceItself(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order)
	var m moody
	m.Memory = store.NewMemory()
	s := startOn(t, b.As("order"), order, rabbit.Config{}, &m, flow.IntakeConfig{})
	s.consuming()
	r := placed("ada")
	r.Type, r.Stream, r.Version, r.Body = "order.deadline", "", 0, []byte(`{"order_id":"1"}`)
	var o outcomes
	s.publisher.Publish(t.Context(), []event.Record{r}, o.done)
	servers.Eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.verdicts[r.ID] != 1 {
			return errors.New("it is not handled")
		}
		return nil
	})
}

// Were they retried together, they would be in trouble together again.
func TestWhatFailsTogetherDoesNotComeBackTogether(t *testing.T) {
	t.Parallel()
	const messages = 50
	f := desk(flow.Retry{Attempts: 2, Delays: []time.Duration{time.Second}}, func(*orderv1.OrderPlaced) flow.Outcome {
		return flow.NotYet("the till is closed")
	})
	b := servers.NewBroker(t, order, f)
	s := start(t, b.As("pay"), f, rabbit.Config{})
	place(t, b, messages)
	servers.Eventually(t, func() error {
		if n := len(s.tried()); n < messages {
			return fmt.Errorf("%d have failed", n)
		}
		return nil
	})
	first, last := time.Now(), time.Time{}
	for _, a := range s.tried() {
		if a.N == 1 && a.At.Before(first) {
			first = a.At
		}
		if a.N == 1 && a.At.After(last) {
			last = a.At
		}
	}
	// Each is held for up to half its delay; that fifty of them hit the same half of that does not happen.
	if spread := last.Sub(first); spread < 250*time.Millisecond {
		t.Errorf("they go to the wait queue within %v of each other", spread)
	}
}
