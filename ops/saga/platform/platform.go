// Package platform reads what the platform keeps about messages and sagas in the services' databases, as administrator and
// read only: event log, inbox, barrier, outbox, attempt ledger. See migrations/platform.
package platform

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	"golang.org/x/sync/errgroup"

	"hotchoc/pkg/event"
)

// Limits of a read.
const (
	rowsMax   = 100_000 // of one query in one database
	statement = "10s"
)

// Databases are the databases of the services. Safe for concurrent use.
type Databases struct {
	names []string
	pools map[string]*sql.DB
}

// Open returns the databases of these services on the server of adminURL; nothing is connected yet.
func Open(adminURL string, services []string) (*Databases, error) {
	d := &Databases{names: services, pools: map[string]*sql.DB{}}
	for _, service := range services {
		u, err := url.Parse(adminURL)
		if err != nil || u.Host == "" { // an error would quote the password
			return nil, errors.New("the database URL must look like postgres://user:password@host:port/")
		}
		u.Path = "/" + service
		q := u.Query()
		for key, value := range map[string]string{
			"application_name": "hotchoc look", "connect_timeout": "5",
			"options": "-c default_transaction_read_only=on -c timezone=UTC -c statement_timeout=" + statement,
		} {
			if q.Get(key) == "" {
				q.Set(key, value)
			}
		}
		u.RawQuery = q.Encode()
		pool, err := sql.Open("postgres", u.String())
		if err != nil {
			return nil, errors.New("the database URL is malformed")
		}
		pool.SetMaxOpenConns(2)
		d.pools[service] = pool
	}
	return d, nil
}

// Close closes all connections.
func (d *Databases) Close() {
	for _, pool := range d.pools {
		_ = pool.Close()
	}
}

// Of is the database of one service.
func (d *Databases) Of(service string) *sql.DB { return d.pools[service] }

// Event is a line of a service's log.
type Event struct {
	Service   string          `json:"service"`
	ID        uuid.UUID       `json:"id"`
	Type      string          `json:"type"`
	Stream    string          `json:"stream"`
	Version   int64           `json:"version"`
	Saga      uuid.UUID       `json:"saga"`
	Causation uuid.UUID       `json:"causation"`
	Hops      int             `json:"hops"`
	Actor     string          `json:"actor"`
	At        time.Time       `json:"at"`
	Data      json.RawMessage `json:"data"`

	position int64
}

// Events are the events of some sagas, from all logs: no event stands before what caused it.
func (d *Databases) Events(ctx context.Context, sagas []uuid.UUID) ([]Event, error) {
	events, err := all(ctx, d, func(e *Event, service string, rows *sql.Rows) error {
		e.Service = service
		return rows.Scan(&e.position, &e.ID, &e.Type, &e.Stream, &e.Version, &e.Saga, &e.Causation, &e.Hops, &e.Actor, &e.At, (*[]byte)(&e.Data))
	}, `SELECT position, event_id, type, stream, version, saga, causation, hops, actor, recorded_at, data
  FROM event_log WHERE saga = ANY($1::uuid[]) ORDER BY position LIMIT $2`, texts(sagas), rowsMax)
	slices.SortStableFunc(events, func(a, b Event) int {
		if a.Service == b.Service && a.Hops == b.Hops {
			return cmp.Compare(a.position, b.position)
		}
		return cmp.Or(cmp.Compare(a.Hops, b.Hops), a.At.Compare(b.At))
	})
	return events, err
}

// Handled is a line of an inbox: this step has handled this message.
type Handled struct {
	Service string    `json:"service"`
	Step    string    `json:"step"`
	Message uuid.UUID `json:"-"`
	At      time.Time `json:"at"`
}

// Handled tells which steps have handled these messages.
func (d *Databases) Handled(ctx context.Context, messages []uuid.UUID) ([]Handled, error) {
	return all(ctx, d, func(h *Handled, service string, rows *sql.Rows) error {
		h.Service = service
		return rows.Scan(&h.Message, &h.Step, &h.At)
	}, `SELECT message_id, step, handled_at FROM inbox WHERE message_id = ANY($1::uuid[]) ORDER BY handled_at, step LIMIT $2`, texts(messages), rowsMax)
}

// Attempt is a line of an attempt ledger: one try at a message that failed.
type Attempt struct {
	Service string    `json:"service"`
	Step    string    `json:"step"`
	N       int       `json:"n"`
	Message uuid.UUID `json:"message"`
	Type    string    `json:"type"`
	Saga    uuid.UUID `json:"saga"`
	Error   string    `json:"error"`
	At      time.Time `json:"at"`
	// NextAt is when it is tried again; nil when it was set aside.
	NextAt *time.Time `json:"next_at"`
}

