package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/store"
)

// postgres is a store on a database of its own, by way of a proxy.
type postgres struct {
	*store.Postgres
	db    *servers.Database
	proxy *servers.Proxy
}

func newPostgres(t *testing.T) postgres {
	t.Helper()
	db := servers.NewDatabase(t)
	db.Exec(t, view)
	return onDatabase(t, db)
}

func onDatabase(t *testing.T, db *servers.Database) postgres {
	t.Helper()
	proxy := servers.NewProxy(t, db.URL)
	target := proxy.URL(db.URL)
	// Without Grace what was written is due at once.
	cfg := store.PostgresConfig{Service: "pay", Tables: []string{copies}, Grace: time.Nanosecond, Timeout: 5 * time.Second}
	return postgres{store.NewPostgres(servers.Open(t, target), servers.Open(t, target+"&options=-c%20synchronous_commit%3Doff"), cfg), db, proxy}
}

func unavailable(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrConflict) {
		t.Errorf("%s: want unavailable, got %v", what, err)
	}
}

func TestTheEventLogRefusesEveryChange(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
	owner := servers.Open(t, s.db.URL)
	for _, statement := range []string{
		`UPDATE event_log SET data = '{}'`, `UPDATE event_log SET actor = 'x' WHERE false`, `DELETE FROM event_log`, `TRUNCATE event_log`, `TRUNCATE event_log CASCADE`,
		`WITH gone AS (DELETE FROM event_log RETURNING 1) SELECT count(*) FROM gone`,
		`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
		 SELECT event_id, stream, version, type, schema, '{}', saga, causation, hops, actor, recorded_at FROM event_log ON CONFLICT (event_id) DO UPDATE SET data = excluded.data`,
	} {
		if _, err := owner.Exec(statement); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if n := s.db.Int(t, `SELECT count(*) FROM event_log WHERE data ->> 'order_id' = '1'`); n != 1 {
		t.Errorf("%d events are in the log", n)
	}
}

func TestEventsAreInTheLogAndInTheOutboxTogether(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	for stream := range 3 {
		for v := range 4 {
			c := store.Changes{Events: []event.Record{happened(fmt.Sprintf("payment/%d", stream), int64(v+1))}}
			if v == 3 {
				// Version 1 is taken: nothing of this is written.
				c.Events = append(c.Events, happened(fmt.Sprintf("payment/%d", stream), 1))
				conflict(t, "a version that is taken", change(s, c))
				continue
			}
			must(t, change(s, c))
		}
	}
	if n := s.db.Int(t, `SELECT count(*) FROM event_log l FULL JOIN outbox o ON o.message_id = l.event_id WHERE l.event_id IS NULL OR o.message_id IS NULL`); n != 0 {
		t.Errorf("%d events are only in one of the two", n)
	}
	if n := s.db.Int(t, `SELECT count(*) FROM event_log`); n != 9 {
		t.Errorf("%d events, want 9", n)
	}
	if n := s.db.Int(t, `SELECT count(*) FROM (SELECT 1 FROM event_log GROUP BY stream HAVING max(version) <> count(*) OR min(version) <> 1) x`); n != 0 {
		t.Errorf("%d streams have gaps", n)
	}
}

func TestAFreshMessageIsLeftToTheRelayThatWroteIt(t *testing.T) {
	t.Parallel()
	db := servers.NewDatabase(t)
	pool := servers.Open(t, db.URL)
	s := store.NewPostgres(pool, pool, store.PostgresConfig{Service: "pay", Grace: time.Hour})
	due := armed(time.Now().Add(-time.Second))
	must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}, Timers: []store.Timer{due}}))
	if swept := sweep(t, s, 10, time.Hour); len(swept) != 1 || swept[0].ID != due.ID {
		t.Errorf("swept %v, want only the timer", ids(swept))
	}
}

func TestASweepIsInTheOrderOfTheLog(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	var want []uuid.UUID
	for v := range 30 {
		fact := happened("payment/1", int64(v+1))
		fact.ID = uuid.New()
		want = append(want, fact.ID)
		must(t, change(s, store.Changes{Events: []event.Record{fact}}))
	}
	for i, r := range sweep(t, s, 100, time.Hour) {
		if r.ID != want[i] {
			t.Fatalf("number %d is version %d", i, r.Version)
		}
	}
}

func TestATimerThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	bad, good := armed(time.Now().Add(-2*time.Second)), armed(time.Now().Add(-time.Second))
	must(t, change(s, store.Changes{Timers: []store.Timer{bad, good}}))
	s.db.Exec(t, fmt.Sprintf(`UPDATE outbox SET timer = '[]' WHERE message_id = '%s'`, bad.ID))
	due, err := s.Sweep(context.Background(), 10, time.Hour)
	if err == nil || !strings.Contains(err.Error(), bad.ID.String()) {
		t.Errorf("nobody is told about the timer %s: %v", bad.ID, err)
	}
	if len(due) != 1 || due[0].ID != good.ID {
		t.Errorf("swept %v, want the timer that can be read, %s", ids(due), good.ID)
	}
	if again := sweep(t, s, 10, time.Hour); len(again) != 0 {
		t.Errorf("swept %v before their lease was over", ids(again))
	}
}

func TestACommitThatComesLateIsNotMissed(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	slow, err := s.Begin(context.Background())
	must(t, err)
	defer slow.Rollback()
	early, late := happened("payment/1", 1), happened("payment/2", 1)
	must(t, slow.Write(context.Background(), store.Changes{Events: []event.Record{early}}))
	// What is written later is committed, swept and published first.
	must(t, change(s, store.Changes{Events: []event.Record{late}}))
	if due := sweep(t, s, 10, time.Hour); len(due) != 1 || due[0].ID != late.ID {
		t.Fatalf("swept %v", ids(due))
	}
	must(t, s.Published(context.Background(), []uuid.UUID{late.ID}))
	must(t, slow.Commit())
	if due := sweep(t, s, 10, time.Hour); len(due) != 1 || due[0].ID != early.ID {
		t.Errorf("swept %v, want %v", ids(due), early.ID)
	}
	if n := s.db.Int(t, `SELECT count(*) FROM event_log a JOIN event_log b ON a.position < b.position WHERE a.stream = 'payment/1' AND b.stream = 'payment/2'`); n != 1 {
		t.Error("the late commit was not the earlier position: the test shows nothing")
	}
}

func TestASweeperDoesNotWaitForAnother(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	a, b := happened("payment/1", 1), happened("payment/2", 1)
	must(t, change(s, store.Changes{Events: []event.Record{a, b}}))
	other := servers.Open(t, s.db.URL).MustBegin()
	defer func() { _ = other.Rollback() }()
	other.MustExec(`SELECT 1 FROM outbox WHERE message_id = $1 FOR UPDATE`, a.ID)
	if due := sweep(t, s, 10, time.Hour); len(due) != 1 || due[0].ID != b.ID {
		t.Errorf("swept %v, want only %v", ids(due), b.ID)
	}
}

