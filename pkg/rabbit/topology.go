package rabbit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"hotchoc/pkg/flow"
)

// The names of a service's objects.

// EventsExchange is the topic exchange of a service's events; only the service may write to it.
func EventsExchange(service string) string { return service + ".events" }

// RetryExchange is the direct exchange on a service's ways back: to its queue, its wait queues and its dead letters.
func RetryExchange(service string) string { return service + ".retry" }

// DeadQueue holds a service's dead letters.
func DeadQueue(service string) string { return service + ".dead" }

// WaitQueue holds a service's messages until their next attempt.
func WaitQueue(service string, delay time.Duration) string { return service + ".retry." + rung(delay) }

// HistoryQueue is the stream of all events of all services, for services that are added later, and for people.
const HistoryQueue = "history"

// rung names a delay: 1s, 10s, 1m, 10m.
func rung(d time.Duration) string {
	if d >= time.Minute {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// Limits of the queues. Nothing relies on a default of the broker: they differ between its versions. A changed argument
// needs a new queue name, for the broker keeps what is declared.
const (
	// deliveryLimit is a backstop against crash loops, not a retry policy: each crash counts against every message that
	// had been handed over.
	deliveryLimit = 200
	// deadDeliveryLimit lets people look at dead letters as often as they like: on RabbitMQ 4 the count travels with a
	// dead-lettered message, and a look with requeue raises it.
	deadDeliveryLimit = 1_000_000

	historyMaxAge   = "30D"
	historyMaxBytes = int64(2 << 30)
	historySegment  = int64(50 << 20)

	// answerMax bounds what is read of an answer of the management API, in bytes.
	answerMax = 64 << 20
)

type definitions struct {
	VHosts           []object `json:"vhosts"`
	Users            []object `json:"users"`
	Permissions      []object `json:"permissions"`
	TopicPermissions []object `json:"topic_permissions"`
	Exchanges        []object `json:"exchanges"`
	Queues           []object `json:"queues"`
	Bindings         []object `json:"bindings"`
}

type object map[string]any

// Definitions computes the whole topology from the flows, as a RabbitMQ definitions document that 3.10 and 4.3 both
// import: per service an exchange for its events that only it may write to, its queue with the bindings that its flow
// hears, its wait queues and dead letters; the history stream; and a user per service, from passwords, with no more
// rights than it needs.
func Definitions(vhost string, flows []*flow.Flow, passwords map[string]string) ([]byte, error) {
	d := definitions{VHosts: []object{{"name": vhost}}}
	exchange := func(name, kind string) {
		d.Exchanges = append(d.Exchanges, object{"name": name, "vhost": vhost, "type": kind, "durable": true, "auto_delete": false, "internal": false, "arguments": object{}})
	}
	queue := func(name, kind string, arguments object) {
		arguments["x-queue-type"] = kind
		d.Queues = append(d.Queues, object{"name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments})
	}
	bind := func(source, key, queue string) {
		d.Bindings = append(d.Bindings, object{"source": source, "vhost": vhost, "destination": queue, "destination_type": "queue", "routing_key": key, "arguments": object{}})
	}
	// to is the dead-lettering that loses nothing: it needs all three, and goes through the service's own exchange.
	to := func(service, key string) object {
		return object{
			"x-dead-letter-exchange": RetryExchange(service), "x-dead-letter-routing-key": key,
			"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
		}
	}
	queue(HistoryQueue, "stream", object{"x-max-age": historyMaxAge, "x-max-length-bytes": historyMaxBytes, "x-stream-max-segment-size-bytes": historySegment})
	for _, f := range flows {
		s := f.Service
		exchange(EventsExchange(s), "topic")
		exchange(RetryExchange(s), "direct")
		bind(EventsExchange(s), "#", HistoryQueue)

		main := to(s, DeadQueue(s))
		main["x-delivery-limit"] = deliveryLimit
		queue(s, "quorum", main)
		bind(RetryExchange(s), s, s)
		for _, delay := range flow.Rungs {
			wait := to(s, s)
			wait["x-message-ttl"] = delay.Milliseconds()
			queue(WaitQueue(s, delay), "quorum", wait)
			bind(RetryExchange(s), rung(delay), WaitQueue(s, delay))
		}
		queue(DeadQueue(s), "quorum", object{"x-delivery-limit": deadDeliveryLimit, "x-overflow": "reject-publish"})
		bind(RetryExchange(s), DeadQueue(s), DeadQueue(s))
		for _, typ := range f.Hears() {
			owner, ok := flow.Owner(typ)
			if !ok {
				return nil, fmt.Errorf("%s hears %q, which is not declared", s, typ)
			}
			bind(EventsExchange(owner), typ, s)
		}

		password, ok := passwords[s]
		if !ok {
			return nil, fmt.Errorf("no password for the broker user %s", s)
		}
		hash, err := passwordHash(password)
		if err != nil {
			return nil, err
		}
		q := regexp.QuoteMeta(s)
		d.Users = append(d.Users, object{"name": s, "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ""})
		d.Permissions = append(d.Permissions, object{"user": s, "vhost": vhost, "configure": "^$", "write": `^` + q + `\.(events|retry)$`, "read": `^` + q + `(\.dead)?$`})
		d.TopicPermissions = append(d.TopicPermissions, object{"user": s, "vhost": vhost, "exchange": EventsExchange(s), "write": ownTypes(s), "read": "^$"})
	}
	return json.MarshalIndent(d, "", "  ")
}

// ownTypes is the pattern of the routing keys a service may publish: the types it owns.
func ownTypes(service string) string {
	types := flow.OwnedBy(service)
	for i, t := range types {
		types[i] = regexp.QuoteMeta(t)
	}
	return "^(" + strings.Join(types, "|") + ")$"
}

// passwordHash is RabbitMQ's salted SHA-256: https://www.rabbitmq.com/docs/passwords
func passwordHash(password string) (string, error) {
	salt := make([]byte, 4)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(salt[:4:4], password...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...)), nil
}

// hashOf tells whether a hash of RabbitMQ's is that of a password.
func hashOf(password, hash string) bool {
	salted, err := base64.StdEncoding.DecodeString(hash)
	if err != nil || len(salted) != 4+sha256.Size {
		return false
	}
	sum := sha256.Sum256(append(salted[:4:4], password...))
	return bytes.Equal(salted[4:], sum[:])
}

// Apply imports definitions into a broker through its management API; managementURL carries the administrator's name and
// password. Users and their rights become what is declared; queues and exchanges that exist are left as they are. So it
// may be called at any time. Diff tells what it leaves.
func Apply(ctx context.Context, managementURL string, definitions []byte) error {
	if _, err := manage(ctx, http.MethodPost, managementURL, "definitions", definitions); err != nil {
		return fmt.Errorf("apply the topology: %w", err)
	}
	return nil
}

// errNotThere is what the management API says of an object that does not exist.
var errNotThere = errors.New("not there")

// manage calls the management API of a broker; path is escaped. Errors do not tell the password.
func manage(ctx context.Context, method, managementURL, path string, body []byte) ([]byte, error) {
	u, err := url.Parse(managementURL)
	if err != nil {
		return nil, errors.New("the management URL is malformed")
	}
	req, err := http.NewRequestWithContext(ctx, method, u.JoinPath("api", path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errors.Unwrap(err) // what wraps it has the URL
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s: %s: %w", u.Redacted(), resp.Status, errNotThere)
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%s: %s: %s", u.Redacted(), resp.Status, bytes.TrimSpace(answer[:min(len(answer), 4<<10)]))
	}
	return answer, nil
}
