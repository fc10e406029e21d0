package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// measured is one trial of each scenario, and a last audit that was not clean.
func measured() Results {
	trial := Trial{
		System: shopName, Label: `a & b <c> "d"`, InFlight: 1000, Seconds: 2, Throughput: 1234.4, Latency: Latency{P50: 12.34, P90: 23.44, P99: 99.94, P999: 99.96, Max: 1234.5},
		Cores: map[string]float64{"order": 0.5, "database": 1.25, generator: 0.125}, CoreMSPerOrder: 1.618, Messages: 20_000, CoreMSPerMessage: 0.2, Foreign: 0.03,
		RSS: map[string]int64{"order": 3 << 19}, Peak: map[string]int64{"order": 5 << 19}, Fates: map[string]float64{"ack": 1000, "retry": 3, "requeue": 4, "dead": 5},
		Drain: []Open{{0, 5000}, {1.5, 2000}, {3, 0}},
	}
	r := Results{At: time.Date(2026, 5, 4, 13, 2, 0, 0, time.UTC), Seconds: 1799, WindowSeconds: 10, WarmSeconds: 2.5, Machine: Machine{Cores: 2, MemoryMB: 7936, Postgres: "18.1", RabbitMQ: "4.2.0"}}
	for _, s := range scenarios {
		trial.InFlight = 1000
		if s.name == "latency" { // an open loop, whose curve is drawn
			trial.InFlight, trial.PerSecond, trial.Latency.Curve = 0, 70, []Quantile{{0, 1}, {0.9, 23.44}, {0.999, 1234.5}}
		}
		r.Scenarios = append(r.Scenarios, Scenario{
			Name: s.name, Asks: s.asks, Trials: []Trial{trial}, Audit: Audit{Clean: true, Orders: 1234, Events: 1_000_000, Seconds: 3.25},
			Tables: []Table{{"order", "outbox", 1000, 2 << 20}, {"pay", "outbox", 3, 1 << 20}, {"pay", "inbox", 7, 0}},
		})
	}
	last := &r.Scenarios[len(r.Scenarios)-1]
	last.Audit.Clean, last.Audit.Violations = false, []string{"S3 pay o1: refunded twice"}
	last.Ratios, last.Ceilings = []Ratio{{"the shop / a peer", 1.5, 1.25, 1750}}, []Ceiling{{"one queue", 43210}}
	last.Starts, last.Notes = []Start{{"empty log", "pay", 0.123}}, []string{"This is to be known."}
	return r
}

func printed(t *testing.T, r Results) string {
	var out strings.Builder
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// lacks are those that are not in a text.
func lacks(text string, wants ...string) []string {
	return slices.DeleteFunc(wants, func(want string) bool { return strings.Contains(text, want) })
}

func TestAReportHasTheFiguresAndTheAudits(t *testing.T) {
	r := measured()
	text := printed(t, r)
	sections := strings.Split(text, "\n## ")[1:]
	if len(sections) != len(scenarios) {
		t.Fatalf("%d sections:\n%s", len(sections), text)
	}
	for n, section := range sections {
		s := r.Scenarios[n]
		name := "| hotchoc | " + s.Trials[0].Load() + " | "
		missing := lacks(section, s.Name+"\n\n"+s.Asks+"\n",
			name+"1,234 | 12.3 | 23.4 | 99.9 | 100 | 1,235 | 1.62 | 0.20 | 10,000 | 12 | 0.03 |\n",
			"| system | load | order | database | load generator |\n|---|---|--:|--:|--:|\n"+name+"0.50 | 1.25 | 0.12 |\n",
			name+"1.5 / 2.5 | 0.0 / 0.0 | 0.0 / 0.0 |\n", "| outbox | 1,003 | 3.0 |\n| inbox | 7 | 0.0 |\n",
			", 1,234 accepted orders, 1,000,000 events, in 3.25 s")
		for plot := range plots(s) {
			missing = append(missing, lacks(section, fmt.Sprintf("![%s](%[1]s)", plot))...)
		}
		if len(missing) > 0 {
			t.Errorf("%s: there is no %q in\n%s", s.Name, missing, section)
		}
		if unclean := n == len(sections)-1; strings.Contains(section, "**NOT CLEAN**") != unclean || strings.Contains(section, "The audit: clean") == unclean {
			t.Errorf("%s: the audit is not as it was:\n%s", s.Name, section)
		}
	}
	if missing := lacks(text, "2026-05-04 13:02 UTC; it took 1799 s", "2 cores, 7,936 MB; PostgreSQL 18.1", "RabbitMQ 4.2.0", "10.0 s, after 2.50 s that",
		"| the shop / a peer | 1.50 | 1.25 | 1,750 |", "| one queue | 43,210 |", "| empty log | pay | 0.12 |", "- This is to be known.", "- S3 pay o1: refunded twice", "**An audit was NOT clean"); len(missing) > 0 {
		t.Errorf("there is no %q in\n%s", missing, text)
	}
	r.Scenarios = r.Scenarios[:1]
	if clean := printed(t, r); strings.Contains(text, "audit was clean") || strings.Contains(clean, "NOT") || !strings.Contains(clean, "audit was clean") {
		t.Errorf("what is clean is not told from what is not:\n%s", clean)
	}
}

// texts reads XML to its end.
func texts(t *testing.T, name, svg string) (all []string) {
	for in := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := in.Token()
		if errors.Is(err, io.EOF) && !strings.Contains(svg, "NaN") && !strings.Contains(svg, "Inf") {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v in\n%s", name, err, svg)
		}
		if chars, is := token.(xml.CharData); is {
			all = append(all, string(chars))
		}
	}
}

