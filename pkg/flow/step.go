package flow

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
)

// step is one step, its types erased. The closures below are the only place where types are put on again.
type step struct {
	name    string
	hears   []string // wire types; for a command the step's name
	emits   []string
	command reflect.Type // of a command's message, nil for events
	retry   Retry
	undoes  string // the step a compensation undoes
	fact    string // the wire type it undoes
	bars    string // the step a judge decides over
	settles []string
	final   string // why it is not compensated
	gives   bool   // up, when the budget is spent

	ask    func(context.Context, Call) (any, error) // nil without Ask
	void   func(context.Context, Call) (any, error) // of GiveUp
	decide func(*turn, input) (Outcome, bool)       // false: states are missing, load and come again
	giveUp func(*turn, input) (Outcome, bool)
	never  func(*turn, input) (Outcome, bool) // of a compensation whose fact never was
}

// input is what a decision can get beside its states.
type input struct {
	message Message
	answer  any
	fact    proto.Message
	won     bool
	gaveUp  bool
}

// Call is what an Ask knows of the message it is made for.
type Call struct {
	// Key is the same at every attempt, and can be derived later by the compensation: saga and step. The outside must
	// do at most once what is asked under one key, and must refuse a key that was voided.
	Key string
	// Envelope is the message's.
	event.Envelope
	payload any
}

// Failure is what a compensation learns of the Failed event that caused it.
type Failure struct {
	// Type is the wire type of the Failed event, such as "make.failed".
	Type           string
	Reason, Detail string
}

// Step is a step under construction: On, Ask, Command, Judge and Compensate begin one, the methods complete it.
type Step[S, M any] struct {
	*step
	from Source[S]
}

func (s *Step[S, M]) join(f *Flow) { f.steps = append(f.steps, s.step) }

// On begins a step that hears an event, which one follows from the argument of decide.
func On[S any, M proto.Message](name string, from Source[S], decide func(*S, M) Outcome) *Step[S, M] {
	s := &Step[S, M]{from: from, step: &step{name: name, hears: []string{wireType(*new(M))}, retry: Forward}}
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return decide(state, in.message.Payload.(M)) })
	}
	return s
}

// Ask begins a step that asks the outside before it decides. ask runs before the transaction, with a timeout and a
// limit on how many run at once; its answer is an input of decide. An error of ask means that the outcome is unknown:
// it is asked again, under the same key.
func Ask[S any, M proto.Message, A any](name string, from Source[S], ask func(context.Context, Call, M) (A, error), decide func(*S, M, A) Outcome) *Step[S, M] {
	s := &Step[S, M]{from: from, step: &step{name: name, hears: []string{wireType(*new(M))}, retry: Forward}}
	s.ask = func(ctx context.Context, c Call) (any, error) { return ask(ctx, c, c.payload.(M)) }
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return decide(state, in.message.Payload.(M), answerOf[A](in)) })
	}
	return s
}

// Command begins a step that a person causes, over HTTP. C is a plain struct of the service's own.
func Command[S, C any](name string, from Source[S], decide func(*S, C) Outcome) *Step[S, C] {
	s := &Step[S, C]{from: from, step: &step{name: name, hears: []string{name}, command: reflect.TypeFor[C](), retry: Forward}}
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return decide(state, in.message.Payload.(C)) })
	}
	return s
}

// Judge begins a step that decides a race between its message and another step of the same saga: won is true if the
// other step had not run, and from then on it never will. Whatever instances handle the two, and in whatever order, at
// most one of them wins.
func Judge[S any, M proto.Message](name, over string, from Source[S], decide func(s *S, m M, won bool) Outcome) *Step[S, M] {
	s := On(name, from, func(*S, M) Outcome { panic("unreachable") })
	s.bars = over
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return decide(state, in.message.Payload.(M), in.won) })
	}
	return s
}

// Compensate begins a step that undoes what another step of this service did in a saga, when one of the Failed events of
// When arrives. undo gets the recorded fact from the service's own event log. There are three cases, decided by the
// platform in the same transaction: the fact stands, then undo is called and must emit the event that says so; it is
// already undone, then nothing happens; it never was, then the step undone is barred for ever in this saga.
func Compensate[S any, F proto.Message](name, undoes string, from Source[S], undo func(*S, F, Failure) Outcome) *Step[S, F] {
	s := &Step[S, F]{from: from, step: &step{name: name, undoes: undoes, fact: wireType(*new(F)), retry: Compensation}}
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return undo(state, in.fact.(F), in.failure()) })
	}
	return s
}

