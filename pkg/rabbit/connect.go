// Package rabbit is the platform's RabbitMQ: connections that come back by themselves, the publisher with confirms, the
// consumer that acks after the commit, retries by wait queues, dead letters, and the topology.
package rabbit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"hotchoc/pkg/crash"
)

// Defaults of Config.
const (
	DefaultPrefetch    = 1536
	DefaultWindow      = 1024
	DefaultHeartbeat   = 5 * time.Second
	DefaultDialTimeout = 5 * time.Second
	DefaultBackoffMax  = time.Second
	DefaultStopTimeout = 10 * time.Second
)

const (
	// closeTimeout bounds the wait for the broker's answer when a connection is closed.
	closeTimeout = time.Second

	// setbackMax bounds the wait after a setback, and a session that lasted for setbackOver was none. See keep.
	setbackMax  = 30 * time.Second
	setbackOver = 10 * time.Second
)

// Config is how a service talks to the broker. The zero value is usable but for URLs and Service.
type Config struct {
	// URLs are the brokers, amqp:// or amqps://; tried in turn.
	URLs []string
	// Service is the name of the service: of its user, exchanges and queue.
	Service string
	// Prefetch is how many messages the broker hands over before the first is acked. Default 1,536: four batches.
	Prefetch int
	// Window is how many published messages may wait for their confirms. Default 1,024.
	Window int
	// Heartbeat bounds how long a frozen broker goes unnoticed: one and a half times this. Default 5 s.
	Heartbeat time.Duration
	// DialTimeout bounds one try at connecting. Default 5 s.
	DialTimeout time.Duration
	// BackoffMax bounds the wait between two tries, which grows from 50 ms with full jitter. Default 1 s.
	BackoffMax time.Duration
	// StopTimeout is how long messages in work may take at the end. Default 10 s.
	StopTimeout time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	if c.Prefetch == 0 {
		c.Prefetch = DefaultPrefetch
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	set(&c.Heartbeat, DefaultHeartbeat)
	set(&c.DialTimeout, DefaultDialTimeout)
	set(&c.BackoffMax, DefaultBackoffMax)
	set(&c.StopTimeout, DefaultStopTimeout)
	return c
}

// supervisor keeps a session with the broker alive: whatever ends one, the connection is thrown away whole and a new one
// is made. The library's own recovery is not used: delivery tags begin anew on a recovered channel, and an ack that was
// late could ack another message.
type supervisor struct {
	cfg   Config
	what  string
	log   *zap.Logger
	ready atomic.Bool
	why   atomic.Pointer[error]
	tries int
}

// Ready tells whether there is a session that does its work.
func (s *supervisor) Ready() bool { return s.ready.Load() }

// Err tells why there is none, for people; nil when there is one.
func (s *supervisor) Err() error {
	if s.Ready() {
		return nil
	}
	if why := s.why.Load(); why != nil {
		return *why
	}
	return errors.New("no broker yet")
}

// keep runs sessions until ctx is done. A session that ends soon, because the store or the outside failed it, is a setback:
// each counts, in the broker, against every message that had been handed over, and some hundred would turn all of them
// into dead letters (a full disk looks well until something is written). So setbacks in a row come less and less often.
func (s *supervisor) keep(ctx context.Context, session func(context.Context, *amqp.Connection) error) {
	failures, setbacks := 0, 0
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx, session)
		s.why.Store(&err)
		served := s.ready.Swap(false)
		if ctx.Err() != nil {
			return
		}
		if served {
			failures = 0
		}
		failures++
		crash.At("connect.again", s.what)
		wait := s.backoff(failures)
		switch {
		case served && errors.Is(err, errAwayBehind) && time.Since(began) < setbackOver:
			setbacks++
			ceiling := min(50*time.Millisecond<<min(setbacks, 10), setbackMax)
			wait = ceiling/2 + rand.N(ceiling/2)
		case served:
			setbacks = 0
		}
		s.log.Warn("no broker", zap.String("for", s.what), zap.Error(err), zap.Duration("again_in", wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (s *supervisor) once(ctx context.Context, session func(context.Context, *amqp.Connection) error) error {
	target := s.cfg.URLs[s.tries%len(s.cfg.URLs)]
	s.tries++
	conn, err := amqp.DialConfig(target, amqp.Config{
		Heartbeat:  s.cfg.Heartbeat,
		Locale:     "en_US",
		Properties: amqp.Table{"connection_name": s.cfg.Service + " " + s.what},
		Dial: func(network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: s.cfg.DialTimeout}
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// The library clears the deadline when the handshake is over.
			return newCorked(c), c.SetDeadline(time.Now().Add(s.cfg.DialTimeout))
		},
	})
	if err != nil {
		return fmt.Errorf("no broker: connect to %s: %w", redacted(target), err)
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	return session(ctx, conn)
}

// backoff grows from 50 ms, with full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func (s *supervisor) backoff(failures int) time.Duration {
	ceiling := min(50*time.Millisecond<<min(failures, 10), s.cfg.BackoffMax)
	return 10*time.Millisecond + rand.N(ceiling)
}

// redacted is a URL that may be logged.
func redacted(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return "(malformed URL)"
	}
	return u.Redacted()
}

// closed turns a closing notice into an error.
func closed(what string, e *amqp.Error) error {
	if e == nil {
		return errors.New(what + " closed")
	}
	err := fmt.Errorf("%s closed: %w", what, e)
	if e.Code == amqp.NotFound || e.Code == amqp.AccessRefused {
		err = fmt.Errorf("%w; %s", err, cure)
	}
	return err
}
