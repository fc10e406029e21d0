package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits of the load.
const (
	openMax    = 20_000           // orders under way at once in an open loop; one more would wait, and its wait would count
	endsWithin = 2 * time.Minute  // how long orders may take after the last was placed
	answerIn   = 30 * time.Second // how long the answer to one request may take
)

// customers place orders with one system and note how long each took.
type customers struct {
	url    string // of POST /orders
	client *http.Client
	ends   *ends
	wish   func(n int64) string // the n-th order: the body of its request

	placed atomic.Int64
	mu     sync.Mutex
	orders []order
	ids    []string
}

// order is what was seen of one order that has ended.
type order struct {
	start time.Time // when it was to be placed, which in a closed loop is when it was
	end   time.Time // when its last event arrived
}

// connectionsMax is how many connections the customers share: a request takes a moment, an order much longer.
const connectionsMax = 128

func newCustomers(url string, ends *ends, wish func(int64) string, connections int) *customers {
	connections = min(connections, connectionsMax)
	transport := &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	return &customers{url: url, ends: ends, wish: wish, client: &http.Client{Transport: transport, Timeout: answerIn}}
}

// closed keeps so many orders under way from now on, until ctx is done or one is refused: each of the customers places an
// order, waits for its end, and places the next. It returns when all have ended.
func (c *customers) closed(ctx context.Context, inFlight int) error {
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	var all sync.WaitGroup
	for range inFlight {
		all.Go(func() {
			ended := make(chan struct{}, 1)
			for ctx.Err() == nil {
				if err := c.place(context.WithoutCancel(ctx), time.Now(), func() { ended <- struct{}{} }); err != nil {
					refuse(err)
					return
				}
				select {
				case <-ended:
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
	return c.rest(ctx)
}

// open places orders when they are due, however long the others take, until ctx is done or one is refused: due tells when
// the n-th is to be placed, counted from the beginning; false is no more. An order's time counts from when it was due, so
// that a system, or a customer, that falls behind cannot hide it: https://groups.google.com/g/mechanical-sympathy/c/icNZJejUHfE
// It returns when all have ended.
func (c *customers) open(ctx context.Context, due func(n int) (time.Duration, bool)) error {
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	begin := time.Now()
	room := make(chan struct{}, openMax)
	var all sync.WaitGroup
	for n := 0; ; n++ {
		after, more := due(n)
		if !more || !sleepUntil(ctx, begin.Add(after)) {
			break
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			all.Wait()
			return c.rest(ctx)
		}
		all.Go(func() {
			if err := c.place(context.WithoutCancel(ctx), begin.Add(after), func() { <-room }); err != nil {
				refuse(err)
				<-room
			}
		})
	}
	all.Wait()
	return c.rest(ctx)
}

// rate is a schedule of so many orders a second, evenly, for ever.
func rate(perSecond float64) func(int) (time.Duration, bool) {
	return func(n int) (time.Duration, bool) {
		return time.Duration(float64(n) / perSecond * float64(time.Second)), true
	}
}

// atOnce is a schedule of so many orders in one instant.
func atOnce(orders int) func(int) (time.Duration, bool) {
	return func(n int) (time.Duration, bool) { return 0, n < orders }
}

// queue places so many orders, some at a time, and does not wait for their ends.
func (c *customers) queue(ctx context.Context, orders, atATime int) error {
	var g errgroup.Group
	g.SetLimit(atATime)
	for range orders {
		g.Go(func() error { return c.place(ctx, time.Now(), func() {}) })
	}
	return g.Wait()
}

// place places an order. ended is called once it has ended, unless there is an error.
func (c *customers) place(ctx context.Context, start time.Time, ended func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(c.wish(c.placed.Add(1))))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	says, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		return errors.Join(err, fmt.Errorf("POST /orders: %s %s", resp.Status, bytes.TrimSpace(says[:min(len(says), 500)])))
	}
	id := resp.Header.Get("Location")
	id = id[strings.LastIndexByte(id, '/')+1:]
	c.mu.Lock()
	c.ids = append(c.ids, id)
	c.mu.Unlock()
	c.ends.expect(id, func(at time.Time) {
		c.mu.Lock()
		c.orders = append(c.orders, order{start, at})
		c.mu.Unlock()
		ended()
	})
	return nil
}

// rest waits for the orders that are under way, and says why the loop ended if that was not the time.
func (c *customers) rest(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, errOver) {
		return err
	}
	return c.ends.drained(context.WithoutCancel(ctx), endsWithin)
}

// errOver is why a loop ends in good order.
var errOver = errors.New("the time is over")

// finished are the orders that have ended so far.
func (c *customers) finished() []order {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]order(nil), c.orders...)
}

// sleepUntil reports whether it got there.
func sleepUntil(ctx context.Context, t time.Time) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
