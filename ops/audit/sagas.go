package audit

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"github.com/google/uuid"

	"hotchoc/pkg/store"
)

// bySaga are the views whose documents belong to one saga each, with the column that says to which. They are folded saga
// by saga; all others in one go.
var bySaga = map[string]string{"order_status": "key", "order_history": "order_id"}

// sagas walks the five logs by saga, side by side, with the barriers: S3, S4, S6, S9, S10; and at rest with the views by
// saga, the gateway's ledger and the timers: S12, Q1, Q2, Q3, Q7.
func (a *audit) sagas(ctx context.Context, ledger gateway) error {
	w := sagaWalk{audit: a, ledger: ledger, accepted: map[string]bool{}, sold: map[string]int64{}}
	defer w.close()
	if err := w.open(ctx); err != nil {
		return err
	}
	for _, order := range a.cfg.Accepted {
		w.accepted[order] = true
	}
	for {
		next, ok := w.lowest()
		if !ok {
			break
		}
		if err := w.one(next); err != nil {
			return err
		}
	}
	for _, c := range w.logs {
		a.looked(c.n, "S3", "S6", "S9", "S10")
	}
	for _, c := range w.barriers {
		a.looked(c.n, "S4")
	}
	for _, v := range w.views {
		a.looked(v.rows.n, "S12")
	}
	if !a.atRest {
		return nil
	}
	for _, order := range sorted(w.accepted) {
		a.report("Q1", "order", id(order), "a client was told that the order %q is accepted, but it is not there", order)
	}
	for order, c := range ledger {
		if c.kept() != 0 {
			a.report("Q2", "pay", order, "the gateway keeps %d %s for an order that is not there", c.kept(), c.currency)
		}
	}
	for order, timers := range w.timers {
		a.report("Q7", timers[0].service, order, "a timer is armed for an order that is not there")
	}
	a.looked(w.orders, "Q1", "Q2", "Q3", "Q7")
	return w.stock(ctx)
}

// sagaWalk is the state of the walk.
type sagaWalk struct {
	*audit
	logs     []*cursor[logged]
	barriers []*cursor[barrier]
	views    []*sagaView
	ledger   gateway
	timers   map[uuid.UUID][]timer
	accepted map[string]bool  // and not met yet
	sold     map[string]int64 // or thrown away, by ingredient
	orders   int64
	unended  int64
}

// sagaView is a view by saga.
type sagaView struct {
	table string
	rows  *cursor[sagaDocument]
	fold  folder
	done  func() ([]store.Doc, error)
}

type sagaDocument struct {
	document
	saga uuid.UUID
}

func (w *sagaWalk) open(ctx context.Context) error {
	for _, d := range w.databases {
		log, err := d.events(ctx, `ORDER BY saga, position`)
		if err != nil {
			return err
		}
		w.logs = append(w.logs, log)
		barriers, err := walk(ctx, d, func(rows *sql.Rows, b *barrier) error {
			b.service = d.service
			return rows.Scan(&b.saga, &b.step, &b.state, &b.fact, &b.undoneBy)
		}, `SELECT saga, step, state, fact, undone_by FROM barrier ORDER BY saga, step`)
		if err != nil {
			return err
		}
		w.barriers = append(w.barriers, barriers)
	}
	if !w.atRest {
		return nil
	}
	w.timers = map[uuid.UUID][]timer{}
	for _, d := range w.databases {
		err := all(ctx, d, func(rows *sql.Rows, t *timer) error {
			t.service = d.service
			return rows.Scan(&t.id, &t.due, &t.saga)
		}, func(t timer) { w.timers[t.saga] = append(w.timers[t.saga], t) },
			`SELECT message_id, due_at, timer -> 'envelope' ->> 'saga' FROM outbox WHERE timer IS NOT NULL`)
		if err != nil {
			return err
		}
	}
	for _, v := range w.rules.graph.Views {
		column := bySaga[v.Table]
		if column == "" {
			continue
		}
		d := w.database(v.Service)
		fold, done, err := d.flow.Refold(v.Table)
		if err != nil {
			return err
		}
		rows, err := walk(ctx, d, func(rows *sql.Rows, d *sagaDocument) error {
			var of string
			err := rows.Scan(&d.key, &d.version, &d.body, &of)
			d.saga = id(of)
			return err
		}, fmt.Sprintf(`SELECT key, version, doc, coalesce(%[1]s, '') FROM %[2]s ORDER BY coalesce(%[1]s, '') COLLATE "C"`, column, v.Table))
		if err != nil {
			return err
		}
		w.views = append(w.views, &sagaView{v.Table, rows, fold, done})
	}
	return nil
}

