package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
)

// Status is an order as people see it: the fold of the whole saga's events. The events of different services come in any
// order, so the fold keeps what has happened and computes the status from all of it.
type Status struct {
	Customer string    `json:"customer"`
	Lines    []Line    `json:"lines"`
	Total    Money     `json:"total"`
	PlacedAt time.Time `json:"placed_at"`
	Updated  time.Time `json:"updated_at"`

	// Seen are the types of the events that have come, sorted.
	Seen []string `json:"seen"`
	// Cause is why the order was or will be cancelled, as "event: reason".
	Cause string `json:"cause,omitempty"`

	// Computed.
	Status string `json:"status"`
	Refund string `json:"refund,omitempty"` // "", pending or refunded
	// Ended says that nothing more will happen: completed, or cancelled and the money, if any, given back.
	Ended bool `json:"ended"`
}

// Line is a number of cups of one item, at the price as sold.
type Line struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Quantity  int32  `json:"quantity"`
	UnitPrice Money  `json:"unit_price"`
}

// Money is an amount in minor units of a currency (ISO 4217).
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

func moneyOf(m *shopv1.Money) Money { return Money{m.GetAmount(), m.GetCurrency()} }

func (s *Status) fold(fact proto.Message, e event.Envelope) {
	if at, found := slices.BinarySearch(s.Seen, e.Type); !found {
		s.Seen = slices.Insert(s.Seen, at, e.Type)
	}
	if e.At.After(s.Updated) {
		s.Updated = e.At
	}
	switch f := fact.(type) {
	case *orderv1.OrderPlaced:
		s.Customer, s.Total, s.PlacedAt = f.Customer, moneyOf(f.Total), e.At
		for _, l := range f.Lines {
			s.Lines = append(s.Lines, Line{l.Sku, l.Name, l.Quantity, moneyOf(l.UnitPrice)})
		}
	case *orderv1.OrderCancelled:
		s.Cause = f.Cause + ": " + f.Reason
	case *payv1.PaymentFailed, *makev1.MakeFailed, *deliveryv1.DeliveryFailed:
		if s.Cause == "" {
			reason, _ := contract.Failure(fact)
			s.Cause = e.Type + ": " + reason
		}
	}
	s.compute()
}

// compute is the table of statuses, the last that holds.
func (s *Status) compute() {
	seen := func(types ...string) bool {
		return slices.ContainsFunc(types, func(t string) bool { return slices.Contains(s.Seen, t) })
	}
	s.Status = "placed"
	for _, step := range []struct {
		status string
		holds  bool
	}{
		{"paid", seen("payment.captured")},
		{"made", seen("drink.made")},
		{"dispatched", seen("delivery.dispatched")},
		{"cancelling", seen("order.cancel_requested") && !seen("make.cancel_rejected") || seen("payment.failed", "make.failed", "delivery.failed")},
		{"completed", seen("order.completed")},
		{"cancelled", seen("order.cancelled")},
	} {
		if step.holds {
			s.Status = step.status
		}
	}
	s.Refund = ""
	switch {
	case seen("payment.refunded"):
		s.Refund = "refunded"
	case s.Status == "cancelled" && seen("payment.captured"):
		s.Refund = "pending"
	}
	s.Ended = s.Status == "completed" || s.Status == "cancelled" && seen("payment.failed", "payment.refunded")
}

// Entry is a line of an order's history.
type Entry struct {
	Order     string          `json:"order"`
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Service   string          `json:"service"`
	Stream    string          `json:"stream"`
	Version   int64           `json:"version"`
	Causation string          `json:"causation"`
	Hops      int             `json:"hops"`
	At        time.Time       `json:"at"`
	Data      json.RawMessage `json:"data"`
}

func (l *Entry) fold(fact proto.Message, e event.Envelope) {
	data, err := contract.Marshal(fact)
	if err != nil {
		panic(err) // it was decoded from JSON a moment ago
	}
	*l = Entry{
		Order: e.Saga.String(), ID: e.ID.String(), Type: e.Type, Service: e.Source, Stream: e.Stream, Version: e.Version,
		Causation: e.Causation.String(), Hops: e.Hops, At: e.At, Data: data,
	}
}

