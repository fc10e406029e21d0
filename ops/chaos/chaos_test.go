package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hotchoc/ops/audit"
	"hotchoc/ops/chaos"
	"hotchoc/ops/stack"
)

// up builds the programs and starts a stack of its own.
func up(t *testing.T, build ...string) (s *stack.Stack, run string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the servers' users have to get in
		t.Fatal(err)
	}
	bin, run := filepath.Join(dir, "bin"), filepath.Join(dir, "run")
	args := append([]string{"build", "-o", bin + "/"}, build...)
	args = append(args, "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu", "hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make",
		"hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("build the services: %v\n%s", err, out)
	}
	s, err = stack.Up(t.Context(), stack.Config{Dir: run, Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Down(context.Background(), true); err != nil {
			t.Error(err)
		}
	})
	return s, run
}

// TestAThousandOrdersInAStormOfAllFaultsAreNeitherLostNorDoubled is `task chaos` on a stack of its own, with services that
// watch for data races. It fails also when a kind of fault or a guard was never hit.
func TestAThousandOrdersInAStormOfAllFaultsAreNeitherLostNorDoubled(t *testing.T) {
	s, run := up(t, "-race")
	r, err := chaos.Run(t.Context(), chaos.Config{Stack: s, Dir: run, Orders: 1000, Seed: 11, Duration: 100 * time.Second, Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	t.Log(text.String())
	if !r.OK {
		t.Errorf("%d promises broken; never hit: %s; troubles: %s", len(r.Violations)+len(r.Audit.Violations), strings.Join(r.Zero, ", "), strings.Join(r.Trouble, "; "))
	}
	if r.Orders != 1000 {
		t.Errorf("%d orders were accepted, not 1000", r.Orders)
	}
	if r.Failures < 0.3 {
		t.Errorf("%.0f %% of the orders did not go well; 30 %% are wanted", 100*r.Failures)
	}
}

// TestABacklogDrainsWithoutAStormOfRetries: the gateway is away while 5,000 orders come, and when it is back and the backlog
// drains, the database dies. At most a tenth of what moves may be retries.
func TestABacklogDrainsWithoutAStormOfRetries(t *testing.T) {
	const orders = 5000
	s, _ := up(t)
	if err := s.Stop(t.Context(), "partners"); err != nil {
		t.Fatal(err)
	}
	accepted := place(t, s, orders)
	if err := s.Start(t.Context(), "partners"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wait(t, func() error {
		if n, err := handled(s, "delivery"); err != nil || n < orders/10 {
			return errors.Join(err, fmt.Errorf("delivery has handled %.0f messages", n))
		}
		return nil
	})
	if err := s.Kill(t.Context(), "postgres"); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), "postgres"); err != nil {
		t.Fatal(err)
	}
	r, err := audit.Run(t.Context(), audit.Config{
		Database: s.Database(), Management: s.Management(), Partners: s.URL("partners"), Wait: 3 * time.Minute, Accepted: accepted, Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || !r.AtRest {
		t.Errorf("the audit: %v", r.Violations)
	}
	fates := map[string]float64{}
	for _, service := range stack.Services() {
		for fate, n := range series(t, s, service, "hotchoc_deliveries_total", "fate") {
			fates[fate] += n
		}
	}
	t.Logf("%d orders drained and audited in %.0f s; deliveries by fate: %v", orders, time.Since(began).Seconds(), fates)
	if all := fates["ack"] + fates["retry"] + fates["requeue"]; fates["ack"] < 10*orders || fates["retry"]+fates["requeue"] > all/10 {
		t.Errorf("%.0f of %.0f deliveries were tried again, more than a tenth", fates["retry"]+fates["requeue"], all)
	}
}

// place places orders, many at once, and returns their IDs.
func place(t *testing.T, s *stack.Stack, orders int) (ids []string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var mu sync.Mutex
	var all sync.WaitGroup
	next := make(chan int)
	for range 64 {
		all.Go(func() {
			for i := range next {
				body := fmt.Sprintf(`{"customer": "c%d", "lines": [{"sku": "classic", "quantity": 1}], "payment": {"token": "tok_ok"},
					"handover": {"type": "counter"}, "deadline_seconds": 3600}`, i)
				resp, err := client.Post(s.URL("order")+"/orders", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					continue
				}
				var page struct{ ID string }
				err = json.NewDecoder(resp.Body).Decode(&page)
				resp.Body.Close()
				if err != nil || resp.StatusCode >= 300 {
					t.Errorf("POST /orders: %s, %v", resp.Status, err)
					continue
				}
				mu.Lock()
				ids = append(ids, page.ID)
				mu.Unlock()
			}
		})
	}
	for i := range orders {
		next <- i
	}
	close(next)
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return ids
}

func handled(s *stack.Stack, service string) (n float64, err error) {
	values, err := scrape(s, service, "hotchoc_deliveries_total", "fate")
	return values["ack"], err
}

func series(t *testing.T, s *stack.Stack, service, metric, label string) map[string]float64 {
	t.Helper()
	values, err := scrape(s, service, metric, label)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// scrape reads a counter of a service by one of its labels.
func scrape(s *stack.Stack, service, metric, label string) (map[string]float64, error) {
	resp, err := http.Get(s.URL(service) + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, metric+"{") {
			continue
		}
		_, after, _ := strings.Cut(line, label+`="`)
		name, _, ok := strings.Cut(after, `"`)
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
		if !ok || err != nil {
			return nil, errors.Join(err, fmt.Errorf("%s says %q", service, line))
		}
		values[name] += n
	}
	return values, nil
}

func wait(t *testing.T, until func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		err := until()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
