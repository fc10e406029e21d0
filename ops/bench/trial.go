package bench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// system is one of those that take orders: the shop, or what it is compared with.
type system struct {
	name  string
	url   string // of POST /orders
	ends  *ends
	parts []part
	// services count the messages that they handle, at /metrics of these URLs. Without them messagesPerOrder tells.
	services         []string
	messagesPerOrder float64
	wish             func(n int64) string
}

// Trial is one measurement.
type Trial struct {
	System string `json:"system"`
	// Label is what is special about it; empty if nothing is but the load.
	Label string `json:"label,omitempty"`
	// InFlight is the load of a closed loop: so many orders under way at all times. PerSecond is that of an open loop: so
	// many orders placed a second. Orders are the load of neither, placed at once or before.
	InFlight  int     `json:"in_flight,omitempty"`
	PerSecond float64 `json:"placed_per_s,omitempty"`
	Orders    int     `json:"placed,omitempty"`

	// Seconds is how long was measured, after the warm-up; Ended how many orders ended within; Throughput the quotient.
	Seconds    float64 `json:"seconds"`
	Ended      int     `json:"ended"`
	Throughput float64 `json:"orders_per_s"`
	Latency    Latency `json:"latency"`

	// Cores are what each part used of the processors, as an average number of them.
	Cores map[string]float64 `json:"cores"`
	// CoreMSPerOrder is all of that for each order that ended, but for the load generator's, in core-milliseconds.
	CoreMSPerOrder float64 `json:"core_ms_per_order"`
	// Messages are those that were handled, and CoreMSPerMessage is the CPU for each.
	Messages         float64 `json:"messages"`
	CoreMSPerMessage float64 `json:"core_ms_per_message"`
	// Foreign is how much of the processors all others used: where it is not small, the figures say little.
	Foreign float64 `json:"foreign_cores"`
	// RSS is how much of each part is in memory at the end, and Peak at most, in bytes.
	RSS  map[string]int64 `json:"rss_bytes"`
	Peak map[string]int64 `json:"peak_rss_bytes"`

	// Drain is how many orders were under way, over time, where that is the question.
	Drain []Open `json:"drain,omitempty"`
	// Fates are the deliveries that were settled, by what became of them: ack, retry, requeue, dead.
	Fates map[string]float64 `json:"fates,omitempty"`
}

// Open says that so many orders were under way after so many seconds.
type Open struct {
	Seconds float64 `json:"s"`
	Orders  int     `json:"orders"`
}

// String is a trial in a line.
func (t Trial) String() string {
	return fmt.Sprintf("%-9s %-28s %7.0f orders/s  p50 %6.1f ms  p99 %6.1f ms  %.2f core-ms/order", t.System, t.Load(), t.Throughput, t.Latency.P50, t.Latency.P99, t.CoreMSPerOrder)
}

// Load is what the system was under.
func (t Trial) Load() string {
	var load string
	switch {
	case t.InFlight == 1:
		load = "one at a time"
	case t.InFlight > 0:
		load = fmt.Sprintf("%s in flight", thousands(t.InFlight))
	case t.PerSecond > 0:
		load = fmt.Sprintf("%.0f orders/s", t.PerSecond)
	default:
		load = fmt.Sprintf("%s orders", thousands(t.Orders))
	}
	return strings.TrimPrefix(t.Label+", "+load, ", ")
}

// load places orders until its context is done, or longer: it returns when all have ended.
type load func(context.Context, *customers) error

