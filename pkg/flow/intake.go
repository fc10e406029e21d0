package flow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// Defaults of IntakeConfig.
const (
	DefaultBatchMax = 384
	DefaultAsksMax  = 64
	DefaultRestMax  = 10 * time.Millisecond

	// A batch of at least so many messages is followed by a rest; at so many that wait the rest is over.
	restAfter = 3
	restUntil = 64
)

// IntakeConfig are the limits of an intake; the zero value has the defaults.
type IntakeConfig struct {
	// BatchMax is how many messages one commit carries at most. Default 384.
	BatchMax int
	// AsksMax is how many calls to the outside run at once. Default 64.
	AsksMax int
	// RestMax bounds the rest after a batch; see Intake. Default 10 ms; negative: no rest.
	RestMax time.Duration
	// Committed is told what each commit wrote to the log, after it lasted and before anybody gets a verdict. It must not
	// block: the relay publishes from there.
	Committed func([]event.Record)
	// Observed is told of each batch, for metrics.
	Observed func(batch []Message, verdicts []Verdict, took time.Duration)
}

// Intake is the way into the door: it asks the outside for those steps that want to know, and lets as many messages
// share a commit as arrive while the commit before is running (group commit): batches grow with the load.
//
// After a batch of several messages it rests, for as long as the batch took and at most RestMax, unless enough messages wait.
// Otherwise many small batches would use up the cores at a moderate load, when there is time, and everybody would wait for
// the cores instead. A message that comes alone is not held back. Safe for concurrent use.
type Intake struct {
	flow *Flow
	door *Door
	log  *zap.Logger
	cfg  IntakeConfig
	in   chan pending
	asks chan struct{}

	mu       sync.Mutex
	open     int           // what was taken and is not settled
	stopping bool          // with the last of it comes the end
	done     chan struct{} // the end: nothing is taken any more
}

// begin counts a message in; false when it is too late.
func (in *Intake) begin() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.done:
		return false
	default:
		in.open++
		return true
	}
}

// end counts a message out.
func (in *Intake) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.open--; in.open == 0 && in.stopping {
		close(in.done)
	}
}

type pending struct {
	message Message
	settle  func(Verdict)
}

// NewIntake returns an intake; nothing is handled until Run.
func NewIntake(f *Flow, d *Door, log *zap.Logger, cfg IntakeConfig) *Intake {
	if cfg.BatchMax == 0 {
		cfg.BatchMax = DefaultBatchMax
	}
	if cfg.AsksMax == 0 {
		cfg.AsksMax = DefaultAsksMax
	}
	if cfg.RestMax == 0 {
		cfg.RestMax = DefaultRestMax
	}
	return &Intake{
		flow: f, door: d, log: log, cfg: cfg,
		in: make(chan pending, cfg.BatchMax), asks: make(chan struct{}, cfg.AsksMax), done: make(chan struct{}),
	}
}

// ErrStopped is the verdict on what comes after the end.
var ErrStopped = fmt.Errorf("%w: the service is stopping", store.ErrUnavailable)

// Run handles batches until ctx is done and all that was taken is settled.
func (in *Intake) Run(ctx context.Context) error {
	go func() {
		<-ctx.Done()
		in.mu.Lock()
		if in.stopping = true; in.open == 0 {
			close(in.done)
		}
		in.mu.Unlock()
	}()
	batch := make([]pending, 0, in.cfg.BatchMax)
	messages := make([]Message, 0, in.cfg.BatchMax)
	var rested time.Time
	for {
		batch, messages = batch[:0], messages[:0]
		select {
		case p := <-in.in:
			batch = append(batch, p)
		case <-in.done:
			return nil
		}
		batch = in.rest(batch, rested)
	fill:
		for len(batch) < in.cfg.BatchMax {
			select {
			case p := <-in.in:
				batch = append(batch, p)
			default:
				break fill
			}
		}
		for _, p := range batch {
			messages = append(messages, p.message)
		}
		began := time.Now()
		verdicts := in.door.Process(ctx, messages)
		if in.cfg.Committed != nil {
			var events []event.Record
			for _, v := range verdicts {
				events = append(events, v.Events...)
			}
			if len(events) > 0 {
				in.cfg.Committed(events)
			}
		}
		if in.cfg.Observed != nil {
			in.cfg.Observed(messages, verdicts, time.Since(began))
		}
		for i, p := range batch {
			in.report(p.message, verdicts[i])
			p.settle(verdicts[i])
			in.end()
		}
		if len(batch) >= restAfter {
			rested = time.Now().Add(min(time.Since(began), in.cfg.RestMax))
		}
	}
}

