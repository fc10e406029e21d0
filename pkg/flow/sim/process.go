package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/relay"
	"hotchoc/pkg/store"
)

// Limits of a process; those of pkg/host are larger, and a small one finds more.
const (
	prefetch      = 8
	batchMax      = 8
	sweepInterval = relay.DefaultInterval
	heartbeat     = 10 * time.Second
	jitterMax     = 5 * time.Second
)

// process is one instance of a service: what pkg/host and pkg/rabbit do with goroutines, as things that happen one after
// the other. Flow, door, codec and relay are the real ones. A process that dies loses all that it had in memory; what it
// had begun goes on to call, in vain, until the stack is back here.
type process struct {
	world   *World
	service *service
	name    string
	flow    *flow.Flow
	counts  map[Point]int

	// In a life.
	up       bool
	life     int
	conn     *connection
	door     *flow.Door
	relay    *relay.Relay
	intake   []pending
	busy     bool          // a commit is about to run
	settling bool          // the outbox is about to be cleared
	sweeping time.Duration // when the next sweep is; 0: none
	took     time.Duration // by calls to the outside, since it was last asked

	// Towards the broker. What belongs to an earlier session is over.
	publishing  bool
	publication int
	consumer    *broker.Consumer
	session     int
	pulling     bool

	// What is wrong with it.
	standsUntil     time.Duration
	storeCutUntil   time.Duration
	brokerCutUntil  time.Duration
	outsideCutUntil time.Duration
	skew            time.Duration
}

type pending struct {
	message flow.Message
	settle  func(flow.Verdict)
}

// after lets the process do something in a while, if it lives then.
func (p *process) after(d time.Duration, f func()) { p.world.schedule(p.world.now+d, p, f) }

func (p *process) tell(format string, args ...any) { p.world.tell(p, format, args...) }

// at tells what goes wrong as the process comes to a point; "" is nothing.
func (p *process) at(point Point) Kind {
	p.counts[point]++
	n := p.counts[point]
	for _, f := range p.world.plan.Faults {
		if f.N == n && f.Point == point && f.Process == p.name {
			if p.world.before == nil {
				p.world.before = p.world.visited()
			}
			p.world.count(string(f.Kind))
			p.tell("FAULT %s", f)
			return f.Kind
		}
	}
	return ""
}

// start begins a life.
func (p *process) start() {
	w := p.world
	p.life++
	p.up, p.busy, p.settling, p.pulling, p.sweeping, p.standsUntil, p.intake = true, false, false, false, 0, 0, nil
	p.conn = &connection{p, p.life}
	p.door = flow.NewDoor(p.flow, p.conn, func() time.Time { return w.Now().Add(p.skew) }, w.NewID)
	p.relay = relay.New(p.conn, publisher{p, p.life}, zap.NewNop(), relay.Config{QueueMax: 16})
	p.tell("starts")
	p.after(w.lag(), p.connect)
}

// crash ends a life; the next one begins after a while.
func (p *process) crash(at, when string) {
	p.tell("DIES %s %s", when, at)
	p.disconnect("")
	p.up = false
	p.life++
	w := p.world
	w.After(w.upTo(20*time.Second), p.start)
}

// tick is what may go wrong with a process at any time; false when there is nothing to be done in this life any more.
func (p *process) tick() bool {
	w := p.world
	switch p.at(Tick) {
	case Crash:
		p.crash("", "suddenly")
		return false
	case Pause:
		d := time.Second + w.upTo(30*time.Second)
		p.tell("stands still for %v", d)
		p.standsUntil = w.now + d
		if life := p.life; d > heartbeat {
			w.After(heartbeat, func() {
				if p.life == life {
					p.takenForDead()
				}
			})
		}
	case CutStore:
		p.storeCutUntil = w.now + w.upTo(40*time.Second)
	case CutBroker:
		p.brokerCutUntil = w.now + w.upTo(40*time.Second)
		p.disconnect("it is cut off from the broker")
	case Skew:
		p.skew = w.upTo(2*time.Hour) - time.Hour
		p.tell("its clock jumps to %v off", p.skew)
	case Restart:
		w.restartBroker()
	}
	return true
}

