package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// topology is what was declared. It is never changed and shared by all clones; so is what was computed from it once.
type topology struct {
	exchanges map[string]*exchange
	queues    []declared
	index     map[string]int // of queues, by name
	users     map[string]rights
	routes    sync.Map // path -> routing
}

type exchange struct {
	kind      string    // topic, direct or fanout
	bindings  []binding // in the order of the document
	alternate string    // the exchange for what no queue is bound for; "" for none
}

type binding struct {
	pattern []string // the words of its key
	key     string
	queue   int
}

// declared is a queue as it was declared.
type declared struct {
	name                  string
	stream                bool
	ttl                   time.Duration
	deliveryLimit         int
	deadExchange, deadKey string
}

// rights are regular expressions over the names of exchanges and queues; topics are those over routing keys, by exchange.
type rights struct {
	write, read *regexp.Regexp
	topics      map[string]*regexp.Regexp
}

// path is what decides where a message goes.
type path struct{ user, exchange, key string }

type routing struct {
	queues []int
	err    error
}

// route finds the queues for a message, if its publisher may send it.
func (t *topology) route(user, exchange, key string) ([]int, error) {
	p := path{user, exchange, key}
	if r, ok := t.routes.Load(p); ok {
		return r.(routing).queues, r.(routing).err
	}
	var r routing
	if r.err = t.mayWrite(user, exchange, key); r.err == nil {
		r.queues = t.routed(exchange, key)
	}
	t.routes.Store(p, r)
	return r.queues, r.err
}

// routed finds the queues that are bound for a key, each once: by the exchange, or else by its alternates.
func (t *topology) routed(name, key string) []int {
	e := t.exchanges[name]
	for range len(t.exchanges) { // they may go in a circle
		if e == nil {
			break
		}
		if queues := e.routed(key); len(queues) > 0 {
			return queues
		}
		e = t.exchanges[e.alternate]
	}
	return nil
}

func (e *exchange) routed(key string) (queues []int) {
	words := strings.Split(key, ".")
	for _, b := range e.bindings {
		bound := e.kind == "fanout" || b.key == key || e.kind == "topic" && matches(b.pattern, words)
		if bound && !slices.Contains(queues, b.queue) {
			queues = append(queues, b.queue)
		}
	}
	return queues
}

// matches tells whether the words of a key are those of a pattern, in which * is any word and # any number of them.
func matches(pattern, words []string) bool {
	switch {
	case len(pattern) == 0:
		return len(words) == 0
	case pattern[0] == "#":
		return matches(pattern[1:], words) || len(words) > 0 && matches(pattern, words[1:])
	case len(words) == 0:
		return false
	}
	return (pattern[0] == "*" || pattern[0] == words[0]) && matches(pattern[1:], words[1:])
}

// defaultExchange is how permissions name the exchange without a name.
const defaultExchange = "amq.default"

func (t *topology) mayWrite(user, exchange, key string) error {
	r, known := t.users[user]
	name := exchange
	if name == "" {
		name = defaultExchange
	}
	topic := r.topics[exchange]
	switch {
	case !known || r.write == nil || !r.write.MatchString(name):
		return fmt.Errorf("%w: %s may not write to %q", ErrRefused, user, name)
	case exchange != "" && t.exchanges[exchange] == nil:
		return fmt.Errorf("%w: exchange %s", ErrNotFound, exchange)
	case exchange == "":
		return errors.New("the broker in memory has no default exchange: nothing here may write to it")
	case t.exchanges[exchange].kind == "topic" && topic != nil && !topic.MatchString(key):
		return fmt.Errorf("%w: %s may not write %q to %s", ErrRefused, user, key, exchange)
	}
	return nil
}

func (t *topology) mayRead(user, queue string) bool {
	r, known := t.users[user]
	return known && r.read != nil && r.read.MatchString(queue)
}

// definitions is what of a definitions document is understood. The password hashes and tags of users do not matter here.
type definitions struct {
	Exchanges []struct {
		Name       string
		Type       string
		Durable    bool
		AutoDelete bool `json:"auto_delete"`
		Internal   bool
		Arguments  map[string]any
	}
	Queues []struct {
		Name       string
		Durable    bool
		AutoDelete bool `json:"auto_delete"`
		Arguments  map[string]any
	}
	Bindings []struct {
		Source          string
		Destination     string
		DestinationType string `json:"destination_type"`
		RoutingKey      string `json:"routing_key"`
	}
	Permissions []struct{ User, Configure, Write, Read string }
	Topics      []struct{ User, Exchange, Write, Read string } `json:"topic_permissions"`
}

