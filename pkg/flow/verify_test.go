package flow_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
)

func TestASoundChoreographyIsProvedRuleByRule(t *testing.T) {
	for _, p := range shop().Prove() {
		if len(p.Problems) > 0 || p.Cases == 0 || p.Promise == "" {
			t.Errorf("%+v", p)
		}
	}
}

// broken are flows that break one rule each, and say nothing against the others.
var broken = []struct {
	rule, given string
	change      func(*plan)
	problems    []string // what, and the way that shows it
}{
	{"one-writer", "an event that no step emits", func(p *plan) {
		p.put("pay/flag", flow.On("flag", at("customer"), nothing[none, *payv1.PaymentFailed]).NotCompensated("a reason"))
	}, []string{"customer.flagged is declared, but no step of pay emits it"}},

	{"heard", "an event that nobody hears", func(p *plan) {
		p.put("order/status", status(&orderv1.OrderCancelled{}, &orderv1.OrderCompleted{}))
	}, []string{"stock.consumed is heard by nobody and is not terminal"}},

	{"heard", "a timer that nobody hears, in a saga where each step gives up", func(p *plan) {
		p.drop("order/expire")
		giveUp(p)
	}, []string{"order.deadline is heard by nobody and is not terminal"}},

	{"heard", "a timer that only a view hears: views see no timers", func(p *plan) {
		p.drop("order/expire")
		p.put("order/status", status(&makev1.StockConsumed{}, &orderv1.OrderDeadline{}))
		giveUp(p)
	}, []string{"order.deadline is heard by nobody and is not terminal"}},

	{"heard", "terminal events that nobody hears, which is fine", func(p *plan) {
		p.put("order/status", status(&makev1.StockConsumed{}))
	}, nil},

	{"written", "events of a service that is not there", func(p *plan) {
		p.drop("menu/")
		p.put("order/stock", flow.NewView("stock", []proto.Message{&makev1.StockDepleted{}, &makev1.StockReplenished{}}, fold))
	}, []string{
		"make/recipe_copy hears item.added, but nobody writes it",
		"make/recipe_copy hears item.edited, but nobody writes it",
		"make/recipe_copy hears item.retired, but nobody writes it",
		"order/menu_copy hears item.added, but nobody writes it",
		"order/menu_copy hears item.edited, but nobody writes it",
		"order/menu_copy hears item.retired, but nobody writes it",
	}},

	{"written", "a timer of another service", func(p *plan) {
		p.put("pay/remind", flow.On("remind", at("customer"), nothing[none, *orderv1.OrderDeadline]).Emits(&payv1.CustomerFlagged{}).NotCompensated("a reason"))
	}, []string{"pay/remind hears order.deadline, a timer of order"}},

	{"no-circle", "two services that answer each other", func(p *plan) {
		p.put("order/try-again", flow.On("try-again", at("order"), nothing[none, *payv1.PaymentFailed]).Emits(&orderv1.OrderPlaced{}).NotCompensated("a reason"))
	}, []string{"events go round in a circle: order/try-again -> order.placed -> pay/charge -> payment.failed -> order/try-again"}},

	{"no-circle", "a circle over three services, told once and from end to end", func(p *plan) {
		p.put("make/discard", flow.Compensate("discard", "brew", at("drink"), undo[*makev1.DrinkMade]).When(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&makev1.DrinkDiscarded{}))
		p.put("pay/again", flow.On("again", at("payment"), nothing[none, *deliveryv1.DeliveryDispatched]).Emits(&payv1.PaymentCaptured{}).NotCompensated("a reason"))
	}, []string{"events go round in a circle: delivery/dispatch -> delivery.dispatched -> pay/again -> payment.captured -> make/reserve -> stock.reserved -> make/brew -> drink.made -> delivery/dispatch"}},

	{"no-circle", "a step that hears what it emits", func(p *plan) {
		p.put("menu/polish", flow.On("polish", at("item"), nothing[none, *menuv1.ItemEdited]).Emits(&menuv1.ItemEdited{}).NotCompensated("a reason"))
	}, []string{"events go round in a circle: menu/polish -> item.edited -> menu/polish"}},

	{"compensated", "a step without an undo or a reason", func(p *plan) {
		p.put("order/complete", flow.On("complete", at("order"), nothing[none, *deliveryv1.DeliveryDelivered]).Emits(&orderv1.OrderCompleted{}))
	}, []string{"order/complete is not compensated and does not say why"}},

	{"compensated", "a reason without words", func(p *plan) {
		p.put("order/complete", flow.On("complete", at("order"), nothing[none, *deliveryv1.DeliveryDelivered]).Emits(&orderv1.OrderCompleted{}).NotCompensated(" "))
	}, []string{"order/complete is not compensated and does not say why"}},

	{"compensated", "an undo and a reason why there is none", func(p *plan) {
		p.put("make/brew", brewing().Settles(&makev1.StockReserved{}).NotCompensated("it was drunk"))
	}, []string{"make/brew says why it is not compensated (it was drunk), but make/discard undoes it"}},

	{"compensated", "a compensation that leaves no fact", func(p *plan) {
		p.put("pay/refund", refunding(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}))
		p.put("pay/give-back", flow.Command("give-back", at("payment"), nothing[none, int]).Emits(&payv1.PaymentRefunded{}).NotCompensated("a reason"))
	}, []string{"pay/refund undoes payment.captured, but emits nothing that says so"}},

	{"compensated", "a step that settles what another service holds", func(p *plan) {
		p.put("delivery/hand-over", flow.On("hand-over", at("delivery"), nothing[none, *deliveryv1.DeliveryDispatched]).
			Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).Settles(&makev1.DrinkMade{}).NotCompensated("a reason"))
	}, []string{"delivery/hand-over settles drink.made, which is of make"}},

	{"undone", "a failure far behind the fact", func(p *plan) {
		p.put("pay/refund", refunding(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}))
	}, []string{"payment.captured is not undone on delivery.failed, which can follow it: payment.captured -> make/reserve -> stock.reserved -> make/brew -> drink.made -> delivery/dispatch -> delivery.failed"}},

	{"undone", "a failure of the next step", func(p *plan) {
		p.put("order/cancel", cancelling(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}))
	}, []string{"order.placed is not undone on payment.failed, which can follow it: order.placed -> pay/charge -> payment.failed"}},

	{"undone", "a failure of another branch, beside the fact", func(p *plan) {
		p.put("delivery/book", flow.On("book", at("delivery"), nothing[none, *orderv1.OrderPlaced]).Emits(&deliveryv1.DeliveryFailed{}).NotCompensated("a reason"))
		p.drop("delivery/dispatch", "delivery/hand-over", "make/discard")
		p.put("make/brew", brewing().Settles(&makev1.StockReserved{}).NotCompensated("a reason"))
		p.put("make/bin", flow.Command("bin", at("drink"), nothing[none, int]).Emits(&makev1.DrinkDiscarded{}).NotCompensated("a reason"))
		p.put("delivery/hand-over", flow.On("hand-over", at("delivery"), nothing[none, *makev1.DrinkMade]).
			Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryDispatched{}).NotCompensated("a reason"))
		p.put("order/dispatched", flow.NewView("dispatched", []proto.Message{&deliveryv1.DeliveryDispatched{}}, fold))
		p.put("pay/refund", refunding(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}))
	}, []string{"payment.captured is not undone on delivery.failed, which can follow it: order/place -> order.placed -> delivery/book -> delivery.failed"}},

	{"undone", "a failure that a person's command brings, beside the fact", func(p *plan) {
		p.put("make/cancel", flow.On("cancel", at("drink"), nothing[none, *orderv1.OrderCancelRequested]). // no judge
															Emits(&makev1.MakeFailed{}, &makev1.MakeCancelRejected{}).NotCompensated("a reason"))
	}, []string{"drink.made is not undone on make.failed, which can follow it: order/request-cancel -> order.cancel_requested -> make/cancel -> make.failed"}},

	{"undone", "a failure that follows from another command only, beside what the first command did", func(p *plan) {
		p.put("order/cancel", cancelling(&payv1.PaymentFailed{}, &deliveryv1.DeliveryFailed{}))
		p.put("make/reserve", flow.On("reserve", at("drink"), nothing[none, *payv1.PaymentCaptured]).Emits(&makev1.StockReserved{}, &makev1.StockDepleted{}).NotCompensated("a reason"))
		p.put("make/brew", flow.On("brew", at("drink"), nothing[none, *makev1.StockReserved]).
			Emits(&makev1.DrinkMade{}, &makev1.StockConsumed{}, &makev1.StockReleased{}, &makev1.StockReplenished{}).Settles(&makev1.StockReserved{}))
	}, []string{"order.placed is not undone on make.failed, which can follow it: order/request-cancel -> order.cancel_requested -> make/cancel -> make.failed"}},

	{"undone", "a fact that is not settled any more", func(p *plan) {
		p.put("make/reserve", reserving())
		p.put("make/unreserve", flow.Compensate("unreserve", "reserve", at("stock"), undo[*makev1.StockReserved]).When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.StockReleased{}))
		p.put("make/brew", brewing())
	}, []string{"stock.reserved is not undone on make.failed, which can follow it: stock.reserved -> make/brew -> make.failed"}},

	{"undone", "a way back from what is settled", func(p *plan) {
		p.put("make/reserve", reserving())
		p.put("make/unreserve", flow.Compensate("unreserve", "reserve", at("stock"), undo[*makev1.StockReserved]).When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.StockReleased{}))
	}, []string{"make/unreserve undoes stock.reserved on delivery.failed, which cannot follow it"}},

	{"undone", "a way back from what did not happen", func(p *plan) {
		p.put("pay/refund", refunding(&payv1.PaymentFailed{}, &makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&payv1.PaymentRefunded{}))
	}, []string{"pay/refund undoes payment.captured on payment.failed, which cannot follow it"}},

	{"gives-up", "a step that asks for ever", func(p *plan) { p.put("pay/charge", charging()) },
		[]string{"pay/charge asks the outside and does not give up"}},

	{"gives-up", "a step that gives up and tells nobody", func(p *plan) {
		p.put("order/complete", flow.On("complete", at("order"), nothing[none, *deliveryv1.DeliveryDelivered]).Emits(&orderv1.OrderCompleted{}).NotCompensated("a reason").
			GiveUp(nil, givenUp[*deliveryv1.DeliveryDelivered]))
	}, []string{"order/complete gives up, but emits no Failed event"}},

	{"deadline", "a saga that no timer ends", func(p *plan) {
		p.put("order/expire", flow.On("expire", at("order"), nothing[none, *orderv1.OrderDeadline]).NotCompensated("only to look"))
	}, []string{"what order/place begins has no deadline, and can wait at " +
		"order/complete, make/reserve, make/brew, delivery/dispatch, delivery/hand-over"}},

	{"deadline", "no timer, but steps that all give up, which is fine", func(p *plan) {
		p.put("order/expire", flow.On("expire", at("order"), nothing[none, *orderv1.OrderDeadline]).NotCompensated("only to look"))
		giveUp(p)
	}, nil},

	{"ends", "a saga that goes on only by a person", func(p *plan) {
		p.put("order/cancel", flow.Compensate("cancel", "place", at("order"), undo[*orderv1.OrderPlaced]).When(&payv1.PaymentFailed{}).Emits(&orderv1.OrderCancelRequested{}))
		p.put("order/close", flow.Command("close", at("order"), nothing[none, int]).Emits(&orderv1.OrderCancelled{}, &orderv1.OrderCompleted{}).NotCompensated("a reason"))
		p.drop("order/complete", "order/expire", "order/request-cancel", "make/", "delivery/", "menu/", "order/menu_copy", "order/status")
		p.put("order/status", flow.NewView("status", []proto.Message{&payv1.PaymentCaptured{}, &orderv1.OrderCancelRequested{}, &orderv1.OrderPlaced{}}, fold))
		p.drop("pay/refund", "pay/flag", "pay/customer")
		p.put("order/expire", flow.On("expire", at("order"), nothing[none, *orderv1.OrderDeadline]).NotCompensated("only to look"))
		p.put("pay/charge", charging().NotCompensated("a reason").GiveUp(nil, givenUp[*orderv1.OrderPlaced]))
		p.put("pay/give-back", flow.Command("give-back", at("payment"), nothing[none, int]).Emits(&payv1.PaymentRefunded{}).NotCompensated("a reason"))
		p.put("pay/customer", at("customer"))
		p.put("pay/flag", flow.Command("flag", at("customer"), nothing[none, int]).Emits(&payv1.CustomerFlagged{}).NotCompensated("a reason"))
	}, []string{"no terminal event can follow order.placed without a person"}},
}