// takenForDead: the broker gives away what the process has in work. The process learns that after what it is about to do.
func (p *process) takenForDead() {
	consumer := p.consumer
	if consumer == nil {
		return
	}
	consumer.Close()
	p.after(0, func() {
		if p.consumer == consumer {
			p.stopConsuming("the broker took it for dead")
		}
	})
}

// wake lets the process see what waits for it.
func (p *process) wake() {
	if !p.up {
		return
	}
	w := p.world
	if p.consumer != nil && !p.pulling && p.consumer.Ready() {
		p.pulling = true
		p.after(w.lag(), p.pull)
	}
	if s := p.service; s.stirred {
		// All of its processes sweep.
		s.stirred = false
		if due, ok := s.memory.NextDue(); ok {
			for _, sibling := range s.processes {
				sibling.sweepAt(due.Sub(beginning))
			}
		}
	}
}

// sweepAt makes sure of a sweep soon after a message of the outbox is due.
func (p *process) sweepAt(due time.Duration) {
	if !p.up || !p.publishing {
		return // what connects looks by itself
	}
	w := p.world
	at := max(due, w.now, p.storeCutUntil) + w.upTo(sweepInterval)
	if p.sweeping > 0 && p.sweeping <= at {
		return
	}
	p.sweeping = at
	w.schedule(at, p, func() {
		if p.sweeping != at {
			return // another one came before
		}
		p.sweeping = 0
		p.service.stirred = true
		p.relay.Sweep(context.Background())
	})
}

// Towards the broker.

func (p *process) brokerAway() bool {
	return p.world.downUntil > p.world.now || p.brokerCutUntil > p.world.now
}

// connect makes what connections are missing, and comes again until they are there: first the one to publish on, then
// the one to consume on, when what is behind the service is there, too.
func (p *process) connect() {
	if p.brokerAway() {
		p.after(100*time.Millisecond+p.world.upTo(5*time.Second), p.connect)
		return
	}
	if !p.publishing {
		p.publishing = true
		p.service.stirred = true
	}
	if p.consumer != nil {
		return
	}
	if p.storeCutUntil > p.world.now || p.outsideCutUntil > p.world.now {
		p.after(100*time.Millisecond+p.world.upTo(5*time.Second), p.connect)
		return
	}
	consumer, err := p.world.broker.Consume(p.service.name, p.service.name, prefetch)
	if err != nil {
		p.world.Violate("%s cannot consume: %v", p.name, err)
		return
	}
	p.consumer = consumer
	p.tell("consumes")
}

// disconnect loses both connections.
func (p *process) disconnect(why string) {
	p.stopPublishing(why)
	p.stopConsuming(why)
}

func (p *process) stopPublishing(why string) {
	if !p.publishing {
		return
	}
	p.publishing = false
	p.publication++
	p.sweeping = 0
	p.reconnect("stops publishing", why)
}

// stopConsuming ends a session: what was not acked goes back to the queue.
func (p *process) stopConsuming(why string) {
	if p.consumer == nil {
		return
	}
	p.consumer.Close()
	p.consumer = nil
	p.session++
	p.reconnect("stops consuming", why)
}

func (p *process) reconnect(what, why string) {
	if why != "" {
		p.tell("%s: %s", what, why)
		p.after(p.world.lag()+p.world.upTo(time.Second), p.connect)
	}
}

// publisher is the relay's way to the broker.
type publisher struct {
	p    *process
	life int
}

// Ready implements relay.Publisher.
func (b publisher) Ready() bool { return b.p.up && b.p.life == b.life && b.p.publishing }

// Publish implements relay.Publisher.
func (b publisher) Publish(_ context.Context, events []event.Record, done func(event.Record, error)) {
	p := b.p
	for _, e := range events {
		if p.life != b.life {
			return
		}
		p.tell("publishes %s %s", e.Type, short(e.ID))
		p.send(Publish, rabbit.Encode(e, p.service.name), func(err error) {
			done(e, err)
			p.settleOutbox()
		})
	}
}

var errBroken = errors.New("the connection to the broker broke")

