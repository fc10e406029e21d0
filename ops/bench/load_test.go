package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stand is a shop that takes orders and does nothing else.
type stand struct {
	ends    *ends
	placed  atomic.Int64
	refuses int64       // which order is refused; 0: none
	took    func(int64) // what else happens when the n-th has come, before it is answered
}

func (s *stand) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := s.placed.Add(1)
	if n == s.refuses {
		http.Error(w, "no such drink", http.StatusBadRequest)
		return
	}
	if s.took != nil {
		s.took(n)
	}
	w.Header().Set("Location", fmt.Sprintf("/orders/%d", n))
	w.WriteHeader(http.StatusAccepted)
}

// end lets an order end.
func (s *stand) end(n int64) { s.ends.hear(fmt.Sprint(n), "order.completed", time.Now()) }

// behindHTTP is a stand that customers reach by real connections.
func behindHTTP(t *testing.T) (*stand, *customers) {
	s := &stand{ends: newEnds()}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, newCustomers(web.URL+"/orders", s.ends, goesWell, 8)
}

// inProcess is one that they reach without, in a bubble with its own clock.
func inProcess() (*stand, *customers) {
	s := &stand{ends: newEnds()}
	c := newCustomers("http://stand/orders", s.ends, goesWell, 8)
	c.client.Transport = transport(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Result(), nil
	})
	return s, c
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestOrdersThatAreDueInAStallCountFromWhenTheyWereDue(t *testing.T) {
	const orders, every, first, last = 20, 2 * time.Millisecond, 5, 12
	s, c := behindHTTP(t)
	goesOn := make(chan struct{})
	var lifted time.Time
	s.took = func(n int64) { // nothing goes on from when the fifth order comes until the twelfth has come
		if n == last {
			lifted = time.Now()
			close(goesOn)
		}
		if n >= first {
			<-goesOn
		}
		s.end(n)
	}
	if err := c.open(t.Context(), func(n int) (time.Duration, bool) { return time.Duration(n) * every, n < orders }); err != nil {
		t.Fatal(err)
	}
	noted := c.finished()
	slices.SortFunc(noted, func(a, b order) int { return a.start.Compare(b.start) })
	if len(noted) != orders || len(c.ids) != orders {
		t.Fatalf("%d orders were noted and %d accepted, want %d", len(noted), len(c.ids), orders)
	}
	var stalled int
	var longest time.Duration
	for n, o := range noted {
		if after := o.start.Sub(noted[0].start); after != time.Duration(n)*every {
			t.Errorf("order %d counts from %v after the first, it was due after %v", n, after, time.Duration(n)*every)
		}
		if o.start.Before(lifted) && !o.end.Before(lifted) {
			stalled++
		}
		longest = max(longest, o.end.Sub(o.start))
	}
	// Those that waited were due one after the other, and all of them before the stall was over.
	if stalled <= last-first || longest < (last-first)*every {
		t.Errorf("%d orders waited for the end of the stall, at most %v: it is hidden", stalled, longest)
	}
}

func TestALoadThatFallsBehindDoesNotHideIt(t *testing.T) {
	s, c := behindHTTP(t)
	s.took = s.end
	if err := c.open(t.Context(), func(n int) (time.Duration, bool) { return -time.Hour, n < 3 }); err != nil {
		t.Fatal(err)
	}
	for _, o := range c.finished() {
		if took := o.end.Sub(o.start); took < time.Hour {
			t.Errorf("an order that was placed an hour too late took %v", took)
		}
	}
}

func TestAClosedLoopKeepsSoManyOrdersUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const inFlight, rounds = 3, 10
		s, c := inProcess()
		ctx, over := context.WithCancelCause(t.Context())
		defer over(nil)
		done := make(chan error, 1)
		go func() { done <- c.closed(ctx, inFlight) }()
		for n := int64(1); n <= rounds+inFlight; n++ {
			synctest.Wait()
			if under := s.placed.Load() - (n - 1); under != min(inFlight, rounds+inFlight-n+1) || len(done) > 0 {
				t.Errorf("after %d ends %d orders are under way, and the load is over: %v", n-1, under, len(done) > 0)
			}
			if n == rounds+1 {
				over(errOver)
				synctest.Wait()
			}
			time.Sleep(time.Second) // of the bubble
			s.end(n)
		}
		if err := <-done; err != nil || s.placed.Load() != rounds+inFlight {
			t.Errorf("%v, after %d orders", err, s.placed.Load())
		}
		for n, o := range c.finished() {
			if took, want := o.end.Sub(o.start), time.Duration(min(n+1, inFlight))*time.Second; took != want {
				t.Errorf("order %d took %v, want %v", n+1, took, want)
			}
		}
	})
}

func TestARefusedOrderEndsTheLoad(t *testing.T) {
	check := func(t *testing.T, err error) {
		if err == nil || !strings.Contains(err.Error(), "400 Bad Request no such drink") {
			t.Errorf("got %v, want what the shop said", err)
		}
	}
	t.Run("open", func(t *testing.T) {
		const many = 5000
		s, c := behindHTTP(t)
		s.refuses, s.took = 3, s.end
		check(t, c.open(t.Context(), func(n int) (time.Duration, bool) { return time.Duration(n) * time.Millisecond, n < many }))
		if placed := s.placed.Load(); placed < 3 || placed == many {
			t.Errorf("%d orders were placed", placed)
		}
	})
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // where to wait for the first order, which does not end, is a deadlock
			s, c := inProcess()
			s.refuses = 2
			check(t, c.closed(t.Context(), 2))
		})
	})
}

func TestALoadDoesNotWaitForRoomWhenTheTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := inProcess()
		ctx, over := context.WithCancelCause(t.Context())
		defer over(nil)
		done := make(chan error, 1)
		go func() { done <- c.open(ctx, atOnce(openMax+1)) }()
		synctest.Wait()
		if placed := s.placed.Load(); placed != openMax {
			t.Errorf("%d orders are under way, want %d", placed, openMax)
		}
		over(errOver)
		time.Sleep(endsWithin + time.Second) // of the bubble
		if len(done) == 0 {
			t.Error("the time is over, patience too, and the load still waits for room")
			s.end(1)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "orders have not ended") {
			t.Errorf("got %v", err)
		}
	})
}
