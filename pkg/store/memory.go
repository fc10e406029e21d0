package store

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
)

// Memory is a store in memory with the semantics of Postgres: transactions are serial, all or nothing, and a write on
// top of something that was not read is a conflict. For tests and simulation.
type Memory struct {
	mu       sync.Mutex
	log      []event.Record
	places   map[place]struct{}
	recorded map[uuid.UUID]int64 // the position of an event, from 1
	docs     map[Key]Doc
	claims   map[ClaimKey]Claim
	barriers map[BarrierKey]Barrier
	outbox   map[uuid.UUID]Timer
	attempts []Attempt
}

// place is a place in a stream, which one event can have.
type place struct {
	stream  string
	version int64
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		places: map[place]struct{}{}, recorded: map[uuid.UUID]int64{},
		docs: map[Key]Doc{}, claims: map[ClaimKey]Claim{}, barriers: map[BarrierKey]Barrier{}, outbox: map[uuid.UUID]Timer{},
	}
}

// Log returns a copy of the event log, in the order of commits.
func (m *Memory) Log() []event.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// Doc returns a document.
func (m *Memory) Doc(key Key) (Doc, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.docs[key]
	return d, ok
}

// Barrier returns how far a step of a saga has come; "" when it has not begun.
func (m *Memory) Barrier(key BarrierKey) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.barriers[key].State
}

// Timers returns the timers that are armed: the messages of the outbox that are in no stream.
func (m *Memory) Timers() []Timer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var timers []Timer
	for _, t := range m.outbox {
		if t.Stream == "" {
			timers = append(timers, t)
		}
	}
	return timers
}

// Begin implements Store. The store is locked until the transaction ends.
func (m *Memory) Begin(context.Context) (Tx, error) {
	m.mu.Lock()
	return &memoryTx{m: m}, nil
}

type memoryTx struct {
	m       *Memory
	changes Changes
	over    bool
}

func (t *memoryTx) Read(_ context.Context, req Request) (Snapshot, error) {
	var s Snapshot
	for _, k := range req.Claims {
		if c, ok := t.m.claims[k]; ok {
			s.Claims = append(s.Claims, c)
		}
	}
	for _, k := range req.Docs {
		if d, ok := t.m.docs[k]; ok {
			d.Body = bytes.Clone(d.Body)
			s.Docs = append(s.Docs, d)
		}
	}
	for _, k := range req.Barriers {
		if b, ok := t.m.barriers[k]; ok {
			b.Known = true
			s.Barriers = append(s.Barriers, b)
		}
	}
	return s, nil
}

func (t *memoryTx) Write(_ context.Context, c Changes) error {
	// What is there is compared one by one, as the keys of the tables do, so that a key cannot be there twice in one commit.
	claims, places, ids := map[ClaimKey]bool{}, map[place]bool{}, map[uuid.UUID]bool{}
	for _, claim := range c.Claims {
		key := ClaimKey{claim.Step, claim.Message}
		if _, ok := t.m.claims[key]; ok || claims[key] {
			return ErrConflict
		}
		claims[key] = true
	}
	for _, e := range c.Events {
		at := place{e.Stream, e.Version}
		if _, ok := t.m.places[at]; ok || places[at] || t.m.recorded[e.ID] > 0 || ids[e.ID] {
			return ErrConflict
		}
		places[at], ids[e.ID] = true, true
	}
	for _, d := range c.Docs {
		if t.m.docs[d.Key].Version != d.Was {
			return ErrConflict
		}
	}
	for _, b := range c.Barriers {
		if was, ok := t.m.barriers[b.BarrierKey]; ok != b.Known || ok && was.State != Done {
			return ErrConflict
		}
	}
	t.changes = c
	return nil
}

func (t *memoryTx) Commit() error {
	m, c := t.m, t.changes
	for _, e := range c.Events {
		m.log = append(m.log, e)
		m.places[place{e.Stream, e.Version}] = struct{}{}
		m.recorded[e.ID] = int64(len(m.log))
		m.outbox[e.ID] = Timer{Record: e}
	}
	for _, claim := range c.Claims {
		m.claims[ClaimKey{claim.Step, claim.Message}] = claim
	}
	for _, d := range c.Docs {
		m.docs[d.Key] = d
	}
	for _, b := range c.Barriers {
		if b.Fact != nil {
			b.Position = m.recorded[b.Fact.ID]
		}
		m.barriers[b.BarrierKey] = b
	}
	for _, timer := range c.Timers {
		if _, armed := m.outbox[timer.ID]; !armed {
			m.outbox[timer.ID] = timer
		}
	}
	for _, id := range c.Disarmed {
		delete(m.outbox, id)
	}
	t.Rollback()
	return nil
}

func (t *memoryTx) Rollback() {
	if !t.over {
		t.over = true
		t.m.mu.Unlock()
	}
}

// Sweep implements Outbox.
func (m *Memory) Sweep(_ context.Context, limit int, lease time.Duration) ([]event.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var due []event.Record
	for id, t := range m.outbox {
		if len(due) < limit && !t.DueAt.After(now) {
			t.DueAt = now.Add(lease)
			m.outbox[id] = t
			due = append(due, t.Record)
		}
	}
	return due, nil
}

// Published implements Outbox.
func (m *Memory) Published(_ context.Context, ids []uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.outbox, id)
	}
	return nil
}

// Release implements Outbox.
func (m *Memory) Release(_ context.Context, ids []uuid.UUID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if t, ok := m.outbox[id]; ok {
			t.DueAt = time.Now().Add(time.Second)
			m.outbox[id] = t
		}
	}
	return nil
}

// Attempted implements Ledger.
func (m *Memory) Attempted(_ context.Context, attempts []Attempt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempts = append(m.attempts, attempts...)
	return nil
}