func TestPlotsAreWellFormed(t *testing.T) {
	all := map[string]string{}
	for _, s := range measured().Scenarios {
		for name, svg := range plots(s) {
			all[name] = svg
			if names := texts(t, name, svg); !slices.Contains(names, s.Trials[0].Load()) {
				t.Errorf("%s does not name its trial: %q", name, names)
			}
		}
		s.Trials = []Trial{{System: "x & y"}, {System: "<z>", InFlight: 2}, {System: shopName, Latency: Latency{Curve: []Quantile{{}}}, Drain: []Open{{}, {}}}}
		for name, svg := range plots(s) {
			texts(t, name+" of zeros", svg)
		}
		s.Trials = nil
		for name, svg := range plots(s) {
			texts(t, name+" of nothing", svg)
		}
	}
	if got, want := slices.Sorted(maps.Keys(all)), strings.Fields("backlog.svg burst.svg growth-latency.svg growth.svg latency.svg peers.svg throughput.svg"); !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	// Bars say their values. The backlog falls from 5,000, which its axis ends with, to none after 3 s, and so does its line.
	if !strings.Contains(all["throughput.svg"], ">1,234<") || !strings.Contains(all["growth-latency.svg"], ">12.3<") ||
		len(lacks(all["backlog.svg"], fmt.Sprintf(`d="M%d.0 %d.0L`, left, top), fmt.Sprintf(`L%d.0 %d.0"`, wide-right, high-below))) > 0 {
		t.Errorf("the figures are not drawn:\n%s\n%s\n%s", all["throughput.svg"], all["growth-latency.svg"], all["backlog.svg"])
	}
}

func TestWritePutsEverythingIntoAFolder(t *testing.T) {
	r, dir := measured(), filepath.Join(t.TempDir(), "docs", "bench")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"report.md": printed(t, r)}
	for _, s := range r.Scenarios {
		maps.Copy(want, plots(s))
	}
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s: %v, got\n%s", name, err, got)
		}
	}
	var again Results
	if text, err := os.ReadFile(filepath.Join(dir, "results.json")); err != nil || json.Unmarshal(text, &again) != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("results.json: %v, got\n%s", err, text)
	}
}

func TestScenariosAreChosenByName(t *testing.T) {
	for _, names := range [][]string{nil, {"peers", "burst"}} {
		chosen, err := choose(names)
		var got []string
		for _, s := range chosen {
			got = append(got, s.name)
		}
		if names == nil {
			names = Names()
		}
		if err != nil || len(got) == 0 || !slices.Equal(got, names) {
			t.Errorf("got %v, %v, want %v", got, err, names)
		}
	}
	if _, err := choose([]string{"burst", "speed"}); err == nil || len(lacks(err.Error(), `"speed"`, "there are "+strings.Join(Names(), ", "))) > 0 {
		t.Errorf("got %v", err)
	}
}
