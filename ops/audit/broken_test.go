package audit_test

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/ops/audit"
	services "hotchoc/ops/shop"
	"hotchoc/ops/stack"
	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// breach is one way to break a promise.
type breach struct {
	name string
	// want is the invariant that is broken, and no other.
	want string
	// order is whose it is, by its name in trade; none: it is about no order.
	order string
	// says is a part of what is said about it.
	says string
	// also is what is broken by the same thing, of necessity.
	also string
	// rest says that it shows at rest only.
	rest bool
	// do breaks it.
	do func(b *bench, order string)
}

var breaches = []breach{
	{name: "a version is missing", want: "S1", order: "nobody home", says: "version 3: payment.refunded stands where version 2 must be", do: func(b *bench, order string) {
		b.exec("pay", `UPDATE event_log SET version = 3 WHERE stream = $1 AND version = 2`, "payment/"+order)
		b.exec("pay", `UPDATE stream_state SET version = 3 WHERE key = $1`, "payment/"+order)
	}},
	{name: "two events have one ID", want: "S1", order: "counter", says: "is that of", do: func(b *bench, order string) {
		b.exec("order", `UPDATE event_log SET event_id = $2 WHERE saga = $1 AND type = 'order.completed'`, order, b.event("pay", order, "payment.captured"))
	}},
	{name: "more was reserved than consumed", want: "S2", order: "counter", says: "it is not what is reserved for the order", do: func(b *bench, order string) {
		b.exec("make", `UPDATE event_log SET data = jsonb_set(data, '{ingredients,0,amount}', '"1000"') WHERE saga = $1 AND type = 'stock.reserved'`, order)
		b.rebuild("make", "stock/main")
	}},
	{name: "more was reserved than there was", want: "S2", order: "rare", says: "saffron: 10 reserved, 2 on hand", do: func(b *bench, _ string) {
		b.exec("make", `UPDATE event_log SET data = jsonb_set(data, '{amount}', '"2"') WHERE type = 'stock.replenished' AND data ->> 'amount' = '12'`)
		b.rebuild("make", "stock/main")
	}},
	{name: "more is refunded than was captured", want: "S3", order: "nobody home", says: "refunded 99900 of 1350", do: func(b *bench, order string) {
		b.exec("pay", `UPDATE event_log SET data = jsonb_set(data, '{amount,amount}', '"99900"') WHERE saga = $1 AND type = 'payment.refunded'`, order)
	}},
	{name: "what is suppressed was done", want: "S4", order: "counter", says: `the step "charge" is suppressed, but there is its payment.captured`, do: func(b *bench, order string) {
		b.exec("pay", `UPDATE barrier SET state = 'suppressed', fact = NULL WHERE saga = $1 AND step = 'charge'`, order)
	}},
	{name: "what is undone does not say so", want: "S4", order: "nobody home", says: `the step "brew" is done, but there is drink.discarded`, do: func(b *bench, order string) {
		b.exec("make", `UPDATE barrier SET state = 'done', undone_by = NULL WHERE saga = $1 AND step = 'brew'`, order)
	}},
	{name: "what was done has no barrier", want: "S4", order: "vegan", says: "drink.made, without a barrier", do: func(b *bench, order string) {
		b.exec("make", `DELETE FROM barrier WHERE saga = $1 AND step = 'brew'`, order)
	}},
	{name: "what is to be published is in no log", want: "S5", says: "the outbox has the event", do: func(b *bench, _ string) {
		b.exec("delivery", `INSERT INTO outbox (message_id, due_at) VALUES ($1, now())`, uuid.New())
	}},
	{name: "what was handled is in no log", want: "S5", order: "counter", says: "complete handled the message", rest: true, do: func(b *bench, order string) {
		b.exec("order", `INSERT INTO inbox (step, message_id, saga) VALUES ('complete', $1, $2)`, uuid.New(), order)
	}},
	{name: "an effect has no claim", want: "S6", order: "counter", says: "order.completed", do: func(b *bench, order string) {
		b.exec("order", `DELETE FROM inbox WHERE saga = $1 AND step = 'complete'`, order)
	}},
	{name: "an effect is there twice", want: "S6", order: "rare", says: "stock.depleted is there twice", do: func(b *bench, order string) {
		b.repeat("make", "stock/main", b.event("make", order, "stock.depleted"))
	}},
	{name: "one request made two orders", want: "S6", order: "crowd 2", says: "made 2 orders", do: func(b *bench, order string) {
		first := b.cause("order", orders["rare"], "order.placed")
		b.exec("order", `UPDATE event_log SET causation = $2 WHERE saga = $1 AND type = 'order.placed'`, order, first)
		b.exec("order", `INSERT INTO inbox (step, message_id, saga) VALUES ('place', $1, $2)`, first, order)
	}},
	{name: "an order is completed twice", want: "S7", order: "counter", says: "order.completed after order.completed", do: func(b *bench, order string) {
		b.add("order", "complete", b.event("order", order, "order.completed"))
	}},
	{name: "a delivery goes on after it failed", want: "S8", order: "nobody home", says: "delivery.dispatched must not follow failed", do: func(b *bench, order string) {
		stream := "delivery/" + order
		b.exec("delivery", `UPDATE event_log SET version = 9 WHERE stream = $1 AND version = 1`, stream)
		b.exec("delivery", `UPDATE event_log SET version = 1 WHERE stream = $1 AND version = 2`, stream)
		b.exec("delivery", `UPDATE event_log SET version = 2 WHERE stream = $1 AND version = 9`, stream)
		b.rebuild("delivery", stream)
	}},
	{name: "an event is too far from its cause", want: "S9", order: "counter", says: "delivery.delivered, which caused it, is at hop", do: func(b *bench, order string) {
		b.exec("order", `UPDATE event_log SET hops = hops + 3 WHERE saga = $1 AND type = 'order.completed'`, order)
	}},
	{name: "an event has a cause in another saga", want: "S9", order: "counter", says: "which is not in the saga", rest: true, do: func(b *bench, order string) {
		other := b.event("make", orders["vegan"], "drink.made")
		b.exec("delivery", `UPDATE event_log SET causation = $2 WHERE saga = $1`, order, other)
		b.exec("delivery", `INSERT INTO inbox (step, message_id, saga) VALUES ('dispatch', $1, $2)`, other, order)
		b.review(order)
	}},
	{name: "forward after a compensation", want: "S10", order: "nobody home", says: "stock.depleted after drink.discarded", do: func(b *bench, order string) {
		id := b.repeat("make", "stock/main", b.event("make", orders["rare"], "stock.depleted"))
		cause := uuid.New()
		b.exec("make", `UPDATE event_log SET saga = $2, causation = $3 WHERE event_id = $1`, id, order, cause)
		b.exec("make", `INSERT INTO inbox (step, message_id, saga) VALUES ('reserve', $1, $2)`, cause, order)
	}},
	{name: "an event in another service's log", want: "S11", order: "declined", says: "drink.made belongs to make", do: func(b *bench, order string) {
		b.exec("pay", `INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
SELECT gen_random_uuid(), 'drink/' || saga, 1, 'drink.made', 1, '{}', saga, event_id, hops + 1, actor, recorded_at FROM event_log WHERE saga = $1 AND type = 'payment.failed'`, order)
	}},
	{name: "an event in another order's stream", want: "S11", order: "counter", says: "name the stream", do: func(b *bench, order string) {
		b.exec("delivery", `UPDATE event_log SET data = jsonb_set(data, '{order_id}', to_jsonb($2::text)) WHERE saga = $1 AND type = 'delivery.delivered'`, order, orders["vegan"])
	}},
	{name: "a state is not its fold", want: "S12", order: "declined", says: `phase is "captured", should be "failed"`, do: func(b *bench, order string) {
		b.exec("pay", `UPDATE stream_state SET doc = jsonb_set(doc, '{phase}', '"captured"') WHERE key = $1`, "payment/"+order)
	}},
	{name: "a state is behind", want: "S12", order: "late", says: "the state is at version 1", do: func(b *bench, order string) {
		b.exec("order", `UPDATE stream_state SET version = 1 WHERE key = $1`, "order/"+order)
	}},
	{name: "a state is missing", want: "S12", order: "lost", says: "the stream has no state", do: func(b *bench, order string) {
		b.exec("delivery", `DELETE FROM stream_state WHERE key = $1`, "delivery/"+order)
	}},
	{name: "a state without events", want: "S12", says: "the state of payment/nobody has no events", do: func(b *bench, _ string) {
		b.exec("pay", `INSERT INTO stream_state VALUES ('payment/nobody', 1, '{}')`)
	}},
	{name: "a fact that cannot be read", want: "S12", order: "no money", says: "the body is not what the contract says", do: func(b *bench, order string) {
		b.exec("pay", `UPDATE event_log SET data = '{"order_id": 7}' WHERE saga = $1`, order)
	}},
	{name: "a view of own events", want: "S12", says: "refusals mallory", do: func(b *bench, _ string) {
		b.exec("pay", `UPDATE refusals SET doc = '{"at": ["2026-01-02T03:04:05Z"]}' WHERE key = 'mallory'`)
	}},
	{name: "an order's status", want: "S12", order: "counter", says: `order_status`, rest: true, do: func(b *bench, order string) {
		b.exec("order", `UPDATE order_status SET doc = jsonb_set(doc, '{status}', '"made"') WHERE key = $1`, order)
	}},
	{name: "an order's history", want: "S12", order: "counter", says: `order_history has no`, rest: true, do: func(b *bench, order string) {
		b.exec("order", `DELETE FROM order_history WHERE key = $1`, b.event("pay", order, "payment.captured"))
	}},
	{name: "a view of others' events, too", want: "S12", says: `ingredient saffron`, rest: true, do: func(b *bench, _ string) {
		b.exec("menu", `UPDATE ingredient SET doc = jsonb_set(doc, '{depleted}', 'true') WHERE key = 'saffron'`)
	}},
	{name: "an order has not ended", want: "Q1", order: "counter", says: "has not ended", rest: true, do: func(b *bench, order string) {
		b.forget("order", order, "order.completed")
	}},
	{name: "an order was lost", want: "Q1", order: "lost for ever", says: "it is not there", rest: true, do: func(b *bench, order string) {
		b.cfg.Accepted = []string{order, orders["counter"]}
	}},
	{name: "the gateway has taken less", want: "Q2", order: "address", says: "the gateway keeps 100, should keep 900", rest: true, do: func(b *bench, order string) {
		b.ledger(func(line string) string {
			if strings.Contains(line, order) {
				line = strings.Replace(line, `"amount":900`, `"amount":100`, 1)
			}
			return line
		})
	}},
	{name: "the gateway has not given back", want: "Q2", order: "nobody home", says: "order.cancelled, and the gateway keeps 1350, should keep 0", rest: true, do: func(b *bench, order string) {
		b.ledger(func(line string) string {
			if strings.Contains(line, order) && strings.Contains(line, "refunded") {
				return ""
			}
			return line
		})
	}},
	{name: "the gateway charges strangers", want: "Q2", order: "stranger", says: "an order that is not there", rest: true, do: func(b *bench, order string) {
		b.ledger(func(line string) string {
			if strings.Contains(line, orders["counter"]) {
				line += strings.ReplaceAll(line, orders["counter"], order)
			}
			return line
		})
	}},
	{name: "pay has taken less than the price", want: "Q2", order: "vegan", says: "pay keeps 1, should keep 520", rest: true, do: func(b *bench, order string) {
		b.exec("pay", `UPDATE event_log SET data = jsonb_set(data, '{amount,amount}', '"1"') WHERE saga = $1 AND type = 'payment.captured'`, order)
		b.rebuild("pay", "payment/"+order)
		b.review(order)
	}},
	{name: "drinks vanish", want: "Q3", order: "nobody home", says: "neither completed nor its drinks discarded", rest: true, do: func(b *bench, order string) {
		b.exec("make", `UPDATE barrier SET state = 'done', undone_by = NULL WHERE saga = $1 AND step = 'brew'`, order)
		b.forget("make", order, "drink.discarded")
	}},
	{name: "pay and the gateway mean different captures", want: "Q2", order: "lost", says: "the gateway as cap_other", rest: true, do: func(b *bench, order string) {
		b.ledger(func(line string) string {
			if at := strings.Index(line, `"id":"cap_`); strings.Contains(line, order) && at >= 0 {
				line = line[:at] + `"id":"cap_other"` + line[at+strings.IndexByte(line[at:], ','):]
			}
			return line
		})
	}},
	{name: "a step has not heard", want: "Q4", order: "declined", says: "flag has not heard payment.failed", rest: true, do: func(b *bench, order string) {
		b.exec("pay", `DELETE FROM inbox WHERE step = 'flag' AND saga = $1`, order)
	}},
	{name: "the views have not heard", want: "Q4", order: "vegan", says: "views has not heard drink.made", rest: true, do: func(b *bench, order string) {
		b.exec("order", `DELETE FROM inbox WHERE step = 'views' AND message_id = $1`, b.event("make", order, "drink.made"))
	}},
	{name: "a copy of an item", want: "Q6", says: "menu_copy classic: its price is 1 EUR, the menu says 450 EUR", rest: true, do: func(b *bench, _ string) {
		b.exec("order", `UPDATE menu_copy SET doc = jsonb_set(doc, '{price}', '1') WHERE key = 'classic'`)
	}},
	{name: "a copy of a recipe is behind", want: "Q6", says: "recipe_copy rare is at version 1", rest: true, do: func(b *bench, _ string) {
		b.exec("make", `UPDATE recipe_copy SET version = 1 WHERE key = 'rare'`)
	}},
	{name: "a copy is missing", want: "Q6", says: "recipe_copy has no vegan", rest: true, do: func(b *bench, _ string) {
		b.exec("make", `DELETE FROM recipe_copy WHERE key = 'vegan'`)
	}},
	{name: "a copy of nothing", want: "Q6", says: "the menu has no such item", rest: true, do: func(b *bench, _ string) {
		b.exec("order", `INSERT INTO menu_copy VALUES ('tea', 1, '{}')`)
	}},
	{name: "a flag that nobody raised", want: "Q6", says: "customer_copy bob: pay has not flagged", rest: true, do: func(b *bench, _ string) {
		b.exec("order", `INSERT INTO customer_copy VALUES ('bob', 1, '{}')`)
	}},
	{name: "a flag is unknown", want: "Q6", order: "flagged", says: "customer_copy mallory: flagged at", rest: true, do: func(b *bench, _ string) {
		b.exec("order", `UPDATE customer_copy SET doc = jsonb_set(doc, '{refusals}', '7') WHERE key = 'mallory'`)
	}},
	{name: "a closed order is waited for", want: "Q7", order: "counter", says: "a timer of the closed order is still armed", rest: true, do: func(b *bench, order string) {
		b.exec("order", `INSERT INTO outbox (message_id, due_at, timer) VALUES (gen_random_uuid(), now() + interval '1 hour', jsonb_build_object('envelope', jsonb_build_object('saga', $1::text)))`, order)
	}},
	{name: "a closed order keeps its ingredients", want: "Q7", also: "Q3", order: "broken", says: "ingredients are still held by the closed order", rest: true, do: func(b *bench, order string) {
		begin := b.event("order", order, "order.placed")
		id := b.repeat("make", "stock/main", b.event("make", order, "stock.reserved"))
		b.exec("make", `UPDATE event_log SET causation = $2, hops = 2 WHERE event_id = $1`, id, begin)
		b.exec("make", `INSERT INTO inbox (step, message_id, saga) VALUES ('reserve', $1, $3), ('brew', $2, $3)`, begin, id, order)
		b.exec("order", `INSERT INTO inbox (step, message_id, saga) VALUES ('views', $1, $2)`, id, order)
		b.review(order)
	}},
}

