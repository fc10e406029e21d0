package journey_test

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestAnOrderIsPaidMadeDeliveredAndCompleted(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "12 Mill Lane"} {
		p := finish(t, place(t, wish{customer: "happy", quantity: 2, address: address}).ID)
		if p.Status != "completed" || p.Total != (money{900, "EUR"}) || p.Lines[0].Name != "Classic hot chocolate" || p.Refund != nil || p.Cause != nil {
			t.Errorf("got %+v", p)
		}
		happened(t, p.ID, "order.placed", "payment.captured", "stock.reserved", "stock.consumed", "drink.made", "delivery.dispatched", "delivery.delivered", "order.completed")
		if kept := charged(t, p.ID); kept != 900 {
			t.Errorf("the gateway kept %d, want 900", kept)
		}
	}
}

func TestTheHistoryOfAnOrderIsOneTreeOfCauses(t *testing.T) {
	t.Parallel()
	p := finish(t, place(t, wish{address: "nowhere"}).ID)
	happened(t, p.ID, "order.cancelled", "payment.refunded", "drink.discarded")
	seen := map[string]int{}
	for _, e := range history(t, p.ID) {
		if cause, known := seen[e.Causation]; e.Type != "order.placed" && (!known || e.Hops != cause+1) {
			t.Errorf("%s (hop %d) was caused by %s, which does not stand before it", e.Type, e.Hops, e.Causation)
		}
		seen[e.ID] = e.Hops
	}
}

func TestEachWayBackEndsAsTheTablesSay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		wish   wish
		cause  string
		refund string
		events []string
		never  []string
	}{
		{"a declined card", wish{token: "tok_declined"}, "payment.failed: declined", "", []string{"payment.failed"}, []string{"payment.captured"}},
		{"no money", wish{token: "tok_insufficient"}, "payment.failed: insufficient_funds", "", []string{"payment.failed"}, []string{"payment.captured"}},
		{"fraud", wish{token: "tok_fraud"}, "payment.failed: fraud", "", []string{"payment.failed"}, []string{"payment.captured"}},
		{"out of stock", wish{sku: "winter", quantity: 20}, "make.failed: out_of_stock", "refunded", []string{"make.failed", "payment.refunded"}, []string{"stock.reserved"}},
		{"machine broken", wish{sku: "lava"}, "make.failed: machine_broken", "refunded", []string{"make.failed", "stock.released", "payment.refunded"}, []string{"drink.made"}},
		{"nobody home", wish{address: "nowhere"}, "delivery.failed: nobody_home", "refunded", []string{"delivery.failed", "drink.discarded", "payment.refunded"}, []string{"order.completed"}},
		{"no courier", wish{address: "no-courier"}, "delivery.failed: no_courier", "refunded", []string{"delivery.failed", "drink.discarded", "payment.refunded"}, []string{"delivery.dispatched"}},
		{"a gateway that never answers", wish{token: "tok_down"}, "payment.failed: unavailable", "", []string{"payment.failed"}, []string{"payment.captured"}},
		{"the deadline passed", wish{token: "tok_slow", deadline: 1}, "make.failed: cancelled", "", []string{"order.cancel_requested", "make.failed", "payment.failed"}, []string{"drink.made"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.wish.customer = "back " + c.name
			p := finish(t, place(t, c.wish).ID)
			if p.Status != "cancelled" || p.cause() != c.cause || p.refund() != c.refund {
				t.Errorf("got %s, %s, refund %q; want cancelled, %s, refund %q", p.Status, p.cause(), p.refund(), c.cause, c.refund)
			}
			happened(t, p.ID, append(c.events, "order.cancelled")...)
			for _, e := range history(t, p.ID) {
				if slices.Contains(c.never, e.Type) {
					t.Errorf("%s must not have happened", e.Type)
				}
			}
			if kept := charged(t, p.ID); kept != 0 {
				t.Errorf("the gateway kept %d of a cancelled order", kept)
			}
		})
	}
}

func TestAGatewayInTroubleStillChargesOnce(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"tok_flaky", "tok_lost", "tok_slow"} {
		t.Run(token, func(t *testing.T) {
			t.Parallel()
			p := finish(t, place(t, wish{customer: token, token: token}).ID)
			if p.Status != "completed" || charged(t, p.ID) != 450 {
				t.Errorf("got %s, charged %d", p.Status, charged(t, p.ID))
			}
		})
	}
}

