package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/flow/sim/broker"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
)

// real is RabbitMQ, by its own client. Each user has a connection, and each publication a channel until one has failed.
type real struct {
	t  *testing.T
	at *servers.Broker

	conns map[string]*amqp.Connection
	outs  map[string]*out
}

// out is a channel for publishing.
type out struct {
	*amqp.Channel
	returns chan amqp.Return
	closed  chan *amqp.Error
}

const patience = 10 * time.Second

func newRabbit(t *testing.T) *real {
	t.Helper()
	r := &real{t: t, at: servers.NewBroker(t, flows()...), conns: map[string]*amqp.Connection{}, outs: map[string]*out{}}
	more, err := json.Marshal(extras(r.at.VHost))
	must(t, err)
	must(t, rabbit.Apply(t.Context(), r.at.ManagementURL, more))
	t.Cleanup(func() {
		for _, c := range r.conns {
			_ = c.Close()
		}
	})
	return r
}

// conn is the connection of a user; "" is the administrator.
func (r *real) conn(user string) *amqp.Connection {
	r.t.Helper()
	if c := r.conns[user]; c != nil && !c.IsClosed() {
		return c
	}
	u, err := url.Parse(r.at.URL)
	must(r.t, err)
	if user != "" {
		u.User = url.UserPassword(user, servers.Password(user))
	}
	c, err := amqp.Dial(u.String())
	must(r.t, err)
	r.conns[user] = c
	return c
}

func (r *real) out(user string) *out {
	r.t.Helper()
	if o := r.outs[user]; o != nil && !o.IsClosed() {
		return o
	}
	ch, err := r.conn(user).Channel()
	must(r.t, err)
	must(r.t, ch.Confirm(false))
	o := &out{ch, ch.NotifyReturn(make(chan amqp.Return, 1)), ch.NotifyClose(make(chan *amqp.Error, 1))}
	r.outs[user] = o
	return o
}

func (r *real) publish(user, exchange, key string, m broker.Message) (returned bool, err error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	o := r.out(user)
	confirm, err := o.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, amqp.Publishing{
		MessageId: m.MessageID, Type: m.Type, UserId: m.UserID, Headers: m.Headers, Body: m.Body, DeliveryMode: amqp.Persistent,
	})
	if err != nil {
		return false, err
	}
	// The client tells why the channel was closed a moment before it says that it is closed; so it is not asked.
	ended := func(e *amqp.Error) error {
		delete(r.outs, user)
		if e == nil {
			return errors.New("the channel was closed before")
		}
		return sorted(e)
	}
	select {
	case <-confirm.Done():
	case e := <-o.closed:
		return false, ended(e)
	case <-ctx.Done():
		return false, ctx.Err()
	}
	select {
	case <-o.returns:
		return true, nil // a return comes before its confirm
	case e := <-o.closed:
		return false, ended(e)
	default:
	}
	if !confirm.Acked() {
		return false, errors.New("not confirmed")
	}
	return false, nil
}

// sorted makes an error of the client one of the broker in memory.
func sorted(err error) error {
	var e *amqp.Error
	if !errors.As(err, &e) || e == nil {
		return err
	}
	switch e.Code {
	case amqp.AccessRefused:
		return fmt.Errorf("%w: %v", broker.ErrRefused, e)
	case amqp.NotFound:
		return fmt.Errorf("%w: %v", broker.ErrNotFound, e)
	case amqp.PreconditionFailed:
		return fmt.Errorf("%w: %v", broker.ErrPrecond, e)
	}
	return err
}

func (r *real) consume(user, queue string, prefetch int) (consumer, error) {
	ch, err := r.conn(user).Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, sorted(err)
	}
	return &realConsumer{r, ch, deliveries}, nil
}

func (r *real) ready(queue string) int {
	r.t.Helper()
	ch, err := r.conn("").Channel()
	must(r.t, err)
	defer ch.Close()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	must(r.t, err)
	return q.Messages
}

func (r *real) restart() {
	r.t.Helper()
	servers.Eventually(r.t, func() error {
		r.at.Kill(r.t, "") // it does not see a connection at once
		for user, c := range r.conns {
			if !c.IsClosed() {
				return fmt.Errorf("the connection of %s stands", user)
			}
		}
		return nil
	})
}

func (r *real) now() time.Time { return time.Now() }

func (r *real) four() bool {
	version, _ := r.conn("").Properties["version"].(string)
	return strings.HasPrefix(version, "4.")
}

type realConsumer struct {
	*real
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
}

func (c *realConsumer) next() broker.Delivery {
	c.t.Helper()
	select {
	case d, ok := <-c.deliveries:
		if !ok {
			c.t.Fatal("the channel is closed")
		}
		return broker.Delivery{Tag: d.DeliveryTag, Redelivered: d.Redelivered, Message: broker.Message{
			MessageID: d.MessageId, Type: d.Type, UserID: d.UserId, Exchange: d.Exchange, Key: d.RoutingKey, Headers: d.Headers, Body: d.Body,
		}}
	case <-time.After(patience):
		c.t.Fatal("nothing comes any more")
	}
	panic("unreachable")
}

func (c *realConsumer) ack(tag uint64, multiple bool) error { return c.ch.Ack(tag, multiple) }
func (c *realConsumer) nack(tag uint64, requeue bool) error { return c.ch.Nack(tag, false, requeue) }
func (c *realConsumer) close()                              { _ = c.ch.Close() }
