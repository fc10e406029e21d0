package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// claims: of S6, that every event has the claim of a step that emits such events upon its cause; and that no request made
// two orders.
func (a *audit) claims(ctx context.Context, d *database) error {
	var types, steps pq.StringArray
	for _, typ := range sorted(a.rules.emitters) {
		if owner, _ := flow.Owner(typ); owner == d.service {
			for _, step := range a.rules.emitters[typ] {
				types, steps = append(types, typ), append(steps, step)
			}
		}
	}
	type unclaimed struct {
		typ             string
		id, saga, cause uuid.UUID
	}
	if err := all(ctx, d, func(rows *sql.Rows, u *unclaimed) error { return rows.Scan(&u.typ, &u.id, &u.saga, &u.cause) },
		func(u unclaimed) {
			a.report("S6", d.service, u.saga, "%s %s was emitted upon the message %s, which no step has claimed for it", u.typ, u.id, u.cause)
		},
		`WITH emits AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[]) AS e(type, step)),
claims AS (SELECT i.message_id, i.saga, e.type FROM inbox i JOIN emits e USING (step))
SELECT l.type, l.event_id, l.saga, l.causation FROM event_log l
 WHERE l.type = ANY($1) AND NOT EXISTS (SELECT FROM claims c WHERE c.message_id = l.causation AND c.saga = l.saga AND c.type = l.type)`,
		types, steps); err != nil {
		return err
	}
	type twin struct {
		saga, cause uuid.UUID
		n           int
	}
	return all(ctx, d, func(rows *sql.Rows, t *twin) error { return rows.Scan(&t.cause, &t.saga, &t.n) },
		func(t twin) { a.report("S6", d.service, t.saga, "one request (%s) made %d orders", t.cause, t.n) },
		`SELECT causation, max(saga::text), count(*) FROM event_log WHERE type = $1 GROUP BY causation HAVING count(*) > 1`, placed)
}

// outbox: of S5, that what is to be published is in the log.
func (a *audit) outbox(ctx context.Context, d *database) error {
	var rows int64
	if err := d.held.QueryRowContext(ctx, `SELECT count(*) FROM outbox`).Scan(&rows); err != nil {
		return d.wrap(err)
	}
	a.looked(rows, "S5")
	return all(ctx, d, func(rows *sql.Rows, id *uuid.UUID) error { return rows.Scan(id) },
		func(id uuid.UUID) {
			a.report("S5", d.service, uuid.Nil, "the outbox has the event %s, which is not in the log", id)
		},
		`SELECT o.message_id FROM outbox o LEFT JOIN event_log l ON l.event_id = o.message_id WHERE o.timer IS NULL AND l.event_id IS NULL`)
}

// compared are the copies that copies compares with their owners field by field.
var compared = []string{"menu_copy", "recipe_copy", "customer_copy"}

// views: of S12, the views that are not by saga. Those of a service's own events are looked at any time, the others at
// rest. A view of nothing but others' events is a copy: Q6.
func (a *audit) views(ctx context.Context, d *database) error {
	for _, v := range a.rules.graph.Views {
		if v.Service != d.service || bySaga[v.Table] != "" || slices.Contains(compared, v.Table) || !mine(v) && !a.atRest {
			continue
		}
		invariant := "S12"
		if foreign(v) {
			invariant = "Q6"
		}
		fold, done, err := d.flow.Refold(v.Table)
		if err != nil {
			return err
		}
		for _, owner := range a.databases {
			var types pq.StringArray
			for _, typ := range v.Hears {
				if of, _ := flow.Owner(typ); of == owner.service {
					types = append(types, typ)
				}
			}
			if types == nil {
				continue
			}
			log, err := owner.events(ctx, `WHERE type = ANY($1) ORDER BY position`, types)
			if err != nil {
				return err
			}
			for log.ok && err == nil {
				if e := &log.head; e.fact != nil {
					if trouble := guarded(fold, e); trouble != nil {
						a.report(invariant, d.service, e.Saga, "%s cannot be folded into %s: %v", e.Type, v.Table, trouble)
					}
				}
				err = log.next()
			}
			log.close()
			if err != nil {
				return err
			}
		}
		folded, err := done()
		if err != nil {
			return err
		}
		due := make(map[string]store.Doc, len(folded))
		for _, doc := range folded {
			due[doc.Key.Key] = doc
		}
		if err := all(ctx, d, scanDocument, func(kept document) {
			a.looked(1, invariant)
			a.hold(invariant, d.service, v.Table, uuid.Nil, kept, due)
		}, `SELECT key, version, doc FROM `+v.Table); err != nil {
			return err
		}
		for _, key := range sorted(due) {
			a.report(invariant, d.service, uuid.Nil, "%s has no %s", v.Table, key)
		}
	}
	return nil
}

// owned is what the menu says of an item.
type owned struct {
	version  int64
	Name     string
	Price    int64
	Currency string
	Recipe   []struct {
		Ingredient string
		Amount     int64
	}
	Offered  bool
	Depleted []string
	Retired  bool
}

