package sim

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Found is what many runs came to.
type Found struct {
	Runs int
	Took time.Duration
	// Counts is how often each kind of fault struck, and how often what they are to provoke happened: redelivered,
	// duplicate, suppressed, retried, requeued.
	Counts map[string]int
	// Failure is the first violation, nil if there was none. Which one is first does not depend on the number of CPUs.
	Failure *Failure
}

func (f Found) String() string {
	var counts []string
	for _, what := range slices.Sorted(maps.Keys(f.Counts)) {
		counts = append(counts, fmt.Sprintf("%s %d", what, f.Counts[what]))
	}
	return fmt.Sprintf("%d runs in %v, %.0f a second: %s", f.Runs, f.Took.Round(time.Millisecond), float64(f.Runs)/f.Took.Seconds(), strings.Join(counts, ", "))
}

// Failure is a run that violates something.
type Failure struct {
	// Plan is the run as it was found; Shrunk is what of it is needed.
	Plan, Shrunk Plan
	// Violations are those of the shrunk run.
	Violations []string
	// Trace tells the shrunk run.
	Trace string
}

// Error implements error: the trace, what is wrong, and how to run it again.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s\n%s\n\nfound with the plan   %q\nfails also with just  %q", f.Trace, strings.Join(f.Violations, "\n"), f.Plan, f.Shrunk)
}

// Run is one run by a plan.
type Run struct {
	Plan       Plan
	Violations []string
	// Counts is as in Found.
	Counts map[string]int
	// Trace tells it, if it was wanted.
	Trace string

	sites []site
}

// Seed returns the plan of a seed, with all that goes wrong in it.
func (s *Sim) Seed(seed uint64) Plan { return Plan{Seed: seed, Faults: swarm(seed, s.sites)} }

// Run runs a plan.
func (s *Sim) Run(plan Plan, trace bool) Run {
	w := s.world(plan, trace)
	w.play()
	r := Run{Plan: plan, Violations: w.violations, Counts: w.counters, sites: w.visited()}
	if trace {
		r.Trace = w.trace.String()
	}
	return r
}

// Random runs the plans of n seeds from the first one on.
func (s *Sim) Random(ctx context.Context, first uint64, n int) Found {
	return s.explore(ctx, n, func(i int) Plan { return s.Seed(first + uint64(i)) })
}

// SingleFaults runs a seed with every fault that is possible at every point where the run comes by without, one at a time.
func (s *Sim) SingleFaults(ctx context.Context, seed uint64) Found {
	calm := s.Run(Plan{Seed: seed}, false)
	faults := every(calm.sites, func(Fault) bool { return true })
	return s.explore(ctx, len(faults), func(i int) Plan { return Plan{Seed: seed, Faults: faults[i : i+1 : i+1]} })
}

// PairsOfCrashes runs a seed with every two deaths: at each point where the run comes by without, and then at each point
// where it comes by after that.
func (s *Sim) PairsOfCrashes(ctx context.Context, seed uint64) Found {
	crashes := func(f Fault) bool { return f.Kind == Crash || f.Kind == CrashAfter }
	began := time.Now()
	var pairs []Plan
	for _, one := range every(s.Run(Plan{Seed: seed}, false).sites, crashes) {
		w := s.world(Plan{Seed: seed, Faults: []Fault{one}}, false)
		w.play()
		for _, two := range every(w.visited(), crashes) {
			if two.N > timesAt(w.before, two.Process, two.Point) {
				pairs = append(pairs, Plan{Seed: seed, Faults: []Fault{one, two}})
			}
		}
	}
	found := s.explore(ctx, len(pairs), func(i int) Plan { return pairs[i] })
	found.Took = time.Since(began)
	return found
}

// every lists the faults that are possible at the sites.
func every(sites []site, wanted func(Fault) bool) (faults []Fault) {
	for _, at := range sites {
		for n := range at.times {
			for _, kind := range possible[at.point] {
				if f := (Fault{at.process, at.point, n + 1, kind}); wanted(f) {
					faults = append(faults, f)
				}
			}
		}
	}
	return faults
}

// explore runs n plans on all CPUs, each run in one thread, until one fails. Of several that fail the first one counts.
func (s *Sim) explore(ctx context.Context, n int, plan func(int) Plan) Found {
	began := time.Now()
	found := Found{Counts: map[string]int{}}
	var next, runs atomic.Int64
	var mu sync.Mutex
	worst := n // the first that failed
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			counts := map[string]int{}
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				mu.Lock()
				over := i >= worst
				mu.Unlock()
				if over {
					break
				}
				r := s.Run(plan(i), false)
				runs.Add(1)
				for what, times := range r.Counts {
					counts[what] += times
				}
				if len(r.Violations) > 0 {
					mu.Lock()
					worst = min(worst, i)
					mu.Unlock()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for what, times := range counts {
				found.Counts[what] += times
			}
		})
	}
	workers.Wait()
	found.Runs, found.Took = int(runs.Load()), time.Since(began)
	if worst < n {
		found.Failure = s.failure(plan(worst))
	}
	return found
}

// shrinksMax bounds how many runs the shrinking takes.
const shrinksMax = 500

// failure shrinks a plan that fails and tells what is left: it leaves out fault after fault and wish after wish, for as
// long as something is still violated.
func (s *Sim) failure(plan Plan) *Failure {
	shrunk, left := plan, shrinksMax
	fails := func(p Plan) bool {
		left--
		return left > 0 && len(s.Run(p, false).Violations) > 0
	}
	for smaller := true; smaller; {
		smaller = false
		for i := len(shrunk.Faults) - 1; i >= 0; i-- {
			if p := shrunk.withoutFault(i); fails(p) {
				shrunk, smaller = p, true
			}
		}
		for n := range s.world(plan, false).wishes() {
			if p := shrunk.withoutWish(n); !slices.Contains(shrunk.Without, n) && fails(p) {
				shrunk, smaller = p, true
			}
		}
	}
	r := s.Run(shrunk, true)
	return &Failure{Plan: plan, Shrunk: shrunk, Violations: r.Violations, Trace: r.Trace}
}
