// Package saga looks at orders from outside: what happened in all services, by causation, and what is awaited, by whom, and
// where that message is now. It reads the services' databases and the broker's queues as their administrator, and changes
// nothing.
//
// What is awaited follows from the choreography: an event in a log, a step that hears it, and no row for the two in the
// inbox of the step's service.
package saga

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga/platform"
	"hotchoc/order"
	"hotchoc/pay"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// ErrUnknown says that no service has ever heard of an order.
var ErrUnknown = errors.New("no service knows this order")

// Reader looks. Not safe for concurrent use.
type Reader struct {
	queues  *dead.Queues
	db      *platform.Databases
	graph   flow.Graph
	states  func(context.Context) map[string]string
	program string
}

// New returns a reader of what queues are open on. states, if not nil, tells which services run, by stack.Row.State;
// program is how this program is called, for the commands that it recommends.
func New(queues *dead.Queues, graph flow.Graph, program string, states func(context.Context) map[string]string) *Reader {
	if states == nil {
		states = func(context.Context) map[string]string { return nil }
	}
	return &Reader{queues: queues, db: queues.Databases(), graph: graph, states: states, program: cmp.Or(program, "hotchoc")}
}

// Order is an order as the order service shows it.
type Order struct {
	ID       uuid.UUID `json:"id"`
	Status   string    `json:"status"`
	Ended    bool      `json:"ended"`
	Customer string    `json:"customer"`
	Total    Money     `json:"total"`
	PlacedAt time.Time `json:"placed_at"`
	Updated  time.Time `json:"updated_at"`
	Deadline time.Time `json:"deadline,omitzero"`
	Refund   string    `json:"refund,omitempty"`
	Cause    string    `json:"cause,omitempty"`
}

// Saga is one order over all services.
type Saga struct {
	Order
	// Payment is what the pay service knows; nil when it has heard nothing yet.
	Payment  *pay.Payment       `json:"payment"`
	Events   []Event            `json:"events"` // in the order of the tree
	Attempts []platform.Attempt `json:"attempts"`
	Barriers []platform.Barrier `json:"barriers"`
	Timers   []Timer            `json:"timers"` // armed
	Dead     []dead.Letter      `json:"dead_letters"`
	Awaited  []Awaited          `json:"awaited"`
}

// Money is an amount in minor units of a currency (ISO 4217).
type Money = order.Money

// Event is an event with its place in the tree of causes.
type Event struct {
	platform.Event
	// Step is who emitted it.
	Step string `json:"step"`
	// Cause is what began the saga here when that was no event: a command's or a timer's step.
	Cause string `json:"cause,omitempty"`
	Depth int    `json:"depth"`
	// Since is how long after the placing it was, in milliseconds.
	Since float64            `json:"since_placed_ms"`
	Heard []platform.Handled `json:"heard"`

	last []bool // per level: no sibling follows
}

// Timer is an armed timer.
type Timer struct {
	Service string    `json:"service"`
	ID      uuid.UUID `json:"id"`
	Type    string    `json:"type"`
	DueAt   time.Time `json:"due_at"`
}

// Filter chooses orders. What is empty chooses all.
type Filter struct {
	Status string
	// Since chooses what was placed after it.
	Since time.Time
	Limit int
}

// Statuses are those that an order can have.
var Statuses = []string{"placed", "paid", "made", "dispatched", "completed", "cancelling", "cancelled"}

// List shows orders, the newest first.
func (r *Reader) List(ctx context.Context, f Filter) ([]Order, error) {
	// Order IDs begin with the time (UUIDv7), so their order is that of the placing.
	oldest := ""
	if !f.Since.IsZero() {
		oldest = fmt.Sprintf("%012x", f.Since.UnixMilli())
		oldest = oldest[:8] + "-" + oldest[8:] + "-0000-0000-000000000000"
	}
	return r.orders(ctx, `SELECT key, doc, NULL FROM order_status WHERE ($1 = '' OR status = $1) AND key >= $2 ORDER BY key DESC LIMIT $3`, f.Status, oldest, f.Limit)
}

