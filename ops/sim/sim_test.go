package sim_test

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"hotchoc/ops/sim"
	flow "hotchoc/pkg/flow/sim"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // many short lives
	os.Exit(m.Run())
}

// raced says that the race detector watches. A run is one thread, so it has little to see, and takes ten times as long.
var raced bool

// schedules is how many random runs there are: SIM_RUNS, or 10,000; a tenth with -short or -race.
func schedules(t *testing.T) int {
	n := 10_000
	if given := os.Getenv("SIM_RUNS"); given != "" {
		var err error
		if n, err = strconv.Atoi(given); err != nil {
			t.Fatalf("SIM_RUNS is %q, not a number", given)
		}
	}
	if testing.Short() || raced {
		n /= 10
	}
	return n
}

func prepare(t *testing.T, world func() (*flow.Sim, error)) *flow.Sim {
	t.Helper()
	s, err := world()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// well fails a test if something was violated, or if something that was to happen never did.
func well(t *testing.T, found flow.Found, happened ...string) {
	t.Helper()
	t.Log(found)
	if found.Failure != nil {
		t.Fatalf("%v\n\nrun it again with: hotchoc sim --plan %q", found.Failure, found.Failure.Shrunk)
	}
	for _, what := range happened {
		if found.Counts[what] == 0 {
			t.Errorf("in all of the runs there was no %s: they prove less than they seem to", what)
		}
	}
}

func TestOnEachWayAnOrderEndsWellUnderEverySingleFault(t *testing.T) {
	for _, way := range sim.Ways {
		t.Run(way.Name, func(t *testing.T) {
			well(t, prepare(t, way.World).SingleFaults(t.Context(), 1), "crash", "crash-after", "lost", "redelivered", "duplicate", "retried", "requeued")
		})
	}
}

func TestOnEachWayAnOrderEndsWellUnderEveryPairOfCrashes(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("takes too long with -short or -race")
	}
	for _, way := range sim.Ways {
		t.Run(way.Name, func(t *testing.T) {
			well(t, prepare(t, way.World).PairsOfCrashes(t.Context(), 1), "crash", "crash-after", "redelivered", "duplicate")
		})
	}
}

func TestAHundredThousandSchedulesEndWell(t *testing.T) {
	well(t, prepare(t, sim.Shop).Random(t.Context(), 1, schedules(t)),
		"crash", "crash-after", "fail", "lost", "late", "away", "moody", "conflict", "refused", "overtaken", "slow", "again", "drop",
		"pause", "cut-store", "cut-broker", "skew", "restart", "redelivered", "duplicate", "suppressed", "retried", "requeued")
}

// Plans by which a mistake was found, made or made on purpose. They belong to the simulator as it is: when it draws
// otherwise, other plans find the same.
func TestWhatOnceWentWrongDoesNot(t *testing.T) {
	world := prepare(t, sim.Shop)
	for mistake, plan := range map[string]string{
		"a charge that was given up was not voided":         "158 pay/1:ask:1:moody,-1",
		"a copy that gave up voided what another charged":   "2465 pay/2:ask:1:moody",
		"a copy recorded a charge after another gave it up": "9536 pay/1:ask:1:moody,pay/2:attempted:1:crash",
		"a sweeper went by a message that came late":        "61 order/1:published:2:crash-after,make/1:commit:3:crash-after",
	} {
		p, err := flow.ParsePlan(plan)
		if err != nil {
			t.Fatal(err)
		}
		if r := world.Run(p, true); len(r.Violations) > 0 {
			t.Errorf("%s:\n%s\n%q", mistake, r.Trace, r.Violations)
		} else if r.Counts[string(p.Faults[0].Kind)] == 0 {
			t.Errorf("%s: the plan %q does not come to its fault any more", mistake, plan)
		}
	}
}

func TestTheSameSeedHasTheSameTrace(t *testing.T) {
	one, two := prepare(t, sim.Shop), prepare(t, sim.Shop)
	for seed := range uint64(40) {
		first := one.Run(one.Seed(seed), true)
		if first.Trace == "" {
			t.Fatal("there is no trace")
		}
		for _, cpus := range []int{1, 2} {
			before := runtime.GOMAXPROCS(cpus)
			again := two.Run(two.Seed(seed), true)
			runtime.GOMAXPROCS(before)
			if first.Trace != again.Trace {
				t.Fatalf("seed %d went one way:\n%s\nand with %d CPUs another:\n%s", seed, first.Trace, cpus, again.Trace)
			}
		}
	}
}
