package flow

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// ViewsStep is the name under which the views of a service are in the inbox: they take part in each message as one.
const ViewsStep = "views"

// turn is one batch in memory: what was read, what was decided upon it, and what is to be written.
type turn struct {
	flow  *Flow
	now   time.Time
	newID func() uuid.UUID

	// What was read.
	docs     map[store.Key]*doc
	claims   map[store.ClaimKey]store.Claim
	barriers map[store.BarrierKey]*barrier

	// What is still to be read. While collecting, nothing is decided.
	collecting bool
	missing    []store.Key
	wanted     store.Request

	// What is to be written, besides the docs and barriers that changed.
	claimed  []store.Claim
	events   []event.Record
	timers   []store.Timer
	disarmed []uuid.UUID
	split    bool // a timer is both armed and disarmed: that takes two commits
	touched  bool // by the message at hand
}

type doc struct {
	was, version int64
	body         []byte
	value        any
}

type barrier struct {
	read store.Barrier // State "" when there is none
	now  store.Barrier
}

func newTurn(f *Flow, now time.Time, newID func() uuid.UUID) *turn {
	return &turn{
		flow: f, now: now.UTC().Truncate(time.Microsecond), newID: newID, collecting: true,
		docs: map[store.Key]*doc{}, claims: map[store.ClaimKey]store.Claim{}, barriers: map[store.BarrierKey]*barrier{},
	}
}

// guard turns a panic of the service's own code into an error of the message at hand.
func (t *turn) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// collect notes what the message will want to see.
func (t *turn) collect(m *Message) error {
	steps, folds := t.flow.byType[m.Type], t.foldsFor(m)
	if len(steps)+len(folds) == 0 {
		return fmt.Errorf("%w: %s does not hear %q", ErrPoison, t.flow.Service, m.Type)
	}
	for _, s := range steps {
		if s.command != nil && reflect.TypeOf(m.Payload) != s.command {
			return fmt.Errorf("%w: the command %q takes %v, not %T", ErrPoison, s.name, s.command, m.Payload)
		}
		t.wanted.Claims = append(t.wanted.Claims, store.ClaimKey{Step: s.name, Message: m.ID})
		if key, ok := t.barrierKey(s, m); ok {
			t.wanted.Barriers = append(t.wanted.Barriers, key)
		}
		s.decide(t, input{message: *m})
		for _, typ := range s.emits {
			for _, v := range t.flow.folds[typ] {
				if v.keys == nil {
					t.peek(store.Key{Table: v.table, Key: m.Saga.String()})
				}
			}
		}
	}
	if len(folds) > 0 {
		t.wanted.Claims = append(t.wanted.Claims, store.ClaimKey{Step: ViewsStep, Message: m.ID})
		for _, v := range folds {
			if v.journal {
				continue
			}
			for _, key := range v.keysOf(m.Payload.(proto.Message), m.Envelope) {
				t.peek(store.Key{Table: v.table, Key: key})
			}
		}
	}
	return nil
}

// foldsFor are the views that fold a message when it is heard: the service's own events were folded when written.
func (t *turn) foldsFor(m *Message) []*view {
	if m.Source == t.flow.Service {
		return nil
	}
	return t.flow.folds[m.Type]
}

// barrierKey is the barrier that decides whether the step may run; not all have one.
func (t *turn) barrierKey(s *step, m *Message) (store.BarrierKey, bool) {
	switch {
	case s.undoes != "":
		return store.BarrierKey{Saga: m.Saga, Step: s.undoes}, true
	case s.bars != "":
		return store.BarrierKey{Saga: m.Saga, Step: s.bars}, true
	case t.flow.barred(s):
		return store.BarrierKey{Saga: m.Saga, Step: s.name}, true
	}
	return store.BarrierKey{}, false
}

// peek notes a document as needed, unless it is there.
func (t *turn) peek(key store.Key) bool {
	if _, ok := t.docs[key]; ok {
		return true
	}
	if !slices.Contains(t.missing, key) {
		t.missing = append(t.missing, key)
	}
	return false
}

// load returns the value of a document; a fresh one when it has not been read yet, and then the turn is played again.
func (t *turn) load(key store.Key, fresh func() any) any {
	if !t.peek(key) {
		return fresh()
	}
	d := t.docs[key]
	if d.value == nil {
		d.value = fresh()
		if d.body != nil {
			if err := json.Unmarshal(d.body, d.value); err != nil {
				panic(fmt.Sprintf("the document %s of %s cannot be read: %v", key.Key, key.Table, err))
			}
		}
	}
	return d.value
}

