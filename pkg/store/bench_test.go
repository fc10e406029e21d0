package store_test

import (
	"fmt"
	"testing"

	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/store"
)

// BenchmarkCommit is the transaction of a batch on Postgres, durable: begin, read, write, commit. Each message claims the
// inbox, writes an event and a state, and raises a barrier.
func BenchmarkCommit(b *testing.B) {
	db := servers.NewDatabase(b)
	pool := servers.Open(b, db.URL)
	s := store.NewPostgres(pool, pool, store.PostgresConfig{Service: "pay"})
	for _, size := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			messages := 0
			for b.Loop() {
				b.StopTimer()
				wanted, changes := batch(size)
				b.StartTimer()
				tx, err := s.Begin(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := tx.Read(b.Context(), wanted); err != nil {
					b.Fatal(err)
				}
				if err := tx.Write(b.Context(), changes); err != nil {
					b.Fatal(err)
				}
				if err := tx.Commit(); err != nil {
					b.Fatal(err)
				}
				messages += size
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
		})
	}
}

// batch is what so many messages of new sagas read and write.
func batch(size int) (r store.Request, c store.Changes) {
	for range size {
		e := happened("", 1)
		e.Stream = "payment/" + e.Saga.String()
		claimed := claim("charge", e.Causation)
		barrier := store.BarrierKey{Saga: e.Saga, Step: "charge"}
		doc := state(e.Stream, 0, 1, `{"captured": 900}`)
		r.Claims = append(r.Claims, store.ClaimKey{Step: claimed.Step, Message: claimed.Message})
		r.Docs, r.Barriers = append(r.Docs, doc.Key), append(r.Barriers, barrier)
		c.Claims, c.Events, c.Docs = append(c.Claims, claimed), append(c.Events, e), append(c.Docs, doc)
		c.Barriers = append(c.Barriers, store.Barrier{BarrierKey: barrier, State: store.Done, Fact: &e})
	}
	return r, c
}