// TestAStateThatIsHeldMakesTheOtherWait is what makes a decision on a state safe: it cannot change before the commit.
func TestAStateThatIsHeldMakesTheOtherWait(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	fact := happened("payment/1", 1)
	barrier := store.BarrierKey{Saga: fact.Saga, Step: "charge"}
	must(t, change(s, store.Changes{
		Docs:     []store.Doc{state("payment/1", 0, 1, `{"n":1}`), {Key: store.Key{Table: copies, Key: "classic"}, Version: 1, Body: []byte(`{"n":1}`)}},
		Events:   []event.Record{fact},
		Barriers: []store.Barrier{{BarrierKey: barrier, State: store.Done, Fact: &fact}},
	}))
	for name, want := range map[string]store.Request{
		"a state":   {Docs: []store.Key{{Table: store.States, Key: "payment/1"}}},
		"a copy":    {Docs: []store.Key{{Table: copies, Key: "classic"}}},
		"a barrier": {Barriers: []store.BarrierKey{barrier}},
	} {
		t.Run(name, func(t *testing.T) {
			first, err := s.Begin(context.Background())
			must(t, err)
			defer first.Rollback()
			held, err := first.Read(context.Background(), want)
			must(t, err)

			type result struct {
				found store.Snapshot
				err   error
			}
			second := make(chan result, 1)
			go func() {
				tx, err := s.Begin(context.Background())
				if err != nil {
					second <- result{err: err}
					return
				}
				defer tx.Rollback()
				found, err := tx.Read(context.Background(), want)
				second <- result{found, err}
			}()
			s.db.WaitForLock(t, 1)
			var c store.Changes
			for _, d := range held.Docs {
				d.Version, d.Body = d.Was+1, []byte(`{"n":2}`)
				c.Docs = append(c.Docs, d)
			}
			for _, b := range held.Barriers {
				b.State, b.UndoneBy = store.Undone, event.NewID()
				c.Barriers = append(c.Barriers, b)
			}
			must(t, first.Write(context.Background(), c))
			select {
			case r := <-second:
				t.Fatalf("it did not wait: %+v", r)
			default:
			}
			must(t, first.Commit())
			r := <-second
			must(t, r.err)
			for _, d := range r.found.Docs {
				if d.Version != 2 || d.Was != 2 || !bytes.Contains(d.Body, []byte("2")) {
					t.Errorf("it saw the old version: %+v, %s", d, d.Body)
				}
			}
			for _, b := range r.found.Barriers {
				if b.State != store.Undone || b.Fact == nil || b.Fact.ID != fact.ID {
					t.Errorf("it saw the old barrier: %+v", b)
				}
			}
			if len(r.found.Docs)+len(r.found.Barriers) != 1 {
				t.Errorf("it saw %+v", r.found)
			}
		})
	}
}

func TestTwoThatWaitForEachOtherAreAConflictAndNoHang(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	must(t, change(s, store.Changes{Docs: []store.Doc{state("payment/1", 0, 1, `{}`), state("payment/2", 0, 1, `{}`)}}))
	want := func(key string) store.Request {
		return store.Request{Docs: []store.Key{{Table: store.States, Key: key}}}
	}
	begin := func(key string) store.Tx {
		tx, err := s.Begin(context.Background())
		must(t, err)
		t.Cleanup(tx.Rollback)
		_, err = tx.Read(context.Background(), want(key))
		must(t, err)
		return tx
	}
	a, b := begin("payment/1"), begin("payment/2")
	results := make(chan error, 2)
	step := func(tx store.Tx, key string) {
		_, err := tx.Read(context.Background(), want(key))
		tx.Rollback()
		results <- err
	}
	go step(a, "payment/2")
	go step(b, "payment/1")
	x, y := <-results, <-results
	if (x == nil) == (y == nil) {
		t.Fatalf("one must give way: %v, %v", x, y)
	}
	conflict(t, "the one that gave way", errors.Join(x, y))
}