// Page is an order as the API shows it.
type Page struct {
	ID       string    `json:"id"`
	Status   string    `json:"status"`
	Customer string    `json:"customer"`
	Lines    []Line    `json:"lines"`
	Total    Money     `json:"total"`
	Refund   *string   `json:"refund"`
	Cause    *string   `json:"cause"`
	PlacedAt time.Time `json:"placed_at"`
	Updated  time.Time `json:"updated_at"`
	Version  int64     `json:"version"`

	ended bool
}

func pageOf(r row) (Page, error) {
	var s Status
	if err := json.Unmarshal(r.Doc, &s); err != nil {
		return Page{}, err
	}
	return s.page(r.Key, r.Version), nil
}

func (s *Status) page(id string, version int64) Page {
	p := Page{
		ID: id, Status: s.Status, Customer: s.Customer, Lines: s.Lines, Total: s.Total,
		PlacedAt: s.PlacedAt, Updated: s.Updated, Version: version, ended: s.Ended,
	}
	if s.Refund != "" {
		p.Refund = &s.Refund
	}
	if s.Cause != "" {
		p.Cause = &s.Cause
	}
	return p
}

// queries read the views.
type queries struct{ db *sqlx.DB }

type row struct {
	Key     string
	Version int64
	Doc     []byte
}

// order returns one order; false if there is none.
func (q queries) order(ctx context.Context, id string) (Page, bool, error) {
	var r row
	err := q.db.GetContext(ctx, &r, `SELECT key, version, doc FROM order_status WHERE key = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Page{}, false, nil
	}
	if err != nil {
		return Page{}, false, err
	}
	p, err := pageOf(r)
	return p, err == nil, err
}

// orders lists orders in the order they were placed, after the ID given.
func (q queries) orders(ctx context.Context, status, customer, after string, limit int) ([]Page, error) {
	where, args := []string{"key > $1"}, []any{after, limit}
	if status != "" {
		args = append(args, status)
		where = append(where, "status = $3")
	}
	if customer != "" {
		args = append(args, customer)
		where = append(where, fmt.Sprintf("customer = $%d", len(args)))
	}
	var rows []row
	err := q.db.SelectContext(ctx, &rows, `SELECT key, version, doc FROM order_status WHERE `+strings.Join(where, " AND ")+` ORDER BY key LIMIT $2`, args...)
	if err != nil {
		return nil, err
	}
	pages := make([]Page, 0, len(rows))
	for _, r := range rows {
		p, err := pageOf(r)
		if err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	return pages, nil
}

// events returns the history of an order, by causation: no event stands before what caused it.
func (q queries) events(ctx context.Context, id string) ([]Entry, error) {
	var docs [][]byte
	if err := q.db.SelectContext(ctx, &docs, `SELECT doc FROM order_history WHERE order_id = $1 ORDER BY (doc ->> 'hops')::int, doc ->> 'at', key LIMIT 1000`, id); err != nil {
		return nil, err
	}
	entries := make([]Entry, len(docs))
	for i, doc := range docs {
		if err := json.Unmarshal(doc, &entries[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// ended tells which of these orders have come to their end.
func (q queries) ended(ctx context.Context, ids []string) (ended []string, err error) {
	query, args, err := sqlx.In(`SELECT key FROM order_status WHERE ended AND key IN (?)`, ids)
	if err != nil {
		return nil, err
	}
	return ended, q.db.SelectContext(ctx, &ended, q.db.Rebind(query), args...)
}

// hasMenu tells whether the menu has come: in a new shop it is a moment on its way, and until then nothing can be ordered.
func (q queries) hasMenu(ctx context.Context) error {
	var has bool
	if err := q.db.GetContext(ctx, &has, `SELECT EXISTS (SELECT FROM menu_copy)`); err != nil {
		return err
	}
	if !has {
		return errors.New("the menu has not come yet")
	}
	return nil
}

// customer returns what is known of a customer.
func (q queries) customer(ctx context.Context, id string) (Customer, bool, error) {
	var doc []byte
	err := q.db.GetContext(ctx, &doc, `SELECT doc FROM customer_copy WHERE key = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Customer{}, false, nil
	}
	if err != nil {
		return Customer{}, false, err
	}
	var c Customer
	return c, true, json.Unmarshal(doc, &c)
}
