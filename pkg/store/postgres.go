package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"hotchoc/pkg/event"
)

// Defaults of PostgresConfig.
const (
	DefaultGrace   = 5 * time.Second
	DefaultTimeout = 10 * time.Second

	pingTimeout = 2 * time.Second
)

// PostgresConfig is how a Postgres store works. The zero value is usable but for Service and Tables.
type PostgresConfig struct {
	// Service is whose store it is: the source of every event in its log.
	Service string
	// Tables are the tables of documents beside stream_state: the copies and views of the flow. Each has the columns
	// key (text, primary), version (bigint) and doc (jsonb).
	Tables []string
	// Grace is how long a new message is left to the relay that wrote it, before any sweeper takes it. Default 5 s.
	Grace time.Duration
	// Timeout bounds each transaction, and each statement outside of one. Default 10 s.
	Timeout time.Duration
}

// Postgres is the store on a service's own database. Safe for concurrent use, by several processes as well.
//
// A transaction costs four round trips whatever it carries: begin, one read, one write, commit. lib/pq can run a
// statement outside a transaction twice after a lost connection, so nothing that matters is written outside of one.
type Postgres struct {
	db     *sqlx.DB
	cfg    PostgresConfig
	tables []string
	lazy   *sqlx.DB

	mu          sync.Mutex
	read, write *sql.Stmt
}

