package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/store"
)

func TestMain(m *testing.M) { servers.Main(m) }

// full is all that a store can do.
type full interface {
	store.Store
	store.Outbox
	store.Ledger
}

// copies is a table of documents beside the states.
const copies = "item_copy"

// view makes the table of documents that the tests use.
const view = `CREATE TABLE item_copy (key text PRIMARY KEY, version bigint NOT NULL, doc jsonb NOT NULL)`

// both runs a test against the store in memory and against Postgres: they promise the same.
func both(t *testing.T, test func(*testing.T, full)) {
	t.Parallel()
	t.Run("Memory", func(t *testing.T) {
		t.Parallel()
		test(t, store.NewMemory())
	})
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newPostgres(t).Postgres)
	})
}

// change is one transaction that reads nothing.
func change(s store.Store, c store.Changes) error {
	tx, err := s.Begin(context.Background())
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := tx.Write(context.Background(), c); err != nil {
		return err
	}
	return tx.Commit()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func conflict(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%s: want a conflict, got %v", what, err)
	}
}

func read(t *testing.T, s store.Store, r store.Request) store.Snapshot {
	t.Helper()
	tx, err := s.Begin(context.Background())
	must(t, err)
	defer tx.Rollback()
	found, err := tx.Read(context.Background(), r)
	must(t, err)
	return found
}

func readDoc(t *testing.T, s store.Store, table, key string) (store.Doc, bool) {
	t.Helper()
	found := read(t, s, store.Request{Docs: []store.Key{{Table: table, Key: key}}})
	if len(found.Docs) == 0 {
		return store.Doc{}, false
	}
	return found.Docs[0], true
}

func readBarrier(t *testing.T, s store.Store, key store.BarrierKey) store.Barrier {
	t.Helper()
	found := read(t, s, store.Request{Barriers: []store.BarrierKey{key}})
	if len(found.Barriers) == 0 {
		return store.Barrier{BarrierKey: key}
	}
	return found.Barriers[0]
}

// happened is an event as the door makes it.
func happened(stream string, version int64) event.Record {
	return event.Record{Body: []byte(`{"order_id": "1", "amount": {"amount": "900"}}`), Envelope: event.Envelope{
		ID: event.NewID(), Type: "payment.captured", Schema: 1, Source: "pay", Stream: stream, Version: version,
		Saga: event.NewID(), Causation: event.NewID(), Hops: 3, Actor: "customer:ada", At: time.Now().UTC().Truncate(time.Microsecond),
	}}
}

// armed is a timer as the door makes it.
func armed(due time.Time) store.Timer {
	r := happened("", 0)
	r.Type, r.Body = "order.deadline", []byte(`{"order_id": "1"}`)
	return store.Timer{Record: r, DueAt: due.UTC().Truncate(time.Microsecond)}
}

func state(stream string, was, version int64, body string) store.Doc {
	return store.Doc{Key: store.Key{Table: store.States, Key: stream}, Was: was, Version: version, Body: []byte(body)}
}

func claim(step string, message uuid.UUID) store.Claim {
	return store.Claim{Step: step, Message: message, Saga: event.NewID()}
}

func ids(records []event.Record) []uuid.UUID {
	all := make([]uuid.UUID, len(records))
	for i, r := range records {
		all[i] = r.ID
	}
	return all
}

func sweep(t *testing.T, s store.Outbox, limit int, lease time.Duration) []event.Record {
	t.Helper()
	due, err := s.Sweep(context.Background(), limit, lease)
	must(t, err)
	return due
}

// sameRecord compares two records; bodies are JSON, which Postgres writes in its own way.
func sameRecord(t *testing.T, got, want event.Record) {
	t.Helper()
	if !got.At.Equal(want.At) {
		t.Errorf("it was recorded at %v, not at %v", got.At, want.At)
	}
	got.At = want.At
	if got.Envelope != want.Envelope {
		t.Errorf("got  %+v\nwant %+v", got.Envelope, want.Envelope)
	}
	sameJSON(t, got.Body, want.Body)
}

func sameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var a, b any
	if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(want, &b)); err != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("got %s\nwant %s (%v)", got, want, err)
	}
}

