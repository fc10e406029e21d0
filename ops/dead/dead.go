// Package dead looks at the dead letters of all services, and sends them back.
//
// Looking takes messages from the queue S.dead without an ack, on a channel that is closed afterwards, so that they
// return to where they were; the queue has a delivery limit that allows for a million looks. Meanwhile nobody else would
// see them, so those who look wait for each other. Sending back, redrive, is a
// publication to the exchange S.retry with the key S, which leads to the queue of the same service and nowhere else; the
// dead letter is acked when the broker has confirmed it. The message ID stays, so what had been handled is known by the
// inbox and changes nothing.
package dead

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/saga/platform"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

// heldMax is how many bytes of bodies are held for a redrive; what is beyond is left for the next one.
const heldMax = 256 << 20

// Config says where to look.
type Config struct {
	// AMQP is the broker, as administrator; several, separated by commas, are tried in turn.
	AMQP string
	// Database is the database server, as administrator.
	Database string
	// Graph is the choreography of the services.
	Graph flow.Graph
}

// Queues are the queues of all services, as their administrator sees them. Not safe for concurrent use.
type Queues struct {
	services  []string
	graph     flow.Graph
	conn      *amqp.Connection
	databases *platform.Databases
}

// Open connects to the broker.
func Open(cfg Config) (*Queues, error) {
	conn, err := dial(cfg.AMQP)
	if err != nil {
		return nil, err
	}
	databases, err := platform.Open(cfg.Database, cfg.Graph.Services)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Queues{services: cfg.Graph.Services, graph: cfg.Graph, conn: conn, databases: databases}, nil
}

func dial(urls string) (conn *amqp.Connection, err error) {
	for url := range strings.SplitSeq(urls, ",") {
		u, bad := amqp.ParseURI(url)
		if bad != nil { // it may quote the password
			return nil, errors.New("the AMQP URL must look like amqp://user:password@host:port/")
		}
		conn, err = amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second), Heartbeat: 10 * time.Second})
		if err == nil {
			return conn, nil
		}
		err = fmt.Errorf("connect to RabbitMQ at %s: %w", net.JoinHostPort(u.Host, fmt.Sprint(u.Port)), err)
	}
	return nil, err
}

// Close closes all connections.
func (q *Queues) Close() {
	_ = q.conn.CloseDeadline(time.Now().Add(time.Second))
	q.databases.Close()
}

// Databases are those of the same services.
func (q *Queues) Databases() *platform.Databases { return q.databases }