func TestEachPromiseIsSeenBroken(t *testing.T) {
	ids := map[string]string{"lost for ever": uuid.NewString(), "stranger": uuid.NewString(), "": ""}
	for name, id := range orders {
		ids[name] = id
	}
	for _, c := range breaches {
		t.Run(c.want+" "+c.name, func(t *testing.T) {
			t.Parallel()
			order, known := ids[c.order]
			if !known {
				t.Fatalf("there is no order %q", c.order)
			}
			b := newBench(t)
			b.cfg.Running = !c.rest
			c.do(b, order)
			r := b.audit()
			if r.AtRest != c.rest || r.OK() {
				t.Errorf("at rest: %v (%v), want %v; all kept: %v", r.AtRest, r.Unrest, c.rest, r.OK())
			}
			b.only(r, c.want, order, c.says, c.also)
		})
	}
}

// only insists that one invariant is broken, for one order, and that it is told how it came.
func (b *bench) only(r audit.Report, want, order, says string, also ...string) {
	b.t.Helper()
	told, traced := false, order == ""
	for _, v := range r.Violations {
		if slices.Contains(also, v.Invariant) {
			continue
		}
		if v.Invariant != want || v.Saga != "" && order != "" && v.Saga != order {
			b.t.Errorf("%s is broken as well: %s %s: %s", v.Invariant, v.Service, v.Saga, v.What)
		}
		if strings.Contains(v.What, says) && v.Saga == order {
			told = true
		}
		traced = traced || len(v.Trace) > 0 && v.Trace[0].Type == "order.placed" && v.Trace[0].Depth == 0
	}
	if !told {
		b.t.Errorf("%s of order %q was not found, saying %q: %+v", want, order, says, r.Violations)
	}
	known := slices.ContainsFunc(r.Checked, func(i audit.Invariant) bool { return i.ID == want && i.Violated > 0 })
	if !known {
		b.t.Errorf("the table does not say that %s is broken", want)
	}
	if !traced && slices.Contains(values(orders), order) {
		b.t.Errorf("no trace of the order: %+v", r.Violations)
	}
}

