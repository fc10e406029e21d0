package audit

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// stockKeeper is the service that keeps the stock, in the one stream of its category.
const (
	stockKeeper = "make"
	stockStream = "stock/main"
)

// streams walks a log by stream, beside the states: S1, S2, S7, S8, S11, and of S12 that each state is the fold of its
// stream.
func (a *audit) streams(ctx context.Context, d *database) error {
	log, err := d.events(ctx, `ORDER BY stream COLLATE "C", version`)
	if err != nil {
		return err
	}
	defer log.close()
	states, err := d.documents(ctx, flow.States)
	if err != nil {
		return err
	}
	defer states.close()
	fold, done, err := d.flow.Refold(flow.States)
	if err != nil {
		return err
	}
	orphans := func(these func() bool) error {
		for states.ok && these() {
			a.report("S12", d.service, uuid.Nil, "the state of %s has no events", states.head.key)
			if err := states.next(); err != nil {
				return err
			}
		}
		return nil
	}
	kept := shelf{}
	for log.ok {
		s := stream{audit: a, name: log.head.Stream, service: d.service, fold: fold}
		for log.ok && log.head.Stream == s.name {
			s.add(&log.head)
			if s.name == stockStream && d.service == stockKeeper {
				kept.move(a, &log.head)
			}
			if err := log.next(); err != nil {
				return err
			}
		}
		if err := orphans(func() bool { return states.head.key < s.name }); err != nil {
			return err
		}
		docs, err := done()
		if err != nil {
			return d.wrap(err)
		}
		if !states.ok || states.head.key != s.name {
			s.end(docs, nil)
			continue
		}
		s.end(docs, &states.head)
		if s.name == stockStream && d.service == stockKeeper {
			kept.compare(a, states.head.body)
		}
		if err := states.next(); err != nil {
			return err
		}
	}
	if err := orphans(func() bool { return true }); err != nil {
		return err
	}
	a.looked(log.n, "S1", "S7", "S8", "S11")
	a.looked(states.n, "S12")
	if d.service == stockKeeper {
		a.looked(kept.moves, "S2")
		a.stocks <- kept
	}
	return nil
}

// stream is the walk along one stream.
type stream struct {
	*audit
	name, service string
	fold          folder

	last    logged
	at      string // in the lifecycle
	lost    bool   // a transition was not allowed: what follows says nothing new
	strange bool   // there is what cannot be folded
	ended   string // the terminal event that was there
}

func (s *stream) report(invariant string, e *logged, format string, args ...any) {
	s.audit.report(invariant, s.service, e.Saga, "%s version %d: %s", s.name, e.Version, fmt.Sprintf(format, args...))
}

func (s *stream) add(e *logged) {
	if want := s.last.Version + 1; e.Version != want {
		s.report("S1", e, "%s stands where version %d must be", e.Type, want)
	}
	s.last = *e
	declared, known := contract.Lookup(e.Type)
	switch {
	case !known:
		s.strange = true
		s.report("S11", e, "%q is not a declared event type", e.Type)
		return
	case declared.Owner != s.service || declared.Class == contract.ClassTimer:
		s.strange = true
		s.report("S11", e, "%s belongs to %s", e.Type, declared.Owner)
		return
	case e.problem != nil:
		s.strange = true
		s.report("S12", e, "%v", e.problem)
		return
	}
	if named := declared.StreamOf(e.fact); named != s.name {
		s.strange = true
		s.report("S11", e, "the data of %s name the stream %s", e.Type, named)
		return
	}
	s.step(e, declared)
	if !s.strange {
		if err := guarded(s.fold, e); err != nil {
			s.strange = true
			s.report("S12", e, "%s cannot be folded: %v", e.Type, err)
		}
	}
}

// step goes on in the lifecycle.
func (s *stream) step(e *logged, declared *contract.Event) {
	if s.ended != "" {
		s.report("S7", e, "%s after %s, which was the end", e.Type, s.ended)
		return
	}
	if s.rules.terminal[e.Type] {
		s.ended = e.Type
	}
	life, known := lifecycles[declared.Stream]
	if !known || s.lost {
		return
	}
	to, allowed := life[s.at][e.Type]
	if !allowed {
		s.lost = true
		s.report("S8", e, "%s must not follow %s", e.Type, or(s.at, "nothing"))
		return
	}
	s.at = to
}

// end compares the fold with the state.
func (s *stream) end(folded []store.Doc, state *document) {
	switch {
	case s.strange:
	case state == nil:
		s.report("S12", &s.last, "the stream has no state")
	case state.version != s.last.Version:
		s.report("S12", &s.last, "the state is at version %d", state.version)
	case len(folded) != 1:
		s.report("S12", &s.last, "the events fold to %d states", len(folded))
	default:
		if difference := compare(state.body, folded[0].Body); difference != "" {
			s.report("S12", &s.last, "the state is not the fold of the events: %s", difference)
		}
	}
}

