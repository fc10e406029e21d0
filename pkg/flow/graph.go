package flow

import (
	"slices"

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

// Edge is an event on its way from one step to another.
type Edge struct {
	From  string `json:"from,omitempty"` // service/step; empty for a timer, which comes from the clock
	Event string `json:"event"`
	To    string `json:"to"`
	Kind  string `json:"kind"` // forward, failure or timer
}

// Edges are all ways of events between steps: one per step that emits an event and step that hears it. Views are not
// among them: what they hear changes nothing.
func (g Graph) Edges() (edges []Edge) {
	for _, from := range g.Steps {
		for _, typ := range from.Emits {
			for _, to := range g.hearers(typ) {
				edges = append(edges, Edge{from.id(), typ, to.id(), kindOf(typ)})
			}
		}
	}
	for _, to := range g.Steps {
		if to.Kind == "timer" {
			edges = append(edges, Edge{Event: to.Hears[0], To: to.id(), Kind: "timer"})
		}
	}
	return edges
}

func kindOf(typ string) string {
	e, _ := contract.Lookup(typ)
	switch {
	case e == nil:
		return "forward"
	case e.Failure:
		return "failure"
	case e.Class == contract.ClassTimer:
		return "timer"
	}
	return "forward"
}

// id names a step over all services, such as pay/charge.
func (s GraphStep) id() string { return s.Service + "/" + s.Name }

// hearers are the steps that hear an event.
func (g Graph) hearers(typ string) (steps []GraphStep) {
	for _, s := range g.Steps {
		if slices.Contains(s.Hears, typ) {
			steps = append(steps, s)
		}
	}
	return steps
}

// compensation returns the step that undoes what another one does.
func (g Graph) compensation(of GraphStep) (GraphStep, bool) {
	for _, s := range g.Steps {
		if s.Kind == "compensation" && s.Service == of.Service && s.Of == of.Name {
			return s, true
		}
	}
	return GraphStep{}, false
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