func TestWhatIsCommittedIsReadBack(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		message, saga := event.NewID(), event.NewID()
		fact := happened("payment/1", 1)
		fact.Saga = saga
		claimed := store.Claim{Step: "charge", Message: message, Saga: saga, Digest: []byte{0, 1, 255}}
		doc := store.Doc{Key: store.Key{Table: copies, Key: "classic"}, Version: 7, Body: []byte(`{"name":"Classic"}`)}
		barrier := store.Barrier{BarrierKey: store.BarrierKey{Saga: saga, Step: "charge"}, State: store.Done, Fact: &fact}
		must(t, change(s, store.Changes{
			Claims: []store.Claim{claimed, claim("views", message)}, Events: []event.Record{fact},
			Docs: []store.Doc{doc, state("payment/1", 0, 1, `{"phase":"captured"}`)}, Barriers: []store.Barrier{barrier},
		}))
		found := read(t, s, store.Request{
			Claims:   []store.ClaimKey{{Step: "charge", Message: message}, {Step: "refund", Message: message}, {Step: "charge", Message: saga}},
			Docs:     []store.Key{doc.Key, {Table: copies, Key: "none"}, {Table: store.States, Key: "payment/1"}, {Table: store.States, Key: "classic"}},
			Barriers: []store.BarrierKey{barrier.BarrierKey, {Saga: saga, Step: "refund"}, {Saga: message, Step: "charge"}},
		})
		if len(found.Claims) != 1 || !reflect.DeepEqual(found.Claims[0], claimed) {
			t.Errorf("claims: %+v", found.Claims)
		}
		if len(found.Docs) != 2 {
			t.Fatalf("documents: %+v", found.Docs)
		}
		for _, d := range found.Docs {
			want := doc
			if d.Table == store.States {
				want = state("payment/1", 0, 1, `{"phase":"captured"}`)
			}
			if d.Key != want.Key || d.Version != want.Version {
				t.Errorf("got %+v", d)
			}
			sameJSON(t, d.Body, want.Body)
		}
		if len(found.Barriers) != 1 || found.Barriers[0].State != store.Done || !found.Barriers[0].Known || found.Barriers[0].Fact == nil {
			t.Fatalf("barriers: %+v", found.Barriers)
		}
		got := found.Barriers[0].Fact
		if got.ID != fact.ID || got.Type != fact.Type || got.Schema != 1 || got.Stream != fact.Stream || got.Version != 1 || got.Saga != saga || !got.At.Equal(fact.At) {
			t.Errorf("the fact is %+v", got)
		}
		sameJSON(t, got.Body, fact.Body)
	})
}

func TestAClaimOfAnEventHasNoDigest(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		c := claim("charge", event.NewID())
		must(t, change(s, store.Changes{Claims: []store.Claim{c}}))
		found := read(t, s, store.Request{Claims: []store.ClaimKey{{Step: c.Step, Message: c.Message}}})
		if len(found.Claims) != 1 || len(found.Claims[0].Digest) != 0 || found.Claims[0].Saga != c.Saga {
			t.Errorf("got %+v", found.Claims)
		}
	})
}

func TestAPlaceInAStreamIsTakenOnce(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1), happened("payment/1", 2)}}))
		c := claim("charge", event.NewID())
		conflict(t, "the same version of the same stream", change(s, store.Changes{Claims: []store.Claim{c}, Events: []event.Record{happened("payment/1", 2)}}))
		conflict(t, "twice in one commit", change(s, store.Changes{Events: []event.Record{happened("payment/2", 1), happened("payment/2", 1)}}))
		if found := read(t, s, store.Request{Claims: []store.ClaimKey{{Step: c.Step, Message: c.Message}}}); len(found.Claims) != 0 {
			t.Error("the conflict left a claim behind")
		}
		must(t, change(s, store.Changes{Events: []event.Record{happened("payment/2", 1), happened("payment/1", 3)}}))
		if due := sweep(t, s, 100, time.Hour); len(due) != 4 {
			t.Errorf("%d events are in the outbox, not 4", len(due))
		}
	})
}