// List looks at the dead letters, the oldest of each service first. unseen is how many more there are, beyond the limit.
func (q *Queues) List(ctx context.Context, s Selection) (letters []Letter, unseen int, err error) {
	ch, done, err := q.lock(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	unseen, err = q.look(ctx, ch, s, func(l Letter, _ amqp.Delivery) bool {
		letters = append(letters, l)
		return true
	})
	return letters, unseen, err
}

// looking is the name of a queue that only one connection can have. It holds nothing: it is the lock.
const looking = "hotchoc.dead.looking"

// Limits of the wait for others who look.
const (
	lockTick    = 20 * time.Millisecond
	lockTimeout = 30 * time.Second
)

// lock opens a channel for looking, when nobody else looks. done gives back what was not acked, and lets the next one look.
func (q *Queues) lock(ctx context.Context) (ch *amqp.Channel, done func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout, errors.New("somebody else looks at the dead letters, or sends them back: try again later"))
	defer cancel()
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		if ch, err = q.conn.Channel(); err != nil {
			return nil, nil, err
		}
		_, err := ch.QueueDeclare(looking, false, false, true, false, nil)
		var refused *amqp.Error
		switch {
		case err == nil:
			return ch, func() {
				// Said, and not left to the end of the channel, so that it is all back when the lock is gone.
				_ = ch.Nack(0, true, true)
				_, _ = ch.QueueDelete(looking, false, false, false)
				_ = ch.Close()
			}, nil
		case !errors.As(err, &refused) || refused.Code != amqp.ResourceLocked:
			_ = ch.Close()
			return nil, nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// look hands each letter that is chosen to see, until it has enough. Nothing is acked.
func (q *Queues) look(ctx context.Context, ch *amqp.Channel, s Selection, see func(Letter, amqp.Delivery) bool) (unseen int, err error) {
	if s.Limit == 0 {
		s.Limit = DefaultLimit
	}
	for _, service := range q.services {
		if len(s.Services) > 0 && !slices.Contains(s.Services, service) {
			continue
		}
		left := 0
		for range s.Limit {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			d, ok, err := ch.Get(rabbit.DeadQueue(service), false)
			if err != nil {
				return 0, fmt.Errorf("queue %s: %w", rabbit.DeadQueue(service), err)
			}
			if !ok {
				left = 0
				break
			}
			left = int(d.MessageCount)
			if l := read(service, d); s.chooses(l) && !see(l, d) {
				return unseen + left, nil
			}
		}
		unseen += left
	}
	return unseen, nil
}

// Opened is a dead letter with all that is known of it.
type Opened struct {
	Letter
	Headers map[string]any `json:"headers"`
	Body    string         `json:"body"` // as it came; the contract says JSON
	// Awaiting are the steps here that have not handled the message, Handled those that have.
	Awaiting []string           `json:"awaiting"`
	Handled  []platform.Handled `json:"handled"`
	Ledger   []platform.Attempt `json:"attempt_ledger"`
}

// Show opens the dead letters with a message ID: one, unless several services have set the message aside.
func (q *Queues) Show(ctx context.Context, id string, s Selection) ([]Opened, error) {
	s.IDs = []string{id}
	ch, done, err := q.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var opened []Opened
	if _, err := q.look(ctx, ch, s, func(l Letter, d amqp.Delivery) bool {
		opened = append(opened, Opened{Letter: l, Headers: d.Headers, Body: string(d.Body)})
		return true
	}); err != nil {
		return nil, err
	}
	message, err := uuid.Parse(id)
	if err != nil {
		return opened, nil // no inbox and no ledger can know it
	}
	attempts, err := q.databases.Attempts(ctx, nil, []uuid.UUID{message})
	if err != nil {
		return nil, err
	}
	handled, err := q.databases.Handled(ctx, []uuid.UUID{message})
	if err != nil {
		return nil, err
	}
	for i := range opened {
		o := &opened[i]
		for _, a := range attempts {
			if a.Service == o.Service {
				o.Ledger = append(o.Ledger, a)
			}
		}
		for _, h := range handled {
			if h.Service == o.Service {
				o.Handled = append(o.Handled, h)
			}
		}
		o.Awaiting = awaiting(q.graph, o.Letter, handled)
	}
	return opened, nil
}

// awaiting are the steps of a letter's service that hear it and have not handled it.
func awaiting(g flow.Graph, l Letter, handled []platform.Handled) (steps []string) {
	for _, step := range Hearers(g, l.Service, l.From, l.Type) {
		if !slices.ContainsFunc(handled, func(h platform.Handled) bool {
			return h.Message.String() == strings.ToLower(l.ID) && h.Service == l.Service && h.Step == step
		}) {
			steps = append(steps, step)
		}
	}
	return steps
}

// Hearers are the steps of a service that hear a type of message from another, or its own; its copies and views count as
// one. Views see their own service's events when they are written.
func Hearers(g flow.Graph, service, from, typ string) (steps []string) {
	for _, s := range g.Steps {
		if s.Service == service && s.Kind != "command" && slices.Contains(s.Hears, typ) {
			steps = append(steps, s.Name)
		}
	}
	if service != from && slices.ContainsFunc(g.Views, func(v flow.GraphView) bool { return v.Service == service && slices.Contains(v.Hears, typ) }) {
		steps = append(steps, flow.ViewsStep)
	}
	return steps
}

// Depth is what waits in the queues of a service.
type Depth struct {
	Ready     int // in its queue, not handed over
	Consumers int
	Waiting   int // in its wait queues
}

// Depth tells what waits in the queues of a service.
func (q *Queues) Depth(service string) (Depth, error) {
	ch, err := q.conn.Channel()
	if err != nil {
		return Depth{}, err
	}
	defer ch.Close()
	inspect := func(name string) (amqp.Queue, error) {
		queue, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			return queue, fmt.Errorf("queue %s: %w", name, err)
		}
		return queue, nil
	}
	queue, err := inspect(service)
	if err != nil {
		return Depth{}, err
	}
	depth := Depth{Ready: queue.Messages, Consumers: queue.Consumers}
	for _, delay := range flow.Rungs {
		wait, err := inspect(rabbit.WaitQueue(service, delay))
		if err != nil {
			return Depth{}, err
		}
		depth.Waiting += wait.Messages
	}
	return depth, nil
}
