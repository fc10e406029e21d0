// Package sim runs flows in a simulated world: the real steps and the real door, over databases and a broker in memory, in
// one thread under a virtual clock, with everything going wrong that can. Processes die at any point, commits and confirms
// get lost, messages come twice, late and in any order, the broker restarts, partners do what they are asked and do not
// answer.
//
// All chance is drawn from a seed, so a run that found something can be run again, byte for byte; what went wrong in it is
// cut down to what it takes, and told as a trace.
//
//	func TestMyFlow(t *testing.T) {
//		world, err := sim.New(func() sim.Setup {
//			return sim.Setup{
//				Services: []sim.Service{{Flow: func(*sim.Outside) *flow.Flow { return Flow }}},
//				Wishes:   func(*rand.Rand) []sim.Wish { return []sim.Wish{{Do: order}} },
//			}
//		})
//		if err != nil {
//			t.Fatal(err)
//		}
//		if found := world.Random(t.Context(), 1, 10_000); found.Failure != nil {
//			t.Fatal(found.Failure)
//		}
//	}
package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/store"
)

// Setup is what a world is made of. It is made anew for every run, so partners can keep their books in its closures.
type Setup struct {
	Services []Service
	// Opening, if not nil, fills the world before the first run: without faults, until it is at rest. Each run begins with
	// a copy of what databases and broker hold then; partners begin anew.
	Opening func(*World)
	// Wishes draws what customers do in one run.
	Wishes func(*rand.Rand) []Wish
	// Committed, if not nil, is told what each commit recorded, those of the opening first, and may call Violate. What must hold of every flow is
	// looked at already: versions, IDs, causes, barriers, one effect per message.
	Committed func(w *World, facts []Fact)
	// Rest, if not nil, looks at a world in which nothing happens any more. What must hold of every flow is looked at
	// already: nothing is left in queues and outboxes, nothing was dead-lettered, every event was heard by all who hear
	// it, every document is the fold of its events.
	Rest func(*World)
}

// Service is a service of the world.
type Service struct {
	// Flow makes its flow; what it asks the outside goes through Call.
	Flow func(*Outside) *flow.Flow
	// Instances is how many processes it has. Default 1.
	Instances int
}

// Wish is something a customer does at some time.
type Wish struct {
	At   time.Duration
	Text string
	Do   func(*World)
}

// Sim is a world that is ready to be run, again and again. Safe for concurrent use.
type Sim struct {
	setup    func() Setup
	broker   *broker.Broker
	services []prepared
	sites    []site                         // of a calm run
	inboxes  map[string]map[string][]string // by service and type: the steps that hear it
	begins   time.Duration
	checks   checks
}

// prepared is a service as all runs find it.
type prepared struct {
	memory *store.Memory
	facts  []Fact
}

// New prepares a world: it lets the opening happen, and runs it once in calm; an error says what is wrong already then.
// setup is called for each run, also by several goroutines at once.
func New(setup func() Setup) (*Sim, error) {
	s := &Sim{setup: setup, inboxes: map[string]map[string][]string{}, checks: newChecks()}
	w := &World{setup: setup(), random: rand.New(rand.NewPCG(0, 0)), spread: time.Millisecond, checks: newChecks()}
	w.sim = s
	w.people(nil)
	flows := make([]*flow.Flow, len(w.services))
	passwords := map[string]string{}
	for i, service := range w.services {
		flows[i], passwords[service.name] = service.flow, "-"
	}
	graph := flow.NewGraph(flows...)
	s.listen(graph)
	definitions, err := rabbit.Definitions("/", flows, passwords)
	if err != nil {
		return nil, err
	}
	if w.broker, err = broker.New(definitions, w.Now); err != nil {
		return nil, err
	}
	for _, p := range w.processes {
		p.start()
	}
	if w.setup.Opening != nil {
		w.setup.Opening(w)
	}
	w.run()
	if w.rest(); len(w.violations) > 0 {
		return nil, fmt.Errorf("the opening: %s", strings.Join(w.violations, "; "))
	}
	for _, p := range w.processes {
		p.disconnect("")
	}
	s.broker, s.begins, s.checks = w.broker, w.now, w.checks
	for _, service := range w.services {
		s.services = append(s.services, prepared{service.memory, slices.Clip(service.facts)})
	}
	calm := s.world(Plan{Seed: 1}, false)
	calm.play()
	if len(calm.violations) > 0 {
		return nil, errors.New("a run in which nothing goes wrong: " + strings.Join(calm.violations, "; "))
	}
	s.sites = calm.visited()
	for _, p := range calm.processes {
		// Also what comes only after something else went wrong can go wrong.
		for _, point := range []Point{Sweep, Release, Attempted, Republish, Begin} {
			if p.counts[point] == 0 {
				s.sites = append(s.sites, site{p.name, point, 2})
			}
		}
	}
	return s, nil
}

