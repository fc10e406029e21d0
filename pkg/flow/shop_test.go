package flow_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// plan is a shop of the shape of the real one, in which nobody decides anything: its parts by name, such as pay/charge, so
// that a test can put another one in the place of one. (The real shop is verified in ops/shop.)
type plan struct{ parts []named }

type named struct {
	name string
	part flow.Part
}

type none struct{}

// shop is the flows of the plan, as a graph.
func shop() flow.Graph { return newPlan().graph() }

func newPlan() *plan {
	p := &plan{}
	items := []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}}
	const why = "a reason"

	p.put("menu/item", at("item"))
	p.put("menu/page", flow.NewView("page", items, fold))
	p.put("menu/add", flow.Command("add", at("item"), nothing[none, int]).Emits(&menuv1.ItemAdded{}).NotCompensated(why))
	p.put("menu/edit", flow.Command("edit", at("item"), nothing[none, int]).Emits(&menuv1.ItemEdited{}).NotCompensated(why))
	p.put("menu/retire", flow.Command("retire", at("item"), nothing[none, int]).Emits(&menuv1.ItemRetired{}).NotCompensated(why))
	p.put("menu/sell-out", flow.On("sell-out", at("item"), nothing[none, *makev1.StockDepleted]).Emits(&menuv1.ItemEdited{}).NotCompensated(why))
	p.put("menu/restock", flow.On("restock", at("item"), nothing[none, *makev1.StockReplenished]).Emits(&menuv1.ItemEdited{}).NotCompensated(why))

	p.put("order/order", at("order"))
	p.put("order/menu_copy", flow.NewCopy("menu_copy", items, fold))
	p.put("order/customer_copy", flow.NewView("customer_copy", []proto.Message{&payv1.CustomerFlagged{}}, fold))
	p.put("order/status", status(&makev1.StockConsumed{}, &orderv1.OrderCancelled{}, &orderv1.OrderCompleted{}, &payv1.PaymentRefunded{}, &makev1.DrinkDiscarded{}))
	p.put("order/place", flow.Command("place", at("order"), nothing[none, int]).Emits(&orderv1.OrderPlaced{}))
	p.put("order/cancel", cancelling(&payv1.PaymentFailed{}, &makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}))
	p.put("order/request-cancel", flow.Command("request-cancel", at("order"), nothing[none, int]).Emits(&orderv1.OrderCancelRequested{}).NotCompensated(why))
	p.put("order/expire", flow.On("expire", at("order"), nothing[none, *orderv1.OrderDeadline]).Emits(&orderv1.OrderCancelRequested{}).NotCompensated(why))
	p.put("order/complete", flow.On("complete", at("order"), nothing[none, *deliveryv1.DeliveryDelivered]).Emits(&orderv1.OrderCompleted{}).NotCompensated(why))

	p.put("pay/payment", at("payment"))
	p.put("pay/customer", at("customer"))
	p.put("pay/charge", charging().GiveUp(nil, givenUp[*orderv1.OrderPlaced]))
	p.put("pay/refund", refunding(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}))
	p.put("pay/flag", flow.On("flag", at("customer"), nothing[none, *payv1.PaymentFailed]).Emits(&payv1.CustomerFlagged{}).NotCompensated(why))

	p.put("make/drink", at("drink"))
	p.put("make/stock", at("stock"))
	p.put("make/recipe_copy", flow.NewCopy("recipe_copy", items, fold))
	p.put("make/reserve", reserving().NotCompensated(why))
	p.put("make/cancel", flow.Judge("cancel", "reserve", at("drink"), func(*none, *orderv1.OrderCancelRequested, bool) flow.Outcome { return flow.Nothing() }).
		Emits(&makev1.MakeFailed{}, &makev1.MakeCancelRejected{}).NotCompensated(why))
	p.put("make/brew", brewing().Settles(&makev1.StockReserved{}))
	p.put("make/discard", flow.Compensate("discard", "brew", at("drink"), undo[*makev1.DrinkMade]).When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.DrinkDiscarded{}))
	p.put("make/replenish", flow.Command("replenish", at("stock"), nothing[none, int]).Emits(&makev1.StockReplenished{}).NotCompensated(why))

	p.put("delivery/delivery", at("delivery"))
	p.put("delivery/dispatch", flow.On("dispatch", at("delivery"), nothing[none, *makev1.DrinkMade]).
		Emits(&deliveryv1.DeliveryDispatched{}, &deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).NotCompensated(why))
	p.put("delivery/hand-over", flow.On("hand-over", at("delivery"), nothing[none, *deliveryv1.DeliveryDispatched]).
		Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).NotCompensated(why))
	return p
}

