// Package crash_test kills a real process at every crash point of every kind of handler, starts it again, and looks
// whether anything was lost, done twice, or stuck.
package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hotchoc/ops/audit"
)

// kind is a kind of handler, by one that stands for it.
type kind struct {
	name    string
	service string // that dies
	hears   string // the event, or for a command its step
	command bool   // comes over HTTP
	asks    bool   // the outside
	emits   string // one of the events; "": none
	// late says that what it emits is not the first of the service in the saga, and what happens to the order in between.
	// Where a point cannot tell which event it is at, the process is armed then.
	late string
	only []point // not all the points that follow from the rest

	drive func() deed
	env   []string // for the process that dies
	// prepare leaves the deeds half done, so that each process finds its messages waiting when it starts.
	prepare func(*testing.T, *rig) []deed
	// later says that it takes a while until the deeds have ended: it is looked at after all.
	later bool
}

// point is where the process dies: a crash point, and the event or step that it is to be at; "": whatever.
type point struct{ at, label string }

func (p point) String() string { return strings.TrimSuffix(p.at+"/"+p.label, "/") }

// leftBehind tells that the process dies by what the one before it has left in the outbox.
func (p point) leftBehind() bool { return p.at == "relay.leased" && p.label != "order.deadline" }

// points are the places where something of this kind can be cut off, in an order in which each death leaves behind what
// the next one needs.
func (k kind) points() (all []point) {
	add := func(label string, points ...string) {
		for _, at := range points {
			all = append(all, point{at, label})
		}
	}
	if k.only != nil {
		return k.only
	}
	if k.asks {
		add(k.hears, "ask.before", "ask.after")
	}
	add(k.hears, "door.read", "door.decided", "door.written", "door.committed")
	if k.emits != "" {
		add(k.emits, "relay.leased", "relay.publish", "publish.sent")
	}
	if !k.command {
		add(k.hears, "consume.settled", "consume.acked")
	}
	if k.emits != "" {
		add("", "relay.confirmed", "relay.cleared")
	}
	return all
}

// matrix is all kinds. Those that leave a hanging payment behind come last.
func matrix() []kind {
	is := func(d func() *order) func() deed { return func() deed { return d() } }
	anEdit, someGoods := func() deed { return &edit{} }, func() deed { return goods{} }
	all := []kind{
		{name: "a command that another service hears", service: "menu", hears: "edit", command: true, emits: "item.edited", drive: anEdit},
		{name: "a copy, of the order service", service: "order", hears: "item.edited", drive: anEdit},
		{name: "a copy, of the make service", service: "make", hears: "item.edited", drive: anEdit},
		{name: "a command on a shared stream", service: "make", hears: "replenish", command: true, emits: "stock.replenished", drive: someGoods},
		{name: "a step with nothing to say", service: "menu", hears: "stock.replenished", drive: someGoods},

		{name: "giving up", service: "pay", hears: "order.placed", asks: true, emits: "payment.failed", prepare: unreachable, env: []string{"BATCH_MAX=1"}},
		{name: "a command that begins a saga", service: "order", hears: "place", command: true, emits: "order.placed", drive: is(completed)},
		{name: "an ask, of the gateway", service: "pay", hears: "order.placed", asks: true, emits: "payment.captured", drive: is(completed)},
		{name: "a step", service: "make", hears: "payment.captured", emits: "stock.reserved", drive: is(completed)},
		{name: "a view", service: "order", hears: "payment.captured", drive: is(completed)},
		{name: "an ask on an event of one's own, of the machine", service: "make", hears: "stock.reserved", asks: true, emits: "drink.made", late: "stock.reserved", drive: is(completed)},
		{name: "an ask, of the courier", service: "delivery", hears: "drink.made", asks: true, emits: "delivery.dispatched", drive: is(completed)},
		{name: "an ask on an event of one's own, of the courier", service: "delivery", hears: "delivery.dispatched", asks: true, emits: "delivery.delivered", late: "delivery.dispatched", drive: is(completed)},
		{name: "a step that ends a saga", service: "order", hears: "delivery.delivered", emits: "order.completed", late: "delivery.dispatched", drive: is(completed)},
		{name: "a compensation that ends a saga", service: "order", hears: "make.failed", emits: "order.cancelled", late: "order.placed", drive: is(brokenMachine)},
		{name: "a compensation", service: "make", hears: "delivery.failed", emits: "drink.discarded", late: "delivery.dispatched", drive: is(nobodyHome)},
		{name: "a compensation that asks", service: "pay", hears: "make.failed", asks: true, emits: "payment.refunded", late: "payment.captured", drive: is(brokenMachine)},
		{name: "a compensation that asks, from the end of the saga", service: "pay", hears: "delivery.failed", asks: true, emits: "payment.refunded", late: "payment.captured", drive: is(nobodyHome)},
		{
			// The payment that failed and the flag are emitted in a breath, so there is no time in between to arm.
			name: "a pattern over events", service: "pay", hears: "payment.failed", drive: func() deed { return &refusals{} },
			only: []point{
				{"door.read", "payment.failed"}, {"door.decided", "payment.failed"}, {"door.written", "payment.failed"}, {"door.committed", "payment.failed"},
				{"relay.publish", "customer.flagged"}, {"publish.sent", "customer.flagged"},
				{"consume.settled", "payment.failed"}, {"consume.acked", "payment.failed"},
			},
		},
		{
			name: "a retry", service: "pay", drive: is(flaky), later: true,
			only: []point{{"publish.sent", "order.placed"}, {"retry.confirmed", "order.placed"}, {"consume.settled", "order.placed"}, {"consume.acked", "order.placed"}},
		},
	}
	for _, service := range []string{"menu", "order", "pay", "make", "delivery"} {
		for _, what := range []string{"publishing", "consuming"} {
			all = append(all, kind{
				name: "a broken connection: " + service + " " + what, service: service, only: []point{{"connect.again", what}},
				drive: func() deed { return cutOff(service + " " + what) },
			})
		}
	}
	timer := kind{name: "a timer", service: "order", hears: "order.deadline", emits: "order.cancel_requested", drive: is(expired)}
	timer.only = append([]point{{"relay.leased", "order.deadline"}, {"relay.publish", "order.deadline"}, {"publish.sent", "order.deadline"}}, timer.points()...)
	return append(all,
		kind{name: "a command within a saga", service: "order", hears: "request-cancel", command: true, emits: "order.cancel_requested", drive: is(cancelled)},
		kind{name: "a judge", service: "make", hears: "order.cancel_requested", emits: "make.failed", drive: is(cancelled)},
		kind{name: "a compensation of what never was", service: "pay", hears: "make.failed", asks: true, emits: "payment.failed", drive: is(cancelled)},
		timer,
	)
}

