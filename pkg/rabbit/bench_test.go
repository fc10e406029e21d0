package rabbit_test

import (
	"testing"
	"time"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/rabbit"
)

// BenchmarkEncode is what it costs to make the AMQP message of an event.
func BenchmarkEncode(b *testing.B) {
	r := capturedRecord(b)
	b.ReportAllocs()
	for b.Loop() {
		_ = rabbit.Encode(r, "pay")
	}
}

// BenchmarkDecode is what it costs to read it back.
func BenchmarkDecode(b *testing.B) {
	w := rabbit.Encode(capturedRecord(b), "pay")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := w.Record("order"); err != nil {
			b.Fatal(err)
		}
	}
}

// capturedRecord is an event as the door makes it.
func capturedRecord(b *testing.B) event.Record {
	saga := event.NewID()
	body, err := contract.Marshal(&payv1.PaymentCaptured{OrderId: saga.String(), Customer: "ada"})
	if err != nil {
		b.Fatal(err)
	}
	return event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: "payment.captured", Schema: 1, Source: "pay", Stream: "payment/" + saga.String(), Version: 1,
		Saga: saga, Causation: event.NewID(), Hops: 3, Actor: "customer:ada", At: time.Now().UTC().Truncate(time.Microsecond),
	}}
}
