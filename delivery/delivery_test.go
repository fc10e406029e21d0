package delivery

import (
	"context"
	"errors"
	"slices"
	"testing"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

func TestMain(m *testing.M) { flowtest.Main(m, Flow(nil)) }

// company answers as it is told, and notes what it was asked.
type company struct {
	dispatch Dispatch
	handOver HandOver
	settled  HandOver
	err      error // of Dispatch and HandOver
	deaf     error // of the voids
	asked    []string
}

func (c *company) Dispatch(_ context.Context, key, order, address string) (Dispatch, error) {
	c.asked = append(c.asked, "dispatch "+key+" to "+address)
	return c.dispatch, c.err
}

func (c *company) HandOver(_ context.Context, key, order, address, courier string) (HandOver, error) {
	c.asked = append(c.asked, "hand over "+key+" to "+address+" by "+courier)
	return c.handOver, c.err
}

func (c *company) Void(_ context.Context, key string) error {
	c.asked = append(c.asked, "void "+key)
	return c.deaf
}

func (c *company) VoidHandOver(_ context.Context, key string) (HandOver, error) {
	c.asked = append(c.asked, "void hand-over "+key)
	return c.settled, c.deaf
}

const (
	dispatchKey = flowtest.Order + "/dispatch"
	handOverKey = flowtest.Order + "/hand-over"
)

func made(handover *shopv1.Handover) *makev1.DrinkMade {
	return &makev1.DrinkMade{OrderId: flowtest.Order, Lines: []*shopv1.Line{{Sku: "classic", Quantity: 2}}, Handover: handover}
}

var (
	home = &shopv1.Handover{Type: "address", Address: "12 Mill Lane"}

	dispatched = &deliveryv1.DeliveryDispatched{OrderId: flowtest.Order, Courier: "Grace", Handover: home}
	delivered  = &deliveryv1.DeliveryDelivered{OrderId: flowtest.Order, Courier: "Grace"}
)

func failed(reason, detail string) *deliveryv1.DeliveryFailed {
	return &deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: reason, Detail: detail}
}

// sent is a delivery that is on its way.
func sent(t *testing.T, c *company) *flowtest.Saga {
	t.Helper()
	c.dispatch = Dispatch{Courier: "Grace"}
	s := flowtest.New(t, Flow(c))
	s.Given(made(home))
	c.asked = nil
	return s
}

func TestAtTheCounterTheDrinksAreHandedOverAtOnce(t *testing.T) {
	handover := &shopv1.Handover{Type: "counter"}
	s := flowtest.New(t, Flow(nil)) // nobody is asked
	s.When(made(handover))
	s.Then(
		&deliveryv1.DeliveryDispatched{OrderId: flowtest.Order, Courier: "counter", Handover: handover},
		&deliveryv1.DeliveryDelivered{OrderId: flowtest.Order, Courier: "counter"},
	)
	s.WhenRecorded("delivery.dispatched")
	s.Then()
}

func TestACourierIsSentToAnAddress(t *testing.T) {
	c := &company{dispatch: Dispatch{Courier: "Grace"}}
	s := flowtest.New(t, Flow(c))
	s.When(made(home))
	s.Then(dispatched)
	if want := []string{"dispatch " + dispatchKey + " to 12 Mill Lane"}; !slices.Equal(c.asked, want) {
		t.Errorf("asked %v, want %v", c.asked, want)
	}
	if got := flowtest.Doc[Delivery](s, flow.States, "delivery/"+flowtest.Order); got != (Delivery{Phase: Dispatched, Courier: "Grace"}) {
		t.Errorf("the delivery is %+v", got)
	}
}

func TestTheCourierHandsTheDrinksOver(t *testing.T) {
	c := &company{}
	s := sent(t, c)
	s.WhenRecorded("delivery.dispatched")
	s.Then(delivered)
	if want := []string{"hand over " + handOverKey + " to 12 Mill Lane by Grace"}; !slices.Equal(c.asked, want) {
		t.Errorf("asked %v, want %v", c.asked, want)
	}
}