func parse(document []byte) (*topology, error) {
	var d definitions
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, err
	}
	t := &topology{exchanges: map[string]*exchange{}, index: map[string]int{}, users: map[string]rights{}}
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for _, e := range d.Exchanges {
		kinds := []string{"topic", "direct", "fanout"}
		alternate, ok := e.Arguments["alternate-exchange"].(string)
		if !e.Durable || e.AutoDelete || e.Internal || !slices.Contains(kinds, e.Type) || len(e.Arguments) > 1 || len(e.Arguments) == 1 && !ok {
			bad("exchange %s: only durable exchanges are known, for everybody, of the kinds %v, with at most an alternate exchange", e.Name, kinds)
		}
		t.exchanges[e.Name] = &exchange{kind: e.Type, alternate: alternate}
	}
	for i, q := range d.Queues {
		t.index[q.Name] = i
		of := declared{name: q.Name}
		if err := of.read(q.Arguments); err != nil {
			bad("queue %s: %w", q.Name, err)
		}
		if !q.Durable || q.AutoDelete {
			bad("queue %s: only durable queues are known", q.Name)
		}
		t.queues = append(t.queues, of)
	}
	for _, b := range d.Bindings {
		e, queue, ok := t.exchanges[b.Source], 0, false
		if queue, ok = t.index[b.Destination]; e == nil || !ok || b.DestinationType != "queue" {
			bad("binding %s %s %s: one of them is not declared", b.Source, b.RoutingKey, b.Destination)
			continue
		}
		e.bindings = append(e.bindings, binding{strings.Split(b.RoutingKey, "."), b.RoutingKey, queue})
	}
	compile := func(pattern string) *regexp.Regexp {
		r, err := regexp.Compile(pattern)
		if err != nil {
			bad("permission %q: %w", pattern, err)
		}
		return r
	}
	for _, p := range d.Permissions {
		t.users[p.User] = rights{write: compile(p.Write), read: compile(p.Read), topics: map[string]*regexp.Regexp{}}
	}
	for _, p := range d.Topics {
		if r, ok := t.users[p.User]; ok {
			r.topics[p.Exchange] = compile(p.Write)
		}
	}
	return t, errors.Join(problems...)
}

// read understands the arguments of a queue, all of them.
func (q *declared) read(arguments map[string]any) error {
	kind := arguments["x-queue-type"]
	q.stream = kind == "stream"
	if kind != "quorum" && !q.stream {
		return fmt.Errorf("x-queue-type is %v: only quorum queues and streams are known", kind)
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(arguments)) {
		text, isText := arguments[name].(string)
		number, isNumber := arguments[name].(float64)
		known := false
		switch name {
		case "x-queue-type":
			known = true
		case "x-message-ttl":
			q.ttl, known = time.Duration(number)*time.Millisecond, number >= 1
		case "x-delivery-limit":
			q.deliveryLimit, known = int(number), number >= 1
		case "x-dead-letter-exchange":
			q.deadExchange, known = text, text != ""
			// Without all three, RabbitMQ moves dead letters at most once, or by the key they came with.
			if arguments["x-dead-letter-strategy"] != "at-least-once" || arguments["x-overflow"] != "reject-publish" || arguments["x-dead-letter-routing-key"] == nil {
				problems = append(problems, errors.New("only dead letters with a key of their own are known, at-least-once, with reject-publish"))
			}
		case "x-dead-letter-routing-key":
			q.deadKey, known = text, isText
		case "x-dead-letter-strategy":
			known = text == "at-least-once"
		case "x-overflow":
			known = text == "reject-publish" // there is no limit that it would apply to
		case "x-max-age", "x-max-length-bytes", "x-stream-max-segment-size-bytes":
			known = q.stream && (isText || isNumber) // no simulation is as long as that
		}
		if !known {
			problems = append(problems, fmt.Errorf("%s = %v is not known", name, arguments[name]))
		}
	}
	return errors.Join(problems...)
}
