package flow_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hotchoc/pkg/flow"
)

func TestAGraphIsWhatTheFlowsSay(t *testing.T) {
	g := shop()
	if want := []string{"menu", "order", "pay", "make", "delivery"}; !slices.Equal(g.Services, want) {
		t.Errorf("the services are %v", g.Services)
	}
	for _, want := range []string{
		`{"service":"order","name":"place","kind":"command","hears":["place"],"emits":["order.placed"]}`,
		`{"service":"order","name":"cancel","kind":"compensation","hears":["payment.failed","make.failed","delivery.failed"],"emits":["order.cancelled"],"undoes":"order.placed","of":"place"}`,
		`{"service":"order","name":"expire","kind":"timer","hears":["order.deadline"],"emits":["order.cancel_requested"],"final":"a reason"}`,
		`{"service":"pay","name":"charge","kind":"event","hears":["order.placed"],"emits":["payment.captured","payment.failed"],"asks":true,"gives_up":true}`,
		`{"service":"make","name":"cancel","kind":"event","hears":["order.cancel_requested"],"emits":["make.failed","make.cancel_rejected"],"judges":"reserve","final":"a reason"}`,
		`{"service":"make","name":"brew","kind":"event","hears":["stock.reserved"],"emits":["drink.made","stock.consumed","make.failed","stock.released","stock.replenished"],"settles":["stock.reserved"]}`,
	} {
		if !slices.ContainsFunc(g.Steps, func(s flow.GraphStep) bool {
			got, err := json.Marshal(s)
			return err == nil && string(got) == want
		}) {
			t.Errorf("there is no %s", want)
		}
	}
	if v := g.Views[2]; v.Service != "order" || v.Table != "customer_copy" || !slices.Equal(v.Hears, []string{"customer.flagged"}) {
		t.Errorf("a view is %+v", v)
	}
}

// arrows are all ways of events between the steps of a graph, found without its help.
func arrows(g flow.Graph) (all []string) {
	for _, from := range g.Steps {
		for _, typ := range from.Emits {
			for _, to := range g.Steps {
				if slices.Contains(to.Hears, typ) {
					all = append(all, fmt.Sprintf("%s/%s %s %s/%s", from.Service, from.Name, typ, to.Service, to.Name))
				}
			}
		}
	}
	for _, to := range g.Steps {
		if to.Kind == "timer" {
			all = append(all, fmt.Sprintf("clock %s %s/%s", to.Hears[0], to.Service, to.Name))
		}
	}
	slices.Sort(all)
	return all
}

