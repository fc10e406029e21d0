package crash_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// deed is something that people want of the shop, while one of its services dies. It begins with all that is asked over
// HTTP, again and again until there is an answer; arm is called when the process that is to die may. Later it has ended,
// as it must: once, and with nothing missing.
type deed interface {
	begin(r *rig, arm func()) error
	ended(r *rig) error
}

// order is a cup of hot chocolate, and how it must end.
type order struct {
	customer, sku, token, address string

	status string
	kept   int // by the gateway, in the end
	events []string

	cancel bool   // is wished when it is placed, or late
	expire bool   // its deadline passes when it is placed
	cut    string // the connection to the broker that breaks

	// The process is armed when this has happened to the order and the service has published all of it; "": at once.
	late, service string

	id string
}

func completed() *order {
	return &order{address: "12 Mill Lane", status: "completed", kept: 450, events: []string{
		"order.placed", "payment.captured", "stock.reserved", "drink.made", "stock.consumed", "delivery.dispatched", "delivery.delivered", "order.completed",
	}}
}

func flaky() *order {
	o := completed()
	o.token = "tok_flaky"
	return o
}

func brokenMachine() *order {
	return &order{sku: "lava", status: "cancelled", events: []string{
		"order.placed", "payment.captured", "stock.reserved", "make.failed", "stock.released", "payment.refunded", "order.cancelled",
	}}
}

func nobodyHome() *order {
	return &order{address: "nowhere", status: "cancelled", events: []string{
		"order.placed", "payment.captured", "stock.reserved", "drink.made", "stock.consumed", "delivery.dispatched", "delivery.failed", "drink.discarded",
		"payment.refunded", "order.cancelled",
	}}
}

func declined(customer, token string) *order {
	return &order{customer: customer, token: token, status: "cancelled", events: []string{"order.placed", "payment.failed", "order.cancelled"}}
}

// cancelled is an order whose payment hangs long enough for any cancel to come in time.
func cancelled() *order {
	return &order{token: "tok_down", cancel: true, status: "cancelled", events: []string{
		"order.placed", "order.cancel_requested", "make.failed", "payment.failed", "order.cancelled",
	}}
}

// tooLate is an order that somebody wants to cancel while the courier is on the way.
func tooLate() *order {
	o := completed()
	o.address, o.cancel, o.late, o.service = "slow lane", true, "delivery.dispatched", "make"
	o.events = append(o.events, "order.cancel_requested", "make.cancel_rejected")
	return o
}

func expired() *order {
	o := cancelled()
	o.cancel, o.expire = false, true
	return o
}

func cutOff(connection string) *order {
	o := completed()
	o.cut = connection
	return o
}

