package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jmoiron/sqlx"
)

// variantsMax is how many variants of one statement are prepared; further ones are planned each time.
const variantsMax = 64

// statement is one SQL statement for everything that a batch reads or writes, put together from the parts that the batch
// needs: in a small batch the parts that it does not need would cost as much time as those that it does. What was used
// once is prepared. Safe for concurrent use.
type statement struct {
	parts []string // with ? for each parameter
	join  func(parts []string) string

	mu         sync.Mutex
	variants   map[uint64]*variant
	unprepared bool // one of them, at least
}

type variant struct {
	text     string
	prepared *sql.Stmt
}

// newStatement returns a statement whose first variant has all parts: to prepare it tells whether the tables are there.
func newStatement(parts []string, join func([]string) string) *statement {
	if len(parts) > 64 {
		panic(fmt.Sprintf("store: a statement of %d parts: too many tables", len(parts)))
	}
	s := &statement{parts: parts, join: join, variants: map[uint64]*variant{}}
	s.variant(1<<len(parts) - 1)
	return s
}

// variant returns the text of the statement with some of its parts, and the prepared statement if there is one.
func (s *statement) variant(used uint64) (string, *sql.Stmt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.variants[used]; v != nil {
		return v.text, v.prepared
	}
	var parts []string
	for i, part := range s.parts {
		if used&(1<<i) != 0 {
			parts = append(parts, part)
		}
	}
	text := sqlx.Rebind(sqlx.DOLLAR, s.join(parts))
	if len(s.variants) < variantsMax {
		s.variants[used], s.unprepared = &variant{text: text}, true
	}
	return text, nil
}

// prepare prepares the variants that are new. It must not be called within a transaction: it takes a connection.
func (s *statement) prepare(ctx context.Context, db *sqlx.DB) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.unprepared {
		return nil
	}
	for _, v := range s.variants {
		if v.prepared != nil {
			continue
		}
		prepared, err := db.PrepareContext(ctx, v.text)
		if err != nil {
			return err
		}
		v.prepared = prepared
	}
	s.unprepared = false
	return nil
}

// call is one use of a statement.
type call struct {
	*statement
	used uint64
	args [][]any // by part
}

func (s *statement) call() *call { return &call{statement: s, args: make([][]any, len(s.parts))} }

// with puts a part to use.
func (c *call) with(part int, args ...any) {
	c.used |= 1 << part
	c.args[part] = args
}

// query runs the statement.
func (c *call) query(ctx context.Context, tx *sqlx.Tx) (*sql.Rows, error) {
	text, prepared := c.variant(c.used)
	args := slices.Concat(c.args...)
	if prepared == nil {
		return tx.QueryContext(ctx, text, args...)
	}
	return tx.StmtContext(ctx, prepared).QueryContext(ctx, args...)
}

// The parts of the statement that reads. Documents and barriers are locked, in the order of their keys, so that two
// instances wait for each other instead of deciding on the same state; what a waiting statement could miss (an inbox row
// that came meanwhile) is caught by the unique keys at the write.
const (
	readClaims = iota
	readBarriers
	readDocs // of the first table; then of each of the others
)

func newRead(tables []string) *statement {
	parts := []string{
		`SELECT -2 AS kind, step AS key, 0::bigint AS version, digest AS blob, NULL::text AS doc, message_id AS a, saga AS b,
       NULL::text AS type, NULL::text AS stream, NULL::int AS schema, NULL::timestamptz AS at, NULL::bigint AS position
  FROM inbox WHERE (step, message_id) IN (SELECT * FROM unnest(?::text[], ?::uuid[]))`,
		`SELECT -1, b.step, coalesce(e.version, 0), b.state::bytea, e.data::text, e.event_id, b.saga, e.type, e.stream, e.schema, e.recorded_at, e.position
  FROM (SELECT saga, step, state, fact FROM barrier WHERE (saga, step) IN (SELECT * FROM unnest(?::uuid[], ?::text[])) ORDER BY saga, step FOR UPDATE) AS b
  LEFT JOIN event_log e ON e.event_id = b.fact`,
	}
	for i, table := range tables {
		parts = append(parts, fmt.Sprintf(`SELECT %d, key, version, NULL::bytea, doc::text, NULL::uuid, NULL::uuid, NULL, NULL, NULL::int, NULL::timestamptz, NULL::bigint
  FROM (SELECT key, version, doc FROM %s WHERE key = ANY(?::text[]) ORDER BY key FOR UPDATE) AS d`, i, table))
	}
	return newStatement(parts, func(parts []string) string { return strings.Join(parts, "\nUNION ALL\n") })
}

