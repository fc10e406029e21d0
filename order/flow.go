// Package order takes orders and follows them to their end.
//
// Read flow.go first: it is the service's whole part in the choreography. Then order.go (what is decided), view.go (what
// people see), http.go (how they ask), service.go (how it is wired).
package order

import (
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
)

var (
	orders = flow.NewStream("order", (*Order).evolve)

	menu      = flow.NewCopy("menu_copy", events(&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}), (*Item).copy)
	customers = flow.NewView("customer_copy", events(&payv1.CustomerFlagged{}), (*Customer).fold).By(byCustomer)

	status  = flow.NewView("order_status", saga, (*Status).fold)
	history = flow.NewJournal("order_history", saga, (*Entry).fold)
)

// saga are the events of an order's life, over all services.
var saga = events(
	&orderv1.OrderPlaced{}, &orderv1.OrderCancelRequested{}, &orderv1.OrderCancelled{}, &orderv1.OrderCompleted{},
	&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}, &payv1.PaymentRefunded{},
	&makev1.StockReserved{}, &makev1.StockConsumed{}, &makev1.StockReleased{},
	&makev1.DrinkMade{}, &makev1.MakeFailed{}, &makev1.DrinkDiscarded{}, &makev1.MakeCancelRejected{},
	&deliveryv1.DeliveryDispatched{}, &deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{},
)

// Flow is the service's part in the choreography.
var Flow = flow.New("order",
	orders, menu, customers, status, history,

	flow.Command("place", flow.Join(counter), place).
		Emits(&orderv1.OrderPlaced{}),
	flow.Compensate("cancel", "place", orders, cancel).
		When(&payv1.PaymentFailed{}, &makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).
		Emits(&orderv1.OrderCancelled{}),

	flow.Command("request-cancel", orders, requestCancel).
		Emits(&orderv1.OrderCancelRequested{}).
		NotCompensated("a wish: make decides whether it comes in time"),
	flow.On("expire", orders, expire).
		Emits(&orderv1.OrderCancelRequested{}).
		NotCompensated("a wish: make decides whether it comes in time"),

	flow.On("complete", orders, complete).
		Emits(&orderv1.OrderCompleted{}).
		NotCompensated("the end of the saga"),
)

func events(messages ...proto.Message) []proto.Message { return messages }