// giveUp lets each step give up that the end of an order waits for, with a Failed event; what completes it is a person,
// who has nothing to do with the order's stock and money.
func giveUp(p *plan) {
	p.put("make/reserve", reserving().NotCompensated("a reason").GiveUp(nil, givenUp[*payv1.PaymentCaptured]))
	p.put("make/brew", brewing().Settles(&makev1.StockReserved{}).GiveUp(nil, givenUp[*makev1.StockReserved]))
	p.put("delivery/dispatch", flow.On("dispatch", at("delivery"), nothing[none, *makev1.DrinkMade]).
		Emits(&deliveryv1.DeliveryDispatched{}, &deliveryv1.DeliveryFailed{}).NotCompensated("a reason").GiveUp(nil, givenUp[*makev1.DrinkMade]))
	p.put("delivery/hand-over", flow.On("hand-over", at("delivery"), nothing[none, *deliveryv1.DeliveryDispatched]).
		Emits(&deliveryv1.DeliveryDelivered{}, &deliveryv1.DeliveryFailed{}).NotCompensated("a reason").GiveUp(nil, givenUp[*deliveryv1.DeliveryDispatched]))
	p.put("order/complete", flow.Command("complete", at("order"), nothing[none, int]).Emits(&orderv1.OrderCompleted{}).NotCompensated("a reason"))
	p.put("order/delivered", flow.NewView("delivered", []proto.Message{&deliveryv1.DeliveryDelivered{}}, fold))
}

