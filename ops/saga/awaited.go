package saga

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga/platform"
)

// Places where a message can be.
const (
	PlaceOutbox = "outbox" // not published yet
	PlaceQueue  = "queue"  // in the queue of the service that is to handle it
	PlaceWait   = "wait"   // in a wait queue, until its next attempt
	PlaceDead   = "dead"   // a dead letter
	PlaceWork   = "work"   // handed over to the service
)

// workMax is longer than a service has a message in work.
const workMax = time.Minute

// Awaited is a message that a service should handle and has not.
type Awaited struct {
	Service string    `json:"service"`
	Steps   []string  `json:"steps"`
	Message uuid.UUID `json:"message"`
	Type    string    `json:"type"`
	From    string    `json:"from"`
	Since   time.Time `json:"since"`
	// Attempts is how often it was tried, Error how the last try ended, NextAt when the next one is.
	Attempts int        `json:"attempts"`
	Error    string     `json:"error,omitempty"`
	NextAt   *time.Time `json:"next_at,omitempty"`
	// Place is where the message is now, Where the same for people, Command what moves it, if anything is to be done.
	Place   string `json:"place"`
	Where   string `json:"where"`
	Command string `json:"command,omitempty"`
}

// By names who awaits it: service and steps.
func (a Awaited) By() string { return a.Service + "/" + strings.Join(a.Steps, "+") }

// whereabouts finds messages.
type whereabouts struct {
	*Reader
	ctx    context.Context // of one look
	outbox []platform.Unpublished
	unseen int // dead letters that were not looked at
	depths map[string]dead.Depth
	up     map[string]string
}

// awaited finds what is to be handled in a saga and is not.
func (w *whereabouts) awaited(s *Saga, heard map[uuid.UUID][]platform.Handled) ([]Awaited, error) {
	awaited := []Awaited{}
	add := func(a Awaited) error {
		for _, t := range s.Attempts {
			if t.Service == a.Service && t.Message == a.Message {
				a.Attempts, a.Error, a.NextAt = t.N, t.Error, t.NextAt
			}
		}
		err := w.find(&a, s.Dead)
		awaited = append(awaited, a)
		return err
	}
	for _, e := range s.Events {
		hearers := w.hearers(e.Service, e.Type)
		for _, service := range w.graph.Services {
			// A message is handled by all steps of a service at once: one that came later never will.
			if len(hearers[service]) == 0 || slices.ContainsFunc(e.Heard, func(h platform.Handled) bool { return h.Service == service }) {
				continue
			}
			if err := add(Awaited{Service: service, Steps: hearers[service], Message: e.ID, Type: e.Type, From: e.Service, Since: e.At}); err != nil {
				return nil, err
			}
		}
	}
	// The deadline is in no log.
	decided := s.Ended || slices.ContainsFunc(s.Events, func(e Event) bool { return e.Type == "order.cancelled" || e.Type == "order.completed" })
	if timer := deadlineOf(s.ID); !decided && !s.Deadline.IsZero() && time.Now().After(s.Deadline) && len(heard[timer]) == 0 {
		if err := add(Awaited{
			Service: "order", Steps: w.hearers("order", "order.deadline")["order"], Message: timer, Type: "order.deadline", From: "order", Since: s.Deadline,
		}); err != nil {
			return nil, err
		}
	}
	return awaited, nil
}

// find finds out where a message is, and what moves it.
func (w *whereabouts) find(a *Awaited, letters []dead.Letter) error {
	from, err := w.depth(a.From)
	if err != nil {
		return err
	}
	to, err := w.depth(a.Service)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.outbox, func(u platform.Unpublished) bool { return u.Service == a.From && u.Message == a.Message }) {
		a.Place, a.Where = PlaceOutbox, "in the outbox of "+a.From+", not published yet"
		if from.Consumers == 0 {
			a.Command = w.start(a.From)
		}
		return nil
	}
	for _, l := range letters {
		if l.Service == a.Service && strings.EqualFold(l.ID, a.Message.String()) {
			a.Place, a.Where = PlaceDead, fmt.Sprintf("a dead letter of %s: %s", a.Service, l.Reason)
			a.Command = fmt.Sprintf("%s dead redrive --id %s --yes", w.program, a.Message)
			return nil
		}
	}
	switch {
	case a.NextAt != nil && a.NextAt.After(time.Now()):
		a.Place, a.Where = PlaceWait, fmt.Sprintf("in a wait queue of %s, next attempt at %s", a.Service, a.NextAt.Local().Format(time.TimeOnly))
	case to.Consumers > 0 && to.Ready+to.Waiting == 0:
		a.Place, a.Where = PlaceWork, "handed over to "+a.Service
		if time.Since(a.Since) > workMax {
			a.Where = fmt.Sprintf("in no queue: %s has it in work, or it was lost (was a queue purged?)", a.Service)
		}
	default:
		a.Place, a.Where = PlaceQueue, fmt.Sprintf("in queue %s (%d ready)", a.Service, to.Ready)
		if to.Waiting > 0 {
			a.Where += fmt.Sprintf(" or its wait queues (%d)", to.Waiting)
		}
	}
	if w.unseen > 0 {
		a.Where += fmt.Sprintf(", or among the %d dead letters that were not looked at", w.unseen)
	}
	if to.Consumers == 0 {
		a.Where += "; nobody consumes queue " + a.Service
		a.Command = w.start(a.Service)
	}
	return nil
}

func (w *whereabouts) depth(service string) (dead.Depth, error) {
	if d, ok := w.depths[service]; ok {
		return d, nil
	}
	d, err := w.queues.Depth(service)
	w.depths[service] = d
	return d, err
}

// start is how to get a service to consume again.
func (w *whereabouts) start(service string) string {
	if w.up == nil {
		if w.up = w.states(w.ctx); w.up == nil {
			w.up = map[string]string{}
		}
	}
	if state := w.up[service]; state == "ready" || state == "not ready" {
		return fmt.Sprintf("%s runs, but is not consuming; its log says why: ./task logs -- %s", service, service)
	}
	return fmt.Sprintf("start the service %s: ./task up", service)
}
