package flow_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

func TestOneDecisionMayFoldIntoManyDocuments(t *testing.T) {
	payments := newPayments()
	f := flow.New("pay", payments,
		flow.On("charge", payments, func(_ *payment, m *orderv1.OrderPlaced) (o flow.Outcome) {
			for n := range 10 {
				o = o.Also(&payv1.PaymentCaptured{OrderId: order(n), Customer: fmt.Sprint(n)})
			}
			return o
		}).Emits(&payv1.PaymentCaptured{}),
		flow.NewView("by_customer", []proto.Message{&payv1.PaymentCaptured{}}, func(n *int, _ proto.Message, _ event.Envelope) { *n++ }).
			By(func(m proto.Message, _ event.Envelope) []string { return []string{m.(*payv1.PaymentCaptured).Customer} }))
	if v := process(store.NewMemory(), f, placed(t, f, 1, ""))[0]; v.Err != nil || len(v.Events) != 10 {
		t.Errorf("got %+v", v)
	}
}

func TestABatchIsOneCommitThoughEachMessageNeedsAFurtherLoad(t *testing.T) {
	payments := newPayments()
	f := flow.New("pay", payments,
		flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}),
		flow.NewView("refusals", []proto.Message{&payv1.PaymentFailed{}}, func(n *int, _ proto.Message, _ event.Envelope) { *n++ }).
			By(func(m proto.Message, _ event.Envelope) []string { return []string{m.(*payv1.PaymentFailed).Customer} }))
	s := &hooked{Memory: store.NewMemory()}
	var batch []flow.Message
	for n := range 10 {
		batch = append(batch, heard(t, f, order(n), &orderv1.OrderPlaced{OrderId: order(n), PaymentToken: "fail", Customer: fmt.Sprint(n)}))
	}
	for i, v := range process(s, f, batch...) {
		if v.Err != nil {
			t.Errorf("%d: %v", i, v.Err)
		}
	}
	if s.begun != 1 {
		t.Errorf("%d transactions, want one", s.begun)
	}
}

func TestWhatIsTakenWhileTheServiceStopsIsSettled(t *testing.T) {
	f := desk()
	m := placed(t, f, 1, "ok")
	for range 500 {
		in := flow.NewIntake(f, flow.NewDoor(f, store.NewMemory(), nil, nil), zap.NewNop(), flow.IntakeConfig{})
		ctx, stop := context.WithCancel(t.Context())
		var takers, settled sync.WaitGroup
		stopped := make(chan error)
		go func() { stopped <- in.Run(ctx) }()
		settled.Add(32)
		for range 8 {
			takers.Go(func() {
				for range 4 {
					in.Take(ctx, m, func(flow.Verdict) { settled.Done() })
				}
			})
		}
		stop()
		takers.Wait()
		<-stopped
		settled.Wait() // hangs when one was forgotten
	}
}

func TestACallThatWasNeverMadeIsNotTheLastAttempt(t *testing.T) {
	away := flow.Away(&net.OpError{Op: "dial", Err: errors.New("connection refused")})
	b := &bank{capture: says("", away), void: says("nothing was charged", nil)}
	f := counter(b)
	m := placed(t, f, 1, "")
	m.Attempt = 3
	v := through(t, store.NewMemory(), f, m)
	if !errors.Is(v.Err, flow.ErrAway) || len(b.asked) != 1 || !f.Fate(m, v).Requeue {
		t.Errorf("got %+v after %q, want it to come again", v, b.asked)
	}
}

func TestWhatWasDoneLastIsUndoneFirstInOneBatch(t *testing.T) {
	f := bar()
	pays := paid(t, f, 1, "")
	reserves := heard(t, f, order(1), &makev1.StockReserved{Location: "main", OrderId: order(1)})
	fails := heard(t, f, order(1), &deliveryv1.DeliveryFailed{OrderId: order(1)})
	for _, batches := range [][][]flow.Message{{{pays, reserves, fails}}, {{pays}, {reserves, fails}}} {
		s := store.NewMemory()
		for _, batch := range batches {
			process(s, f, batch...)
		}
		if got := types(s.Log()); !slices.Equal(got, []string{"stock.reserved", "drink.made", "drink.discarded", "stock.released"}) {
			t.Errorf("in %d batches: %v", len(batches), got)
		}
	}
}

func TestATimerThatIsDisarmedAndArmedAgainIsArmed(t *testing.T) {
	f := clock()
	opens := func() flow.Message {
		return flow.NewCommand("open", event.NewID(), uuid.MustParse(order(1)), "", open{})
	}
	completes := heard(t, f, order(1), &deliveryv1.DeliveryDelivered{OrderId: order(1)})
	for _, batches := range [][][]flow.Message{{{opens()}, {completes}, {opens()}}, {{opens()}, {completes, opens()}}} {
		s := store.NewMemory()
		for _, batch := range batches {
			process(s, f, batch...)
		}
		if n := len(s.Timers()); n != 1 {
			t.Errorf("in %d batches: %d timers are armed, want one", len(batches), n)
		}
	}
}

func TestNoStepCanBeNamedLikeTheInboxKeyOfTheViews(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic: such a step never runs for a message that a view hears as well")
		}
	}()
	payments := newPayments()
	flow.New("pay", payments, flow.On("views", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}))
}
