package flow_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

func nothing[S, M any](*S, M) flow.Outcome { return flow.Nothing() }

func TestWrongWiringPanicsWithAllThatIsWrong(t *testing.T) {
	payments := newPayments()
	orders := flow.NewStream("order", func(*int, proto.Message) {})
	on := func(name string) *flow.Step[payment, *orderv1.OrderPlaced] {
		return flow.On(name, payments, nothing[payment, *orderv1.OrderPlaced])
	}
	undo := func(name, undoes string) *flow.Step[payment, *payv1.PaymentCaptured] {
		return flow.Compensate(name, undoes, payments, refund)
	}
	failed := &makev1.MakeFailed{}
	for _, c := range []struct {
		why []string
		of  func() *flow.Flow
	}{
		{[]string{`two steps are named "charge"`}, func() *flow.Flow { return flow.New("pay", payments, on("charge"), on("charge")) }},
		{[]string{`step "charge" emits order.placed, which only order may write`}, func() *flow.Flow {
			return flow.New("pay", payments, orders, on("charge").Emits(&orderv1.OrderPlaced{}))
		}},
		{[]string{`step "charge" emits payment.captured, but there is no stream "payment" in the flow`}, func() *flow.Flow {
			return flow.New("pay", on("charge").Emits(&payv1.PaymentCaptured{}))
		}},
		{[]string{`step "charge" emits customer.flagged, but there is no stream "customer" in the flow`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.CustomerFlagged{}))
		}},
		{[]string{`step "refund" undoes payment.captured of step "charge", which does not emit it`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.PaymentFailed{}), undo("refund", "charge").When(failed))
		}},
		{[]string{`step "refund" undoes payment.captured of step "bill", which does not emit it`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.PaymentCaptured{}), undo("refund", "bill").When(failed))
		}},
		{[]string{`step "refund" hears nothing: a compensation needs When`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.PaymentCaptured{}), undo("refund", "charge"))
		}},
		{[]string{`step "cancel" judges over step "reserve", which does not exist`}, func() *flow.Flow {
			return flow.New("pay", payments, flow.Judge("cancel", "reserve", payments, func(*payment, *orderv1.OrderCancelRequested, bool) flow.Outcome { return flow.Nothing() }))
		}},
		{[]string{`step "charge": there is no wait queue for a delay of 2s`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Retry(flow.Retry{Attempts: 2, Delays: []time.Duration{time.Second, 2 * time.Second}}))
		}},
		{[]string{`step "charge": there must be a delay`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Retry(flow.Retry{Attempts: 2}))
		}},
		{[]string{`step "charge": attempts must be from 1 to 1000, not 0`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Retry(flow.Retry{Delays: []time.Duration{time.Second}}))
		}},
		{[]string{"*shopv1.Money is not a declared event"}, func() *flow.Flow { return flow.New("pay", payments, on("charge").Emits(&shopv1.Money{})) }},
		{[]string{"*shopv1.Money is not a declared event"}, func() *flow.Flow {
			return flow.New("pay", payments, flow.On("count", payments, nothing[payment, *shopv1.Money]))
		}},
		{[]string{`step "refund" compensates on *makev1.DrinkMade, which is not declared as a failure`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.PaymentCaptured{}), undo("refund", "charge").When(&makev1.DrinkMade{}))
		}},
		{[]string{`step "refund" compensates on *shopv1.Money, which is not declared as a failure`}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge").Emits(&payv1.PaymentCaptured{}), undo("refund", "charge").When(&shopv1.Money{}))
		}},
		{[]string{"menu copies order.placed, which does not carry a full state"}, func() *flow.Flow {
			return flow.New("pay", payments, flow.NewCopy("menu", []proto.Message{&menuv1.ItemAdded{}, &orderv1.OrderPlaced{}}, func(*int, proto.Message, event.Envelope) {}))
		}},
		{[]string{"flow pay: ", `two steps are named "charge"`, "which only make may write", "judges over"}, func() *flow.Flow {
			return flow.New("pay", payments, on("charge"), on("charge").Emits(&makev1.DrinkMade{}),
				flow.Judge("cancel", "reserve", payments, func(*payment, *orderv1.OrderCancelRequested, bool) flow.Outcome { return flow.Nothing() }))
		}},
	} {
		t.Run(c.why[len(c.why)-1], func(t *testing.T) {
			defer func() {
				p := fmt.Sprint(recover())
				for _, why := range c.why {
					if !strings.Contains(p, why) {
						t.Errorf("panic with %q, want %q", p, why)
					}
				}
			}()
			c.of()
			t.Error("no panic")
		})
	}
}