func TestWithoutACourierTheDeliveryFails(t *testing.T) {
	s := flowtest.New(t, Flow(&company{dispatch: Dispatch{Refused: "no_courier", Detail: "all are out"}}))
	s.When(made(home))
	s.Then(failed("no_courier", "all are out"))
}

func TestWithNobodyHomeTheDeliveryFails(t *testing.T) {
	for _, reason := range []string{"nobody_home", "refused"} {
		c := &company{handOver: HandOver{Refused: reason, Detail: "rang twice"}}
		s := sent(t, c)
		s.WhenRecorded("delivery.dispatched")
		s.Then(failed(reason, "rang twice"))
		if got := flowtest.Doc[Delivery](s, flow.States, "delivery/"+flowtest.Order); got != (Delivery{Phase: Failed, Courier: "Grace", Reason: reason}) {
			t.Errorf("the delivery is %+v", got)
		}
	}
}

func TestADeliveryBeginsAndEndsOnce(t *testing.T) {
	c := &company{}
	s := sent(t, c)
	s.When(made(home)) // as another message
	s.Then()
	s.WhenRecorded("delivery.dispatched")
	s.Then(delivered)
	c.handOver = HandOver{Refused: "nobody_home"}
	s.When(&deliveryv1.DeliveryDispatched{OrderId: flowtest.Order, Courier: "Alan", Handover: home})
	s.Then()
}

func TestACompanyThatDoesNotAnswerIsAskedAgainAndThenCalledOff(t *testing.T) {
	c := &company{err: errors.New("no answer")}
	s := flowtest.New(t, Flow(c))
	for attempt := 1; attempt < patience.Attempts; attempt++ {
		s.Attempt(attempt)
		s.When(made(home))
		s.ThenTrouble("no answer")
	}
	s.Attempt(patience.Attempts)
	s.When(made(home))
	s.Then(failed("no_courier", "the courier company does not answer"))
	if want := "void " + dispatchKey; c.asked[len(c.asked)-1] != want {
		t.Errorf("asked %v, want %q in the end: whoever was sent must be called back", c.asked, want)
	}
}

func TestNothingIsGivenUpBeforeItIsCalledOff(t *testing.T) {
	c := &company{err: errors.New("no answer"), deaf: errors.New("still no answer")}
	s := flowtest.New(t, Flow(c))
	s.Attempt(patience.Attempts)
	s.When(made(home))
	s.ThenTrouble("void after giving up: still no answer")

	c.err, c.deaf, c.asked = nil, nil, nil // it is back, but it is too late for a new dispatch
	s.Attempt(patience.Attempts + 1)
	s.When(made(home))
	s.Then(failed("no_courier", "the courier company does not answer"))
	if want := []string{"void " + dispatchKey}; !slices.Equal(c.asked, want) {
		t.Errorf("asked %v, want %v", c.asked, want)
	}
}

func TestAHandOverThatIsGivenUpIsWhatTheCompanySaysItWas(t *testing.T) {
	for _, settled := range []HandOver{{}, {Refused: "no_courier", Detail: "called off"}} {
		c := &company{settled: settled}
		s := sent(t, c)
		c.err = errors.New("no answer")
		s.Attempt(patience.Attempts - 1)
		s.WhenRecorded("delivery.dispatched")
		s.ThenTrouble("no answer")
		s.Attempt(patience.Attempts)
		s.WhenRecorded("delivery.dispatched")
		if settled.Refused == "" {
			s.Then(delivered) // it had been handed over, only the answer was lost
		} else {
			s.Then(failed("no_courier", "called off"))
		}
		if want := "void hand-over " + handOverKey; c.asked[len(c.asked)-1] != want {
			t.Errorf("asked %v, want %q in the end", c.asked, want)
		}
	}
}
