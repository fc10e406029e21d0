package sim_test

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim"
)

// The bare shop: its decisions look at no state. That each is carried out once, that what was undone stays undone and that
// one of two wins is the platform's work alone.

// none is the state of streams that nobody looks at: how many facts they have.
type none struct{ Facts int }

func (n *none) evolve(proto.Message) { n.Facts++ }

var (
	orders   = flow.NewStream("order", (*none).evolve)
	payments = flow.NewStream("payment", (*none).evolve)
	drinks   = flow.NewStream("drink", (*none).evolve)
	shelf    = flow.NewStream("stock", (*none).evolve)
)

// poor is the customer whose payments fail.
const poor = "poor"

type place struct{ ID string }

type cancel struct{ ID string }

var order = flow.New("order", orders,
	flow.Command("place", orders, func(_ *none, c place) flow.Outcome {
		return flow.Emit(&orderv1.OrderPlaced{OrderId: c.ID})
	}).Emits(&orderv1.OrderPlaced{}),
	flow.Compensate("cancel", "place", orders, func(_ *none, p *orderv1.OrderPlaced, _ flow.Failure) flow.Outcome {
		return flow.Emit(&orderv1.OrderCancelled{OrderId: p.OrderId})
	}).When(&makev1.MakeFailed{}, &payv1.PaymentFailed{}).Emits(&orderv1.OrderCancelled{}),
	flow.Command("request-cancel", orders, func(_ *none, c cancel) flow.Outcome {
		return flow.Emit(&orderv1.OrderCancelRequested{OrderId: c.ID})
	}).Emits(&orderv1.OrderCancelRequested{}),
	flow.On("complete", orders, func(_ *none, made *makev1.DrinkMade) flow.Outcome {
		return flow.Emit(&orderv1.OrderCompleted{OrderId: made.OrderId})
	}).Emits(&orderv1.OrderCompleted{}),
)

// bank is an outside party as it must be: once under a key, never under a voided one.
type bank struct{ taken, voided map[string]bool }

// pay charges at the bank. careful is whether it voids what it gives up.
func pay(b *bank, careful bool) func(*sim.Outside) *flow.Flow {
	return func(o *sim.Outside) *flow.Flow {
		take := func(_ context.Context, c flow.Call, _ *orderv1.OrderPlaced) (bool, error) {
			return sim.Call(o, "take", func() (bool, error) {
				b.taken[c.Key] = !b.voided[c.Key] && c.Actor != poor
				return b.taken[c.Key], nil
			})
		}
		void := func(_ context.Context, c flow.Call) (any, error) {
			return sim.Call(o, "void", func() (any, error) {
				b.taken[c.Key], b.voided[c.Key] = false, true
				return nil, nil
			})
		}
		giveUp := void
		if !careful {
			giveUp = func(context.Context, flow.Call) (any, error) { return nil, nil }
		}
		return flow.New("pay", payments,
			flow.Ask("charge", payments, take, func(_ *none, p *orderv1.OrderPlaced, taken bool) flow.Outcome {
				if !taken {
					return flow.Emit(&payv1.PaymentFailed{OrderId: p.OrderId})
				}
				return flow.Emit(&payv1.PaymentCaptured{OrderId: p.OrderId, Amount: &shopv1.Money{Amount: 450}})
			}).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).
				Retry(flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}}).
				GiveUp(giveUp, func(_ *none, p *orderv1.OrderPlaced, _ any) flow.Outcome {
					return flow.Emit(&payv1.PaymentFailed{OrderId: p.OrderId})
				}),
			flow.CompensateAsk("refund", "charge", payments, void, func(_ *none, c *payv1.PaymentCaptured, _ flow.Failure, _ any) flow.Outcome {
				return flow.Emit(&payv1.PaymentRefunded{OrderId: c.OrderId})
			}).When(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}),
		)
	}
}

