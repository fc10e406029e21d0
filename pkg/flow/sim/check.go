package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/store"
)

// Fact is a recorded event, decoded.
type Fact struct {
	event.Record
	Data proto.Message
}

// checks is what must hold of every flow, kept beside the stores and not taken from them.
type checks struct {
	versions map[string]int64            // by stream
	messages map[uuid.UUID]uuid.UUID     // known messages, with their saga
	effects  map[effect]int              // the commit in which a service acted on a message
	barriers map[store.BarrierKey]string // the step with its service before it
	claims   map[claim]struct{}
	commits  int
}

type effect struct {
	service string
	message uuid.UUID
}

type claim struct {
	service string
	store.ClaimKey
}

func newChecks() checks {
	return checks{versions: map[string]int64{}, messages: map[uuid.UUID]uuid.UUID{}, effects: map[effect]int{}, barriers: map[store.BarrierKey]string{}, claims: map[claim]struct{}{}}
}

// clone returns checks that know the same.
func (c *checks) clone() checks {
	return checks{maps.Clone(c.versions), maps.Clone(c.messages), maps.Clone(c.effects), maps.Clone(c.barriers), maps.Clone(c.claims), c.commits}
}

// root makes the ID of a command known: nothing caused it.
func (c *checks) root(id uuid.UUID) { c.messages[id] = uuid.Nil }

// committed looks at what a commit has written, and lets the setup look at it.
func (w *World) committed(p *process, c store.Changes) {
	s := p.service
	w.checks.commits++
	first := len(s.facts)
	for _, r := range c.Events {
		w.tell(p, "records %s version %d of %s", r.Type, r.Version, r.Stream)
		w.event(s, r)
	}
	for _, one := range c.Claims {
		key := claim{s.name, store.ClaimKey{Step: one.Step, Message: one.Message}}
		if _, twice := w.checks.claims[key]; twice {
			w.Violate("the step %s of %s has the message %s twice", one.Step, s.name, one.Message)
		}
		w.checks.claims[key] = struct{}{}
	}
	for _, t := range c.Timers {
		w.checks.messages[t.ID] = t.Saga
	}
	for _, b := range c.Barriers {
		w.tell(p, "barrier %s %s: %s", short(b.Saga), b.Step, b.State)
		key := store.BarrierKey{Saga: b.Saga, Step: s.name + "/" + b.Step}
		if was := w.checks.barriers[key]; was != "" && (was != store.Done || b.State != store.Undone) {
			w.Violate("the step %s of %s is %q after %q", b.Step, b.Saga, b.State, was)
		}
		w.checks.barriers[key] = b.State
	}
	if w.setup.Committed != nil && len(s.facts) > first {
		w.setup.Committed(w, s.facts[first:])
	}
}

// event looks at one recorded event.
func (w *World) event(s *service, r event.Record) {
	c := &w.checks
	e, ok := contract.Lookup(r.Type)
	if !ok || e.Owner != s.name || r.Source != s.name {
		w.Violate("%s recorded %s, which is not its own", s.name, r.Type)
		return
	}
	data, err := e.Decode(r.Schema, r.Body)
	if err != nil {
		w.Violate("%s recorded what cannot be read: %v", s.name, err)
		return
	}
	stream := s.name + ":" + r.Stream
	if c.versions[stream]++; r.Version != c.versions[stream] {
		w.Violate("%s recorded %s as version %d of %s, where version %d must be", s.name, r.Type, r.Version, r.Stream, c.versions[stream])
	}
	if _, twice := c.messages[r.ID]; twice {
		w.Violate("the ID %s of %s is taken", r.ID, r.Type)
	}
	c.messages[r.ID] = r.Saga
	switch saga, known := c.messages[r.Causation]; {
	case !known:
		w.Violate("%s was caused by %s, which nobody sent", r.Type, r.Causation)
	case saga != uuid.Nil && saga != r.Saga:
		w.Violate("%s is of the saga %s, its cause of %s", r.Type, r.Saga, saga)
	}
	acted := effect{s.name, r.Causation}
	if before := c.effects[acted]; before != 0 && before != c.commits {
		w.Violate("%s acted twice on the message %s: the second time with %s", s.name, r.Causation, r.Type)
	}
	c.effects[acted] = c.commits
	s.facts = append(s.facts, Fact{r, data})
}

// rest looks at a world in which nothing happens any more.
func (w *World) rest() {
	for _, s := range w.services {
		for _, queue := range queuesOf(s.name) {
			if ready, unacked := w.broker.Depth(queue); ready+unacked > 0 {
				w.Violate("%d messages are left in the queue %s, %d of them unacked%s", ready+unacked, queue, unacked, w.left(queue))
			}
		}
		for _, t := range s.memory.Outbox() {
			w.Violate("%s is left in the outbox of %s", t.Type, s.name)
		}
		w.heard(s)
		w.folded(s)
	}
	if w.setup.Rest != nil {
		w.setup.Rest(w)
	}
}

// left names the first message of a queue.
func (w *World) left(queue string) string {
	for _, m := range w.broker.Messages(queue) {
		return fmt.Sprintf(": %s %v", m.Type, m.Headers[rabbit.HeaderReason])
	}
	return ""
}

func queuesOf(service string) []string {
	queues := []string{service, rabbit.DeadQueue(service)}
	for _, d := range flow.Rungs {
		queues = append(queues, rabbit.WaitQueue(service, d))
	}
	return queues
}

// heard: every event is in the inbox of every step and view that hears it.
func (w *World) heard(s *service) {
	for _, from := range w.services {
		for _, f := range from.facts[from.prepared:] {
			for _, step := range w.sim.inboxes[s.name][f.Type] {
				if step == flow.ViewsStep && from == s {
					continue // folded as it was written
				}
				if _, had := w.checks.claims[claim{s.name, store.ClaimKey{Step: step, Message: f.ID}}]; !had {
					w.Violate("the step %s of %s never had %s %s", step, s.name, f.Type, f.ID)
				}
			}
		}
	}
}

// folded: every document is the fold of the events.
func (w *World) folded(s *service) {
	for _, table := range append([]string{store.States}, s.flow.Tables()...) {
		fold, done, err := s.flow.Refold(table)
		if err != nil {
			w.Violate("%v", err)
			return
		}
		for _, from := range w.services {
			if from != s && table == store.States {
				continue
			}
			for _, f := range from.facts {
				fold(f.Data, f.Envelope)
			}
		}
		docs, err := done()
		if err != nil {
			w.Violate("%v", err)
			return
		}
		for _, want := range docs {
			kept, ok := s.memory.Doc(want.Key)
			switch {
			case !ok:
				w.Violate("%s has no %s %s", s.name, table, want.Key.Key)
			case kept.Version != want.Version:
				w.Violate("%s %s of %s is at version %d, its events come to %d", table, want.Key.Key, s.name, kept.Version, want.Version)
			case !bytes.Equal(kept.Body, want.Body) && !sameJSON(kept.Body, want.Body):
				w.Violate("%s %s of %s is %s, its events come to %s", table, want.Key.Key, s.name, kept.Body, want.Body)
			}
		}
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	xs, _ := json.Marshal(x)
	ys, _ := json.Marshal(y)
	return slices.Equal(xs, ys)
}