// TestALostConnectionIsUnavailableAndTheNextTransactionWorks goes through the places where it can be lost.
func TestALostConnectionIsUnavailableAndTheNextTransactionWorks(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, postgres){
		"terminated": func(t *testing.T, s postgres) { s.db.Terminate(t) },
		"cut off":    func(_ *testing.T, s postgres) { s.proxy.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPostgres(t)
			request := store.Request{Docs: []store.Key{{Table: store.States, Key: "payment/1"}}}
			again := func() {
				t.Helper()
				must(t, change(s, store.Changes{Claims: []store.Claim{claim("charge", event.NewID())}}))
			}
			again()

			// What was lost while nobody used it the pool notices by itself, once the news has come.
			lose(t, s)
			servers.Eventually(t, func() error {
				return change(s, store.Changes{Claims: []store.Claim{claim("charge", event.NewID())}})
			})

			tx, err := s.Begin(context.Background())
			must(t, err)
			lose(t, s)
			_, err = tx.Read(context.Background(), request)
			unavailable(t, "lost before the read", err)
			tx.Rollback()
			again()

			tx, err = s.Begin(context.Background())
			must(t, err)
			_, err = tx.Read(context.Background(), request)
			must(t, err)
			lose(t, s)
			unavailable(t, "lost before the write", tx.Write(context.Background(), store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
			tx.Rollback()
			again()

			tx, err = s.Begin(context.Background())
			must(t, err)
			must(t, tx.Write(context.Background(), store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
			lose(t, s)
			unavailable(t, "lost before the commit", tx.Commit())
			tx.Rollback()
			again()

			must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
			lose(t, s)
			servers.Eventually(t, func() error {
				due, err := s.Sweep(context.Background(), 10, time.Hour)
				if err != nil && !errors.Is(err, store.ErrUnavailable) {
					t.Fatal(err)
				}
				if len(due) != 1 {
					return fmt.Errorf("swept %v, %v", ids(due), err)
				}
				return nil
			})
			lose(t, s)
			servers.Eventually(t, func() error { return s.Published(context.Background(), []uuid.UUID{event.NewID()}) })
		})
	}
}

// TestACommitWhoseAnswerIsLostIsUnavailableAndFoundByItsClaim cuts the connection after the server has committed.
func TestACommitWhoseAnswerIsLostIsUnavailableAndFoundByItsClaim(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	c := claim("charge", event.NewID())
	tx, err := s.Begin(context.Background())
	must(t, err)
	defer tx.Rollback()
	must(t, tx.Write(context.Background(), store.Changes{Claims: []store.Claim{c}}))
	var committing atomic.Bool
	s.proxy.Watch(func(toServer bool, data []byte) bool {
		if toServer && bytes.Contains(data, []byte("COMMIT")) {
			committing.Store(true)
		}
		return toServer || !committing.Load()
	})
	unavailable(t, "the answer to the commit is lost", tx.Commit())
	if !committing.Load() {
		t.Fatal("no COMMIT was seen: the test shows nothing")
	}
	s.proxy.Watch(nil)
	found := read(t, s, store.Request{Claims: []store.ClaimKey{{Step: c.Step, Message: c.Message}}})
	if len(found.Claims) != 1 {
		t.Error("the commit did not last")
	}
}

// TestACommitThatDiesInTheServerLeavesNothing lets the backend die while it commits.
func TestACommitThatDiesInTheServerLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	s.db.Exec(t, `CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()`)
	c := claim("charge", event.NewID())
	unavailable(t, "dead at the commit", change(s, store.Changes{Claims: []store.Claim{c}}))
	s.db.Exec(t, `DROP TRIGGER die ON inbox`)
	if found := read(t, s, store.Request{Claims: []store.ClaimKey{{Step: c.Step, Message: c.Message}}}); len(found.Claims) != 0 {
		t.Error("it was committed nevertheless")
	}
	must(t, change(s, store.Changes{Claims: []store.Claim{c}}))
}

func TestAServerThatIsAwayIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}))
	s.proxy.Down()
	unavailable(t, "write", change(s, store.Changes{Events: []event.Record{happened("payment/1", 2)}}))
	_, err := s.Sweep(context.Background(), 10, time.Hour)
	unavailable(t, "sweep", err)
	unavailable(t, "ping", s.Ping(context.Background()))
	unavailable(t, "published", s.Published(context.Background(), []uuid.UUID{event.NewID()}))
	unavailable(t, "release", s.Release(context.Background(), []uuid.UUID{event.NewID()}))
	unavailable(t, "attempted", s.Attempted(context.Background(), []store.Attempt{{At: time.Now()}}))
	s.proxy.Up()
	must(t, s.Ping(context.Background()))
	must(t, change(s, store.Changes{Events: []event.Record{happened("payment/1", 2)}}))
	if due := sweep(t, s, 10, time.Hour); len(due) != 2 {
		t.Errorf("swept %v", ids(due))
	}
}

func TestADatabaseThatIsNotThereYetIsUnavailableAndThenWorks(t *testing.T) {
	t.Parallel()
	db := servers.ReserveDatabase(t)
	s := onDatabase(t, db)
	try := func() error { return change(s, store.Changes{Events: []event.Record{happened("payment/1", 1)}}) }
	for range 2 {
		unavailable(t, "ping without a database", s.Ping(context.Background()))
		unavailable(t, "write without a database", try())
	}
	db.Create(t)
	unavailable(t, "ping without tables", s.Ping(context.Background()))
	unavailable(t, "write without tables", try())
	_, err := s.Sweep(context.Background(), 10, time.Hour)
	unavailable(t, "sweep without tables", err)
	db.Migrate(t)
	unavailable(t, "ping without all tables", s.Ping(context.Background()))
	db.Exec(t, view)
	must(t, s.Ping(context.Background()))
	must(t, try())

	// And once more, under the same store.
	db.Drop(t)
	unavailable(t, "write after the database is gone", try())
	unavailable(t, "ping after the database is gone", s.Ping(context.Background()))
	db.Create(t)
	db.Migrate(t)
	db.Exec(t, view)
	must(t, s.Ping(context.Background()))
	must(t, try())
}

