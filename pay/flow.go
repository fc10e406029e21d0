// Package pay takes the money for orders and gives it back.
//
// Read flow.go first: it is the service's whole part in the choreography. Then pay.go (what is decided), gateway.go (the
// outside party it asks), http.go and service.go.
package pay

import (
	"context"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
)

var (
	payments  = flow.NewStream("payment", (*Payment).evolve)
	customers = flow.NewStream("customer", (*Customer).evolve)
	refusals  = flow.NewView("refusals", []proto.Message{&payv1.PaymentFailed{}, &payv1.CustomerFlagged{}}, (*Refusals).fold).By(byCustomer)
)

// Flow is the service's part in the choreography, with the gateway it asks; nil will do for looking at the flow.
func Flow(gateway Gateway) *flow.Flow {
	capture := func(ctx context.Context, c flow.Call, placed *orderv1.OrderPlaced) (Capture, error) {
		return gateway.Capture(ctx, c.Key, placed.OrderId, placed.PaymentToken, placed.Total)
	}
	void := func(ctx context.Context, c flow.Call) (Void, error) { return gateway.Void(ctx, c.Key) }

	return flow.New("pay",
		payments, customers, refusals,

		flow.Ask("charge", payments, capture, charge).
			Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).
			Retry(patience).
			GiveUp(func(ctx context.Context, c flow.Call) (any, error) { return void(ctx, c) }, unreachable),
		flow.CompensateAsk("refund", "charge", payments, void, refund).
			When(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).
			Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}).
			Never(neverCharged),

		flow.On("flag", flow.Join(record), flag).
			Emits(&payv1.CustomerFlagged{}).
			NotCompensated("an observation about the past stays true"),
	)
}