// rest adds to a batch what arrives until the intake has rested, or until there is enough.
func (in *Intake) rest(batch []pending, rested time.Time) []pending {
	left := time.Until(rested)
	if left <= 0 {
		return batch
	}
	over := time.After(left)
	for len(batch) < min(restUntil, in.cfg.BatchMax) {
		select {
		case p := <-in.in:
			batch = append(batch, p)
		case <-over:
			return batch
		}
	}
	return batch
}

// Take hands in a message; settle is called once, with its verdict, and must not block. Take itself blocks when a batch
// is full and the next one too: that is the back pressure.
func (in *Intake) Take(ctx context.Context, m Message, settle func(Verdict)) {
	if !in.begin() {
		settle(Verdict{Err: ErrStopped})
		return
	}
	refuse := func(err error) {
		settle(Verdict{Err: err})
		in.end()
	}
	if !in.flow.Asks(m) {
		in.in <- pending{m, settle} // it is counted, so Run is still there
		return
	}
	select {
	case in.asks <- struct{}{}:
	case <-ctx.Done():
		refuse(ErrStopped)
		return
	}
	go func() {
		answered, err := in.door.AskOutside(ctx, m)
		<-in.asks
		if err != nil {
			in.report(m, Verdict{Err: err})
			refuse(err)
			return
		}
		for s, a := range answered.asked {
			if a.gaveUp {
				in.log.Warn("gave up", append(fields(m), zap.String("step", s.name), zap.Int("attempt", m.Attempt), zap.Error(a.because))...)
			}
		}
		in.in <- pending{answered, settle}
	}()
}

// Do hands in a command and waits for its verdict.
func (in *Intake) Do(ctx context.Context, m Message) Verdict {
	verdict := make(chan Verdict, 1)
	in.Take(ctx, m, func(v Verdict) { verdict <- v })
	return <-verdict
}

// Fate is what becomes of a message from the broker after its verdict.
type Fate struct {
	// Ack: it is done with.
	Ack bool
	// Requeue: the store or the outside is away; it must come again, and no further ones until they are back.
	Requeue bool
	// RetryAfter: it is tried again after this delay, one of Rungs.
	RetryAfter time.Duration
	// Dead: it is set aside, with the reason.
	Dead string
	// Step is the step whose policy decided.
	Step string
}

// Fate decides what becomes of a message that is not a command.
func (f *Flow) Fate(m Message, v Verdict) Fate {
	steps := f.byType[m.Type]
	switch {
	case v.Err == nil:
		return Fate{Ack: true}
	case errors.Is(v.Err, store.ErrUnavailable), errors.Is(v.Err, ErrAway):
		return Fate{Requeue: true}
	case errors.Is(v.Err, ErrPoison) || len(steps) == 0 && m.Attempt >= Forward.Attempts:
		return Fate{Dead: v.Err.Error()}
	case len(steps) == 0:
		return Fate{RetryAfter: Forward.Delay(m.Attempt), Step: ViewsStep}
	}
	// The most patient of the steps decides; a step that gives up has the patience of a compensation for its voiding.
	patient := steps[0]
	budget := func(s *step) int {
		if s.gives {
			return s.retry.Attempts + Compensation.Attempts
		}
		return s.retry.Attempts
	}
	for _, s := range steps {
		if budget(s) > budget(patient) {
			patient = s
		}
	}
	if m.Attempt >= budget(patient) {
		return Fate{Dead: fmt.Sprintf("%d attempts failed, the last one: %v", m.Attempt, v.Err), Step: patient.name}
	}
	if patient.gives && m.Attempt > patient.retry.Attempts {
		return Fate{RetryAfter: Compensation.Delay(m.Attempt - patient.retry.Attempts), Step: patient.name}
	}
	return Fate{RetryAfter: patient.retry.Delay(m.Attempt), Step: patient.name}
}

// report writes the one log line of a message.
func (in *Intake) report(m Message, v Verdict) {
	switch {
	case v.Err != nil:
		in.log.Warn("trouble", append(fields(m), zap.Int("attempt", m.Attempt), zap.Error(v.Err))...)
	case v.Refusal != nil:
		in.log.Info("refused", append(fields(m), zap.String("code", v.Refusal.Name), zap.String("why", v.Refusal.Detail))...)
	case in.log.Core().Enabled(zap.DebugLevel):
		emitted := make([]string, len(v.Events))
		for i, e := range v.Events {
			emitted[i] = e.Type
		}
		in.log.Debug("handled", append(fields(m), zap.Strings("emitted", emitted), zap.Bool("duplicate", v.Duplicate), zap.Bool("suppressed", v.Suppressed))...)
	}
}

func fields(m Message) []zap.Field {
	return []zap.Field{zap.Stringer("saga", m.Saga), zap.String("event", m.Type), zap.Stringer("message", m.ID), zap.Stringer("causation", m.Causation)}
}
