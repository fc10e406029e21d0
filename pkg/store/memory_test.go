package store_test

import (
	"testing"
	"time"

	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

func TestACloneOfTheMemoryGoesItsOwnWay(t *testing.T) {
	t.Parallel()
	m := store.NewMemory()
	first := happened("payment/1", 1)
	must(t, change(m, store.Changes{Events: []event.Record{first}, Docs: []store.Doc{state("payment/1", 0, 1, `{}`)}}))
	c := m.Clone()
	must(t, change(m, store.Changes{Events: []event.Record{happened("payment/1", 2)}, Docs: []store.Doc{state("payment/1", 1, 2, `{}`)}}))
	must(t, change(c, store.Changes{Events: []event.Record{happened("payment/2", 1)}}))
	must(t, c.Published(t.Context(), ids([]event.Record{first})))
	if doc, _ := readDoc(t, c, store.States, "payment/1"); doc.Version != 1 || len(c.Log()) != 2 || c.Log()[1].Stream != "payment/2" {
		t.Errorf("the clone has version %d and %d events", doc.Version, len(c.Log()))
	}
	if len(m.Outbox()) != 2 || len(c.Outbox()) != 1 || m.Log()[1].Version != 2 {
		t.Errorf("%d and %d messages are in the outboxes", len(m.Outbox()), len(c.Outbox()))
	}
}

func TestTheMemoryGoesByTheClockItIsGiven(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := store.NewMemory()
	m.Now, m.Grace = func() time.Time { return now }, 5*time.Second
	if _, ok := m.NextDue(); ok {
		t.Error("something is due in an empty outbox")
	}
	var events []event.Record
	for n := range int64(20) {
		events = append(events, happened("payment/1", n+1))
	}
	timer := armed(now.Add(time.Second))
	must(t, change(m, store.Changes{Events: events, Timers: []store.Timer{timer}}))
	if next, ok := m.NextDue(); !ok || !next.Equal(timer.DueAt) {
		t.Errorf("next due at %v, want %v", next, timer.DueAt)
	}
	if due := sweep(t, m, 100, time.Minute); len(due) != 0 {
		t.Errorf("%d messages are due in their grace", len(due))
	}
	now = now.Add(5 * time.Second)
	due := sweep(t, m, 11, time.Minute)
	if len(due) != 11 || due[0].ID != timer.ID || due[1].ID != events[0].ID || due[10].ID != events[9].ID {
		t.Errorf("%d messages are due, and not in the order in which they came to be", len(due))
	}
	if next, _ := m.NextDue(); !next.Equal(now) {
		t.Errorf("the rest is due at %v, want %v", next, now)
	}
}