// Steps that examples change.

func status(more ...proto.Message) flow.Part {
	return flow.NewView("status", append(more,
		&orderv1.OrderPlaced{}, &payv1.PaymentCaptured{}, &makev1.StockReleased{}, &makev1.MakeCancelRejected{}), fold)
}

func cancelling(when ...proto.Message) flow.Part {
	return flow.Compensate("cancel", "place", at("order"), undo[*orderv1.OrderPlaced]).When(when...).Emits(&orderv1.OrderCancelled{})
}

func charging() *flow.Step[none, *orderv1.OrderPlaced] {
	ask := func(context.Context, flow.Call, *orderv1.OrderPlaced) (int, error) { return 0, nil }
	decide := func(*none, *orderv1.OrderPlaced, int) flow.Outcome { return flow.Nothing() }
	return flow.Ask("charge", at("payment"), ask, decide).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{})
}

func refunding(when ...proto.Message) *flow.Step[none, *payv1.PaymentCaptured] {
	return flow.Compensate("refund", "charge", at("payment"), undo[*payv1.PaymentCaptured]).When(when...)
}

func reserving() *flow.Step[none, *payv1.PaymentCaptured] {
	return flow.On("reserve", at("drink"), nothing[none, *payv1.PaymentCaptured]).
		Emits(&makev1.StockReserved{}, &makev1.StockDepleted{}, &makev1.MakeFailed{})
}

func brewing() *flow.Step[none, *makev1.StockReserved] {
	return flow.On("brew", at("drink"), nothing[none, *makev1.StockReserved]).
		Emits(&makev1.DrinkMade{}, &makev1.StockConsumed{}, &makev1.MakeFailed{}, &makev1.StockReleased{}, &makev1.StockReplenished{})
}

// at is a stream of a category, and the source of states for the steps that write to it.
func at(category string) *flow.Stream[none] {
	return flow.NewStream(category, func(*none, proto.Message) {})
}

func undo[F proto.Message](*none, F, flow.Failure) flow.Outcome { return flow.Nothing() }

func fold(*none, proto.Message, event.Envelope) {}

// put adds a part, in the place of the one of that name if there is one.
func (p *plan) put(name string, part flow.Part) {
	if i := slices.IndexFunc(p.parts, func(n named) bool { return n.name == name }); i >= 0 {
		p.parts[i].part = part
		return
	}
	p.parts = append(p.parts, named{name, part})
}

// drop leaves parts out; "pay/" stands for all of pay.
func (p *plan) drop(prefixes ...string) {
	for _, prefix := range prefixes {
		p.parts = slices.DeleteFunc(p.parts, func(n named) bool { return strings.HasPrefix(n.name, prefix) })
	}
}

func (p *plan) graph() flow.Graph {
	var services []string
	parts := map[string][]flow.Part{}
	for _, n := range p.parts {
		service, _, _ := strings.Cut(n.name, "/")
		if parts[service] == nil {
			services = append(services, service)
		}
		parts[service] = append(parts[service], n.part)
	}
	var flows []*flow.Flow
	for _, service := range services {
		flows = append(flows, flow.New(service, parts[service]...))
	}
	return flow.NewGraph(flows...)
}

// stepOf returns a step of a graph, to be changed into one that flow.New would refuse.
func stepOf(t *testing.T, g flow.Graph, name string) *flow.GraphStep {
	t.Helper()
	for i, s := range g.Steps {
		if s.Service+"/"+s.Name == name {
			g.Steps[i].Emits = slices.Clone(s.Emits)
			return &g.Steps[i]
		}
	}
	t.Fatalf("there is no step %s", name)
	return nil
}
