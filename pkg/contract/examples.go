package contract

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
)

// Example returns a filled message of the given wire type: Ada's order of two cups, at its various
// turns. Every call makes a new one, for the caller to change. An unknown type gives nil.
func Example(wireType string) proto.Message {
	const (
		orderID  = "019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27"
		customer = "ada"
		capture  = "cap_7f3a91"
		courier  = "Grace"
	)
	price := &shopv1.Money{Amount: 450, Currency: "EUR"}
	total := &shopv1.Money{Amount: 900, Currency: "EUR"}
	lines := []*shopv1.Line{{Sku: "classic", Name: "Classic hot chocolate", Quantity: 2, UnitPrice: price}}
	handover := &shopv1.Handover{Type: "address", Address: "12 Mill Lane"}
	recipe := []*shopv1.Ingredient{{Name: "milk", Amount: 200}, {Name: "chocolate", Amount: 30}}
	reserved := []*shopv1.Ingredient{{Name: "milk", Amount: 400}, {Name: "chocolate", Amount: 60}}

	switch wireType {
	case "item.added":
		return &menuv1.ItemAdded{Sku: "classic", Name: "Classic hot chocolate", Price: price, Recipe: recipe,
			Available: true, Offered: true}
	case "item.edited":
		return &menuv1.ItemEdited{Sku: "classic", Name: "Classic hot chocolate", Price: price, Recipe: recipe,
			Offered: true, Depleted: []string{"milk"}}
	case "item.retired":
		return &menuv1.ItemRetired{Sku: "classic", Name: "Classic hot chocolate", Price: price, Recipe: recipe}

	case "order.placed":
		return &orderv1.OrderPlaced{OrderId: orderID, Customer: customer, Lines: lines, Total: total,
			PaymentToken: "tok_ok", Handover: handover,
			Deadline: timestamppb.New(time.Date(2026, time.December, 6, 16, 45, 0, 0, time.UTC))}
	case "order.cancel_requested":
		return &orderv1.OrderCancelRequested{OrderId: orderID, By: "customer"}
	case "order.cancelled":
		return &orderv1.OrderCancelled{OrderId: orderID, Cause: "make.failed", Reason: "out_of_stock", Detail: "no milk left"}
	case "order.completed":
		return &orderv1.OrderCompleted{OrderId: orderID}
	case "order.deadline":
		return &orderv1.OrderDeadline{OrderId: orderID}

	case "payment.captured":
		return &payv1.PaymentCaptured{OrderId: orderID, Customer: customer, Amount: total, CaptureId: capture,
			Lines: lines, Handover: handover}
	case "payment.failed":
		return &payv1.PaymentFailed{OrderId: orderID, Customer: customer, Amount: total,
			Reason: "declined", Detail: "the card was declined"}
	case "payment.refunded":
		return &payv1.PaymentRefunded{OrderId: orderID, Amount: total, CaptureId: capture, RefundId: "ref_c20d58",
			Reason: "out_of_stock"}
	case "customer.flagged":
		return &payv1.CustomerFlagged{Customer: customer, Refusals: 3, WindowSeconds: 600}

	case "drink.made":
		return &makev1.DrinkMade{OrderId: orderID, Lines: lines, Handover: handover}
	case "make.failed":
		return &makev1.MakeFailed{OrderId: orderID, Reason: "out_of_stock", Detail: "no milk left"}
	case "drink.discarded":
		return &makev1.DrinkDiscarded{OrderId: orderID, Lines: lines, Reason: "nobody_home"}
	case "make.cancel_rejected":
		return &makev1.MakeCancelRejected{OrderId: orderID, Detail: "the drinks are being made"}
	case "stock.reserved":
		return &makev1.StockReserved{Location: "main", OrderId: orderID, Ingredients: reserved, Lines: lines, Handover: handover}
	case "stock.consumed":
		return &makev1.StockConsumed{Location: "main", OrderId: orderID, Ingredients: reserved}
	case "stock.released":
		return &makev1.StockReleased{Location: "main", OrderId: orderID, Ingredients: reserved}
	case "stock.replenished":
		return &makev1.StockReplenished{Location: "main", Ingredient: "milk", Amount: 5000, Available: 5100, Cause: "staff"}
	case "stock.depleted":
		return &makev1.StockDepleted{Location: "main", Ingredient: "milk", Available: 100}

	case "delivery.dispatched":
		return &deliveryv1.DeliveryDispatched{OrderId: orderID, Courier: courier, Handover: handover}
	case "delivery.delivered":
		return &deliveryv1.DeliveryDelivered{OrderId: orderID, Courier: courier}
	case "delivery.failed":
		return &deliveryv1.DeliveryFailed{OrderId: orderID, Reason: "nobody_home", Detail: "rang twice"}
	}
	return nil
}