// unreachable places orders while the gateway is in trouble, until pay has given up on the charge and fails to void it.
// The trouble is over then.
func unreachable(t *testing.T, r *rig) []deed {
	t.Helper()
	if err := r.faults(partner{ErrorRate: 1}, partner{}); err != nil {
		t.Fatal(err)
	}
	var all []deed
	for range 16 {
		o := declined("", "tok_down")
		if err := o.begin(r, func() {}); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	for _, d := range all {
		r.must(t, func() error {
			var tries struct{ Attempts []struct{ N int } }
			if err := r.get("pay", "/attempts?saga="+d.(*order).id, &tries); err != nil {
				return err
			}
			if len(tries.Attempts) < 3 {
				return fmt.Errorf("pay has tried %d times", len(tries.Attempts))
			}
			return nil
		})
	}
	if err := r.faults(partner{}, partner{}); err != nil {
		t.Fatal(err)
	}
	return all
}

// begun is a deed whose requests are being made.
type begun struct {
	deed
	done chan struct{}
	err  error
}

func (r *rig) begin(d deed, arm func()) *begun {
	b := &begun{deed: d, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.err = b.deed.begin(r, arm)
	}()
	return b
}

// finish waits until all have ended as they must.
func (r *rig) finish(t *testing.T, all []*begun) {
	t.Helper()
	for _, b := range all {
		if <-b.done; b.err != nil {
			t.Errorf("%v", b.err)
			continue
		}
		if err := eventually(func() error { return b.ended(r) }); err != nil {
			t.Errorf("%v", err)
		}
	}
}

const again = 3 * time.Second // until something more is asked of a process that did not die

// die lets a new process of the service die at one point, and returns what was begun for it.
func (r *rig) die(t *testing.T, k kind, p point, before []*begun) (open []*begun, reached bool) {
	t.Helper()
	r.marks++
	mark := filepath.Join(r.dir, "marks", fmt.Sprint(r.marks), "died")
	arm := func() { _ = os.MkdirAll(filepath.Dir(mark), 0o755) } // before there is a folder, the mark cannot be made
	env := append([]string{"CRASH_AT=" + p.String(), "CRASH_ONCE=" + mark}, k.env...)
	if p.at == "connect.again" {
		env = append(env, r.byWire(t, k.service))
	}
	late := ""
	if p.label == "" && k.late != "" {
		const think = 250
		late, env = k.late, append(env, fmt.Sprintf("BREW_FOR=%dms", think))
		if err := r.faults(partner{LatencyMS: think}, partner{LatencyMS: think}); err != nil {
			t.Fatal(err)
		}
	}
	waiting := k.prepare != nil || p.leftBehind()
	if waiting {
		arm()
	}
	process := r.start(t, k.service, env...)
	if waiting {
		open = before
	} else {
		r.ready(t, k.service, process)
		if !k.later {
			r.finish(t, before)
		}
	}
	for tries := 0; !reached && tries < 5; tries++ {
		if tries > 0 {
			t.Logf("%s: not reached yet", p)
		}
		if k.drive != nil && (!waiting || tries > 0) {
			d := k.drive()
			if o, ok := d.(*order); ok && late != "" {
				o.late, o.service = late, k.service
			}
			open = append(open, r.begin(d, arm))
		}
		select {
		case <-process.gone:
			reached = true
		case <-time.After(again):
		}
	}
	if late != "" {
		if err := r.faults(partner{}, partner{}); err != nil {
			t.Fatal(err)
		}
	}
	if !reached {
		t.Errorf("%s: %s was not reached", k.name, p)
		return open, false
	}
	said, err := os.ReadFile(mark)
	at, labels, _ := strings.Cut(strings.TrimSpace(string(said)), " ")
	if err != nil || !process.killed() || at != p.at || p.label != "" && !slices.Contains(strings.Fields(labels), p.label) {
		t.Errorf("%s: at %s the process ended otherwise: %v, mark %q, %v", k.name, p, process.cmd.ProcessState, said, err)
	}
	r.age(t, k.service)
	return open, true
}

func TestAProcessThatDiesAtAnyPointLosesNothingAndDoesNothingTwice(t *testing.T) {
	begin := time.Now()
	r := newRig(t)
	if err := r.offer(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the stack is up after %.1f s", time.Since(begin).Seconds())
	var missed []string
	var all, later []*begun
	reached, kinds := map[string]int{}, matrix()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			begin := time.Now()
			var open []*begun
			if k.prepare != nil {
				for _, d := range k.prepare(t, r) {
					b := &begun{deed: d, done: make(chan struct{})}
					close(b.done)
					open = append(open, b)
				}
			}
			all = append(all, open...)
			for _, p := range k.points() {
				before := open
				now, died := r.die(t, k, p, before)
				if open = now; k.later {
					later = append(later, before...)
				}
				if died {
					reached[p.at]++
				} else {
					missed = append(missed, k.name+": "+p.String())
				}
				for _, b := range open {
					if !slices.Contains(all, b) {
						all = append(all, b)
					}
				}
			}
			r.ready(t, k.service, r.start(t, k.service))
			if k.later {
				later = append(later, open...)
			} else {
				r.finish(t, open)
			}
			t.Logf("%d points in %.1f s", len(k.points()), time.Since(begin).Seconds())
		})
	}
	r.finish(t, later)
	total := 0
	for _, n := range reached {
		total += n
	}
	for point, at := range inSource(t) {
		if reached[point] == 0 {
			missed = append(missed, fmt.Sprintf("%s (%s)", point, at))
		}
	}
	if len(missed) > 0 {
		t.Errorf("not reached:\n%s", strings.Join(missed, "\n"))
	}
	fmt.Printf("%d crash points of %d kinds of handlers reached in %.1f s, %d different ones\n", total, len(kinds), time.Since(begin).Seconds(), len(reached))

	report, err := audit.Run(t.Context(), audit.Config{
		Database: r.shop.Database(), Management: r.shop.Management(), Partners: r.shop.URL("partners"), Wait: 60 * time.Second, Accepted: r.accepted,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !report.AtRest {
		t.Errorf("the shop does not come to rest: %v", report.Unrest)
	}
	for _, v := range report.Violations {
		t.Errorf("%s %s %s: %s", v.Invariant, v.Service, v.Saga, v.What)
		for _, e := range v.Trace {
			t.Logf("    %s %s (%s) %s", e.At.Format(time.RFC3339Nano), e.Type, e.Service, e.ID)
		}
	}
	// Nothing came afterwards that should not.
	for _, b := range all {
		if err := b.ended(r); err != nil {
			t.Errorf("at last: %v", err)
		}
	}
	t.Logf("%d orders, %.1f s in all", len(r.accepted), time.Since(begin).Seconds())
}
