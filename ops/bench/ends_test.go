package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestAnOrderHasEnded(t *testing.T) {
	const completed, cancelled, failed, refunded = "order.completed", "order.cancelled", "payment.failed", "payment.refunded"
	for name, c := range map[string]struct {
		heard []string
		ended bool
	}{
		"completed":                   {[]string{completed}, true},
		"cancelled and not paid":      {[]string{cancelled, failed}, true},
		"not paid and cancelled":      {[]string{failed, cancelled}, true},
		"cancelled and paid back":     {[]string{cancelled, refunded}, true},
		"paid back and cancelled":     {[]string{refunded, cancelled}, true},
		"cancelled twice is no end":   {[]string{cancelled, cancelled}, false},
		"paid back alone is no end":   {[]string{refunded}, false},
		"not paid twice is no end":    {[]string{failed, failed}, false},
		"nothing heard of, is no end": {nil, false},
	} {
		for answer := range len(c.heard) + 1 { // the answer to the order comes after so many events
			e := newEnds()
			var ends []time.Time
			var last time.Time
			for n := range len(c.heard) + 1 {
				if n == answer {
					e.expect("mine", func(at time.Time) { ends = append(ends, at) })
				}
				if n < len(c.heard) {
					last = time.Unix(int64(n+1), 0)
					e.hear("mine", c.heard[n], last)
					e.hear("another", completed, last.Add(time.Hour)) // whose answer has not come
				}
			}
			if c.ended && (len(ends) != 1 || !ends[0].Equal(last) || e.open() != 0) {
				t.Errorf("%s, answered after %d: ended at %v, want once, at %v; %d open", name, answer, ends, last, e.open())
			}
			if _, kept := e.heard["mine"]; c.ended && kept {
				t.Errorf("%s, answered after %d: it is not forgotten", name, answer)
			}
			if !c.ended && (len(ends) > 0 || e.open() != 1) {
				t.Errorf("%s, answered after %d: ended at %v, %d open", name, answer, ends, e.open())
			}
		}
	}
}

func TestDrainedWaitsUntilNoneIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in a bubble with its own clock
		e, begin := newEnds(), time.Now()
		if err := e.drained(t.Context(), time.Minute); err != nil || time.Since(begin) != 0 {
			t.Errorf("none was open: %v after %v", err, time.Since(begin))
		}
		for _, id := range []string{"a", "b", "c"} {
			e.expect(id, func(time.Time) {})
		}
		e.hear("a", "order.completed", time.Now())
		if err := e.drained(t.Context(), time.Minute); err == nil || err.Error() != "2 orders have not ended after 1m0s" || time.Since(begin) != time.Minute {
			t.Errorf("two were open: %v after %v", err, time.Since(begin))
		}
		time.AfterFunc(30*time.Second, func() {
			e.hear("b", "order.completed", time.Now())
			e.hear("c", "order.completed", time.Now())
		})
		if err := e.drained(t.Context(), time.Minute); err != nil || time.Since(begin) < 90*time.Second {
			t.Errorf("they ended: %v after %v", err, time.Since(begin))
		}
	})
}

func TestDrainedSaysWhyItDoesNotWaitLonger(t *testing.T) {
	open := func() *ends {
		e := newEnds()
		e.gone = make(chan *amqp.Error, 1)
		e.expect("a", func(time.Time) {})
		return e
	}
	t.Run("the broker ended it", func(t *testing.T) {
		e := open()
		e.gone <- &amqp.Error{Code: amqp.ConnectionForced, Reason: "shutdown"}
		if err := e.drained(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), "the broker ended the hearing") || !strings.Contains(err.Error(), "shutdown") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("it is closed, or ended before", func(t *testing.T) {
		e := open()
		close(e.gone)
		err := e.drained(t.Context(), time.Hour)
		defer func() {
			if cannot := recover(); cannot != nil {
				t.Errorf("the error cannot be written: %v", cannot)
			}
		}()
		if err == nil || !strings.Contains(err.Error(), "ended the hearing") {
			t.Error("there is no error that says so")
		}
	})
	t.Run("it was interrupted", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		if err := open().drained(ctx, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("got %q, but no hour has passed", err)
		}
	})
}