// trial measures a system under a load, for the time of the window, after a warm-up that does not count. What counts is
// decided by the time that counting goes by: of a closed loop orders count that end in the window, of an open loop those
// that were due in it, also when they end long after.
func (s *system) trial(ctx context.Context, c *customers, drive load, byStart bool, warm, window time.Duration) (Trial, error) {
	driving, over := context.WithCancelCause(ctx)
	defer over(nil)
	done := make(chan error, 1)
	go func() { done <- drive(driving, c) }()
	pause := func(long time.Duration) error {
		select {
		case <-time.After(long):
			return nil
		case err := <-done:
			return fmt.Errorf("%s: the load ended too soon: %w", s.name, err)
		}
	}
	if err := pause(warm); err != nil {
		return Trial{}, err
	}
	from, err := s.look(ctx)
	if err != nil {
		return Trial{}, err
	}
	resetPeak(s.parts)
	if err := pause(window); err != nil {
		return Trial{}, err
	}
	to, err := s.look(ctx)
	if err != nil {
		return Trial{}, err
	}
	over(errOver)
	if err := <-done; err != nil {
		return Trial{}, fmt.Errorf("%s: %w", s.name, err)
	}
	return s.run(from, to, c.finished(), byStart), nil
}

// look is what a system has done and used until one moment.
type look struct {
	at              time.Time
	uses            map[string]use
	busy            time.Duration // of all processors, by whomever
	messages, fates map[string]float64
}

func (s *system) look(ctx context.Context) (l look, err error) {
	if l.messages, err = counter(ctx, s.services, "hotchoc_messages_total", "outcome"); err != nil {
		return l, err
	}
	if l.fates, err = counter(ctx, s.services, "hotchoc_deliveries_total", "fate"); err != nil {
		return l, err
	}
	l.at = time.Now()
	if l.busy, err = busy(os.DirFS("/proc")); err != nil {
		return l, err
	}
	l.uses, err = measure(os.DirFS("/proc"), s.parts)
	return l, err
}

// run makes the figures of what lies between two looks.
func (s *system) run(from, to look, orders []order, byStart bool) Trial {
	r := Trial{
		System: s.name, Seconds: to.at.Sub(from.at).Seconds(), Fates: map[string]float64{},
		Cores: map[string]float64{}, RSS: map[string]int64{}, Peak: map[string]int64{},
	}
	within := func(t time.Time) bool { return !t.Before(from.at) && t.Before(to.at) }
	var took []time.Duration
	for _, o := range orders {
		if within(o.end) {
			r.Ended++
		}
		if byStart && within(o.start) || !byStart && within(o.end) {
			took = append(took, o.end.Sub(o.start))
		}
	}
	r.Latency = latencyOf(took)
	r.Throughput = float64(r.Ended) / r.Seconds
	r.Messages = float64(r.Ended) * s.messagesPerOrder
	for outcome, n := range to.messages {
		r.Messages += n - from.messages[outcome]
	}
	for fate, n := range to.fates {
		r.Fates[fate] = n - from.fates[fate]
	}
	var cpu, all time.Duration
	for name, end := range to.uses {
		used := end.cpu - from.uses[name].cpu
		r.Cores[name] = used.Seconds() / r.Seconds
		r.RSS[name], r.Peak[name] = end.rss, end.peak
		if all += used; name != generator {
			cpu += used
		}
	}
	r.Foreign = max(0, (to.busy-from.busy-all).Seconds()/r.Seconds)
	if r.Ended > 0 {
		r.CoreMSPerOrder = milliseconds(cpu) / float64(r.Ended)
	}
	if r.Messages > 0 {
		r.CoreMSPerMessage = milliseconds(cpu) / r.Messages
	}
	return r
}

// drain is how many orders were under way over time, from a moment to the end of the last, in so many points.
func drain(orders []order, from time.Time, points int) (curve []Open) {
	var last time.Time
	for _, o := range orders {
		if o.end.After(last) {
			last = o.end
		}
	}
	for i := range points + 1 {
		at := from.Add(last.Sub(from) * time.Duration(i) / time.Duration(points))
		open := 0
		for _, o := range orders {
			if !o.start.After(at) && o.end.After(at) {
				open++
			}
		}
		curve = append(curve, Open{at.Sub(from).Seconds(), open})
	}
	return curve
}

// MessagesPerSecond is how many messages were handled a second.
func (t Trial) MessagesPerSecond() float64 { return t.Messages / max(t.Seconds, 1e-9) }
