package broker_test

import (
	"strings"
	"testing"
	"time"

	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/internal/servers"
)

func TestABrokerInMemoryRefusesDefinitionsItDoesNotUnderstand(t *testing.T) {
	for says, document := range map[string]string{
		"exchange e":      `{"exchanges": [{"name": "e", "type": "fanout", "durable": true}]}`,
		"x-max-length":    `{"queues": [{"name": "q", "durable": true, "arguments": {"x-queue-type": "quorum", "x-max-length": 7}}]}`,
		"x-queue-type":    `{"queues": [{"name": "q", "durable": true, "arguments": {"x-queue-type": "classic"}}]}`,
		"is not declared": `{"bindings": [{"source": "e", "destination": "q", "destination_type": "queue", "routing_key": "#"}]}`,
		"permission":      `{"permissions": [{"user": "u", "write": "(", "read": ""}]}`,
	} {
		if _, err := broker.New([]byte(document), time.Now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; it should speak of %s", document, err, says)
		}
	}
}

func TestMain(m *testing.M) { servers.Main(m) }
