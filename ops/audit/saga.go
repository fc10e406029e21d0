package audit

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// saga is all that the databases say about one conversation, mostly an order.
type saga struct {
	id       uuid.UUID
	events   []logged // service after service, each in the order of its log
	barriers []barrier
	timers   []timer
	charge   *charge // what the gateway did; nil: nothing
	asked    bool    // the gateway was

	found func(invariant, service, what string)
}

// barrier is a row of a service's table of them.
type barrier struct {
	service        string
	saga           uuid.UUID
	step, state    string
	fact, undoneBy uuid.NullUUID
}

// timer is one that is armed.
type timer struct {
	service string
	saga    uuid.UUID
	id      uuid.UUID
	due     time.Time
}

func (s *saga) bad(invariant, service, format string, args ...any) {
	s.found(invariant, service, fmt.Sprintf(format, args...))
}

// anyTime checks what each service's part must hold by itself.
func (s *saga) anyTime(r *rules) {
	s.money()
	s.standing(r)
	s.effects()
	s.backward(r)
	s.causes()
}

// atRest checks what all parts must come to together.
func (s *saga) atRest(r *rules) {
	s.roots(r)
	s.ends(r)
}

// money: S3.
func (s *saga) money() {
	captures, captured, refunded := 0, int64(0), int64(0)
	for i := range s.events {
		switch f := s.events[i].fact.(type) {
		case *payv1.PaymentCaptured:
			captures++
			captured += f.Amount.GetAmount()
		case *payv1.PaymentRefunded:
			if refunded += f.Amount.GetAmount(); captures == 0 {
				s.bad("S3", "pay", "refunded %d, and nothing was captured", refunded)
				return
			}
		}
	}
	switch {
	case captures > 1:
		s.bad("S3", "pay", "captured %d times", captures)
	case refunded > captured:
		s.bad("S3", "pay", "refunded %d of %d", refunded, captured)
	}
}

// standing: S4, the barriers against what the log says was done and undone.
func (s *saga) standing(r *rules) {
	rows := map[claimant]*barrier{}
	for i := range s.barriers {
		b := &s.barriers[i]
		rows[claimant{b.service, b.step}] = b
		if r.guards[b.service][b.step] == nil && !r.gives[claimant{b.service, b.step}] {
			s.bad("S4", b.service, "a barrier %s of the step %q, which has none", b.state, b.step)
		}
	}
	for _, service := range sorted(r.guards) {
		for _, step := range sorted(r.guards[service]) {
			g := r.guards[service][step]
			var facts, undos []*logged
			for i := range s.events {
				switch e := &s.events[i]; {
				case e.Source != service:
				case e.Type == g.fact:
					facts = append(facts, e)
				case e.Type == g.undo:
					undos = append(undos, e)
				}
			}
			b := rows[claimant{service, step}]
			switch {
			case b == nil && len(facts)+len(undos) == 0:
			case b == nil:
				s.bad("S4", service, "%s, without a barrier of the step %q", append(facts, undos...)[0].Type, step)
			case b.state == store.Suppressed && len(facts) > 0:
				s.bad("S4", service, "the step %q is suppressed, but there is its %s", step, g.fact)
			case b.state == store.GivenUp && len(facts) > 0:
				s.bad("S4", service, "the step %q was given up, but there is its %s", step, g.fact)
			case b.state != store.Suppressed && b.state != store.GivenUp && among(facts, b.fact) == nil:
				s.bad("S4", service, "the step %q is %s, but its %s is not in the log", step, b.state, g.fact)
			case b.state != store.Undone && len(undos) > 0:
				s.bad("S4", service, "the step %q is %s, but there is %s", step, b.state, g.undo)
			case len(undos) > 1:
				s.bad("S4", service, "the step %q was undone %d times", step, len(undos))
			case b.state == store.Undone && among(undos, b.undoneBy) == nil:
				s.bad("S4", service, "the step %q is undone, but the event that undid it is not in the log", step)
			case b.state == store.Undone && undos[0].position < among(facts, b.fact).position:
				s.bad("S4", service, "%s stands before the %s that it undoes", g.undo, g.fact)
			}
		}
	}
}

func among(events []*logged, id uuid.NullUUID) *logged {
	for _, e := range events {
		if id.Valid && e.ID == id.UUID {
			return e
		}
	}
	return nil
}

// effects: S6. What one step emits upon one message is written in one commit, and says no thing twice.
func (s *saga) effects() {
	type effect struct {
		service, typ, stream string
		cause                uuid.UUID
	}
	seen := map[effect]*logged{}
	for i := range s.events {
		e := &s.events[i]
		key := effect{e.Source, e.Type, e.Stream, e.Causation}
		first := seen[key]
		if first == nil {
			seen[key] = e
			continue
		}
		if !e.At.Equal(first.At) || e.fact != nil && first.fact != nil && proto.Equal(e.fact, first.fact) {
			s.bad("S6", e.Source, "%s is there twice upon the message %s: %s version %d and version %d", e.Type, e.Causation, e.Stream, first.Version, e.Version)
		}
	}
}

// backward: S10.
func (s *saga) backward(r *rules) {
	undone := map[string]*logged{}
	for i := range s.events {
		e := &s.events[i]
		first := undone[e.Source]
		switch {
		case r.undoing[e.Source][e.Type] && first == nil:
			undone[e.Source] = e
		case r.forward[e.Source][e.Type] && first != nil:
			s.bad("S10", e.Source, "%s after %s", e.Type, first.Type)
		}
	}
}