func values(m map[string]string) (all []string) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// event finds the ID of an event.
func (b *bench) event(service, order, typ string) (id string) {
	b.t.Helper()
	if err := b.database(service).QueryRow(`SELECT event_id FROM event_log WHERE saga = $1 AND type = $2`, order, typ).Scan(&id); err != nil {
		b.t.Fatalf("%s of %s: %v", typ, order, err)
	}
	return id
}

// cause finds the cause of one.
func (b *bench) cause(service, order, typ string) (id string) {
	b.t.Helper()
	if err := b.database(service).QueryRow(`SELECT causation FROM event_log WHERE saga = $1 AND type = $2`, order, typ).Scan(&id); err != nil {
		b.t.Fatalf("%s of %s: %v", typ, order, err)
	}
	return id
}

// repeat appends an event to a stream once more, with the same cause, and brings the state up to date.
func (b *bench) repeat(service, stream, event string) (id string) {
	b.t.Helper()
	if err := b.database(service).QueryRow(`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
SELECT gen_random_uuid(), stream, (SELECT max(version) + 1 FROM event_log WHERE stream = $2), type, schema, data, saga, causation, hops, actor, now() FROM event_log WHERE event_id = $1
RETURNING event_id`, event, stream).Scan(&id); err != nil {
		b.t.Fatal(err)
	}
	b.rebuild(service, stream)
	return id
}