// NewPostgres returns a store on db; the database need not be there yet. lazy is a pool on the same database whose
// commits need not be durable (synchronous_commit=off): the removal of published messages goes there, for the worst that
// its loss can cause is a message that is published again.
func NewPostgres(db, lazy *sqlx.DB, cfg PostgresConfig) *Postgres {
	if cfg.Service == "" {
		panic("store: a Postgres store needs the name of its service")
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Postgres{db: db, lazy: lazy, cfg: cfg, tables: append([]string{States}, cfg.Tables...)}
}

// prepare makes the two statements, once the database is there.
func (p *Postgres) prepare(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.write != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	read, err := p.db.PrepareContext(ctx, readSQL(p.tables))
	if err != nil {
		return fmt.Errorf("prepare the read of %s: %w", strings.Join(p.tables, ", "), Trouble(err))
	}
	write, err := p.db.PrepareContext(ctx, writeSQL(p.tables))
	if err != nil {
		return fmt.Errorf("prepare the write of %s: %w", strings.Join(p.tables, ", "), Trouble(err))
	}
	p.read, p.write = read, write
	return nil
}

// readSQL is one statement for everything a batch reads. Documents and barriers are locked, in the order of their keys,
// so that two instances wait for each other instead of deciding on the same state; what a waiting statement could miss
// (an inbox row that came meanwhile) is caught by the unique keys at the write.
func readSQL(tables []string) string {
	var b strings.Builder
	b.WriteString(`WITH barriers AS (SELECT saga, step, state, fact FROM barrier
  WHERE (saga, step) IN (SELECT * FROM unnest($3::uuid[], $4::text[])) ORDER BY saga, step FOR UPDATE)`)
	for i, table := range tables {
		fmt.Fprintf(&b, ",\ndocs_%d AS (SELECT key, version, doc FROM %s WHERE key = ANY($%d::text[]) ORDER BY key FOR UPDATE)", i, table, 5+i)
	}
	b.WriteString(`
SELECT -2 AS kind, step AS key, 0::bigint AS version, digest AS blob, NULL::text AS doc, message_id AS a, saga AS b,
       NULL::text AS type, NULL::text AS stream, NULL::int AS schema, NULL::timestamptz AS at, NULL::bigint AS position
  FROM inbox WHERE (step, message_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
UNION ALL
SELECT -1, b.step, coalesce(e.version, 0), b.state::bytea, e.data::text, e.event_id, b.saga, e.type, e.stream, e.schema, e.recorded_at, e.position
  FROM barriers b LEFT JOIN event_log e ON e.event_id = b.fact`)
	for i := range tables {
		fmt.Fprintf(&b, "\nUNION ALL SELECT %d, key, version, NULL, doc::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM docs_%d", i, i)
	}
	return b.String()
}

// writeSQL is one statement for everything a batch writes. It answers with the number of documents and barriers that
// were written: fewer than were sent means that somebody else was first.
func writeSQL(tables []string) string {
	var b strings.Builder
	b.WriteString(`WITH claims AS (INSERT INTO inbox (step, message_id, saga, digest)
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::bytea[])),
log AS (INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
  SELECT * FROM unnest($5::uuid[], $6::text[], $7::bigint[], $8::text[], $9::int[], $10::jsonb[], $11::uuid[], $12::uuid[], $13::int[], $14::text[], $15::timestamptz[])),
posted AS (INSERT INTO outbox (message_id, due_at) SELECT id, now() + $16::interval FROM unnest($5::uuid[]) AS id),
timers AS (INSERT INTO outbox (message_id, due_at, timer) SELECT * FROM unnest($17::uuid[], $18::timestamptz[], $19::jsonb[])
  ON CONFLICT (message_id) DO NOTHING),
disarmed AS (DELETE FROM outbox WHERE message_id = ANY($20::uuid[])),
raised AS (INSERT INTO barrier (saga, step, state, fact, undone_by)
  SELECT saga, step, state, nullif(fact, $28::uuid), nullif(by, $28::uuid)
    FROM unnest($21::uuid[], $22::text[], $23::text[], $24::uuid[], $25::uuid[]) AS r(saga, step, state, fact, by) RETURNING 1),
undone AS (UPDATE barrier SET state = 'undone', undone_by = u.by FROM unnest($26::uuid[], $27::text[], $29::uuid[]) AS u(saga, step, by)
  WHERE barrier.saga = u.saga AND barrier.step = u.step AND barrier.state = 'done' RETURNING 1)`)
	counts := "(SELECT count(*) FROM raised) + (SELECT count(*) FROM undone)"
	for i, table := range tables {
		n := 30 + 4*i
		fmt.Fprintf(&b, `,
docs_%[1]d AS (INSERT INTO %[2]s AS d (key, version, doc)
  SELECT key, version, doc FROM unnest($%[3]d::text[], $%[4]d::bigint[], $%[5]d::bigint[], $%[6]d::jsonb[]) AS n(key, was, version, doc) WHERE was = 0
  RETURNING 1),
more_%[1]d AS (UPDATE %[2]s AS d SET version = n.version, doc = n.doc
  FROM unnest($%[3]d::text[], $%[4]d::bigint[], $%[5]d::bigint[], $%[6]d::jsonb[]) AS n(key, was, version, doc)
  WHERE n.was > 0 AND d.key = n.key AND d.version = n.was RETURNING 1)`, i, table, n, n+1, n+2, n+3)
		counts += fmt.Sprintf(" + (SELECT count(*) FROM docs_%[1]d) + (SELECT count(*) FROM more_%[1]d)", i)
	}
	return b.String() + "\nSELECT " + counts
}

// Begin implements Store.
func (p *Postgres) Begin(ctx context.Context) (Tx, error) {
	// The transaction must not end with the caller's context: lib/pq kills the connection of a cancelled one, and a
	// commit cut off in the middle has an unknown outcome. It has a time of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	if err := p.prepare(ctx); err != nil {
		cancel()
		return nil, err
	}
	tx, err := p.db.BeginTxx(ctx, nil)
	if err != nil {
		cancel()
		return nil, Trouble(err)
	}
	return &postgresTx{p: p, tx: tx, ctx: ctx, cancel: cancel}, nil
}

type postgresTx struct {
	p      *Postgres
	tx     *sqlx.Tx
	ctx    context.Context // of the whole transaction
	cancel context.CancelFunc
}

