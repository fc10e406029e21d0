package flow_test

import (
	"context"
	"encoding/json"
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

// shop is a shop of the shape of the real one, in which nobody decides anything. (The real one is verified in ops/shop.)
func shop() flow.Graph {
	type none struct{}
	stream := func(category string) *flow.Stream[none] {
		return flow.NewStream(category, func(*none, proto.Message) {})
	}
	items := []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}}
	fold := func(*none, proto.Message, event.Envelope) {}
	const why = "a reason"

	item := stream("item")
	menu := flow.New("menu", item,
		flow.NewView("page", items, fold),
		flow.Command("add", item, nothing[none, int]).Emits(&menuv1.ItemAdded{}).NotCompensated(why),
		flow.Command("edit", item, nothing[none, int]).Emits(&menuv1.ItemEdited{}).NotCompensated(why),
		flow.Command("retire", item, nothing[none, int]).Emits(&menuv1.ItemRetired{}).NotCompensated(why),
		flow.On("sell-out", item, nothing[none, *makev1.StockDepleted]).Emits(&menuv1.ItemEdited{}).NotCompensated(why),
		flow.On("restock", item, nothing[none, *makev1.StockReplenished]).Emits(&menuv1.ItemEdited{}).NotCompensated(why))

	orders := stream("order")
	order := flow.New("order", orders,
		flow.NewCopy("menu_copy", items, fold),
		flow.NewView("customer_copy", []proto.Message{&payv1.CustomerFlagged{}}, fold),
		flow.NewView("status", []proto.Message{
			&orderv1.OrderPlaced{}, &orderv1.OrderCancelled{}, &orderv1.OrderCompleted{}, &payv1.PaymentCaptured{}, &payv1.PaymentRefunded{},
			&makev1.StockConsumed{}, &makev1.StockReleased{}, &makev1.DrinkDiscarded{}, &makev1.MakeCancelRejected{},
		}, fold),
		flow.Command("place", orders, nothing[none, int]).Emits(&orderv1.OrderPlaced{}),
		flow.Compensate("cancel", "place", orders, func(*none, *orderv1.OrderPlaced, flow.Failure) flow.Outcome { return flow.Nothing() }).
			When(&payv1.PaymentFailed{}, &makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&orderv1.OrderCancelled{}),
		flow.Command("request-cancel", orders, nothing[none, int]).Emits(&orderv1.OrderCancelRequested{}).NotCompensated(why),
		flow.On("expire", orders, nothing[none, *orderv1.OrderDeadline]).Emits(&orderv1.OrderCancelRequested{}).NotCompensated(why),
		flow.On("complete", orders, nothing[none, *deliveryv1.DeliveryDelivered]).Emits(&orderv1.OrderCompleted{}).NotCompensated(why))

	payment, customer := stream("payment"), stream("customer")
	pay := flow.New("pay", payment, customer,
		flow.Ask("charge", payment, func(context.Context, flow.Call, *orderv1.OrderPlaced) (int, error) { return 0, nil },
			func(*none, *orderv1.OrderPlaced, int) flow.Outcome { return flow.Nothing() }).
			Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).
			GiveUp(nil, func(*none, *orderv1.OrderPlaced, any) flow.Outcome { return flow.Nothing() }),
		flow.Compensate("refund", "charge", payment, func(*none, *payv1.PaymentCaptured, flow.Failure) flow.Outcome { return flow.Nothing() }).
			When(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}),
		flow.On("flag", customer, nothing[none, *payv1.PaymentFailed]).Emits(&payv1.CustomerFlagged{}).NotCompensated(why))

	drink, stock := stream("drink"), stream("stock")
	kitchen := flow.New("make", drink, stock,
		flow.NewCopy("recipe_copy", items, fold),
		flow.On("reserve", drink, nothing[none, *payv1.PaymentCaptured]).
			Emits(&makev1.StockReserved{}, &makev1.StockDepleted{}, &makev1.MakeFailed{}).NotCompensated(why),
		flow.Judge("cancel", "reserve", drink, func(*none, *orderv1.OrderCancelRequested, bool) flow.Outcome { return flow.Nothing() }).
			Emits(&makev1.MakeFailed{}, &makev1.MakeCancelRejected{}).NotCompensated(why),
		flow.On("brew", drink, nothing[none, *makev1.StockReserved]).
			Emits(&makev1.DrinkMade{}, &makev1.StockConsumed{}, &makev1.MakeFailed{}, &makev1.StockReleased{}, &makev1.StockReplenished{}).
			Settles(&makev1.StockReserved{}),
		flow.Compensate("discard", "brew", drink, func(*none, *makev1.DrinkMade, flow.Failure) flow.Outcome { return flow.Nothing() }).
			When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.DrinkDiscarded{}),
		flow.Command("replenish", stock, nothing[none, int]).Emits(&makev1.StockReplenished{}).NotCompensated(why))

	deliveries := stream("delivery")
	delivery := flow.New("delivery", deliveries,
		flow.On("dispatch", deliveries, nothing[none, *makev1.DrinkMade]).
			Emits(&deliveryv1.DeliveryDispatched{}, &deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).NotCompensated(why),
		flow.On("hand-over", deliveries, nothing[none, *deliveryv1.DeliveryDispatched]).
			Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).NotCompensated(why))

	return flow.NewGraph(menu, order, pay, kitchen, delivery)
}

