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
	db, lazy *sqlx.DB
	cfg      PostgresConfig
	tables   []string

	read, write             *statement
	sweep, publish, release prepared
}

// NewPostgres returns a store on db; the database need not be there yet. lazy is a pool on the same database whose
// commits need not be durable (synchronous_commit=off): the removal of published messages goes there, for the worst that
// its loss can cause is a message that is published again. Both pools need binary_parameters=yes.
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
	tables := append([]string{States}, cfg.Tables...)
	return &Postgres{
		db: db, lazy: lazy, cfg: cfg, tables: tables, read: newRead(tables), write: newWrite(tables),
		sweep: prepared{text: sweepSQL}, publish: prepared{text: publishSQL}, release: prepared{text: releaseSQL},
	}
}

// prepare prepares what is new, and tells whether the tables are there.
func (p *Postgres) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	if err := p.read.prepare(ctx, p.db); err != nil {
		return fmt.Errorf("prepare the read of %s: %w", strings.Join(p.tables, ", "), Trouble(err))
	}
	if err := p.write.prepare(ctx, p.db); err != nil {
		return fmt.Errorf("prepare the write of %s: %w", strings.Join(p.tables, ", "), Trouble(err))
	}
	return nil
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
	read := t.p.read.call()
	if len(req.Claims) > 0 {
		read.with(readClaims, texts(req.Claims, func(k ClaimKey) string { return k.Step }), uuids(req.Claims, func(k ClaimKey) uuid.UUID { return k.Message }))
	}
	if len(req.Barriers) > 0 {
		read.with(readBarriers, uuids(req.Barriers, func(k BarrierKey) uuid.UUID { return k.Saga }), texts(req.Barriers, func(k BarrierKey) string { return k.Step }))
	}
	for i, table := range t.p.tables {
		if keys := of(table, req.Docs); len(keys) > 0 {
			read.with(readDocs+i, texts(keys, func(key string) string { return key }))
		}
	}
	if read.used == 0 {
		return Snapshot{}, nil
	}
	rows, err := read.query(t.ctx, t.tx)
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
	write := t.p.write.call()
	if all := c.Claims; len(all) > 0 {
		write.with(writeClaims,
			texts(all, func(c Claim) string { return c.Step }),
			uuids(all, func(c Claim) uuid.UUID { return c.Message }),
			uuids(all, func(c Claim) uuid.UUID { return c.Saga }),
			byteas(all, func(c Claim) []byte { return c.Digest }))
	}
	if all := c.Events; len(all) > 0 {
		write.with(writeEvents,
			uuids(all, func(e event.Record) uuid.UUID { return e.ID }),
			texts(all, func(e event.Record) string { return e.Stream }),
			int8s(all, func(e event.Record) int64 { return e.Version }),
			texts(all, func(e event.Record) string { return e.Type }),
			int4s(all, func(e event.Record) int { return e.Schema }),
			jsons(all, func(e event.Record) []byte { return e.Body }),
			uuids(all, func(e event.Record) uuid.UUID { return e.Saga }),
			uuids(all, func(e event.Record) uuid.UUID { return e.Causation }),
			int4s(all, func(e event.Record) int { return e.Hops }),
			texts(all, func(e event.Record) string { return e.Actor }),
			times(all, func(e event.Record) time.Time { return e.At }),
			fmt.Sprintf("%d microseconds", t.p.cfg.Grace.Microseconds()))
	}
	// The part that disarms does not see what the same statement arms.
	armed := slices.DeleteFunc(slices.Clone(c.Timers), func(timer Timer) bool { return slices.Contains(c.Disarmed, timer.ID) })
	if len(armed) > 0 {
		kept := make([][]byte, len(armed))
		for i, timer := range armed {
			var err error
			if kept[i], err = json.Marshal(keptTimer{timer.Envelope, timer.Body}); err != nil {
				return fmt.Errorf("encode timer %s: %w", timer.Type, err)
			}
		}
		write.with(writeTimers,
			uuids(armed, func(timer Timer) uuid.UUID { return timer.ID }),
			times(armed, func(timer Timer) time.Time { return timer.DueAt }),
			jsons(kept, func(text []byte) []byte { return text }))
	}
	if len(c.Disarmed) > 0 {
		write.with(writeDisarmed, uuids(c.Disarmed, func(id uuid.UUID) uuid.UUID { return id }))
	}
	var raised, undone []Barrier
	for _, b := range c.Barriers {
		if b.Known {
			undone = append(undone, b)
		} else {
			raised = append(raised, b)
		}
	}
	if len(raised) > 0 {
		write.with(writeRaised,
			uuids(raised, func(b Barrier) uuid.UUID { return b.Saga }),
			texts(raised, func(b Barrier) string { return b.Step }),
			texts(raised, func(b Barrier) string { return b.State }),
			orNull(raised, func(b Barrier) uuid.UUID {
				if b.Fact == nil {
					return uuid.Nil
				}
				return b.Fact.ID
			}),
			orNull(raised, func(b Barrier) uuid.UUID { return b.UndoneBy }))
	}
	if len(undone) > 0 {
		write.with(writeUndone,
			uuids(undone, func(b Barrier) uuid.UUID { return b.Saga }),
			texts(undone, func(b Barrier) string { return b.Step }),
			orNull(undone, func(b Barrier) uuid.UUID { return b.UndoneBy }))
	}
	for i, table := range t.p.tables {
		var fresh, changed []Doc
		for _, d := range c.Docs {
			switch {
			case d.Table != table:
			case d.Was == 0:
				fresh = append(fresh, d)
			default:
				changed = append(changed, d)
			}
		}
		key := func(d Doc) string { return d.Key.Key }
		version := func(d Doc) int64 { return d.Version }
		body := func(d Doc) []byte { return d.Body }
		if len(fresh) > 0 {
			write.with(writeDocs+2*i, texts(fresh, key), int8s(fresh, version), jsons(fresh, body))
		}
		if len(changed) > 0 {
			write.with(writeDocs+2*i+1, texts(changed, key), int8s(changed, func(d Doc) int64 { return d.Was }), int8s(changed, version), jsons(changed, body))
		}
	}
	if write.used == 0 {
		return nil
	}
	rows, err := write.query(t.ctx, t.tx)
	if err != nil {
		return Trouble(err)
	}
	defer rows.Close()
	var written int
	for rows.Next() {
		if err := rows.Scan(&written); err != nil {
			return Trouble(err)
		}
	}
	if err := rows.Err(); err != nil {
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

const (
	sweepSQL = `WITH due AS (SELECT message_id FROM outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED),
leased AS (UPDATE outbox o SET due_at = now() + $2::interval FROM due WHERE o.message_id = due.message_id RETURNING o.message_id, o.timer)
SELECT l.timer::text, l.message_id, e.type, e.schema, e.stream, e.version, e.saga, e.causation, e.hops, e.actor, e.recorded_at, e.data::text
  FROM leased l LEFT JOIN event_log e ON e.event_id = l.message_id ORDER BY e.position NULLS LAST`
	publishSQL = `DELETE FROM outbox WHERE message_id = ANY($1::uuid[])`
	releaseSQL = `UPDATE outbox SET due_at = now() + interval '1 second' WHERE message_id = ANY($1::uuid[])`
)

// Sweep implements Outbox. The data of events come from the log; only timers carry their own. A message that is locked
// by another sweeper is skipped, never waited for, and there is no cursor that a late commit could slip behind.
func (p *Postgres) Sweep(ctx context.Context, limit int, lease time.Duration) ([]event.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	sweep, err := p.sweep.on(ctx, p.db)
	if err != nil {
		return nil, Trouble(err)
	}
	tx, err := p.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, Trouble(err)
	}
	defer func() { _ = tx.Rollback() }()
	rows, err := tx.StmtContext(ctx, sweep).QueryContext(ctx, limit, fmt.Sprintf("%d microseconds", lease.Microseconds()))
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
	return p.lazily(ctx, &p.publish, ids)
}

// Release implements Outbox.
func (p *Postgres) Release(ctx context.Context, ids []uuid.UUID) error {
	return p.lazily(ctx, &p.release, ids)
}

// lazily runs a statement that is harmless when run twice and when lost.
func (p *Postgres) lazily(ctx context.Context, statement *prepared, ids []uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Timeout)
	defer cancel()
	stmt, err := statement.on(ctx, p.lazy)
	if err != nil {
		return Trouble(err)
	}
	_, err = stmt.ExecContext(ctx, uuids(ids, func(id uuid.UUID) uuid.UUID { return id }))
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

// of are the keys of a table.
func of(table string, keys []Key) (its []string) {
	for _, k := range keys {
		if k.Table == table {
			its = append(its, k.Key)
		}
	}
	return its
}