// causes: of S9, what is wrong between an event and a cause that is known.
func (s *saga) causes() {
	known := s.byID()
	for i := range s.events {
		e := &s.events[i]
		cause := known[e.Causation]
		switch {
		case e.Hops < 1 || e.Hops > event.MaxHops:
			s.bad("S9", e.Source, "%s is %d hops away from the beginning", e.Type, e.Hops)
		case cause == nil:
		case e.Hops != cause.Hops+1:
			s.bad("S9", e.Source, "%s is at hop %d, but %s, which caused it, is at hop %d", e.Type, e.Hops, cause.Type, cause.Hops)
		case e.Source == cause.Source && e.position <= cause.position:
			s.bad("S9", e.Source, "%s stands before %s, which caused it", e.Type, cause.Type)
		}
	}
}

func (s *saga) byID() map[uuid.UUID]*logged {
	known := make(map[uuid.UUID]*logged, len(s.events))
	for i := range s.events {
		known[s.events[i].ID] = &s.events[i]
	}
	return known
}

// roots: of S9, that every event has its cause in the saga, but for the one that began it, and for what commands and
// timers bring into it later.
func (s *saga) roots(r *rules) {
	known := s.byID()
	var origin, other *logged
	for i := range s.events {
		e := &s.events[i]
		if known[e.Causation] != nil {
			continue
		}
		switch {
		case !r.rooted[e.Type]:
			s.bad("S9", e.Source, "%s was caused by %s, which is not in the saga", e.Type, e.Causation)
		case e.Type == placed && origin == nil:
			origin = e
		case e.Type == placed:
			s.bad("S9", e.Source, "%s begins the saga a second time", e.Type)
		case other == nil || origin != nil && category(e.Stream) != category(origin.Stream):
			other = e
		case origin == nil:
			s.bad("S9", e.Source, "%s begins the saga a second time, after %s", e.Type, other.Type)
		}
	}
	if origin != nil && other != nil && category(other.Stream) != category(origin.Stream) {
		s.bad("S9", other.Source, "%s begins the saga a second time, after %s", other.Type, placed)
	}
}

// tally is what an order came to, over all services.
type tally struct {
	placed             *orderv1.OrderPlaced
	end                string // the terminal event
	captured, refunded int64
	captureID          string
	refundID           string
	held, consumed     reservation
	discarded          bool
}

func (s *saga) tally(r *rules) tally {
	var t tally
	for i := range s.events {
		e := &s.events[i]
		if r.terminal[e.Type] {
			t.end = e.Type
		}
		switch f := e.fact.(type) {
		case *orderv1.OrderPlaced:
			t.placed = f
		case *payv1.PaymentCaptured:
			t.captured += f.Amount.GetAmount()
			t.captureID = f.CaptureId
		case *payv1.PaymentRefunded:
			t.refunded += f.Amount.GetAmount()
			t.refundID = f.RefundId
		case *makev1.StockReserved:
			t.held = ingredients(f.Ingredients)
		case *makev1.StockConsumed:
			t.held, t.consumed = nil, ingredients(f.Ingredients)
		case *makev1.StockReleased:
			t.held = nil
		case *makev1.DrinkDiscarded:
			t.discarded = true
		}
	}
	return t
}

// ends: Q1, Q2, Q3 and Q7, of an order.
func (s *saga) ends(r *rules) {
	t := s.tally(r)
	if t.placed == nil {
		if s.charge != nil && s.charge.kept() != 0 {
			s.bad("Q2", "pay", "the gateway keeps %d %s for an order that is not there", s.charge.kept(), s.charge.currency)
		}
		return
	}
	if t.end == "" {
		s.bad("Q1", "order", "the order has not ended")
		return // what it owes is open
	}
	price, completed := t.placed.Total.GetAmount(), t.end == "order.completed"
	if !completed {
		price = 0
	}
	switch kept := t.captured - t.refunded; {
	case kept != price:
		s.bad("Q2", "pay", "%s, and pay keeps %d, should keep %d", t.end, kept, price)
	case !s.asked:
	case s.charge == nil:
		if t.captured > 0 {
			s.bad("Q2", "pay", "pay captured %d, the gateway says nothing", t.captured)
		}
	case s.charge.kept() != price:
		s.bad("Q2", "pay", "%s, and the gateway keeps %d, should keep %d", t.end, s.charge.kept(), price)
	case s.charge.captures > 1 || s.charge.refunds > 1:
		s.bad("Q2", "pay", "the gateway captured %d times and refunded %d times", s.charge.captures, s.charge.refunds)
	case t.captureID != "" && t.captureID != s.charge.captureID:
		s.bad("Q2", "pay", "pay knows the capture as %s, the gateway as %s", t.captureID, or(s.charge.captureID, "nothing"))
	case t.refundID != "" && t.refundID != s.charge.refundID:
		s.bad("Q2", "pay", "pay knows the refund as %s, the gateway as %s", t.refundID, or(s.charge.refundID, "nothing"))
	}
	switch {
	case completed && t.consumed == nil:
		s.bad("Q3", "make", "the order was completed, but nothing was consumed for it")
	case completed && t.discarded:
		s.bad("Q3", "make", "the order was completed, but its drinks were discarded")
	case !completed && t.consumed != nil && !t.discarded:
		s.bad("Q3", "make", "ingredients were consumed, but the order was neither completed nor its drinks discarded")
	}
	if t.held != nil {
		s.bad("Q7", "make", "ingredients are still held by the closed order: %v", map[string]int64(t.held))
	}
	for _, timer := range s.timers {
		s.bad("Q7", timer.service, "a timer of the closed order is still armed, for %s", timer.due.UTC().Format(time.RFC3339))
	}
}
