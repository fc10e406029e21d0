package bench

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lib/pq"
	"golang.org/x/sync/errgroup"

	"hotchoc/ops/stack"
)

const (
	models        = 100 // orders that are copied
	eventsPerSaga = 8   // of an order that goes well
)

// grow makes the logs longer by about so many events: orders that have ended well are copied within the databases, and in
// the gateway's ledger, while the shop is closed. It returns how many events came. What the auditor looks for holds for the
// copies as for the others.
func (r *rig) grow(ctx context.Context, events int) (added int, err error) {
	sagas, err := r.ended(ctx, min(models, max(1, events/eventsPerSaga)))
	if err != nil {
		return 0, err
	}
	copies := max(1, events/(len(sagas)*eventsPerSaga))
	if err := r.closeShop(ctx); err != nil {
		return 0, err
	}
	var stock int // the version that the stock has
	if err := withDatabase(r.stack, "make", func(db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT max(version) FROM event_log WHERE stream = 'stock/main'`).Scan(&stock)
	}); err != nil {
		return 0, err
	}
	counts := make([]int, len(stack.Services()))
	g, growing := errgroup.WithContext(ctx)
	for i, service := range stack.Services() {
		g.Go(func() error {
			return withDatabase(r.stack, service, func(db *sql.DB) error {
				c := &copier{ctx: growing, db: db, sagas: pq.Array(sagas), copies: copies, stock: stock}
				c.all(service)
				counts[i] = c.events
				return c.err
			})
		})
	}
	g.Go(func() error {
		return r.growLedger(growing, sagas, copies)
	})
	if err := g.Wait(); err != nil {
		return 0, err
	}
	for _, n := range counts {
		added += n
	}
	return added, r.openShop(ctx)
}

// ended are orders that have ended well.
func (r *rig) ended(ctx context.Context, n int) (ids []string, err error) {
	err = withDatabase(r.stack, "order", func(db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT array_agg(key) FROM (SELECT key FROM order_status WHERE status = 'completed' ORDER BY key LIMIT $1) AS few`, n).Scan(pq.Array(&ids))
	})
	if err == nil && len(ids) == 0 {
		err = errors.New("no order has ended that could be copied")
	}
	return ids, err
}

// again is the ID of the k-th copy of something: as many seconds older, so that IDs are spread over time as real ones are,
// and else a hash.
const again = `CREATE FUNCTION again(k int, id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
SELECT (lpad(to_hex((('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint - k * 1000::bigint) & 281474976710655), 12, '0') || '7' || substr(md5(k || id::text), 14))::uuid $$`

// againData is the k-th copy of a document of an order. Its customer is one of its own.
const againData = `CREATE FUNCTION again(k int, saga uuid, data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN d ? 'customer' THEN jsonb_set(d, '{customer}', to_jsonb((d ->> 'customer') || '-' || k)) ELSE d END
  FROM (SELECT replace(data::text, saga::text, again(k, saga)::text)::jsonb AS d) AS d $$`

// temporary names the schema of the functions, which are those of the connection and go with it.
func temporary(statement string) string {
	return strings.ReplaceAll(statement, "again(", "pg_temp.again(")
}

// copier copies the orders within one database, on one connection, for its functions are temporary.
type copier struct {
	ctx    context.Context
	db     *sql.DB
	sagas  any
	copies int
	stock  int
	events int
	err    error // the first; nothing is done after it
}

func (c *copier) exec(statement string, args ...any) (rows int) {
	if c.err != nil {
		return 0
	}
	done, err := c.db.ExecContext(c.ctx, temporary(statement), args...)
	if c.err = err; err != nil {
		return 0
	}
	n, _ := done.RowsAffected()
	return int(n)
}