func TestACancelBeforeThePointOfNoReturnWins(t *testing.T) {
	t.Parallel()
	p := place(t, wish{customer: "early", token: "tok_slow"})
	a := call(t, "POST", shop.URL("order")+"/orders/"+p.ID+"/cancel", "", "Prefer", "wait=20")
	a.decode(t, &p)
	if p.Status != "cancelled" || p.cause() != "make.failed: cancelled" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if err := eventually(10*time.Second, func() error {
		if kept := charged(t, p.ID); kept != 0 {
			return fmt.Errorf("the gateway kept %d", kept)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if a := call(t, "POST", shop.URL("order")+"/orders/"+p.ID+"/cancel", ""); a.status >= 300 {
		t.Errorf("cancelling what is cancelled: %d %s", a.status, a.body)
	}
}

func TestACancelAfterThePointOfNoReturnIsTooLate(t *testing.T) {
	t.Parallel()
	p := place(t, wish{customer: "late", address: "slow lane"})
	happened(t, p.ID, "drink.made")
	if a := call(t, "POST", shop.URL("order")+"/orders/"+p.ID+"/cancel", ""); a.status != http.StatusAccepted {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if p = finish(t, p.ID); p.Status != "completed" || charged(t, p.ID) != 450 {
		t.Errorf("got %s, charged %d", p.Status, charged(t, p.ID))
	}
	happened(t, p.ID, "make.cancel_rejected")
	if a := call(t, "POST", shop.URL("order")+"/orders/"+p.ID+"/cancel", ""); a.status != http.StatusConflict || !strings.Contains(a.body, "order-completed") {
		t.Errorf("cancelling what is completed: %d %s", a.status, a.body)
	}
}

// offer puts an item of one's own on the menu and waits until the others have heard of it.
func offer(t *testing.T, sku, ingredient string, price, amount, stock int) {
	t.Helper()
	if stock > 0 {
		if a := call(t, "POST", shop.URL("make")+"/stock/"+ingredient, fmt.Sprintf(`{"amount":%d}`, stock)); a.status != http.StatusOK {
			t.Fatalf("stock: %d %s", a.status, a.body)
		}
	}
	body := fmt.Sprintf(`{"sku":%q,"name":"Item %s","price":{"amount":%d,"currency":"EUR"},"recipe":[{"ingredient":%q,"amount":%d}]}`, sku, sku, price, ingredient, amount)
	if a := call(t, "POST", shop.URL("menu")+"/menu", body); a.status != http.StatusCreated {
		t.Fatalf("menu: %d %s", a.status, a.body)
	}
}

// available waits until the order service sees an item as available, or not.
func available(t *testing.T, sku string, want bool) {
	t.Helper()
	if err := eventually(10*time.Second, func() error {
		a, err := try("POST", shop.URL("order")+"/orders", wish{customer: "probe", sku: sku, token: "tok_declined"}.body())
		if err == nil && (a.status == http.StatusAccepted) != want {
			err = fmt.Errorf("%s: %d %s", sku, a.status, a.body)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatRunsOutLeavesTheMenuAndComesBackWithTheStock(t *testing.T) {
	t.Parallel()
	offer(t, "rare", "saffron", 700, 5, 15)
	available(t, "rare", true)
	if p := finish(t, place(t, wish{customer: "rare", sku: "rare", quantity: 3}).ID); p.Status != "completed" {
		t.Fatalf("got %+v", p)
	}
	available(t, "rare", false)
	var item struct {
		Available bool
		Depleted  []string
	}
	call(t, "GET", shop.URL("menu")+"/menu/rare", "").decode(t, &item)
	if item.Available || !slices.Equal(item.Depleted, []string{"saffron"}) {
		t.Errorf("the menu says %+v", item)
	}
	call(t, "POST", shop.URL("make")+"/stock/saffron", `{"amount":10}`)
	available(t, "rare", true)
}

func TestPricesAndRecipesAreCopiedByEvents(t *testing.T) {
	t.Parallel()
	offer(t, "copied", "cocoa", 300, 10, 1000)
	available(t, "copied", true)
	edited := `{"name":"Item copied","price":{"amount":350,"currency":"EUR"},"recipe":[{"ingredient":"cocoa","amount":20}]}`
	if a := call(t, "PUT", shop.URL("menu")+"/menu/copied", edited); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if err := eventually(10*time.Second, func() error {
		p := finish(t, place(t, wish{customer: "copied", sku: "copied"}).ID)
		if p.Total.Amount != 350 {
			return fmt.Errorf("the price is still %d", p.Total.Amount)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if a := call(t, "DELETE", shop.URL("menu")+"/menu/copied", ""); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	available(t, "copied", false)
}

func TestThreeRefusalsFlagTheCustomer(t *testing.T) {
	t.Parallel()
	for range 3 {
		finish(t, place(t, wish{customer: "mallory", token: "tok_declined"}).ID)
	}
	if err := eventually(10*time.Second, func() error {
		var c struct {
			Flagged  bool
			Refusals int
		}
		call(t, "GET", shop.URL("order")+"/customers/mallory", "").decode(t, &c)
		if !c.Flagged || c.Refusals != 3 {
			return fmt.Errorf("got %+v", c)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestTheSameKeyIsTheSameOrder(t *testing.T) {
	t.Parallel()
	url, body := shop.URL("order")+"/orders", wish{customer: "again"}.body()
	var mu sync.Mutex
	ids := map[string]int{}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			a := call(t, "POST", url, body, "Idempotency-Key", "one and only")
			var p page
			a.decode(t, &p)
			mu.Lock()
			defer mu.Unlock()
			ids[p.ID]++
			if a.status >= 300 || a.header.Get("Location") != "/orders/"+p.ID {
				t.Errorf("%d %s, Location %s", a.status, a.body, a.header.Get("Location"))
			}
		})
	}
	all.Wait()
	if len(ids) != 1 {
		t.Errorf("one key made the orders %v", ids)
	}
	a := call(t, "POST", url, wish{customer: "again", quantity: 2}.body(), "Idempotency-Key", "one and only")
	if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "idempotency-key-reused") {
		t.Errorf("the same key with another body: %d %s", a.status, a.body)
	}
	for id := range ids {
		finish(t, id)
		if kept := charged(t, id); kept != 450 {
			t.Errorf("charged %d", kept)
		}
	}
}

func TestBadRequestsAreProblemsThatSayWhatAndWhy(t *testing.T) {
	t.Parallel()
	orders := shop.URL("order") + "/orders"
	line := `{"sku":"classic","quantity":1}`
	order := func(lines string) string {
		return `{"customer":"bad","lines":[` + lines + `],"payment":{"token":"tok_ok"},"handover":{"type":"counter"}}`
	}
	var many []string
	for i := range 21 {
		many = append(many, fmt.Sprintf(`{"sku":"item-%d","quantity":1}`, i))
	}
	for _, c := range []struct {
		name, method, url, body string
		status                  int
		says                    string
	}{
		{"malformed", "POST", orders, `{"customer":`, 400, "ends in the middle"},
		{"not an object", "POST", orders, `[]`, 400, "not an object"},
		{"empty", "POST", orders, ``, 400, "empty"},
		{"two objects", "POST", orders, order(line) + `{}`, 400, "one object only"},
		{"oversized", "POST", orders, `{"customer":"` + strings.Repeat("x", 70_000) + `"}`, 413, "65536"},
		{"unknown field", "POST", orders, `{"tip":5}`, 400, "tip"},
		{"wrong type", "POST", orders, order(`{"sku":"classic","quantity":"two"}`), 400, "quantity"},
		{"no lines", "POST", orders, order(""), 422, "lines must have 1 to 20"},
		{"too many lines", "POST", orders, order(strings.Join(many, ",")), 422, "lines must have 1 to 20"},
		{"twice the same", "POST", orders, order(line + "," + line), 422, "twice"},
		{"quantity 0", "POST", orders, order(`{"sku":"classic","quantity":0}`), 422, "quantity must be from 1 to 20"},
		{"quantity negative", "POST", orders, order(`{"sku":"classic","quantity":-1}`), 422, "quantity must be from 1 to 20"},
		{"quantity huge", "POST", orders, order(`{"sku":"classic","quantity":21}`), 422, "quantity must be from 1 to 20"},
		{"quantity beyond numbers", "POST", orders, order(`{"sku":"classic","quantity":1e400}`), 400, "quantity"},
		{"unknown item", "POST", orders, order(`{"sku":"tea","quantity":1}`), 422, "tea"},
		{"no customer", "POST", orders, strings.Replace(order(line), `"bad"`, `""`, 1), 422, "customer"},
		{"unprintable customer", "POST", orders, strings.Replace(order(line), `"bad"`, `"a\u0000b"`, 1), 422, "customer"},
		{"no token", "POST", orders, strings.Replace(order(line), `"tok_ok"`, `""`, 1), 422, "token"},
		{"no address", "POST", orders, strings.Replace(order(line), `"counter"`, `"address"`, 1), 422, "address"},
		{"strange handover", "POST", orders, strings.Replace(order(line), `"counter"`, `"drone"`, 1), 422, "handover.type"},
		{"unknown order", "GET", orders + "/01900000-0000-7000-8000-000000000000", "", 404, "no order"},
		{"no order at all", "GET", orders + "/x", "", 404, "no order"},
		{"cancel an unknown order", "POST", orders + "/01900000-0000-7000-8000-000000000000/cancel", "", 404, "no order"},
		{"strange status", "GET", orders + "?status=lost", "", 422, "status"},
		{"unknown path", "GET", shop.URL("order") + "/nowhere", "", 404, ""},
		{"wrong method", "DELETE", orders, "", 405, ""},
		{"unknown payment", "GET", shop.URL("pay") + "/payments/x", "", 404, "no payment"},
		{"unknown drink", "GET", shop.URL("make") + "/drinks/x", "", 404, "no drinks"},
		{"unknown delivery", "GET", shop.URL("delivery") + "/deliveries/x", "", 404, "no delivery"},
		{"unknown item of the menu", "GET", shop.URL("menu") + "/menu/tea", "", 404, "tea"},
		{"an item twice", "POST", shop.URL("menu") + "/menu", `{"sku":"classic","name":"C","price":{"amount":1,"currency":"EUR"},"recipe":[{"ingredient":"milk","amount":1}]}`, 409, "already"},
		{"an item for nothing", "POST", shop.URL("menu") + "/menu", `{"sku":"free","name":"C","price":{"amount":0,"currency":"EUR"},"recipe":[]}`, 422, "price.amount"},
		{"no goods", "POST", shop.URL("make") + "/stock/milk", `{"amount":0}`, 422, "amount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := call(t, c.method, c.url, c.body)
			var p struct {
				Type, Title, Detail, Instance, Code string
				Status                              int
			}
			a.decode(t, &p)
			if a.status != c.status || p.Status != c.status || !strings.Contains(p.Detail, c.says) || p.Code == "" || p.Type == "" || p.Title == "" || p.Instance == "" {
				t.Errorf("got %d %s, want %d and %q", a.status, a.body, c.status, c.says)
			}
			if got := a.header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
	var list struct{ Orders []page }
	call(t, "GET", orders+"?customer=bad", "").decode(t, &list)
	if len(list.Orders) != 0 {
		t.Errorf("bad requests left orders: %+v", list.Orders)
	}
}

// envelope is a message of the order service with all that belongs on it.
func envelope(body string) amqp.Publishing {
	id, saga := uuid.NewString(), uuid.NewString()
	return amqp.Publishing{
		ContentType: "application/json", Type: "order.placed", MessageId: id, CorrelationId: saga, AppId: "order", UserId: "order", Body: []byte(body),
		Headers: amqp.Table{
			"schema": int64(1), "hops": int64(1), "actor": "test",
			"cloudEvents_causationid": saga, "cloudEvents_time": "2026-01-02T03:04:05Z", "cloudEvents_subject": "order/" + saga, "cloudEvents_sequence": "1",
		},
	}
}

func TestPoisonIsSetAsideWithTheReasonAndItsNeighboursAreHandled(t *testing.T) {
	t.Parallel()
	neighbour := place(t, wish{customer: "neighbour", token: "tok_slow"})
	env, err := shop.Env("order")
	if err != nil {
		t.Fatal(err)
	}
	var asOrder string
	for _, e := range env {
		if url, ok := strings.CutPrefix(e, "AMQP_URL="); ok {
			asOrder = url
		}
	}
	unknown, foreign, forged, bare := envelope(`{}`), envelope(`{}`), envelope(`{}`), envelope(`{}`)
	unknown.Type = "order.eaten"
	foreign.Type, foreign.CorrelationId = "drink.made", uuid.NewString()
	forged.UserId = ""
	bare.Headers = nil
	poison := []struct {
		url     string
		message amqp.Publishing
		reason  string
	}{
		{asOrder, envelope(`{"order_id":`), "order.placed: the body is not what the contract says"},
		{asOrder, unknown, "\"order.eaten\" is not a declared event type"},
		{asOrder, foreign, "pay does not hear drink.made"},
		{shop.AMQP(), forged, "it says it is from \"order\", but the user \"\" published it"},
		{asOrder, bare, "the header schema is missing"},
	}
	for _, p := range poison {
		publish(t, p.url, "order.events", "order.placed", p.message)
	}
	if p := finish(t, neighbour.ID); p.Status != "completed" {
		t.Errorf("the neighbour: %+v", p)
	}
	conn, err := amqp.Dial(shop.AMQP())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	if err := eventually(10*time.Second, func() error {
		for {
			d, ok, err := ch.Get("pay.dead", false)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			reasons[d.MessageId], _ = d.Headers["dead_reason"].(string)
		}
		for _, p := range poison {
			if reason := reasons[p.message.MessageId]; !strings.Contains(reason, p.reason) {
				return fmt.Errorf("%s was set aside because %q, want %q", p.message.Type, reason, p.reason)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestASecondInstanceOfEachServiceSharesTheWork(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var second sync.WaitGroup
	defer second.Wait()
	defer cancel()
	for _, name := range []string{"menu", "order", "pay", "make", "delivery"} {
		env, err := shop.Env(name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, shop.Program(name))
		cmd.Env = append(env, "HTTP_ADDR=127.0.0.1:0")
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		second.Go(func() {
			_ = cmd.Wait()
			if strings.Contains(out.String(), "DATA RACE") {
				t.Errorf("%s: %s", name, out.String())
			}
		})
	}
	if err := eventually(20*time.Second, func() error {
		var queues []struct {
			Name      string
			Consumers int
		}
		call(t, "GET", shop.Management()+"/api/queues", "").decode(t, &queues)
		for _, q := range queues {
			if slices.Contains([]string{"menu", "order", "pay", "make", "delivery"}, q.Name) && q.Consumers < 2 {
				return fmt.Errorf("%s has %d consumers", q.Name, q.Consumers)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			w := wish{customer: "shared", token: []string{"tok_ok", "tok_ok", "tok_declined"}[i%3]}
			p := finish(t, place(t, w).ID)
			want, kept := "completed", 450
			if w.token == "tok_declined" {
				want, kept = "cancelled", 0
			}
			if p.Status != want || charged(t, p.ID) != kept {
				t.Errorf("got %s, charged %d", p.Status, charged(t, p.ID))
			}
			seen := map[string]int{}
			for _, e := range history(t, p.ID) {
				if seen[e.Type]++; seen[e.Type] > 1 {
					t.Errorf("%s happened twice", e.Type)
				}
			}
		})
	}
	all.Wait()
}

func TestAServiceKilledInTheMiddleComesBackAndNothingIsLost(t *testing.T) {
	ctx := context.Background()
	for _, victim := range []string{"pay", "make", "delivery", "order"} {
		t.Run(victim, func(t *testing.T) {
			var ids []string
			for range 20 {
				ids = append(ids, place(t, wish{customer: "killed " + victim}).ID)
			}
			if err := shop.Kill(ctx, victim); err != nil {
				t.Fatal(err)
			}
			if err := shop.Start(ctx, victim); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if p := finish(t, id); p.Status != "completed" || charged(t, id) != 450 {
					t.Errorf("got %s, charged %d", p.Status, charged(t, id))
				}
			}
		})
	}
}

func TestServicesComeBackByThemselvesWhenAServerWasAway(t *testing.T) {
	ctx := context.Background()
	for _, server := range []string{"postgres", "rabbitmq"} {
		t.Run(server, func(t *testing.T) {
			var ids []string
			for range 10 {
				ids = append(ids, place(t, wish{customer: "away " + server}).ID)
			}
			if err := shop.Kill(ctx, server); err != nil {
				t.Fatal(err)
			}
			if err := eventually(20*time.Second, func() error {
				if a, err := try("GET", shop.URL("pay")+"/readyz", ""); err != nil || a.status != http.StatusServiceUnavailable {
					return fmt.Errorf("pay says %d %s, %v", a.status, a.body, err)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if server == "postgres" {
				if a := call(t, "POST", shop.URL("order")+"/orders", wish{}.body()); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
					t.Errorf("an order without a database: %d %s", a.status, a.body)
				}
				if a := call(t, "GET", shop.URL("order")+"/orders/"+ids[0], ""); a.status != http.StatusServiceUnavailable {
					t.Errorf("a look without a database: %d %s", a.status, a.body)
				}
			}
			if err := shop.Start(ctx, server); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if p := finish(t, id); p.Status != "completed" || charged(t, id) != 450 {
					t.Errorf("got %s, charged %d", p.Status, charged(t, id))
				}
			}
		})
	}
}
