package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/store"
)

// Limits of one run. Whatever does not come to rest within them never will.
const (
	eventsMax = 20_000
	timeMax   = 48 * time.Hour
)

// beginning is when every world begins.
var beginning = time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)

// World is one run: services, broker, databases and customers under one clock, in one thread. Nothing in it happens but
// by its queue of events, so the same plan always gives the same run.
type World struct {
	sim    *Sim
	plan   Plan
	setup  Setup
	random *rand.Rand

	now    time.Duration // since the beginning
	spread time.Duration // how long things take in this run, at most, when nothing is wrong
	queue  queue
	order  uint64 // of events that are due at the same time
	events int
	nested bool

	broker     *broker.Broker
	downUntil  time.Duration // of the broker
	moodyUntil time.Duration // of the outside
	expiry     time.Duration // for which an event is in the queue
	services   []*service
	processes  []*process
	checks     checks

	before     []site // where the processes had come by when the first fault struck
	counters   map[string]int
	violations []string
	trace      *strings.Builder // nil: not wanted
}

// service is what the processes of a service share.
type service struct {
	name      string
	flow      *flow.Flow
	memory    *store.Memory
	processes []*process
	facts     []Fact // the log, decoded
	prepared  int    // facts of the opening
	commits   int
	stirred   bool // the outbox has changed
}

// Now is the time of the world.
func (w *World) Now() time.Time { return beginning.Add(w.now) }

// Store is the database of a service, to be looked at.
func (w *World) Store(service string) *store.Memory { return w.service(service).memory }

// Log is what a service has recorded, in the order of its commits.
func (w *World) Log(service string) []Fact { return w.service(service).facts }

func (w *World) service(name string) *service {
	for _, s := range w.services {
		if s.name == name {
			return s
		}
	}
	panic(fmt.Sprintf("there is no service %q in this world", name))
}

// Violate reports that something is not as it must be. The run ends with it.
func (w *World) Violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.violations = append(w.violations, text)
	w.tell(nil, "VIOLATION: %s", text)
}

// NewID returns an ID out of the seed, as event.NewID makes them.
func (w *World) NewID() uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(w.Now().UnixMilli())<<16|w.random.Uint64()&0x0fff|0x7000)
	binary.BigEndian.PutUint64(id[8:], w.random.Uint64()&^(3<<62)|2<<62)
	return id
}

// After lets something happen in a while, outside of all processes.
func (w *World) After(d time.Duration, f func()) { w.schedule(w.now+d, nil, f) }

func (w *World) schedule(at time.Duration, p *process, f func()) {
	life := 0
	if p != nil {
		life = p.life
	}
	w.order++
	w.queue.push(happening{at, w.order, p, life, f})
}

// lag is how long a thing takes.
func (w *World) lag() time.Duration { return 100*time.Microsecond + w.upTo(w.spread) }

// upTo draws a duration.
func (w *World) upTo(d time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(d/time.Microsecond)+1)) * time.Microsecond
}

// run lets things happen until nothing more can, or the first violation.
func (w *World) run() {
	w.wake()
	for len(w.queue) > 0 && len(w.violations) == 0 {
		w.next(w.queue.pop())
		if w.events++; w.events > eventsMax || w.now > timeMax {
			w.Violate("the world does not come to rest: %d things have happened in %v", w.events, w.now.Round(time.Second))
		}
	}
}

// next lets one thing happen.
func (w *World) next(h happening) {
	w.now = max(w.now, h.at)
	if p := h.process; p != nil {
		switch {
		case h.life != p.life:
			return // its process has died
		case p.standsUntil > w.now:
			h.at = p.standsUntil
			w.queue.push(h)
			return
		case !p.tick():
			return
		}
	}
	h.do()
	w.wake()
}

// others lets the others go on for a moment while a process is in the midst of a thing.
func (w *World) others(p *process) {
	if w.nested {
		return
	}
	w.nested = true
	var aside []happening
	end := w.now + 10*time.Second
	for left := 1 + w.random.IntN(60); left > 0 && len(w.queue) > 0 && w.queue[0].at <= end && len(w.violations) == 0; {
		if h := w.queue.pop(); h.process == p {
			aside = append(aside, h)
		} else {
			w.next(h)
			left--
		}
	}
	for _, h := range aside {
		w.queue.push(h)
	}
	w.nested = false
}

// wake lets those who wait for something see that it has come.
func (w *World) wake() {
	if at, ok := w.broker.NextExpiry(); ok {
		if due := at.Sub(beginning); w.expiry <= w.now || due < w.expiry {
			w.expiry = max(due, w.now+1)
			w.After(w.expiry-w.now, w.broker.Advance)
		}
	}
	for _, p := range w.processes {
		p.wake()
	}
}

// restartBroker takes the broker down for a while: all connections break.
func (w *World) restartBroker() {
	w.downUntil = w.now + time.Second + w.upTo(20*time.Second)
	w.broker.Restart()
	for _, p := range w.processes {
		p.disconnect("the broker is down")
	}
}