func TestAnEventIsRecordedOnce(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		first := happened("payment/1", 1)
		must(t, change(s, store.Changes{Events: []event.Record{first}}))
		again := happened("payment/2", 1)
		again.ID = first.ID
		conflict(t, "the same ID in another stream", change(s, store.Changes{Events: []event.Record{again}}))
	})
}

func TestAMessageIsClaimedOncePerStep(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		message := event.NewID()
		must(t, change(s, store.Changes{Claims: []store.Claim{claim("charge", message)}}))
		conflict(t, "the same step", change(s, store.Changes{Claims: []store.Claim{claim("other", message), claim("charge", message)}}))
		conflict(t, "twice in one commit", change(s, store.Changes{Claims: []store.Claim{claim("third", message), claim("third", message)}}))
		must(t, change(s, store.Changes{Claims: []store.Claim{claim("other", message), claim("charge", event.NewID())}}))
	})
}

func TestADocumentIsWrittenOnlyOnTopOfWhatWasRead(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		must(t, change(s, store.Changes{Docs: []store.Doc{state("payment/1", 0, 1, `{"n":1}`)}}))
		conflict(t, "a new document that is there", change(s, store.Changes{Docs: []store.Doc{state("payment/1", 0, 1, `{"n":2}`)}}))
		must(t, change(s, store.Changes{Docs: []store.Doc{state("payment/1", 1, 3, `{"n":3}`)}}))
		conflict(t, "on top of an old version", change(s, store.Changes{Docs: []store.Doc{state("payment/2", 0, 1, `{}`), state("payment/1", 1, 2, `{"n":4}`)}}))
		conflict(t, "on top of what never was", change(s, store.Changes{Docs: []store.Doc{state("payment/3", 1, 2, `{}`)}}))
		d, _ := readDoc(t, s, store.States, "payment/1")
		sameJSON(t, d.Body, []byte(`{"n":3}`))
		if d.Version != 3 {
			t.Errorf("it is version %d, not 3", d.Version)
		}
		if _, there := readDoc(t, s, store.States, "payment/2"); there {
			t.Error("the conflict left a document behind")
		}
		// The same key in another table is another document.
		must(t, change(s, store.Changes{Docs: []store.Doc{{Key: store.Key{Table: copies, Key: "payment/1"}, Version: 12, Body: []byte(`{}`)}}}))
	})
}

func TestTwoNewDocumentsOfTheSameKeyCannotBothBeWritten(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		results := make(chan error)
		for i := range 2 {
			go func() {
				results <- change(s, store.Changes{Docs: []store.Doc{state("payment/1", 0, 1, fmt.Sprintf(`{"n":%d}`, i))}})
			}()
		}
		a, b := <-results, <-results
		if (a == nil) == (b == nil) {
			t.Fatalf("one must win and one lose: %v, %v", a, b)
		}
		conflict(t, "the loser", errors.Join(a, b))
	})
}

