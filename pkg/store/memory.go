package store

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
)

// Memory is a store in memory with the semantics of Postgres: transactions are serial, all or nothing, and a write on
// top of something that was not read is a conflict. For tests and simulation: the same calls have the same results, in the
// same order.
type Memory struct {
	// Now is the clock of the outbox. Default time.Now. Like Grace it is set before the first use.
	Now func() time.Time
	// Grace is how long a new message is left to the relay that wrote it, before any sweeper takes it. Default 0.
	Grace time.Duration

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

// Clone returns a store that holds the same, with the same clock. What happens to the one is not seen by the other.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{
		Now: m.Now, Grace: m.Grace,
		log: slices.Clip(m.log), places: maps.Clone(m.places), recorded: maps.Clone(m.recorded), docs: maps.Clone(m.docs),
		claims: maps.Clone(m.claims), barriers: maps.Clone(m.barriers), outbox: maps.Clone(m.outbox), attempts: slices.Clip(m.attempts),
	}
}

func (m *Memory) now() time.Time {
	if m.Now == nil {
		return time.Now()
	}
	return m.Now()
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

// Timers returns the timers that are armed, the next one first: the messages of the outbox that are in no stream.
func (m *Memory) Timers() []Timer {
	var timers []Timer
	for _, t := range m.Outbox() {
		if t.Stream == "" {
			timers = append(timers, t)
		}
	}
	return timers
}

// Outbox returns what is to be published, the next one first. What is of an event has no due time of its own: it is due
// when it was recorded, when its lease is over or, released, in a second.
func (m *Memory) Outbox() []Timer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byDue(func(Timer) bool { return true })
}

// NextDue returns when the next message of the outbox is due; false when there is none.
func (m *Memory) NextDue() (next time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.outbox {
		if !ok || t.DueAt.Before(next) {
			next, ok = t.DueAt, true
		}
	}
	return next, ok
}

// byDue returns the messages of the outbox that are wanted, in the order in which they are due.
func (m *Memory) byDue(wanted func(Timer) bool) []Timer {
	var due []Timer
	for _, t := range m.outbox {
		if wanted(t) {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, func(a, b Timer) int {
		return cmp.Or(a.DueAt.Compare(b.DueAt), cmp.Compare(m.recorded[a.ID], m.recorded[b.ID]), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return due
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
	due := m.now().Add(m.Grace)
	for _, e := range c.Events {
		m.log = append(m.log, e)
		m.places[place{e.Stream, e.Version}] = struct{}{}
		m.recorded[e.ID] = int64(len(m.log))
		m.outbox[e.ID] = Timer{Record: e, DueAt: due}
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

// Sweep implements Outbox: what is due first comes first.
func (m *Memory) Sweep(_ context.Context, limit int, lease time.Duration) ([]event.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	due := m.byDue(func(t Timer) bool { return !t.DueAt.After(now) })
	var records []event.Record
	for _, t := range due[:min(limit, len(due))] {
		t.DueAt = now.Add(lease)
		m.outbox[t.ID] = t
		records = append(records, t.Record)
	}
	return records, nil
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
			t.DueAt = m.now().Add(time.Second)
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
