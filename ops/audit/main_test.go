// Package audit_test audits a shop that has seen everything, and then breaks one promise after the other.
package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/audit"
	"hotchoc/ops/stack"
	"hotchoc/pkg/rabbit"
)

var (
	// shop is the one stack of this package. When the tests begin the services are stopped: the shop rests, and what a
	// test breaks stays broken.
	shop *stack.Stack
	dir  string
	// orders are those that were placed, by what was special about them.
	orders map[string]string
	// storm is what was found while they were on their way.
	storm []audit.Report
	// first is the audit that hotchoc made while the services ran.
	first answer
	// databases are those of the services, for their administrator.
	databases = map[string]*sql.DB{}
	// poison is a message that somebody sent to the dead letters of pay.
	poison string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	root, err := os.MkdirTemp("", "audit")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(root)
	if err := os.Chmod(root, 0o755); err != nil { // the servers' users have to get in
		return fail(err)
	}
	bin := filepath.Join(root, "bin")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu",
		"hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make", "hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")
	if out, err := build.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("build the services: %v\n%s", err, out))
	}
	dir = filepath.Join(root, "run")
	ctx := context.Background()
	if shop, err = stack.Up(ctx, stack.Config{Dir: dir, Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true, Out: os.Stderr}); err != nil {
		return fail(err)
	}
	defer func() {
		if err := shop.Down(ctx, true); err != nil {
			code = fail(err)
		}
	}()
	if orders, storm, err = storms(ctx); err != nil {
		return fail(err)
	}
	if poison, err = letter("pay.dead"); err != nil {
		return fail(err)
	}
	if first, err = hotchoc(nil, "audit", "--wait", "60s", "-o", "json", "--poison", poison); err != nil {
		return fail(err)
	}
	for _, service := range stack.Services() {
		if err := shop.Stop(ctx, service); err != nil {
			return fail(err)
		}
	}
	for _, service := range stack.Services() {
		if databases[service], err = sql.Open("postgres", databaseURL(service)); err != nil {
			return fail(err)
		}
		defer databases[service].Close()
	}
	if orders["flagged"], err = flagged(); err != nil {
		return fail(err)
	}
	return m.Run()
}

// databaseURL is a service's database, for the administrator.
func databaseURL(service string) string {
	u, err := url.Parse(shop.Database())
	if err != nil {
		panic(err)
	}
	u.Path = "/" + service
	return u.String()
}

// flagged is the order upon which a customer was flagged.
func flagged() (order string, err error) {
	err = databases["pay"].QueryRow(`SELECT saga FROM event_log WHERE type = 'customer.flagged'`).Scan(&order)
	return order, err
}

// answer is what hotchoc said, with the exit code.
type answer struct {
	code     int
	out, err string
}