// orders reads the order service's view.
func (r *Reader) orders(ctx context.Context, query string, args ...any) ([]Order, error) {
	rows, err := r.db.Of("order").QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("database of order: %w", err)
	}
	defer rows.Close()
	orders := []Order{}
	for rows.Next() {
		var (
			o        Order
			doc      []byte
			status   order.Status
			deadline *time.Time
		)
		if err := rows.Scan(&o.ID, &doc, &deadline); err != nil {
			return nil, fmt.Errorf("database of order: %w", err)
		}
		if err := json.Unmarshal(doc, &status); err != nil {
			return nil, fmt.Errorf("order %s in order_status: %w", o.ID, err)
		}
		o.Status, o.Ended, o.Customer, o.Total, o.PlacedAt = status.Status, status.Ended, status.Customer, status.Total, status.PlacedAt
		o.Updated, o.Refund, o.Cause = status.Updated, status.Refund, status.Cause
		if deadline != nil {
			o.Deadline = *deadline
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}

const orderColumns = `SELECT s.key, s.doc, (e.data ->> 'deadline')::timestamptz
  FROM order_status s LEFT JOIN event_log e ON e.saga = s.key::uuid AND e.type = 'order.placed'`

// Show shows one order with all that is known of it.
func (r *Reader) Show(ctx context.Context, id uuid.UUID) (*Saga, error) {
	orders, err := r.orders(ctx, orderColumns+` WHERE s.key = $1`, id.String())
	if err != nil {
		return nil, err
	}
	if len(orders) == 0 {
		orders = []Order{{ID: id}} // other services may have heard of it all the same
	}
	sagas, err := r.fill(ctx, orders)
	if err != nil {
		return nil, err
	}
	if s := &sagas[0]; s.Status != "" || len(s.Events) > 0 || len(s.Dead) > 0 {
		return s, nil
	}
	return nil, ErrUnknown
}

// StuckLimit is how many stuck orders are shown.
const StuckLimit = 100

// Stuck shows the orders that have not ended although they are older than that or past their deadline, the oldest first,
// and those that have ended but for a step whose message is a dead letter.
func (r *Reader) Stuck(ctx context.Context, older time.Duration, limit int) ([]Saga, error) {
	now := time.Now()
	orders, err := r.orders(ctx, orderColumns+`
  WHERE NOT s.ended AND ((s.doc ->> 'placed_at')::timestamptz <= $1 OR (e.data ->> 'deadline')::timestamptz <= $2) ORDER BY s.key LIMIT $3`,
		now.Add(-older), now, limit)
	if err != nil {
		return nil, err
	}
	letters, _, err := r.queues.List(ctx, dead.Selection{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, l := range letters {
		if id, err := uuid.Parse(l.Saga); err == nil {
			ids = append(ids, id.String())
		}
	}
	ended, err := r.orders(ctx, orderColumns+` WHERE s.ended AND s.key = ANY($1) ORDER BY s.key LIMIT $2`, pq.Array(ids), limit)
	if err != nil {
		return nil, err
	}
	sagas, err := r.fill(ctx, append(orders, ended...))
	return slices.DeleteFunc(sagas, func(s Saga) bool {
		return s.Ended && !slices.ContainsFunc(s.Awaited, func(a Awaited) bool { return a.Place == PlaceDead })
	}), err
}

// fill reads all that the services know about these orders. The logs are read before the inboxes, and these before the
// outboxes and the queues, so that what is on its way meanwhile is at worst seen twice and never lost from sight.
func (r *Reader) fill(ctx context.Context, orders []Order) ([]Saga, error) {
	sagas := make([]Saga, len(orders))
	ids := make([]uuid.UUID, len(orders))
	index := map[uuid.UUID]*Saga{}
	for i, o := range orders {
		sagas[i] = Saga{
			Order: o, Attempts: []platform.Attempt{}, Barriers: []platform.Barrier{}, Timers: []Timer{}, Dead: []dead.Letter{}, Awaited: []Awaited{},
		}
		ids[i], index[o.ID] = o.ID, &sagas[i]
	}
	if len(sagas) == 0 {
		return sagas, nil
	}
	events, err := r.db.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	var messages []uuid.UUID // events, and what caused them
	for _, e := range events {
		messages = append(messages, e.ID, e.Causation)
	}
	for _, id := range ids {
		messages = append(messages, deadlineOf(id))
	}
	slices.SortFunc(messages, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	messages = slices.Compact(messages)
	handled, err := r.db.Handled(ctx, messages)
	if err != nil {
		return nil, err
	}
	attempts, err := r.db.Attempts(ctx, ids, nil)
	if err != nil {
		return nil, err
	}
	outbox, err := r.db.Outbox(ctx, ids, messages)
	if err != nil {
		return nil, err
	}
	barriers, err := r.db.Barriers(ctx, ids)
	if err != nil {
		return nil, err
	}
	payments, err := r.payments(ctx, ids)
	if err != nil {
		return nil, err
	}
	letters, unseen, err := r.queues.List(ctx, dead.Selection{})
	if err != nil {
		return nil, err
	}

	heard := map[uuid.UUID][]platform.Handled{}
	for _, h := range handled {
		heard[h.Message] = append(heard[h.Message], h)
	}
	bySaga := map[uuid.UUID][]platform.Event{}
	for _, e := range events {
		bySaga[e.Saga] = append(bySaga[e.Saga], e)
	}
	for _, a := range attempts {
		index[a.Saga].Attempts = append(index[a.Saga].Attempts, a)
	}
	for _, b := range barriers {
		index[b.Saga].Barriers = append(index[b.Saga].Barriers, b)
	}
	for _, u := range outbox {
		if u.Timer == nil {
			continue
		}
		if s := index[u.Timer.Saga]; s != nil {
			s.Timers = append(s.Timers, Timer{u.Service, u.Message, u.Timer.Type, u.DueAt})
		}
	}
	for _, l := range letters {
		if id, err := uuid.Parse(l.Saga); err == nil && index[id] != nil {
			index[id].Dead = append(index[id].Dead, l)
		}
	}
	where := &whereabouts{Reader: r, ctx: ctx, outbox: outbox, unseen: unseen, depths: map[string]dead.Depth{}}
	for i := range sagas {
		s := &sagas[i]
		s.Payment = payments[s.ID]
		s.Events = r.tree(bySaga[s.ID], heard)
		for j := range s.Events {
			if e := &s.Events[j]; !s.PlacedAt.IsZero() {
				e.Since = max(0, float64(e.At.Sub(s.PlacedAt).Microseconds())/1000)
			}
		}
		if s.Awaited, err = where.awaited(s, heard); err != nil {
			return nil, err
		}
	}
	return sagas, nil
}

// deadlineOf is the message ID of an order's timer, as the order service derives it.
func deadlineOf(id uuid.UUID) uuid.UUID { return event.DerivedID(id, "deadline") }

func (r *Reader) payments(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*pay.Payment, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = "payment/" + id.String()
	}
	rows, err := r.db.Of("pay").QueryContext(ctx, `SELECT key, doc FROM stream_state WHERE key = ANY($1)`, pq.Array(keys))
	if err != nil {
		return nil, fmt.Errorf("database of pay: %w", err)
	}
	defer rows.Close()
	payments := map[uuid.UUID]*pay.Payment{}
	for rows.Next() {
		var key string
		var doc []byte
		var p pay.Payment
		if err := rows.Scan(&key, &doc); err != nil {
			return nil, fmt.Errorf("database of pay: %w", err)
		}
		if err := json.Unmarshal(doc, &p); err != nil {
			return nil, fmt.Errorf("%s of pay: %w", key, err)
		}
		payments[uuid.MustParse(key[len("payment/"):])] = &p
	}
	return payments, rows.Err()
}
