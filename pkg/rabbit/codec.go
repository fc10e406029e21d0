package rabbit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/event"
)

// How large a message may be, in bytes; a larger one is poison. Headers must fit into one frame of the connection, also
// when the message is published again with some more.
const (
	BodyMax    = 256 << 10
	HeadersMax = 16 << 10
)

// shortMax is how long a text may be that goes into a header or a log and has no limit of its own.
const shortMax = 1000

// What a message says of itself is CloudEvents 1.0 (https://github.com/cloudevents/spec), each attribute in one place: id,
// type, source, correlationid and datacontenttype are the properties of AMQP that mean the same (message ID, type, app ID,
// correlation ID, content type), the others are headers, spelt as the binding for AMQP 1.0 spells them
// (cloudevents/bindings/amqp-protocol-binding.md), which is used here by analogy. Headers cost time, in
// the broker first of all, so nothing is said twice.
//
// No name begins with "x-": those are the broker's, and it interprets some of them.
const (
	headerTime      = "cloudEvents_time" // the property has whole seconds only
	headerCausation = "cloudEvents_causationid"
	headerSubject   = "cloudEvents_subject"  // the stream
	headerSequence  = "cloudEvents_sequence" // the version in it

	headerSchema  = "schema"
	headerHops    = "hops"
	headerActor   = "actor"
	HeaderAttempt = "attempt"

	// Set when a message is republished: the broker replaces exchange, key and user by those of the way back.
	HeaderFirstExchange = "first_exchange"
	HeaderFirstKey      = "first_key"
	HeaderFirstUser     = "first_user"

	// Set on dead letters.
	HeaderReason = "dead_reason"
	HeaderStep   = "dead_step"
	HeaderDeadAt = "dead_at"
)

// publishing makes the AMQP message of an event. user is the broker user of the connection; the broker refuses any other.
func publishing(r event.Record, user string) amqp.Publishing {
	headers := amqp.Table{
		headerTime:      r.At.UTC().Format(time.RFC3339Nano),
		headerCausation: r.Causation.String(),
		headerSchema:    int64(r.Schema),
		headerHops:      int64(r.Hops),
		headerActor:     r.Actor,
	}
	if r.Stream != "" {
		headers[headerSubject] = r.Stream
		headers[headerSequence] = strconv.FormatInt(r.Version, 10)
	}
	return amqp.Publishing{
		ContentType:   "application/json",
		DeliveryMode:  amqp.Persistent,
		MessageId:     r.ID.String(),
		Type:          r.Type,
		CorrelationId: r.Saga.String(),
		AppId:         r.Source,
		UserId:        user,
		Timestamp:     r.At,
		Headers:       headers,
		Body:          r.Body,
	}
}

// record reads an AMQP message back, and how often it was tried. What is missing or malformed is said all at once.
// retry is the name of the service's own retry exchange: what comes from there was published again by the service itself
// or by an operator; anything else must come from the user that it says it is from.
func record(d amqp.Delivery, retry string) (event.Record, int, error) {
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	id := func(name, value string) uuid.UUID {
		u, err := uuid.Parse(value)
		if err != nil {
			bad("%s %q is not a UUID", name, value)
		}
		return u
	}
	text := func(name string) string {
		v, ok := d.Headers[name].(string)
		if !ok {
			bad("the header %s is missing or not a text", name)
		}
		return v
	}
	number := func(name string) int64 {
		switch v := d.Headers[name].(type) {
		case int64:
			return v
		case int32:
			return int64(v)
		}
		bad("the header %s is missing or not a whole number", name)
		return 0
	}
	r := event.Record{Body: d.Body, Envelope: event.Envelope{
		ID:        id("the message ID", d.MessageId),
		Type:      d.Type,
		Schema:    int(number(headerSchema)),
		Source:    d.AppId,
		Saga:      id("the correlation ID", d.CorrelationId),
		Causation: id("the header cloudEvents_causationid", text(headerCausation)),
		Hops:      int(number(headerHops)),
		Actor:     text(headerActor),
	}}
	var err error
	if r.At, err = time.Parse(time.RFC3339Nano, text(headerTime)); err != nil {
		bad("the header cloudEvents_time is not a time: %v", err)
	}
	if d.Headers[headerSubject] != nil {
		r.Stream = text(headerSubject)
		if r.Version, err = strconv.ParseInt(text(headerSequence), 10, 64); err != nil {
			bad("the header cloudEvents_sequence is not a whole number")
		}
	}
	attempt := 1
	if d.Headers[HeaderAttempt] != nil {
		attempt = int(number(HeaderAttempt))
	}
	if d.Exchange != retry && d.UserId != d.AppId {
		bad("it says it is from %q, but the user %q published it", d.AppId, d.UserId)
	}
	if n := size(d.Headers); n > HeadersMax {
		bad("the headers have %d bytes, more than %d", n, HeadersMax)
	}
	if len(d.Body) > BodyMax {
		bad("the body has %d bytes, more than %d", len(d.Body), BodyMax)
	}
	if len(problems) > 0 {
		return r, attempt, errors.New(strings.Join(problems, "; "))
	}
	return r, attempt, nil
}

// again makes the AMQP message by which a delivery is published once more: the same message, without what the broker
// wrote on it, with who had it first.
func again(d amqp.Delivery, user string) amqp.Publishing {
	headers := amqp.Table{}
	large := size(d.Headers) > HeadersMax
	for k, v := range d.Headers {
		// Of headers that are too large only those remain that tell what the message was.
		if !strings.HasPrefix(k, "x-") && (!large || strings.HasPrefix(k, "cloudEvents_") && size(v) <= shortMax) {
			headers[k] = v
		}
	}
	if headers[HeaderFirstExchange] == nil {
		headers[HeaderFirstExchange], headers[HeaderFirstKey], headers[HeaderFirstUser] = d.Exchange, d.RoutingKey, d.UserId
	}
	return amqp.Publishing{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: amqp.Persistent,
		MessageId: d.MessageId, Type: d.Type, CorrelationId: d.CorrelationId, AppId: d.AppId, Timestamp: d.Timestamp,
		UserId: user, Headers: headers, Body: d.Body,
	}
}

// size is how much room a header takes, or a table of them.
func size(header any) (n int) {
	switch h := header.(type) {
	case string:
		return len(h)
	case []byte:
		return len(h)
	case []any:
		for _, v := range h {
			n += 8 + size(v)
		}
		return n
	case amqp.Table:
		for k, v := range h {
			n += 8 + len(k) + size(v)
		}
		return n
	}
	return 8
}

// short is the beginning of a text.
func short(text string) string {
	if len(text) <= shortMax {
		return text
	}
	return strings.ToValidUTF8(text[:shortMax], "") + "…"
}