func (t *postgresTx) Read(_ context.Context, req Request) (Snapshot, error) {
	steps, messages := columns(req.Claims, func(k ClaimKey) (string, string) { return k.Step, k.Message.String() })
	sagas, barrierSteps := columns(req.Barriers, func(k BarrierKey) (string, string) { return k.Saga.String(), k.Step })
	args := []any{steps, messages, sagas, barrierSteps}
	for _, table := range t.p.tables {
		var keys pq.StringArray
		for _, k := range req.Docs {
			if k.Table == table {
				keys = append(keys, k.Key)
			}
		}
		args = append(args, keys)
	}
	rows, err := t.tx.StmtContext(t.ctx, t.p.read).QueryContext(t.ctx, args...)
	if err != nil {
		return Snapshot{}, Trouble(err)
	}
	defer rows.Close()
	var s Snapshot
	for rows.Next() {
		var (
			kind, schema      int
			key, typ, stream  sql.NullString
			version           int64
			blob, doc         []byte
			a, b              uuid.NullUUID
			nullSchema, place sql.NullInt64
			at                sql.NullTime
		)
		if err := rows.Scan(&kind, &key, &version, &blob, &doc, &a, &b, &typ, &stream, &nullSchema, &at, &place); err != nil {
			return Snapshot{}, Trouble(err)
		}
		schema = int(nullSchema.Int64)
		switch kind {
		case -2:
			s.Claims = append(s.Claims, Claim{Step: key.String, Message: a.UUID, Saga: b.UUID, Digest: blob})
		case -1:
			barrier := Barrier{BarrierKey: BarrierKey{b.UUID, key.String}, State: string(blob), Known: true}
			if a.Valid {
				barrier.Fact = &event.Record{Body: doc, Envelope: event.Envelope{
					ID: a.UUID, Type: typ.String, Schema: schema, Source: t.p.cfg.Service, Stream: stream.String, Version: version, Saga: b.UUID, At: at.Time,
				}}
				barrier.Position = place.Int64
			}
			s.Barriers = append(s.Barriers, barrier)
		default:
			s.Docs = append(s.Docs, Doc{Key: Key{t.p.tables[kind], key.String}, Version: version, Was: version, Body: doc})
		}
	}
	return s, Trouble(rows.Err())
}

func (t *postgresTx) Write(_ context.Context, c Changes) error {
	n := len(c.Events)
	var (
		claimSteps, claimMessages, claimSagas                      = make(pq.StringArray, 0, len(c.Claims)), make(pq.StringArray, 0, len(c.Claims)), make(pq.StringArray, 0, len(c.Claims))
		digests                                                    = make(pq.ByteaArray, 0, len(c.Claims))
		ids, streams, types, data, sagas, causes, actors, recorded = make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n)
		versions, schemas, hops                                    = make(pq.Int64Array, n), make(pq.Int64Array, n), make(pq.Int64Array, n)
		timerIDs, timerDue, timers, disarmed                       pq.StringArray
		raisedSagas, raisedSteps, raisedStates, facts, raisedBy    pq.StringArray
		undoneSagas, undoneSteps, undoneBy                         pq.StringArray
	)
	for _, claim := range c.Claims {
		claimSteps = append(claimSteps, claim.Step)
		claimMessages = append(claimMessages, claim.Message.String())
		claimSagas = append(claimSagas, claim.Saga.String())
		digests = append(digests, claim.Digest)
	}
	for i, e := range c.Events {
		ids[i], streams[i], types[i], data[i] = e.ID.String(), e.Stream, e.Type, string(e.Body)
		sagas[i], causes[i], actors[i], recorded[i] = e.Saga.String(), e.Causation.String(), e.Actor, stamp(e.At)
		versions[i], schemas[i], hops[i] = e.Version, int64(e.Schema), int64(e.Hops)
	}
	for _, timer := range c.Timers {
		if slices.Contains(c.Disarmed, timer.ID) {
			continue // the statement that disarms does not see what the same statement arms
		}
		kept, err := json.Marshal(keptTimer{timer.Envelope, timer.Body})
		if err != nil {
			return fmt.Errorf("encode timer %s: %w", timer.Type, err)
		}
		timerIDs = append(timerIDs, timer.ID.String())
		timerDue = append(timerDue, stamp(timer.DueAt))
		timers = append(timers, string(kept))
	}
	for _, id := range c.Disarmed {
		disarmed = append(disarmed, id.String())
	}
	for _, b := range c.Barriers {
		if b.Known {
			undoneSagas = append(undoneSagas, b.Saga.String())
			undoneSteps = append(undoneSteps, b.Step)
			undoneBy = append(undoneBy, b.UndoneBy.String())
			continue
		}
		raisedSagas = append(raisedSagas, b.Saga.String())
		raisedSteps = append(raisedSteps, b.Step)
		raisedStates = append(raisedStates, b.State)
		fact := uuid.Nil
		if b.Fact != nil {
			fact = b.Fact.ID
		}
		facts = append(facts, fact.String())
		raisedBy = append(raisedBy, b.UndoneBy.String())
	}
	args := []any{
		claimSteps, claimMessages, claimSagas, digests,
		ids, streams, versions, types, schemas, data, sagas, causes, hops, actors, recorded,
		fmt.Sprintf("%d microseconds", t.p.cfg.Grace.Microseconds()),
		timerIDs, timerDue, timers, disarmed,
		raisedSagas, raisedSteps, raisedStates, facts, raisedBy,
		undoneSagas, undoneSteps, uuid.Nil.String(), undoneBy,
	}
	for _, table := range t.p.tables {
		var (
			keys, docs pq.StringArray
			was, now   pq.Int64Array
		)
		for _, d := range c.Docs {
			if d.Table == table {
				keys, was, now, docs = append(keys, d.Key.Key), append(was, d.Was), append(now, d.Version), append(docs, string(d.Body))
			}
		}
		args = append(args, keys, was, now, docs)
	}
	var written int
	if err := t.tx.StmtContext(t.ctx, t.p.write).QueryRowContext(t.ctx, args...).Scan(&written); err != nil {
		return Trouble(err)
	}
	if sent := len(c.Docs) + len(c.Barriers); written != sent {
		return fmt.Errorf("%w: %d of %d documents and barriers written", ErrConflict, written, sent)
	}
	return nil
}