// read asks the store for all that is wanted and not there yet.
func (t *turn) read(ctx context.Context, tx store.Tx) error {
	t.wanted.Docs = t.missing
	for _, key := range t.missing {
		t.docs[key] = &doc{}
	}
	for _, key := range t.wanted.Barriers {
		t.barriers[key] = &barrier{read: store.Barrier{BarrierKey: key}}
	}
	found, err := tx.Read(ctx, t.wanted)
	if err != nil {
		return err
	}
	t.missing, t.wanted, t.collecting = nil, store.Request{}, false
	for _, c := range found.Claims {
		t.claims[store.ClaimKey{Step: c.Step, Message: c.Message}] = c
	}
	for _, d := range found.Docs {
		t.docs[d.Key] = &doc{was: d.Version, version: d.Version, body: d.Body}
	}
	for _, b := range found.Barriers {
		t.barriers[b.BarrierKey] = &barrier{read: b}
	}
	return nil
}

// reset forgets all that was decided.
func (t *turn) reset() {
	for _, d := range t.docs {
		d.version, d.value = d.was, nil
	}
	for _, b := range t.barriers {
		b.now = b.read
	}
	t.claimed, t.events, t.timers, t.disarmed, t.split = nil, nil, nil, nil, false
}

// decide plays the whole batch over what was read; false when more must be read first. Messages with an error in their
// verdict are left out. Decisions are pure, so the batch can be played again without the message that spoiled it.
func (t *turn) decide(batch []Message, verdicts []Verdict) bool {
	for again := true; again; {
		again = false
		t.reset()
		done := map[store.ClaimKey]bool{}
		for i := range batch {
			if verdicts[i].Err != nil {
				continue
			}
			t.touched = false
			first := len(t.events)
			err := t.guard(func() (err error) {
				verdicts[i], err = t.handle(&batch[i], done)
				return err
			})
			if len(t.missing) > 0 {
				continue // all is played again; the others say what they need meanwhile
			}
			if err != nil {
				verdicts[i] = Verdict{Err: err}
				if t.touched {
					again = true
					break
				}
				continue
			}
			verdicts[i].Events = t.events[first:len(t.events):len(t.events)]
		}
		if len(t.missing) > 0 {
			return false
		}
	}
	return true
}

// handle lets all steps and views have the message that have not had it.
func (t *turn) handle(m *Message, done map[store.ClaimKey]bool) (Verdict, error) {
	var v Verdict
	heard := 0
	claim := func(step string) bool {
		key := store.ClaimKey{Step: step, Message: m.ID}
		if c, ok := t.claims[key]; ok {
			v.First = c
			return false
		}
		if done[key] {
			// The same message twice in one batch.
			v.First = store.Claim{Step: step, Message: m.ID, Saga: m.Saga, Digest: m.Digest}
			for _, c := range t.claimed {
				if c.Step == step && c.Message == m.ID {
					v.First = c
				}
			}
			return false
		}
		heard++
		return true
	}
	claimed := func(step string) {
		done[store.ClaimKey{Step: step, Message: m.ID}] = true
		t.claimed = append(t.claimed, store.Claim{Step: step, Message: m.ID, Saga: m.Saga, Digest: m.Digest})
		t.touched = true
	}
	// The views first, so that a decision can look at a copy that the message itself has brought up to date.
	if folds := t.foldsFor(m); len(folds) > 0 && claim(ViewsStep) {
		claimed(ViewsStep)
		for _, view := range folds {
			t.fold(view, m.Payload.(proto.Message), m.Envelope)
		}
	}
	for _, s := range t.newestFirst(t.flow.byType[m.Type], m) {
		if !claim(s.name) {
			continue
		}
		outcome, suppressed, ok, err := t.ask(s, m)
		if err != nil || !ok {
			return v, err
		}
		if outcome.notYet != "" {
			return v, fmt.Errorf("step %q is not ready for %s: %s", s.name, m.Type, outcome.notYet)
		}
		if outcome.refusal != nil {
			if s.command == nil {
				return v, fmt.Errorf("step %q refused %s: events are facts, what is to be done about them is said by events", s.name, m.Type)
			}
			v.Refusal = outcome.refusal
			return v, nil
		}
		v.Suppressed = v.Suppressed || suppressed
		claimed(s.name)
		if err := t.apply(s, m, outcome); err != nil {
			return v, fmt.Errorf("step %q: %w", s.name, err)
		}
	}
	v.Duplicate = heard == 0
	return v, nil
}