func (o *order) begin(r *rig, arm func()) error {
	at := map[string]any{"type": "counter"}
	if o.address != "" {
		at = map[string]any{"type": "address", "address": o.address}
	}
	body, err := json.Marshal(map[string]any{
		"customer": or(o.customer, r.name("somebody")),
		"lines":    []any{map[string]any{"sku": or(o.sku, "classic"), "quantity": 1}},
		"payment":  map[string]any{"token": or(o.token, "tok_ok")},
		"handover": at,
	})
	if err != nil {
		return err
	}
	atOnce := !o.cancel && !o.expire && o.late == ""
	if atOnce {
		arm()
	}
	if o.cut != "" {
		if err := r.wire.cut(o.cut); err != nil {
			return err
		}
	}
	var placed struct{ ID string }
	if err := r.insist("POST", "order", "/orders", string(body), r.name("place"), &placed); err != nil {
		return err
	}
	o.id = placed.ID
	r.mu.Lock()
	r.orders = append(r.orders, o.id)
	r.mu.Unlock()
	if o.late != "" {
		if err := eventually(func() error { return o.happened(r, o.late) }); err != nil {
			return err
		}
	}
	if !atOnce {
		if err := r.published(or(o.service, "order")); err != nil {
			return err
		}
		arm()
	}
	if o.cancel {
		if err := r.insist("POST", "order", "/orders/"+o.id+"/cancel", "", r.name("cancel"), &struct{}{}); err != nil {
			return err
		}
	}
	if o.expire {
		moved, err := r.dbs["order"].Exec(`UPDATE outbox SET due_at = now() WHERE timer -> 'envelope' ->> 'saga' = $1`, o.id)
		if err != nil {
			return err
		}
		if n, err := moved.RowsAffected(); n != 1 {
			return fmt.Errorf("the order %s has %d timers: %v", o.id, n, err)
		}
	}
	return nil
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (o *order) happened(r *rig, typ string) error {
	types, err := o.history(r)
	if err == nil && !slices.Contains(types, typ) {
		err = fmt.Errorf("order %s: there is no %s in %v", o.id, typ, types)
	}
	return err
}

func (o *order) history(r *rig) (types []string, err error) {
	var h struct{ Events []struct{ Type string } }
	err = r.get("order", "/orders/"+o.id+"/events", &h)
	for _, e := range h.Events {
		types = append(types, e.Type)
	}
	return types, err
}

func (o *order) ended(r *rig) error {
	var page struct{ Status string }
	if err := r.get("order", "/orders/"+o.id, &page); err != nil {
		return err
	}
	types, err := o.history(r)
	if err != nil {
		return err
	}
	kept, err := r.kept(o.id)
	if err != nil {
		return err
	}
	var wrong []error
	if page.Status != o.status {
		wrong = append(wrong, fmt.Errorf("it is %s, not %s", page.Status, o.status))
	}
	if slices.Sort(types); !slices.Equal(types, slices.Sorted(slices.Values(o.events))) {
		wrong = append(wrong, fmt.Errorf("its events are %v, not %v", types, o.events))
	}
	if kept != o.kept {
		wrong = append(wrong, fmt.Errorf("the gateway has kept %d, not %d", kept, o.kept))
	}
	if wrong != nil {
		return fmt.Errorf("order %s: %w", o.id, errors.Join(wrong...))
	}
	return nil
}

// kept is what the gateway itself says it has kept of an order.
func (r *rig) kept(order string) (kept int, err error) {
	a, err := r.call("GET", "partners", "/ledger?order="+order, "")
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("GET /ledger: %d %s", a.status, a.body)
	}
	if err != nil {
		return 0, err
	}
	captures := 0
	for line := range strings.Lines(a.body) {
		var e struct {
			Kind   string
			Amount int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return 0, err
		}
		switch e.Kind {
		case "captured":
			captures++
			kept += e.Amount
		case "refunded":
			kept -= e.Amount
		}
	}
	if captures > 1 {
		return kept, fmt.Errorf("the gateway captured %d times for order %s", captures, order)
	}
	return kept, nil
}

// refusals are three orders of a customer whose card is refused, after which the customer is flagged.
type refusals struct{ orders []*order }

func (c *refusals) begin(r *rig, arm func()) error {
	customer := r.name("mallory")
	arm()
	for _, token := range []string{"tok_declined", "tok_insufficient", "tok_fraud"} {
		o := declined(customer, token)
		c.orders = append(c.orders, o)
		if err := o.begin(r, func() {}); err != nil {
			return err
		}
	}
	return nil
}

func (c *refusals) ended(r *rig) error {
	for _, o := range c.orders {
		if err := o.ended(r); err != nil {
			return err
		}
	}
	var flagged struct {
		Flagged  bool
		Refusals int
	}
	customer := c.orders[0].customer
	if err := r.get("order", "/customers/"+strings.ReplaceAll(customer, " ", "%20"), &flagged); err != nil {
		return err
	}
	if !flagged.Flagged || flagged.Refusals != 3 {
		return fmt.Errorf("%s after three refusals: %+v", customer, flagged)
	}
	return nil
}

// edit gives the item "matrix" a price that it never had. Each edit is one version of it, in the menu and in the copies.
type edit struct{ price int }

func item(price int) string {
	return fmt.Sprintf(`{"sku":"matrix","name":"Matrix","price":{"amount":%d,"currency":"EUR"},"recipe":[{"ingredient":"powder","amount":1}]}`, price)
}

// offer puts the item on the menu.
func (r *rig) offer() error {
	return r.insist("POST", "menu", "/menu", item(1), "matrix", &struct{}{})
}

