package flow_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// BenchmarkDoor is what the door costs by itself, over a store in memory: per message, in batches of several sizes.
func BenchmarkDoor(b *testing.B) {
	for _, size := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			payments := newPayments()
			f := flow.New("pay", payments, flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}).NotCompensated("a benchmark"))
			door := flow.NewDoor(f, store.NewMemory(), nil, nil)
			b.ReportAllocs()
			messages := 0
			for b.Loop() {
				b.StopTimer()
				batch := orders(b, f, size)
				b.StartTimer()
				for _, v := range door.Process(b.Context(), batch) {
					if v.Err != nil || len(v.Events) != 1 {
						b.Fatal(v)
					}
				}
				messages += size
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
		})
	}
}

// BenchmarkAccept is what it costs to make a message of an event that came over the wire.
func BenchmarkAccept(b *testing.B) {
	payments := newPayments()
	f := flow.New("pay", payments, flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}).NotCompensated("a benchmark"))
	r := orderPlaced(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Accept(r); err != nil {
			b.Fatal(err)
		}
	}
}

// orders are messages of so many new orders.
func orders(b *testing.B, f *flow.Flow, n int) (batch []flow.Message) {
	for range n {
		m, err := f.Accept(orderPlaced(b))
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, m)
	}
	return batch
}

// orderPlaced is a new order as it comes over the wire.
func orderPlaced(b *testing.B) event.Record {
	saga := event.NewID()
	var fact proto.Message = &orderv1.OrderPlaced{OrderId: saga.String(), Customer: "ada", PaymentToken: "tok_ok", Total: eur(450)}
	e, _ := contract.Of(fact)
	body, err := contract.Marshal(fact)
	if err != nil {
		b.Fatal(err)
	}
	return event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: e.Version, Source: e.Owner, Stream: e.StreamOf(fact), Version: 1,
		Saga: saga, Causation: uuid.New(), Hops: 2, Actor: "customer:ada",
	}}
}
