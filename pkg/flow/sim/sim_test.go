package sim_test

import (
	"strings"
	"testing"

	"hotchoc/pkg/flow/sim"
)

// prepare makes a world, or fails.
func prepare(t *testing.T, setup func() sim.Setup) *sim.Sim {
	t.Helper()
	s, err := sim.New(setup)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestThePlatformAloneHoldsWhatItPromisesUnderEverySingleFault(t *testing.T) {
	found := prepare(t, bare(true)).SingleFaults(t.Context(), 1)
	t.Log(found)
	if found.Failure != nil {
		t.Fatal(found.Failure)
	}
}

func TestThePlatformAloneHoldsWhatItPromisesUnderManyFaults(t *testing.T) {
	found := prepare(t, bare(true)).Random(t.Context(), 1, 3000)
	t.Log(found)
	if found.Failure != nil {
		t.Fatal(found.Failure)
	}
	for _, what := range []string{"crash", "lost", "conflict", "overtaken", "restart", "redelivered", "duplicate", "suppressed", "retried", "requeued"} {
		if found.Counts[what] == 0 {
			t.Errorf("in all of the runs there was no %s: they prove less than they seem to", what)
		}
	}
}

func TestAFlowThatForgetsToVoidIsFoundAndToldBriefly(t *testing.T) {
	world := prepare(t, bare(false))
	found := world.Random(t.Context(), 1, 3000)
	if found.Failure == nil {
		t.Fatal("nothing was found")
	}
	f := found.Failure
	if len(f.Shrunk.Faults) > len(f.Plan.Faults) || len(f.Shrunk.Faults) > 3 {
		t.Errorf("%q was shrunk to %q only", f.Plan, f.Shrunk)
	}
	if !strings.Contains(f.Error(), "taken: true") || !strings.Contains(f.Trace, "payment.failed") {
		t.Errorf("the failure does not tell what happened:\n%v", f)
	}
	plan, err := sim.ParsePlan(f.Shrunk.String())
	if err != nil {
		t.Fatal(err)
	}
	if again := world.Run(plan, true); again.Trace != f.Trace || len(again.Violations) == 0 {
		t.Errorf("run again, it went otherwise:\n%s\nat first:\n%s", again.Trace, f.Trace)
	}
}

func TestTheSameSeedHasTheSameTrace(t *testing.T) {
	one, two := prepare(t, bare(true)), prepare(t, bare(true))
	for seed := range uint64(50) {
		first := one.Run(one.Seed(seed), true)
		if first.Trace == "" {
			t.Fatal("there is no trace")
		}
		for _, again := range []sim.Run{one.Run(one.Seed(seed), true), two.Run(two.Seed(seed), true)} {
			if first.Trace != again.Trace {
				t.Fatalf("seed %d went one way:\n%s\nand then another:\n%s", seed, first.Trace, again.Trace)
			}
		}
	}
}

func TestAPlanIsReadAsItIsWritten(t *testing.T) {
	plan := sim.Plan{Seed: 42, Faults: []sim.Fault{{"pay/1", sim.Commit, 3, sim.Lost}, {"order/2", sim.Tick, 7, sim.Crash}}, Without: []int{0, 2}}
	read, err := sim.ParsePlan(plan.String())
	if err != nil || read.String() != plan.String() {
		t.Errorf("%q was read as %q, %v", plan, read, err)
	}
	for _, bad := range []string{"", "x", "42 pay/1", "42 pay/1:commit:x:lost", "42 pay/1:commit:1:again", "42 -x"} {
		if read, err := sim.ParsePlan(bad); err == nil {
			t.Errorf("%q was read as %q", bad, read)
		}
	}
}
