package flow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"hotchoc/pkg/crash"
)

// ErrAway marks the error of a call that did not reach the outside at all: nothing was asked. It is nobody's failed attempt;
// the service stops consuming until the outside is back.
var ErrAway = errors.New("the outside is away")

// Away marks err with ErrAway if no connection could be made; any other error comes back as it is. For the clients of the
// outside.
func Away(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// answer is what the outside said to a step.
type answer struct {
	value   any
	gaveUp  bool
	because error
}

// asking are the steps that have to ask the outside for this message, or to void what was asked before.
func (f *Flow) asking(m Message) (steps []*step) {
	for _, s := range f.byType[m.Type] {
		if s.ask != nil || s.spent(m) {
			steps = append(steps, s)
		}
	}
	return steps
}

// Asks tells whether the message must go through AskOutside before the door.
func (f *Flow) Asks(m Message) bool { return len(f.asking(m)) > 0 }

// AskOutside makes the calls to the outside that the steps of a message want, and returns the message with the answers.
// A step whose retry budget is spent voids its key instead, if it can give up. An error means that an outcome is unknown:
// nothing may be decided, the message is tried again.
func (d *Door) AskOutside(ctx context.Context, m Message) (Message, error) {
	asked := map[*step]answer{}
	for _, s := range d.flow.asking(m) {
		a, err := d.askOutside(ctx, s, m)
		if err != nil {
			return m, fmt.Errorf("step %q asked under %s: %w", s.name, s.key(m.Envelope), err)
		}
		asked[s] = a
	}
	m.asked = asked
	return m, nil
}

// spent tells that the message has used up the budget of a step that can give up.
func (s *step) spent(m Message) bool { return s.gives && m.Attempt > s.retry.Attempts }

func (d *Door) askOutside(ctx context.Context, s *step, m Message) (answer, error) {
	because := errors.New("the retry budget is spent")
	if !s.spent(m) && s.ask != nil {
		value, err := s.outside(ctx, s.ask, s.retry.Timeout, m)
		if err == nil || !s.gives || m.Attempt < s.retry.Attempts || errors.Is(err, ErrAway) {
			return answer{value: value}, err
		}
		because = err
	}
	if s.void == nil {
		return answer{gaveUp: true, because: because}, nil
	}
	if ours, err := d.bar(ctx, s, m); err != nil {
		return answer{}, fmt.Errorf("bar before giving up: %w", err)
	} else if !ours {
		return answer{gaveUp: true, because: because}, nil // the door will see that it is a duplicate
	}
	crash.At("ask.barred", m.Type)
	value, err := s.outside(ctx, s.void, Compensation.Timeout, m)
	if err != nil {
		return answer{}, fmt.Errorf("void after giving up: %w", err)
	}
	return answer{value: value, gaveUp: true, because: because}, nil
}

// outside makes one call. It is not cut off when the service stops: its outcome would be unknown.
func (s *step) outside(ctx context.Context, f func(context.Context, Call) (any, error), timeout time.Duration, m Message) (value any, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	crash.At("ask.before", m.Type)
	value, err = f(ctx, s.call(m))
	crash.At("ask.after", m.Type)
	return value, err
}