func (t *postgresTx) Commit() error {
	// The driver does not let go of a commit that gets no answer, from a frozen server say.
	done := make(chan error, 1)
	go func() { done <- t.tx.Commit() }()
	var err error
	select {
	case err = <-done:
	case <-t.ctx.Done():
		err = t.ctx.Err()
	}
	if err != nil {
		if err = Trouble(err); errors.Is(err, ErrConflict) {
			return err
		}
		return fmt.Errorf("%w: outcome of the commit unknown: %v", ErrUnavailable, err)
	}
	return nil
}

func (t *postgresTx) Rollback() {
	_ = t.tx.Rollback()
	t.cancel()
}

// keptTimer is how the outbox keeps a timer, which is in no log.
type keptTimer struct {
	Envelope event.Envelope  `json:"envelope"`
	Body     json.RawMessage `json:"body"`
}

// Sweep implements Outbox. The data of events come from the log; only timers carry their own. A message that is locked
// by another sweeper is skipped, never waited for, and there is no cursor that a late commit could slip behind.
func (p *Postgres) Sweep(ctx context.Context, limit int, lease time.Duration) ([]event.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	tx, err := p.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, Trouble(err)
	}
	defer func() { _ = tx.Rollback() }()
	rows, err := tx.QueryContext(ctx, `WITH due AS (SELECT message_id FROM outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED),
leased AS (UPDATE outbox o SET due_at = now() + $2::interval FROM due WHERE o.message_id = due.message_id RETURNING o.message_id, o.timer)
SELECT l.timer::text, l.message_id, e.type, e.schema, e.stream, e.version, e.saga, e.causation, e.hops, e.actor, e.recorded_at, e.data::text
  FROM leased l LEFT JOIN event_log e ON e.event_id = l.message_id ORDER BY e.position NULLS LAST`,
		limit, fmt.Sprintf("%d microseconds", lease.Microseconds()))
	if err != nil {
		return nil, Trouble(err)
	}
	defer rows.Close()
	var records []event.Record
	var unreadable []error
	for rows.Next() {
		var (
			r                     event.Record
			timer                 []byte
			typ, stream, actor    sql.NullString
			schema, version, hops sql.NullInt64
			saga, causation       uuid.NullUUID
			at                    sql.NullTime
		)
		if err := rows.Scan(&timer, &r.ID, &typ, &schema, &stream, &version, &saga, &causation, &hops, &actor, &at, &r.Body); err != nil {
			return nil, Trouble(err)
		}
		if timer != nil {
			var kept keptTimer
			if err := json.Unmarshal(timer, &kept); err != nil {
				// The others are not to wait for it; it is looked at again when its lease is over.
				unreadable = append(unreadable, fmt.Errorf("timer %s in the outbox cannot be read: %w", r.ID, err))
				continue
			}
			r = event.Record{Envelope: kept.Envelope, Body: kept.Body}
		} else {
			r.Type, r.Source, r.Stream, r.Actor = typ.String, p.cfg.Service, stream.String, actor.String
			r.Schema, r.Version, r.Hops = int(schema.Int64), version.Int64, int(hops.Int64)
			r.Saga, r.Causation, r.At = saga.UUID, causation.UUID, at.Time.UTC()
		}
		records = append(records, r)
	}
	if err := rows.Err(); err != nil {
		return nil, Trouble(err)
	}
	if len(records)+len(unreadable) == 0 {
		return nil, nil
	}
	if err := tx.Commit(); err != nil {
		return nil, Trouble(err)
	}
	return records, errors.Join(unreadable...)
}

