package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq" // the driver "postgres"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// database is one service's database, and later a snapshot of it.
type database struct {
	service string
	flow    *flow.Flow
	pool    *sql.DB
	held    *sql.Tx // keeps the snapshot
	name    string  // of the snapshot
	last    int64   // the last position of the log in it
}

// connect opens the pools; nothing is connected yet.
func (a *audit) connect() error {
	for _, f := range a.rules.flows {
		target := a.cfg.Databases[f.Service]
		if target == "" {
			u, err := url.Parse(a.cfg.Database)
			if err != nil || u.Host == "" {
				return errors.New("the database URL must look like postgres://user:password@host:port/")
			}
			u.Path = "/" + f.Service
			target = u.String()
		}
		u, err := url.Parse(target)
		if err != nil || u.Host == "" {
			return fmt.Errorf("the database URL of %s must look like postgres://user:password@host:port/database", f.Service)
		}
		q := u.Query()
		for key, value := range map[string]string{
			"application_name": "hotchoc audit", "connect_timeout": "5",
			// Whatever we do, it changes nothing. The walks sort a lot.
			"options": "-c default_transaction_read_only=on -c work_mem=64MB -c timezone=UTC -c jit=off",
		} {
			if q.Get(key) == "" {
				q.Set(key, value)
			}
		}
		u.RawQuery = q.Encode()
		pool, err := sql.Open("postgres", u.String())
		if err != nil {
			return fmt.Errorf("the database URL of %s is malformed", f.Service)
		}
		a.databases = append(a.databases, &database{service: f.Service, flow: f, pool: pool})
	}
	return nil
}

func (a *audit) close() {
	for _, d := range a.databases {
		if d.held != nil {
			_ = d.held.Rollback()
		}
		_ = d.pool.Close()
	}
}

func (a *audit) database(service string) *database {
	for _, d := range a.databases {
		if d.service == service {
			return d
		}
	}
	return nil
}

// snapshot takes one of every database, as nearly at once as can be.
func (a *audit) snapshot(ctx context.Context) error {
	g := errgroup.Group{} // not with a context of its own: its end would roll the snapshots back
	for _, d := range a.databases {
		g.Go(func() (err error) {
			if d.held, err = d.pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}); err != nil {
				return d.wrap(err)
			}
			return d.wrap(d.held.QueryRowContext(ctx, `SELECT pg_export_snapshot(), coalesce(max(position), 0) FROM event_log`).Scan(&d.name, &d.last))
		})
	}
	return g.Wait()
}

func (d *database) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("database of %s: %w", d.service, err)
}

// cursor walks the rows of a query over a snapshot, with one of them in hand. Each has a connection of its own, so that
// many can be walked side by side.
type cursor[T any] struct {
	head T
	ok   bool // there is a head
	n    int64

	d    *database
	tx   *sql.Tx
	rows *sql.Rows
	scan func(*sql.Rows, *T) error
}

func walk[T any](ctx context.Context, d *database, scan func(*sql.Rows, *T) error, query string, args ...any) (*cursor[T], error) {
	tx, err := d.pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, d.wrap(err)
	}
	c := &cursor[T]{d: d, tx: tx, scan: scan}
	if _, err = tx.ExecContext(ctx, `SET TRANSACTION SNAPSHOT '`+d.name+`'`); err == nil {
		c.rows, err = tx.QueryContext(ctx, query, args...)
	}
	if err != nil {
		c.close()
		return nil, d.wrap(err)
	}
	if err := c.next(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// next takes the next row in hand.
func (c *cursor[T]) next() error {
	var fresh T
	if c.head, c.ok = fresh, c.rows.Next(); !c.ok {
		return c.d.wrap(c.rows.Err())
	}
	c.n++
	return c.d.wrap(c.scan(c.rows, &c.head))
}

func (c *cursor[T]) close() {
	if c == nil {
		return
	}
	if c.rows != nil {
		_ = c.rows.Close()
	}
	_ = c.tx.Rollback()
}

// all calls f with every row.
func all[T any](ctx context.Context, d *database, scan func(*sql.Rows, *T) error, f func(T), query string, args ...any) error {
	c, err := walk(ctx, d, scan, query, args...)
	if err != nil {
		return err
	}
	defer c.close()
	for c.ok {
		f(c.head)
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

// logged is an event of a log.
type logged struct {
	event.Envelope
	position int64
	fact     proto.Message // nil when it cannot be read: problem says why
	problem  error
}

const eventColumns = `SELECT position, event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at FROM event_log`

// events walks the log, or a part of it.
func (d *database) events(ctx context.Context, rest string, args ...any) (*cursor[logged], error) {
	return walk(ctx, d, d.scanEvent, eventColumns+" "+rest, args...)
}

func (d *database) scanEvent(rows *sql.Rows, e *logged) error {
	var body sql.RawBytes
	var at time.Time
	err := rows.Scan(&e.position, &e.ID, &e.Stream, &e.Version, &e.Type, &e.Schema, &body, &e.Saga, &e.Causation, &e.Hops, &e.Actor, &at)
	if err != nil {
		return err
	}
	e.Source, e.At = d.service, at.UTC()
	declared, ok := contract.Lookup(e.Type)
	if !ok {
		e.problem = fmt.Errorf("%q is not a declared event type", e.Type)
		return nil
	}
	e.fact, e.problem = declared.Decode(e.Schema, body)
	return nil
}

// document is a row of stream_state, a view or a copy.
type document struct {
	key     string
	version int64
	body    []byte
}

func scanDocument(rows *sql.Rows, d *document) error {
	return rows.Scan(&d.key, &d.version, &d.body)
}

// documents walks a table of them, in the order of their keys.
func (d *database) documents(ctx context.Context, table string) (*cursor[document], error) {
	return walk(ctx, d, scanDocument, `SELECT key, version, doc FROM `+table+` ORDER BY key COLLATE "C"`)
}

// id returns the UUID that a text is, or none.
func id(text string) uuid.UUID {
	u, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil
	}
	return u
}
