// Package delivery hands the drinks over: at the counter, or by a courier.
//
// Read flow.go first: it is the service's whole part in the choreography. Then delivery.go (what is decided), courier.go
// (the outside party it asks), http.go and service.go.
package delivery

import (
	"context"
	"time"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/flow"
)

var deliveries = flow.NewStream("delivery", (*Delivery).evolve)

// patience is how long the courier company is asked before it is given up.
var patience = flow.Retry{Attempts: 4, Delays: []time.Duration{time.Second, time.Second, 10 * time.Second}, Timeout: 3 * time.Second}

// Flow is the service's part in the choreography, with the courier company it asks; nil will do for looking at the flow.
func Flow(courier Courier) *flow.Flow {
	send := func(ctx context.Context, c flow.Call, made *makev1.DrinkMade) (Dispatch, error) {
		if made.Handover.GetType() == counter {
			return Dispatch{Courier: counter}, nil
		}
		return courier.Dispatch(ctx, c.Key, made.OrderId, made.Handover.GetAddress())
	}
	callBack := func(ctx context.Context, c flow.Call) (any, error) { return nil, courier.Void(ctx, c.Key) }

	handOver := func(ctx context.Context, c flow.Call, sent *deliveryv1.DeliveryDispatched) (HandOver, error) {
		if sent.Courier == counter {
			return HandOver{}, nil
		}
		return courier.HandOver(ctx, c.Key, sent.OrderId, sent.Handover.GetAddress(), sent.Courier)
	}
	// Barring a hand-over tells whether it had happened: what was handed over stays handed over.
	settle := func(ctx context.Context, c flow.Call) (any, error) { return courier.VoidHandOver(ctx, c.Key) }

	return flow.New("delivery",
		deliveries,

		flow.Ask("dispatch", deliveries, send, dispatch).
			Emits(&deliveryv1.DeliveryDispatched{}, &deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).
			Retry(patience).
			GiveUp(callBack, nobodyToSend).
			NotCompensated("nothing follows that could fail but the hand-over, which ends the saga"),
		flow.Ask("hand-over", deliveries, handOver, handedOver).
			Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).
			Retry(patience).
			GiveUp(settle, func(d *Delivery, sent *deliveryv1.DeliveryDispatched, settled any) flow.Outcome {
				return handedOver(d, sent, settled.(HandOver))
			}).
			NotCompensated("the last step: a drink that was drunk cannot be taken back"),
	)
}
