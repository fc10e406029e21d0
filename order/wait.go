package order

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

// pollInterval is how often the orders that are waited for are looked up: their end may have been handled by another
// instance of this service.
const pollInterval = 25 * time.Millisecond

// ends lets requests wait for the end of their orders. Safe for concurrent use.
type ends struct {
	mu      sync.Mutex
	waiting map[string][]chan struct{}
	lookUp  func(context.Context, []string) ([]string, error)
}

func newEnds(lookUp func(context.Context, []string) ([]string, error)) *ends {
	return &ends{waiting: map[string][]chan struct{}{}, lookUp: lookUp}
}

// happened wakes those who wait for an order when something has happened that may be its end; see Status.compute.
func (e *ends) happened(typ string, saga uuid.UUID) {
	switch typ {
	case "order.completed", "order.cancelled", "payment.failed", "payment.refunded":
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.waiting) > 0 {
			e.wake(saga.String())
		}
	}
}

func (e *ends) wake(id string) {
	for _, w := range e.waiting[id] {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// wait returns when the order has ended, when the time is over, or with ctx.
func (e *ends) wait(ctx context.Context, id string, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	w := make(chan struct{}, 1)
	e.mu.Lock()
	e.waiting[id] = append(e.waiting[id], w)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		rest := e.waiting[id][:0]
		for _, other := range e.waiting[id] {
			if other != w {
				rest = append(rest, other)
			}
		}
		if e.waiting[id] = rest; len(rest) == 0 {
			delete(e.waiting, id)
		}
	}()
	for {
		// Look before the first wait: it may have ended before we were on the list.
		if ended, err := e.lookUp(ctx, []string{id}); err == nil && len(ended) == 1 {
			return
		}
		select {
		case <-w:
		case <-ctx.Done():
			return
		}
	}
}

// poll wakes those whose orders have ended, until ctx is done: one query for all.
func (e *ends) poll(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		e.mu.Lock()
		ids := make([]string, 0, len(e.waiting))
		for id := range e.waiting {
			ids = append(ids, id)
		}
		e.mu.Unlock()
		if len(ids) == 0 {
			continue
		}
		ended, err := e.lookUp(ctx, ids)
		if err != nil {
			continue // the database is away; those who wait have a limit
		}
		e.mu.Lock()
		for _, id := range ended {
			e.wake(id)
		}
		e.mu.Unlock()
	}
}
