package flow_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

func TestAnEventIsAcceptedAsItIs(t *testing.T) {
	f := desk()
	r := wire(t, order(1), &orderv1.OrderPlaced{OrderId: order(1), Customer: "ada"})
	m, err := f.Accept(r)
	if err != nil {
		t.Fatal(err)
	}
	if m.Envelope != r.Envelope || m.Attempt != 1 || !proto.Equal(m.Payload.(proto.Message), &orderv1.OrderPlaced{OrderId: order(1), Customer: "ada"}) {
		t.Errorf("got %+v", m)
	}
	r.Hops = event.MaxHops
	r.Body = []byte(`{"order_id":"` + order(1) + `","a_field_of_tomorrow":{"x":[1]}}`)
	if _, err := f.Accept(r); err != nil {
		t.Errorf("a newer writer, a long chain: %v", err)
	}
}

func TestPoisonIsRefusedWithTheReason(t *testing.T) {
	f := desk()
	for _, c := range []struct {
		why   string
		spoil func(*event.Record)
	}{
		{"the message has no type", func(r *event.Record) { r.Type = "" }},
		{`"order.lost" is not a declared event type`, func(r *event.Record) { r.Type = "order.lost" }},
		{"pay does not hear order.completed", func(r *event.Record) { r.Type = "order.completed" }},
		{`order.placed may only come from order, not from "menu"`, func(r *event.Record) { r.Source = "menu" }},
		{`order.placed may only come from order, not from ""`, func(r *event.Record) { r.Source = "" }},
		{"order.placed has no message ID", func(r *event.Record) { r.ID = uuid.Nil }},
		{"order.placed has no correlation ID", func(r *event.Record) { r.Saga = uuid.Nil }},
		{"order.placed has schema version 2; this service knows 1 to 1", func(r *event.Record) { r.Schema = 2 }},
		{"order.placed has schema version 0; this service knows 1 to 1", func(r *event.Record) { r.Schema = 0 }},
		{"order.placed is 33 hops away from the beginning of its saga, more than 32: the events go round in a loop", func(r *event.Record) { r.Hops = 33 }},
		{`order.placed says it is version 1 of "order/other"; its data belong to "order/` + order(1), func(r *event.Record) { r.Stream = "order/other" }},
		{`order.placed says it is version 0 of "order/`, func(r *event.Record) { r.Version = 0 }},
		{`order.placed says it is version -1 of "order/`, func(r *event.Record) { r.Version = -1 }},
		{"order.placed: order_id is empty, but it is the key", func(r *event.Record) { r.Body = []byte(`{"customer":"ada"}`) }},
		{"order.placed: order_id is empty, but it is the key", func(r *event.Record) { r.Body = []byte(`{}`) }},
		{"order.placed: ", func(r *event.Record) { r.Body = nil }},
		{"order.placed: ", func(r *event.Record) { r.Body = []byte(`{"order_id":`) }},
		{"order.placed: ", func(r *event.Record) { r.Body = []byte(`{"order_id":1}`) }},
		{"order.placed: ", func(r *event.Record) { r.Body = []byte(`[]`) }},
	} {
		r := wire(t, order(1), &orderv1.OrderPlaced{OrderId: order(1)})
		c.spoil(&r)
		m, err := f.Accept(r)
		if !errors.Is(err, flow.ErrPoison) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("got %v, want %q", err, c.why)
		}
		if m.Payload != nil {
			t.Errorf("%s: there is a message nevertheless: %+v", c.why, m)
		}
	}
}

func TestATimerIsOfNoStream(t *testing.T) {
	f := clock()
	r := wire(t, order(1), &orderv1.OrderDeadline{OrderId: order(1)})
	r.Stream, r.Version = "", 0
	if _, err := f.Accept(r); err != nil {
		t.Error(err)
	}
	r.Source = "pay"
	if _, err := f.Accept(r); !errors.Is(err, flow.ErrPoison) {
		t.Errorf("a timer of others: %v", err)
	}
}

func TestAServiceHearsWhatItsStepsAndViewsHear(t *testing.T) {
	f := diary()
	want := []string{"item.added", "item.edited", "item.retired", "order.placed"}
	if got := f.Hears(); !slices.Equal(got, want) {
		t.Errorf("bound to %v, want %v: views see its own events as they are written", got, want)
	}
	if got := kitchen().Hears(); !slices.Equal(got, []string{"order.cancel_requested", "payment.captured"}) {
		t.Errorf("bound to %v", got)
	}
	if got := clock().Hears(); !slices.Equal(got, []string{"delivery.delivered"}) {
		t.Errorf("bound to %v: timers and commands do not come from exchanges", got)
	}
	if !clock().Handles("order.deadline") || !f.Handles("item.added") || f.Handles("drink.made") {
		t.Error("it handles other things than it hears")
	}
	if got := f.Tables(); !slices.Equal(got, []string{"by_saga", "by_customer", "journal", "copy"}) {
		t.Errorf("the tables are %v", got)
	}
}

