package flow

import (
	"fmt"
	"slices"
	"strings"

	"hotchoc/pkg/contract"
)

// Graph is the choreography of several services, computed from their flows: who hears, decides, emits and undoes what.
type Graph struct {
	Services []string    `json:"services"`
	Steps    []GraphStep `json:"steps"`
	Views    []GraphView `json:"views"`
}

// GraphStep is one step of one service. All events are wire types.
type GraphStep struct {
	Service string   `json:"service"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"` // command, timer, event or compensation
	Hears   []string `json:"hears"`
	Emits   []string `json:"emits,omitempty"`
	Asks    bool     `json:"asks,omitempty"`   // the outside
	Undoes  string   `json:"undoes,omitempty"` // the fact a compensation undoes
	Of      string   `json:"of,omitempty"`     // the step that wrote it
	Judges  string   `json:"judges,omitempty"` // the step it races with
	Settles []string `json:"settles,omitempty"`
	GivesUp bool     `json:"gives_up,omitempty"`
	Final   string   `json:"final,omitempty"` // why it is not compensated
}

// GraphView is a view or copy of one service.
type GraphView struct {
	Service string   `json:"service"`
	Table   string   `json:"table"`
	Hears   []string `json:"hears"`
}

// NewGraph joins the flows of services, in the order given.
func NewGraph(flows ...*Flow) Graph {
	var g Graph
	for _, f := range flows {
		g.Services = append(g.Services, f.Service)
		for _, s := range f.steps {
			kind := "event"
			switch e, _ := contract.Lookup(s.hears[0]); {
			case s.command != nil:
				kind = "command"
			case s.undoes != "":
				kind = "compensation"
			case e.Class == contract.ClassTimer:
				kind = "timer"
			}
			g.Steps = append(g.Steps, GraphStep{
				Service: f.Service, Name: s.name, Kind: kind, Hears: s.hears, Emits: s.emits, Asks: s.ask != nil,
				Undoes: s.fact, Of: s.undoes, Judges: s.bars, Settles: s.settles, GivesUp: s.gives, Final: s.final,
			})
		}
		for _, v := range f.views {
			g.Views = append(g.Views, GraphView{f.Service, v.table, v.hears})
		}
	}
	return g
}

// compensation returns the step that undoes a fact.
func (g Graph) compensation(of GraphStep) (GraphStep, bool) {
	for _, s := range g.Steps {
		if s.Service == of.Service && s.Of == of.Name {
			return s, true
		}
	}
	return GraphStep{}, false
}

// hearers are the forward steps that hear an event: what may follow it.
func (g Graph) hearers(typ string) (steps []GraphStep) {
	for _, s := range g.Steps {
		if s.Kind != "compensation" && slices.Contains(s.Hears, typ) {
			steps = append(steps, s)
		}
	}
	return steps
}

// Verify proves what the choreography promises and returns what does not hold, each with the path that shows it:
// every event has its one writer and somebody who hears it, or is terminal; what is heard is written by somebody; no
// events go round in a circle; each step is compensated or says why not; and each compensable fact is undone on every
// Failed event that can follow it.
func (g Graph) Verify() (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	written, heard := map[string]bool{}, map[string]bool{}
	for _, s := range g.Steps {
		for _, typ := range s.Emits {
			written[typ] = true
		}
		for _, typ := range s.Hears {
			heard[typ] = true
		}
	}
	for _, v := range g.Views {
		for _, typ := range v.Hears {
			heard[typ] = true
		}
	}
	for _, e := range contract.All() {
		if !slices.Contains(g.Services, e.Owner) {
			continue
		}
		switch timer := e.Class == contract.ClassTimer; {
		case !written[e.Type] && !timer:
			bad("%s is declared, but no step of %s emits it", e.Type, e.Owner)
		case !heard[e.Type] && !e.Terminal:
			bad("%s is heard by nobody and is not terminal", e.Type)
		}
	}
	for typ := range heard {
		if e, ok := contract.Lookup(typ); ok && !written[typ] && !slices.Contains(g.Services, e.Owner) {
			bad("%s is heard, but nobody writes it", typ)
		}
	}
	for _, s := range g.Steps {
		if path := g.circle(s, nil); path != nil {
			bad("events go round in a circle: %s", strings.Join(path, " -> "))
		}
		undo, compensated := g.compensation(s)
		if s.Kind != "compensation" && !compensated && s.Final == "" {
			bad("%s/%s is not compensated and does not say why", s.Service, s.Name)
		}
		if !compensated {
			continue
		}
		reachable := g.failuresAfter(undo.Undoes)
		for failure, path := range reachable {
			if !slices.Contains(undo.Hears, failure) {
				bad("%s is not undone on %s, which can follow it: %s", undo.Undoes, failure, strings.Join(path, " -> "))
			}
		}
		for _, failure := range undo.Hears {
			if _, ok := reachable[failure]; !ok {
				bad("%s/%s undoes %s on %s, which cannot follow it", undo.Service, undo.Name, undo.Undoes, failure)
			}
		}
	}
	slices.Sort(problems)
	return slices.Compact(problems)
}