func (c *copier) all(service string) {
	c.db.SetMaxOpenConns(1)
	c.exec(again)
	c.exec(againData)
	// The stock is a stream that all orders share: their copies continue it.
	c.events = c.exec(`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
SELECT again(k, event_id), replace(stream, saga::text, again(k, saga)::text),
       CASE WHEN stream = 'stock/main' THEN $3 + row_number() OVER (PARTITION BY stream ORDER BY k, version) ELSE version END,
       type, schema, again(k, saga, data), again(k, saga), again(k, causation), hops, actor, recorded_at
  FROM event_log, generate_series(1, $2) AS k WHERE saga = ANY($1) ORDER BY k, position`, c.sagas, c.copies, c.stock)
	c.exec(`INSERT INTO inbox (step, message_id, saga, digest, handled_at) SELECT step, again(k, message_id), again(k, saga), digest, handled_at
  FROM inbox, generate_series(1, $2) AS k WHERE saga = ANY($1)`, c.sagas, c.copies)
	c.exec(`INSERT INTO barrier (saga, step, state, fact, undone_by) SELECT again(k, saga), step, state, again(k, fact), again(k, undone_by)
  FROM barrier, generate_series(1, $2) AS k WHERE saga = ANY($1)`, c.sagas, c.copies)
	c.exec(`INSERT INTO stream_state (key, version, doc) SELECT split_part(key, '/', 1) || '/' || again(k, split_part(key, '/', 2)::uuid), version, again(k, split_part(key, '/', 2)::uuid, doc)
  FROM stream_state, generate_series(1, $2) AS k WHERE split_part(key, '/', 2) = ANY($1)`, c.sagas, c.copies)
	switch service {
	case "make":
		c.consume()
	case "order":
		c.views()
	}
	c.exec(`ANALYZE`)
}

// consume takes what the copies used from the state of the stock.
func (c *copier) consume() {
	c.exec(`UPDATE stream_state SET version = (SELECT max(version) FROM event_log WHERE stream = 'stock/main'),
  doc = jsonb_set(doc, '{ingredients}', (doc -> 'ingredients') || (SELECT jsonb_object_agg(name, kept
      || jsonb_build_object('on_hand', (kept ->> 'on_hand')::bigint - used, 'consumed', (kept ->> 'consumed')::bigint + used))
    FROM (SELECT i ->> 'name' AS name, sum((i ->> 'amount')::bigint)::bigint * $2 AS used
            FROM event_log, jsonb_array_elements(data -> 'ingredients') AS i
           WHERE type = 'stock.consumed' AND saga = ANY($1) GROUP BY 1) AS uses,
         LATERAL (SELECT doc -> 'ingredients' -> name AS kept) AS k))
  WHERE key = 'stock/main'`, c.sagas, c.copies)
}

// views are those of the order service.
func (c *copier) views() {
	c.exec(`INSERT INTO order_status (key, version, doc) SELECT again(k, key::uuid), version, again(k, key::uuid, doc)
  FROM order_status, generate_series(1, $2) AS k WHERE key = ANY($1)`, c.sagas, c.copies)
	c.exec(`INSERT INTO order_history (key, version, doc)
SELECT again(k, key::uuid), version, again(k, order_id::uuid, doc)
       || jsonb_build_object('id', again(k, key::uuid), 'causation', again(k, (doc ->> 'causation')::uuid), 'data', again(k, order_id::uuid, doc -> 'data'))
       || CASE WHEN doc ->> 'stream' = 'stock/main'
            THEN jsonb_build_object('version', $3 + row_number() OVER (PARTITION BY doc ->> 'stream' ORDER BY k, (doc ->> 'version')::bigint)) ELSE '{}' END
  FROM order_history, generate_series(1, $2) AS k WHERE order_id = ANY($1)`, c.sagas, c.copies, c.stock)
}

// growLedger copies what the gateway did for the orders. IDs are made where the function is.
func (r *rig) growLedger(ctx context.Context, sagas []string, copies int) (err error) {
	path := filepath.Join(r.dir, "partners", "gateway.jsonl")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := map[string][]string{} // by order
	for line := range strings.Lines(string(text)) {
		_, after, _ := strings.Cut(line, `"order":"`)
		order, _, _ := strings.Cut(after, `"`)
		lines[order] = append(lines[order], line)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := bufio.NewWriter(file)
	err = withDatabase(r.stack, "postgres", func(db *sql.DB) error {
		db.SetMaxOpenConns(1)
		if _, err := db.ExecContext(ctx, temporary(again)); err != nil {
			return err
		}
		rows, err := db.QueryContext(ctx, temporary(`SELECT id, again(k, id::uuid) FROM unnest($1::text[]) AS id, generate_series(1, $2) AS k`), pq.Array(sagas), copies)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var saga, copied string
			if err := rows.Scan(&saga, &copied); err != nil {
				return err
			}
			for _, line := range lines[saga] {
				fmt.Fprint(out, strings.ReplaceAll(line, saga, copied))
			}
		}
		return rows.Err()
	})
	return errors.Join(err, out.Flush())
}
