package pay

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow/flowtest"
)

func TestMain(m *testing.M) { flowtest.Main(m, Flow(nil)) }

// gateway answers as it is told, and notes what it was asked.
type gateway struct {
	capture Capture
	void    Void
	err     error
	asked   []string
}

func (g *gateway) Capture(_ context.Context, key, _, _ string, _ *shopv1.Money) (Capture, error) {
	g.asked = append(g.asked, "capture "+key)
	return g.capture, g.err
}

func (g *gateway) Void(_ context.Context, key string) (Void, error) {
	g.asked = append(g.asked, "void "+key)
	return g.void, nil
}

func eur(amount int64) *shopv1.Money { return &shopv1.Money{Amount: amount, Currency: "EUR"} }

func placed() *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{
		OrderId: flowtest.Order, Customer: "ada", Total: eur(900), PaymentToken: "tok_ok",
		Lines:    []*shopv1.Line{{Sku: "classic", Name: "Classic", Quantity: 2, UnitPrice: eur(450)}},
		Handover: &shopv1.Handover{Type: "counter"}, Deadline: &timestamppb.Timestamp{Seconds: 1},
	}
}

func TestAnOrderIsCharged(t *testing.T) {
	g := &gateway{capture: Capture{ID: "cap_1"}}
	s := flowtest.New(t, Flow(g))
	s.When(placed())
	s.Then(&payv1.PaymentCaptured{
		OrderId: flowtest.Order, Customer: "ada", Amount: eur(900), CaptureId: "cap_1", Lines: placed().Lines, Handover: placed().Handover,
	})
	s.ThenBarrier("charge", "done")
}

func TestARefusedCardFailsThePayment(t *testing.T) {
	s := flowtest.New(t, Flow(&gateway{capture: Capture{Refused: "declined", Detail: "ask your bank"}}))
	s.When(placed())
	s.Then(&payv1.PaymentFailed{OrderId: flowtest.Order, Customer: "ada", Amount: eur(900), Reason: "declined", Detail: "ask your bank"})
	s.ThenBarrier("charge", "")
}

func TestAFailureOfALaterStepRefundsWhatTheLogSaysWasCaptured(t *testing.T) {
	for _, failed := range []proto.Message{
		&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock"},
		&deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "nobody_home"},
	} {
		g := &gateway{capture: Capture{ID: "cap_1"}, void: Void{RefundID: "ref_1", Amount: eur(900)}}
		s := flowtest.New(t, Flow(g))
		s.Given(placed())
		s.When(failed)
		reason := failed.(interface{ GetReason() string }).GetReason()
		s.Then(&payv1.PaymentRefunded{OrderId: flowtest.Order, Amount: eur(900), CaptureId: "cap_1", RefundId: "ref_1", Reason: reason})
		s.ThenBarrier("charge", "undone")
		if want := "void " + flowtest.Order + "/charge"; g.asked[len(g.asked)-1] != want {
			t.Errorf("asked %q, want %q: the key of the capture", g.asked[len(g.asked)-1], want)
		}
	}
}

func TestASecondFailureRefundsNothingMore(t *testing.T) {
	s := flowtest.New(t, Flow(&gateway{capture: Capture{ID: "cap_1"}, void: Void{RefundID: "ref_1"}}))
	s.Given(placed(), &makev1.MakeFailed{OrderId: flowtest.Order, Reason: "machine_broken"})
	s.When(&deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "nobody_home"})
	s.Then()
}

func TestAFailureBeforeTheChargeBarsIt(t *testing.T) {
	g := &gateway{capture: Capture{Refused: "unavailable"}}
	s := flowtest.New(t, Flow(g))
	s.When(&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "cancelled"})
	s.Then(&payv1.PaymentFailed{OrderId: flowtest.Order, Reason: "cancelled", Detail: "rolled back before the payment, on make.failed"})
	s.ThenBarrier("charge", "suppressed")
	if len(g.asked) != 1 || g.asked[0] != "void "+flowtest.Order+"/charge" {
		t.Errorf("asked %v: only the gateway knows whether the money was taken before a crash", g.asked)
	}
	s.When(placed())
	s.ThenSuppressed()
}

func TestAGatewayThatDoesNotAnswerIsAskedAgainAndThenGivenUp(t *testing.T) {
	g := &gateway{err: errors.New("no answer")}
	s := flowtest.New(t, Flow(g))
	s.Attempt(1)
	s.When(placed())
	s.ThenTrouble("no answer")
	s.Attempt(patience.Attempts)
	s.When(placed())
	s.Then(&payv1.PaymentFailed{
		OrderId: flowtest.Order, Customer: "ada", Amount: eur(900), Reason: "unavailable", Detail: "the payment gateway does not answer; nothing was charged",
	})
	if g.asked[len(g.asked)-1] != "void "+flowtest.Order+"/charge" {
		t.Errorf("asked %v: what is given up must be voided", g.asked)
	}
}

func TestThreeRefusalsWithinTenMinutesFlagACustomerOnce(t *testing.T) {
	s := flowtest.New(t, Flow(&gateway{capture: Capture{Refused: "declined"}}))
	refused := func(order string) {
		s.In(order)
		p := placed()
		p.OrderId = order
		s.Given(p)
		s.WhenRecorded("payment.failed")
	}
	refused("01900000-0000-7000-8000-00000000000a")
	s.Then()
	refused("01900000-0000-7000-8000-00000000000b")
	s.Then()
	refused("01900000-0000-7000-8000-00000000000c")
	s.Then(&payv1.CustomerFlagged{Customer: "ada", Refusals: 3, WindowSeconds: 600})
	refused("01900000-0000-7000-8000-00000000000d")
	s.Then()
}

func TestWhatTheGatewayCannotHelpDoesNotCountAgainstTheCustomer(t *testing.T) {
	for _, reason := range []string{"unavailable", "cancelled"} {
		if keys := byCustomer(&payv1.PaymentFailed{Customer: "ada", Reason: reason}, event.Envelope{}); keys != nil {
			t.Errorf("a payment that failed as %s counts for %v", reason, keys)
		}
	}
}

func TestRefusalsOlderThanTheWindowAreForgotten(t *testing.T) {
	var r Refusals
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, after := range []time.Duration{0, flagWindow + time.Second, flagWindow + time.Minute} {
		r.fold(&payv1.PaymentFailed{Customer: "ada", Reason: "fraud"}, event.Envelope{At: at.Add(after)})
	}
	if len(r.At) != 2 {
		t.Errorf("kept %v, want the two within %v", r.At, flagWindow)
	}
}