// add appends an event like this one to its stream, as the step would upon another message.
func (b *bench) add(service, step, event string) {
	b.t.Helper()
	var stream string
	if err := b.database(service).QueryRow(`SELECT stream FROM event_log WHERE event_id = $1`, event).Scan(&stream); err != nil {
		b.t.Fatal(err)
	}
	id, cause := b.repeat(service, stream, event), uuid.New()
	b.exec(service, `UPDATE event_log SET causation = $2 WHERE event_id = $1`, id, cause)
	b.exec(service, `INSERT INTO inbox (step, message_id, saga) SELECT $1, $2, saga FROM event_log WHERE event_id = $3`, step, cause, id)
}

// forget removes the last event of a stream, and all that is folded from it.
func (b *bench) forget(service, order, typ string) {
	b.t.Helper()
	id := b.event(service, order, typ)
	var stream string
	if err := b.database(service).QueryRow(`DELETE FROM event_log WHERE event_id = $1 RETURNING stream`, id).Scan(&stream); err != nil {
		b.t.Fatal(err)
	}
	b.rebuild(service, stream)
	for _, other := range stack.Services() {
		if _, err := b.database(other).Exec(`DELETE FROM inbox WHERE message_id = $1`, id); err != nil {
			b.t.Fatal(err)
		}
	}
	b.review(order)
}

