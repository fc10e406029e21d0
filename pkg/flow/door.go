package flow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/crash"
	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// Limits of the door.
const (
	// MaxLoads is how often one batch may go back to the store because what it read named further keys.
	MaxLoads = 4
	// maxTries is how often a batch is decided again after a conflict, before it is split.
	maxTries = 8
)

// ErrPoison marks a message that can never be handled: it is set aside at once, with the reason.
var ErrPoison = errors.New("poison")

// Message is one thing to handle: an event or a timer from the broker, or a command from HTTP.
type Message struct {
	event.Envelope
	// Payload is the declared event, or the command's struct.
	Payload any
	// Digest is the hash of a command's request; a repeated ID with another digest is another request.
	Digest []byte
	// Attempt counts the tries at this message, from 1.
	Attempt int

	asked map[*step]answer
}

// Verdict is what became of one message. Exactly one of its cases holds: Err, Refusal, Duplicate, or handled.
type Verdict struct {
	// Err is trouble: nothing of the message was stored. ErrPoison, store.ErrUnavailable, or anything else, which is
	// worth another attempt.
	Err error
	// Refusal is the answer to a command that cannot be carried out. Nothing was stored.
	Refusal *Refusal
	// Duplicate says that the message had been handled before; First is what the inbox remembers of it.
	Duplicate bool
	First     store.Claim
	// Suppressed says that a step did not run because its saga was rolled back before.
	Suppressed bool
	// Events are what the message caused.
	Events []event.Record
}

// Door is the one place where messages change anything. Process may be called concurrently; it is synchronous and has no
// goroutines of its own, so that a simulation can step it.
type Door struct {
	flow  *Flow
	store store.Store
	now   func() time.Time
	newID func() uuid.UUID
}

// NewDoor returns the door of a service. now and newID are its clock and its source of IDs; nil means the real ones.
func NewDoor(f *Flow, s store.Store, now func() time.Time, newID func() uuid.UUID) *Door {
	if now == nil {
		now = time.Now
	}
	if newID == nil {
		newID = event.NewID
	}
	return &Door{flow: f, store: s, now: now, newID: newID}
}

// Process handles a batch in one transaction: claim in the inbox, read and lock the states, decide in memory one message
// after the other, append to the log, write states, views, inbox, barriers and outbox, commit. There is a verdict per
// message, in order. One bad message does not take the batch down: what it did is taken back in memory, and when the
// commit itself fails, the batch is halved until the culprit is alone.
func (d *Door) Process(ctx context.Context, batch []Message) []Verdict {
	verdicts := make([]Verdict, len(batch))
	d.process(ctx, batch, verdicts)
	return verdicts
}

func (d *Door) process(ctx context.Context, batch []Message, verdicts []Verdict) {
	for try := 1; ; try++ {
		err := d.commit(ctx, batch, verdicts)
		switch {
		case err == nil:
			return
		case errors.Is(err, store.ErrConflict) && try < maxTries:
			// Whoever was first is done: what we read next is true.
		case errors.Is(err, store.ErrUnavailable) && try == 1:
			// A lost connection says nothing about the commit. On a new one the inbox tells: what was committed comes
			// back as a duplicate.
		case len(batch) == 1 || errors.Is(err, store.ErrUnavailable):
			for i := range verdicts {
				verdicts[i] = Verdict{Err: err}
			}
			return
		default:
			half := len(batch) / 2
			d.process(ctx, batch[:half], verdicts[:half])
			d.process(ctx, batch[half:], verdicts[half:])
			return
		}
	}
}

// commit is one try at a batch.
func (d *Door) commit(ctx context.Context, batch []Message, verdicts []Verdict) error {
	t := newTurn(d.flow, d.now(), d.newID)
	for i := range batch {
		verdicts[i] = Verdict{Err: t.guard(func() error { return t.collect(&batch[i]) })}
	}
	tx, err := d.store.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for load := 1; ; load++ {
		if load > MaxLoads {
			return fmt.Errorf("the batch needed more than %d loads: a source keeps naming new keys", MaxLoads)
		}
		if err := t.read(ctx, tx); err != nil {
			return err
		}
		crashAt("door.read", batch)
		if t.decide(batch, verdicts) {
			break
		}
	}
	if t.idle() {
		return nil
	}
	changes, err := t.changes()
	if err != nil {
		return err
	}
	crashAt("door.decided", batch)
	if err := tx.Write(ctx, changes); err != nil {
		return err
	}
	crashAt("door.written", batch)
	if err := tx.Commit(); err != nil {
		return err
	}
	crashAt("door.committed", batch)
	return nil
}