// send publishes one message; done is told, in this life, what became of it.
func (p *process) send(at Point, m rabbit.Wire, done func(error)) {
	w := p.world
	failed := func(err error) { p.after(w.lag(), func() { done(err) }) }
	kind := p.at(at)
	switch {
	case kind == Crash:
		p.crash("publishing "+m.Type, "before")
		return
	case kind == Fail:
		p.stopPublishing("the connection broke")
		failed(errBroken)
		return
	case !p.publishing || p.brokerAway():
		failed(errBroken)
		return
	}
	outcome, err := w.broker.Publish(p.service.name, m.Exchange, m.Key, m, true)
	if err != nil {
		w.Violate("%s may not publish to %s with %s: %v", p.name, m.Exchange, m.Key, err)
		return
	}
	if outcome.Returned {
		err = fmt.Errorf("no queue is bound to %s for %s", m.Exchange, m.Key)
		p.tell("%s comes back: %v", m.Type, err)
	}
	delay := w.lag()
	switch kind {
	case CrashAfter:
		p.crash("publishing "+m.Type, "after")
		return
	case Lost:
		p.stopPublishing("the connection broke before the confirm")
	case Slow:
		delay += w.upTo(20 * time.Second)
	}
	publication := p.publication
	p.after(delay, func() {
		if p.publication != publication || kind == Lost {
			err = errBroken
		}
		done(err)
	})
}

// settleOutbox clears the outbox soon; what is confirmed until then goes with it.
func (p *process) settleOutbox() {
	if p.settling {
		return
	}
	p.settling = true
	p.after(p.world.lag(), func() {
		p.settling = false
		p.relay.Settle(context.Background())
	})
}

// From the broker.

// delivery is a message in work, until it is acked or its session is over.
type delivery struct {
	broker.Delivery
	session int
	message flow.Message
}

// pull takes what the broker hands over.
func (p *process) pull() {
	p.pulling = false
	w := p.world
	for p.consumer != nil {
		d, ok := p.consumer.Next()
		if !ok {
			return
		}
		took := w.lag()
		switch p.at(Deliver) {
		case Crash:
			p.crash("a delivery", "at")
			return
		case Drop:
			p.stopConsuming("the connection broke")
			return
		case Again:
			p.duplicate(d)
		case Slow:
			took += w.upTo(20 * time.Second)
		}
		if d.Redelivered {
			w.count("redelivered")
		}
		session := p.session
		p.after(took, func() { p.handle(delivery{Delivery: d, session: session}) })
	}
}

// duplicate puts the same message into the queue once more, as somebody does who is not sure.
func (p *process) duplicate(d broker.Delivery) {
	m := d.Again(p.service.name, p.service.name)
	if _, err := p.world.broker.Publish(p.service.name, m.Exchange, m.Key, m, true); err != nil {
		p.world.Violate("the message %s cannot be doubled: %v", m.MessageID, err)
	}
}

// handle decodes a delivery and hands it in.
func (p *process) handle(d delivery) {
	if d.session != p.session {
		return // the queue has it back
	}
	f := p.flow
	r, attempt, err := d.Record(p.service.name)
	var m flow.Message
	if err == nil {
		m, err = f.Accept(r)
	}
	if err != nil {
		m.Envelope = r.Envelope
		d.message = m
		p.settle(d, flow.Fate{Dead: err.Error()}, err)
		return
	}
	m.Attempt = attempt
	d.message = m
	p.tell("hears %s %s of the saga %s, attempt %d", m.Type, short(m.ID), short(m.Saga), attempt)
	p.take(m, func(v flow.Verdict) {
		p.tell("%s %s: %s", m.Type, short(m.ID), verdictText(v))
		fate := f.Fate(m, v)
		p.after(p.world.lag(), func() { p.settle(d, fate, v.Err) })
	})
}

// take hands a message in, as flow.Intake does: what has to ask the outside does so first.
func (p *process) take(m flow.Message, settle func(flow.Verdict)) {
	w := p.world
	if !p.flow.Asks(m) {
		p.collect(pending{m, settle})
		return
	}
	p.after(w.lag(), func() {
		life := p.life
		p.took = 0
		answered, err := p.door.AskOutside(context.Background(), m)
		if p.life != life {
			return
		}
		p.after(w.lag()+p.took, func() {
			if err != nil {
				settle(flow.Verdict{Err: err})
				return
			}
			p.collect(pending{answered, settle})
		})
	})
}

