package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hotchoc/ops/audit"
)

// Report is what came of a run.
type Report struct {
	Seed     uint64        `json:"seed"`
	Began    time.Time     `json:"began"`
	Took     time.Duration `json:"took_ns"`
	Schedule []Fault       `json:"schedule"`

	Injected map[Kind]int        `json:"injected"`
	Recovery map[string]Recovery `json:"recovery"`
	Guards   map[string]int      `json:"guards"`

	Orders   int            `json:"orders"`
	Ends     map[string]int `json:"ends"`    // by status and cause
	Answers  map[string]int `json:"answers"` // to the customers, by status code; none: there was no answer
	Failures float64        `json:"failures"`
	LastEnd  time.Duration  `json:"last_end_ns"` // after everything was healed
	Latency  Recovery       `json:"latency"`     // of orders, from the first request to the end

	Audit audit.Report `json:"audit"`

	// What went wrong: promises broken, and what says that the run itself is worth nothing.
	Violations []string       `json:"violations"`
	Zero       []string       `json:"zero,omitempty"`
	Stuck      []*Order       `json:"stuck,omitempty"`
	LogErrors  map[string]int `json:"log_errors,omitempty"` // lines of level error in the logs, but for dead letters
	Trouble    []string       `json:"trouble,omitempty"`    // of the faults themselves
	OK         bool           `json:"ok"`
}

// Recovery is how long something took.
type Recovery struct {
	Times  int           `json:"times"`
	Median time.Duration `json:"median_ns"`
	P90    time.Duration `json:"p90_ns"`
	Most   time.Duration `json:"most_ns"`
}

// What is measured against a target.
const (
	serviceToReady   = "service: exec to ready"
	serviceToAck     = "service: exec to first ack"
	brokerToDelivery = "broker: port open to first delivery"
	postgresToCommit = "postgres: accepting to first commit"
	frozenToNoticed  = "broker: frozen to noticed"
)

var targets = map[string]time.Duration{
	serviceToAck: time.Second, brokerToDelivery: time.Second, postgresToCommit: time.Second, frozenToNoticed: 10 * time.Second,
}

// guards are what the shop defends itself with, and the faults without which they cannot be hit; none: the customers see to it.
var guards = []struct {
	name  string
	needs []Kind
}{
	{"duplicates suppressed", []Kind{Duplicate}},
	{"hanging steps suppressed", []Kind{Duplicate, Reorder}},
	{"empty rollbacks", nil},
	{"voids", nil},
	{"refunds", nil},
	{"requests repeated", nil},
	{"published again", []Kind{KillService, KillBroker}},
	{"swept", []Kind{KillService, KillBroker}},
	{"redelivered", []Kind{KillService, KillBroker}},
	{"reconnects", []Kind{KillBroker, RestartBroker, FreezeBroker}},
	{"retries", []Kind{GatewayFails, GatewayLoses, CourierFails, CourierLoses}},
	{"poison parked", []Kind{Poison}},
}

func (r *Report) guard(name string, n int) {
	if r.Guards == nil {
		r.Guards = map[string]int{}
	}
	r.Guards[name] += n
}

