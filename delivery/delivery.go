package delivery

import (
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/flow"
)

// counter is the hand-over type and the courier's name when the customer comes for the drinks.
const counter = "counter"

// Delivery is the state of an order's delivery.
type Delivery struct {
	Phase   Phase  `json:"phase"`
	Courier string `json:"courier,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Phase is how far a delivery has come.
type Phase string

// The phases.
const (
	None       Phase = ""
	Dispatched Phase = "dispatched"
	Delivered  Phase = "delivered"
	Failed     Phase = "failed"
)

func (d *Delivery) evolve(fact proto.Message) {
	switch e := fact.(type) {
	case *deliveryv1.DeliveryDispatched:
		d.Phase, d.Courier = Dispatched, e.Courier
	case *deliveryv1.DeliveryDelivered:
		d.Phase = Delivered
	case *deliveryv1.DeliveryFailed:
		d.Phase, d.Reason = Failed, e.Reason
	}
}

// dispatch records who brings the drinks. At the counter nobody needs to: they are handed over at once.
func dispatch(d *Delivery, made *makev1.DrinkMade, answer Dispatch) flow.Outcome {
	if d.Phase != None {
		return flow.Nothing()
	}
	if answer.Refused != "" {
		return flow.Emit(&deliveryv1.DeliveryFailed{OrderId: made.OrderId, Reason: answer.Refused, Detail: answer.Detail})
	}
	outcome := flow.Emit(&deliveryv1.DeliveryDispatched{OrderId: made.OrderId, Courier: answer.Courier, Handover: made.Handover})
	if answer.Courier == counter {
		outcome = outcome.Also(&deliveryv1.DeliveryDelivered{OrderId: made.OrderId, Courier: counter})
	}
	return outcome
}

// nobodyToSend gives up on a courier company that does not answer. If somebody had been sent, they were called back.
func nobodyToSend(d *Delivery, made *makev1.DrinkMade, _ any) flow.Outcome {
	return dispatch(d, made, Dispatch{Refused: "no_courier", Detail: "the courier company does not answer"})
}

// handedOver records how the courier fared.
func handedOver(d *Delivery, sent *deliveryv1.DeliveryDispatched, answer HandOver) flow.Outcome {
	if d.Phase != Dispatched {
		return flow.Nothing()
	}
	if answer.Refused != "" {
		return flow.Emit(&deliveryv1.DeliveryFailed{OrderId: sent.OrderId, Reason: answer.Refused, Detail: answer.Detail})
	}
	return flow.Emit(&deliveryv1.DeliveryDelivered{OrderId: sent.OrderId, Courier: sent.Courier})
}