// kitchen hears of an order beside pay: a payment that failed may come before the order itself.
var kitchen = flow.New("make", drinks, shelf,
	flow.On("reserve", shelf, func(_ *none, p *orderv1.OrderPlaced) flow.Outcome {
		return flow.Emit(&makev1.StockReserved{Location: "main", OrderId: p.OrderId})
	}).Emits(&makev1.StockReserved{}),
	flow.Compensate("release", "reserve", shelf, func(_ *none, r *makev1.StockReserved, _ flow.Failure) flow.Outcome {
		return flow.Emit(&makev1.StockReleased{Location: "main", OrderId: r.OrderId})
	}).When(&payv1.PaymentFailed{}, &makev1.MakeFailed{}).Emits(&makev1.StockReleased{}),
	flow.On("make", drinks, func(_ *none, paid *payv1.PaymentCaptured) flow.Outcome {
		return flow.Emit(&makev1.DrinkMade{OrderId: paid.OrderId})
	}).Emits(&makev1.DrinkMade{}),
	flow.Judge("cancel", "make", drinks, func(_ *none, wish *orderv1.OrderCancelRequested, won bool) flow.Outcome {
		if won {
			return flow.Emit(&makev1.MakeFailed{OrderId: wish.OrderId})
		}
		return flow.Nothing()
	}).Emits(&makev1.MakeFailed{}),
)

// bare is the bare shop with one customer, who may cancel.
func bare(careful bool) func() sim.Setup {
	return func() sim.Setup {
		b := &bank{map[string]bool{}, map[string]bool{}}
		ends := map[uuid.UUID][]string{}
		return sim.Setup{
			Services: []sim.Service{
				{Flow: func(*sim.Outside) *flow.Flow { return order }, Instances: 2},
				{Flow: pay(b, careful), Instances: 2},
				{Flow: func(*sim.Outside) *flow.Flow { return kitchen }, Instances: 2},
			},
			Wishes: func(r *rand.Rand) []sim.Wish {
				wishes := []sim.Wish{{Text: "an order", Do: visit("rich", nil)}}
				switch r.IntN(3) {
				case 0:
					after := time.Duration(r.IntN(100)) * time.Millisecond
					wishes = append(wishes, sim.Wish{Text: "an order that is cancelled", Do: visit("rich", &after)})
				case 1:
					wishes = append(wishes, sim.Wish{Text: "an order that is not paid", Do: visit(poor, nil)})
				}
				return wishes
			},
			Committed: func(w *sim.World, facts []sim.Fact) {
				for _, f := range facts {
					switch f.Data.(type) {
					case *orderv1.OrderCompleted, *orderv1.OrderCancelled:
						if ends[f.Saga] = append(ends[f.Saga], f.Type); len(ends[f.Saga]) > 1 {
							w.Violate("an order ended as %v", ends[f.Saga])
						}
					}
				}
			},
			Rest: func(w *sim.World) {
				held := map[uuid.UUID]bool{}
				for _, f := range w.Log("make") {
					switch f.Data.(type) {
					case *makev1.StockReserved:
						held[f.Saga] = true
					case *makev1.StockReleased:
						held[f.Saga] = false
					}
				}
				for _, f := range w.Log("order") {
					if _, placed := f.Data.(*orderv1.OrderPlaced); !placed {
						continue
					}
					end := append(ends[f.Saga], "not")[0]
					if taken := b.taken[f.Saga.String()+"/charge"]; end == "not" || taken != (end == "order.completed") {
						w.Violate("the order %s is %s; taken: %v", f.Saga, end, taken)
					}
					if held[f.Saga] != (end == "order.completed") {
						w.Violate("the order %s is %s; held: %v", f.Saga, end, held[f.Saga])
					}
				}
			},
		}
	}
}

// visit places an order, and cancels it after a while.
func visit(customer string, cancelled *time.Duration) func(*sim.World) {
	return func(w *sim.World) {
		w.Send(sim.Customer{
			Service: "order", Step: "place", Actor: customer,
			Command: func(saga uuid.UUID, _ time.Time) any { return place{saga.String()} },
			Then: func(saga uuid.UUID, _ flow.Verdict) {
				if cancelled == nil {
					return
				}
				w.After(*cancelled, func() {
					w.Send(sim.Customer{Service: "order", Step: "request-cancel", Saga: saga,
						Command: func(saga uuid.UUID, _ time.Time) any { return cancel{saga.String()} }})
				})
			},
		})
	}
}
