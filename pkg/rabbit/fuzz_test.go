package rabbit_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

// FuzzWhatComesFromTheWireIsReadOrRefused: whatever headers and body a message has, it is read as an event that says who it
// is, or refused with a reason; and what is sent once more does not carry what the broker wrote on it.
func FuzzWhatComesFromTheWireIsReadOrRefused(f *testing.F) {
	desk := desk(flow.Forward, captured)
	id := uuid.MustParse("019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27")
	for _, e := range contract.All() {
		body, err := contract.Marshal(contract.Example(e.Type))
		if err != nil {
			f.Fatal(err)
		}
		r := event.Record{Body: body, Envelope: event.Envelope{
			ID: id, Type: e.Type, Schema: e.Version, Source: e.Owner, Stream: e.StreamOf(contract.Example(e.Type)), Version: 1, Saga: id, Causation: id, At: time.Unix(1, 0),
		}}
		w := rabbit.Encode(r, e.Owner)
		headers, err := json.Marshal(w.Headers)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(w.Type, w.MessageID, w.AppID, w.Exchange, headers, w.Body, int64(1))
	}
	f.Add("order.placed", "", "order", "", []byte(`{"x-death": [{"count": 3}], "schema": "one", "cloudEvents_time": 7, "hops": -1}`), []byte("{"), int64(-1))
	f.Fuzz(func(t *testing.T, typ, message, app, exchange string, headers, body []byte, number int64) {
		w := rabbit.Wire{Type: typ, MessageID: message, CorrelationID: message, AppID: app, UserID: app, Exchange: exchange, Body: body, Headers: map[string]any{}}
		if json.Unmarshal(headers, &w.Headers) != nil || w.Headers == nil {
			w.Headers = map[string]any{}
		}
		for name, v := range w.Headers {
			if _, ok := v.(float64); ok {
				w.Headers[name] = number // as AMQP has numbers
			}
		}
		again := w.Again("pay", "1s")
		for name := range again.Headers {
			if len(name) > 1 && name[:2] == "x-" {
				t.Errorf("%s is sent along", name)
			}
		}
		r, _, err := w.Record("pay")
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		m, err := desk.Accept(r)
		switch {
		case err == nil && m.Payload == nil:
			t.Error("accepted without a payload")
		case err != nil && !errors.Is(err, flow.ErrPoison):
			t.Errorf("refused, but not as poison: %v", err)
		}
	})
}