// The parts of the statement that writes. Those that begin with a count answer how many rows they wrote: fewer than were
// sent means that somebody else was first.
const (
	writeClaims = iota
	writeEvents
	writeTimers
	writeDisarmed
	writeRaised
	writeUndone
	writeDocs // new ones of the first table, then changed ones of it; then those of each of the others
)

func newWrite(tables []string) *statement {
	const counted = "counted_"
	parts := []string{
		`claims AS (INSERT INTO inbox (step, message_id, saga, digest) SELECT * FROM unnest(?::text[], ?::uuid[], ?::uuid[], ?::bytea[]))`,
		`log AS (INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
  SELECT * FROM unnest(?::uuid[], ?::text[], ?::bigint[], ?::text[], ?::int[], ?::jsonb[], ?::uuid[], ?::uuid[], ?::int[], ?::text[], ?::timestamptz[])
  RETURNING event_id),
posted AS (INSERT INTO outbox (message_id, due_at) SELECT event_id, now() + ?::interval FROM log)`,
		`timers AS (INSERT INTO outbox (message_id, due_at, timer) SELECT * FROM unnest(?::uuid[], ?::timestamptz[], ?::jsonb[])
  ON CONFLICT (message_id) DO NOTHING)`,
		`disarmed AS (DELETE FROM outbox WHERE message_id = ANY(?::uuid[]))`,
		counted + `raised AS (INSERT INTO barrier (saga, step, state, fact, undone_by)
  SELECT * FROM unnest(?::uuid[], ?::text[], ?::text[], ?::uuid[], ?::uuid[]) RETURNING 1)`,
		counted + `undone AS (UPDATE barrier SET state = 'undone', undone_by = u.by FROM unnest(?::uuid[], ?::text[], ?::uuid[]) AS u(saga, step, by)
  WHERE barrier.saga = u.saga AND barrier.step = u.step AND barrier.state = 'done' RETURNING 1)`,
	}
	for i, table := range tables {
		parts = append(parts,
			fmt.Sprintf(counted+`new_%d AS (INSERT INTO %s (key, version, doc) SELECT * FROM unnest(?::text[], ?::bigint[], ?::jsonb[]) RETURNING 1)`, i, table),
			fmt.Sprintf(counted+`changed_%d AS (UPDATE %s AS d SET version = n.version, doc = n.doc
  FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::jsonb[]) AS n(key, was, version, doc) WHERE d.key = n.key AND d.version = n.was RETURNING 1)`, i, table))
	}
	return newStatement(parts, func(parts []string) string {
		counts := "0"
		for _, part := range parts {
			if name, _, _ := strings.Cut(part, " "); strings.HasPrefix(name, counted) {
				counts += " + (SELECT count(*) FROM " + name + ")"
			}
		}
		return "WITH " + strings.Join(parts, ",\n") + "\nSELECT " + counts
	})
}

// prepared is a statement that is always the same. Safe for concurrent use.
type prepared struct {
	text string
	mu   sync.Mutex
	stmt *sql.Stmt
}

// on returns the statement on a pool, always the same pool.
func (p *prepared) on(ctx context.Context, db *sqlx.DB) (*sql.Stmt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stmt == nil {
		stmt, err := db.PrepareContext(ctx, p.text)
		if err != nil {
			return nil, err
		}
		p.stmt = stmt
	}
	return p.stmt, nil
}