func TestWritersWhoRaceLeaveAStreamWithoutGaps(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		const writers, each = 6, 8
		key := store.Key{Table: store.States, Key: "payment/1"}
		once := func(first bool) error {
			tx, err := s.Begin(context.Background())
			if err != nil {
				return err
			}
			defer tx.Rollback()
			found, err := tx.Read(context.Background(), store.Request{Docs: []store.Key{key}})
			if err != nil {
				return err
			}
			doc := store.Doc{Key: key}
			if len(found.Docs) == 1 {
				doc = found.Docs[0]
			}
			doc.Was, doc.Version = doc.Version, doc.Version+1
			doc.Body = fmt.Appendf(nil, `{"n":%d}`, doc.Version)
			if err := tx.Write(context.Background(), store.Changes{Docs: []store.Doc{doc}, Events: []event.Record{happened(key.Key, doc.Version)}}); err != nil {
				return err
			}
			return tx.Commit()
		}
		var all sync.WaitGroup
		for range writers {
			all.Go(func() {
				for range each {
					for {
						err := once(true)
						if err == nil {
							break
						}
						if !errors.Is(err, store.ErrConflict) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		all.Wait()
		var versions []int64
		for _, r := range sweep(t, s, 1000, time.Hour) {
			versions = append(versions, r.Version)
		}
		slices.Sort(versions)
		for i, v := range versions {
			if v != int64(i+1) {
				t.Fatalf("the versions are %v", versions)
			}
		}
		if d, _ := readDoc(t, s, key.Table, key.Key); len(versions) != writers*each || d.Version != writers*each {
			t.Errorf("%d events and version %d, not %d", len(versions), d.Version, writers*each)
		}
	})
}

func TestABarrierIsRaisedOnceAndUndoneOnce(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		fact := happened("payment/1", 1)
		b := store.Barrier{BarrierKey: store.BarrierKey{Saga: fact.Saga, Step: "charge"}, State: store.Done, Fact: &fact}
		must(t, change(s, store.Changes{Events: []event.Record{fact}, Barriers: []store.Barrier{b}}))
		conflict(t, "raised again", change(s, store.Changes{Barriers: []store.Barrier{b}}))
		suppressed := b
		suppressed.State, suppressed.Fact = store.Suppressed, nil
		conflict(t, "suppressed after it was done", change(s, store.Changes{Barriers: []store.Barrier{suppressed}}))

		undone := readBarrier(t, s, b.BarrierKey)
		undone.State, undone.UndoneBy = store.Undone, event.NewID()
		must(t, change(s, store.Changes{Barriers: []store.Barrier{undone}}))
		conflict(t, "undone again", change(s, store.Changes{Claims: []store.Claim{claim("refund", event.NewID())}, Barriers: []store.Barrier{undone}}))
		got := readBarrier(t, s, b.BarrierKey)
		if got.State != store.Undone || got.Fact == nil || got.Fact.ID != fact.ID {
			t.Fatalf("got %+v", got)
		}
		sameJSON(t, got.Fact.Body, fact.Body)
	})
}

func TestASuppressedStepStaysSuppressed(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		fact := happened("payment/1", 1)
		b := store.Barrier{BarrierKey: store.BarrierKey{Saga: fact.Saga, Step: "charge"}, State: store.Suppressed}
		must(t, change(s, store.Changes{Barriers: []store.Barrier{b}}))
		late := b
		late.State, late.Fact = store.Done, &fact
		conflict(t, "done after it was suppressed", change(s, store.Changes{Events: []event.Record{fact}, Barriers: []store.Barrier{late}}))
		undone := readBarrier(t, s, b.BarrierKey)
		if undone.State != store.Suppressed || undone.Fact != nil || undone.Position != 0 {
			t.Errorf("got %+v", undone)
		}
		undone.State, undone.UndoneBy = store.Undone, event.NewID()
		conflict(t, "undone although it never was done", change(s, store.Changes{Barriers: []store.Barrier{undone}}))
		if got := readBarrier(t, s, b.BarrierKey); got.State != store.Suppressed {
			t.Errorf("it is %q now", got.State)
		}
		if due := sweep(t, s, 10, time.Hour); len(due) != 0 {
			t.Errorf("%d events were recorded nevertheless", len(due))
		}
	})
}

func TestAStepThatIsDoneAndUndoneInOneCommitIsUndone(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		fact := happened("payment/1", 1)
		b := store.Barrier{BarrierKey: store.BarrierKey{Saga: fact.Saga, Step: "charge"}, State: store.Undone, Fact: &fact, UndoneBy: event.NewID()}
		must(t, change(s, store.Changes{Events: []event.Record{fact}, Barriers: []store.Barrier{b}}))
		if got := readBarrier(t, s, b.BarrierKey); got.State != store.Undone || got.Fact == nil || got.Fact.ID != fact.ID {
			t.Errorf("got %+v", got)
		}
	})
}

func TestBarriersTellWhichFactCameLast(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		saga := event.NewID()
		var keys []store.BarrierKey
		for i, step := range []string{"reserve", "charge", "bake"} {
			fact := happened("payment/1", int64(i+1))
			key := store.BarrierKey{Saga: saga, Step: step}
			keys = append(keys, key)
			must(t, change(s, store.Changes{Events: []event.Record{fact}, Barriers: []store.Barrier{{BarrierKey: key, State: store.Done, Fact: &fact}}}))
		}
		last := int64(0)
		for _, key := range keys {
			b := readBarrier(t, s, key)
			if b.Position <= last {
				t.Errorf("%s has the position %d, after %d", key.Step, b.Position, last)
			}
			last = b.Position
		}
	})
}

func TestARollbackLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		c, fact := claim("charge", event.NewID()), happened("payment/1", 1)
		key := store.BarrierKey{Saga: fact.Saga, Step: "charge"}
		changes := store.Changes{
			Claims: []store.Claim{c}, Events: []event.Record{fact}, Docs: []store.Doc{state("payment/1", 0, 1, `{}`)},
			Barriers: []store.Barrier{{BarrierKey: key, State: store.Done, Fact: &fact}}, Timers: []store.Timer{armed(time.Now().Add(-time.Hour))},
		}
		tx, err := s.Begin(context.Background())
		must(t, err)
		must(t, tx.Write(context.Background(), changes))
		tx.Rollback()
		tx.Rollback() // once more is harmless

		found := read(t, s, store.Request{
			Claims: []store.ClaimKey{{Step: c.Step, Message: c.Message}}, Docs: []store.Key{changes.Docs[0].Key}, Barriers: []store.BarrierKey{key},
		})
		if due := sweep(t, s, 10, time.Hour); len(found.Claims)+len(found.Docs)+len(found.Barriers)+len(due) != 0 {
			t.Errorf("left: %+v, in the outbox: %v", found, due)
		}
		must(t, change(s, changes))
		if due := sweep(t, s, 10, time.Hour); len(due) != 2 {
			t.Errorf("%d messages in the outbox, not 2", len(due))
		}
	})
}

func TestATransactionOutlivesTheContextItBeganWith(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		ctx, cancel := context.WithCancel(context.Background())
		tx, err := s.Begin(ctx)
		must(t, err)
		defer tx.Rollback()
		must(t, tx.Write(ctx, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
		cancel()
		_, err = tx.Read(ctx, store.Request{Docs: []store.Key{{Table: store.States, Key: "payment/1"}}})
		must(t, err)
		must(t, tx.Commit())
		tx.Rollback()
		if due := sweep(t, s, 10, time.Hour); len(due) != 1 {
			t.Errorf("%d events in the outbox, not 1", len(due))
		}
	})
}

func TestWhatIsSweptIsWhatWasCommitted(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		fact, timer := happened("payment/1", 1), armed(time.Now().Add(-time.Second))
		must(t, change(s, store.Changes{Events: []event.Record{fact}, Timers: []store.Timer{timer}}))
		due := sweep(t, s, 10, time.Hour)
		if len(due) != 2 {
			t.Fatalf("swept %+v", due)
		}
		for _, r := range due {
			if r.ID == fact.ID {
				sameRecord(t, r, fact)
			} else {
				sameRecord(t, r, timer.Record)
			}
		}
	})
}

func TestTimersComeWhenTheyAreDue(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		late, soon := armed(time.Now().Add(time.Hour)), armed(time.Now().Add(700*time.Millisecond))
		must(t, change(s, store.Changes{Timers: []store.Timer{late, soon}}))
		servers.Eventually(t, func() error {
			due := sweep(t, s, 10, time.Hour)
			if early := time.Until(soon.DueAt); len(due) > 0 && early > 0 {
				t.Fatalf("it came %v too early: %+v", early, due)
			}
			if len(due) != 1 || due[0].ID != soon.ID {
				return fmt.Errorf("swept %v", ids(due))
			}
			return nil
		})
	})
}

func TestADisarmedTimerDoesNotCome(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		past := time.Now().Add(-time.Minute)
		disarmed, kept := armed(past), armed(past)
		must(t, change(s, store.Changes{Timers: []store.Timer{disarmed, kept}}))
		must(t, change(s, store.Changes{Disarmed: []uuid.UUID{disarmed.ID, event.NewID()}}))
		both := armed(past)
		must(t, change(s, store.Changes{Timers: []store.Timer{both}, Disarmed: []uuid.UUID{both.ID}}))
		if due := sweep(t, s, 10, time.Hour); len(due) != 1 || due[0].ID != kept.ID {
			t.Errorf("armed are %v; want only %v, not %v (disarmed later) nor %v (disarmed in the same commit)", ids(due), kept.ID, disarmed.ID, both.ID)
		}
	})
}