func (e *edit) begin(r *rig, arm func()) error {
	r.mu.Lock()
	r.edits++
	e.price = 1 + r.edits
	r.mu.Unlock()
	arm()
	return r.insist("PUT", "menu", "/menu/matrix", item(e.price), r.name("edit"), &struct{}{})
}

func (e *edit) ended(r *rig) error {
	r.mu.Lock()
	versions := 1 + r.edits
	r.mu.Unlock()
	for _, kept := range []struct{ service, table string }{{"menu", "menu_page"}, {"order", "menu_copy"}, {"make", "recipe_copy"}} {
		version := 0
		if err := r.dbs[kept.service].QueryRow(`SELECT version FROM ` + kept.table + ` WHERE key = 'matrix'`).Scan(&version); err != nil {
			return err
		}
		if version != versions {
			return fmt.Errorf("%s of %s has version %d of the item after %d edits", kept.table, kept.service, version, versions-1)
		}
	}
	price := 0
	if err := r.dbs["order"].QueryRow(`SELECT (doc ->> 'price')::int FROM menu_copy WHERE key = 'matrix'`).Scan(&price); err != nil {
		return err
	}
	if price != versions {
		return fmt.Errorf("the price of the item is %d, not %d", price, versions)
	}
	return nil
}

// goods are a delivery of powder. All that came in must be there, once, and the menu must have heard of it.
type goods struct{}

const sack = 7 // grams

func (goods) begin(r *rig, arm func()) error {
	r.mu.Lock()
	r.sacks++
	r.mu.Unlock()
	arm()
	return r.insist("POST", "make", "/stock/powder", fmt.Sprintf(`{"amount":%d}`, sack), r.name("goods"), &struct{}{})
}

func (goods) ended(r *rig) error {
	r.mu.Lock()
	want := r.sacks * sack
	r.mu.Unlock()
	var shelf struct {
		Ingredients []struct {
			Ingredient  string
			Replenished int
		}
	}
	if err := r.get("make", "/stock", &shelf); err != nil {
		return err
	}
	for _, i := range shelf.Ingredients {
		if i.Ingredient == "powder" && i.Replenished != want {
			return fmt.Errorf("%d of powder came in, %d are on the shelf", want, i.Replenished)
		}
	}
	last, heard := 0, 0
	if err := r.dbs["make"].QueryRow(`SELECT max(version) FROM event_log WHERE type = 'stock.replenished' AND data ->> 'ingredient' = 'powder'`).Scan(&last); err != nil {
		return err
	}
	if err := r.dbs["menu"].QueryRow(`SELECT doc ->> 'stock_version' FROM ingredient WHERE key = 'powder'`).Scan(&heard); err != nil {
		return err
	}
	if last != heard {
		return fmt.Errorf("the menu has heard of version %d of the stock, not of %d", heard, last)
	}
	return nil
}

// poison is an event that nobody can read. It must be set aside, and not be lost on the way.
type poison struct{}

func (*poison) begin(r *rig, arm func()) error {
	id, saga := uuid.NewString(), uuid.NewString()
	r.mu.Lock()
	r.poison = append(r.poison, id)
	r.mu.Unlock()
	arm()
	owner, err := r.broker("order")
	if err != nil {
		return err
	}
	conn, err := amqp.Dial(owner.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	confirm, err := channel.PublishWithDeferredConfirm("order.events", "order.placed", true, false, amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, Type: "order.placed", MessageId: id, CorrelationId: saga,
		AppId: "order", UserId: "order", Body: []byte(`{"order_id":`), Headers: amqp.Table{
			"schema": int64(1), "hops": int64(1), "actor": "test", "cloudEvents_causationid": saga, "cloudEvents_time": "2026-01-02T03:04:05Z",
			"cloudEvents_subject": "order/" + saga, "cloudEvents_sequence": "1",
		},
	})
	if err == nil && !confirm.Wait() {
		err = errors.New("the broker did not take the poison")
	}
	return err
}

func (*poison) ended(r *rig) error {
	conn, err := amqp.Dial(r.shop.AMQP())
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	letters, err := channel.QueueDeclarePassive("pay.dead", true, false, false, false, nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if letters.Messages < len(r.poison) { // a crash may set one aside twice; the audit knows which they are
		return fmt.Errorf("there are %d dead letters of %d", letters.Messages, len(r.poison))
	}
	return nil
}