// rebuild makes the state of a stream the fold of what is now in the log.
func (b *bench) rebuild(service, stream string) {
	b.t.Helper()
	events := b.events(service, `stream = $1 ORDER BY version`, stream)
	fold, done, err := serviceFlow(service).Refold(flow.States)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range events {
		fold(b.fact(e), e.Envelope)
	}
	docs, err := done()
	if err != nil || len(docs) != 1 {
		b.t.Fatalf("%d states of %s: %v", len(docs), stream, err)
	}
	b.exec(service, `UPDATE stream_state SET version = $2, doc = $3 WHERE key = $1`, stream, events[len(events)-1].Version, docs[0].Body)
}

// review makes the views of orders the fold of what is now in the logs.
func (b *bench) review(orders ...string) {
	b.t.Helper()
	for _, order := range orders {
		var events []event.Record
		for _, service := range stack.Services() {
			events = append(events, b.events(service, `saga = $1 ORDER BY position`, order)...)
		}
		for _, table := range []string{"order_status", "order_history"} {
			fold, done, err := serviceFlow("order").Refold(table)
			if err != nil {
				b.t.Fatal(err)
			}
			for _, e := range events {
				fold(b.fact(e), e.Envelope)
			}
			docs, err := done()
			if err != nil || len(docs) == 0 {
				b.t.Fatalf("%d documents of %s: %v", len(docs), order, err)
			}
			b.exec("order", `DELETE FROM `+table+` WHERE `+map[string]string{"order_status": "key", "order_history": "order_id"}[table]+` = $1`, order)
			for _, d := range docs {
				b.exec("order", `INSERT INTO `+table+` (key, version, doc) VALUES ($1, $2, $3)`, d.Key.Key, cmp.Or(d.Version, 1), d.Body)
			}
		}
	}
}

