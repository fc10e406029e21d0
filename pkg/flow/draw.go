package flow

import (
	"fmt"
	"strings"
)

// Mermaid draws the choreography for https://mermaid.js.org: a box per service, in it a node per step, and an arrow per
// event that one emits and another hears. What leads to a way back, and timers, are dashed.
func (g Graph) Mermaid() string {
	shapes := map[string]string{
		"command": `([%q])`, "compensation": `[\%q\]`, "ask": `[[%q]]`, "event": `[%q]`, "timer": `[%q]`, "clock": `((%q))`,
	}
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, service := range g.Services {
		fmt.Fprintf(&b, "  subgraph %s[%q]\n", ident(service, "service"), service)
		for _, n := range g.nodes(service) {
			fmt.Fprintf(&b, "    %s"+shapes[n.shape]+"\n", n.id, n.label)
		}
		b.WriteString("  end\n")
	}
	for _, e := range g.Edges() {
		arrow := "-->"
		if e.Kind != "forward" {
			arrow = "-.->"
		}
		fmt.Fprintf(&b, "  %s %s|%q| %s\n", e.from(), arrow, e.Event, ident(e.To))
	}
	return b.String()
}

// DOT draws the same for Graphviz.
func (g Graph) DOT() string {
	shapes := map[string]string{
		"command": "oval", "compensation": "parallelogram", "ask": "component", "event": "box", "timer": "box", "clock": "circle",
	}
	var b strings.Builder
	b.WriteString("digraph flow {\n  rankdir=LR\n")
	for _, service := range g.Services {
		fmt.Fprintf(&b, "  subgraph %s {\n    label=%q\n", "cluster_"+ident(service, "service"), service)
		for _, n := range g.nodes(service) {
			fmt.Fprintf(&b, "    %s [label=%q shape=%s]\n", n.id, n.label, shapes[n.shape])
		}
		b.WriteString("  }\n")
	}
	for _, e := range g.Edges() {
		style := "solid"
		if e.Kind != "forward" {
			style = "dashed"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%q style=%s]\n", e.from(), ident(e.To), e.Event, style)
	}
	b.WriteString("}\n")
	return b.String()
}

// Markdown is the page of the choreography: the picture, the steps, the views, and what was proved of them.
func (g Graph) Markdown() string {
	var b strings.Builder
	b.WriteString("# The flow\n\nGenerated from the flows of the services; do not edit. Boxes with rounded ends are commands, double boxes ask\nthe outside, slanted boxes are compensations, circles are clocks; dashed arrows are Failed events and timers.\n\n```mermaid\n")
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
	b.WriteString("\n## What is proved\n\n`hotchoc flow verify` proves it of these flows, from their declarations alone.\n\n| rule | promise |\n|---|---|\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "| %s | %s |\n", r.name, r.promise)
	}
	return b.String()
}

// node is a step in a picture, or the clock that a timer comes from.
type node struct{ id, label, shape string }

func (g Graph) nodes(service string) (nodes []node) {
	for _, s := range g.Steps {
		if s.Service != service {
			continue
		}
		shape := s.Kind
		if s.Asks && shape != "compensation" {
			shape = "ask"
		}
		nodes = append(nodes, node{ident(s.id()), s.Name, shape})
		if s.Kind == "timer" {
			nodes = append(nodes, node{ident(s.id(), "clock"), s.Hears[0], "clock"})
		}
	}
	return nodes
}

// from is the node that an edge begins at.
func (e Edge) from() string {
	if e.From == "" {
		return ident(e.To, "clock")
	}
	return ident(e.From)
}

// ident makes a name for a picture: letters, digits and _ only.
func ident(name string, kind ...string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case r == '/' || r == '-':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "_%x_", r)
		}
	}
	for _, k := range kind {
		b.WriteString("__" + k)
	}
	return b.String()
}