func TestATimerThatIsArmedStaysAsItIs(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		timer := armed(time.Now().Add(-time.Minute))
		must(t, change(s, store.Changes{Timers: []store.Timer{timer}}))
		again := timer
		again.DueAt = time.Now().Add(time.Hour)
		must(t, change(s, store.Changes{Timers: []store.Timer{again}}))
		if due := sweep(t, s, 10, time.Hour); len(due) != 1 {
			t.Error("arming it again put it off")
		}
	})
}

func TestASweptMessageIsLeased(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
		const lease = 1200 * time.Millisecond
		began := time.Now()
		if due := sweep(t, s, 10, lease); len(due) != 1 {
			t.Fatalf("swept %v", due)
		}
		servers.Eventually(t, func() error {
			due := sweep(t, s, 10, lease)
			if left := lease - time.Since(began); len(due) > 0 && left > 0 {
				t.Fatalf("swept again %v before the lease was over", left)
			}
			if len(due) != 1 {
				return errors.New("the lease has no end")
			}
			return nil
		})
	})
}

func TestAPublishedMessageIsGone(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		a, b := happened("payment/1", 1), happened("payment/1", 2)
		timer := armed(time.Now().Add(-time.Second))
		must(t, change(s, store.Changes{Events: []event.Record{a, b}, Timers: []store.Timer{timer}}))
		must(t, s.Published(context.Background(), []uuid.UUID{a.ID, timer.ID, event.NewID()}))
		must(t, s.Published(context.Background(), []uuid.UUID{a.ID}))
		if due := sweep(t, s, 10, time.Hour); len(due) != 1 || due[0].ID != b.ID {
			t.Errorf("left are %v, want %v", ids(due), b.ID)
		}
	})
}

func TestAReleasedMessageIsDueAgainInASecond(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
		due := sweep(t, s, 10, time.Hour)
		must(t, s.Release(context.Background(), append(ids(due), event.NewID())))
		released := time.Now()
		servers.Eventually(t, func() error {
			if len(sweep(t, s, 10, time.Hour)) != 1 {
				return errors.New("it is not due")
			}
			return nil
		})
		servers.Took(t, "coming again", released, 5*time.Second)
	})
}

func TestASweepTakesNoMoreThanItsLimit(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		var events []event.Record
		for v := range 10 {
			events = append(events, happened("payment/1", int64(v+1)))
		}
		must(t, change(s, store.Changes{Events: events}))
		for _, want := range []int{4, 4, 2, 0} {
			if due := sweep(t, s, 4, time.Hour); len(due) != want {
				t.Errorf("swept %d, want %d", len(due), want)
			}
		}
	})
}

func TestTwoSweepersNeverGetTheSameMessage(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		const messages = 400
		var events []event.Record
		for v := range messages {
			events = append(events, happened("payment/1", int64(v+1)))
		}
		must(t, change(s, store.Changes{Events: events}))
		var mu sync.Mutex
		taken := map[uuid.UUID]int{}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					due, err := s.Sweep(context.Background(), 7, time.Hour)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, r := range due {
						taken[r.ID]++
					}
					enough := len(taken) == messages
					mu.Unlock()
					if enough || err != nil || t.Context().Err() != nil {
						return
					}
				}
			})
		}
		all.Wait()
		for id, n := range taken {
			if n != 1 {
				t.Errorf("%v was taken %d times", id, n)
			}
		}
	})
}