// Attempts are the failed tries of some sagas and at some messages, the oldest first.
func (d *Databases) Attempts(ctx context.Context, sagas, messages []uuid.UUID) ([]Attempt, error) {
	attempts, err := all(ctx, d, func(a *Attempt, service string, rows *sql.Rows) error {
		a.Service = service
		return rows.Scan(&a.Step, &a.N, &a.Message, &a.Type, &a.Saga, &a.Error, &a.At, &a.NextAt)
	}, `SELECT step, n, message_id, type, saga, error, at, next_at
  FROM attempt WHERE saga = ANY($1::uuid[]) OR message_id = ANY($2::uuid[]) ORDER BY at, n LIMIT $3`, texts(sagas), texts(messages), rowsMax)
	slices.SortStableFunc(attempts, func(a, b Attempt) int { return a.At.Compare(b.At) })
	return attempts, err
}

// Barrier tells how far a step of a saga that can be undone has come.
type Barrier struct {
	Service string    `json:"service"`
	Step    string    `json:"step"`
	State   string    `json:"state"`
	Saga    uuid.UUID `json:"-"`
	// Fact is the event that is undone, UndoneBy the one that undid it.
	Fact     *uuid.UUID `json:"fact"`
	UndoneBy *uuid.UUID `json:"undone_by"`
	At       time.Time  `json:"raised_at"`
}

// Barriers are those of some sagas.
func (d *Databases) Barriers(ctx context.Context, sagas []uuid.UUID) ([]Barrier, error) {
	return all(ctx, d, func(b *Barrier, service string, rows *sql.Rows) error {
		b.Service = service
		return rows.Scan(&b.Saga, &b.Step, &b.State, &b.Fact, &b.UndoneBy, &b.At)
	}, `SELECT saga, step, state, fact, undone_by, raised_at FROM barrier WHERE saga = ANY($1::uuid[]) ORDER BY raised_at, step LIMIT $2`, texts(sagas), rowsMax)
}

// Unpublished is a line of an outbox.
type Unpublished struct {
	Service string    `json:"service"`
	Message uuid.UUID `json:"message"`
	// DueAt is when a timer is due; for what is overdue or no timer, when the sweeper takes it next.
	DueAt time.Time `json:"due_at"`
	// Timer is the timer's envelope; nil for an event of the log.
	Timer *event.Envelope `json:"timer,omitempty"`
}

// Outbox is what is not published of these messages, and the armed timers of these sagas.
func (d *Databases) Outbox(ctx context.Context, sagas, messages []uuid.UUID) ([]Unpublished, error) {
	return all(ctx, d, func(u *Unpublished, service string, rows *sql.Rows) error {
		u.Service = service
		var timer []byte
		if err := rows.Scan(&u.Message, &u.DueAt, &timer); err != nil || timer == nil {
			return err
		}
		return json.Unmarshal(timer, &u.Timer)
	}, `SELECT message_id, due_at, timer -> 'envelope' FROM outbox
  WHERE message_id = ANY($2::uuid[]) OR timer -> 'envelope' ->> 'saga' = ANY($1::text[]) ORDER BY due_at LIMIT $3`, texts(sagas), texts(messages), rowsMax)
}

// all asks every database the same, side by side; the answers come in the order of the services.
func all[T any](ctx context.Context, d *Databases, scan func(*T, string, *sql.Rows) error, query string, args ...any) ([]T, error) {
	var mu sync.Mutex
	found := map[string][]T{}
	g, ctx := errgroup.WithContext(ctx)
	for _, service := range d.names {
		g.Go(func() error {
			rows, err := d.pools[service].QueryContext(ctx, query, args...)
			if err != nil {
				return fmt.Errorf("database of %s: %w", service, err)
			}
			defer rows.Close()
			var mine []T
			for rows.Next() {
				var row T
				if err := scan(&row, service, rows); err != nil {
					return fmt.Errorf("database of %s: %w", service, err)
				}
				mine = append(mine, row)
			}
			mu.Lock()
			defer mu.Unlock()
			found[service] = mine
			if err := rows.Err(); err != nil {
				return fmt.Errorf("database of %s: %w", service, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var rows []T
	for _, service := range d.names {
		rows = append(rows, found[service]...)
	}
	return rows, nil
}

func texts(ids []uuid.UUID) any {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
	}
	return pq.Array(all)
}