// newestFirst orders the compensations among the steps by what they undo: what was done last is undone first.
func (t *turn) newestFirst(steps []*step, m *Message) []*step {
	if len(steps) < 2 || steps[1].undoes == "" {
		return steps
	}
	position := func(s *step) int64 {
		if b := t.barriers[store.BarrierKey{Saga: m.Saga, Step: s.undoes}]; s.undoes != "" && b != nil {
			return b.now.Position
		}
		return -1
	}
	sorted := slices.Clone(steps)
	slices.SortStableFunc(sorted, func(a, b *step) int { return int(position(b) - position(a)) })
	return sorted
}

// ask gets the decision of a step, with the barrier's leave; ok is false when states are missing.
func (t *turn) ask(s *step, m *Message) (o Outcome, suppressed, ok bool, err error) {
	in := input{message: *m, answer: m.asked[s].value, gaveUp: m.asked[s].gaveUp}
	decide := s.decide
	if in.gaveUp {
		decide = s.giveUp
	}
	key, guarded := t.barrierKey(s, m)
	if !guarded {
		o, ok = decide(t, in)
		return o, false, ok, nil
	}
	b := t.barriers[key]
	switch {
	case s.bars != "":
		in.won = b.now.State == "" || b.now.State == store.Suppressed
		if b.now.State == "" {
			b.now.State = store.Suppressed
			t.touched = true
		}
	case s.undoes == "":
		if b.now.State == store.Suppressed {
			return Outcome{}, true, true, nil
		}
		if b.now.State == store.GivenUp && !in.gaveUp {
			return o, false, false, fmt.Errorf("step %q was given up before: its key is void", s.name)
		}
	case b.now.State == "":
		b.now.State = store.Suppressed
		t.touched = true
		if s.never == nil {
			return Outcome{}, true, true, nil
		}
		decide = s.never
	case b.now.State == store.Done:
		if in.fact, err = fact(b.now.Fact); err != nil {
			return o, false, false, err
		}
		o, ok = decide(t, in)
		if ok && len(o.events) == 0 {
			return o, false, false, fmt.Errorf("step %q undid %s without an event that says so", s.name, s.fact)
		}
		return o, false, ok, nil
	default:
		return Outcome{}, false, true, nil
	}
	o, ok = decide(t, in)
	return o, false, ok, nil
}

// apply appends what a step decided: events to their streams, states and views after them, barrier, timers.
func (t *turn) apply(s *step, m *Message, o Outcome) error {
	failed := false
	var made []*event.Record
	for _, fact := range o.events {
		e, ok := contract.Of(fact)
		if !ok || !s.mayEmit(e.Type) {
			return fmt.Errorf("emitted %T, which it does not declare", fact)
		}
		r, err := t.append(m, e, fact)
		if err != nil {
			return err
		}
		if r == nil {
			continue // the other events say what they need, too
		}
		failed = failed || e.Failure
		made = append(made, r)
	}
	if len(t.missing) > 0 {
		return nil
	}
	if key, guarded := t.barrierKey(s, m); guarded && len(made) > 0 {
		b := t.barriers[key]
		switch {
		case s.undoes != "" && b.now.State == store.Done:
			b.now.State, b.now.UndoneBy = store.Undone, made[0].ID
		case s.undoes == "" && s.bars == "" && b.now.State == "" && !failed:
			typ := t.flow.factOf(s)
			if i := slices.IndexFunc(made, func(r *event.Record) bool { return r.Type == typ }); i >= 0 {
				b.now.State, b.now.Fact = store.Done, made[i]
				b.now.Position = 1<<62 + int64(len(t.events)) // after all that is in the log; the store numbers it
			}
		}
	}
	for _, timer := range o.timers {
		body, err := contract.Marshal(timer.message)
		if err != nil {
			return err
		}
		e, _ := contract.Of(timer.message)
		if e == nil || e.Class != contract.ClassTimer || e.Owner != t.flow.Service {
			return fmt.Errorf("%T is not a timer of %s", timer.message, t.flow.Service)
		}
		envelope := event.Follow(m.Envelope)
		envelope.ID, envelope.Type, envelope.Schema = event.DerivedID(m.Saga, timer.name), e.Type, e.Version
		envelope.Source, envelope.At = t.flow.Service, t.now
		t.split = t.split || slices.Contains(t.disarmed, envelope.ID)
		t.timers = append(t.timers, store.Timer{Record: event.Record{Envelope: envelope, Body: body}, DueAt: timer.due})
	}
	for _, name := range o.disarm {
		// In one commit the store would not see the one before the other.
		if id := event.DerivedID(m.Saga, name); slices.ContainsFunc(t.timers, func(timer store.Timer) bool { return timer.ID == id }) {
			t.split = true
		}
		t.disarmed = append(t.disarmed, event.DerivedID(m.Saga, name))
	}
	return nil
}