// events reads a part of a log.
func (b *bench) events(service, where string, args ...any) (events []event.Record) {
	b.t.Helper()
	rows, err := b.database(service).Query(`SELECT event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at FROM event_log WHERE `+where, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		e := event.Record{Envelope: event.Envelope{Source: service}}
		if err := rows.Scan(&e.ID, &e.Stream, &e.Version, &e.Type, &e.Schema, &e.Body, &e.Saga, &e.Causation, &e.Hops, &e.Actor, &e.At); err != nil {
			b.t.Fatal(err)
		}
		e.At = e.At.UTC()
		events = append(events, e)
	}
	return events
}

func (b *bench) fact(e event.Record) proto.Message {
	b.t.Helper()
	declared, _ := contract.Lookup(e.Type)
	m, err := declared.Unmarshal(e.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func serviceFlow(service string) *flow.Flow {
	flows := services.Flows()
	return flows[slices.IndexFunc(flows, func(f *flow.Flow) bool { return f.Service == service })]
}

// ledger puts a gateway in place whose ledger is changed line by line.
func (b *bench) ledger(change func(string) string) {
	real := b.cfg.Partners
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(real + r.URL.Path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		for line := range strings.Lines(string(text)) {
			io.WriteString(w, change(line))
		}
	}))
	b.t.Cleanup(web.Close)
	b.cfg.Partners = web.URL
}