func (w *sagaWalk) close() {
	for _, c := range w.logs {
		c.close()
	}
	for _, c := range w.barriers {
		c.close()
	}
	for _, v := range w.views {
		v.rows.close()
	}
}

// lowest is the next saga that any of the cursors has in hand.
func (w *sagaWalk) lowest() (lowest uuid.UUID, ok bool) {
	consider := func(has bool, saga uuid.UUID) {
		if has && (!ok || bytes.Compare(saga[:], lowest[:]) < 0) {
			lowest, ok = saga, true
		}
	}
	for _, c := range w.logs {
		consider(c.ok, c.head.Saga)
	}
	for _, c := range w.barriers {
		consider(c.ok, c.head.saga)
	}
	for _, v := range w.views {
		consider(v.rows.ok, v.rows.head.saga)
	}
	return lowest, ok
}

// one takes one saga from all cursors and checks it.
func (w *sagaWalk) one(of uuid.UUID) error {
	s := saga{id: of, timers: w.timers[of], charge: w.ledger[of], asked: w.ledger != nil}
	s.found = func(invariant, service, what string) { w.report(invariant, service, of, "%s", what) }
	for _, c := range w.logs {
		for c.ok && c.head.Saga == of {
			s.events = append(s.events, c.head)
			if err := c.next(); err != nil {
				return err
			}
		}
	}
	for _, c := range w.barriers {
		for c.ok && c.head.saga == of {
			s.barriers = append(s.barriers, c.head)
			if err := c.next(); err != nil {
				return err
			}
		}
	}
	s.anyTime(w.rules)
	if !w.atRest {
		return nil
	}
	s.atRest(w.rules)
	delete(w.timers, of)
	delete(w.ledger, of)
	if t := s.tally(w.rules); t.placed != nil {
		w.orders++
		delete(w.accepted, of.String())
		if t.end == "" {
			w.unended++
		}
		if t.discarded || t.end == "order.completed" {
			for name, amount := range t.consumed {
				w.sold[name] += amount
			}
		}
	}
	for _, v := range w.views {
		if err := v.compare(w, &s); err != nil {
			return err
		}
	}
	return nil
}

// compare holds the documents of a saga against the fold of its events.
func (v *sagaView) compare(w *sagaWalk, s *saga) error {
	service := v.rows.d.service
	for i := range s.events {
		e := &s.events[i]
		if e.fact == nil {
			continue // the walk by stream says why
		}
		if err := guarded(v.fold, e); err != nil {
			s.bad("S12", service, "%s cannot be folded into %s: %v", e.Type, v.table, err)
		}
	}
	folded, err := v.done()
	if err != nil {
		return err
	}
	due := make(map[string]store.Doc, len(folded))
	for _, doc := range folded {
		due[doc.Key.Key] = doc
	}
	for v.rows.ok && v.rows.head.saga == s.id {
		kept := v.rows.head.document
		w.hold("S12", service, v.table, s.id, kept, due)
		if err := v.rows.next(); err != nil {
			return err
		}
	}
	for _, key := range sorted(due) {
		s.bad("S12", service, "%s has no %s", v.table, key)
	}
	return nil
}

// hold compares a document with the one that is due, and takes that off the list.
func (a *audit) hold(invariant, service, table string, saga uuid.UUID, kept document, due map[string]store.Doc) {
	want, ok := due[kept.key]
	delete(due, kept.key)
	switch {
	case !ok:
		a.report(invariant, service, saga, "%s %s has no events", table, kept.key)
	case kept.version != want.Version:
		a.report(invariant, service, saga, "%s %s is at version %d, should be at %d", table, kept.key, kept.version, want.Version)
	default:
		if difference := compare(kept.body, want.Body); difference != "" {
			a.report(invariant, service, saga, "%s %s is not the fold of the events: %s", table, kept.key, difference)
		}
	}
}

// stock: of Q3, the sum over all orders. While one has not ended it says nothing.
func (w *sagaWalk) stock(ctx context.Context) error {
	if w.unended > 0 {
		return nil
	}
	var kept shelf
	select {
	case kept = <-w.stocks:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, name := range sorted(kept.kept) {
		switch k := kept.kept[name]; {
		case k.in-k.onHand != w.sold[name]:
			w.report("Q3", stockKeeper, uuid.Nil, "%s: %d came in and %d are on hand, but %d were sold or thrown away", name, k.in, k.onHand, w.sold[name])
		case k.reserved != 0:
			w.report("Q3", stockKeeper, uuid.Nil, "%s: %d are reserved", name, k.reserved)
		}
	}
	return nil
}