// append adds one event to its stream; nil when the stream must be read first.
func (t *turn) append(m *Message, e *contract.Event, fact proto.Message) (*event.Record, error) {
	name := e.StreamOf(fact)
	if strings.HasSuffix(name, "/") {
		return nil, fmt.Errorf("emitted %s without a value in %s, its key", e.Type, e.KeyField)
	}
	body, err := contract.Marshal(fact)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e.Type, err)
	}
	stream := t.flow.streams[e.Stream]
	key := store.Key{Table: store.States, Key: name}
	envelope := event.Follow(m.Envelope)
	envelope.ID, envelope.Type, envelope.Schema, envelope.Source = t.newID(), e.Type, e.Version, t.flow.Service
	envelope.Stream, envelope.At = name, t.now
	t.peek(key)
	for _, v := range t.flow.folds[e.Type] {
		t.want(v, fact, envelope)
	}
	if len(t.missing) > 0 {
		return nil, nil
	}
	state := t.load(key, stream.fresh)
	t.touched = true
	d := t.docs[key]
	d.version++
	envelope.Version = d.version
	stream.evolve(state, fact)
	t.events = append(t.events, event.Record{Envelope: envelope, Body: body})
	for _, v := range t.flow.folds[e.Type] {
		t.fold(v, fact, envelope)
	}
	return &t.events[len(t.events)-1], nil
}

// want notes the documents that a view folds the event into.
func (t *turn) want(v *view, fact proto.Message, e event.Envelope) {
	if v.journal {
		return
	}
	for _, k := range v.keysOf(fact, e) {
		t.peek(store.Key{Table: v.table, Key: k})
	}
}

// fold brings a view up to date with one event.
func (t *turn) fold(v *view, fact proto.Message, e event.Envelope) {
	for _, k := range v.keysOf(fact, e) {
		key := store.Key{Table: v.table, Key: k}
		if v.journal {
			t.docs[key] = &doc{}
		}
		value := t.load(key, v.fresh)
		if len(t.missing) > 0 {
			return
		}
		d := t.docs[key]
		if v.copies && e.Version <= d.version {
			continue
		}
		t.touched = true
		v.fold(value, fact, e)
		d.version++
		if v.copies {
			d.version = e.Version
		}
	}
}

// idle tells that there is nothing to write.
func (t *turn) idle() bool { return len(t.claimed) == 0 }

// changes is what the turn came to.
func (t *turn) changes() (store.Changes, error) {
	if t.split {
		return store.Changes{}, errors.New("a timer is armed and disarmed in one commit")
	}
	c := store.Changes{Claims: t.claimed, Events: t.events, Timers: t.timers, Disarmed: t.disarmed}
	for key, d := range t.docs {
		if d.version == d.was {
			continue
		}
		body, err := json.Marshal(d.value)
		if err != nil {
			return c, fmt.Errorf("encode the document %s of %s: %w", key.Key, key.Table, err)
		}
		c.Docs = append(c.Docs, store.Doc{Key: key, Version: d.version, Was: d.was, Body: body})
	}
	for key, b := range t.barriers {
		if b.now.State == b.read.State {
			continue
		}
		b.now.BarrierKey, b.now.Known = key, b.read.Known
		c.Barriers = append(c.Barriers, b.now)
	}
	// In the order of their keys, so that two instances wait for each other and do not lock each other out.
	slices.SortFunc(c.Docs, func(a, b store.Doc) int {
		return cmp.Or(strings.Compare(a.Table, b.Table), strings.Compare(a.Key.Key, b.Key.Key))
	})
	slices.SortFunc(c.Barriers, func(a, b store.Barrier) int {
		return cmp.Or(bytes.Compare(a.Saga[:], b.Saga[:]), strings.Compare(a.Step, b.Step))
	})
	return c, nil
}
