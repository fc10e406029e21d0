package rabbit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"hotchoc/pkg/crash"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// Consumer brings the messages of a service's queue to its intake and settles them: acked when their commit has lasted,
// published to a wait queue when they are worth another attempt, set aside when they are not. Several consumers may share
// a queue, in one process or in many.
type Consumer struct {
	supervisor
	flow      *flow.Flow
	intake    *flow.Intake
	publisher *Publisher
	ledger    store.Ledger
	back      func(context.Context) error
	settled   func(flow.Message, flow.Fate)
}

// NewConsumer returns a consumer. back tells whether the store is there (nil); while it is not, nothing is consumed.
// settled, if not nil, is told of the fate of each message, for metrics.
func NewConsumer(cfg Config, f *flow.Flow, in *flow.Intake, p *Publisher, ledger store.Ledger, back func(context.Context) error, settled func(flow.Message, flow.Fate), log *zap.Logger) *Consumer {
	if settled == nil {
		settled = func(flow.Message, flow.Fate) {}
	}
	return &Consumer{
		supervisor: supervisor{cfg: cfg.withDefaults(), what: "consuming", log: log},
		flow:       f, intake: in, publisher: p, ledger: ledger, back: back, settled: settled,
	}
}

// Run consumes until ctx is done and what is in work is settled.
func (c *Consumer) Run(ctx context.Context) error {
	c.keep(ctx, c.serve)
	return nil
}

// errAwayBehind (the database or the outside) ends a session: everything that was not acked goes back to the queue.
var errAwayBehind = errors.New("what is behind this service is away: stopped consuming")

// verdict is a delivery that can be settled.
type verdict struct {
	delivery amqp.Delivery
	message  flow.Message
	fate     flow.Fate
	err      error
	held     bool // has waited its jitter
	moved    bool // is published again: what is left is to ack it, or not
}

// work is one session. Nothing of it outlives the channel, so a late ack cannot reach another channel's message.
type work struct {
	*Consumer
	patient  context.Context // done when a stop has waited long enough
	channel  *amqp.Channel
	verdicts chan verdict // room for every unacked delivery: settling never blocks the intake
	over     chan struct{}
	open     map[uint64]struct{} // tags in work
	acked    uint64              // every tag up to here is acked
	late     map[uint64]struct{} // acked above that
}

func (c *Consumer) serve(ctx context.Context, conn *amqp.Connection) error {
	// First, so that what a service writes at its start is published at once.
	if !c.publisher.Ready() {
		return errors.New("the publishing connection is not there yet")
	}
	if err := c.back(ctx); err != nil {
		return fmt.Errorf("%w: %v", errAwayBehind, err)
	}
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(c.cfg.Prefetch, 0, false); err != nil {
		return err
	}
	if err := checkTopology(conn, c.cfg.Service); err != nil {
		return err
	}
	queue := c.cfg.Service
	deliveries, err := channel.Consume(queue, c.cfg.Service, false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("queue %s cannot be consumed: %w; %s", queue, err, cure)
	}
	w := &work{
		Consumer: c, channel: channel, over: make(chan struct{}),
		verdicts: make(chan verdict, 2*c.cfg.Prefetch), open: map[uint64]struct{}{}, late: map[uint64]struct{}{},
	}
	patient, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(c.cfg.StopTimeout, giveUp) })()
	w.patient = patient
	defer close(w.over)
	c.ready.Store(true)
	c.log.Info("consuming", zap.String("queue", queue), zap.String("broker", conn.RemoteAddr().String()))
	return w.loop(ctx, deliveries)
}

// loop is the life of a session: deliveries go out to the intake, verdicts come back and are settled. At the end
// (ctx is done) no more are taken, what is in work is waited for, and the rest goes back to the queue.
func (w *work) loop(ctx context.Context, deliveries <-chan amqp.Delivery) error {
	taken := make(chan amqp.Delivery, w.cfg.Prefetch)
	// Not ended by ctx: what was handed over before the end is still worked on.
	take, stop := context.WithCancel(context.WithoutCancel(ctx))
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		for d := range taken {
			if take.Err() == nil {
				w.take(take, d)
			}
		}
	}()
	// With the session ends what has not been begun: the queue has it back.
	defer func() { stop(); close(taken); <-pumped }()

	stopping := ctx.Done()
	var deadline <-chan time.Time
	for {
		select {
		case d, ok := <-deliveries:
			if !ok && stopping != nil {
				return errors.New("the broker ended the consumption")
			}
			if !ok {
				deliveries = nil
				break
			}
			if stopping == nil {
				// It came after the end: the queue gets it back when the channel closes, without a mark on it.
				_ = d.Nack(false, true)
				break
			}
			w.open[d.DeliveryTag] = struct{}{}
			taken <- d
		case v := <-w.verdicts:
			if err := w.settle(v); err != nil {
				return err
			}
		case <-stopping:
			stopping = nil
			deadline = time.After(w.cfg.StopTimeout)
			if err := w.channel.Cancel(w.cfg.Service, true); err != nil {
				return err
			}
		case <-deadline:
			w.log.Warn("stopped with messages in work; they go back to the queue", zap.Int("messages", len(w.open)))
			return nil
		}
		if stopping == nil && len(w.open) == 0 {
			return nil
		}
	}
}

