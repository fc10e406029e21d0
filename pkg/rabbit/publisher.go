package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"hotchoc/pkg/crash"
	"hotchoc/pkg/event"
)

var errAway = errors.New("rabbit: the broker is away")

// Publisher publishes with confirms, on a connection of its own: the broker holds back publishing connections when it is
// short of memory or disk, and acks must not be held back with them. Safe for concurrent use.
type Publisher struct {
	supervisor
	mu      sync.RWMutex
	session *session
}

// session is one session: a channel in confirm mode and what waits for its confirms, in order.
type session struct {
	channel *amqp.Channel
	returns chan amqp.Return
	window  chan outstanding
	over    chan struct{}
}

type outstanding struct {
	id      string
	confirm *amqp.DeferredConfirmation
	done    func(error)
}

// NewPublisher returns a publisher; nothing is sent until Run.
func NewPublisher(cfg Config, log *zap.Logger) *Publisher {
	return &Publisher{supervisor: supervisor{cfg: cfg.withDefaults(), what: "publishing", log: log}}
}

// Run keeps the connection until ctx is done.
func (p *Publisher) Run(ctx context.Context) error {
	p.keep(ctx, p.serve)
	return nil
}

func (p *Publisher) serve(ctx context.Context, conn *amqp.Connection) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	s := &session{
		channel: channel,
		// Room for every message that can be under way: a return is in here before its confirm resolves.
		returns: channel.NotifyReturn(make(chan amqp.Return, 2*p.cfg.Window)),
		window:  make(chan outstanding, p.cfg.Window),
		over:    make(chan struct{}),
	}
	gone := channel.NotifyClose(make(chan *amqp.Error, 1))
	var confirms sync.WaitGroup
	confirms.Go(s.confirm)
	p.mu.Lock()
	p.session = s
	p.mu.Unlock()
	p.ready.Store(true)
	p.log.Info("publishing", zap.String("broker", conn.RemoteAddr().String()))

	err = nil
	select {
	case e := <-gone:
		err = closed("publishing channel", e)
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.session = nil
	p.mu.Unlock()
	_ = conn.CloseDeadline(time.Now().Add(closeTimeout)) // resolves what is outstanding
	close(s.over)
	confirms.Wait()
	return err
}

// confirm tells each message, in order, what became of it.
func (s *session) confirm() {
	// A message can be under way twice, by the fast path and by the sweeper: each of its returns stands for one of them.
	returned := map[string][]amqp.Return{}
	settle := func(o outstanding) {
		<-o.confirm.Done()
		for drained := false; !drained; {
			select {
			case r, ok := <-s.returns:
				if ok {
					returned[r.MessageId] = append(returned[r.MessageId], r)
				}
				drained = !ok
			default:
				drained = true
			}
		}
		returns := returned[o.id]
		if len(returns) > 1 {
			returned[o.id] = returns[1:]
		} else {
			delete(returned, o.id)
		}
		switch {
		case !o.confirm.Acked():
			o.done(errors.New("rabbit: not confirmed"))
		case len(returns) > 0:
			o.done(fmt.Errorf("rabbit: no queue is bound to %s for %s: apply the topology", returns[0].Exchange, returns[0].RoutingKey))
		default:
			o.done(nil)
		}
	}
	for {
		select {
		case o := <-s.window:
			settle(o)
		case <-s.over:
			for {
				select {
				case o := <-s.window:
					settle(o)
				default:
					return
				}
			}
		}
	}
}

// Publish implements relay.Publisher: events go to the exchange of their service, by their type; timers go back to the
// service's own queue.
func (p *Publisher) Publish(ctx context.Context, events []event.Record, done func(event.Record, error)) {
	for _, e := range events {
		exchange, key := EventsExchange(p.cfg.Service), e.Type
		if e.Stream == "" {
			exchange, key = RetryExchange(p.cfg.Service), p.cfg.Service
		}
		p.send(ctx, exchange, key, publishing(e, p.cfg.Service), func(err error) { done(e, err) })
	}
}

// send publishes one message; done is called once. It blocks while the window is full, until ctx is done.
func (p *Publisher) send(ctx context.Context, exchange, key string, m amqp.Publishing, done func(error)) {
	p.mu.RLock()
	s := p.session
	if s == nil {
		p.mu.RUnlock()
		done(errAway)
		return
	}
	confirm, err := s.channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, m)
	if err != nil {
		p.mu.RUnlock()
		done(err)
		return
	}
	crash.At("publish.sent", m.Type)
	// The lock is held until the message is in the window, so that the end of the session finds it there.
	select {
	case s.window <- outstanding{m.MessageId, confirm, done}:
		p.mu.RUnlock()
	case <-s.over:
		p.mu.RUnlock()
		done(errAway)
	case <-ctx.Done():
		p.mu.RUnlock()
		done(ctx.Err())
	}
}