// patient is a flow whose steps have every kind of budget.
func patient() *flow.Flow {
	payments := newPayments()
	brief := flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second, 10 * time.Second}}
	return flow.New("pay", payments,
		flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).Retry(brief).
			GiveUp(nil, func(*payment, *orderv1.OrderPlaced, any) flow.Outcome { return flow.Nothing() }),
		flow.Compensate("refund", "charge", payments, refund).When(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}),
		flow.On("brief", payments, func(*payment, *makev1.DrinkMade) flow.Outcome { return flow.Nothing() }).Retry(brief),
		flow.On("usual", payments, func(*payment, *deliveryv1.DeliveryDelivered) flow.Outcome { return flow.Nothing() }),
		flow.On("one of two", payments, func(*payment, *deliveryv1.DeliveryDispatched) flow.Outcome { return flow.Nothing() }).Retry(brief),
		flow.On("two of two", payments, func(*payment, *deliveryv1.DeliveryDispatched) flow.Outcome { return flow.Nothing() }),
		flow.NewView("seen", []proto.Message{&orderv1.OrderCompleted{}}, func(*int, proto.Message, event.Envelope) {}))
}

func TestTheFateOfAMessage(t *testing.T) {
	f := patient()
	trouble := errors.New("no luck")
	usual := []time.Duration{time.Second, time.Second, 10 * time.Second, 10 * time.Second, time.Minute}
	for _, c := range []struct {
		typ     string
		attempt int
		verdict flow.Verdict
		want    flow.Fate
	}{
		{"order.placed", 1, flow.Verdict{}, flow.Fate{Ack: true}},
		{"order.placed", 1, flow.Verdict{Duplicate: true}, flow.Fate{Ack: true}},
		{"order.placed", 1, flow.Verdict{Suppressed: true}, flow.Fate{Ack: true}},
		{"order.placed", 99, flow.Verdict{Events: []event.Record{{}}}, flow.Fate{Ack: true}},
		{"order.placed", 999, flow.Verdict{Err: errAway}, flow.Fate{Requeue: true}},
		{"order.completed", 999, flow.Verdict{Err: flow.ErrStopped}, flow.Fate{Requeue: true}},
		{"order.placed", 999, flow.Verdict{Err: fmt.Errorf("asked: %w", flow.ErrAway)}, flow.Fate{Requeue: true}},
		{"order.placed", 1, flow.Verdict{Err: fmt.Errorf("%w: smells", flow.ErrPoison)}, flow.Fate{Dead: "poison: smells"}},

		// A step that is not given up: its delays, then the end.
		{"drink.made", 1, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Second, Step: "brief"}},
		{"drink.made", 2, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Second, Step: "brief"}},
		{"drink.made", 3, flow.Verdict{Err: trouble}, flow.Fate{Dead: "3 attempts failed, the last one: no luck", Step: "brief"}},
		{"drink.made", 4, flow.Verdict{Err: trouble}, flow.Fate{Dead: "4 attempts failed, the last one: no luck", Step: "brief"}},
		{"drink.made", 0, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Second, Step: "brief"}},
		{"drink.made", 1, flow.Verdict{Err: store.ErrConflict}, flow.Fate{RetryAfter: time.Second, Step: "brief"}},
		{"delivery.delivered", 1, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: usual[0], Step: "usual"}},
		{"delivery.delivered", 3, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: usual[2], Step: "usual"}},
		{"delivery.delivered", 5, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: usual[4], Step: "usual"}},
		{"delivery.delivered", 6, flow.Verdict{Err: trouble}, flow.Fate{Dead: "6 attempts failed, the last one: no luck", Step: "usual"}},

		// The most patient of two.
		{"delivery.dispatched", 3, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: usual[2], Step: "two of two"}},

		// A step that is given up: once its budget is spent, its giving up has the patience of a compensation.
		{"order.placed", 2, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Second, Step: "charge"}},
		{"order.placed", 3, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Second, Step: "charge"}},
		{"order.placed", 4, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Second, Step: "charge"}},
		{"order.placed", 9, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Minute, Step: "charge"}},
		{"order.placed", 152, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Minute, Step: "charge"}},
		{"order.placed", 153, flow.Verdict{Err: trouble}, flow.Fate{Dead: "153 attempts failed, the last one: no luck", Step: "charge"}},

		// A compensation: for about a day.
		{"make.failed", 1, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Second, Step: "refund"}},
		{"make.failed", 5, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Minute, Step: "refund"}},
		{"make.failed", 149, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: 10 * time.Minute, Step: "refund"}},
		{"make.failed", 150, flow.Verdict{Err: trouble}, flow.Fate{Dead: "150 attempts failed, the last one: no luck", Step: "refund"}},

		// What only views hear.
		{"order.completed", 1, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Second, Step: "views"}},
		{"order.completed", 5, flow.Verdict{Err: trouble}, flow.Fate{RetryAfter: time.Minute, Step: "views"}},
		{"order.completed", 6, flow.Verdict{Err: trouble}, flow.Fate{Dead: "no luck"}},
	} {
		m := flow.Message{Envelope: event.Envelope{Type: c.typ}, Attempt: c.attempt}
		if got := f.Fate(m, c.verdict); got != c.want {
			t.Errorf("attempt %d at %s, %v: got %+v, want %+v", c.attempt, c.typ, c.verdict.Err, got, c.want)
		}
	}
}

func TestACompensationIsTriedForAboutADay(t *testing.T) {
	var all time.Duration
	for n := 1; n < flow.Compensation.Attempts; n++ {
		all += flow.Compensation.Delay(n)
	}
	if all < 23*time.Hour || all > 26*time.Hour {
		t.Errorf("it is tried for %v", all)
	}
}

func TestEveryDelayIsARung(t *testing.T) {
	for _, r := range []flow.Retry{flow.Forward, flow.Compensation} {
		for n := -1; n < 2*r.Attempts; n++ {
			if d := r.Delay(n); !slices.Contains(flow.Rungs, d) {
				t.Errorf("%v after attempt %d", d, n)
			}
		}
	}
}
