package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// connection is the way of one life of a process to its database. Transactions are not serial here: the others may go on
// between a read and its write. What had been read is then compared once more, as if it had been locked; what had not
// been there is left to the keys of the tables.
type connection struct {
	p    *process
	life int
}

var (
	_ store.Store  = (*connection)(nil)
	_ store.Outbox = (*connection)(nil)
	_ store.Ledger = (*connection)(nil)
)

func (c *connection) alive() bool { return c.p.up && c.p.life == c.life }

// trouble is the error of a call that did not come through.
func trouble(format string, args ...any) error {
	return fmt.Errorf("%w: %s", store.ErrUnavailable, fmt.Sprintf(format, args...))
}

var errDead = trouble("the process is dead")

// call does one thing at the database, with what goes wrong there.
func (c *connection) call(at Point, do func() error) error {
	if !c.alive() {
		return errDead
	}
	kind := c.p.at(at)
	switch {
	case kind == Crash:
		c.p.crash(string(at), "before")
		return errDead
	case c.p.storeCutUntil > c.p.world.now:
		return trouble("the database is away")
	case kind == Fail:
		return trouble("the connection broke before the %s", at)
	case kind == Refused:
		return errors.New("the database refuses it")
	case kind == Conflict:
		return store.ErrConflict
	}
	if err := do(); err != nil {
		return err
	}
	switch kind {
	case CrashAfter:
		c.p.crash(string(at), "after")
		return errDead
	case Lost:
		return trouble("the connection broke after the %s", at)
	case Overtaken:
		if c.p.world.random.IntN(2) == 0 {
			c.p.takenForDead()
		}
		c.p.world.others(c.p)
		if !c.alive() {
			return errDead
		}
	}
	return nil
}

// Begin implements store.Store.
func (c *connection) Begin(context.Context) (store.Tx, error) {
	if err := c.call(Begin, func() error { return nil }); err != nil {
		return nil, err
	}
	return &tx{connection: c}, nil
}

// tx is one transaction.
type tx struct {
	*connection
	reads   []read
	writing store.Tx // from the write on
	changes store.Changes
}

// read is what was read, and when.
type read struct {
	request store.Request
	found   store.Snapshot
	commits int
}

func (t *tx) Read(ctx context.Context, r store.Request) (found store.Snapshot, err error) {
	memory := t.p.service.memory
	err = t.call(Read, func() error {
		inner, err := memory.Begin(ctx)
		if err != nil {
			return err
		}
		defer inner.Rollback()
		found, err = inner.Read(ctx, r)
		t.reads = append(t.reads, read{r, found, t.p.service.commits})
		return err
	})
	return found, err
}

func (t *tx) Write(ctx context.Context, c store.Changes) error {
	return t.call(Write, func() error {
		inner, err := t.p.service.memory.Begin(ctx)
		if err != nil {
			return err
		}
		t.writing, t.changes = inner, c
		for _, r := range t.reads {
			if r.commits != t.p.service.commits {
				if now, err := inner.Read(ctx, r.request); err != nil || !stands(r.found, now) {
					return store.ErrConflict
				}
			}
		}
		return inner.Write(ctx, c)
	})
}

// stands tells whether all that was found is still as it was.
func stands(found, now store.Snapshot) bool {
	docs := map[store.Key]store.Doc{}
	for _, d := range now.Docs {
		docs[d.Key] = d
	}
	for _, d := range found.Docs {
		if n := docs[d.Key]; n.Version != d.Version || !bytes.Equal(n.Body, d.Body) {
			return false
		}
	}
	barriers := map[store.BarrierKey]string{}
	for _, b := range now.Barriers {
		barriers[b.BarrierKey] = b.State
	}
	for _, b := range found.Barriers {
		if barriers[b.BarrierKey] != b.State {
			return false
		}
	}
	return true
}

func (t *tx) Commit() error {
	return t.call(Commit, func() error {
		if t.writing == nil {
			return nil
		}
		err := t.writing.Commit()
		t.writing = nil
		if err == nil {
			t.p.service.commits++
			t.p.service.stirred = true
			t.p.world.committed(t.p, t.changes)
		}
		return err
	})
}

func (t *tx) Rollback() {
	if t.writing != nil {
		t.writing.Rollback()
		t.writing = nil
	}
}

// Sweep implements store.Outbox.
func (c *connection) Sweep(ctx context.Context, limit int, lease time.Duration) (due []event.Record, err error) {
	c.p.service.stirred = true
	err = c.call(Sweep, func() error {
		due, err = c.p.service.memory.Sweep(ctx, limit, lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	return due, nil
}

// Published implements store.Outbox.
func (c *connection) Published(ctx context.Context, ids []uuid.UUID) error {
	c.p.service.stirred = true
	return c.call(Published, func() error { return c.p.service.memory.Published(ctx, ids) })
}

// Release implements store.Outbox.
func (c *connection) Release(ctx context.Context, ids []uuid.UUID) error {
	c.p.service.stirred = true
	return c.call(Release, func() error { return c.p.service.memory.Release(ctx, ids) })
}

// Attempted implements store.Ledger.
func (c *connection) Attempted(ctx context.Context, attempts []store.Attempt) error {
	return c.call(Attempted, func() error { return c.p.service.memory.Attempted(ctx, attempts) })
}
