package saga_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"hotchoc/ops/saga"
	"hotchoc/pkg/event"
)

// settled waits until all that follows from an order is handled everywhere.
func settled(t *testing.T, id string) (s saga.Saga) {
	t.Helper()
	eventually(t, func() error {
		if s = show(t, id); len(s.Awaited) > 0 {
			return fmt.Errorf("awaited in %s: %+v", id, s.Awaited)
		}
		return nil
	})
	return s
}

func TestShowTellsWhatHappenedInEachKindOfSaga(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		wish     wish
		status   string
		payment  string
		cause    string
		events   []string // event by service/step
		barriers []string
		roots    []string
		attempts int
	}{
		{
			name: "completed", status: "completed", payment: "captured",
			events:   []string{"order.placed order/place", "payment.captured pay/charge", "stock.reserved make/reserve", "drink.made make/brew", "stock.consumed make/brew", "delivery.dispatched delivery/dispatch", "delivery.delivered delivery/dispatch", "order.completed order/complete"},
			barriers: []string{"order/place done", "pay/charge done", "make/reserve done", "make/brew done"},
		},
		{
			name: "brought by a courier", wish: wish{address: "12 Mill Lane"}, status: "completed", payment: "captured",
			events:   []string{"delivery.dispatched delivery/dispatch", "delivery.delivered delivery/hand-over"},
			barriers: []string{"make/brew done"},
		},
		{
			name: "a declined card", wish: wish{token: "tok_declined"}, status: "cancelled", payment: "failed", cause: "payment.failed: declined",
			events:   []string{"payment.failed pay/charge", "order.cancelled order/cancel"},
			barriers: []string{"order/place undone"},
		},
		{
			name: "out of stock", wish: wish{sku: "winter", quantity: 20}, status: "cancelled", payment: "refunded", cause: "make.failed: out_of_stock",
			events:   []string{"make.failed make/reserve", "payment.refunded pay/refund", "order.cancelled order/cancel"},
			barriers: []string{"order/place undone", "pay/charge undone"},
		},
		{
			name: "machine broken", wish: wish{sku: "lava"}, status: "cancelled", payment: "refunded", cause: "make.failed: machine_broken",
			events:   []string{"make.failed make/brew", "stock.released make/brew", "payment.refunded pay/refund"},
			barriers: []string{"order/place undone", "pay/charge undone"},
		},
		{
			name: "nobody home", wish: wish{address: "nowhere"}, status: "cancelled", payment: "refunded", cause: "delivery.failed: nobody_home",
			events:   []string{"delivery.failed delivery/hand-over", "drink.discarded make/discard", "payment.refunded pay/refund"},
			barriers: []string{"order/place undone", "pay/charge undone", "make/brew undone"},
		},
		{
			name: "no courier", wish: wish{address: "no-courier"}, status: "cancelled", payment: "refunded", cause: "delivery.failed: no_courier",
			events:   []string{"delivery.failed delivery/dispatch", "drink.discarded make/discard"},
			barriers: []string{"make/brew undone"},
		},
		{
			name: "a gateway that fails twice", wish: wish{token: "tok_flaky"}, status: "completed", payment: "captured", attempts: 2,
			events: []string{"payment.captured pay/charge"},
		},
		{
			name: "the deadline passed", wish: wish{token: "tok_slow", deadline: 1}, status: "cancelled", payment: "failed", cause: "make.failed: cancelled",
			events:   []string{"order.cancel_requested order/expire", "make.failed make/cancel"},
			barriers: []string{"order/place undone", "make/reserve suppressed"},
			roots:    []string{"order.deadline (timer)", "place (HTTP)"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := place(t, c.wish)
			if c.wish.token == "tok_slow" {
				if s := show(t, id); len(s.Timers) != 1 || s.Timers[0].ID != event.DerivedID(s.ID, "deadline") || s.Timers[0].Service != "order" || s.Timers[0].DueAt.Sub(s.Deadline).Abs() > time.Second {
					t.Errorf("timers %+v, deadline %v", s.Timers, s.Deadline)
				}
			}
			finish(t, id, c.status)
			s := settled(t, id)
			if s.Status != c.status || !s.Ended || s.Payment == nil || c.name != "the deadline passed" && string(s.Payment.Phase) != c.payment || s.Cause != c.cause || len(s.Timers) != 0 || len(s.Dead) != 0 || len(s.Attempts) != c.attempts {
				t.Errorf("got %+v with payment %+v", s, s.Payment)
			}
			var events, roots []string
			at := map[uuid.UUID]int{}
			for i, e := range s.Events {
				events = append(events, e.Type+" "+e.Service+"/"+e.Step)
				cause, known := at[e.Causation]
				switch {
				case e.Depth == 0:
					if !slices.Contains(roots, e.Cause) {
						roots = append(roots, e.Cause)
					}
				case !known || s.Events[cause].Depth != e.Depth-1:
					t.Errorf("%s stands at depth %d, but not below its cause %s", e.Type, e.Depth, e.Causation)
				}
				if len(e.Heard) == 0 && !slices.Contains([]string{"order.completed", "stock.consumed", "drink.discarded", "order.cancelled"}, e.Type) && e.Service != "menu" {
					t.Errorf("nobody has heard %s", e.Type)
				}
				at[e.ID] = i
			}
			for _, want := range c.events {
				if !slices.Contains(events, want) {
					t.Errorf("%s is not among %v", want, events)
				}
			}
			if c.roots == nil {
				c.roots = []string{"place (HTTP)"}
			}
			if slices.Sort(roots); !slices.Equal(roots, c.roots) {
				t.Errorf("it began with %v, want %v", roots, c.roots)
			}
			var barriers []string
			for _, b := range s.Barriers {
				barriers = append(barriers, b.Service+"/"+b.Step+" "+b.State)
			}
			for _, want := range c.barriers {
				if !slices.Contains(barriers, want) {
					t.Errorf("the barrier %s is not among %v", want, barriers)
				}
			}
			r := hotchoc(t, "saga", "show", id)
			if r.code != 0 || !strings.Contains(r.out, id+", "+c.status+" after ") {
				t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
			}
			t.Log("\n" + r.out)
		})
	}
}

