// Package sim is the shop in the simulator: its five flows with two processes each, the payment gateway, the couriers and
// the customers, and what must hold of it all.
package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"hotchoc/delivery"
	making "hotchoc/make"
	"hotchoc/menu"
	"hotchoc/ops/partners"
	"hotchoc/order"
	"hotchoc/pay"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim"
)

// Way is one order and how it ends when nothing goes wrong. For those who try all that can go wrong with it.
type Way struct {
	Name string
	wish wish
}

// Ways are the ways on which an order can go: forward, and back from each step.
var Ways = []Way{
	{"delivered", wish{token: partners.TokenOK, address: "12 Mill Lane"}},
	{"nobody home", wish{token: partners.TokenOK, address: partners.AddressNowhere}},
	{"no courier", wish{token: partners.TokenOK, address: partners.AddressNoCourier}},
	{"machine broken", wish{sku: "lava", token: partners.TokenOK}},
	{"declined", wish{token: partners.TokenDeclined}},
	{"gateway silent", wish{token: partners.TokenDown}},
	{"cancelled at once", wish{token: partners.TokenOK, cancel: time.Millisecond}},
	{"cancelled too late", wish{token: partners.TokenOK, cancel: time.Minute}},
	{"expired", wish{token: partners.TokenOK, deadline: time.Microsecond}},
}

// World is the shop with one order that goes this way, and one process of each service.
func (way Way) World() (*sim.Sim, error) {
	return sim.New(func() sim.Setup {
		return setup(1, func(_ *rand.Rand, s *shop) []sim.Wish { return []sim.Wish{s.order(0, way.wish)} })
	})
}

// Shop is the shop with customers who want all kinds of things.
func Shop() (*sim.Sim, error) {
	return sim.New(func() sim.Setup { return setup(2, customers) })
}

func setup(instances int, wishes func(*rand.Rand, *shop) []sim.Wish) sim.Setup {
	s := newShop()
	return sim.Setup{
		Services: []sim.Service{
			{Flow: func(*sim.Outside) *flow.Flow { return menu.Flow }},
			{Flow: func(*sim.Outside) *flow.Flow { return order.Flow }, Instances: instances},
			{Flow: func(o *sim.Outside) *flow.Flow { return pay.Flow(gateway{o, s.books}) }, Instances: instances},
			{Flow: func(*sim.Outside) *flow.Flow { return making.Flow(making.Machine{}) }, Instances: instances},
			{Flow: func(o *sim.Outside) *flow.Flow { return delivery.Flow(courier{o, s.books}) }, Instances: instances},
		},
		Opening:   opening,
		Wishes:    func(r *rand.Rand) []sim.Wish { return wishes(r, s) },
		Committed: s.committed,
		Rest:      s.rest,
	}
}

// The shop opens with a drink for each end: one that can be made, one of which there are three cups, one that breaks the
// machine.
var (
	openingMenu = []menu.Describe{
		{SKU: "classic", Name: "Classic hot chocolate", Price: 450, Currency: "EUR", Recipe: []menu.Amount{{Ingredient: "milk", Amount: 200}}, Offered: true},
		{SKU: "winter", Name: "Winter hot chocolate", Price: 550, Currency: "EUR", Recipe: []menu.Amount{{Ingredient: "milk", Amount: 200}, {Ingredient: "spice", Amount: 5}}, Offered: true},
		{SKU: "lava", Name: "Lava hot chocolate", Price: 660, Currency: "EUR", Recipe: []menu.Amount{{Ingredient: "milk", Amount: 150}, {Ingredient: "chili", Amount: 5}}, Offered: true},
	}
	openingStock = []making.Replenish{{Ingredient: "milk", Amount: 1_000_000}, {Ingredient: "spice", Amount: 15}, {Ingredient: "chili", Amount: 1_000}}
)

func opening(w *sim.World) {
	for _, item := range openingMenu {
		w.Send(sim.Customer{Service: "menu", Step: "add", Actor: "opening", Command: func(uuid.UUID, time.Time) any { return menu.Add{Describe: item} }})
	}
	for _, goods := range openingStock {
		w.Send(sim.Customer{Service: "make", Step: "replenish", Actor: "opening", Command: func(uuid.UUID, time.Time) any { return goods }})
	}
}

