package sim

import (
	"errors"
	"fmt"
	"time"

	"hotchoc/pkg/flow"
)

// Outside is the way of a process to the outside parties that its flow asks.
type Outside struct{ process *process }

// Call asks an outside party: effect is what the party does, and what it answers. The process may die before or after, the
// question or the answer may be lost, and what was asked may be done long after the asker has given up on it. So effect
// must be what a party promises: done at most once under its key, refused under a key that was voided.
//
// An error of effect is the party's own trouble; it comes back as it is.
func Call[A any](o *Outside, what string, effect func() (A, error)) (answer A, err error) {
	p := o.process
	w := p.world
	if !p.up {
		return answer, errDead
	}
	kind := p.at(Ask)
	if kind == Moody {
		w.moodyUntil = w.now + w.upTo(2*time.Minute)
	}
	if w.moodyUntil > w.now && (kind == "" || kind == Moody) {
		kind = []Kind{Fail, Fail, Lost, Late, Slow}[w.random.IntN(5)]
	}
	if w.tell(p, "asks: %s", what); kind != "" {
		w.tell(p, "… %s", kind)
	}
	switch {
	case kind == Crash:
		p.crash("ask", "before")
		return answer, errDead
	case kind == Away:
		p.outsideCutUntil = w.now + w.upTo(30*time.Second)
	case kind == Fail:
		return answer, errors.New("the outside has trouble of its own")
	case kind == Late:
		p.took += 3 * time.Second
		w.After(w.upTo(20*time.Second), func() {
			_, err := effect()
			w.tell(nil, "what %s asked arrives late: %s (%v)", p.name, what, err)
		})
		return answer, errors.New("the outside did not answer in time")
	case kind == Slow:
		p.took += w.upTo(2 * time.Second)
	}
	if p.outsideCutUntil > w.now {
		return answer, fmt.Errorf("%w: nobody is there", flow.ErrAway)
	}
	answer, err = effect()
	switch kind {
	case CrashAfter:
		p.crash("ask", "after")
		return answer, errDead
	case Lost:
		var none A
		p.took += 3 * time.Second
		return none, errors.New("the answer of the outside was lost")
	}
	return answer, err
}
