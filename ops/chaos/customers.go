package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"hotchoc/ops/audit"
)

// wish is what one customer will do, drawn from the seed before the first one comes.
type wish struct {
	At        time.Duration // when the customer comes, after the beginning
	Key       string        // the Idempotency-Key
	SKU       string
	Quantity  int
	Token     string
	Address   string        // none: comes to the counter
	Deadline  int           // seconds; 0: the shop's own
	Twins     int           // the same request, sent this often at the same time
	Impatient time.Duration // how long the customer waits for the first answer; 0: long enough
	Cancel    time.Duration // after this the customer wants to cancel; 0: never
	Later     bool          // sends the request once more when all is over
}

// mix is what customers ask for, by weight. Well over 30 % cannot end well.
var mix = []struct {
	weight  int
	sku     string
	token   string
	address string
}{
	{40, "", "tok_ok", ""},
	{8, "", "tok_ok", "12 Mill Lane"},
	{2, "", "tok_ok", "slow lane"},
	{4, "", "tok_slow", ""},
	{6, "", "tok_flaky", ""},
	{5, "", "tok_lost", ""},
	{5, "", "tok_declined", ""},
	{2, "", "tok_insufficient", ""},
	{2, "", "tok_fraud", ""},
	{1, "", "tok_down", ""},
	{7, "lava", "tok_ok", ""},
	{6, "", "tok_ok", "nowhere"},
	{4, "", "tok_ok", "no-courier"},
	{8, "winter", "tok_ok", ""},
}

var ordinary = []string{"classic", "dark", "white", "vegan"}

// wishes draws the customers. Half of them come evenly, the other half in crowds, just before something breaks.
func wishes(seed uint64, n int, total time.Duration, faults []Fault, run string) []wish {
	rng := rand.New(rand.NewPCG(seed, 100))
	weights := 0
	for _, m := range mix {
		weights += m.weight
	}
	all := make([]wish, 0, n)
	crowd, left := time.Duration(0), 0
	for i := range n {
		w := wish{Key: fmt.Sprintf("%s-%d", run, i), Quantity: 1 + rng.IntN(3)}
		pick := rng.IntN(weights)
		for _, m := range mix {
			if pick -= m.weight; pick < 0 {
				w.SKU, w.Token, w.Address = m.sku, m.token, m.address
				break
			}
		}
		switch w.SKU {
		case "":
			w.SKU = ordinary[rng.IntN(len(ordinary))]
		case "winter":
			w.Quantity = 1 + rng.IntN(6)
		}
		if w.Token == "tok_slow" && rng.IntN(4) == 0 {
			w.Deadline = 1
		}
		if rng.IntN(100) < 15 {
			w.Cancel = between(rng, time.Millisecond, 150*time.Millisecond)
			if rng.IntN(3) == 0 {
				w.Cancel = between(rng, time.Millisecond, 3*time.Second)
			}
		}
		if rng.IntN(100) < 10 {
			w.Twins = 1 + rng.IntN(3)
		}
		if rng.IntN(100) < 10 {
			w.Impatient = between(rng, time.Millisecond, 30*time.Millisecond)
		}
		w.Later = rng.IntN(100) < 10
		switch {
		case len(faults) == 0 || i%2 == 0:
			w.At = total * time.Duration(i) / time.Duration(n)
		default:
			if left == 0 {
				f := faults[rng.IntN(len(faults))]
				crowd, left = max(0, f.At-between(rng, 0, 400*time.Millisecond)), 1+rng.IntN(20)
			}
			w.At = min(crowd+between(rng, 0, 100*time.Millisecond), total)
			left--
		}
		all = append(all, w)
	}
	slices.SortStableFunc(all, func(a, b wish) int { return int(a.At - b.At) })
	return all
}

func (w wish) body() []byte {
	handover := map[string]any{"type": "counter"}
	if w.Address != "" {
		handover = map[string]any{"type": "address", "address": w.Address}
	}
	body := map[string]any{
		"customer": "chaos-" + w.Token, "lines": []any{map[string]any{"sku": w.SKU, "quantity": w.Quantity}},
		"payment": map[string]any{"token": w.Token}, "handover": handover,
	}
	if w.Deadline > 0 {
		body["deadline_seconds"] = w.Deadline
	}
	text, _ := json.Marshal(body) // of strings and numbers only
	return text
}

// doomed tells that the order can never be completed.
func (w wish) doomed() bool {
	return w.SKU == "lava" || w.Address == "nowhere" || w.Address == "no-courier" ||
		slices.Contains([]string{"tok_declined", "tok_insufficient", "tok_fraud", "tok_down"}, w.Token)
}

