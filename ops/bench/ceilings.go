package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"hotchoc/ops/bench/pipeline"
)

// Ceiling is what this machine's broker or database does when it has nothing else to do.
type Ceiling struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"messages_per_s"`
}

const (
	brokerWindow = 1000 // published and not consumed
	brokerAcks   = 50   // messages for each ack
	commitBatch  = 50   // messages for each commit
)

// ceilings measures them.
func (b *bench) ceilings(ctx context.Context) error {
	for _, c := range []struct {
		name string
		run  func(context.Context, *atomic.Int64) error
	}{
		{"one quorum queue", b.rig.brokerCeiling},
		{"batched commits, 1 connection", func(ctx context.Context, done *atomic.Int64) error { return b.rig.commitCeiling(ctx, 1, done) }},
		{"batched commits, 4 connections", func(ctx context.Context, done *atomic.Int64) error { return b.rig.commitCeiling(ctx, 4, done) }},
	} {
		var done atomic.Int64
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- c.run(ctx, &done) }()
		var before int64
		begin := time.Now()
		if sleepUntil(ctx, begin.Add(b.sizes.warm)) {
			before, begin = done.Load(), time.Now()
			sleepUntil(ctx, begin.Add(b.sizes.window))
		}
		perSecond := float64(done.Load()-before) / time.Since(begin).Seconds()
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		b.now.Ceilings = append(b.now.Ceilings, Ceiling{c.name, perSecond})
		b.say("  %-38s %7.0f messages/s", c.name, perSecond)
	}
	return nil
}

// ceilingNames in the order in which they were measured.
func ceilingNames(ceilings []Ceiling) (names []string) {
	for _, c := range ceilings {
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// brokerCeiling publishes persistent messages of 1 KB to a quorum queue, with confirms, and consumes and acks them, as
// fast as it goes while at most brokerWindow are on their way.
func (r *rig) brokerCeiling(ctx context.Context, done *atomic.Int64) error {
	const queue = "bench.ceiling"
	g, ctx := errgroup.WithContext(ctx)
	var channels [2]*amqp.Channel
	for i := range channels {
		conn, err := amqp.Dial(r.stack.AMQP())
		if err != nil {
			return err
		}
		defer closeSoon(conn)
		if channels[i], err = conn.Channel(); err != nil {
			return err
		}
	}
	publish, consume := channels[0], channels[1]
	if _, err := consume.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return err
	}
	if err := errors.Join(publish.Confirm(false), consume.Qos(brokerWindow, 0, false)); err != nil {
		return err
	}
	deliveries, err := consume.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	room := make(chan struct{}, brokerWindow)
	unconfirmed := make(chan *amqp.DeferredConfirmation, brokerWindow)
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(strings.Repeat("x", 1024))}
	g.Go(func() error {
		defer close(unconfirmed)
		for {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			confirm, err := publish.PublishWithDeferredConfirm("", queue, false, false, message)
			if err != nil {
				return err
			}
			select {
			case unconfirmed <- confirm:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		for confirm := range unconfirmed {
			if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
				return errors.Join(err, errors.New("not confirmed"))
			}
		}
		return nil
	})
	g.Go(func() error {
		for n := 1; ; n++ {
			select {
			case d := <-deliveries:
				<-room
				done.Add(1)
				if n%brokerAcks != 0 {
					continue
				}
				if err := d.Ack(true); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	err = g.Wait()
	_, gone := consume.QueueDelete(queue, false, false, false)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, gone)
}

// closeSoon closes a connection with a deadline: the broker does not always answer when a queue goes while messages for it
// are on their way.
func closeSoon(conn *amqp.Connection) { _ = conn.CloseDeadline(time.Now().Add(5 * time.Second)) }

// commitCeiling commits what the pipeline commits in a step, inbox, state, event and outbox, commitBatch messages in each
// statement, on so many connections.
func (r *rig) commitCeiling(ctx context.Context, connections int, done *atomic.Int64) error {
	url, err := r.database(ctx, "ceiling")
	if err != nil {
		return err
	}
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	if _, err := db.ExecContext(ctx, pipeline.Tables("ceiling")); err != nil {
		return err
	}
	step, err := db.PrepareContext(ctx, pipeline.Statement("ceiling"))
	if err != nil {
		return err
	}
	var g errgroup.Group
	for range connections {
		g.Go(func() error {
			var before pq.StringArray
			for ctx.Err() == nil {
				ids, events, bodies := make(pq.StringArray, commitBatch), make(pq.StringArray, commitBatch), make(pq.StringArray, commitBatch)
				for i := range ids {
					ids[i], events[i], bodies[i] = uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String(), padded(int64(i))
				}
				// Not with ctx: the driver would cut the statement off.
				if _, err := step.Exec(ids, ids, events, "ceiling", bodies, before); err != nil {
					return err
				}
				before = events
				done.Add(commitBatch)
			}
			return nil
		})
	}
	return g.Wait()
}