// at returns a step of the graph, to be changed. The steps of a graph share their lists with nobody.
func at(t *testing.T, g flow.Graph, name string) *flow.GraphStep {
	t.Helper()
	for i, s := range g.Steps {
		if s.Service+"/"+s.Name == name {
			g.Steps[i].Hears, g.Steps[i].Emits = slices.Clone(s.Hears), slices.Clone(s.Emits)
			return &g.Steps[i]
		}
	}
	t.Fatalf("there is no step %s", name)
	return nil
}

func without(list []string, typ string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(t string) bool { return t == typ })
}

func TestTheShapeOfTheShopHolds(t *testing.T) {
	if problems := shop().Verify(); len(problems) > 0 {
		t.Errorf("found\n%s", strings.Join(problems, "\n"))
	}
}

func TestAGraphIsWhatTheFlowsSay(t *testing.T) {
	g := shop()
	if want := []string{"menu", "order", "pay", "make", "delivery"}; !slices.Equal(g.Services, want) {
		t.Errorf("the services are %v", g.Services)
	}
	for _, want := range []string{
		`{"service":"order","name":"place","kind":"command","hears":["place"],"emits":["order.placed"]}`,
		`{"service":"order","name":"cancel","kind":"compensation","hears":["payment.failed","make.failed","delivery.failed"],"emits":["order.cancelled"],"undoes":"order.placed","of":"place"}`,
		`{"service":"order","name":"expire","kind":"timer","hears":["order.deadline"],"emits":["order.cancel_requested"],"final":"a reason"}`,
		`{"service":"pay","name":"charge","kind":"event","hears":["order.placed"],"emits":["payment.captured","payment.failed"],"asks":true,"gives_up":true}`,
		`{"service":"make","name":"cancel","kind":"event","hears":["order.cancel_requested"],"emits":["make.failed","make.cancel_rejected"],"judges":"reserve","final":"a reason"}`,
		`{"service":"make","name":"brew","kind":"event","hears":["stock.reserved"],"emits":["drink.made","stock.consumed","make.failed","stock.released","stock.replenished"],"settles":["stock.reserved"]}`,
	} {
		if !slices.ContainsFunc(g.Steps, func(s flow.GraphStep) bool {
			got, err := json.Marshal(s)
			return err == nil && string(got) == want
		}) {
			t.Errorf("there is no %s", want)
		}
	}
	if v := g.Views[2]; v.Service != "order" || v.Table != "customer_copy" || !slices.Equal(v.Hears, []string{"customer.flagged"}) {
		t.Errorf("a view is %+v", v)
	}
}