// wish is what one customer orders.
type wish struct {
	sku      string // default classic
	quantity int    // default 1
	token    string
	address  string        // default: at the counter
	deadline time.Duration // default 15 minutes
	cancel   time.Duration // after this; 0: not at all
}

func (o wish) handover() *shopv1.Handover {
	if o.address == "" {
		return &shopv1.Handover{Type: "counter"}
	}
	return &shopv1.Handover{Type: "address", Address: o.address}
}

// order is the visit of one customer.
func (s *shop) order(at time.Duration, o wish) sim.Wish {
	o.sku, o.quantity, o.deadline = cmp.Or(o.sku, "classic"), cmp.Or(o.quantity, 1), cmp.Or(o.deadline, 15*time.Minute)
	s.customers++
	name := fmt.Sprintf("customer %d", s.customers)
	text := fmt.Sprintf("%s orders %d %s with %s, to %s, deadline %v", name, o.quantity, o.sku, o.token, cmp.Or(o.address, "the counter"), o.deadline)
	if o.cancel > 0 {
		text += fmt.Sprintf(", cancels after %v", o.cancel)
	}
	return sim.Wish{At: at, Text: text, Do: func(w *sim.World) {
		w.Send(sim.Customer{
			Service: "order", Step: "place", Actor: "customer",
			Command: func(saga uuid.UUID, now time.Time) any {
				return order.PlaceOrder{
					OrderID: saga.String(), Customer: name, Lines: []order.WishedLine{{SKU: o.sku, Quantity: o.quantity}},
					PaymentToken: o.token, Handover: o.handover(), Deadline: now.Add(o.deadline).UTC().Truncate(time.Microsecond),
				}
			},
			Then: func(saga uuid.UUID, v flow.Verdict) {
				if v.Refusal != nil {
					return
				}
				s.accepted = append(s.accepted, saga)
				if o.cancel > 0 {
					w.After(o.cancel, func() {
						w.Send(sim.Customer{Service: "order", Step: "request-cancel", Saga: saga, Actor: "customer",
							Command: func(uuid.UUID, time.Time) any { return order.RequestCancel{OrderID: saga.String()} }})
					})
				}
			},
		})
	}}
}

// customers draws the visits of one run: mostly one order, of all kinds, now and then cancelled, and goods that come in.
func customers(r *rand.Rand, s *shop) (wishes []sim.Wish) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	millis := func(most int) time.Duration { return time.Duration(r.IntN(most)) * time.Millisecond }
	for range 1 + r.IntN(4)/2 {
		o := wish{
			sku: pick("classic", "classic", "winter", "lava"), quantity: 1 + r.IntN(3),
			token:   pick(partners.TokenOK, partners.TokenOK, partners.TokenOK, partners.TokenOK, partners.TokenDeclined, partners.TokenFlaky, partners.TokenLost, partners.TokenDown),
			address: pick("", "12 Mill Lane", "12 Mill Lane", partners.AddressNowhere, partners.AddressNoCourier),
		}
		switch r.IntN(4) {
		case 0:
			o.cancel = 1 + millis([]int{20, 200, 5000}[r.IntN(3)])
		case 1:
			o.deadline = 1 + millis([]int{50, 2000, 20000}[r.IntN(3)])
		}
		wishes = append(wishes, s.order(millis([]int{1, 100, 3000}[r.IntN(3)]), o))
	}
	if r.IntN(8) == 0 {
		goods := making.Replenish{Ingredient: pick("spice", "milk"), Amount: 5}
		wishes = append(wishes, sim.Wish{At: millis(3000), Text: fmt.Sprintf("%d of %s come in", goods.Amount, goods.Ingredient), Do: func(w *sim.World) {
			w.Send(sim.Customer{Service: "make", Step: "replenish", Actor: "staff", Command: func(uuid.UUID, time.Time) any { return goods }})
		}})
	}
	return wishes
}