// Order is what became of a wish, as its customer saw it.
type Order struct {
	ID       string        `json:"id"`
	Total    int64         `json:"total"`
	Status   string        `json:"status"`
	Cause    string        `json:"cause,omitempty"`
	Refund   string        `json:"refund,omitempty"`
	Statuses []string      `json:"statuses"`
	Took     time.Duration `json:"took_ns"`
	Ended    time.Time     `json:"ended"`

	wish wish
}

// customers send the wishes and watch what becomes of them.
type customers struct {
	url    string
	client *http.Client

	mu         sync.Mutex
	orders     []*Order
	open       int
	answers    map[string]int // by status code, or none
	repeats    int            // requests that were answered with an order that was there already
	cancels    map[string]int // what cancelling came to
	violations []string
}

func newCustomers(url string) *customers {
	return &customers{
		url: url, answers: map[string]int{}, cancels: map[string]int{},
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1000, MaxIdleConns: 1000}},
	}
}

func (c *customers) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violations = append(c.violations, fmt.Sprintf(format, args...))
}

// come lets the customers come, each in its time, so many at most at once; it returns when all have gone.
func (c *customers) come(ctx context.Context, began time.Time, all []wish, most int) {
	room := make(chan struct{}, most)
	var inside sync.WaitGroup
	for _, w := range all {
		select {
		case <-time.After(time.Until(began.Add(w.At))):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		room <- struct{}{}
		inside.Go(func() {
			defer func() { <-room }()
			c.visit(ctx, w)
		})
	}
	inside.Wait()
}

// now is how many orders there are, and how many of them have not ended.
func (c *customers) now() (placed, open int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.orders), c.open
}

// visit is the whole way of one customer.
func (c *customers) visit(ctx context.Context, w wish) {
	began := time.Now()
	o := c.place(ctx, w)
	if o == nil {
		return
	}
	c.mu.Lock()
	c.orders = append(c.orders, o)
	c.open++
	c.mu.Unlock()
	var cancelling sync.WaitGroup
	if w.Cancel > 0 {
		cancelling.Go(func() {
			select {
			case <-time.After(w.Cancel):
				c.cancel(ctx, o.ID, w.Key)
			case <-ctx.Done():
			}
		})
	}
	c.watch(ctx, o)
	cancelling.Wait()
	o.Took = time.Since(began)
	if o.Ended.IsZero() {
		return
	}
	c.mu.Lock()
	c.open--
	c.mu.Unlock()
	if o.wish.Later {
		c.again(ctx, o)
	}
}

// answer is what came back.
type answer struct {
	status int
	body   []byte
	page   page
	code   string // of a problem
}

type page struct {
	ID, Status    string
	Total         struct{ Amount int64 }
	Cause, Refund *string
}

// try sends a request once. An error means that there was no answer.
func (c *customers) try(ctx context.Context, method, url string, body []byte, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	var a answer
	resp, err := c.client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		a.status = resp.StatusCode
		if a.body, err = io.ReadAll(resp.Body); err == nil {
			err = a.decode()
		}
	}
	what := fmt.Sprint(a.status)
	if err != nil {
		what = "none"
	}
	c.mu.Lock()
	c.answers[what]++
	c.mu.Unlock()
	return a, err
}

func (a *answer) decode() error {
	if a.status < 300 {
		return json.Unmarshal(a.body, &a.page)
	}
	var problem struct{ Code string }
	err := json.Unmarshal(a.body, &problem)
	a.code = problem.Code
	return err
}

