// Command watermill is the peer that the shop is compared with: the way of an order through four stages (order, pay, make,
// delivery, and back to order) as Watermill's documentation builds it. The handlers of a router work in a database
// transaction each, publish through Watermill's SQL publisher in the same transaction, and a forwarder for each service
// carries the outbox to RabbitMQ: https://watermill.io/advanced/forwarder/
//
// It is tuned, and this is all: 64 subscriptions for each stage, 256 together, with a prefetch of 8 each (default: one
// with a prefetch of 1); a pool of 32 channels to publish with confirms (default: a new channel for each message, no
// confirms); forwarders that look every 10 ms (default: 1 s) and take 100 messages; pgx, which keeps prepared statements
// and so needs one round trip for each, in a pool of 100 connections; quorum queues, as the shop has. More, or fewer,
// subscriptions were not faster.
//
// It does what hotchoc/ops/bench/pipeline does in each step: claim in an inbox, state, event, outbox. What that leaves
// out, this leaves out as well.
//
// DATABASE_URL and AMQP_URL say where to work, HANDLERS how many subscriptions each stage has. When all is ready the first
// line of its output is the URL of POST /orders. It ends with its input.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

const (
	handlersDefault = 64
	prefetch        = 8
	channels        = 32
	connections     = 100
	poll            = 10 * time.Millisecond

	orderKey = "order" // in the metadata of messages
)

// stages hear and emit topics. The first is fed over HTTP.
var stages = []struct{ service, hears, emits string }{
	{"order", "", "watermill.order.placed"},
	{"pay", "watermill.order.placed", "watermill.payment.captured"},
	{"make", "watermill.payment.captured", "watermill.drink.made"},
	{"delivery", "watermill.drink.made", "watermill.delivery.delivered"},
	{"order", "watermill.delivery.delivered", "order.completed"},
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	handlers := handlersDefault
	if text := os.Getenv("HANDLERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("HANDLERS must be a number of 1 or more, not %q", text)
		}
		handlers = n
	}
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	w := &works{db: db, log: watermill.NewStdLogger(false, false)}
	config := amqpConfig(os.Getenv("AMQP_URL"))
	if w.router, err = message.NewRouter(message.RouterConfig{}, w.log); err != nil {
		return err
	}
	subscriber, err := amqp.NewSubscriber(config, w.log)
	if err != nil {
		return err
	}
	publisher, err := amqp.NewPublisher(config, w.log)
	if err != nil {
		return err
	}
	if err := declareEnd(os.Getenv("AMQP_URL"), stages[len(stages)-1].emits); err != nil {
		return err
	}
	forwarded := map[string]bool{}
	for _, s := range stages {
		if !forwarded[s.service] {
			forwarded[s.service] = true
			if _, err := db.ExecContext(ctx, tables(s.service)); err != nil {
				return err
			}
			if err := w.forward(ctx, s.service, publisher); err != nil {
				return err
			}
		}
		for i := range handlers {
			if s.hears != "" {
				w.router.AddConsumerHandler(fmt.Sprintf("%s %d", s.hears, i), s.hears, subscriber, func(m *message.Message) error {
					return w.step(m.Context(), s.service, s.emits, m.UUID, m.Metadata.Get(orderKey), m.Payload)
				})
			}
		}
	}
	return w.serve(ctx)
}

// works is what the stages share.
type works struct {
	db     *sql.DB
	log    watermill.LoggerAdapter
	router *message.Router
}

func amqpConfig(url string) amqp.Config {
	c := amqp.NewDurablePubSubConfig(url, amqp.GenerateQueueNameTopicName)
	c.Queue.Arguments = amqp091.Table{"x-queue-type": "quorum"}
	c.Consume.Qos.PrefetchCount = prefetch
	c.Publish.ConfirmDelivery = true
	c.Publish.ChannelPoolSize = channels
	// A fanout exchange does not look at the key: it tells who waits for the end what happened.
	c.Publish.GenerateRoutingKey = func(topic string) string { return topic }
	c.Marshaler = amqp.DefaultMarshaler{PostprocessPublishing: func(p amqp091.Publishing) amqp091.Publishing {
		p.CorrelationId, _ = p.Headers[orderKey].(string)
		return p
	}}
	return c
}

