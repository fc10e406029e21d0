// Package event holds what every message of the platform carries beside its own data: who wrote it, where it stands in
// its stream, to which saga it belongs and what caused it.
//
// The names follow CloudEvents 1.0 and its correlation extension:
// https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/correlation.md
package event

import (
	"time"

	"github.com/google/uuid"
)

// MaxHops is how many messages a chain of causes may be long. No flow of a sane shop comes near it: a chain that does is
// a loop that the verification of the flow did not see, and its next message is set aside as a dead letter.
const MaxHops = 32

// Envelope is the metadata of one message.
type Envelope struct {
	// ID is the message ID. It stays the same over every redelivery, retry and redrive; inboxes are keyed by it.
	ID uuid.UUID `json:"id"`
	// Type is the frozen wire name, such as "order.placed". A command has the name of its step, such as "place".
	Type string `json:"type"`
	// Schema is the version of the contract the data was written with, from 1.
	Schema int `json:"schema"`
	// Source is the service that wrote the message.
	Source string `json:"source"`
	// Stream is the stream the event is part of, such as "order/0198…". Empty for commands and timers.
	Stream string `json:"stream,omitempty"`
	// Version is the place within the stream, 1..n without gaps. 0 for commands and timers.
	Version int64 `json:"version,omitempty"`
	// Saga is the correlation ID: the ID of the conversation, here of the order.
	Saga uuid.UUID `json:"saga"`
	// Causation is the ID of the message that directly caused this one.
	Causation uuid.UUID `json:"causation"`
	// Hops is the length of the chain of causes; see MaxHops.
	Hops int `json:"hops"`
	// Actor is on whose behalf the saga began, for people who read the log: "customer:ada", "staff", "timer".
	Actor string `json:"actor,omitempty"`
	// At is when it was recorded, in UTC with microseconds: what Postgres keeps.
	At time.Time `json:"at"`
}

// Record is an event as the log keeps it and the wire carries it: the envelope and the data as JSON.
type Record struct {
	Envelope
	// Body is the JSON encoding of the data, see package contract.
	Body []byte `json:"-"`
}

// Follow gives the envelope of a message caused by cause: saga and actor are carried over, causation is the cause, and
// the chain is one hop longer. It is the only way by which the platform makes envelopes, so provenance cannot be
// forgotten.
func Follow(cause Envelope) Envelope {
	return Envelope{Saga: cause.Saga, Causation: cause.ID, Hops: cause.Hops + 1, Actor: cause.Actor}
}

// NewID returns a new UUIDv7: time-ordered, so that index inserts land on the same pages.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// space is the namespace of the IDs that are derived rather than drawn.
var space = uuid.MustParse("6ba7b815-9dad-11d1-80b4-00c04fd430c8")

// DerivedID returns the same ID for the same saga and name (UUIDv5). Timers and messages made of an Idempotency-Key
// have one, so that whoever knows the two can name them again.
func DerivedID(saga uuid.UUID, name string) uuid.UUID {
	return uuid.NewSHA1(space, append(saga[:], name...))
}