// insist sends a request until it is answered by something other than "not just now".
func (c *customers) insist(ctx context.Context, method, url string, body []byte, headers ...string) (answer, error) {
	for {
		a, err := c.try(ctx, method, url, body, headers...)
		if err == nil && a.status < 500 {
			return a, nil
		}
		select {
		case <-time.After(20*time.Millisecond + rand.N(180*time.Millisecond)):
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

// place orders until there is an answer. Who is told that it is sold out takes something else.
func (c *customers) place(ctx context.Context, w wish) *Order {
	headers := []string{"Idempotency-Key", w.Key}
	if w.Impatient > 0 {
		short, cancel := context.WithTimeout(ctx, w.Impatient)
		_, _ = c.try(short, http.MethodPost, c.url+"/orders", w.body(), headers...)
		cancel()
	}
	ids := make([]string, w.Twins)
	var twins sync.WaitGroup
	for i := range ids {
		twins.Go(func() {
			if a, err := c.insist(ctx, http.MethodPost, c.url+"/orders", w.body(), headers...); err == nil && a.status < 300 {
				ids[i] = a.page.ID
			}
		})
	}
	a, err := c.insist(ctx, http.MethodPost, c.url+"/orders", w.body(), headers...)
	twins.Wait()
	for _, id := range ids {
		switch {
		case err != nil || id == "":
		case a.status >= 300: // this one came when there was nothing left, its twin a moment before or after
			a, err = c.insist(ctx, http.MethodPost, c.url+"/orders", w.body(), headers...)
			if err == nil && a.page.ID != id {
				c.violation("the key %s made the order %s and was then answered %d %s", w.Key, id, a.status, a.body)
			}
		case id != a.page.ID:
			c.violation("the key %s made two orders, %s and %s", w.Key, id, a.page.ID)
		default:
			c.mu.Lock()
			c.repeats++
			c.mu.Unlock()
		}
	}
	switch {
	case err != nil:
		return nil
	case a.status == http.StatusConflict && a.code == "item-unavailable":
		w.SKU, w.Key, w.Twins, w.Impatient = "classic", w.Key+"-else", 0, 0
		return c.place(ctx, w)
	case a.status >= 300:
		c.violation("POST /orders %s: %d %s", w.body(), a.status, a.body)
		return nil
	}
	return &Order{ID: a.page.ID, Total: a.page.Total.Amount, wish: w}
}

// again sends the request once more, long after: it must be the same order.
func (c *customers) again(ctx context.Context, o *Order) {
	a, err := c.insist(ctx, http.MethodPost, c.url+"/orders", o.wish.body(), "Idempotency-Key", o.wish.Key)
	switch {
	case err != nil:
	case a.page.ID != o.ID || a.page.Status != o.Status || a.page.Total.Amount != o.Total:
		c.violation("the key %s made the order %s, %s; asked again: %d %s", o.wish.Key, o.ID, o.Status, a.status, a.body)
	default:
		c.mu.Lock()
		c.repeats++
		c.mu.Unlock()
	}
}

func (c *customers) cancel(ctx context.Context, id, key string) {
	a, err := c.insist(ctx, http.MethodPost, c.url+"/orders/"+id+"/cancel", nil, "Idempotency-Key", key)
	if err != nil {
		return
	}
	what := "asked for"
	switch {
	case a.status == http.StatusConflict && a.code == "order-completed":
		what = "too late to ask"
	case a.status >= 300:
		c.violation("cancel of %s: %d %s", id, a.status, a.body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancels[what]++
}

// watch follows an order to its end. The answer to a preferred wait tells whether it has ended: 200, not 202.
func (c *customers) watch(ctx context.Context, o *Order) {
	for ctx.Err() == nil {
		a, err := c.insist(ctx, http.MethodGet, c.url+"/orders/"+o.ID, nil, "Prefer", "wait=4")
		if err != nil {
			return
		}
		if a.status != http.StatusOK && a.status != http.StatusAccepted {
			c.violation("GET /orders/%s, which was accepted: %d %s", o.ID, a.status, a.body)
			return
		}
		o.see(a.page)
		if a.status == http.StatusOK {
			o.Ended = time.Now()
			if err := o.strange(); err != nil {
				c.violation("order %s: %v", o.ID, err)
			}
			return
		}
	}
}

func (o *Order) see(p page) {
	if n := len(o.Statuses); n == 0 || o.Statuses[n-1] != p.Status {
		o.Statuses = append(o.Statuses, p.Status)
	}
	o.Status = p.Status
	if p.Cause != nil {
		o.Cause = *p.Cause
	}
	if p.Refund != nil {
		o.Refund = *p.Refund
	}
}

// strange says what should not have been seen.
func (o *Order) strange() error {
	switch {
	case o.Status != "completed" && o.Status != "cancelled":
		return fmt.Errorf("it ended as %s", o.Status)
	case o.Status == "completed" && o.wish.doomed():
		return fmt.Errorf("it was completed, though it had %s, %s, %s", o.wish.SKU, o.wish.Token, o.wish.Address)
	case o.Refund == "pending":
		return errors.New("it ended without its refund")
	}
	return audit.Walk(o.Statuses)
}

// staff brings spice for winter now and then, so that it is sold out, and there again, many times.
func (c *customers) staff(ctx context.Context, stock string, seed uint64, every time.Duration, run string) {
	rng := rand.New(rand.NewPCG(seed, 101))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		_, _ = c.insist(ctx, http.MethodPost, stock+"/stock/spice", fmt.Appendf(nil, `{"amount":%d}`, 5*(2+rng.IntN(6))), "Idempotency-Key", fmt.Sprintf("%s-spice-%d", run, i))
	}
}