func TestTextOfAllKindsSurvives(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		for i, text := range []string{
			`plain`, `it's "quoted" \ and {braced}, NULL`, "tab\tline\nreturn\r", "Schokolade heiß ☕ 🍫 ä́ \u202e rtl", `\u0041 $1 ?; DROP TABLE event_log; --`, `{"a":"\\\""}`,
			"\x01\x1f\x7f\u0080\ufffd\ufeff",
		} {
			body, err := json.Marshal(map[string]string{"text": text})
			must(t, err)
			stream := "payment/" + text
			fact, timer := happened(stream, 1), armed(time.Now().Add(-time.Second))
			fact.Body, fact.Actor, timer.Body, timer.Actor = body, text, body, text
			digest := []byte(text)
			c := store.Claim{Step: text, Message: event.NewID(), Saga: fact.Saga, Digest: digest}
			b := store.Barrier{BarrierKey: store.BarrierKey{Saga: fact.Saga, Step: text}, State: store.Done, Fact: &fact}
			must(t, change(s, store.Changes{
				Claims: []store.Claim{c}, Events: []event.Record{fact}, Docs: []store.Doc{state(stream, 0, 1, string(body))},
				Barriers: []store.Barrier{b}, Timers: []store.Timer{timer},
			}))
			for _, r := range sweep(t, s, 10, time.Hour) {
				if r.ID == fact.ID {
					sameRecord(t, r, fact)
				} else {
					sameRecord(t, r, timer.Record)
				}
			}
			found := read(t, s, store.Request{Claims: []store.ClaimKey{{Step: text, Message: c.Message}}, Docs: []store.Key{{Table: store.States, Key: stream}}, Barriers: []store.BarrierKey{b.BarrierKey}})
			if len(found.Claims) != 1 || len(found.Docs) != 1 || len(found.Barriers) != 1 || !reflect.DeepEqual(found.Claims[0], c) {
				t.Fatalf("text %d: got %+v", i, found)
			}
			sameJSON(t, found.Docs[0].Body, body)
			sameJSON(t, found.Barriers[0].Fact.Body, body)
		}
	})
}

func TestABatchOfAThousandIsOneCommit(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		const n = 1000
		var c store.Changes
		var r store.Request
		for i := range n {
			fact := happened(fmt.Sprintf("payment/%d", i), 1)
			c.Events = append(c.Events, fact)
			c.Claims = append(c.Claims, claim("charge", event.NewID()))
			c.Docs = append(c.Docs, state(fact.Stream, 0, 1, `{"phase":"captured"}`), store.Doc{Key: store.Key{Table: copies, Key: fact.Stream}, Version: 3, Body: []byte(`{}`)})
			c.Barriers = append(c.Barriers, store.Barrier{BarrierKey: store.BarrierKey{Saga: fact.Saga, Step: "charge"}, State: store.Done, Fact: &fact})
			c.Timers = append(c.Timers, armed(time.Now().Add(time.Hour)))
			r.Claims = append(r.Claims, store.ClaimKey{Step: "charge", Message: c.Claims[i].Message})
			r.Docs = append(r.Docs, store.Key{Table: store.States, Key: fact.Stream}, store.Key{Table: copies, Key: fact.Stream})
			r.Barriers = append(r.Barriers, store.BarrierKey{Saga: fact.Saga, Step: "charge"})
		}
		must(t, change(s, c))
		found := read(t, s, r)
		if len(found.Claims) != n || len(found.Docs) != 2*n || len(found.Barriers) != n {
			t.Errorf("found %d claims, %d documents, %d barriers", len(found.Claims), len(found.Docs), len(found.Barriers))
		}
		// Every document once more, on top of what was read.
		again := store.Changes{}
		for _, d := range found.Docs {
			d.Was, d.Version = d.Version, d.Version+1
			again.Docs = append(again.Docs, d)
		}
		must(t, change(s, again))
		var swept int
		for due := sweep(t, s, 500, time.Hour); len(due) > 0; due = sweep(t, s, 500, time.Hour) {
			swept += len(due)
			must(t, s.Published(context.Background(), ids(due)))
		}
		if swept != n {
			t.Errorf("swept %d, want %d", swept, n)
		}
	})
}

func TestAttemptsAreKept(t *testing.T) {
	both(t, func(t *testing.T, s full) {
		a := store.Attempt{Message: event.NewID(), Type: "order.placed", Step: "charge", Saga: event.NewID(), N: 1, Error: "no \x00 answer \xff", At: time.Now(), NextAt: time.Now().Add(time.Second)}
		dead := a
		dead.N, dead.NextAt = 2, time.Time{}
		must(t, s.Attempted(context.Background(), []store.Attempt{a, dead}))
		must(t, s.Attempted(context.Background(), []store.Attempt{a}))
		// What poison says of itself can be anything.
		must(t, s.Attempted(context.Background(), []store.Attempt{{Type: "no\x00type\xff", Step: "\x00", Error: "poison", At: time.Now()}}))
		must(t, s.Attempted(context.Background(), nil))
	})
}