// guarded folds one event; a panic of the fold is an error.
func guarded(f folder, e *logged) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	f(e.fact, e.Envelope)
	return nil
}

// shelf follows the stock through its moves, in its own words and not in those of make.
type shelf struct {
	kept  map[string]*kept
	open  map[uuid.UUID]reservation
	moves int64
}

// kept is one ingredient, in grams or millilitres.
type kept struct{ onHand, reserved, in, consumed int64 }

// reservation is what is held for an order.
type reservation map[string]int64

func ingredients(list []*shopv1.Ingredient) reservation {
	r := reservation{}
	for _, i := range list {
		r[i.Name] += i.Amount
	}
	return r
}

func (s *shelf) of(name string) *kept {
	if s.kept == nil {
		s.kept = map[string]*kept{}
	}
	k := s.kept[name]
	if k == nil {
		k = &kept{}
		s.kept[name] = k
	}
	return k
}

// move books one event.
func (s *shelf) move(a *audit, e *logged) {
	s.moves++
	bad := func(format string, args ...any) {
		a.report("S2", stockKeeper, e.Saga, "%s version %d, %s: %s", e.Stream, e.Version, e.Type, fmt.Sprintf(format, args...))
	}
	settle := func(order string, list []*shopv1.Ingredient, used bool) {
		holder, moved := id(order), ingredients(list)
		held, open := s.open[holder]
		if !open {
			bad("nothing is reserved for the order %s", order)
		} else if d := held.differs(moved); d != "" {
			bad("it is not what is reserved for the order: %s", d)
		}
		delete(s.open, holder)
		for name, amount := range moved {
			k := s.of(name)
			k.reserved -= amount
			if used {
				k.onHand -= amount
				k.consumed += amount
			}
			if k.onHand < 0 || k.reserved < 0 {
				bad("%s: %d on hand, %d reserved", name, k.onHand, k.reserved)
			}
		}
	}
	switch f := e.fact.(type) {
	case *makev1.StockReplenished:
		k := s.of(f.Ingredient)
		k.onHand += f.Amount
		k.in += f.Amount
	case *makev1.StockReserved:
		order := id(f.OrderId)
		if s.open[order] != nil {
			bad("there is a reservation for the order already")
		}
		if s.open == nil {
			s.open = map[uuid.UUID]reservation{}
		}
		s.open[order] = ingredients(f.Ingredients)
		for name, amount := range s.open[order] {
			k := s.of(name)
			if k.reserved += amount; k.reserved > k.onHand {
				bad("%s: %d reserved, %d on hand", name, k.reserved, k.onHand)
			}
		}
	case *makev1.StockConsumed:
		settle(f.OrderId, f.Ingredients, true)
	case *makev1.StockReleased:
		settle(f.OrderId, f.Ingredients, false)
	}
}

// differs says what two reservations differ in.
func (r reservation) differs(other reservation) string {
	for _, name := range sorted(r) {
		if r[name] != other[name] {
			return fmt.Sprintf("%s %d, not %d", name, r[name], other[name])
		}
	}
	for _, name := range sorted(other) {
		if r[name] != other[name] {
			return fmt.Sprintf("%s %d, not %d", name, r[name], other[name])
		}
	}
	return ""
}

// compare holds what make says of its stock against itself and against the open reservations.
func (s *shelf) compare(a *audit, state []byte) {
	bad := func(format string, args ...any) {
		a.report("S2", stockKeeper, uuid.Nil, "the state of %s: %s", stockStream, fmt.Sprintf(format, args...))
	}
	var says struct {
		Ingredients map[string]struct {
			OnHand      int64 `json:"on_hand"`
			Reserved    int64
			Replenished int64
			Consumed    int64
		}
	}
	if err := json.Unmarshal(state, &says); err != nil {
		bad("%v", err)
		return
	}
	open := map[string]int64{}
	for _, r := range s.open {
		for name, amount := range r {
			open[name] += amount
		}
	}
	for _, name := range sorted(says.Ingredients) {
		switch k := says.Ingredients[name]; {
		case k.OnHand < 0 || k.Reserved < 0:
			bad("%s: %d on hand, %d reserved", name, k.OnHand, k.Reserved)
		case k.OnHand != k.Replenished-k.Consumed:
			bad("%s: %d on hand, but %d came in and %d were consumed", name, k.OnHand, k.Replenished, k.Consumed)
		case k.Reserved != open[name]:
			bad("%s: %d reserved, but %d are held for orders", name, k.Reserved, open[name])
		}
	}
}

// folder folds one event into documents; see flow.Refold.
type folder = func(proto.Message, event.Envelope)
