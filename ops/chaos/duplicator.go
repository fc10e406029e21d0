package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/shop"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

// duplicator reads the history of all events as they come, and delivers a share of them once more to every service that
// hears them: as they are, through the service's own way back, at once or late. To the service it is the broker that
// delivers twice.
//
// It also sees what was published twice by the services themselves, since the history has it twice.
type duplicator struct {
	url    string // the broker's, as administrator
	share  float64
	late   bool // hold some back
	rng    *rand.Rand
	hearer map[string][]string // services by type
	held   sync.WaitGroup

	offset int64 // of the history: what comes next
	seen   map[string]bool
	kept   []amqp.Publishing // for afterAll

	mu      sync.Mutex
	channel *amqp.Channel // to publish with confirms; nil while the broker is away
	asking  *amqp.Channel // for questions: a wrong one would cost the channel

	duplicated, reordered, republished, read atomic.Int64
}

const (
	lateShare = 0.4 // of the duplicates
	lateMost  = 5 * time.Second
	keptShare = 0.02 // of all events
	keptMost  = 500
	prefetch  = 500
)

func newDuplicator(url string, seed uint64, share float64, late bool) *duplicator {
	d := &duplicator{
		url: url, share: share, late: late, rng: rand.New(rand.NewPCG(seed, uint64(messageLane))),
		hearer: map[string][]string{}, offset: -1, seen: map[string]bool{},
	}
	for _, f := range shop.Flows() {
		for _, typ := range f.Hears() {
			d.hearer[typ] = append(d.hearer[typ], f.Service)
		}
	}
	return d
}

