package audit

import (
	"slices"
	"strings"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/flow"
)

// placed is the event that an order begins with.
const placed = "order.placed"

// viewsStep is the inbox key of the views of a service: they take part in each message as one.
const viewsStep = "views"

// rules is what the flows of the services say must be, in the form in which it is asked for.
type rules struct {
	flows    []*flow.Flow
	graph    flow.Graph
	hearers  map[string][]claimant        // of an event type: who must have it in the inbox
	emitters map[string][]string          // of an event type: the steps of its owner that emit it
	rooted   map[string]bool              // event types that a command or a timer can cause
	guards   map[string]map[string]*guard // by service and step
	forward  map[string]map[string]bool   // by service: types that must not follow a compensation
	undoing  map[string]map[string]bool   // by service: types that only compensations emit
	outside  map[claimant]bool            // steps whose messages are in no log: commands and timers
	gives    map[claimant]bool            // steps that may be given up, which also takes a barrier
	terminal map[string]bool              // the ends of an order
}

// claimant is a row of an inbox to be: a step, or the views, of a service.
type claimant struct{ service, step string }

// guard is a step that can be undone or barred, and so has a barrier.
type guard struct {
	step string
	fact string // the event that stands for it
	undo string // the event that undoes it; empty: it can only be barred
}

func newRules(flows []*flow.Flow) *rules {
	r := &rules{
		flows: flows, graph: flow.NewGraph(flows...), hearers: map[string][]claimant{}, emitters: map[string][]string{},
		rooted: map[string]bool{}, guards: map[string]map[string]*guard{}, forward: map[string]map[string]bool{},
		undoing: map[string]map[string]bool{}, outside: map[claimant]bool{}, gives: map[claimant]bool{}, terminal: map[string]bool{},
	}
	byJudges := map[string]bool{}
	for _, s := range r.graph.Steps {
		if r.guards[s.Service] == nil {
			r.guards[s.Service], r.forward[s.Service], r.undoing[s.Service] = map[string]*guard{}, map[string]bool{}, map[string]bool{}
		}
		for _, typ := range s.Emits {
			r.emitters[typ] = append(r.emitters[typ], s.Name)
			switch {
			case s.Kind == "compensation":
				r.undoing[s.Service][typ] = true
			case s.Judges != "":
				byJudges[typ] = true
			default:
				r.forward[s.Service][typ] = true
			}
			if s.Kind == "command" || s.Kind == "timer" {
				r.rooted[typ] = true
			}
		}
		r.gives[claimant{s.Service, s.Name}] = s.GivesUp
		switch s.Kind {
		case "command", "timer":
			r.outside[claimant{s.Service, s.Name}] = true
		default:
			for _, typ := range s.Hears {
				r.hearers[typ] = append(r.hearers[typ], claimant{s.Service, s.Name})
			}
		}
	}
	// What a step emits that goes forward as well does not tell that something was undone.
	for service := range r.undoing {
		for typ := range r.forward[service] {
			delete(r.undoing[service], typ)
		}
		for typ := range byJudges {
			delete(r.undoing[service], typ)
		}
	}
	for _, s := range r.graph.Steps {
		switch {
		case s.Of != "":
			r.guards[s.Service][s.Of] = &guard{step: s.Of, fact: s.Undoes, undo: s.Emits[0]}
		case s.Judges != "" && r.guards[s.Service][s.Judges] == nil:
			judged := r.graph.Steps[slices.IndexFunc(r.graph.Steps, func(o flow.GraphStep) bool { return o.Service == s.Service && o.Name == s.Judges })]
			r.guards[s.Service][s.Judges] = &guard{step: s.Judges, fact: judged.Emits[0]}
		}
	}
	for _, v := range r.graph.Views {
		for _, typ := range v.Hears {
			c := claimant{v.Service, viewsStep}
			if owner, _ := flow.Owner(typ); owner != v.Service && !slices.Contains(r.hearers[typ], c) {
				r.hearers[typ] = append(r.hearers[typ], c)
			}
		}
	}
	origin, _ := contract.Lookup(placed)
	for _, e := range contract.All() {
		if e.Terminal && e.Stream == origin.Stream {
			r.terminal[e.Type] = true
		}
	}
	return r
}

// mine tells whether a view is folded from events of its own service only, and so must be right at any time.
func mine(v flow.GraphView) bool {
	return !slices.ContainsFunc(v.Hears, func(typ string) bool { owner, _ := flow.Owner(typ); return owner != v.Service })
}

// foreign tells whether a view is folded from events of others only: a copy.
func foreign(v flow.GraphView) bool {
	return !slices.ContainsFunc(v.Hears, func(typ string) bool { owner, _ := flow.Owner(typ); return owner == v.Service })
}

// category is the part of a stream's name before the key.
func category(stream string) string {
	c, _, _ := strings.Cut(stream, "/")
	return c
}
