package bench

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreByNearestRank(t *testing.T) {
	for _, c := range []struct{ n, p50, p90, p99, p999 float64 }{
		{1, 1, 1, 1, 1}, {2, 1, 2, 2, 2}, {10, 5, 9, 10, 10}, {11, 6, 10, 11, 11}, {100, 50, 90, 99, 100}, {1000, 500, 900, 990, 999}, {12345, 6173, 11111, 12222, 12333},
	} {
		var samples []time.Duration // n ms down to 1 ms
		for ms := c.n; ms > 0; ms-- {
			samples = append(samples, time.Duration(ms)*time.Millisecond)
		}
		l := latencyOf(samples)
		if got, want := []float64{float64(l.Samples), l.P50, l.P90, l.P99, l.P999, l.Max}, []float64{c.n, c.p50, c.p90, c.p99, c.p999, c.n}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if first, last := l.Curve[0], l.Curve[len(l.Curve)-1]; first != (Quantile{0, 1}) || last != (Quantile{1 - 1/c.n, c.n}) {
			t.Errorf("of %v samples: the curve goes from %v to %v", c.n, first, last)
		}
		for n, q := range l.Curve { // sample n took n ms
			if n > 0 && (q.Share < l.Curve[n-1].Share || q.MS < l.Curve[n-1].MS) || q.MS/c.n < q.Share-1e-9 {
				t.Errorf("of %v samples: %v is no point of the curve", c.n, q)
			}
		}
	}
	if l := latencyOf(nil); l.Samples != 0 || l.Max != 0 || l.Curve != nil {
		t.Errorf("of none: %+v", l)
	}
}