// hotchoc runs the command on the stack; env is added.
func hotchoc(env []string, args ...string) (answer, error) {
	cmd := exec.Command(shop.Program("partners"), append([]string{"--dir", dir}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return answer{}, err
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}, nil
}

// wish is an order to place; the zero value is one classic at the counter, paid with a good card.
type wish struct {
	name, sku, token, address string
	quantity, deadline        int
	cancel                    string // after this status
}

// storms trades, and makes one audit after the other meanwhile.
func storms(ctx context.Context) (orders map[string]string, reports []audit.Report, err error) {
	ended := make(chan struct{})
	var audits error
	var both sync.WaitGroup
	both.Go(func() {
		for audits == nil {
			var r audit.Report
			r, audits = audit.Run(ctx, audit.Config{Database: shop.Database(), Running: true})
			reports = append(reports, r)
			select {
			case <-ended:
				return
			case <-time.After(500 * time.Millisecond): // the shop shall trade, too
			}
		}
	})
	orders, err = trade()
	close(ended)
	both.Wait()
	return orders, reports, errors.Join(err, audits)
}

// trade lets the shop see everything that can happen to an order, and waits until all have ended.
func trade() (map[string]string, error) {
	wishes := []wish{
		{name: "counter"}, {name: "address", address: "12 Mill Lane", quantity: 2}, {name: "vegan", sku: "vegan"},
		{name: "declined", token: "tok_declined"}, {name: "no money", token: "tok_insufficient"}, {name: "fraud", token: "tok_fraud"},
		{name: "flaky", token: "tok_flaky"}, {name: "lost", token: "tok_lost"}, {name: "down", token: "tok_down"},
		{name: "out of stock", sku: "winter", quantity: 20}, {name: "broken", sku: "lava"},
		{name: "nobody home", address: "nowhere", quantity: 3}, {name: "no courier", address: "no-courier"}, {name: "refused", address: "refused"},
		{name: "cancelled", token: "tok_slow", cancel: "placed"}, {name: "late", address: "slow lane", cancel: "dispatched"},
		{name: "expired", token: "tok_slow", deadline: 1},
	}
	for n := range 12 {
		wishes = append(wishes, wish{name: fmt.Sprintf("crowd %d", n), sku: []string{"classic", "dark", "white"}[n%3], quantity: 1 + n})
	}
	// Three refusals flag a customer.
	for n := range 3 {
		wishes = append(wishes, wish{name: fmt.Sprintf("mallory %d", n), token: "tok_declined"})
	}
	rare, err := menu()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	ids := map[string]string{"rare": rare}
	problems := make([]error, len(wishes))
	var all sync.WaitGroup
	for i, w := range wishes {
		all.Go(func() {
			id, err := w.place()
			mu.Lock()
			defer mu.Unlock()
			ids[w.name], problems[i] = id, err
		})
	}
	all.Wait()
	for i, err := range problems {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", wishes[i].name, err)
		}
	}
	return ids, nil
}

// menu changes the menu, and lets an ingredient run out and come back.
func menu() (rare string, err error) {
	item := func(sku string, price int) string {
		return fmt.Sprintf(`{"sku":%q,"name":"Item %s","price":{"amount":%d,"currency":"EUR"},"recipe":[{"ingredient":"saffron","amount":5}]}`, sku, sku, price)
	}
	var none any
	for _, c := range []struct{ method, service, path, body string }{
		{"POST", "make", "/stock/saffron", `{"amount":12}`},
		{"POST", "menu", "/menu", item("rare", 700)},
		{"PUT", "menu", "/menu/rare", item("rare", 750)},
		{"POST", "menu", "/menu", item("gone", 300)},
		{"DELETE", "menu", "/menu/gone", ""},
	} {
		if err := call(c.method, shop.URL(c.service)+c.path, c.body, &none); err != nil {
			return "", err
		}
	}
	if err := eventually(10*time.Second, func() (err error) {
		rare, err = wish{name: "rare", sku: "rare", quantity: 2}.place() // and no more are left
		return err
	}); err != nil {
		return "", err
	}
	if err := eventually(10*time.Second, func() error {
		var item struct{ Available bool }
		err := call("GET", shop.URL("menu")+"/menu/rare", "", &item)
		if err == nil && item.Available {
			err = fmt.Errorf("rare is still available")
		}
		return err
	}); err != nil {
		return "", err
	}
	return rare, call("POST", shop.URL("make")+"/stock/saffron", `{"amount":100}`, &none)
}

