// Package journey_test drives the shop as its people do: over HTTP and the broker, through five real processes.
package journey_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/stack"
)

// shop is the one stack of this package: its own RabbitMQ and Postgres on free ports, thrown away at the end.
var shop *stack.Stack

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "journey")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the servers' users have to get in
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", append([]string{"build", "-race", "-o", bin + "/"}, "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu",
		"hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make", "hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the services: %v\n%s", err, out)
		return 1
	}
	ctx := context.Background()
	if shop, err = stack.Up(ctx, stack.Config{Dir: filepath.Join(dir, "run"), Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true, Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := rest(30 * time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "after all journeys:", err)
		code = 1
	}
	if races := racesIn(filepath.Join(dir, "run", "log")); races != "" {
		fmt.Fprintln(os.Stderr, races)
		code = 1
	}
	if code != 0 {
		tellTroubles(filepath.Join(dir, "run", "log"))
	}
	if err := shop.Down(ctx, true); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// racesIn finds what the race detector of the five processes has written.
func racesIn(logs string) string {
	files, _ := filepath.Glob(filepath.Join(logs, "*.log"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if at := bytes.Index(text, []byte("WARNING: DATA RACE")); err == nil && at >= 0 {
			return fmt.Sprintf("%s: %s", filepath.Base(file), text[at:min(at+3000, len(text))])
		}
	}
	return ""
}

// tellTroubles shows the last warnings and errors of each service: the logs are gone afterwards.
func tellTroubles(logs string) {
	files, _ := filepath.Glob(filepath.Join(logs, "*.log"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		var troubles []string
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"level":"warn"`) && !strings.Contains(line, `"no broker"`) || strings.Contains(line, `"level":"error"`) {
				troubles = append(troubles, line)
			}
		}
		for _, line := range troubles[max(0, len(troubles)-8):] {
			fmt.Fprintf(os.Stderr, "%s: %s", filepath.Base(file), line)
		}
	}
}

// rest waits until nothing is on its way: every queue but the history is empty, and the dead letters are only those that
// the journeys made.
func rest(most time.Duration) error {
	var full []string
	err := eventually(most, func() error {
		full = nil
		queues, err := queueDepths()
		if err != nil {
			return err
		}
		for name, n := range queues {
			if n > 0 && name != "history" && !strings.HasSuffix(name, ".dead") {
				full = append(full, fmt.Sprintf("%s=%d", name, n))
			}
		}
		if len(full) > 0 {
			return fmt.Errorf("messages are left in %v", full)
		}
		return nil
	})
	return err
}

func queueDepths() (map[string]int, error) {
	var queues []struct {
		Name     string
		Messages int
	}
	resp, err := http.Get(shop.Management() + "/api/queues")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&queues); err != nil {
		return nil, err
	}
	depths := map[string]int{}
	for _, q := range queues {
		depths[q.Name] = q.Messages
	}
	return depths, nil
}

// eventually tries until f has no complaint, or the time is over.
func eventually(most time.Duration, f func() error) error {
	deadline := time.Now().Add(most)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
}

// call makes one request; headers are name, value, name, value.
func call(t *testing.T, method, url, body string, headers ...string) answer {
	t.Helper()
	a, err := try(method, url, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func try(method, url, body string, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// wish is an order to place; the zero value is one classic at the counter, paid with a good card.
type wish struct {
	customer, sku, token, address string
	quantity, deadline            int
}

func (w wish) body() string {
	body := map[string]any{
		"customer": or(w.customer, "ada"),
		"lines":    []any{map[string]any{"sku": or(w.sku, "classic"), "quantity": max(w.quantity, 1)}},
		"payment":  map[string]any{"token": or(w.token, "tok_ok")},
		"handover": map[string]any{"type": "counter"},
	}
	if w.address != "" {
		body["handover"] = map[string]any{"type": "address", "address": w.address}
	}
	if w.deadline > 0 {
		body["deadline_seconds"] = w.deadline
	}
	text, _ := json.Marshal(body)
	return string(text)
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// page is an order as people see it.
type page struct {
	ID, Status, Customer string
	Lines                []struct {
		SKU, Name string
		Quantity  int
		UnitPrice money `json:"unit_price"`
	}
	Total         money
	Refund, Cause *string
	Version       int
}

type money struct {
	Amount   int
	Currency string
}

func (p page) cause() string {
	if p.Cause == nil {
		return ""
	}
	return *p.Cause
}

func (p page) refund() string {
	if p.Refund == nil {
		return ""
	}
	return *p.Refund
}

// place orders and returns at once.
func place(t *testing.T, w wish) page {
	t.Helper()
	a := call(t, "POST", shop.URL("order")+"/orders", w.body())
	if a.status != http.StatusAccepted {
		t.Fatalf("POST /orders: %d %s", a.status, a.body)
	}
	var p page
	a.decode(t, &p)
	return p
}

// finish waits for the end of an order.
func finish(t *testing.T, id string) page {
	t.Helper()
	a := call(t, "GET", shop.URL("order")+"/orders/"+id, "", "Prefer", "wait=30")
	var p page
	a.decode(t, &p)
	if p.Status != "completed" && p.Status != "cancelled" {
		t.Fatalf("the order did not end: %d %s", a.status, a.body)
	}
	return p
}

// entry is one line of an order's history.
type entry struct {
	ID, Type, Service, Causation string
	Hops                         int
}

// history is the events of an order, from all services.
func history(t *testing.T, id string) []entry {
	t.Helper()
	var h struct{ Events []entry }
	call(t, "GET", shop.URL("order")+"/orders/"+id+"/events", "").decode(t, &h)
	return h.Events
}

// happened waits until all these types are in the history.
func happened(t *testing.T, id string, types ...string) {
	t.Helper()
	if err := eventually(10*time.Second, func() error {
		events := history(t, id)
		for _, typ := range types {
			if !slices.ContainsFunc(events, func(e entry) bool { return e.Type == typ }) {
				return fmt.Errorf("there is no %s in %v", typ, events)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// charged is what the gateway itself says it has kept of an order.
func charged(t *testing.T, order string) int {
	t.Helper()
	kept := 0
	for line := range strings.Lines(call(t, "GET", shop.URL("partners")+"/ledger?order="+order, "").body) {
		var e struct {
			Kind   string
			Amount int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("ledger: %s: %v", line, err)
		}
		switch e.Kind {
		case "captured":
			kept += e.Amount
		case "refunded":
			kept -= e.Amount
		}
	}
	return kept
}

// publish sends a message as the broker's administrator, or as whoever url says.
func publish(t *testing.T, url, exchange, key string, m amqp.Publishing) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
	if err != nil {
		t.Fatal(err)
	}
	if !confirm.Wait() {
		t.Fatal("the broker did not take it")
	}
}