// CompensateAsk is Compensate with a call to the outside before. void is called in all three cases, under the key of the
// step undone: a process may have died after the outside did it and before the log said so, and then only the outside
// knows. It must undo what was done under the key, if anything was, and refuse the key from then on.
func CompensateAsk[S any, F proto.Message, A any](name, undoes string, from Source[S], void func(context.Context, Call) (A, error), undo func(*S, F, Failure, A) Outcome) *Step[S, F] {
	s := &Step[S, F]{from: from, step: &step{name: name, undoes: undoes, fact: wireType(*new(F)), retry: Compensation}}
	s.ask = func(ctx context.Context, c Call) (any, error) { return void(ctx, c) }
	s.decide = func(t *turn, in input) (Outcome, bool) {
		return with(t, from, in, func(state *S) Outcome { return undo(state, in.fact.(F), in.failure(), answerOf[A](in)) })
	}
	return s
}

// Emits declares the events the step may emit, and Compensate's undoing events. Anything else it emits is an error.
func (s *Step[S, M]) Emits(events ...proto.Message) *Step[S, M] {
	s.emits = append(s.emits, wireTypes(events)...)
	return s
}

// When declares the Failed events on which a compensation undoes.
func (s *Step[S, M]) When(failures ...proto.Message) *Step[S, M] {
	for _, m := range failures {
		if e, _ := contract.Of(m); e == nil || !e.Failure {
			panic(fmt.Sprintf("flow: step %q compensates on %T, which is not declared as a failure", s.name, m))
		}
	}
	s.hears = append(s.hears, wireTypes(failures)...)
	return s
}

// Never declares what a compensation decides when the fact never was: it may tell the others so. The step it bars will
// not run any more.
func (s *Step[S, M]) Never(decide func(*S, Failure, event.Envelope) Outcome) *Step[S, M] {
	s.never = func(t *turn, in input) (Outcome, bool) {
		return with(t, s.from, in, func(state *S) Outcome { return decide(state, in.failure(), in.message.Envelope) })
	}
	return s
}

// GiveUp declares how the step ends when its retry budget is spent: void, if not nil, bars the key of its Ask (it has the
// long budget of a compensation), then decide emits the step's Failed event and the saga rolls back.
func (s *Step[S, M]) GiveUp(void func(context.Context, Call) (any, error), decide func(s *S, m M, voided any) Outcome) *Step[S, M] {
	s.gives, s.void = true, void
	s.giveUp = func(t *turn, in input) (Outcome, bool) {
		return with(t, s.from, in, func(state *S) Outcome { return decide(state, in.message.Payload.(M), in.answer) })
	}
	return s
}

// Settles declares facts of this service that the step brings to their end in the same commit, by consuming or by
// releasing what they hold; no compensation is needed past this step.
func (s *Step[S, M]) Settles(facts ...proto.Message) *Step[S, M] {
	s.settles = append(s.settles, wireTypes(facts)...)
	return s
}

// NotCompensated declares that what the step does cannot or need not be undone, and why.
func (s *Step[S, M]) NotCompensated(why string) *Step[S, M] {
	s.final = why
	return s
}

// Retry sets the step's policy; see Forward and Compensation for the defaults.
func (s *Step[S, M]) Retry(r Retry) *Step[S, M] {
	if r.Timeout == 0 {
		r.Timeout = s.retry.Timeout
	}
	s.retry = r
	return s
}

// with loads the states and calls the decision; false when they are not in memory yet.
func with[S any](t *turn, from Source[S], in input, decide func(*S) Outcome) (Outcome, bool) {
	missing := len(t.missing)
	state := from.bind(Reader{t}, in.message)
	if len(t.missing) > missing || t.collecting {
		return Outcome{}, false
	}
	return decide(state), true
}

// key is what a step asks the outside under. A compensation uses that of the step it undoes.
func (s *step) key(e event.Envelope) string {
	name := s.name
	if s.undoes != "" {
		name = s.undoes
	}
	return e.Saga.String() + "/" + name
}

func (s *step) call(m Message) Call {
	return Call{Key: s.key(m.Envelope), Envelope: m.Envelope, payload: m.Payload}
}

func (s *step) mayEmit(typ string) bool { return slices.Contains(s.emits, typ) }

func (in input) failure() Failure {
	reason, detail := contract.Failure(in.message.Payload.(proto.Message))
	return Failure{Type: in.message.Type, Reason: reason, Detail: detail}
}

// answerOf is what the outside said to a step. Where A is an interface it may have said nil.
func answerOf[A any](in input) A {
	a, _ := in.answer.(A)
	return a
}
