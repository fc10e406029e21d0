// Package pipeline is the practical limit that the shop is compared with: the same way of an order through four stages
// (order, pay, make, delivery, and back to order), written by hand for speed and for nothing else.
//
// Each of the five steps takes what waits, at most 384 messages, and does it in one statement on one connection: claims
// in an inbox, states, events, and an outbox whose rows go with the next statement. Then it publishes from memory, and
// waits for the confirms and acks while the next batch is in its transaction.
//
// What it has in common with the shop: an order over HTTP that is answered after its commit, persistent messages of about
// 1 KB through quorum queues with confirms and manual acks, every commit durable, duplicates found in an inbox. What it
// leaves out: the outside parties, decisions, views, barriers, timers, retries, dead letters, poison, reconnection, and a
// sweeper for what a crash leaves in the outbox. It has five events for each order, the shop eight.
package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"
)

const (
	batchMax = 384
	prefetch = 4 * batchMax
	ahead    = 4 // batches that are committed and not confirmed

	// Exchange takes all events, by their type; Ended is the type of the last of each order.
	Exchange = "pipeline.events"
	Ended    = "order.completed"
	// Messages is how many messages are handled for each order.
	Messages = 5
)

// steps are the way of an order. The first is fed over HTTP.
var steps = []struct{ service, hears, emits string }{
	{"order", "", "order.placed"},
	{"pay", "order.placed", "payment.captured"},
	{"make", "payment.captured", "drink.made"},
	{"delivery", "drink.made", "delivery.delivered"},
	{"order", "delivery.delivered", Ended},
}

// Run takes orders until ctx is done. listening is told the URL of POST /orders once all is ready.
func Run(ctx context.Context, databaseURL, amqpURL string, listening func(url string)) error {
	g, ctx := errgroup.WithContext(ctx)
	var first *step
	for i, s := range steps {
		made, err := newStep(ctx, databaseURL, amqpURL, s.service, s.hears, s.emits)
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i, s.service, err)
		}
		defer made.close()
		if first == nil {
			first = made
		}
		g.Go(func() error { return made.commits(ctx) })
		g.Go(func() error { return made.confirms(ctx) })
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(first.place), ReadHeaderTimeout: 10 * time.Second}
	g.Go(func() error { return server.Serve(listener) })
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	listening("http://" + listener.Addr().String() + "/orders")
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// step handles one kind of message.
type step struct {
	emits   string
	db      *sql.DB
	handle  *sql.Stmt
	conns   [2]*amqp.Connection // to publish and to consume
	publish *amqp.Channel
	consume *amqp.Channel

	waiting   chan message // buffered, for the client's own channel is not, and batches of one would come out of it
	unsettled chan batch

	mu        sync.Mutex
	confirmed pq.StringArray // events that the broker has, and that can leave the outbox
}

// message is one to be handled: a delivery, or a request that is answered by done.
type message struct {
	id, order string
	body      string
	tag       uint64
	done      chan<- error
}

// batch is committed and published.
type batch struct {
	events   pq.StringArray
	confirms []*amqp.DeferredConfirmation
	last     uint64 // tag
}

func newStep(ctx context.Context, databaseURL, amqpURL, service, hears, emits string) (s *step, err error) {
	s = &step{emits: emits, waiting: make(chan message, 2*prefetch), unsettled: make(chan batch, ahead)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.db, err = sql.Open("postgres", databaseURL); err != nil {
		return s, err
	}
	s.db.SetMaxOpenConns(1)
	if _, err = s.db.ExecContext(ctx, Tables(service)); err != nil {
		return s, err
	}
	if s.handle, err = s.db.PrepareContext(ctx, Statement(service)); err != nil {
		return s, err
	}
	for i := range s.conns {
		if s.conns[i], err = amqp.Dial(amqpURL); err != nil {
			return s, err
		}
	}
	if s.publish, err = s.conns[0].Channel(); err != nil {
		return s, err
	}
	if err = s.publish.Confirm(false); err != nil {
		return s, err
	}
	if err = s.publish.ExchangeDeclare(Exchange, "topic", true, false, false, false, nil); err != nil {
		return s, err
	}
	if hears == "" {
		return s, nil
	}
	if s.consume, err = s.conns[1].Channel(); err != nil {
		return s, err
	}
	queue := "pipeline." + service
	if _, err = s.consume.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return s, err
	}
	if err = s.consume.QueueBind(queue, hears, Exchange, false, nil); err != nil {
		return s, err
	}
	if err = s.consume.Qos(prefetch, 0, false); err != nil {
		return s, err
	}
	deliveries, err := s.consume.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return s, err
	}
	go func() {
		defer close(s.waiting)
		for d := range deliveries {
			s.waiting <- message{id: d.MessageId, order: d.CorrelationId, body: string(d.Body), tag: d.DeliveryTag}
		}
	}()
	return s, nil
}

func (s *step) close() {
	for _, conn := range s.conns {
		if conn != nil {
			_ = conn.Close()
		}
	}
	if s.db != nil {
		_ = s.db.Close()
	}
}