// circle follows the forward steps from s until one comes again.
func (g Graph) circle(s GraphStep, path []string) []string {
	here := s.Service + "/" + s.Name
	if i := slices.Index(path, here); i >= 0 {
		if i == 0 {
			return append(path, here)
		}
		return nil // a circle that does not contain where we began is found from within
	}
	path = append(slices.Clone(path), here)
	for _, typ := range s.Emits {
		for _, next := range g.hearers(typ) {
			if found := g.circle(next, append(path, typ)); found != nil {
				return found
			}
		}
	}
	return nil
}

// failuresAfter finds the Failed events that can follow a fact, each with a path; a step that settles the fact ends it.
func (g Graph) failuresAfter(fact string) map[string][]string {
	found := map[string][]string{}
	seen := map[string]bool{}
	var follow func(typ string, path []string)
	follow = func(typ string, path []string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		path = append(slices.Clone(path), typ)
		if e, _ := contract.Lookup(typ); e != nil && e.Failure {
			found[typ] = path
		}
		for _, s := range g.hearers(typ) {
			if slices.Contains(s.Settles, fact) {
				continue
			}
			for _, next := range s.Emits {
				follow(next, append(path, s.Service+"/"+s.Name))
			}
		}
	}
	follow(fact, nil)
	return found
}

// Mermaid draws the choreography: a box per service, a node per step, an arrow per event that one emits and another
// hears. Compensations are drawn dashed, and so are the Failed events that lead to them.
func (g Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	id := func(service, step string) string { return service + "_" + strings.ReplaceAll(step, "-", "_") }
	for _, service := range g.Services {
		fmt.Fprintf(&b, "  subgraph %s_service[%s]\n", service, service)
		for _, s := range g.Steps {
			if s.Service != service {
				continue
			}
			shape := "[%s]"
			switch {
			case s.Kind == "command":
				shape = "([%s])"
			case s.Kind == "compensation":
				shape = "[\\%s\\]"
			case s.Asks:
				shape = "[[%s]]"
			}
			fmt.Fprintf(&b, "    %s"+shape+"\n", id(service, s.Name), s.Name)
		}
		b.WriteString("  end\n")
	}
	for _, from := range g.Steps {
		for _, typ := range from.Emits {
			e, _ := contract.Lookup(typ)
			for _, to := range g.Steps {
				if !slices.Contains(to.Hears, typ) {
					continue
				}
				arrow := "-->"
				if e.Failure || e.Class == contract.ClassTimer {
					arrow = "-.->"
				}
				fmt.Fprintf(&b, "  %s %s|%s| %s\n", id(from.Service, from.Name), arrow, typ, id(to.Service, to.Name))
			}
		}
	}
	return b.String()
}

// Markdown is the page of the choreography: the picture, the steps and the views.
func (g Graph) Markdown() string {
	var b strings.Builder
	b.WriteString("# The flow\n\nGenerated from the flows of the services; do not edit. Boxes with rounded ends are commands, double boxes ask\nthe outside, slanted boxes are compensations; dashed arrows are Failed events and timers.\n\n```mermaid\n")
	b.WriteString(g.Mermaid())
	b.WriteString("```\n\n## Steps\n\n| service | step | hears | emits | undone by, when |\n|---|---|---|---|---|\n")
	for _, s := range g.Steps {
		undone := "– " + s.Final
		if undo, ok := g.compensation(s); ok {
			undone = fmt.Sprintf("%s, on %s", undo.Name, strings.Join(undo.Hears, ", "))
		}
		if s.Kind == "compensation" {
			undone = fmt.Sprintf("*undoes %s of %s*", s.Undoes, s.Of)
		}
		hears := strings.Join(s.Hears, ", ")
		if s.Kind == "command" {
			hears = "HTTP"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.Service, s.Name, hears, strings.Join(s.Emits, ", "), undone)
	}
	b.WriteString("\n## Copies and views\n\n| service | table | folded from |\n|---|---|---|\n")
	for _, v := range g.Views {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", v.Service, v.Table, strings.Join(v.Hears, ", "))
	}
	return b.String()
}

// Owner returns the service that writes events of a type.
func Owner(typ string) (string, bool) {
	e, ok := contract.Lookup(typ)
	if !ok {
		return "", false
	}
	return e.Owner, true
}

// OwnedBy lists the types of the events that a service publishes, sorted.
func OwnedBy(service string) (types []string) {
	for _, e := range contract.All() {
		if e.Owner == service && e.Class != contract.ClassTimer {
			types = append(types, e.Type)
		}
	}
	return types
}
