package saga

import (
	"slices"

	"github.com/google/uuid"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga/platform"
	"hotchoc/pkg/flow"
)

// tree puts events in the order of their causes: each directly below what caused it.
func (r *Reader) tree(events []platform.Event, heard map[uuid.UUID][]platform.Handled) []Event {
	types := map[uuid.UUID]string{}
	for _, e := range events {
		types[e.ID] = e.Type
	}
	children := map[uuid.UUID][]platform.Event{}
	var roots []uuid.UUID // causes that are in no log: commands and timers
	for _, e := range events {
		if children[e.Causation] == nil && types[e.Causation] == "" {
			roots = append(roots, e.Causation)
		}
		children[e.Causation] = append(children[e.Causation], e)
	}
	sorted := []Event{}
	var grow func(cause uuid.UUID, last []bool)
	grow = func(cause uuid.UUID, last []bool) {
		mine := children[cause]
		delete(children, cause) // a circle must not hang us
		for i, e := range mine {
			node := Event{
				Event: e, Step: r.emitter(e, types[cause], heard[cause]), Heard: heard[e.ID],
				Depth: len(last), last: append(slices.Clone(last), i == len(mine)-1),
			}
			if types[cause] == "" {
				node.Cause = r.cause(e.Service, heard[cause])
			}
			sorted = append(sorted, node)
			grow(e.ID, node.last)
		}
	}
	for _, root := range roots {
		grow(root, nil)
	}
	return sorted
}

// emitter is the step that emitted an event: it has handled the cause and may emit such.
func (r *Reader) emitter(e platform.Event, cause string, handled []platform.Handled) string {
	for _, s := range r.graph.Steps {
		if s.Service == e.Service && slices.Contains(s.Emits, e.Type) && (cause == "" || slices.Contains(s.Hears, cause)) &&
			slices.ContainsFunc(handled, func(h platform.Handled) bool { return h.Service == e.Service && h.Step == s.Name }) {
			return s.Name
		}
	}
	return ""
}

// cause names a cause that is in no log.
func (r *Reader) cause(service string, handled []platform.Handled) string {
	for _, h := range handled {
		i := slices.IndexFunc(r.graph.Steps, func(s flow.GraphStep) bool { return s.Service == service && h.Service == service && s.Name == h.Step })
		switch {
		case i < 0:
		case r.graph.Steps[i].Kind == "command":
			return h.Step + " (HTTP)"
		case r.graph.Steps[i].Kind == "timer":
			return r.graph.Steps[i].Hears[0] + " (timer)"
		}
	}
	return "a message that is in no log"
}

// hearers are the steps of each service that hear an event.
func (r *Reader) hearers(from, typ string) map[string][]string {
	hearers := map[string][]string{}
	for _, service := range r.graph.Services {
		if steps := dead.Hearers(r.graph, service, from, typ); len(steps) > 0 {
			hearers[service] = steps
		}
	}
	return hearers
}