// place answers POST /orders after the commit.
func (s *step) place(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id := uuid.Must(uuid.NewV7()).String()
	done := make(chan error, 1)
	s.waiting <- message{id: id, order: id, body: string(body), done: done}
	if err := <-done; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Location", "/orders/"+id)
	w.WriteHeader(http.StatusAccepted)
}

// commits handles what waits, batch after batch.
func (s *step) commits(ctx context.Context) error {
	for {
		messages, err := s.take(ctx)
		if err != nil {
			return err
		}
		done, err := s.commit(ctx, messages)
		for _, m := range messages {
			if m.done != nil {
				m.done <- err
			}
		}
		if err != nil {
			return err
		}
		select {
		case s.unsettled <- done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take waits for a message and takes what waits beside it.
func (s *step) take(ctx context.Context) (messages []message, err error) {
	select {
	case m, open := <-s.waiting:
		if !open {
			return nil, errors.New("the broker has ended the consuming")
		}
		messages = append(messages, m)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for len(messages) < batchMax {
		select {
		case m, open := <-s.waiting:
			if !open {
				return messages, nil
			}
			messages = append(messages, m)
		default:
			return messages, nil
		}
	}
	return messages, nil
}

// commit handles messages in one statement and publishes the events of those that are new.
func (s *step) commit(ctx context.Context, messages []message) (done batch, err error) {
	n := len(messages)
	ids, orders, bodies, events := make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n), make(pq.StringArray, n)
	for i, m := range messages {
		ids[i], orders[i], bodies[i], events[i] = m.id, m.order, m.body, uuid.Must(uuid.NewV7()).String()
		done.last = max(done.last, m.tag)
	}
	s.mu.Lock()
	confirmed := s.confirmed
	s.confirmed = nil
	s.mu.Unlock()
	rows, err := s.handle.QueryContext(ctx, ids, orders, events, s.emits, bodies, confirmed)
	if err != nil {
		return done, err
	}
	defer rows.Close()
	fresh := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return done, err
		}
		fresh[id] = true
	}
	if err := rows.Err(); err != nil {
		return done, err
	}
	for i, m := range messages {
		if !fresh[m.id] {
			continue
		}
		confirm, err := s.publish.PublishWithDeferredConfirm(Exchange, s.emits, false, false, publishing(events[i], s.emits, m))
		if err != nil {
			return done, err
		}
		done.events, done.confirms = append(done.events, events[i]), append(done.confirms, confirm)
	}
	return done, nil
}

// publishing has the headers and the size of the shop's own messages.
func publishing(id, typ string, m message) amqp.Publishing {
	return amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: id, Type: typ, CorrelationId: m.order, Timestamp: time.Now(),
		Headers: amqp.Table{
			"cloudEvents_time": time.Now().UTC().Format(time.RFC3339Nano), "cloudEvents_causationid": m.id,
			"cloudEvents_subject": "order/" + m.order, "cloudEvents_sequence": "1", "schema": int64(1), "hops": int64(1), "actor": "customer:ada",
		},
		Body: []byte(m.body),
	}
}

// confirms waits for the broker, then acks, one ack for each batch.
func (s *step) confirms(ctx context.Context) error {
	for {
		select {
		case b := <-s.unsettled:
			for _, confirm := range b.confirms {
				if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
					return errors.Join(err, errors.New("not confirmed"))
				}
			}
			if b.last > 0 {
				if err := s.consume.Ack(b.last, true); err != nil {
					return err
				}
			}
			s.mu.Lock()
			s.confirmed = append(s.confirmed, b.events...)
			s.mu.Unlock()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Tables are those of one service: a schema with all that it keeps.
func Tables(service string) string {
	schema := pq.QuoteIdentifier(service)
	return fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS %[1]s;
CREATE TABLE IF NOT EXISTS %[1]s.inbox (message_id uuid PRIMARY KEY);
CREATE TABLE IF NOT EXISTS %[1]s.state (order_id uuid PRIMARY KEY, version int NOT NULL, doc jsonb NOT NULL) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS %[1]s.event (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL UNIQUE, order_id uuid NOT NULL, type text NOT NULL, data jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS %[1]s.outbox (event_id uuid PRIMARY KEY, type text NOT NULL, data jsonb NOT NULL)`, schema)
}

// Statement handles a batch. It answers with the messages that had not been handled before.
func Statement(service string) string {
	schema := pq.QuoteIdentifier(service)
	return fmt.Sprintf(`WITH fresh AS (INSERT INTO %[1]s.inbox SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING message_id),
input AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $5::jsonb[]) AS m(message_id, order_id, event_id, data) JOIN fresh USING (message_id)),
states AS (INSERT INTO %[1]s.state AS s SELECT order_id, 1, data FROM input ON CONFLICT (order_id) DO UPDATE SET version = s.version + 1, doc = EXCLUDED.doc),
events AS (INSERT INTO %[1]s.event (event_id, order_id, type, data) SELECT event_id, order_id, $4::text, data FROM input),
posted AS (INSERT INTO %[1]s.outbox SELECT event_id, $4::text, data FROM input),
cleared AS (DELETE FROM %[1]s.outbox WHERE event_id = ANY($6::uuid[]))
SELECT message_id FROM fresh`, schema)
}
