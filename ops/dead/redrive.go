package dead

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/saga/platform"
	"hotchoc/pkg/rabbit"
)

const confirmTimeout = 10 * time.Second

// What the inbox of the service says of a message.
const (
	New     = "new"     // no step has handled it
	Partly  = "partly"  // some steps have, and will not again
	Handled = "handled" // all have: it will change nothing
	Unheard = "unheard" // nobody here hears it: it will be set aside again
)

// Item is one dead letter that would go back.
type Item struct {
	Letter
	To    string `json:"to"`    // the queue
	Inbox string `json:"inbox"` // New, Partly, Handled or Unheard
	Sent  bool   `json:"sent"`

	delivery amqp.Delivery
}

// Plan is a redrive that has not happened yet. It holds its letters, so that nobody else sees them until it is closed.
type Plan struct {
	Items []Item `json:"items"`
	// LeftOut are the letters that were not published by the service they say they are from. Sent back they would be
	// believed, so they must be chosen by their ID.
	LeftOut []Letter `json:"left_out,omitempty"`
	// Unseen is how many letters were not looked at, beyond the limit.
	Unseen int `json:"unseen"`

	conn *amqp.Connection
	done func()
}

// Plan chooses letters to send back, and finds out what that would come to. Close it.
func (q *Queues) Plan(ctx context.Context, s Selection) (*Plan, error) {
	ch, done, err := q.lock(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Items: []Item{}, conn: q.conn, done: done}
	held := 0
	p.Unseen, err = q.look(ctx, ch, s, func(l Letter, d amqp.Delivery) bool {
		if l.Foreign && len(s.IDs) == 0 {
			p.LeftOut = append(p.LeftOut, l)
			return true
		}
		p.Items = append(p.Items, Item{Letter: l, To: l.Service, delivery: d})
		held += len(d.Body)
		return held < heldMax
	})
	if err == nil {
		err = p.askInboxes(ctx, q)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Plan) askInboxes(ctx context.Context, q *Queues) error {
	var ids []uuid.UUID
	for _, item := range p.Items {
		if id, err := uuid.Parse(item.ID); err == nil {
			ids = append(ids, id)
		}
	}
	handled, err := q.databases.Handled(ctx, ids)
	if err != nil {
		return err
	}
	byMessage := map[string][]platform.Handled{}
	for _, h := range handled {
		byMessage[h.Message.String()] = append(byMessage[h.Message.String()], h)
	}
	for i := range p.Items {
		item := &p.Items[i]
		heard := len(Hearers(q.graph, item.Service, item.From, item.Type))
		switch left := len(awaiting(q.graph, item.Letter, byMessage[strings.ToLower(item.ID)])); {
		case heard == 0:
			item.Inbox = Unheard
		case left == 0:
			item.Inbox = Handled
		case left < heard:
			item.Inbox = Partly
		default:
			item.Inbox = New
		}
	}
	return nil
}

// Close gives back what was not sent.
func (p *Plan) Close() { p.done() }

// Send sends the letters back, one after the other, at most rate in a second, and marks who did it. Each is acked when
// the broker has confirmed that it is in the service's queue. sent, if not nil, is told how many are done. At the first
// failure it stops: the rest stays where it is.
func (p *Plan) Send(ctx context.Context, by string, rate int, sent func(int)) error {
	if rate < 1 {
		return errors.New("the rate must be at least 1 in a second")
	}
	ch, err := p.conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ch.Confirm(false); err != nil {
		return err
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	pace := time.NewTicker(time.Second / time.Duration(rate))
	defer pace.Stop()
	for i := range p.Items {
		item := &p.Items[i]
		if i > 0 {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := publish(ctx, ch, returns, item.Service, back(item.delivery, by, time.Now())); err != nil {
			return fmt.Errorf("message %s did not go back to %s, it stays a dead letter: %w", item.ID, item.Service, err)
		}
		if err := item.delivery.Ack(false); err != nil {
			return fmt.Errorf("message %s went back to %s, but is still a dead letter too: %w", item.ID, item.Service, err)
		}
		item.Sent = true
		if sent != nil {
			sent(i + 1)
		}
	}
	return nil
}

// publish sends one message to the queue of its service, and returns when the broker has it there.
func publish(ctx context.Context, ch *amqp.Channel, returns <-chan amqp.Return, service string, m amqp.Publishing) error {
	// Not ended by ctx: what has been published must be acked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmTimeout)
	defer cancel()
	confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, rabbit.RetryExchange(service), service, true, false, m)
	if err != nil {
		return err
	}
	acked, err := confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("no confirm within %v: %w", confirmTimeout, err)
	case !acked:
		return errors.New("the broker did not confirm it")
	}
	select {
	case <-returns: // it comes before the confirm
		return fmt.Errorf("no queue is bound to %s for %s: apply the topology", rabbit.RetryExchange(service), service)
	default:
		return nil
	}
}

// back makes the message that goes back: the same, with a new budget of attempts, without what the broker wrote on it and
// why it died, and with the mark of the redrive. It has no user: the service believes what comes from its retry exchange.
func back(d amqp.Delivery, by string, now time.Time) amqp.Publishing {
	headers := amqp.Table{}
	for k, v := range d.Headers {
		switch {
		case strings.HasPrefix(k, "x-"), k == rabbit.HeaderAttempt, k == rabbit.HeaderReason, k == rabbit.HeaderStep, k == rabbit.HeaderDeadAt:
		default:
			headers[k] = v
		}
	}
	exchange, key, user := first(d)
	headers[rabbit.HeaderFirstExchange], headers[rabbit.HeaderFirstKey], headers[rabbit.HeaderFirstUser] = exchange, key, user
	headers[headerRedriven] = int64(number(d.Headers, headerRedriven) + 1)
	headers[headerRedrivenAt] = now.UTC().Format(time.RFC3339Nano)
	headers[headerRedrivenBy] = by
	return amqp.Publishing{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: amqp.Persistent,
		MessageId: d.MessageId, Type: d.Type, CorrelationId: d.CorrelationId, AppId: d.AppId, Timestamp: d.Timestamp,
		Headers: headers, Body: d.Body,
	}
}
