package bench

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"hotchoc/ops/stack"
)

//go:embed report.md.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"thousands": thousands,
	"num":       num,
	"mb":        func(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) },
	"join":      strings.Join,
	"plots":     func(s Scenario) []string { return slices.Sorted(maps.Keys(plots(s))) },
}).Parse(reportText))

// Write writes report.md, results.json and the plots into a folder. Plots of an earlier run that this one does not have
// stay there.
func (r Results) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var report strings.Builder
	if err := r.Print(&report); err != nil {
		return err
	}
	files := map[string]string{"results.json": string(text) + "\n", "report.md": report.String()}
	for _, s := range r.Scenarios {
		maps.Copy(files, plots(s))
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Print writes the report, in Markdown.
func (r Results) Print(w io.Writer) error { return reportTemplate.Execute(w, r) }

// Parts are the names of those that used the processors or the memory in some trial, the services first.
func (s Scenario) Parts() (names []string) {
	seen := map[string]bool{}
	for _, t := range s.Trials {
		for name := range t.Cores {
			seen[name] = true
		}
	}
	first := append(stack.Services(), "partners")
	for _, p := range peers {
		first = append(first, p.name)
	}
	for _, name := range append(first, "broker", "database", generator) {
		if seen[name] {
			names = append(names, name)
		}
	}
	return names
}

// Sums are the queue-like tables, over all services.
func (s Scenario) Sums() (sums []Table) {
	for _, name := range queueLike {
		sum := Table{Table: name}
		for _, t := range s.Tables {
			if t.Table == name {
				sum.Rows, sum.Bytes = sum.Rows+t.Rows, sum.Bytes+t.Bytes
			}
		}
		sums = append(sums, sum)
	}
	return sums
}

// Retried are the deliveries that were put off, given back or set aside.
func (t Trial) Retried() float64 { return t.Fates["retry"] + t.Fates["requeue"] + t.Fates["dead"] }

// plots are the pictures of a scenario, by file name.
func plots(s Scenario) map[string]string {
	files := map[string]string{}
	switch s.Name {
	case "throughput":
		files["throughput.svg"] = bars("Throughput of the shop", "orders/s", throughputs(s.Trials))
	case "peers":
		var most []Trial // those that are saturated
		for _, t := range s.Trials {
			if t.InFlight > 1 {
				most = append(most, t)
			}
		}
		files["peers.svg"] = bars("Throughput, medians", "orders/s", throughputs(most))
	case "growth":
		var all []bar
		for _, t := range s.Trials {
			all = append(all, bar{t.Load(), t.Latency.P50})
		}
		files["growth-latency.svg"] = bars("Latency by length of the log, p50", "ms", all)
		files["growth.svg"] = bars("Throughput by length of the log", "orders/s", throughputs(s.Trials))
	case "latency":
		var all []line
		for _, t := range s.Trials {
			if t.InFlight <= 1 { // at its capacity a closed loop shows the load, not the shop
				all = append(all, percentiles(t))
			}
		}
		files["latency.svg"] = lines("Latency from placing to the end", nines, "ms", all)
	case "backlog", "burst":
		title := map[string]string{"backlog": "A backlog is worked off", "burst": "A burst is worked off"}[s.Name]
		var all []line
		for _, t := range s.Trials {
			l := line{name: t.Load()}
			for _, o := range t.Drain {
				l.points = append(l.points, point{o.Seconds, float64(o.Orders)})
			}
			all = append(all, l)
		}
		files[s.Name+".svg"] = lines(title, seconds, "orders that have not ended", all)
	}
	return files
}

// throughputs are the medians of trials of the same system and load.
func throughputs(trials []Trial) (all []bar) {
	values := map[string][]float64{}
	var labels []string
	for _, t := range trials {
		label := t.Load()
		if slices.ContainsFunc(trials, func(other Trial) bool { return other.System != t.System }) {
			label = t.System + ", " + label
		}
		if values[label] == nil {
			labels = append(labels, label)
		}
		values[label] = append(values[label], t.Throughput)
	}
	for _, label := range labels {
		slices.Sort(values[label])
		all = append(all, bar{label, middle(values[label])})
	}
	return all
}

// percentiles is the curve of a trial: how many nines of all orders took at most so long.
func percentiles(t Trial) line {
	l := line{name: t.Load()}
	for _, q := range t.Latency.Curve {
		l.points = append(l.points, point{ninesOf(q.Share), q.MS})
	}
	return l
}

// num writes a figure with three digits that count.
func num(v float64) string {
	switch {
	case v >= 99.95:
		return thousands(int(v + 0.5))
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
