// Package flow lets a service say its part in a choreography once, as one value, and carries it out.
//
// A flow is made of steps. A step hears one type of message and decides, purely, from state and message to events:
//
//	var Flow = flow.New("pay",
//		flow.Ask("charge", payments, capture, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}),
//		flow.Compensate("refund", "charge", payments, refund).When(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}),
//	)
//
// Queue bindings, the picture of the whole, its verification and the contract documents are computed from these values
// (Graph, Verify). What a step decides is carried out by the Door: inbox, event log, states, views, barrier and outbox
// change in one commit, and many messages share one.
package flow

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/store"
)

// Flow is a service's part in the choreography. But for Configure, before its first use, it is immutable and safe for
// concurrent use.
type Flow struct {
	// Service is the name of the service: of its exchange, its queue, its database and its broker user.
	Service string
	steps   []*step
	views   []*view
	// byType has the steps that hear a message, in the order in which they were declared; compensations first, because
	// what follows a failure must find it undone.
	byType  map[string][]*step
	folds   map[string][]*view
	streams map[string]*stream
}

// Part is something a flow is made of: a step, a stream or a view.
type Part interface{ join(*Flow) }

// New makes a flow of its parts. Wrong wiring is a mistake of the programmer: New panics with all that it finds.
func New(service string, parts ...Part) *Flow {
	f := &Flow{Service: service, byType: map[string][]*step{}, folds: map[string][]*view{}, streams: map[string]*stream{}}
	for _, p := range parts {
		p.join(f)
	}
	for _, s := range f.steps {
		for _, typ := range s.hears {
			f.byType[typ] = append(f.byType[typ], s)
		}
	}
	for _, steps := range f.byType {
		slices.SortStableFunc(steps, func(a, b *step) int { return rank(a) - rank(b) })
	}
	for _, v := range f.views {
		for _, typ := range v.hears {
			f.folds[typ] = append(f.folds[typ], v)
		}
	}
	if err := f.check(); err != nil {
		panic(fmt.Sprintf("flow %s: %v", service, err))
	}
	return f
}

func rank(s *step) int {
	if s.undoes != "" {
		return 0
	}
	return 1
}

// check finds what is wrong within one service; Verify looks at all of them together.
func (f *Flow) check() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	seen := map[string]bool{}
	for _, s := range f.steps {
		if seen[s.name] {
			bad("two steps are named %q: a step's name is the key of its inbox and cannot be shared", s.name)
		}
		seen[s.name] = true
		if s.name == ViewsStep {
			bad("no step can be named %q: that is the key of the views in the inbox", ViewsStep)
		}
		if len(s.hears) == 0 {
			bad("step %q hears nothing: a compensation needs When", s.name)
		}
		for _, typ := range s.emits {
			e, _ := contract.Lookup(typ)
			if e.Owner != f.Service {
				bad("step %q emits %s, which only %s may write", s.name, typ, e.Owner)
			}
			if e.Class != contract.ClassTimer && f.streams[e.Stream] == nil {
				bad("step %q emits %s, but there is no stream %q in the flow", s.name, typ, e.Stream)
			}
		}
		if s.undoes != "" {
			if done := f.step(s.undoes); done == nil || !slices.Contains(done.emits, s.fact) {
				bad("step %q undoes %s of step %q, which does not emit it", s.name, s.fact, s.undoes)
			}
		}
		if s.bars != "" && f.step(s.bars) == nil {
			bad("step %q judges over step %q, which does not exist", s.name, s.bars)
		}
		if err := s.retry.check(); err != nil {
			bad("the retry policy of step %q: %w", s.name, err)
		}
	}
	return errors.Join(problems...)
}

// Hears lists the wire types the service's queue must be bound to: everything its steps and views hear from exchanges,
// its own events included when a step hears them. Sorted.
func (f *Flow) Hears() []string {
	var types []string
	add := func(typ string, own bool) {
		e, ok := contract.Lookup(typ)
		if ok && e.Class != contract.ClassTimer && (own || e.Owner != f.Service) && !slices.Contains(types, typ) {
			types = append(types, typ)
		}
	}
	for typ := range f.byType {
		add(typ, true)
	}
	for typ := range f.folds {
		// Views see the service's own events when they are written, in the same commit.
		add(typ, false)
	}
	slices.Sort(types)
	return types
}

// Handles tells whether a message of this type can be handled here: it is heard, or it is a timer of this service.
func (f *Flow) Handles(typ string) bool { return len(f.byType[typ]) > 0 || len(f.folds[typ]) > 0 }

// Tables lists the tables of documents that the flow needs beside the states: its copies and views.
func (f *Flow) Tables() []string {
	tables := make([]string, len(f.views))
	for i, v := range f.views {
		tables[i] = v.table
	}
	return tables
}

func (f *Flow) step(name string) *step {
	for _, s := range f.steps {
		if s.name == name {
			return s
		}
	}
	return nil
}

// barred tells whether the step can be undone, forbidden or given up with its key void, and so needs the barrier.
func (f *Flow) barred(s *step) bool {
	return s.void != nil || slices.ContainsFunc(f.steps, func(o *step) bool { return o.undoes == s.name || o.bars == s.name })
}

// factOf is the event that stands for a guarded step: the one its compensation undoes, or the first it declares.
func (f *Flow) factOf(s *step) string {
	for _, other := range f.steps {
		if other.undoes == s.name {
			return other.fact
		}
	}
	return s.emits[0]
}

// wireType returns the wire name of a declared message.
func wireType(m proto.Message) string {
	e, ok := contract.Of(m)
	if !ok {
		panic(fmt.Sprintf("flow: %T is not a declared event: give it the event option in its .proto", m))
	}
	return e.Type
}

func wireTypes(messages []proto.Message) []string {
	types := make([]string, len(messages))
	for i, m := range messages {
		types[i] = wireType(m)
	}
	return types
}

// States is the table of stream states, for those who read them.
const States = store.States
