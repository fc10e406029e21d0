package relay_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/relay"
	"hotchoc/pkg/store"
)

// BenchmarkRelay is the way of committed events to the broker and out of the outbox, on the servers: publish with confirm
// and mandatory, then the removal. 128 events at a time, as of a full batch; the commit before is not counted.
func BenchmarkRelay(b *testing.B) {
	const size = 128
	db, broker := servers.NewDatabase(b), servers.NewBroker(b, pay, order)
	pool := servers.Open(b, db.URL)
	s := &removals{Postgres: store.NewPostgres(pool, servers.Open(b, db.URL+"&options=-c%20synchronous_commit%3Doff"), store.PostgresConfig{Service: "pay"}), done: make(chan int, size)}
	publisher := rabbit.NewPublisher(rabbit.Config{URLs: []string{broker.As("pay")}, Service: "pay"}, zap.NewNop())
	out := relay.New(s, publisher, zap.NewNop(), relay.Config{})
	for _, part := range []func(context.Context) error{publisher.Run, out.Run} {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- part(ctx) }()
		b.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
	servers.Eventually(b, func() error {
		if !publisher.Ready() {
			return errors.New("it is not connected")
		}
		return nil
	})
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		events := write(b, s, size)
		b.StartTimer()
		out.Committed(events)
		for left := size; left > 0; {
			left -= <-s.done
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/message")
}

// removals tells how many events have left the outbox.
type removals struct {
	*store.Postgres
	done chan int
}

func (r *removals) Published(ctx context.Context, ids []uuid.UUID) error {
	err := r.Postgres.Published(ctx, ids)
	if err == nil {
		r.done <- len(ids)
	}
	return err
}

// write commits new events.
func write(b *testing.B, s store.Store, n int) (events []event.Record) {
	for range n {
		events = append(events, happened("payment/"+event.NewID().String(), 1))
	}
	tx, err := s.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer tx.Rollback()
	if err := errors.Join(tx.Write(b.Context(), store.Changes{Events: events}), tx.Commit()); err != nil {
		b.Fatal(err)
	}
	return events
}
