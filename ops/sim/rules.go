package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"hotchoc/ops/audit"
	"hotchoc/order"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow/sim"
	"hotchoc/pkg/store"
)

// shop is what one run knows of itself, beside what the services know. The letters are those of the auditor's list.
type shop struct {
	*books
	customers int
	accepted  []uuid.UUID // orders of which a customer was told

	states  map[string]string // of streams, by their lifecycles
	visits  map[uuid.UUID]*visit
	placed  map[string]int // orders by customer
	onHand  map[string]int64
	held    map[string]int64
	came    map[string]int64
	used    map[string]int64 // by orders that were completed, or thrown away
	ordered []uuid.UUID
}

// visit is what is known of an order.
type visit struct {
	total     int64
	end       string
	captured  int64
	refunded  int64
	captures  int
	reserved  []*shopv1.Ingredient // and neither consumed nor released
	consumed  []*shopv1.Ingredient
	discarded bool
}

func newShop() *shop {
	return &shop{
		books: newBooks(), states: map[string]string{}, visits: map[uuid.UUID]*visit{}, placed: map[string]int{},
		onHand: map[string]int64{}, held: map[string]int64{}, came: map[string]int64{}, used: map[string]int64{},
	}
}

func (s *shop) visit(saga uuid.UUID) *visit {
	v := s.visits[saga]
	if v == nil {
		v = &visit{}
		s.visits[saga] = v
		s.ordered = append(s.ordered, saga)
	}
	return v
}

// committed: what must hold after every commit. S2, S3, S7, S8, S10.
func (s *shop) committed(w *sim.World, facts []sim.Fact) {
	for _, f := range facts {
		s.move(w, f)
		switch e := f.Data.(type) {
		case *orderv1.OrderPlaced:
			s.visit(f.Saga).total = e.Total.GetAmount()
			if s.placed[e.Customer]++; s.placed[e.Customer] > 1 {
				w.Violate("Q1: %s has two orders of one wish", e.Customer)
			}
		case *orderv1.OrderCompleted, *orderv1.OrderCancelled:
			v := s.visit(f.Saga)
			if v.end != "" {
				w.Violate("S7: the order %s is %s after %s", f.Saga, f.Type, v.end)
			}
			v.end = f.Type
		case *payv1.PaymentCaptured:
			v := s.visit(f.Saga)
			v.captured += e.Amount.GetAmount()
			if v.captures++; v.captures > 1 {
				w.Violate("S3: the order %s is paid twice", f.Saga)
			}
		case *payv1.PaymentRefunded:
			v := s.visit(f.Saga)
			if v.refunded += e.Amount.GetAmount(); v.refunded > v.captured {
				w.Violate("S3: of the order %s %d were captured and %d are refunded", f.Saga, v.captured, v.refunded)
			}
			if e.RefundId == "" {
				w.Violate("S3: a refund of the order %s that the gateway knows nothing of", f.Saga)
			}
		case *makev1.StockReplenished:
			s.onHand[e.Ingredient] += e.Amount
			s.came[e.Ingredient] += e.Amount
		case *makev1.StockReserved:
			v := s.visit(f.Saga)
			if v.reserved != nil {
				w.Violate("S2: the order %s reserves twice", f.Saga)
			}
			v.reserved = e.Ingredients
			for _, i := range e.Ingredients {
				s.held[i.Name] += i.Amount
			}
		case *makev1.StockConsumed:
			v := s.visit(f.Saga)
			s.release(w, f, v, e.Ingredients)
			v.consumed = e.Ingredients
			for _, i := range e.Ingredients {
				s.onHand[i.Name] -= i.Amount
			}
		case *makev1.StockReleased:
			s.release(w, f, s.visit(f.Saga), e.Ingredients)
		case *makev1.DrinkDiscarded:
			s.visit(f.Saga).discarded = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		if n := s.held[name]; n < 0 || n > s.onHand[name] {
			w.Violate("S2: %d of %s are reserved, %d on hand", n, name, s.onHand[name])
		}
	}
}

// move goes on in the lifecycle of a stream.
func (s *shop) move(w *sim.World, f sim.Fact) {
	category, _, _ := strings.Cut(f.Stream, "/")
	next, ok := audit.Next(category, s.states[f.Stream], f.Type)
	if !ok {
		w.Violate("S8: %s stands in %s, which is %q", f.Type, f.Stream, s.states[f.Stream])
	}
	s.states[f.Stream] = next
}

// release takes back what an order has reserved.
func (s *shop) release(w *sim.World, f sim.Fact, v *visit, ingredients []*shopv1.Ingredient) {
	if text(v.reserved) != text(ingredients) {
		w.Violate("S2: %s of %s is %s, reserved was %s", f.Type, f.Saga, text(ingredients), text(v.reserved))
	}
	v.reserved = nil
	for _, i := range ingredients {
		s.held[i.Name] -= i.Amount
	}
}

func text(ingredients []*shopv1.Ingredient) string {
	var parts []string
	for _, i := range ingredients {
		parts = append(parts, fmt.Sprintf("%d %s", i.Amount, i.Name))
	}
	return strings.Join(parts, ", ")
}

// rest: what must hold when nothing happens any more. Q1, Q2, Q3, Q7, and the status that people see.
func (s *shop) rest(w *sim.World) {
	for _, saga := range s.accepted {
		if s.visits[saga] == nil {
			w.Violate("Q1: a customer was told of the order %s, which is not there", saga)
		}
	}
	for _, saga := range s.ordered {
		v := s.visits[saga]
		if v.end == "" {
			w.Violate("Q1: the order %s has not ended", saga)
			continue
		}
		completed := v.end == "order.completed"
		want := int64(0)
		if completed {
			want = v.total
		}
		if kept := s.kept(saga.String()); kept != want {
			w.Violate("Q2: the gateway keeps %d for the order %s, which is %s, price %d", kept, saga, v.end, v.total)
		}
		if kept := v.captured - v.refunded; kept != want {
			w.Violate("Q2: pay keeps %d for the order %s, which is %s, price %d", kept, saga, v.end, v.total)
		}
		if s.handedOver(saga.String()) && !completed {
			w.Violate("Q2: the drinks of %s were handed over, but it is %s", saga, v.end)
		}
		if s.handedOver(saga.String()) && !s.sent(saga.String()) {
			w.Violate("Q2: the drinks of %s were handed over by a courier who was called back", saga)
		}
		if v.reserved != nil {
			w.Violate("Q7: the order %s has ended and still holds %s", saga, text(v.reserved))
		}
		if completed || v.discarded {
			for _, i := range v.consumed {
				s.used[i.Name] += i.Amount
			}
		}
		s.seen(w, saga, v)
	}
	for _, name := range slices.Sorted(maps.Keys(s.came)) {
		if came := s.came[name]; came-s.onHand[name] != s.used[name] {
			w.Violate("Q3: %d of %s came in, %d are on hand, %d were sold or thrown away", came, name, s.onHand[name], s.used[name])
		}
	}
}

// seen: what people see of an order is how it ended.
func (s *shop) seen(w *sim.World, saga uuid.UUID, v *visit) {
	doc, _ := w.Store("order").Doc(store.Key{Table: "order_status", Key: saga.String()})
	var status order.Status
	if err := json.Unmarshal(doc.Body, &status); err != nil {
		w.Violate("the status of %s cannot be read: %v", saga, err)
	} else if "order."+status.Status != v.end || !status.Ended {
		w.Violate("Q8: people see the order %s as %s (ended: %v), but it is %s", saga, status.Status, status.Ended, v.end)
	}
}
