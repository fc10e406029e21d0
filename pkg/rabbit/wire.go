package rabbit

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/event"
)

// Wire is a message as a broker has it, without the types of the AMQP client: for a broker that is simulated.
type Wire struct {
	MessageID, Type, CorrelationID string
	// AppID is the service that wrote it, UserID the broker user that published it.
	AppID, UserID string
	// Exchange and Key are those it was published with.
	Exchange, Key string
	ContentType   string
	Timestamp     time.Time
	Headers       map[string]any
	Body          []byte
}

// Table is a table within headers, as the broker's own are.
type Table = amqp.Table

// Encode makes the message of an event, and where a publisher sends it: events to the exchange of their service, by their
// type; timers back to the service's own queue.
func Encode(r event.Record, service string) Wire {
	w := wire(publishing(r, service))
	w.Exchange, w.Key = EventsExchange(service), r.Type
	if r.Stream == "" {
		w.Exchange, w.Key = RetryExchange(service), service
	}
	return w
}

// Record reads a message as the consumer of a service does, and how often it was tried.
func (w Wire) Record(service string) (event.Record, int, error) {
	return record(w.delivery(), RetryExchange(service))
}

// Again makes the message by which the consumer of a service publishes one once more, to the way back with this key.
func (w Wire) Again(service, key string) Wire {
	again := wire(again(w.delivery(), service))
	again.Exchange, again.Key = RetryExchange(service), key
	return again
}

// RetryKey is the key of the wait queue with a delay, in the retry exchange.
func RetryKey(delay time.Duration) string { return rung(delay) }

func wire(p amqp.Publishing) Wire {
	return Wire{
		MessageID: p.MessageId, Type: p.Type, CorrelationID: p.CorrelationId, AppID: p.AppId, UserID: p.UserId,
		ContentType: p.ContentType, Timestamp: p.Timestamp, Headers: p.Headers, Body: p.Body,
	}
}

func (w Wire) delivery() amqp.Delivery {
	return amqp.Delivery{
		MessageId: w.MessageID, Type: w.Type, CorrelationId: w.CorrelationID, AppId: w.AppID, UserId: w.UserID,
		Exchange: w.Exchange, RoutingKey: w.Key, ContentType: w.ContentType, Timestamp: w.Timestamp, Headers: w.Headers, Body: w.Body,
	}
}