// at is a moment of a trial.
func at(seconds float64) time.Time {
	return time.Unix(1000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func TestATrialCountsWhatLiesBetweenTwoLooks(t *testing.T) {
	from := look{
		at: at(10), busy: 100 * time.Second, messages: map[string]float64{"done": 1000}, fates: map[string]float64{"ack": 50, "retry": 2},
		uses: map[string]use{"pay": {cpu: 3 * time.Second, rss: 9, peak: 9}, generator: {cpu: 7 * time.Second}},
	}
	to := look{
		at: at(14), busy: 106 * time.Second, messages: map[string]float64{"done": 1070, "duplicate": 5}, fates: map[string]float64{"ack": 120, "retry": 2, "dead": 1},
		uses: map[string]use{"pay": {cpu: 4 * time.Second, rss: 11, peak: 12}, "make": {cpu: time.Second, rss: 13, peak: 14}, generator: {cpu: 9 * time.Second}},
	}
	orders := []order{
		{at(8), at(9.5)},                   // before
		{at(9), at(10)}, {at(9.5), at(12)}, // they count by their ends
		{at(10), at(13)}, {at(11), at(13.5)}, {at(12), at(13.9)}, // by both
		{at(13), at(14)}, {at(13.5), at(53.5)}, // by their starts
		{at(14), at(14.5)}, // after
	}
	s := &system{name: "some"}
	byEnd, byStart := s.run(from, to, orders, false), s.run(from, to, orders, true)
	for _, r := range []Trial{byEnd, byStart} {
		if r.System != "some" || r.Seconds != 4 || r.Ended != 5 || r.Throughput != 1.25 {
			t.Errorf("%s: %d orders ended in %v s, %v orders/s", r.System, r.Ended, r.Seconds, r.Throughput)
		}
		if r.Messages != 75 || r.MessagesPerSecond() != 18.75 || !maps.Equal(r.Fates, map[string]float64{"ack": 70, "retry": 0, "dead": 1}) {
			t.Errorf("%v messages, %v a second, fates %v", r.Messages, r.MessagesPerSecond(), r.Fates)
		}
		// Pay and make used a second each, the load generator two; six were busy.
		if !maps.Equal(r.Cores, map[string]float64{"pay": 0.25, "make": 0.25, generator: 0.5}) || r.Foreign != 0.5 {
			t.Errorf("cores %v, foreign %v", r.Cores, r.Foreign)
		}
		if r.CoreMSPerOrder != 400 || math.Abs(r.CoreMSPerMessage-2000./75) > 1e-9 {
			t.Errorf("%v core-ms for an order, %v for a message: the load generator's do not count", r.CoreMSPerOrder, r.CoreMSPerMessage)
		}
		if r.RSS["pay"] != 11 || r.Peak["pay"] != 12 || r.RSS["make"] != 13 || r.Peak["make"] != 14 {
			t.Errorf("resident %v, at most %v", r.RSS, r.Peak)
		}
	}
	if l := byEnd.Latency; l.Samples != 5 || l.P50 != 2500 || l.Max != 3000 {
		t.Errorf("by end: %+v", l)
	}
	if l := byStart.Latency; l.Samples != 5 || l.P50 != 2500 || l.Max != 40_000 {
		t.Errorf("by start: %+v", l)
	}
	s.messagesPerOrder, to.messages, to.busy = 8, nil, from.busy // it counts none itself, and the kernel's figures are rounded
	if r := s.run(from, to, orders, false); r.Messages != 40 || r.CoreMSPerMessage != 50 || r.Foreign != 0 {
		t.Errorf("%v messages at 8 for each order, %v core-ms for each, foreign %v", r.Messages, r.CoreMSPerMessage, r.Foreign)
	}
	if r := s.run(from, to, nil, false); r.Throughput != 0 || r.CoreMSPerOrder != 0 || r.CoreMSPerMessage != 0 {
		t.Errorf("nothing ended: %+v", r)
	}
}

func TestADrainBeginsWithAllOpenAndEndsWithNone(t *testing.T) {
	orders := []order{{at(0), at(14)}, {at(10), at(11)}, {at(9), at(16)}, {at(9), at(12.5)}, {at(3), at(13)}}
	if got, want := drain(orders, at(10), 6), []Open{{0, 5}, {1, 4}, {2, 4}, {3, 2}, {4, 1}, {5, 1}, {6, 0}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestQuotientsAreOfTheSameRound(t *testing.T) {
	for _, c := range []struct {
		over, under []float64
		want        Ratio
	}{
		{[]float64{30, 10, 100}, []float64{10, 10, 10}, Ratio{"an odd number", 3, 1, 10}},
		{[]float64{10, 20, 40, 80}, []float64{10, 10, 10, 10}, Ratio{"an even number", 3, 1, 8}},
		{[]float64{10, 20, 30}, []float64{5, 20, 60}, Ratio{"round by round", 1, 0.5, 2}},
		{[]float64{10, 50, 30}, []float64{10, 0, 10}, Ratio{"nothing to divide by", 2, 1, 3}},
		{[]float64{10, 20, 900}, []float64{10, 10}, Ratio{"a round that is not finished", 1.5, 1, 2}},
		{nil, []float64{10}, Ratio{What: "none"}},
	} {
		if got := quotient(c.want.What, c.over, c.under); got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}

func TestTheShopIsComparedWithPeersAndCeilings(t *testing.T) {
	var trials []Trial
	for _, round := range []float64{1, 2, 4} {
		for system, n := range map[string]float64{shopName: 100, "pipeline": 400, "watermill": 50} {
			trials = append(trials,
				Trial{System: system, InFlight: 1, Latency: Latency{P50: 1000 / n * round}},
				Trial{System: system, InFlight: 64, Seconds: 2, Throughput: n * round, Messages: 16 * n * round})
		}
	}
	got := ratios(trials, []Ceiling{{"queue", 1600}, {"commits", 800}, {"queue", 3200}, {"commits", 800}, {"queue", 6400}, {"commits", 800}})
	for _, want := range []Ratio{
		{"p50 of pipeline / of hotchoc, one at a time", 0.25, 0.25, 0.25},
		{"p50 of watermill / of hotchoc, one at a time", 2, 2, 2},
		{"orders/s of hotchoc / of pipeline, 64 in flight", 0.25, 0.25, 0.25},
		{"orders/s of hotchoc / of watermill, 64 in flight", 2, 2, 2},
		{"messages/s of hotchoc, 64 in flight / queue", 0.5, 0.5, 0.5},
		{"messages/s of hotchoc, 64 in flight / commits", 2, 1, 4},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("there is no %+v in %+v", want, got)
		}
	}
}