// bar closes the way of a step that gives up, in a commit of its own, before its key is voided: there may be a copy of the
// message (a crash between its republication and its ack leaves one) that has been answered and is about to commit that.
// Either the copy was first: then what it asked for stands, must not be voided, and bar returns false. Or it finds its way
// barred. A step without a barrier is not undone by anybody, and the void of its key must be harmless after it was done.
func (d *Door) bar(ctx context.Context, s *step, m Message) (bool, error) {
	for try := 1; ; try++ {
		ours, err := d.barOnce(ctx, s, m)
		if !errors.Is(err, store.ErrConflict) || try == maxTries {
			return ours, err
		}
	}
}

func (d *Door) barOnce(ctx context.Context, s *step, m Message) (bool, error) {
	tx, err := d.store.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	key := store.BarrierKey{Saga: m.Saga, Step: s.name}
	found, err := tx.Read(ctx, store.Request{Claims: []store.ClaimKey{{Step: s.name, Message: m.ID}}, Barriers: []store.BarrierKey{key}})
	switch {
	case err != nil:
		return false, err
	case len(found.Claims) > 0:
		return false, nil
	case len(found.Barriers) > 0 || !d.flow.barred(s):
		return true, nil // given up or suppressed before; or there is nothing to bar
	}
	if err := tx.Write(ctx, store.Changes{Barriers: []store.Barrier{{BarrierKey: key, State: store.GivenUp}}}); err != nil {
		return false, err
	}
	return true, tx.Commit()
}

// crashAt is a point where tests let the process die, with the types of the messages at hand.
func crashAt(point string, batch []Message) {
	if crash.On {
		types := make([]string, len(batch))
		for i, m := range batch {
			types[i] = m.Type
		}
		crash.At(point, types...)
	}
}

// Accept makes a message of what came over the wire, or says why it is poison: nobody should have sent it here.
func (f *Flow) Accept(r event.Record) (Message, error) {
	bad := func(format string, args ...any) (Message, error) {
		return Message{}, fmt.Errorf("%w: %s", ErrPoison, fmt.Sprintf(format, args...))
	}
	e, ok := contract.Lookup(r.Type)
	switch {
	case r.Type == "":
		return bad("the message has no type")
	case !ok:
		return bad("%q is not a declared event type", r.Type)
	case !f.Handles(r.Type):
		return bad("%s does not hear %s", f.Service, r.Type)
	case r.Source != e.Owner:
		return bad("%s may only come from %s, not from %q", r.Type, e.Owner, r.Source)
	case r.ID == uuid.Nil:
		return bad("%s has no message ID", r.Type)
	case r.Saga == uuid.Nil:
		return bad("%s has no correlation ID", r.Type)
	case r.Schema < 1 || r.Schema > e.Version:
		return bad("%s has schema version %d; this service knows 1 to %d", r.Type, r.Schema, e.Version)
	case r.Hops > event.MaxHops:
		return bad("%s is %d hops away from the beginning of its saga, more than %d: the events go round in a loop", r.Type, r.Hops, event.MaxHops)
	}
	payload, err := e.Decode(r.Schema, r.Body)
	if err != nil {
		return bad("%v", err)
	}
	if e.Class != contract.ClassTimer {
		if stream := e.StreamOf(payload); r.Stream != stream || r.Version < 1 {
			return bad("%s says it is version %d of %q; its data belong to %q", r.Type, r.Version, r.Stream, stream)
		}
	}
	return Message{Envelope: r.Envelope, Payload: payload, Attempt: 1}, nil
}

// Command makes a message of a command: step is the name of the Command step, id is the message ID (derived from the
// Idempotency-Key, or new), saga the order it is about.
func NewCommand(step string, id, saga uuid.UUID, actor string, command any) Message {
	return Message{
		Envelope: event.Envelope{ID: id, Type: step, Saga: saga, Actor: actor},
		Payload:  command, Attempt: 1,
	}
}

// fact decodes a recorded event.
func fact(r *event.Record) (proto.Message, error) {
	e, ok := contract.Lookup(r.Type)
	if !ok {
		return nil, fmt.Errorf("the log holds %s of the unknown type %q", r.ID, r.Type)
	}
	return e.Decode(r.Schema, r.Body)
}