// What is wrong with a graph is found, and nothing else.
func TestABrokenGraphIsFoundOut(t *testing.T) {
	for _, c := range []struct {
		name     string
		spoil    func(t *testing.T, g *flow.Graph)
		problems []string
	}{
		{"an event that nobody hears", func(t *testing.T, g *flow.Graph) {
			for i, v := range g.Views {
				g.Views[i].Hears = without(v.Hears, "stock.consumed")
			}
		}, []string{"stock.consumed is heard by nobody and is not terminal"}},

		{"a timer that nobody hears", func(t *testing.T, g *flow.Graph) {
			g.Steps = slices.DeleteFunc(g.Steps, func(s flow.GraphStep) bool { return s.Name == "expire" })
		}, []string{"order.deadline is heard by nobody and is not terminal"}},

		{"terminal events need not be heard", func(t *testing.T, g *flow.Graph) {
			for i := range g.Views {
				for _, typ := range []string{"order.cancelled", "order.completed", "payment.refunded", "drink.discarded"} {
					g.Views[i].Hears = without(g.Views[i].Hears, typ)
				}
			}
		}, nil},

		{"an event that nobody writes", func(t *testing.T, g *flow.Graph) { at(t, *g, "pay/flag").Emits = nil },
			[]string{"customer.flagged is declared, but no step of pay emits it"}},

		{"a circle over two services", func(t *testing.T, g *flow.Graph) {
			g.Steps = append(g.Steps, flow.GraphStep{Service: "order", Name: "try-again", Kind: "event", Hears: []string{"payment.failed"}, Emits: []string{"order.placed"}, Final: "a reason"})
		}, []string{
			"events go round in a circle: order/try-again -> order.placed -> pay/charge -> payment.failed -> order/try-again",
			"events go round in a circle: pay/charge -> payment.failed -> order/try-again -> order.placed -> pay/charge",
		}},

		{"a step that hears itself", func(t *testing.T, g *flow.Graph) {
			s := at(t, *g, "menu/sell-out")
			s.Hears = append(s.Hears, "item.edited")
		}, []string{"events go round in a circle: menu/sell-out -> item.edited -> menu/sell-out"}},

		{"a failure that is not compensated", func(t *testing.T, g *flow.Graph) {
			s := at(t, *g, "pay/refund")
			s.Hears = without(s.Hears, "delivery.failed")
		}, []string{"payment.captured is not undone on delivery.failed, which can follow it: payment.captured -> make/reserve -> stock.reserved -> make/brew -> drink.made -> " +
			"delivery/dispatch -> delivery.dispatched -> delivery/hand-over -> delivery.failed"}},

		{"a failure of a step's own", func(t *testing.T, g *flow.Graph) {
			s := at(t, *g, "order/cancel")
			s.Hears = without(s.Hears, "payment.failed")
		}, []string{"order.placed is not undone on payment.failed, which can follow it: order.placed -> pay/charge -> payment.failed"}},

		{"a compensation that cannot be reached", func(t *testing.T, g *flow.Graph) {
			s := at(t, *g, "pay/refund")
			s.Hears = append(s.Hears, "payment.failed")
		}, []string{"pay/refund undoes payment.captured on payment.failed, which cannot follow it"}},

		{"a step without a reason", func(t *testing.T, g *flow.Graph) { at(t, *g, "order/complete").Final = "" },
			[]string{"order/complete is not compensated and does not say why"}},

		{"a step that is not compensated any more", func(t *testing.T, g *flow.Graph) {
			g.Steps = slices.DeleteFunc(g.Steps, func(s flow.GraphStep) bool { return s.Name == "discard" })
		}, []string{"drink.discarded is declared, but no step of make emits it", "make/brew is not compensated and does not say why"}},

		{"what is settled needs no compensation", func(t *testing.T, g *flow.Graph) {
			at(t, *g, "make/reserve").Final = ""
			g.Steps = append(g.Steps, flow.GraphStep{Service: "make", Name: "unreserve", Kind: "compensation", Hears: []string{"delivery.failed"}, Emits: []string{"stock.released"}, Undoes: "stock.reserved", Of: "reserve"})
		}, []string{"make/unreserve undoes stock.reserved on delivery.failed, which cannot follow it"}},

		{"what is not settled needs one", func(t *testing.T, g *flow.Graph) {
			at(t, *g, "make/brew").Settles = nil
			at(t, *g, "make/reserve").Final = ""
			g.Steps = append(g.Steps, flow.GraphStep{Service: "make", Name: "unreserve", Kind: "compensation", Hears: []string{"delivery.failed"}, Emits: []string{"stock.released"}, Undoes: "stock.reserved", Of: "reserve"})
		}, []string{"stock.reserved is not undone on make.failed, which can follow it: stock.reserved -> make/brew -> make.failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := shop()
			c.spoil(t, &g)
			if problems := g.Verify(); !slices.Equal(problems, c.problems) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(problems, "\n"), strings.Join(c.problems, "\n"))
			}
		})
	}
}

func TestThePictureShowsStepsAndWhatGoesBetweenThem(t *testing.T) {
	page := shop().Markdown()
	for _, want := range []string{
		"  subgraph order_service[order]\n    order_place([place])\n    order_cancel[\\cancel\\]\n",
		"    pay_charge[[charge]]\n",
		"  order_place -->|order.placed| pay_charge\n",
		"  make_reserve -.->|make.failed| pay_refund\n",
		"  delivery_hand_over -.->|delivery.failed| make_discard\n",
		"| order | place | HTTP | order.placed | cancel, on payment.failed, make.failed, delivery.failed |\n",
		"| pay | refund | make.failed, delivery.failed | payment.refunded, payment.failed | *undoes payment.captured of charge* |\n",
		"| order | complete | delivery.delivered | order.completed | – a reason |\n",
		"| order | customer_copy | customer.flagged |\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("there is no %q", want)
		}
	}
}

func TestAnEventHasOneOwner(t *testing.T) {
	if owner, ok := flow.Owner("drink.made"); !ok || owner != "make" {
		t.Errorf("drink.made is of %q", owner)
	}
	if _, ok := flow.Owner("drink.spilled"); ok {
		t.Error("drink.spilled is of somebody")
	}
	if got, want := flow.OwnedBy("order"), []string{"order.cancel_requested", "order.cancelled", "order.completed", "order.placed"}; !slices.Equal(got, want) {
		t.Errorf("order owns %v, want %v: timers are nobody's business", got, want)
	}
}