func TestTheEdgesAreAllWaysOfEvents(t *testing.T) {
	g := shop()
	var got []string
	for _, e := range g.Edges() {
		from := e.From
		if from == "" {
			from = "clock"
		}
		got = append(got, from+" "+e.Event+" "+e.To)
		want := "forward"
		switch {
		case strings.HasSuffix(e.Event, ".failed"):
			want = "failure"
		case e.Event == "order.deadline":
			want = "timer"
		}
		if e.Kind != want {
			t.Errorf("%s is %s, want %s", e.Event, e.Kind, want)
		}
	}
	slices.Sort(got)
	if want := arrows(g); !slices.Equal(got, want) || len(want) < 25 {
		t.Errorf("got %d edges\n%s\nwant %d\n%s", len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

// TestAMermaidPictureHasOnlyWhatMermaidKnows reads each line by the little of the language that is used.
func TestAMermaidPictureHasOnlyWhatMermaidKnows(t *testing.T) {
	g := shop()
	const id, label = `([A-Za-z][A-Za-z0-9_]*)`, `"[^"\\]+"`
	node := regexp.MustCompile(`^    ` + id + `(?:\[` + label + `\]|\(\[` + label + `\]\)|\[\\` + label + `\\\]|\[\[` + label + `\]\]|\(\(` + label + `\)\))$`)
	arrow := regexp.MustCompile(`^  ` + id + ` -(?:-|\.-)>\|` + label + `\| ` + id + `$`)
	box := regexp.MustCompile(`^  subgraph ` + id + `\[` + label + `\]$`)

	lines := strings.Split(strings.TrimSuffix(g.Mermaid(), "\n"), "\n")
	if lines[0] != "flowchart LR" {
		t.Errorf("it begins with %q", lines[0])
	}
	nodes, boxes, drawn := map[string]bool{}, 0, 0
	for _, line := range lines[1:] {
		if m := node.FindStringSubmatch(line); m != nil && boxes == 1 {
			if nodes[m[1]] {
				t.Errorf("%s is there twice", m[1])
			}
			nodes[m[1]] = true
		} else if m := arrow.FindStringSubmatch(line); m != nil && boxes == 0 {
			if drawn++; !nodes[m[1]] || !nodes[m[2]] {
				t.Errorf("a node is missing: %s", line)
			}
		} else if box.MatchString(line) {
			boxes++
		} else if line == "  end" {
			boxes--
		} else {
			t.Errorf("not Mermaid: %q", line)
		}
	}
	if boxes != 0 || len(nodes) != len(g.Steps)+1 || drawn != len(arrows(g)) {
		t.Errorf("%d boxes are open; %d nodes, %d arrows", boxes, len(nodes), drawn)
	}
}

func TestThePictureShowsStepsAndWhatGoesBetweenThem(t *testing.T) {
	for format, c := range map[string]struct {
		text string
		has  []string
	}{
		"mermaid": {shop().Mermaid(), []string{
			"  subgraph order__service[\"order\"]\n    order_place([\"place\"])\n    order_cancel[\\\"cancel\"\\]\n",
			"    order_expire[\"expire\"]\n    order_expire__clock((\"order.deadline\"))\n",
			"    pay_charge[[\"charge\"]]\n",
			"  order_place -->|\"order.placed\"| pay_charge\n",
			"  order_expire__clock -.->|\"order.deadline\"| order_expire\n",
			"  make_reserve -.->|\"make.failed\"| pay_refund\n",
			"  delivery_hand_over -.->|\"delivery.failed\"| make_discard\n",
		}},
		"dot": {shop().DOT(), []string{
			"digraph flow {\n",
			"  subgraph cluster_order__service {\n    label=\"order\"\n    order_place [label=\"place\" shape=oval]\n",
			"    order_cancel [label=\"cancel\" shape=parallelogram]\n",
			"    order_expire__clock [label=\"order.deadline\" shape=circle]\n",
			"    pay_charge [label=\"charge\" shape=component]\n",
			"  order_place -> pay_charge [label=\"order.placed\" style=solid]\n",
			"  order_expire__clock -> order_expire [label=\"order.deadline\" style=dashed]\n",
			"  delivery_hand_over -> make_discard [label=\"delivery.failed\" style=dashed]\n",
		}},
		"markdown": {shop().Markdown(), []string{
			"```mermaid\nflowchart LR\n",
			"| order | place | HTTP | order.placed | cancel, on payment.failed, make.failed, delivery.failed |\n",
			"| pay | refund | make.failed, delivery.failed | payment.refunded, payment.failed | *undoes payment.captured of charge* |\n",
			"| order | complete | delivery.delivered | order.completed | – a reason |\n",
			"| order | customer_copy | customer.flagged |\n",
			"| no-circle | no events go round in a circle |\n",
		}},
	} {
		for _, want := range c.has {
			if !strings.Contains(c.text, want) {
				t.Errorf("%s: there is no %q", format, want)
			}
		}
	}
}

func TestAnEventHasOneOwner(t *testing.T) {
	if owner, ok := flow.Owner("drink.made"); !ok || owner != "make" {
		t.Errorf("drink.made is of %q", owner)
	}
	if _, ok := flow.Owner("drink.spilled"); ok {
		t.Error("drink.spilled is of somebody")
	}
	if got, want := flow.OwnedBy("order"), []string{"order.cancel_requested", "order.cancelled", "order.completed", "order.placed"}; !slices.Equal(got, want) {
		t.Errorf("order owns %v, want %v: timers are nobody's business", got, want)
	}
}
