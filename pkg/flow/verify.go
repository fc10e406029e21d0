package flow

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hotchoc/pkg/contract"
)

// Proof is what became of one rule.
type Proof struct {
	Rule    string `json:"rule"`
	Promise string `json:"promise"`
	// Cases is how many events or steps were looked at; with none there was nothing to prove.
	Cases    int       `json:"cases"`
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is one thing that does not hold.
type Problem struct {
	Rule string `json:"rule"`
	What string `json:"what"`
	// Path shows it, if a way through the flows does: steps (pay/charge) and events (payment.captured), in turn.
	Path []string `json:"path,omitempty"`
	// Why tells what would happen.
	Why string `json:"why"`
	// Fix tells what to change.
	Fix string `json:"fix"`
}

// String is the problem in one line.
func (p Problem) String() string {
	what := p.What
	if len(p.Path) > 0 {
		what += ": " + strings.Join(p.Path, " -> ")
	}
	return fmt.Sprintf("%s: %s; %s; %s", p.Rule, what, p.Why, p.Fix)
}

// rules are what a choreography promises, in the order in which a mistake in one is best mended. Each is decided from the
// declarations alone. So what a decision does with its freedom is out of reach: one that emits nothing, or arms no timer.
// That is left to the tests of decisions (flowtest) and to simulation (sim).
var rules = []struct {
	name, promise string
	prove         func(Graph, *Proof)
}{
	{"one-writer", "every event is written by its owner, and by nobody else", Graph.oneWriter},
	{"heard", "every event is heard by somebody, or is terminal", Graph.heard},
	{"written", "everything that is heard is written by somebody, and can arrive", Graph.written},
	{"no-circle", "no events go round in a circle", Graph.noCircle},
	{"compensated", "every step is compensated, or says why not", Graph.compensated},
	{"undone", "every compensable fact is undone on each Failed event that can come after it or beside it", Graph.undone},
	{"gives-up", "every step that asks the outside gives up in the end, and says so by a Failed event", Graph.givesUp},
	{"deadline", "every saga that holds something is ended by a timer, or by steps that all give up", Graph.deadline},
	{"ends", "every compensable fact comes to a terminal event without a person", Graph.ends},
}

// Prove goes through all rules.
func (g Graph) Prove() []Proof {
	proofs := make([]Proof, len(rules))
	for i, r := range rules {
		proofs[i] = Proof{Rule: r.name, Promise: r.promise}
		r.prove(g, &proofs[i])
		slices.SortFunc(proofs[i].Problems, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
		proofs[i].Problems = slices.CompactFunc(proofs[i].Problems, func(a, b Problem) bool { return a.String() == b.String() })
	}
	return proofs
}

// Verify returns all that does not hold; nothing if the choreography keeps what it promises.
func (g Graph) Verify() (problems []Problem) {
	for _, p := range g.Prove() {
		problems = append(problems, p.Problems...)
	}
	return problems
}

// found adds a problem to a proof.
func (p *Proof) found(what string, path []string, why, fix string) {
	p.Problems = append(p.Problems, Problem{Rule: p.Rule, What: what, Path: path, Why: why, Fix: fix})
}

// oneWriter: a service has one flow, a step emits events of its own service only, and of those all are emitted.
func (g Graph) oneWriter(p *Proof) {
	for i, service := range g.Services {
		if slices.Index(g.Services, service) < i {
			p.found(fmt.Sprintf("two flows are those of %s", service), nil,
				"both would write the same streams", "join them, or give one another name")
		}
	}
	emitted := map[string]bool{}
	for _, s := range g.Steps {
		for _, typ := range s.Emits {
			emitted[typ] = true
			if owner, _ := Owner(typ); owner != s.Service {
				p.found(fmt.Sprintf("%s emits %s, which only %s may write", s.id(), typ, cmp.Or(owner, "nobody")), nil,
					"the broker refuses it, and readers would not know whom to believe", "let the owner write it, or declare an event of its own for "+s.Service)
			}
		}
	}
	for _, e := range g.events() {
		if p.Cases++; !emitted[e.Type] {
			p.found(fmt.Sprintf("%s is declared, but no step of %s emits it", e.Type, e.Owner), nil,
				"whoever hears it waits for nothing", "name it in Emits of the step that writes it, or delete it from the contract")
		}
	}
}

// heard: an event has a step or a view that hears it. A timer has a step, for nobody else gets it.
func (g Graph) heard(p *Proof) {
	for _, e := range contract.All() {
		if !slices.Contains(g.Services, e.Owner) {
			continue
		}
		p.Cases++
		viewed := e.Class != contract.ClassTimer && slices.ContainsFunc(g.Views, func(v GraphView) bool { return slices.Contains(v.Hears, e.Type) })
		if !viewed && !e.Terminal && len(g.hearers(e.Type)) == 0 {
			p.found(fmt.Sprintf("%s is heard by nobody and is not terminal", e.Type), nil,
				"what it says is lost, and the saga may stop at it", "hear it by a step or a view, or declare it terminal in the contract")
		}
	}
}

// written: what is heard has a writer among these services, and timers are heard where they come back to.
func (g Graph) written(p *Proof) {
	hears := func(who, service string, types []string) {
		for _, typ := range types {
			p.Cases++
			e, ok := contract.Lookup(typ)
			switch {
			case !ok || !slices.Contains(g.Services, e.Owner):
				p.found(fmt.Sprintf("%s hears %s, but nobody writes it", who, typ), nil,
					"it waits for ever", "verify together with the service that writes it, or stop hearing it")
			case e.Class == contract.ClassTimer && e.Owner != service:
				p.found(fmt.Sprintf("%s hears %s, a timer of %s", who, typ, e.Owner), nil,
					"a timer comes back only to the service that armed it", "let "+e.Owner+" hear it and emit an event for "+service)
			}
		}
	}
	for _, s := range g.Steps {
		if s.Kind != "command" {
			hears(s.id(), s.Service, s.Hears)
		}
	}
	for _, v := range g.Views {
		hears(v.Service+"/"+v.Table, v.Service, v.Hears)
	}
}

// noCircle: no step can cause itself, over however many others. Compensations are no part of a circle: the barrier lets
// each run once in a saga.
func (g Graph) noCircle(p *Proof) {
	for _, s := range g.forward() {
		p.Cases++
		round, ok := g.walk([]GraphStep{s}, all).to(s)
		if !ok {
			continue
		}
		// The same circle is found from each of its steps; it is told from the one that comes first in the alphabet.
		first := 0
		for i := 0; i < len(round); i += 2 {
			if round[i] < round[first] {
				first = i
			}
		}
		round = slices.Concat(round[first:], round[:first], round[first:first+1])
		p.found("events go round in a circle", round,
			"each round causes the next, until the hop limit makes a dead letter of it", "let one of these steps hear, or emit, something else")
	}
}

// compensated: each step has its undo or its reason, and what undoes or settles is what it says.
func (g Graph) compensated(p *Proof) {
	for _, s := range g.Steps {
		for _, fact := range s.Settles {
			if owner, _ := Owner(fact); owner != s.Service {
				p.found(fmt.Sprintf("%s settles %s, which is of %s", s.id(), fact, cmp.Or(owner, "nobody")), nil,
					"only the service that holds something can bring it to its end", "settle a fact of "+s.Service)
			}
		}
		if s.Kind == "compensation" {
			if len(s.Emits) == 0 {
				p.found(fmt.Sprintf("%s undoes %s, but emits nothing that says so", s.id(), s.Undoes), nil,
					"a compensation without a fact is an error at run time, and the saga stays as it is", "name the event of the undoing in Emits")
			}
			continue
		}
		p.Cases++
		undo, ok := g.compensation(s)
		switch reason := strings.TrimSpace(s.Final); {
		case !ok && reason == "":
			p.found(fmt.Sprintf("%s is not compensated and does not say why", s.id()), nil,
				"what it did would stay when the saga rolls back", "add a Compensate for it, or NotCompensated with the reason")
		case ok && reason != "":
			p.found(fmt.Sprintf("%s says why it is not compensated (%s), but %s undoes it", s.id(), reason, undo.id()), nil,
				"one of the two is not true", "remove NotCompensated, or the compensation")
		}
	}
}

// undone: the service that wrote a compensable fact hears each Failed event that can come after it or beside it. Beside
// it is what other branches of the saga bring, and its other commands and timers. See failures.
func (g Graph) undone(p *Proof) {
	for _, s := range g.forward() {
		undo, ok := g.compensation(s)
		if !ok {
			continue
		}
		possible := g.failures(s, undo.Undoes)
		heard := g.undoneOn(s)
		for _, failure := range slices.Sorted(maps.Keys(possible)) {
			if p.Cases++; !slices.Contains(heard, failure) {
				p.found(fmt.Sprintf("%s is not undone on %s, which can follow it", undo.Undoes, failure), possible[failure],
					"the saga fails, and what this fact stands for stays", fmt.Sprintf("name %s in When of %s, or let a step on this way settle %s", failure, undo.id(), undo.Undoes))
			}
		}
		for _, failure := range heard {
			if possible[failure] == nil {
				p.found(fmt.Sprintf("%s undoes %s on %s, which cannot follow it", undo.id(), undo.Undoes, failure), nil,
					"who reads it believes in a way back that is none", fmt.Sprintf("remove %s from When of %s", failure, undo.id()))
			}
		}
	}
}

// failures finds the Failed events that can come while a fact of a step stands, each with a way to it. They cannot come
//   - after a step that settles the fact;
//   - from the step itself, or one that the step cannot do without: those failed instead;
//   - from a judge over one of these: it failed because they never ran.
func (g Graph) failures(of GraphStep, fact string) map[string][]string {
	holds := func(by GraphStep, _ string) bool { return !slices.Contains(by.Settles, fact) }
	after := g.walk(g.hearers(fact), holds)
	for typ, path := range after {
		after[typ] = slices.Concat([]string{fact}, path)
	}
	roots := g.roots(of)
	beside := g.walk(roots, func(by GraphStep, typ string) bool {
		return holds(by, typ) && (kindOf(typ) != "failure" || !g.needs(of, by, roots))
	})
	maps.Copy(beside, after) // the way from the fact tells more
	maps.DeleteFunc(beside, func(typ string, _ []string) bool { return kindOf(typ) != "failure" })
	return beside
}

// needs tells whether a step runs only if another one has run, or the step that the other one judges.
func (g Graph) needs(s, other GraphStep, roots []GraphStep) bool {
	name := cmp.Or(other.Judges, other.Name)
	is := func(x GraphStep) bool { return x.Service == other.Service && x.Name == name }
	if is(s) {
		return true
	}
	rest := slices.DeleteFunc(slices.Clone(roots), is)
	_, without := g.walk(rest, func(by GraphStep, _ string) bool { return !is(by) }).to(s)
	return !without && !slices.ContainsFunc(rest, same(s))
}

// roots are the commands and timers that can begin, or come into, the sagas of a step: those that it can follow, and
// those of the same service that write to the same streams.
func (g Graph) roots(of GraphStep) (roots []GraphStep) {
	var opened []string
	for _, s := range g.forward() {
		if _, leads := g.walk([]GraphStep{s}, all).to(of); s.Kind != "event" && (leads || same(s)(of)) {
			opened = append(opened, streamsOf(s)...)
		}
	}
	for _, s := range g.forward() {
		if s.Kind != "event" && slices.ContainsFunc(streamsOf(s), func(stream string) bool { return slices.Contains(opened, stream) }) {
			roots = append(roots, s)
		}
	}
	return roots
}

// givesUp: the outside may never answer. A compensation is not given up: it has a long budget, and then waits, visibly
// stuck, for a person.
func (g Graph) givesUp(p *Proof) {
	for _, s := range g.forward() {
		if !s.Asks && !s.GivesUp {
			continue
		}
		p.Cases++
		switch says := slices.ContainsFunc(s.Emits, func(typ string) bool { return kindOf(typ) == "failure" }); {
		case !s.GivesUp:
			p.found(fmt.Sprintf("%s asks the outside and does not give up", s.id()), nil,
				"when the outside never answers, the saga waits until a person looks at the dead letters", "add GiveUp, which emits a Failed event")
		case !says:
			p.found(fmt.Sprintf("%s gives up, but emits no Failed event", s.id()), nil,
				"nobody learns of it, and nothing is undone", "emit a Failed event in GiveUp, and name it in Emits")
		}
	}
}

// deadline bounds whatever a saga may wait for: another service, a person, a dead letter. A command that leads to
// something compensable opens a saga; a timer that comes into it must lead to a Failed event that undoes something there.
// A saga without one is bounded only if each step that can follow, and that leads to a terminal event, gives up.
func (g Graph) deadline(p *Proof) {
	for _, opener := range g.forward() {
		if opener.Kind != "command" {
			continue
		}
		after := g.walk([]GraphStep{opener}, all)
		var undoes []string
		var waits []string
		for _, s := range g.forward() {
			_, follows := after.to(s)
			if follows || same(s)(opener) {
				undoes = append(undoes, g.undoneOn(s)...)
			}
			if follows && !s.GivesUp && g.leadsToAnEnd(s) {
				waits = append(waits, s.id())
			}
		}
		if len(undoes) == 0 {
			continue
		}
		p.Cases++
		ended := slices.ContainsFunc(g.timersInto(opener), func(timer GraphStep) bool {
			return slices.ContainsFunc(undoes, func(failure string) bool { return g.walk([]GraphStep{timer}, all)[failure] != nil })
		})
		if !ended && len(waits) > 0 {
			p.found(fmt.Sprintf("what %s begins has no deadline, and can wait at %s", opener.id(), strings.Join(waits, ", ")), nil,
				"what the saga holds is held until a person finds it", fmt.Sprintf("arm a timer in %s, and hear it by a step that leads to a Failed event; or let each of these steps GiveUp", opener.id()))
		}
	}
}

// ends: from a compensable fact a terminal event can be reached by events, timers and compensations alone. Where only a
// command leads on, a person is waited for.
func (g Graph) ends(p *Proof) {
	for _, s := range g.forward() {
		undo, ok := g.compensation(s)
		if !ok {
			continue
		}
		p.Cases++
		next := g.hearers(undo.Undoes)
		for _, root := range g.roots(s) {
			if root.Kind == "timer" {
				next = append(next, root)
			}
		}
		if !terminal(undo.Undoes) && !g.leadsToAnEnd(next...) {
			p.found(fmt.Sprintf("no terminal event can follow %s without a person", undo.Undoes), nil,
				"the saga stays open, and nobody can tell whether it is over", "hear it by a step that leads on, or by a timer; or declare the event terminal that is the end")
		}
	}
}

// leadsToAnEnd tells whether a terminal event can follow steps, by whatever way but a person's.
func (g Graph) leadsToAnEnd(steps ...GraphStep) bool {
	for typ := range g.follow(steps, g.hearers, all) {
		if terminal(typ) {
			return true
		}
	}
	return false
}

func terminal(typ string) bool {
	e, ok := contract.Lookup(typ)
	return ok && e.Terminal
}

// events are those of the services looked at, timers not counted.
func (g Graph) events() []*contract.Event {
	return slices.DeleteFunc(contract.All(), func(e *contract.Event) bool {
		return e.Class == contract.ClassTimer || !slices.Contains(g.Services, e.Owner)
	})
}

// forward are the steps that are no compensations.
func (g Graph) forward() []GraphStep {
	return slices.DeleteFunc(slices.Clone(g.Steps), func(s GraphStep) bool { return s.Kind == "compensation" })
}

// undoneOn are the Failed events on which what a step does is undone.
func (g Graph) undoneOn(s GraphStep) (failures []string) {
	for _, c := range g.Steps {
		if c.Kind == "compensation" && c.Service == s.Service && c.Of == s.Name {
			failures = append(failures, c.Hears...)
		}
	}
	return failures
}

// timersInto are the timers that come into the sagas that a command opens.
func (g Graph) timersInto(opener GraphStep) []GraphStep {
	return slices.DeleteFunc(g.roots(opener), func(s GraphStep) bool { return s.Kind != "timer" })
}

// ways are the events that can come after some steps, each with the shortest way to it: step, event, step, …, event.
type ways map[string][]string

// to returns the shortest way to a step.
func (w ways) to(s GraphStep) (path []string, ok bool) {
	for _, typ := range s.Hears {
		if way := w[typ]; way != nil && (path == nil || len(way) < len(path)) {
			path = way
		}
	}
	return path, path != nil
}

// walk follows events from steps over forward steps. What a step emits is followed if goes says so.
func (g Graph) walk(from []GraphStep, goes func(by GraphStep, typ string) bool) ways {
	forward := func(steps []GraphStep) []GraphStep {
		return slices.DeleteFunc(slices.Clone(steps), func(s GraphStep) bool { return s.Kind == "compensation" })
	}
	return g.follow(forward(from), func(typ string) []GraphStep { return forward(g.hearers(typ)) }, goes)
}

// follow is breadth-first search.
func (g Graph) follow(from []GraphStep, next func(typ string) []GraphStep, goes func(by GraphStep, typ string) bool) ways {
	type place struct {
		step GraphStep
		path []string // to before the step
	}
	found := ways{}
	var queue []place
	for _, s := range from {
		queue = append(queue, place{step: s})
	}
	for ; len(queue) > 0; queue = queue[1:] {
		here := queue[0]
		for _, typ := range here.step.Emits {
			if found[typ] != nil || !goes(here.step, typ) {
				continue
			}
			found[typ] = slices.Concat(here.path, []string{here.step.id(), typ})
			for _, s := range next(typ) {
				queue = append(queue, place{s, found[typ]})
			}
		}
	}
	return found
}

func all(GraphStep, string) bool { return true }

func same(s GraphStep) func(GraphStep) bool {
	return func(other GraphStep) bool { return s.id() == other.id() }
}

// streamsOf are the categories of the streams that a step writes.
func streamsOf(s GraphStep) (streams []string) {
	for _, typ := range s.Emits {
		if e, ok := contract.Lookup(typ); ok {
			streams = append(streams, e.Stream)
		}
	}
	return streams
}