// copies: Q6, what others keep of the menu's items and of pay's flags, against what the owners say. The fields are written
// down here: an audit of copies by the code that copies would find nothing.
func (a *audit) copies(ctx context.Context) error {
	items := map[string]owned{}
	var broken error
	err := all(ctx, a.database("menu"), scanDocument, func(d document) {
		item := owned{version: d.version}
		if err := json.Unmarshal(d.body, &item); err != nil {
			broken = fmt.Errorf("menu: the state of %s: %w", d.key, err)
		}
		items[d.key] = item
	}, `SELECT substr(key, 6), version, doc FROM stream_state WHERE key LIKE 'item/%'`)
	if err = errors.Join(err, broken); err != nil {
		return err
	}
	err = a.copy(ctx, "order", "menu_copy", items, func(kept []byte, item owned) string {
		var copied struct {
			Known, Available, Retired bool
			Name, Currency            string
			Price                     int64
		}
		if err := json.Unmarshal(kept, &copied); err != nil {
			return err.Error()
		}
		available := item.Offered && len(item.Depleted) == 0 && !item.Retired
		switch {
		case !copied.Known:
			return "it is not known"
		case copied.Name != item.Name:
			return fmt.Sprintf("its name is %q, the menu says %q", copied.Name, item.Name)
		case copied.Price != item.Price || copied.Currency != item.Currency:
			return fmt.Sprintf("its price is %d %s, the menu says %d %s", copied.Price, copied.Currency, item.Price, item.Currency)
		case copied.Retired != item.Retired:
			return fmt.Sprintf("retired is %v, the menu says %v", copied.Retired, item.Retired)
		case copied.Available != available:
			return fmt.Sprintf("available is %v, the menu says %v", copied.Available, available)
		}
		return ""
	})
	if err != nil {
		return err
	}
	err = a.copy(ctx, "make", "recipe_copy", items, func(kept []byte, item owned) string {
		var copied struct {
			Ingredients []struct {
				Name   string
				Amount int64
			}
			Retired bool
		}
		if err := json.Unmarshal(kept, &copied); err != nil {
			return err.Error()
		}
		same := len(copied.Ingredients) == len(item.Recipe)
		for i := range item.Recipe {
			same = same && copied.Ingredients[i].Name == item.Recipe[i].Ingredient && copied.Ingredients[i].Amount == item.Recipe[i].Amount
		}
		switch {
		case !same:
			return fmt.Sprintf("its recipe is %v, the menu says %v", copied.Ingredients, item.Recipe)
		case copied.Retired != item.Retired:
			return fmt.Sprintf("retired is %v, the menu says %v", copied.Retired, item.Retired)
		}
		return ""
	})
	if err != nil {
		return err
	}
	return a.flags(ctx)
}

// copy compares a copy of the items with the items.
func (a *audit) copy(ctx context.Context, service, table string, items map[string]owned, differs func([]byte, owned) string) error {
	met := map[string]bool{}
	err := all(ctx, a.database(service), scanDocument, func(kept document) {
		a.looked(1, "Q6")
		item, known := items[kept.key]
		met[kept.key] = true
		switch {
		case !known:
			a.report("Q6", service, uuid.Nil, "%s %s: the menu has no such item", table, kept.key)
		case kept.version != item.version:
			a.report("Q6", service, uuid.Nil, "%s %s is at version %d, the menu at %d", table, kept.key, kept.version, item.version)
		default:
			if difference := differs(kept.body, item); difference != "" {
				a.report("Q6", service, uuid.Nil, "%s %s: %s", table, kept.key, difference)
			}
		}
	}, `SELECT key, version, doc FROM `+table)
	for _, key := range sorted(items) {
		if err == nil && !met[key] {
			a.report("Q6", service, uuid.Nil, "%s has no %s, the menu has", table, key)
		}
	}
	return err
}

// flags compares what order knows of flagged customers with the newest flag of each. Two flags may be of one moment.
func (a *audit) flags(ctx context.Context) error {
	kept, err := a.database("order").documents(ctx, "customer_copy")
	if err != nil {
		return err
	}
	defer kept.close()
	flags, err := a.database("pay").events(ctx, `WHERE type = 'customer.flagged' ORDER BY stream COLLATE "C", recorded_at DESC`)
	if err != nil {
		return err
	}
	defer flags.close()
	for flags.ok || kept.ok {
		customer := ""
		if flags.ok {
			customer = flags.head.Stream[len("customer/"):]
		}
		if kept.ok && (!flags.ok || kept.head.key < customer) {
			a.report("Q6", "order", uuid.Nil, "customer_copy %s: pay has not flagged that customer", kept.head.key)
			if err := kept.next(); err != nil {
				return err
			}
			continue
		}
		newest, count, refusals := flags.head, int64(0), []int32{}
		for flags.ok && flags.head.Stream == newest.Stream {
			if f, ok := flags.head.fact.(*payv1.CustomerFlagged); ok && flags.head.At.Equal(newest.At) {
				refusals = append(refusals, f.Refusals)
			}
			count++
			if err := flags.next(); err != nil {
				return err
			}
		}
		if !kept.ok || kept.head.key != customer {
			a.report("Q6", "order", newest.Saga, "customer_copy has no %s, whom pay has flagged", customer)
			continue
		}
		a.looked(1, "Q6")
		var copied struct {
			Refusals  int32
			FlaggedAt time.Time `json:"flagged_at"`
		}
		if err := json.Unmarshal(kept.head.body, &copied); err != nil {
			return fmt.Errorf("customer_copy %s: %w", customer, err)
		}
		if !copied.FlaggedAt.Equal(newest.At) || !slices.Contains(refusals, copied.Refusals) || kept.head.version != count {
			a.report("Q6", "order", newest.Saga, "customer_copy %s: flagged at %s for %d refusals, the %d. flag; pay says at %s for %v, the %d.", customer,
				copied.FlaggedAt.Format(time.RFC3339Nano), copied.Refusals, kept.head.version, newest.At.Format(time.RFC3339Nano), refusals, count)
		}
		if err := kept.next(); err != nil {
			return err
		}
	}
	return nil
}
