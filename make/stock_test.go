package making

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

// The stock is right after whatever the kitchen does: on hand is what came in less what was used, and never less than
// nothing; reserved is what the orders that are under way hold.
func TestTheStockIsRightAfterARandomWalk(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 0))
			s := stocked(t)
			var open []*makev1.StockReserved // reserved and not brewed
			orders := 0
			for range 60 {
				switch dice.IntN(6) {
				case 0:
					goods := []Replenish{{"milk", 400}, {"chocolate", 45}, {"dark chocolate", 80}, {"chili", 10}}[dice.IntN(4)]
					s.GivenDone("replenish", goods)
				case 1, 2, 3:
					orders++
					order := fmt.Sprintf("01900000-0000-7000-8000-%012d", orders)
					s.In(order)
					p := paid()
					p.OrderId = order
					for _, sku := range []string{"classic", "dark", "lava"} {
						if dice.IntN(2) == 0 {
							p.Lines = append(p.Lines, cups(sku, 1+dice.Int32N(2)))
						}
					}
					if len(p.Lines) == 0 {
						p.Lines = []*shopv1.Line{cups("classic", 1)}
					}
					s.Given(p)
					if r := latest(s, order); r != nil {
						open = append(open, r)
					}
				case 4:
					if len(open) > 0 {
						i := dice.IntN(len(open))
						s.In(open[i].OrderId)
						s.Given(open[i]) // brewed, or broken by lava
						open = slices.Delete(open, i, i+1)
					}
				case 5:
					if len(open) > 0 {
						order := open[dice.IntN(len(open))].OrderId
						s.In(order)
						s.Given(&orderv1.OrderCancelRequested{OrderId: order, By: "customer"}) // too late
					}
				}
				checkStock(t, s, open)
			}
			for _, r := range open {
				s.In(r.OrderId)
				s.Given(r)
			}
			checkStock(t, s, nil)
		})
	}
}

// latest is the reservation of an order; nil when it was refused.
func latest(s *flowtest.Saga, order string) *makev1.StockReserved {
	for _, r := range s.Store().Log() {
		if r.Type == "stock.reserved" && r.Saga.String() == order {
			e, _ := contract.Lookup(r.Type)
			fact, err := e.Unmarshal(r.Body)
			if err != nil {
				panic(err)
			}
			return fact.(*makev1.StockReserved)
		}
	}
	return nil
}

func checkStock(t *testing.T, s *flowtest.Saga, open []*makev1.StockReserved) {
	t.Helper()
	held, came, used := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, r := range open {
		for _, i := range r.Ingredients {
			held[i.Name] += i.Amount
		}
	}
	for _, r := range s.Store().Log() {
		e, _ := contract.Lookup(r.Type)
		fact, err := e.Unmarshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		switch f := fact.(type) {
		case *makev1.StockReplenished:
			came[f.Ingredient] += f.Amount
		case *makev1.StockConsumed:
			for _, i := range f.Ingredients {
				used[i.Name] += i.Amount
			}
		}
	}
	if len(came) == 0 {
		return // nothing has come in yet
	}
	for name, k := range flowtest.Doc[Stock](s, flow.States, "stock/main").Ingredients {
		if k.OnHand != k.Replenished-k.Consumed || k.Replenished != came[name] || k.Consumed != used[name] || k.Reserved != held[name] || k.OnHand < k.Reserved {
			t.Errorf("%s: %+v, but %d came in, %d were used and %d are held", name, k, came[name], used[name], held[name])
		}
	}
}