// TestARoleWithoutRightsYetIsUnavailable is the moment between the tables and the grants of a migration.
func TestARoleWithoutRightsYetIsUnavailable(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	role := s.db.Name + "_role"
	s.db.Exec(t, "CREATE ROLE "+role)
	t.Cleanup(func() { s.db.Exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	limited := servers.Open(t, s.db.URL+"&role="+role)
	p := store.NewPostgres(limited, limited, store.PostgresConfig{Service: "pay"})
	unavailable(t, "write", change(p, store.Changes{Claims: []store.Claim{claim("charge", event.NewID())}}))
	s.db.Exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "+role)
	must(t, change(p, store.Changes{Claims: []store.Claim{claim("charge", event.NewID())}}))
}

// TestWhatTheDatabaseCannotKeepIsAnErrorOfItsOwn: neither is anybody else to blame, nor does waiting help.
func TestWhatTheDatabaseCannotKeepIsAnErrorOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	fact := func(change func(*event.Record)) store.Changes {
		r := happened("payment/1", 1)
		change(&r)
		return store.Changes{Events: []event.Record{r}}
	}
	for name, c := range map[string]store.Changes{
		"an escaped NUL in the data":    fact(func(r *event.Record) { r.Body = []byte(`{"a":"\u0000"}`) }),
		"a NUL in the data":             fact(func(r *event.Record) { r.Body = []byte("{\"a\":\"\x00\"}") }),
		"bytes that are not UTF-8":      fact(func(r *event.Record) { r.Body = []byte("{\"a\":\"\xff\xfe\"}") }),
		"half a surrogate":              fact(func(r *event.Record) { r.Body = []byte(`{"a":"\ud800"}`) }),
		"data that are not JSON":        fact(func(r *event.Record) { r.Body = []byte(`{`) }),
		"no data":                       fact(func(r *event.Record) { r.Body = nil }),
		"a NUL in the name of a stream": fact(func(r *event.Record) { r.Stream = "payment/\x00" }),
		"version 0":                     fact(func(r *event.Record) { r.Version = 0 }),
		"a NUL in a document":           {Docs: []store.Doc{state("payment/1", 0, 1, `{"a":"\u0000"}`)}},
		"an unknown state of a barrier": {Barriers: []store.Barrier{{BarrierKey: store.BarrierKey{Saga: event.NewID(), Step: "charge"}, State: "perhaps"}}},
	} {
		t.Run(name, func(t *testing.T) {
			other := claim("charge", event.NewID())
			c.Claims = []store.Claim{other}
			err := change(s, c)
			if err == nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			must(t, change(s, store.Changes{Claims: []store.Claim{other}}))
		})
	}
}

func TestTheLedgerKeepsEveryAttemptOnce(t *testing.T) {
	t.Parallel()
	s := newPostgres(t)
	a := store.Attempt{Message: event.NewID(), Type: "order.placed", Step: "charge", Saga: event.NewID(), N: 1, Error: "no \x00 answer", At: time.Now(), NextAt: time.Now().Add(time.Second)}
	dead := a
	dead.N, dead.At, dead.NextAt = 2, a.At.Add(time.Second), time.Time{}
	redriven := a
	redriven.At = a.At.Add(time.Hour)
	must(t, s.Attempted(context.Background(), []store.Attempt{a, a, dead}))
	must(t, s.Attempted(context.Background(), []store.Attempt{dead, redriven}))
	if n := s.db.Int(t, `SELECT count(*) FROM attempt WHERE message_id = $1 AND error = 'no  answer'`, a.Message); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
	if n := s.db.Int(t, `SELECT n FROM attempt WHERE next_at IS NULL`); n != 2 {
		t.Errorf("attempt %d was set aside, want 2", n)
	}
}
