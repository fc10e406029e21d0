// Package saga_test drives `hotchoc dead` and `hotchoc saga` as their users do, on a shop of their own.
package saga_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga"
	"hotchoc/ops/stack"
)

var (
	shop *stack.Stack
	run  string // its folder
)

func TestMain(m *testing.M) { os.Exit(main(m)) }

func main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "saga")
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
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu",
		"hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make", "hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the services: %v\n%s", err, out)
		return 1
	}
	ctx := context.Background()
	run = filepath.Join(dir, "run")
	if shop, err = stack.Up(ctx, stack.Config{Dir: run, Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true, Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shop.Down(ctx, true); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// result is what a command printed and how it ended.
type result struct {
	out, err string
	code     int
}

// hotchoc runs the program on this shop.
func hotchoc(t *testing.T, args ...string) result {
	t.Helper()
	return execute(t, shop.Program("partners"), append([]string{"--dir", run}, args...)...)
}

func execute(t *testing.T, program string, args ...string) (r result) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// read runs a command that must succeed, and decodes its JSON.
func read[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	r := hotchoc(t, append(args, "-o", "json")...)
	if r.code != 0 {
		t.Fatalf("hotchoc %v: exit code %d\n%s%s", args, r.code, r.out, r.err)
	}
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("hotchoc %v: %v\n%s", args, err, r.out)
	}
	return v
}

func show(t *testing.T, order string) saga.Saga { return read[saga.Saga](t, "saga", "show", order) }

// letters are the dead letters with this message ID.
func letters(t *testing.T, id string) (found []dead.Letter) {
	t.Helper()
	for _, l := range read[[]dead.Letter](t, "dead", "list") {
		if l.ID == id {
			found = append(found, l)
		}
	}
	return found
}

// eventually tries until f has no complaint, or the time is over.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

func call(t *testing.T, method, url, body string, headers ...string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// wish is an order to place; the zero value is one classic at the counter, paid with a good card.
type wish struct {
	sku, token, address string
	quantity, deadline  int
}

type page struct{ ID, Status string }

// place orders and returns at once.
func place(t *testing.T, w wish) string {
	t.Helper()
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	body := map[string]any{
		"customer": t.Name()[:min(len(t.Name()), 64)],
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
	status, answer := call(t, "POST", shop.URL("order")+"/orders", string(text))
	var p page
	if err := json.Unmarshal([]byte(answer), &p); err != nil || status != http.StatusAccepted {
		t.Fatalf("POST /orders: %d %s", status, answer)
	}
	return p.ID
}

// finish waits for the end of an order.
func finish(t *testing.T, id, want string) {
	t.Helper()
	status, answer := call(t, "GET", shop.URL("order")+"/orders/"+id, "", "Prefer", "wait=30")
	var p page
	if err := json.Unmarshal([]byte(answer), &p); err != nil || p.Status != want {
		t.Fatalf("order %s: %d %s, want %s", id, status, answer, want)
	}
}

// charged is what the gateway itself says it has kept of an order.
func charged(t *testing.T, order string) (kept int) {
	t.Helper()
	_, ledger := call(t, "GET", shop.URL("partners")+"/ledger?order="+order, "")
	for line := range strings.Lines(ledger) {
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

// channel is a channel of the broker's administrator, or of whoever url says.
func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return ch
}

func publish(t *testing.T, ch *amqp.Channel, exchange, key string, m amqp.Publishing) {
	t.Helper()
	confirm, err := ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
	if err != nil {
		t.Fatal(err)
	}
	if !confirm.Wait() {
		t.Fatal("the broker did not take it")
	}
}

// as is the address of the broker as a service knows it.
func as(t *testing.T, service string) string {
	t.Helper()
	env, err := shop.Env(service)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range env {
		if url, ok := strings.CutPrefix(e, "AMQP_URL="); ok {
			return url
		}
	}
	t.Fatalf("%s has no AMQP_URL", service)
	return ""
}

// message is one with all that belongs on it, but for a body that is what the contract says.
func message(service, typ, stream string) amqp.Publishing {
	id, saga := uuid.NewString(), uuid.NewString()
	return amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, Type: typ, MessageId: id, CorrelationId: saga, AppId: service, UserId: service,
		Timestamp: time.Unix(1767323045, 0), Body: []byte(`{"order_id":`),
		Headers: amqp.Table{
			"schema": int64(1), "hops": int64(1), "actor": "test",
			"cloudEvents_causationid": saga, "cloudEvents_time": "2026-01-02T03:04:05Z", "cloudEvents_subject": stream + "/" + saga, "cloudEvents_sequence": "1",
		},
	}
}