// take decodes a delivery and hands it to the intake.
func (w *work) take(ctx context.Context, d amqp.Delivery) {
	give := func(v verdict) {
		select {
		case w.verdicts <- v:
		case <-w.over:
		}
	}
	r, attempt, err := record(d, RetryExchange(w.cfg.Service))
	var m flow.Message
	if err == nil {
		m, err = w.flow.Accept(r)
	}
	if err != nil {
		m.Envelope = r.Envelope
		give(verdict{delivery: d, message: m, fate: flow.Fate{Dead: err.Error()}, err: err})
		return
	}
	m.Attempt = attempt
	w.intake.Take(ctx, m, func(v flow.Verdict) { give(verdict{delivery: d, message: m, fate: w.flow.Fate(m, v), err: v.Err}) })
}

// settle carries out the fates of a verdict and of all that wait behind it, with as few acks as possible.
func (w *work) settle(v verdict) error {
	var done []uint64
	var types []string // of what is done, for tests
	for more := true; more; {
		switch fate := v.fate; {
		case fate.Ack:
			done = append(done, v.delivery.DeliveryTag)
			if crash.On {
				types = append(types, v.delivery.Type)
			}
			if !v.moved {
				w.Consumer.settled(v.message, fate)
			}
		case fate.Requeue:
			w.Consumer.settled(v.message, fate)
			return fmt.Errorf("%w: %v", errAwayBehind, v.err)
		case fate.RetryAfter > 0 && !v.held:
			w.hold(v)
		default:
			w.republish(v)
			w.Consumer.settled(v.message, fate)
		}
		select {
		case v = <-w.verdicts:
		default:
			more = false
		}
	}
	if len(done) > 0 {
		crash.At("consume.settled", types...)
	}
	if err := w.ack(done); err != nil {
		return err
	}
	if len(done) > 0 {
		crash.At("consume.acked", types...)
	}
	return nil
}

// ack acks the tags: one frame for all up to the first that is still in work, one for each above. A tag may be acked
// once only, also by a frame for several.
func (w *work) ack(tags []uint64) error {
	slices.Sort(tags)
	last := uint64(0) // the last new tag below which nothing is in work
	rest := tags
	for next := w.acked + 1; ; next++ {
		if len(rest) > 0 && rest[0] == next {
			last, rest = next, rest[1:]
		} else if _, late := w.late[next]; late {
			delete(w.late, next)
		} else {
			w.acked = next - 1
			break
		}
	}
	for _, tag := range tags {
		delete(w.open, tag)
	}
	if last > 0 {
		if err := w.channel.Ack(last, true); err != nil {
			return err
		}
	}
	for _, tag := range rest {
		w.late[tag] = struct{}{}
		if err := w.channel.Ack(tag, false); err != nil {
			return err
		}
	}
	return nil
}

// jitterMax bounds how long a message is held before it goes to its wait queue.
const jitterMax = 5 * time.Second

// hold keeps a message for a random part of its delay before it goes to the wait queue, whose own delay is fixed: what
// failed together does not come back together. It stays unacked meanwhile; a crash lets it come again sooner.
func (w *work) hold(v verdict) {
	v.held = true
	time.AfterFunc(rand.N(min(v.fate.RetryAfter/2, jitterMax)), func() {
		select {
		case w.verdicts <- v:
		case <-w.over:
		}
	})
}

// republish sends a message to a wait queue or to the dead letters; the delivery is acked when that is confirmed.
func (w *work) republish(v verdict) {
	m := again(v.delivery, w.cfg.Service)
	key := ""
	now := time.Now()
	attempt := store.Attempt{Message: v.message.ID, Type: v.message.Type, Step: v.fate.Step, Saga: v.message.Saga, N: max(v.message.Attempt, 1), At: now}
	if v.err != nil {
		attempt.Error = short(v.err.Error())
	}
	fields := []zap.Field{zap.Stringer("saga", v.message.Saga), zap.String("event", v.delivery.Type), zap.String("message", v.delivery.MessageId), zap.String("error", attempt.Error)}
	if v.fate.Dead != "" {
		key = DeadQueue(w.cfg.Service)
		m.Headers[HeaderReason], m.Headers[HeaderStep], m.Headers[HeaderDeadAt] = short(v.fate.Dead), v.fate.Step, now.UTC().Format(time.RFC3339Nano)
		w.log.Error("dead letter", fields...)
	} else {
		key = rung(v.fate.RetryAfter)
		m.Headers[HeaderAttempt] = int64(v.message.Attempt + 1)
		attempt.NextAt = now.Add(v.fate.RetryAfter)
		w.log.Info("retry", append(fields, zap.Duration("after", v.fate.RetryAfter))...)
	}
	if err := w.ledger.Attempted(context.Background(), []store.Attempt{attempt}); err != nil {
		w.log.Warn("the attempt is not in the ledger", zap.Error(err))
	}
	w.publisher.send(w.patient, RetryExchange(w.cfg.Service), key, m, func(err error) {
		crash.At("retry.confirmed", v.delivery.Type)
		back := verdict{delivery: v.delivery, message: v.message, fate: flow.Fate{Ack: true}, moved: true}
		if err != nil {
			// It cannot be moved: it stays where it is, and the session ends so that it comes again.
			back.fate, back.err = flow.Fate{Requeue: true}, fmt.Errorf("republish to %s: %w", key, err)
		}
		select {
		case w.verdicts <- back:
		case <-w.over:
		}
	})
}