func (w *World) count(what string) {
	if w.counters != nil {
		w.counters[what]++
	}
}

// tell writes a line of the trace.
func (w *World) tell(p *process, format string, args ...any) {
	if w.trace == nil {
		return
	}
	who := ""
	if p != nil {
		who = p.name
	}
	fmt.Fprintf(w.trace, "%12.6fs  %-12s %s\n", w.now.Seconds(), who, fmt.Sprintf(format, args...))
}

// short is an ID as the trace shows it.
func short(id uuid.UUID) string { return id.String()[24:] }

// happening is something that is due.
type happening struct {
	at      time.Duration
	order   uint64
	process *process // whose life it is part of; nil: nobody's
	life    int
	do      func()
}

// queue is a heap: what is due first is at its head.
type queue []happening

func (q queue) before(a, b int) bool {
	return q[a].at < q[b].at || q[a].at == q[b].at && q[a].order < q[b].order
}

func (q *queue) push(h happening) {
	*q = append(*q, h)
	for i := len(*q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.before(i, up) {
			break
		}
		(*q)[i], (*q)[up] = (*q)[up], (*q)[i]
		i = up
	}
}

func (q *queue) pop() happening {
	old := *q
	first, last := old[0], len(old)-1
	old[0], old[last] = old[last], happening{}
	*q = old[:last]
	for i := 0; ; {
		least := i
		for _, down := range []int{2*i + 1, 2*i + 2} {
			if down < last && q.before(down, least) {
				least = down
			}
		}
		if least == i {
			return first
		}
		old[i], old[least] = old[least], old[i]
		i = least
	}
}

// Customer is what somebody wants of a service, over HTTP.
type Customer struct {
	Service string
	Step    string
	// Saga is the saga it is about; Nil begins a new one with each try, as a POST does.
	Saga  uuid.UUID
	Actor string
	// Command makes the command.
	Command func(saga uuid.UUID, now time.Time) any
	// Then is told the answer, once; the saga is the one that the service answered with. May be nil.
	Then func(saga uuid.UUID, v flow.Verdict)
}

// How long a customer waits for an answer, and how often they try before they turn away.
const (
	patience = 10 * time.Second
	triesMax = 8
)

// Send lets a customer ask, and ask again under the same Idempotency-Key while there is no answer.
func (w *World) Send(c Customer) {
	key := w.NewID()
	w.checks.root(key)
	w.send(c, key, uuid.Nil, 1)
}

func (w *World) send(c Customer, key, told uuid.UUID, try int) {
	again := func(told uuid.UUID) {
		if try < triesMax {
			w.After(time.Second+w.upTo(4*time.Second), func() { w.send(c, key, told, try+1) })
		}
	}
	s := w.service(c.Service)
	p := s.processes[w.random.IntN(len(s.processes))]
	if !p.up || p.standsUntil > w.now {
		again(told)
		return
	}
	saga := c.Saga
	if saga == uuid.Nil {
		saga = w.NewID()
	}
	m := flow.NewCommand(c.Step, key, saga, c.Actor, c.Command(saga, w.Now()))
	w.tell(p, "%s %s is asked, saga %s, try %d", c.Step, short(key), short(saga), try)
	over := false // answered, or given up on
	p.take(m, func(v flow.Verdict) {
		if over {
			return
		}
		over = true
		if v.Err != nil {
			w.tell(p, "%s %s: %v", c.Step, short(key), v.Err)
			again(told)
			return
		}
		if v.Duplicate {
			saga = v.First.Saga
		}
		if told != uuid.Nil && v.Refusal == nil && told != saga {
			w.Violate("a repeated %s was answered with the saga %s, the first time with %s", c.Step, saga, told)
		}
		if p.at(Answer) == Lost {
			w.tell(p, "%s %s: the answer is lost", c.Step, short(key))
			again(saga)
			return
		}
		w.tell(p, "%s %s is answered: %s", c.Step, short(key), verdictText(v))
		if c.Then != nil {
			c.Then(saga, v)
		}
	})
	w.After(patience, func() {
		if !over {
			over = true
			again(told)
		}
	})
}

func verdictText(v flow.Verdict) string {
	switch {
	case v.Err != nil:
		return "trouble: " + v.Err.Error()
	case v.Refusal != nil:
		return "refused: " + v.Refusal.Name
	case v.Duplicate:
		return "a duplicate"
	case v.Suppressed:
		return "suppressed" + eventsText(v.Events)
	case len(v.Events) == 0:
		return "nothing to do"
	}
	return eventsText(v.Events)[2:]
}

func eventsText(events []event.Record) string {
	types := make([]string, len(events))
	for i, e := range events {
		types[i] = e.Type
	}
	if len(types) == 0 {
		return ""
	}
	return ", " + strings.Join(slices.Clip(types), ", ")
}