// run reads until ctx is done, over all lives of the broker; ready is closed when the first reading has begun.
func (d *duplicator) run(ctx context.Context, ready chan<- struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		_ = d.session(ctx, &ready) // the broker is killed now and then: that is what we are here for
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (d *duplicator) session(ctx context.Context, ready *chan<- struct{}) error {
	conn, err := amqp.DialConfig(d.url, amqp.Config{Heartbeat: 2 * time.Second, Locale: "en_US", Dial: amqp.DefaultDial(3 * time.Second)})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	reading, err := conn.Channel()
	if err != nil {
		return err
	}
	writing, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := writing.Confirm(false); err != nil {
		return err
	}
	if err := reading.Qos(prefetch, 0, false); err != nil {
		return err
	}
	from := amqp.Table{"x-stream-offset": "next"}
	if d.offset >= 0 {
		from["x-stream-offset"] = d.offset
	}
	events, err := reading.Consume(rabbit.HistoryQueue, "", false, false, false, false, from)
	if err != nil {
		return err
	}
	asking, err := conn.Channel()
	if err != nil {
		return err
	}
	d.use(writing, asking)
	defer d.use(nil, nil)
	if *ready != nil {
		close(*ready)
		*ready = nil
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return fmt.Errorf("the broker ended the reading")
			}
			d.see(ctx, e)
			if err := e.Ack(false); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *duplicator) use(writing, asking *amqp.Channel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.channel, d.asking = writing, asking
}

// waiting is how many messages are ready in a service's queue; 0 when that is not known.
func (d *duplicator) waiting(service string) int {
	d.mu.Lock()
	asking := d.asking
	d.mu.Unlock()
	if asking == nil {
		return 0
	}
	q, err := asking.QueueDeclarePassive(service, true, false, false, false, nil)
	if err != nil {
		return 0
	}
	return q.Messages
}

// see looks at one event of the history.
func (d *duplicator) see(ctx context.Context, e amqp.Delivery) {
	if offset, ok := e.Headers["x-stream-offset"].(int64); ok {
		if offset < d.offset {
			return // a stream begins with the chunk that holds the offset
		}
		d.offset = offset + 1
	}
	d.read.Add(1)
	if d.seen[e.MessageId] {
		d.republished.Add(1)
	}
	d.seen[e.MessageId] = true
	again := duplicate(e)
	if d.late && len(d.kept) < keptMost && d.rng.Float64() < keptShare {
		d.kept = append(d.kept, again)
	}
	for _, service := range d.hearer[e.Type] {
		if d.rng.Float64() >= d.share {
			continue
		}
		wait := time.Duration(0)
		if d.late && d.rng.Float64() < lateShare {
			wait = between(d.rng, 10*time.Millisecond, lateMost)
		}
		if wait == 0 {
			if d.send(ctx, service, again) {
				d.duplicated.Add(1)
			}
			continue
		}
		d.held.Go(func() {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			if d.send(ctx, service, again) {
				d.duplicated.Add(1)
				d.reordered.Add(1)
			}
		})
	}
}

// duplicate is the message as it was, without what the broker wrote on it.
func duplicate(e amqp.Delivery) amqp.Publishing {
	headers := amqp.Table{}
	for k, v := range e.Headers {
		if !strings.HasPrefix(k, "x-") {
			headers[k] = v
		}
	}
	return amqp.Publishing{
		ContentType: e.ContentType, ContentEncoding: e.ContentEncoding, DeliveryMode: amqp.Persistent,
		MessageId: e.MessageId, Type: e.Type, CorrelationId: e.CorrelationId, AppId: e.AppId, Timestamp: e.Timestamp,
		Headers: headers, Body: e.Body,
	}
}

// send puts a message into a service's queue, behind its back. False: the broker is away, or it is not known whether it came.
func (d *duplicator) send(ctx context.Context, service string, m amqp.Publishing) bool {
	d.mu.Lock()
	channel := d.channel
	d.mu.Unlock()
	if channel == nil {
		return false
	}
	// Its confirm is not waited for: nobody is hurt when a duplicate gets lost.
	return channel.PublishWithContext(ctx, rabbit.RetryExchange(service), service, false, false, m) == nil
}

// afterAll delivers once more what happened long ago, to services that have forgotten about it.
func (d *duplicator) afterAll(ctx context.Context) {
	for _, m := range d.kept {
		for _, service := range d.hearer[m.Type] {
			if d.send(ctx, service, m) {
				d.duplicated.Add(1)
				d.reordered.Add(1)
			}
		}
	}
	d.kept = nil
}

// poison brings a message to a service's queue that it can never handle, and returns its ID. It tries until the broker has
// it; so it may come twice, under one ID.
func (d *duplicator) poison(ctx context.Context, service string, draw uint64) (id, what string, err error) {
	m, what := poisonous(service, draw)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		d.mu.Lock()
		channel := d.channel
		d.mu.Unlock()
		if channel != nil {
			confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, rabbit.RetryExchange(service), service, true, false, m)
			if err == nil {
				if ok, err := confirm.WaitContext(ctx); ok && err == nil {
					return m.MessageId, what, nil
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m.MessageId, what, ctx.Err()
		}
	}
}

// poisonous makes a message of one of the sorts that cannot be handled.
func poisonous(service string, draw uint64) (m amqp.Publishing, what string) {
	var typ string
	for _, f := range shop.Flows() {
		if f.Service == service {
			typ = f.Hears()[0]
		}
	}
	owner, _ := flow.Owner(typ)
	id, saga := uuid.NewString(), uuid.NewString()
	m = amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, Type: typ, MessageId: id, CorrelationId: saga, AppId: owner, Body: []byte(`{}`),
		Headers: amqp.Table{
			"schema": int64(1), "hops": int64(1), "actor": "chaos",
			"cloudEvents_causationid": saga, "cloudEvents_time": "2026-01-02T03:04:05Z",
			"cloudEvents_subject": "order/" + saga, "cloudEvents_sequence": "1",
		},
	}
	switch draw % 6 {
	case 0:
		m.Body, what = []byte(`{"order_id":`), "half a body"
	case 1:
		m.Body, what = []byte{0xff, 0xfe, 0x00}, "bytes that are no text"
	case 2:
		m.Type, what = "order.eaten", "an unknown type"
	case 3:
		m.Headers, what = nil, "no headers"
	case 4:
		m.Headers["schema"], what = int64(99), "a schema of the future"
	case 5:
		m.Body, what = []byte(strings.Repeat("x", rabbit.BodyMax+1)), "a body that is too large"
	}
	return m, what
}
