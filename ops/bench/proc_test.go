package bench

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// stat is a /proc/PID/stat; the fields that nobody asked for are large.
func stat(name string, parent, user, system, childUser, childSystem int) string {
	return fmt.Sprintf("4711 (%s) S %d 7001 7002 7003 7004 7005 7006 7007 7008 7009 %d %d %d %d 8001 8002 1 0 8003\n", name, parent, user, system, childUser, childSystem)
}

// files is a file system of these texts.
func files(texts map[string]string) fstest.MapFS {
	all := fstest.MapFS{}
	for name, text := range texts {
		all[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return all
}

func TestParseStat(t *testing.T) {
	for _, name := range []string{"postgres", "tmux: server (1)", "a) S 9 9 9 (b", "))", ""} {
		if p, err := parseStat([]byte(stat(name, 42, 1, 20, 300, 4000))); err != nil || p.parent != 42 || p.cpu != 43210*time.Millisecond {
			t.Errorf("%q: got %+v, %v", name, p, err)
		}
	}
	good := stat("x", 42, 666, 2, 3, 4)
	for _, broken := range []string{"", "1 (x) S 2 3", strings.Replace(good, " 42 ", " who ", 1), strings.Replace(good, "666", "much", 1)} {
		if p, err := parseStat([]byte(broken)); err == nil {
			t.Errorf("%q: got %+v", broken, p)
		}
	}
}

func TestAProcessBelongsToTheNearestRootAmongItsAncestors(t *testing.T) {
	parents := map[int]int{
		1: 0, 2: 1, // nobody's
		10: 1, 11: 10, 12: 11, // the database
		20: 1, 21: 20, 30: 20, 31: 30, // the load generator, which started a service
		40: 1,   // the service's second instance
		50: 499, // whose parent has gone
	}
	all := map[int]process{}
	for pid, parent := range parents {
		all[pid] = process{parent: parent}
	}
	got := owners(all, []part{{generator, []int{20}}, {"database", []int{10, 77}}, {"pay", []int{30, 40}}})
	want := map[int]string{10: "database", 11: "database", 12: "database", 20: generator, 21: generator, 30: "pay", 31: "pay", 40: "pay"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAPartIsTheSumOfItsProcesses(t *testing.T) {
	proc := files(map[string]string{
		"10/stat": stat("postgres: a (b)", 1, 1, 2, 3, 4), "10/status": "Name:\tpostgres\nVmPeak:\t  900 kB\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\nRssAnon:\t  7 kB\n",
		"11/stat": stat("postgres", 10, 100, 0, 0, 0), "11/status": "VmHWM:\t30 kB\nVmRSS:\t20 kB\n",
		"12/stat": stat("gone", 11, 1000, 0, 0, 0), "13/comm": "has ended meanwhile", // the one a little earlier than the other
		"99/stat": stat("foreign", 1, 5, 5, 5, 5), "99/status": "VmRSS:\t5 kB\n",
		"self/stat": "no process", "stat": "no folder",
	})
	parts := []part{{"database", []int{10}}, {"pay", nil}}
	want := map[string]use{"database": {cpu: 1110 * tick, rss: 220 << 10, peak: 330 << 10}, "pay": {}}
	if got, err := measure(proc, parts); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	proc["14/stat"] = &fstest.MapFile{Data: []byte("14 (x) S what")}
	if _, err := measure(proc, parts); err == nil || !strings.Contains(err.Error(), "/proc/14/stat") {
		t.Errorf("a line that cannot be read: %v", err)
	}
}

func TestBusyIsWithoutIdleAndWithoutGuests(t *testing.T) {
	// user nice system idle iowait irq softirq steal guest guest_nice
	got, err := busy(files(map[string]string{"stat": "cpu  1 20 300 9000 90000 4000 50000 600000 900000 9000000\ncpu0 7 7 7 7 7 7 7 7 7 7\n"}))
	if want := 654321 * tick; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, broken := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8 9 10", "cpu 1 2 x 4 5 6 7 8 9 10"} {
		if got, err := busy(files(map[string]string{"stat": broken})); err == nil {
			t.Errorf("%q: got %v", broken, got)
		}
	}
}

func TestACounterIsTheSumOfItsSeriesByALabel(t *testing.T) {
	const text = `# HELP hotchoc_messages_total{outcome="done"} 1000
# TYPE hotchoc_messages_total counter
hotchoc_messages_total{outcome="done",step="pay/charge"} 10
hotchoc_messages_total{step="make/brew",outcome="done"} 5.5
hotchoc_messages_total{step="make/brew",outcome="duplicate"} 2
hotchoc_messages_total{last_outcome="done",outcome="ignored"} 1e+02
hotchoc_messages_total_created{outcome="done"} 1000
hotchoc_messages{outcome="done"} 1000
`
	sums := map[string]float64{"done": 1} // of another service
	want := map[string]float64{"done": 16.5, "duplicate": 2, "ignored": 100}
	if err := addCounter(sums, strings.NewReader(text), "hotchoc_messages_total", "outcome"); err != nil || !maps.Equal(sums, want) {
		t.Errorf("got %v, %v, want %v", sums, err, want)
	}
	if err := addCounter(sums, strings.NewReader(`hotchoc_messages_total{outcome="done"} much`), "hotchoc_messages_total", "outcome"); err == nil {
		t.Error("a value that is no number was read")
	}
}
