// Package store keeps a service's own truth: the event log, the documents folded from it (states, copies and views),
// the inbox, the barrier and the outbox. One transaction changes all of them or none.
//
// There are two stores with one behaviour: Postgres, and Memory for tests and simulation.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
)

var (
	// ErrConflict says that another transaction was there first (a version, an inbox row, a barrier). Nothing was
	// written; read again and decide again.
	ErrConflict = errors.New("store: somebody else wrote first")
	// ErrUnavailable says that the store cannot be reached, or that the outcome of a commit is unknown. What was being
	// handled must be offered again: the inbox tells whether it had been done.
	ErrUnavailable = errors.New("store: not reachable")
)

// States is the table of stream states: a document per stream of this service.
const States = "stream_state"

// Key names one document: the table it is kept in and its key there.
type Key struct{ Table, Key string }

// Doc is a document: a state, a copy or a row of a view, as JSON.
type Doc struct {
	Key
	// Version counts the changes of a state or a view, from 1; a copy has the version of the stream it copies.
	Version int64
	// Was is the version that was read; 0 is a document that did not exist. A write whose Was is not what the table
	// holds is a conflict.
	Was  int64
	Body []byte
}

// Claim is an inbox row: this step has handled this message.
type Claim struct {
	Step    string
	Message uuid.UUID
	// Saga and Digest are what a repeated request is compared with and answered by; Digest is nil for events.
	Saga   uuid.UUID
	Digest []byte
}

// ClaimKey is the key of an inbox row.
type ClaimKey struct {
	Step    string
	Message uuid.UUID
}

// The states of a barrier: of one step of one saga, at most one of done, suppressed and given up, and undone only after
// done.
const (
	Done       = "done"       // the step ran and its fact stands
	Undone     = "undone"     // it ran and was compensated
	Suppressed = "suppressed" // it was compensated (or barred) before it ran, and must not run any more
	GivenUp    = "given up"   // it gave up before it ran: what it asked the outside for is void, or about to be
)

// BarrierKey names one step of one saga.
type BarrierKey struct {
	Saga uuid.UUID
	Step string
}

// Barrier tells how far a step of a saga that can be undone has come. It is the guard against the empty rollback and
// the hanging action: https://en.dtm.pub/practice/barrier.html
type Barrier struct {
	BarrierKey
	State string
	// Fact is the recorded event that a compensation undoes; set when State is Done or Undone. A write needs its ID only.
	Fact *event.Record
	// Position is the place of the fact in the log: what was done last is undone first.
	Position int64
	// UndoneBy is the event that undid it.
	UndoneBy uuid.UUID
	// Known tells a write that the row was there when it was read.
	Known bool
}

// Timer is a message the service sends to its own queue when it is due.
type Timer struct {
	event.Record
	DueAt time.Time
}

// Request is what a batch wants to read.
type Request struct {
	Claims   []ClaimKey
	Docs     []Key
	Barriers []BarrierKey
}

// Snapshot is what was found; what is not there is left out.
type Snapshot struct {
	Claims   []Claim
	Docs     []Doc
	Barriers []Barrier
}

// Changes is what a batch writes, all or nothing. Events are put in the log and in the outbox.
type Changes struct {
	Claims   []Claim
	Events   []event.Record
	Docs     []Doc
	Barriers []Barrier
	Timers   []Timer
	// Disarmed are the IDs of timers that are not needed any more.
	Disarmed []uuid.UUID
}

// Tx is one transaction. It is not safe for concurrent use. After an error of Read or Write only Rollback is left.
type Tx interface {
	// Read returns what is there, and holds it: until the transaction ends nobody else changes it.
	Read(context.Context, Request) (Snapshot, error)
	// Write stages the changes; ErrConflict when somebody else was first.
	Write(context.Context, Changes) error
	// Commit makes them last. ErrUnavailable means that the outcome is unknown.
	Commit() error
	// Rollback gives up; harmless after Commit.
	Rollback()
}

// Store begins transactions. Safe for concurrent use.
type Store interface {
	Begin(context.Context) (Tx, error)
}

// Outbox is the relay's side of a store. Safe for concurrent use, also by several processes.
type Outbox interface {
	// Sweep takes up to limit messages that are due and leases them: nobody else gets them until the lease is over. An
	// error may come beside messages: it is about others, which could not be read.
	Sweep(ctx context.Context, limit int, lease time.Duration) ([]event.Record, error)
	// Published removes messages that the broker has confirmed.
	Published(ctx context.Context, ids []uuid.UUID) error
	// Release makes leased messages due again in a second: their publishing failed.
	Release(ctx context.Context, ids []uuid.UUID) error
}

// Attempt is a row of the attempt ledger: one failed try at a message.
type Attempt struct {
	Message uuid.UUID
	Type    string
	Step    string
	Saga    uuid.UUID
	N       int
	Error   string
	At      time.Time
	// NextAt is when it is tried again; zero when it was set aside.
	NextAt time.Time
}

// Ledger keeps the attempts. Safe for concurrent use.
type Ledger interface {
	Attempted(context.Context, []Attempt) error
}