func givenUp[M any](*none, M, any) flow.Outcome { return flow.Nothing() }

func TestABrokenChoreographyIsFoundOut(t *testing.T) {
	for _, c := range broken {
		t.Run(c.given, func(t *testing.T) {
			p := newPlan()
			c.change(p)
			found(t, p.graph(), c.rule, c.problems...)
		})
	}
}

// found fails the test unless these are all problems there are.
func found(t *testing.T, g flow.Graph, rule string, want ...string) {
	t.Helper()
	var got []string
	for _, p := range g.Verify() {
		if p.Why == "" || p.Fix == "" || !strings.Contains(p.String(), p.Why) || !strings.Contains(p.String(), p.Fix) {
			t.Errorf("it does not say why, and what to do: %s", p)
		}
		got = append(got, strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", p.Rule, p.What, strings.Join(p.Path, " -> ")), ": "))
	}
	for i, w := range want {
		want[i] = rule + ": " + w
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What flow.New refuses can still stand in a graph that was read from a file.
func TestAGraphThatNoFlowWouldMakeIsFoundOut(t *testing.T) {
	g := shop()
	s := stepOf(t, g, "order/complete")
	s.Emits = append(s.Emits, "payment.refunded")
	found(t, g, "one-writer", "order/complete emits payment.refunded, which only pay may write")

	g = shop()
	s = stepOf(t, g, "order/complete")
	s.Emits = append(s.Emits, "order.eaten")
	found(t, g, "one-writer", "order/complete emits order.eaten, which only nobody may write")

	g = shop()
	g.Services = append(g.Services, "pay")
	found(t, g, "one-writer", "two flows are those of pay")
}

func TestEachRuleHasAnExampleThatBreaksIt(t *testing.T) {
	for _, p := range shop().Prove() {
		if !slices.ContainsFunc(broken, func(c struct {
			rule, given string
			change      func(*plan)
			problems    []string
		}) bool {
			return c.rule == p.Rule && len(c.problems) > 0
		}) {
			t.Errorf("there is none for %s", p.Rule)
		}
	}
}

func TestAProofIsForMachinesToo(t *testing.T) {
	p := newPlan()
	p.put("pay/charge", charging())
	proofs := p.graph().Prove()
	i := slices.IndexFunc(proofs, func(p flow.Proof) bool { return p.Rule == "gives-up" })
	text, err := json.Marshal(proofs[i])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"rule":"gives-up","promise":"every step that asks the outside gives up in the end, and says so by a Failed event","cases":1,` +
		`"problems":[{"rule":"gives-up","what":"pay/charge asks the outside and does not give up",` +
		`"why":"when the outside never answers, the saga waits until a person looks at the dead letters","fix":"add GiveUp, which emits a Failed event"}]}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}
