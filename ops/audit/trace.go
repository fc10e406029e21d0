package audit

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"github.com/google/uuid"
)

// Limits of traces.
const (
	tracesMax = 50  // sagas that are traced
	eventsMax = 500 // events of one
)

// trace adds to violations what happened to their orders.
func (a *audit) trace(ctx context.Context, violations []Violation) error {
	traces := map[string][]Event{}
	for i := range violations {
		v := &violations[i]
		if v.Saga == "" {
			continue
		}
		if _, known := traces[v.Saga]; !known {
			if len(traces) == tracesMax {
				continue
			}
			events, err := a.history(ctx, v.Saga)
			if err != nil {
				return err
			}
			traces[v.Saga] = events
		}
		v.Trace = traces[v.Saga]
	}
	return nil
}

// history is all events of a saga from all logs, each after its cause.
func (a *audit) history(ctx context.Context, saga string) ([]Event, error) {
	type placed struct {
		Event
		id, cause uuid.UUID
		position  int64
	}
	var events []placed
	for _, d := range a.databases {
		if err := all(ctx, d, func(rows *sql.Rows, e *placed) error {
			e.Service = d.service
			return rows.Scan(&e.id, &e.Type, &e.At, &e.cause, &e.Stream, &e.Version, &e.position)
		}, func(e placed) { events = append(events, e) },
			`SELECT event_id, type, recorded_at, causation, stream, version, position FROM event_log WHERE saga = $1 ORDER BY position LIMIT $2`, saga, eventsMax); err != nil {
			return nil, err
		}
	}
	known := map[uuid.UUID]bool{}
	effects := map[uuid.UUID][]placed{}
	for _, e := range events {
		known[e.id] = true
	}
	var roots []placed
	for _, e := range events {
		if known[e.cause] {
			effects[e.cause] = append(effects[e.cause], e)
		} else {
			roots = append(roots, e)
		}
	}
	byTime := func(a, b placed) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.position, b.position)) }
	var trace []Event
	told := map[uuid.UUID]bool{}
	var tell func(list []placed, depth int)
	tell = func(list []placed, depth int) {
		slices.SortStableFunc(list, byTime)
		for _, e := range list {
			if told[e.id] {
				continue
			}
			told[e.id] = true
			e.At, e.ID, e.Causation, e.Depth = e.At.UTC(), e.id.String(), e.cause.String(), depth
			trace = append(trace, e.Event)
			tell(effects[e.id], depth+1)
		}
	}
	tell(roots, 0)
	tell(events, 0) // what goes round in a circle
	return trace, nil
}