func TestListShowsTheNewestOrders(t *testing.T) {
	t.Parallel()
	declined := place(t, wish{token: "tok_declined"})
	finish(t, declined, "cancelled")
	newest := place(t, wish{})
	finish(t, newest, "completed")
	has := func(args ...string) (ids []string) {
		t.Helper()
		for _, o := range read[[]saga.Order](t, append([]string{"saga", "list"}, args...)...) {
			ids = append(ids, o.ID.String())
		}
		return ids
	}
	all := has("--limit", "10000")
	if !slices.Contains(all, declined) || !slices.Contains(all, newest) || slices.Index(all, newest) > slices.Index(all, declined) {
		t.Errorf("got %v", all)
	}
	if ids := has("--status", "cancelled", "--since", "1h"); !slices.Contains(ids, declined) || slices.Contains(ids, newest) {
		t.Errorf("got %v", ids)
	}
	if ids := has("--since", "1ns"); slices.Contains(ids, newest) {
		t.Errorf("placed just now: %v", ids)
	}
	if ids := has("--limit", "1"); len(ids) != 1 {
		t.Errorf("got %v", ids)
	}
	r := hotchoc(t, "saga", "list", "--limit", "3")
	if r.code != 0 || strings.Count(r.out, "\n") != 4 && strings.Count(r.out, "\n") != 3 {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	t.Log("\n" + r.out)
}

func TestAnOverdueDeadlineIsStuck(t *testing.T) {
	ctx := context.Background()
	id := place(t, wish{token: "tok_slow", deadline: 1})
	if err := shop.Kill(ctx, "order"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		s := show(t, id)
		a, err := awaited(s, "order/expire")
		if err != nil {
			return err
		}
		if a.Place != saga.PlaceOutbox || a.Command != "start the service order: ./task up" || len(s.Timers) != 1 {
			return fmt.Errorf("got %+v", a)
		}
		return nil
	})
	// Nobody is older than an hour, but the deadline of this one has passed.
	r := hotchoc(t, "saga", "stuck", "--older", "1h")
	if r.code != 0 || !strings.Contains(r.out, id) || !strings.Contains(r.out, ", overdue") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	t.Log("\n" + r.out)
	if err := shop.Start(ctx, "order"); err != nil {
		t.Fatal(err)
	}
	finish(t, id, "cancelled")
	if s, err := stuck(t, id); err == nil {
		t.Errorf("still stuck: %+v", s)
	}
	settled(t, id)
}

func TestAServiceThatRunsButCannotConsumeIsNotToBeStarted(t *testing.T) {
	ctx := context.Background()
	if err := shop.Kill(ctx, "partners"); err != nil {
		t.Fatal(err)
	}
	id := place(t, wish{})
	eventually(t, func() error {
		s, err := stuck(t, id)
		if err != nil {
			return err
		}
		a, err := awaited(s, "pay/charge")
		if err == nil && !strings.HasPrefix(a.Command, "pay runs, but is not consuming") {
			err = fmt.Errorf("got %+v", a)
		}
		return err
	})
	t.Log("\n" + hotchoc(t, "saga", "stuck", "--older", "0s").out)
	if err := shop.Start(ctx, "partners"); err != nil {
		t.Fatal(err)
	}
	finish(t, id, "completed")
}