// declareEnd declares the exchange that nobody of us consumes from, for those who wait for the end.
func declareEnd(url, exchange string) error {
	conn, err := amqp091.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	return channel.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil)
}

// forward carries the outbox of a service to the broker.
func (w *works) forward(ctx context.Context, service string, to message.Publisher) error {
	outbox, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(w.db), wsql.SubscriberConfig{
		ConsumerGroup: "forwarder", PollInterval: poll, InitializeSchema: true,
		SchemaAdapter: wsql.DefaultPostgreSQLSchema{SubscribeBatchSize: 100}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
	}, w.log)
	if err != nil {
		return err
	}
	if err := outbox.SubscribeInitialize(outboxOf(service)); err != nil {
		return err
	}
	f, err := forwarder.NewForwarder(outbox, to, w.log, forwarder.Config{ForwarderTopic: outboxOf(service)})
	if err != nil {
		return err
	}
	go func() {
		if err := f.Run(ctx); err != nil {
			w.log.Error("forwarder", err, nil)
		}
	}()
	return nil
}

func outboxOf(service string) string { return "outbox_" + service }

// step handles one message in one transaction: claim, state, event, outbox.
func (w *works) step(ctx context.Context, service, emits, id, order string, body []byte) (err error) {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	claimed, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %q.inbox VALUES ($1) ON CONFLICT DO NOTHING`, service), id)
	if err != nil {
		return err
	}
	if n, err := claimed.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, tx.Rollback())
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %q.state AS s VALUES ($1, 1, $2) ON CONFLICT (order_id) DO UPDATE SET version = s.version + 1, doc = EXCLUDED.doc`, service), order, string(body)); err != nil {
		return err
	}
	event := uuid.Must(uuid.NewV7()).String()
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %q.event (event_id, order_id, type, data) VALUES ($1, $2, $3, $4)`, service), event, order, emits, string(body)); err != nil {
		return err
	}
	outbox, err := wsql.NewPublisher(wsql.TxFromStdSQL(tx), wsql.PublisherConfig{SchemaAdapter: wsql.DefaultPostgreSQLSchema{}}, w.log)
	if err != nil {
		return err
	}
	m := message.NewMessage(event, body)
	m.Metadata.Set(orderKey, order)
	if err := forwarder.NewPublisher(outbox, forwarder.PublisherConfig{ForwarderTopic: outboxOf(service)}).Publish(emits, m); err != nil {
		return err
	}
	return tx.Commit()
}

// serve takes orders until ctx is done.
func (w *works) serve(ctx context.Context) error {
	routed := make(chan error, 1)
	go func() { routed <- w.router.Run(ctx) }()
	select {
	case <-w.router.Running():
	case err := <-routed:
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(w.place), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Printf("http://%s/orders\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-routed
}

// place answers POST /orders after the commit.
func (w *works) place(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(out, r.Body, 64<<10))
	id := uuid.Must(uuid.NewV7()).String()
	if err == nil {
		err = w.step(r.Context(), stages[0].service, stages[0].emits, id, id, body)
	}
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	out.Header().Set("Location", "/orders/"+id)
	out.WriteHeader(http.StatusAccepted)
}

// tables are those of one service: a schema with all that it keeps but the outbox.
func tables(service string) string {
	return fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS %[1]q;
CREATE TABLE IF NOT EXISTS %[1]q.inbox (message_id uuid PRIMARY KEY);
CREATE TABLE IF NOT EXISTS %[1]q.state (order_id uuid PRIMARY KEY, version int NOT NULL, doc jsonb NOT NULL) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS %[1]q.event (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL UNIQUE, order_id uuid NOT NULL, type text NOT NULL, data jsonb NOT NULL)`, service)
}