// listen notes which steps hear what.
func (s *Sim) listen(g flow.Graph) {
	add := func(service, step string, hears []string) {
		if s.inboxes[service] == nil {
			s.inboxes[service] = map[string][]string{}
		}
		for _, typ := range hears {
			if e, ok := contract.Lookup(typ); ok && e.Class != contract.ClassTimer && !slices.Contains(s.inboxes[service][typ], step) {
				s.inboxes[service][typ] = append(s.inboxes[service][typ], step)
			}
		}
	}
	for _, step := range g.Steps {
		add(step.Service, step.Name, step.Hears)
	}
	for _, v := range g.Views {
		add(v.Service, flow.ViewsStep, v.Hears)
	}
}

// world makes the world of one run.
func (s *Sim) world(plan Plan, trace bool) *World {
	w := &World{
		sim: s, plan: plan, setup: s.setup(), random: rand.New(rand.NewPCG(plan.Seed, 2)),
		now: s.begins, counters: map[string]int{}, checks: s.checks.clone(),
	}
	if trace {
		w.trace = &strings.Builder{}
	}
	w.spread = []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, 3 * time.Second}[w.random.IntN(4)]
	w.people(s.services)
	w.broker = s.broker.Clone(w.Now)
	if w.setup.Committed != nil {
		for _, service := range w.services {
			w.setup.Committed(w, service.facts)
		}
	}
	return w
}

// people makes services and processes.
func (w *World) people(from []prepared) {
	for i, given := range w.setup.Services {
		s := &service{memory: store.NewMemory()}
		if from != nil {
			s.memory, s.facts, s.prepared = from[i].memory.Clone(), from[i].facts, len(from[i].facts)
		}
		s.memory.Now, s.memory.Grace = w.Now, grace
		for n := range max(given.Instances, 1) {
			p := &process{world: w, service: s, counts: map[Point]int{}}
			f := given.Flow(&Outside{p})
			if s.flow == nil {
				s.flow, s.name = f, f.Service
			}
			p.flow, p.name = f, fmt.Sprintf("%s/%d", s.name, n+1)
			s.processes = append(s.processes, p)
			w.processes = append(w.processes, p)
		}
		w.services = append(w.services, s)
	}
}

// grace is what the store on Postgres leaves to the relay by default.
const grace = 5 * time.Second

// play is one run: from the opening to rest.
func (w *World) play() {
	for _, p := range w.processes {
		p.start()
	}
	for n, wish := range w.wishes() {
		if slices.Contains(w.plan.Without, n) {
			continue
		}
		w.After(wish.At, func() {
			w.tell(nil, "wish %d: %s", n, wish.Text)
			wish.Do(w)
		})
	}
	w.run()
	if len(w.violations) == 0 {
		w.rest()
	}
}

// wishes draws what customers do.
func (w *World) wishes() []Wish {
	if w.setup.Wishes == nil {
		return nil
	}
	return w.setup.Wishes(rand.New(rand.NewPCG(w.plan.Seed, 3)))
}
