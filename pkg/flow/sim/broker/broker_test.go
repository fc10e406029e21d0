package broker_test

import (
	"strings"
	"testing"
	"time"

	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/internal/servers"
)

func TestABrokerInMemoryRefusesDefinitionsItDoesNotUnderstand(t *testing.T) {
	quorum := func(arguments string) string {
		return `{"queues": [{"name": "q", "durable": true, "arguments": {"x-queue-type": "quorum", ` + arguments + `}}]}`
	}
	for document, says := range map[string]string{
		`{`: "unexpected end",
		`{"exchanges": [{"name": "e", "type": "headers", "durable": true}]}`:                                         "exchange e",
		`{"exchanges": [{"name": "e", "type": "topic"}]}`:                                                            "exchange e",
		`{"exchanges": [{"name": "e", "type": "topic", "durable": true, "internal": true}]}`:                         "exchange e",
		`{"exchanges": [{"name": "e", "type": "topic", "durable": true, "arguments": {"x-delayed-type": "topic"}}]}`: "exchange e",
		`{"queues": [{"name": "q", "durable": true, "arguments": {"x-queue-type": "classic"}}]}`:                     "x-queue-type",
		`{"queues": [{"name": "q", "durable": true}]}`:                                                               "x-queue-type",
		`{"queues": [{"name": "q", "arguments": {"x-queue-type": "quorum"}}]}`:                                       "durable",
		quorum(`"x-max-length": 7`):                                               "x-max-length",
		quorum(`"x-max-age": "1D"`):                                               "x-max-age",
		quorum(`"x-message-ttl": "1000"`):                                         "x-message-ttl",
		quorum(`"x-delivery-limit": -1`):                                          "x-delivery-limit",
		quorum(`"x-overflow": "drop-head"`):                                       "x-overflow",
		quorum(`"x-dead-letter-exchange": "e", "x-dead-letter-routing-key": "k"`): "at-least-once",
		quorum(`"x-dead-letter-exchange": "e", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"`): "key of their own",
		`{"bindings": [{"source": "e", "destination": "q", "destination_type": "queue", "routing_key": "#"}]}`:             "is not declared",
		`{"permissions": [{"user": "u", "write": "(", "read": ""}]}`:                                                       "permission",
	} {
		if _, err := broker.New([]byte(document), time.Now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; it should speak of %s", document, err, says)
		}
	}
}

func TestMain(m *testing.M) { servers.Main(m) }
