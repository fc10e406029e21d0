package shop_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/awalterschulze/gographviz"

	"hotchoc/ops/shop"
)

// TestTheDOTPictureIsGraphvizAndShowsEveryEdge reads it as Graphviz does.
func TestTheDOTPictureIsGraphvizAndShowsEveryEdge(t *testing.T) {
	g := shop.Graph()
	parsed, err := gographviz.Read([]byte(g.DOT()))
	if err != nil {
		t.Fatal(err)
	}
	if !parsed.Directed || len(parsed.SubGraphs.SubGraphs) != len(g.Services) {
		t.Errorf("%d boxes, want %d", len(parsed.SubGraphs.SubGraphs), len(g.Services))
	}
	label := func(node string) string { return strings.Trim(parsed.Nodes.Lookup[node].Attrs["label"], `"`) }
	box := func(node string) string {
		for parent := range parsed.Relations.ChildToParents[node] {
			if service, ok := parsed.SubGraphs.SubGraphs[parent]; ok {
				return strings.Trim(service.Attrs["label"], `"`)
			}
		}
		return ""
	}
	var got, want []string
	for _, e := range parsed.Edges.Edges {
		got = append(got, fmt.Sprintf("%s/%s %s %s/%s", box(e.Src), label(e.Src), strings.Trim(e.Attrs["label"], `"`), box(e.Dst), label(e.Dst)))
	}
	for _, e := range g.Edges() {
		from := e.From
		if from == "" { // the clock stands with the step that hears it
			service, _, _ := strings.Cut(e.To, "/")
			from = service + "/" + e.Event
		}
		want = append(want, fmt.Sprintf("%s %s %s", from, e.Event, e.To))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(want) < 25 {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
