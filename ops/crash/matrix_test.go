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
	"hotchoc/ops/stack"
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

	drive func(point) deed
	env   []string // for the process that dies
	// prepare leaves deeds half done, so that each process finds its messages waiting when it starts.
	prepare func(*testing.T, *rig) []*begun
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
	if k.prepare != nil {
		add(k.hears, "ask.barred")
	}
	add(k.hears, "door.read", "door.decided", "door.written", "door.committed")
	if !k.command {
		add(k.hears, "consume.settled", "consume.acked")
	}
	if k.emits != "" {
		add(k.emits, "relay.publish", "publish.sent", "relay.leased")
		add("", "relay.confirmed", "relay.cleared")
	}
	return all
}

// matrix is all kinds. Those that leave a hanging payment behind come last.
func matrix() []kind {
	is := func(d func() *order) func(point) deed { return func(point) deed { return d() } }
	anEdit, someGoods := func(point) deed { return &edit{} }, func(point) deed { return goods{} }
	all := []kind{
		{name: "a command that another service hears", service: "menu", hears: "edit", command: true, emits: "item.edited", drive: anEdit},
		{name: "a copy, of the order service", service: "order", hears: "item.edited", drive: anEdit},
		{name: "a copy, of the make service", service: "make", hears: "item.edited", drive: anEdit},
		{name: "a command on a shared stream", service: "make", hears: "replenish", command: true, emits: "stock.replenished", drive: someGoods},
		{name: "a step with nothing to say", service: "menu", hears: "stock.replenished", drive: someGoods},

		{name: "giving up", service: "pay", hears: "order.placed", asks: true, emits: "payment.failed", prepare: unreachable, env: []string{"PREFETCH=1"}},
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
			name: "a pattern over events", service: "pay", hears: "payment.failed", drive: func(point) deed { return &refusals{} },
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
		{
			name: "a dead letter", service: "pay", drive: func(point) deed { return &poison{} },
			only: []point{{"publish.sent", "order.placed"}, {"retry.confirmed", "order.placed"}, {"consume.settled", "order.placed"}, {"consume.acked", "order.placed"}},
		},
	}
	for _, service := range stack.Services() {
		all = append(all, kind{
			name: "a broken connection, of " + service, service: service, only: []point{{"connect.again", "publishing"}, {"connect.again", "consuming"}},
			drive: func(p point) deed { return cutOff(service + " " + p.label) },
		})
	}
	timer := kind{name: "a timer", service: "order", hears: "order.deadline", emits: "order.cancel_requested", drive: is(expired)}
	timer.only = append([]point{{"relay.leased", "order.deadline"}, {"relay.publish", "order.deadline"}, {"publish.sent", "order.deadline"}}, timer.points()...)
	return append(all,
		kind{name: "a command within a saga", service: "order", hears: "request-cancel", command: true, emits: "order.cancel_requested", drive: is(cancelled)},
		kind{name: "a judge, of what comes too late", service: "make", hears: "order.cancel_requested", emits: "make.cancel_rejected", drive: is(tooLate), later: true},
		kind{name: "a judge", service: "make", hears: "order.cancel_requested", emits: "make.failed", drive: is(cancelled)},
		kind{name: "a compensation of what never was", service: "pay", hears: "make.failed", asks: true, emits: "payment.failed", drive: is(cancelled)},
		timer,
	)
}

// unreachable places orders while the gateway is in trouble, until pay has given up on the charge and fails to void it.
// The trouble is over then.
func unreachable(t *testing.T, r *rig) (all []*begun) {
	t.Helper()
	if err := r.faults(partner{ErrorRate: 1}, partner{}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		all = append(all, r.begin(declined("", "tok_down"), func() {}))
	}
	for _, b := range all {
		if <-b.done; b.err != nil {
			t.Fatal(b.err)
		}
		r.must(t, func() error {
			var tries struct{ Attempts []struct{ N int } }
			if err := r.get("pay", "/attempts?saga="+b.deed.(*order).id, &tries); err != nil {
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
	done chan struct{} // they have been answered
	err  error
	told bool // that it did not end as it must
}

func (r *rig) begin(d deed, arm func()) *begun {
	b := &begun{deed: d, done: make(chan struct{})}
	r.deeds = append(r.deeds, b)
	go func() {
		defer close(b.done)
		b.err = b.begin(r, arm)
	}()
	return b
}

// finish waits until all have ended as they must.
func (r *rig) finish(t *testing.T, all []*begun) {
	t.Helper()
	for _, b := range all {
		<-b.done
		err := b.err
		if err == nil && !b.told {
			err = eventually(func() error { return b.ended(r) })
		}
		if err != nil && !b.told {
			b.told = true
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
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
		broker, err := r.broker(k.service)
		if err != nil {
			t.Fatal(err)
		}
		broker.Host = r.wire.address()
		env = append(env, "AMQP_URL="+broker.String())
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
			d := k.drive(p)
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
	return open, true
}

// dieEverywhere lets the service die at each point of a kind, and returns how many of them were reached.
func (r *rig) dieEverywhere(t *testing.T, k kind, reached map[string]int) (n int) {
	t.Helper()
	var open []*begun
	if k.prepare != nil {
		open = k.prepare(t, r)
	}
	for _, p := range k.points() {
		died := false
		if open, died = r.die(t, k, p, open); died {
			reached[p.at]++
			n++
		}
	}
	r.ready(t, k.service, r.start(t, k.service))
	if !k.later {
		r.finish(t, open)
	}
	return n
}

// atRest waits until nothing is on its way, and makes an audit of all.
func (r *rig) atRest(t *testing.T) {
	t.Helper()
	report, err := audit.Run(t.Context(), audit.Config{
		Database: r.shop.Database(), Management: r.shop.Management(), Partners: r.shop.URL("partners"),
		Wait: patience, Accepted: r.orders, Poison: r.poison,
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
}

func TestAProcessThatDiesAtAnyPointLosesNothingAndDoesNothingTwice(t *testing.T) {
	begin := time.Now()
	r := newRig(t)
	if err := r.offer(); err != nil {
		t.Fatal(err)
	}
	total, ran, failed, reached, kinds := 0, 0, 0, map[string]int{}, matrix()
	for _, k := range kinds {
		if t.Run(k.name, func(t *testing.T) {
			begin := time.Now()
			ran++
			n := r.dieEverywhere(t, k, reached)
			total += n
			t.Logf("%d points in %.1f s", n, time.Since(begin).Seconds())
		}) {
			continue
		}
		if failed++; failed == 3 {
			t.Fatal("that is enough")
		}
		if err := r.faults(partner{}, partner{}); err != nil {
			t.Fatal(err)
		}
		r.ready(t, k.service, r.start(t, k.service))
	}
	for point, at := range inSource(t) {
		if reached[point] == 0 && ran == len(kinds) {
			t.Errorf("%s: %s was not reached", at, point)
		}
	}
	fmt.Printf("%d crash points of %d kinds of handlers reached in %.1f s\n", total, ran, time.Since(begin).Seconds())

	r.atRest(t)
	r.finish(t, r.deeds) // also of what ended in time nothing came afterwards
	t.Logf("%d orders, audited, %.1f s in all", len(r.orders), time.Since(begin).Seconds())
}
