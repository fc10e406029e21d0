package chaos

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hotchoc/ops/stack"
)

func TestTheSameSeedIsTheSameRun(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64) ([]Fault, []wish) {
		faults := Plan(seed, DefaultDuration, DefaultEvery, Kinds)
		return faults, wishes(seed, 1000, DefaultDuration, faults, "run")
	}
	faults, customers := draw(7)
	again, customersAgain := draw(7)
	if !reflect.DeepEqual(faults, again) || !reflect.DeepEqual(customers, customersAgain) {
		t.Error("the seed 7 was two different runs")
	}
	others, otherCustomers := draw(8)
	if reflect.DeepEqual(faults, others) || reflect.DeepEqual(customers, otherCustomers) {
		t.Error("the seeds 7 and 8 were the same run")
	}
}

func TestALaneIsNotMovedByAnother(t *testing.T) {
	t.Parallel()
	kills := func(faults []Fault) []Fault {
		return slices.DeleteFunc(faults, func(f Fault) bool { return f.Kind != KillService })
	}
	if !reflect.DeepEqual(kills(Plan(7, time.Minute, time.Second, Kinds)), Plan(7, time.Minute, time.Second, []Kind{KillService})) {
		t.Error("when nothing else breaks the services are killed otherwise")
	}
}

func TestAScheduleHasEveryKindAndKeepsTime(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		for _, total := range []time.Duration{40 * time.Second, 2 * time.Minute, 10 * time.Minute} {
			faults := Plan(seed, total, 2*time.Second, Kinds)
			hit, targets := map[Kind]int{}, map[string]int{}
			for _, f := range faults {
				hit[f.Kind]++
				targets[f.Target]++
				if f.At < 0 || f.At > total+time.Second {
					t.Errorf("seed %d: %s comes at %s of %s", seed, f, f.At, total)
				}
			}
			for _, k := range Kinds {
				if k.lane() != messageLane && hit[k] == 0 {
					t.Errorf("seed %d: no %s in %s", seed, k, total)
				}
			}
			for _, name := range append(stack.Services(), "rabbitmq", "postgres", "gateway", "courier") {
				if targets[name] == 0 {
					t.Errorf("seed %d: nothing happens to %s in %s", seed, name, total)
				}
			}
			if n := hit[KillService]; n != int(total/(2*time.Second))-1 {
				t.Errorf("seed %d: %d services are killed in %s, want one every 2 s", seed, n, total)
			}
		}
	}
	long := Plan(1, 10*time.Minute, 2*time.Second, Kinds)
	count := func(k Kind) (n int) {
		for _, f := range long {
			if f.Kind == k {
				n++
			}
		}
		return n
	}
	if count(KillBroker) < 3 || count(KillPostgres) < 5 {
		t.Errorf("ten minutes have %d kills of the broker and %d of Postgres, want 3 and 5", count(KillBroker), count(KillPostgres))
	}
}

func TestManyCustomersCannotBeServed(t *testing.T) {
	t.Parallel()
	doomed := 0
	keys := map[string]bool{}
	for _, w := range wishes(3, 1000, time.Minute, nil, "run") {
		if w.doomed() || w.Cancel > 0 {
			doomed++
		}
		if keys[w.Key] {
			t.Errorf("two customers have the key %s", w.Key)
		}
		keys[w.Key] = true
	}
	if doomed < 350 {
		t.Errorf("%d of 1,000 have a card, an item or an address that fails, or cancel; want 350", doomed)
	}
}

func TestARunThatMissesAFaultOrAGuardIsWorthNothing(t *testing.T) {
	t.Parallel()
	injected, hit := map[Kind]int{}, map[string]int{}
	for _, k := range Kinds {
		injected[k] = 1
	}
	for _, g := range guards {
		hit[g.name] = 1
	}
	if zero := zeros(Kinds, injected, hit); zero != nil {
		t.Errorf("all was hit, and yet: %v", zero)
	}
	for _, k := range Kinds {
		injected[k] = 0
		if zero := zeros(Kinds, injected, hit); !slices.Equal(zero, []string{"fault " + string(k)}) {
			t.Errorf("without %s: %v", k, zero)
		}
		injected[k] = 1
	}
	for _, g := range guards {
		hit[g.name] = 0
		if zero := zeros(Kinds, injected, hit); !slices.Equal(zero, []string{"guard " + g.name}) {
			t.Errorf("without %s: %v", g.name, zero)
		}
		// Nobody can hit a guard without the faults that it is for.
		if len(g.needs) > 0 {
			if zero := zeros([]Kind{PauseService}, injected, hit); len(zero) > 0 {
				t.Errorf("with pauses only: %v", zero)
			}
		}
		hit[g.name] = 1
	}
	for allow, want := range map[bool]bool{true: true, false: false} {
		r := Report{Injected: map[Kind]int{}, Guards: hit}
		r.Audit.AtRest = true
		if r.judge(Config{Only: Kinds, AllowZero: allow}); r.OK != want {
			t.Errorf("nothing was injected, zeros allowed %v: good %v", allow, r.OK)
		}
	}
}

func TestWhatBrokeAPromiseIsSaid(t *testing.T) {
	t.Parallel()
	for what, r := range map[string]Report{
		"did not end": {Stuck: []*Order{{ID: "1", Statuses: []string{"placed"}}}},
		"ended 61 s":  {LastEnd: 61 * time.Second},
		"told 500":    {Answers: map[string]int{"500": 1}},
		"2 times in":  {LogErrors: map[string]int{"panic": 2}},
		"made twice":  {Violations: []string{"made twice"}},
		"not at rest": {},
	} {
		r.Audit.AtRest = what != "not at rest"
		r.judge(Config{AllowZero: true})
		var out bytes.Buffer
		if err := r.Print(&out); err != nil || r.OK || !strings.Contains(out.String(), "Not good") || !strings.Contains(out.String(), what) {
			t.Errorf("%s: good %v, %v: %s", what, r.OK, err, out.String())
		}
	}
}

func TestALogIsFollowedOverItsEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pay.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("long ago\n")
	log, err := follow(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	var lines []string
	read := func() { log.each(func(l []byte) { lines = append(lines, string(l)) }) }
	write("one\ntw")
	read()
	write("o\n")
	read()
	write("three\n")
	if err := os.Rename(path, path+".1"); err != nil { // as the stack does with a long one
		t.Fatal(err)
	}
	write("four\n")
	read()
	if want := []string{"one", "two", "three", "four"}; !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
}

func TestASignalReachesNoStranger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state(`{"processes": {"pay": {"pid": 1, "born": 1}}}`) // pid 1 is alive, but was not born then
	for _, name := range []string{"pay", "make"} {
		if err := signal(dir, name, os.Interrupt); err == nil || !strings.Contains(err.Error(), name+" does not run") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