// place places an order, and waits for its end.
func (w wish) place() (id string, err error) {
	name, _, _ := strings.Cut(w.name, " ")
	body := map[string]any{
		"customer": name,
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
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	var page struct{ ID, Status string }
	url := shop.URL("order") + "/orders"
	if err := call("POST", url, string(text), &page); err != nil {
		return "", err
	}
	url += "/" + page.ID
	if w.cancel != "" {
		if err := eventually(10*time.Second, func() error {
			if err := call("GET", url, "", &page); err != nil || page.Status == w.cancel {
				return err
			}
			return fmt.Errorf("the order is %s, not %s", page.Status, w.cancel)
		}); err != nil {
			return "", err
		}
		if err := call("POST", url+"/cancel", "", &page); err != nil {
			return "", err
		}
	}
	if err := call("GET", url, "", &page, "Prefer", "wait=30"); err != nil {
		return "", err
	}
	if !slices.Contains([]string{"completed", "cancelled"}, page.Status) {
		err = fmt.Errorf("it has not ended, it is %s", page.Status)
	}
	return page.ID, err
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// call makes one request; headers are name, value, name, value.
func call(method, url, body string, answer any, headers ...string) error {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, url, resp.Status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
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

// config is what to audit; nothing is on its way, so the two samples may be close.
func config() audit.Config {
	return audit.Config{
		Database: shop.Database(), Management: shop.Management(), Partners: shop.URL("partners"), Gap: time.Millisecond, Poison: []string{poison},
	}
}

// bench is a shop to break. The tables of a service are copied when they are first touched, into a schema beside those of
// the service, without their triggers and constraints: there everything is allowed.
type bench struct {
	t         testing.TB
	cfg       audit.Config
	databases map[string]*sql.DB
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, cfg: config(), databases: map[string]*sql.DB{}}
	b.cfg.Databases = map[string]string{}
	return b
}

var schemas atomic.Int64

func (b *bench) database(service string) *sql.DB {
	b.t.Helper()
	if db := b.databases[service]; db != nil {
		return db
	}
	schema := fmt.Sprintf("broken_%d", schemas.Add(1))
	url := databaseURL(service) + "&search_path=" + schema
	db, err := sql.Open("postgres", url)
	if err != nil {
		b.t.Fatal(err)
	}
	copyTables(b.t, db, schema, "INCLUDING GENERATED INCLUDING IDENTITY INCLUDING DEFAULTS")
	b.t.Cleanup(func() { db.Close() })
	b.databases[service], b.cfg.Databases[service] = db, url
	return db
}

// copyTables copies all tables of a service into a schema of their own.
func copyTables(t testing.TB, db *sql.DB, schema, like string) {
	t.Helper()
	if _, err := db.Exec(strings.NewReplacer("$schema", schema, "$like", like).Replace(`DO $$
DECLARE name text; columns text;
BEGIN
  CREATE SCHEMA $schema;
  FOR name, columns IN SELECT table_name, string_agg(column_name, ', ') FROM information_schema.columns
      WHERE table_schema = 'public' AND is_generated = 'NEVER' AND table_name NOT LIKE 'migrations%' GROUP BY 1 LOOP
    EXECUTE format('CREATE UNLOGGED TABLE $schema.%I (LIKE public.%I $like)', name, name);
    EXECUTE format('INSERT INTO $schema.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM public.%I', name, columns, columns, name);
  END LOOP;
  PERFORM setval(pg_get_serial_sequence('$schema.event_log', 'position'), (SELECT max(position) FROM public.event_log));
END $$`)); err != nil {
		t.Fatal(err)
	}
}

// exec changes something, and insists that it changes something.
func (b *bench) exec(service, statement string, args ...any) {
	b.t.Helper()
	done, err := b.database(service).Exec(statement, args...)
	if err != nil {
		b.t.Fatalf("%s: %s: %v", service, statement, err)
	}
	if n, _ := done.RowsAffected(); n == 0 {
		b.t.Fatalf("%s: %s %v: changed nothing", service, statement, args)
	}
}

// audit makes one.
func (b *bench) audit() audit.Report {
	b.t.Helper()
	r, err := audit.Run(b.t.Context(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// letter puts a message in a queue of pay's, by the key of its way.
func letter(key string) (id string, err error) {
	conn, err := amqp.Dial(shop.AMQP())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return "", err
	}
	if err := ch.Confirm(false); err != nil {
		return "", err
	}
	id = uuid.NewString()
	confirm, err := ch.PublishWithDeferredConfirm(rabbit.RetryExchange("pay"), key, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, MessageId: id, Type: "order.eaten", CorrelationId: orders["counter"],
		Headers: amqp.Table{"dead_reason": "nobody eats orders"}, Body: []byte("{}"),
	})
	if err == nil && !confirm.Wait() {
		err = errors.New("the broker did not take it")
	}
	return id, err
}