func (r *Report) violate(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

func recovery(took []time.Duration) (r Recovery) {
	if len(took) == 0 {
		return r
	}
	took = slices.Sorted(slices.Values(took))
	return Recovery{len(took), took[len(took)/2], took[len(took)*9/10], took[len(took)-1]}
}

func (b *breaker) fill(r *Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Injected = maps.Clone(b.injected)
	r.Recovery = map[string]Recovery{}
	for what, took := range b.recovery {
		r.Recovery[what] = recovery(took)
	}
	r.Trouble = b.trouble
}

func (c *customers) fill(r *Report, healed time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Orders, r.Ends, r.Answers = len(c.orders), map[string]int{}, c.answers
	failures := 0
	var took []time.Duration
	for _, o := range c.orders {
		end := o.Status
		if o.Cause != "" {
			end += ", " + o.Cause
			failures++
		}
		if o.Ended.IsZero() {
			end = "not ended, " + end
			r.Stuck = append(r.Stuck, o)
		} else {
			r.LastEnd = max(r.LastEnd, o.Ended.Sub(healed))
			took = append(took, o.Took)
		}
		r.Ends[end]++
	}
	if len(c.orders) > 0 {
		r.Failures = float64(failures) / float64(len(c.orders))
	}
	r.Latency = recovery(took)
	r.guard("requests repeated", c.repeats)
	r.Violations = append(r.Violations, c.violations...)
}

func (d *duplicator) fill(r *Report) {
	r.Injected[Duplicate] = int(d.duplicated.Load())
	r.Injected[Reorder] = int(d.reordered.Load())
	r.guard("published again", int(d.republished.Load()))
	r.guard("events", int(d.read.Load()))
}

func (w *watch) fill(r *Report) {
	r.guard("duplicates suppressed", w.counted("hotchoc_messages_total", `outcome="duplicate"`))
	r.guard("retries", w.counted("hotchoc_deliveries_total", `fate="retry"`))
	r.guard("swept", w.counted("hotchoc_relay_messages_total", `what="swept"`))
	r.guard("reconnects", w.logged("no broker"))
	w.mu.Lock()
	defer w.mu.Unlock()
	r.guard("redelivered", int(w.redeemed))
	r.LogErrors = w.errors
}

// compare notes how often the guards were hit that only the databases, the broker and the gateway know of.
func (r *Report) compare(before, after counts, poison []string) {
	r.guard("empty rollbacks", after.emptyRollbacks-before.emptyRollbacks)
	r.guard("hanging steps suppressed", after.hanging-before.hanging)
	r.guard("voids", after.voids-before.voids)
	r.guard("refunds", after.refunds-before.refunds)
	parked := 0
	for _, id := range poison {
		if slices.Contains(after.dead, id) {
			parked++
		}
	}
	r.guard("poison parked", parked)
}

// judge decides whether the run was good.
func (r *Report) judge(cfg Config) {
	if r.LastEnd > endsWithin {
		r.violate("the last order ended %.0f s after everything was healed, more than %.0f s", r.LastEnd.Seconds(), endsWithin.Seconds())
	}
	for _, o := range r.Stuck {
		r.violate("order %s (%s, %s, %s) did not end: %s", o.ID, o.wish.SKU, o.wish.Token, o.wish.Address, strings.Join(o.Statuses, ", "))
	}
	if n := r.Answers["500"]; n > 0 {
		r.violate("the customers were told 500 %d times", n)
	}
	for _, line := range slices.Sorted(maps.Keys(r.LogErrors)) {
		r.violate("%d times in a log: %s", r.LogErrors[line], line)
	}
	r.Zero = zeros(cfg.Only, r.Injected, r.Guards)
	r.OK = len(r.Violations) == 0 && len(r.Trouble) == 0 && r.Audit.OK() && r.Audit.AtRest && (cfg.AllowZero || len(r.Zero) == 0)
}

// zeros are the faults that were asked for and never came, and the guards that they should have hit and did not. A run with
// one of these proves less than it says.
func zeros(kinds []Kind, injected map[Kind]int, hit map[string]int) (zero []string) {
	for _, k := range kinds {
		if injected[k] == 0 {
			zero = append(zero, "fault "+string(k))
		}
	}
	for _, g := range guards {
		wanted := len(g.needs) == 0 || slices.ContainsFunc(g.needs, func(k Kind) bool { return slices.Contains(kinds, k) })
		if wanted && hit[g.name] == 0 {
			zero = append(zero, "guard "+g.name)
		}
	}
	return zero
}

// Print tells people.
func (r Report) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nSeed %d, %.0f s\n", r.Seed, r.Took.Seconds())
	fmt.Fprintln(t, "\nINJECTED\tTIMES")
	for _, k := range Kinds {
		if n, ok := r.Injected[k]; ok {
			fmt.Fprintf(t, "%s\t%d\n", k, n)
		}
	}
	fmt.Fprintln(t, "\nRECOVERY\tTIMES\tMEDIAN\tP90\tMOST\tTARGET")
	for _, what := range slices.Sorted(maps.Keys(r.Recovery)) {
		m, target := r.Recovery[what], ""
		if most := targets[what]; most > 0 {
			target = fmt.Sprintf("%.0f s", most.Seconds())
			if m.P90 > most { // not by the most: one customer with a slow card can hold up a first ack for 2 s
				target += ", missed"
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%.2f s\t%.2f s\t%.2f s\t%s\n", what, m.Times, m.Median.Seconds(), m.P90.Seconds(), m.Most.Seconds(), target)
	}
	fmt.Fprintln(t, "\nGUARD\tHIT")
	for _, name := range slices.Sorted(maps.Keys(r.Guards)) {
		fmt.Fprintf(t, "%s\t%d\n", name, r.Guards[name])
	}
	fmt.Fprintln(t, "\nORDERS\t")
	for _, end := range slices.SortedFunc(maps.Keys(r.Ends), func(a, b string) int { return r.Ends[b] - r.Ends[a] }) {
		fmt.Fprintf(t, "%s\t%d\n", end, r.Ends[end])
	}
	fmt.Fprintf(t, "all, of which %.0f %% did not go well\t%d\n", 100*r.Failures, r.Orders)
	fmt.Fprintf(t, "from the first request to the end\tmedian %.2f s, p90 %.2f s, most %.2f s\n", r.Latency.Median.Seconds(), r.Latency.P90.Seconds(), r.Latency.Most.Seconds())
	fmt.Fprintf(t, "the last one ended after the last heal\t%.1f s\n", max(0, r.LastEnd).Seconds())
	var answers []string
	for _, code := range slices.Sorted(maps.Keys(r.Answers)) {
		answers = append(answers, fmt.Sprintf("%s: %d", code, r.Answers[code]))
	}
	fmt.Fprintf(t, "answers\t%s\n", strings.Join(answers, ", "))
	t.Flush()
	fmt.Fprintln(out)
	if err := r.Audit.Print(out); err != nil {
		return err
	}
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(out, "\n%s\n  %s\n", title, strings.Join(lines, "\n  "))
		}
	}
	list("NEVER HIT, so this run proves less than it should", r.Zero)
	list("THE FAULTS THEMSELVES WENT WRONG", r.Trouble)
	list("VIOLATIONS", r.Violations)
	if r.OK {
		_, err := fmt.Fprintln(out, "\nNothing lost, nothing done twice, everything came to its end.")
		return err
	}
	_, err := fmt.Fprintf(out, "\nNot good. Once more, the same: --seed %d\n", r.Seed)
	return err
}

// MarshalJSON writes how long something took in seconds.
func (r Recovery) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"times": r.Times, "median_seconds": r.Median.Seconds(), "p90_seconds": r.P90.Seconds(), "most_seconds": r.Most.Seconds()})
}