// collect lets a message wait for the next commit.
func (p *process) collect(one pending) {
	p.intake = append(p.intake, one)
	if !p.busy {
		p.busy = true
		p.after(p.world.lag(), p.commit)
	}
}

// commit is one pass through the door.
func (p *process) commit() {
	w := p.world
	batch := p.intake[:1+w.random.IntN(min(len(p.intake), batchMax))]
	messages := make([]flow.Message, len(batch))
	for i, one := range batch {
		messages[i] = one.message
	}
	life := p.life
	verdicts := p.door.Process(context.Background(), messages)
	if p.life != life {
		return
	}
	p.intake = p.intake[len(batch):]
	if p.busy = len(p.intake) > 0; p.busy {
		p.after(w.lag(), p.commit)
	}
	var events []event.Record
	for _, v := range verdicts {
		events = append(events, v.Events...)
		if v.Duplicate {
			w.count("duplicate")
		}
		if v.Suppressed {
			w.count("suppressed")
		}
	}
	if len(events) > 0 {
		p.relay.Committed(events)
		p.settleOutbox() // what the relay could not take is left to the sweeper
		p.after(w.lag(), func() { p.relay.Fresh(context.Background()) })
	}
	for i, one := range batch {
		one.settle(verdicts[i])
	}
}

// settle carries out the fate of a delivery, as rabbit.Consumer does.
func (p *process) settle(d delivery, fate flow.Fate, cause error) {
	if d.session != p.session {
		return // it is somebody else's by now
	}
	w := p.world
	switch {
	case fate.Ack:
		p.ack(d)
	case fate.Requeue:
		w.count("requeued")
		p.stopConsuming(fmt.Sprintf("what is behind it is away: %v", cause))
	case fate.RetryAfter > 0:
		w.count("retried")
		p.after(w.upTo(min(fate.RetryAfter/2, jitterMax)), func() { p.republish(d, fate, cause) })
	default:
		p.republish(d, fate, cause)
	}
}

func (p *process) ack(d delivery) {
	after := false
	switch p.at(Ack) {
	case Crash:
		p.crash("the ack of "+d.message.Type, "before")
		return
	case CrashAfter:
		after = true
	case Drop:
		p.stopConsuming("the connection broke before an ack")
		return
	case Slow:
		p.after(p.world.upTo(20*time.Second), func() {
			if d.session == p.session {
				p.acknowledge(d)
			}
		})
		return
	}
	p.acknowledge(d)
	if after {
		p.crash("the ack of "+d.message.Type, "after")
	}
}

func (p *process) acknowledge(d delivery) {
	if err := p.consumer.Ack(d.Tag, false); err != nil {
		p.stopConsuming(err.Error())
	}
}

// republish sends a message to a wait queue or to the dead letters; when that is confirmed, the delivery is acked.
func (p *process) republish(d delivery, fate flow.Fate, cause error) {
	if d.session != p.session {
		return
	}
	w := p.world
	m := d.Again(p.service.name, rabbit.DeadQueue(p.service.name))
	if fate.Dead != "" {
		p.tell("DEAD LETTER %s %s: %s", d.Type, d.MessageID, fate.Dead)
		m.Headers[rabbit.HeaderReason], m.Headers[rabbit.HeaderStep] = fate.Dead, fate.Step
	} else {
		p.tell("%s %s is tried again in %v: %v", d.message.Type, short(d.message.ID), fate.RetryAfter, cause)
		m.Key = rabbit.RetryKey(fate.RetryAfter)
		m.Headers[rabbit.HeaderAttempt] = int64(d.message.Attempt + 1)
	}
	life := p.life
	attempt := store.Attempt{Message: d.message.ID, Type: d.message.Type, Step: fate.Step, Saga: d.message.Saga, N: d.message.Attempt, At: w.Now()}
	_ = p.conn.Attempted(context.Background(), []store.Attempt{attempt}) // the ledger is for people; without it the message goes on all the same
	if p.life != life {
		return
	}
	p.send(Republish, m, func(err error) {
		switch {
		case d.session != p.session:
		case err != nil:
			p.stopConsuming("a message could not be moved")
		default:
			p.ack(d)
		}
	})
}
