package rabbit_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
)

// publish starts a publisher of the order service, which stops at the end of the test.
func publish(t *testing.T, target string, cfg rabbit.Config) *rabbit.Publisher {
	t.Helper()
	cfg.URLs, cfg.Service = []string{target}, "order"
	p := rabbit.NewPublisher(cfg, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func ready(t *testing.T, p *rabbit.Publisher, want bool) {
	t.Helper()
	servers.Eventually(t, func() error {
		if p.Ready() != want {
			return errors.New("it is not (or still) connected")
		}
		return nil
	})
}

// outcomes collects what became of each message.
type outcomes struct {
	mu    sync.Mutex
	of    map[uuid.UUID][]error
	total int
}

func (o *outcomes) done(e event.Record, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of = map[uuid.UUID][]error{}
	}
	o.of[e.ID] = append(o.of[e.ID], err)
	o.total++
}

func (o *outcomes) wait(t *testing.T, n int) map[uuid.UUID][]error {
	t.Helper()
	servers.Eventually(t, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.total < n {
			return errors.New("there are messages of which nothing was heard")
		}
		return nil
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of
}

func TestAnEventIsOnTheWireAsItIsDocumented(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	p := publish(t, b.As("order"), rabbit.Config{})
	ready(t, p, true)
	r := placed("ada")
	var o outcomes
	p.Publish(t.Context(), []event.Record{r}, o.done)
	if got := o.wait(t, 1)[r.ID]; got[0] != nil {
		t.Fatal(got)
	}
	d, want := b.Take(t, "pay", 1)[0], onTheWire(r)
	delete(d.Headers, "x-delivery-count") // the broker's, for those that take a message without consuming
	got := amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp.UTC(),
		Type: d.Type, UserId: d.UserId, AppId: d.AppId, Body: d.Body,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if d.Exchange != "order.events" || d.RoutingKey != "order.placed" {
		t.Errorf("it came by %s, %s", d.Exchange, d.RoutingKey)
	}
}

func TestATimerGoesToTheQueueOfItsOwnService(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order)
	p := publish(t, b.As("order"), rabbit.Config{})
	ready(t, p, true)
	r := placed("ada")
	r.Type, r.Stream, r.Version, r.Body = "order.deadline", "", 0, []byte(`{"order_id":"1"}`)
	var o outcomes
	p.Publish(t.Context(), []event.Record{r}, o.done)
	if got := o.wait(t, 1)[r.ID]; got[0] != nil {
		t.Fatal(got)
	}
	d := b.Take(t, "order", 1)[0]
	if d.Type != "order.deadline" || d.MessageId != r.ID.String() || d.Headers["cloudEvents_subject"] != nil || d.Headers["cloudEvents_sequence"] != nil {
		t.Errorf("got %+v", d)
	}
}

func TestWhatNobodyGetsIsNotPublished(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	b.Unbind(t, "order.events", "#", "history")
	b.Unbind(t, "order.events", "order.placed", "pay")
	p := publish(t, b.As("order"), rabbit.Config{})
	ready(t, p, true)
	first, second := placed("ada"), placed("bob")
	// The same message several times, as a relay and a sweeper may have it under way at once, among others.
	var o outcomes
	var batch []event.Record
	for range 20 {
		batch = append(batch, first, second)
	}
	p.Publish(t.Context(), batch, o.done)
	for id, errs := range o.wait(t, len(batch)) {
		for i, err := range errs {
			if err == nil || !strings.Contains(err.Error(), "no queue is bound") {
				t.Errorf("%v, number %d: %v", id, i, err)
			}
		}
	}
	b.Bind(t, "order.events", "order.placed", "pay")
	var again outcomes
	p.Publish(t.Context(), []event.Record{first}, again.done)
	if got := again.wait(t, 1)[first.ID]; got[0] != nil {
		t.Error(got)
	}
	b.Take(t, "pay", 1)
}

func TestWhileTheBrokerIsAwayPublishingFailsAtOnce(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	p := publish(t, proxy.URL(b.As("order")), rabbit.Config{})
	ready(t, p, true)
	for range 3 {
		proxy.Down()
		ready(t, p, false)
		r := placed("ada")
		var o outcomes
		began := time.Now()
		p.Publish(t.Context(), []event.Record{r, r}, o.done)
		if got := o.wait(t, 2)[r.ID]; got[0] == nil || got[1] == nil {
			t.Errorf("got %v", got)
		}
		servers.Took(t, "failing", began, time.Second)
		proxy.Up()
		ready(t, p, true)
		var back outcomes
		p.Publish(t.Context(), []event.Record{r}, back.done)
		if got := back.wait(t, 1)[r.ID]; got[0] != nil {
			t.Errorf("back again: %v", got)
		}
	}
}

// TestEveryMessageIsHeardOfOnceWhateverHappensToTheConnection kills the connection while messages are under way. What was
// confirmed is in the queue; what was not may be.
func TestEveryMessageIsHeardOfOnceWhateverHappensToTheConnection(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	p := publish(t, proxy.URL(b.As("order")), rabbit.Config{})
	const rounds, each = 6, 500
	var o outcomes
	sent := 0
	for round := range rounds {
		ready(t, p, true)
		var publishers sync.WaitGroup
		for range 4 {
			var batch []event.Record
			for range each / 4 {
				batch = append(batch, placed("ada"))
			}
			sent += len(batch)
			publishers.Go(func() { p.Publish(t.Context(), batch, o.done) })
		}
		if round%2 == 0 {
			proxy.Cut()
		}
		publishers.Wait()
	}
	confirmed, failed := map[uuid.UUID]bool{}, 0
	for id, errs := range o.wait(t, sent) {
		if len(errs) != 1 {
			t.Errorf("%v was heard of %d times", id, len(errs))
		}
		if errs[0] == nil {
			confirmed[id] = true
		} else {
			failed++
		}
	}
	for _, d := range b.Take(t, "pay", len(confirmed)) {
		delete(confirmed, uuid.MustParse(d.MessageId))
	}
	channel := servers.Dial(t, b.URL)
	for len(confirmed) > 0 {
		d, ok, err := channel.Get("pay", true)
		if err != nil || !ok {
			t.Fatalf("%d messages were confirmed and are not in the queue, %v", len(confirmed), err)
		}
		delete(confirmed, uuid.MustParse(d.MessageId))
	}
	if failed == 0 {
		t.Error("no connection was lost in time: the test shows nothing")
	}
}

// TestAFullWindowHoldsBackAndLetsGoAtTheEnd freezes the broker, so that no confirm comes.
func TestAFullWindowHoldsBackAndLetsGoAtTheEnd(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	proxy := servers.NewProxy(t, b.URL)
	p := publish(t, proxy.URL(b.As("order")), rabbit.Config{Window: 4, Heartbeat: time.Minute})
	ready(t, p, true)
	proxy.Freeze()
	var o outcomes
	var batch []event.Record
	for range 12 {
		batch = append(batch, placed("ada"))
	}
	// What the window takes, one of them already waited for, and then more.
	p.Publish(t.Context(), batch[:5], o.done)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		p.Publish(ctx, batch[5:], o.done)
	}()
	<-ctx.Done()
	select {
	case <-returned:
	case <-time.After(5 * time.Second):
		t.Error("it still publishes after its context is done")
	}
	proxy.Cut()
	<-returned
	for id, errs := range o.wait(t, len(batch)) {
		if len(errs) != 1 {
			t.Errorf("%v was heard of %d times", id, len(errs))
		}
	}
}