// Published implements Outbox.
func (p *Postgres) Published(ctx context.Context, ids []uuid.UUID) error {
	return p.lazily(ctx, `DELETE FROM outbox WHERE message_id = ANY($1::uuid[])`, ids)
}

// Release implements Outbox.
func (p *Postgres) Release(ctx context.Context, ids []uuid.UUID) error {
	return p.lazily(ctx, `UPDATE outbox SET due_at = now() + interval '1 second' WHERE message_id = ANY($1::uuid[])`, ids)
}

// lazily runs a statement that is harmless when run twice and when lost.
func (p *Postgres) lazily(ctx context.Context, statement string, ids []uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	defer cancel()
	_, err := p.lazy.ExecContext(ctx, statement, pq.Array(texts(ids)))
	return Trouble(err)
}

// Attempted implements Ledger.
func (p *Postgres) Attempted(ctx context.Context, attempts []Attempt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	defer cancel()
	for _, a := range attempts {
		_, err := p.lazy.ExecContext(ctx, `INSERT INTO attempt (message_id, step, n, type, saga, error, at, next_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (message_id, step, at) DO NOTHING`,
			a.Message, printable(a.Step), a.N, printable(a.Type), a.Saga, printable(a.Error), a.At, sql.NullTime{Time: a.NextAt, Valid: !a.NextAt.IsZero()})
		if err != nil {
			return Trouble(err)
		}
	}
	return nil
}

// printable is a text that the database can keep, whatever came over the wire.
func printable(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
}

// Ping tells whether the database answers and has the tables.
func (p *Postgres) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := p.prepare(ctx); err != nil {
		return err
	}
	return Trouble(p.db.PingContext(ctx))
}

// conflicts are the errors that mean "somebody else was first": decide again. Deadlocks and serialization failures are
// the same to us.
var conflicts = []pqerror.Code{pqerror.UniqueViolation, pqerror.TRSerializationFailure, pqerror.TRDeadlockDetected}

// Trouble sorts the errors of the driver: ErrConflict, ErrUnavailable, or what the statement itself did wrong.
func Trouble(err error) error {
	if err == nil {
		return nil
	}
	var p *pq.Error
	var n net.Error
	switch {
	case errors.As(err, &p) && slices.Contains(conflicts, p.Code):
		return fmt.Errorf("%w: %s (%s)", ErrConflict, p.Message, p.Constraint)
	// 57 is operator intervention (shutting down, starting up), 53 is insufficient resources, 08 is the connection, and
	// 28, 3D and 42 are a database, its tables or rights that have not been set up yet: no message is to blame.
	case errors.As(err, &p) && slices.Contains([]string{"57", "53", "08", "28", "3D", "42"}, string(p.Code.Class())):
		return fmt.Errorf("%w: %s", ErrUnavailable, p.Message)
	case errors.As(err, &p):
		return err
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), errors.As(err, &n):
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return err
}

// columns turns a list of pairs into two arrays, as unnest takes them.
func columns[K any](keys []K, pair func(K) (string, string)) (first, second pq.StringArray) {
	first, second = make(pq.StringArray, len(keys)), make(pq.StringArray, len(keys))
	for i, k := range keys {
		first[i], second[i] = pair(k)
	}
	return first, second
}

func texts(ids []uuid.UUID) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
	}
	return all
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
