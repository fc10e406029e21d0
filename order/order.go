package order

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// deadline is the name of an order's one timer.
const deadline = "deadline"

// Order is the state of one order: the fold of its own events.
type Order struct {
	Phase        Phase `json:"phase"`
	CancelWished bool  `json:"cancel_wished,omitempty"`
}

// Phase is how far an order has come, as the order service itself decides it.
type Phase string

// The phases; the last two are terminal.
const (
	Unknown   Phase = ""
	Placed    Phase = "placed"
	Completed Phase = "completed"
	Cancelled Phase = "cancelled"
)

func (o *Order) evolve(fact proto.Message) {
	switch fact.(type) {
	case *orderv1.OrderPlaced:
		o.Phase = Placed
	case *orderv1.OrderCancelRequested:
		o.CancelWished = true
	case *orderv1.OrderCancelled:
		o.Phase = Cancelled
	case *orderv1.OrderCompleted:
		o.Phase = Completed
	}
}

// PlaceOrder is the wish of a customer, as HTTP has checked it for form.
type PlaceOrder struct {
	OrderID      string
	Customer     string
	Lines        []WishedLine
	PaymentToken string
	Handover     *shopv1.Handover
	Deadline     time.Time
}

// WishedLine is a number of cups of one item.
type WishedLine struct {
	SKU      string
	Quantity int
}

// Counter is what placing an order looks at: the order, and the service's own copy of the items wished for.
type Counter struct {
	Order *Order
	Items map[string]*Item
}

func counter(r flow.Reader, wish PlaceOrder, e event.Envelope) *Counter {
	c := &Counter{Order: orders.Of(r, e.Saga.String()), Items: map[string]*Item{}}
	for _, line := range wish.Lines {
		c.Items[line.SKU] = menu.Of(r, line.SKU)
	}
	return c
}

// place accepts an order at the prices of the menu as this service knows it.
func place(c *Counter, wish PlaceOrder) flow.Outcome {
	if c.Order.Phase != Unknown {
		return flow.Refuse(flow.Conflict, "order-exists", "There is an order %s already.", wish.OrderID)
	}
	total := &shopv1.Money{}
	var lines []*shopv1.Line
	for _, line := range wish.Lines {
		item := c.Items[line.SKU]
		switch {
		case !item.Known:
			return flow.Refuse(flow.Invalid, "unknown-item", "There is no item %q on the menu. GET /menu lists them.", line.SKU)
		case item.Retired:
			return flow.Refuse(flow.Invalid, "retired-item", "The item %q is not on the menu any more. GET /menu lists what is.", line.SKU)
		case !item.Available:
			return flow.Refuse(flow.Conflict, "item-unavailable", "%s (%s) is sold out just now. Choose another item, or try again later.", item.Name, line.SKU)
		case total.Currency != "" && total.Currency != item.Currency:
			return flow.Refuse(flow.Invalid, "mixed-currencies", "One order cannot have prices in %s and %s.", total.Currency, item.Currency)
		}
		total.Currency = item.Currency
		total.Amount += item.Price * int64(line.Quantity)
		lines = append(lines, &shopv1.Line{
			Sku: line.SKU, Name: item.Name, Quantity: int32(line.Quantity),
			UnitPrice: &shopv1.Money{Amount: item.Price, Currency: item.Currency},
		})
	}
	return flow.Emit(&orderv1.OrderPlaced{
		OrderId: wish.OrderID, Customer: wish.Customer, Lines: lines, Total: total,
		PaymentToken: wish.PaymentToken, Handover: wish.Handover, Deadline: timestamppb.New(wish.Deadline),
	}).At(wish.Deadline, deadline, &orderv1.OrderDeadline{OrderId: wish.OrderID})
}

// cancel undoes the placing of an order when a later step failed.
func cancel(o *Order, placed *orderv1.OrderPlaced, because flow.Failure) flow.Outcome {
	return flow.Emit(&orderv1.OrderCancelled{
		OrderId: placed.OrderId, Cause: because.Type, Reason: because.Reason, Detail: because.Detail,
	}).Disarm(deadline)
}

// RequestCancel is the customer's wish to cancel.
type RequestCancel struct{ OrderID string }

// requestCancel passes the customer's wish on to make, the judge over what is too late.
func requestCancel(o *Order, wish RequestCancel) flow.Outcome {
	switch o.Phase {
	case Unknown:
		return flow.Refuse(flow.NotFound, "unknown-order", "There is no order %s.", wish.OrderID)
	case Completed:
		return flow.Refuse(flow.Conflict, "order-completed", "The order was delivered; it cannot be cancelled any more.")
	case Cancelled:
		return flow.Nothing()
	}
	if o.CancelWished {
		return flow.Nothing()
	}
	return flow.Emit(&orderv1.OrderCancelRequested{OrderId: wish.OrderID, By: "customer"})
}

// expire wishes to cancel an order whose deadline has passed.
func expire(o *Order, timer *orderv1.OrderDeadline) flow.Outcome {
	if o.Phase != Placed || o.CancelWished {
		return flow.Nothing()
	}
	return flow.Emit(&orderv1.OrderCancelRequested{OrderId: timer.OrderId, By: "deadline"})
}

// complete ends an order that was handed over.
func complete(o *Order, delivered *deliveryv1.DeliveryDelivered) flow.Outcome {
	if o.Phase != Placed {
		return flow.Nothing()
	}
	return flow.Emit(&orderv1.OrderCompleted{OrderId: delivered.OrderId}).Disarm(deadline)
}

// Item is the service's copy of an item of the menu.
type Item struct {
	Known     bool   `json:"known"`
	Name      string `json:"name"`
	Price     int64  `json:"price"` // minor units
	Currency  string `json:"currency"`
	Available bool   `json:"available"`
	Retired   bool   `json:"retired,omitempty"`
}

func (i *Item) copy(fact proto.Message, _ event.Envelope) {
	switch e := fact.(type) {
	case *menuv1.ItemAdded:
		*i = Item{Known: true, Name: e.Name, Price: e.Price.GetAmount(), Currency: e.Price.GetCurrency(), Available: e.Available}
	case *menuv1.ItemEdited:
		*i = Item{Known: true, Name: e.Name, Price: e.Price.GetAmount(), Currency: e.Price.GetCurrency(), Available: e.Available}
	case *menuv1.ItemRetired:
		*i = Item{Known: true, Retired: true, Name: e.Name, Price: e.Price.GetAmount(), Currency: e.Price.GetCurrency()}
	}
}

// Customer is what this service keeps of a customer: whether pay has flagged them, for the staff at the counter to see.
type Customer struct {
	Refusals  int32     `json:"refusals"`
	FlaggedAt time.Time `json:"flagged_at"`
}

func (c *Customer) fold(fact proto.Message, e event.Envelope) {
	if flagged, ok := fact.(*payv1.CustomerFlagged); ok && e.At.After(c.FlaggedAt) {
		c.Refusals, c.FlaggedAt = flagged.Refusals, e.At
	}
}

func byCustomer(fact proto.Message, _ event.Envelope) []string {
	return []string{fact.(*payv1.CustomerFlagged).Customer}
}
