package delivery_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"hotchoc/delivery"
)

// theCourier answers as the test says and remembers what it was asked.
type theCourier struct {
	delivery.HTTPCourier
	status      int
	body        string
	asked       string // method, path and body of the latest request
	requests    atomic.Int64
	connections atomic.Int64
}

func courier(t *testing.T) *theCourier {
	c := &theCourier{}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		c.asked = strings.TrimSpace(r.Method + " " + r.URL.EscapedPath() + " " + string(body))
		if c.status == 0 { // lose the answer
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(c.status)
		io.WriteString(w, c.body)
	}))
	web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			c.connections.Add(1)
		}
	}
	web.Start()
	t.Cleanup(web.Close)
	c.HTTPCourier = delivery.NewCourier(web.URL + "/")
	return c
}

func (c *theCourier) says(status int, body string) { c.status, c.body = status, body }

func (c *theCourier) dispatch() (delivery.Dispatch, error) {
	return c.Dispatch(context.Background(), "o1/dispatch", "o1", "12 Mill Lane")
}

func (c *theCourier) handOver() (delivery.HandOver, error) {
	return c.HandOver(context.Background(), "o1/handover", "o1", "12 Mill Lane", "Ida")
}

func TestCourierDispatches(t *testing.T) {
	t.Parallel()
	c := courier(t)
	for _, it := range []struct {
		status int
		body   string
		want   delivery.Dispatch
	}{
		{200, `{"key":"k","status":"dispatched","courier":"Ida"}`, delivery.Dispatch{Courier: "Ida"}},
		{409, `{"key":"k","status":"refused","reason":"no_courier","detail":"too far"}`, delivery.Dispatch{Refused: "no_courier", Detail: "too far"}},
		{409, `{"key":"k","status":"voided"}`, delivery.Dispatch{Refused: "no_courier", Detail: "the dispatch had been called off before"}},
	} {
		c.says(it.status, it.body)
		got, err := c.dispatch()
		if err != nil || got != it.want {
			t.Errorf("%d %s: got %+v, %v, want %+v", it.status, it.body, got, err, it.want)
		}
		if want := `PUT /dispatches/o1%2Fdispatch {"order":"o1","address":"12 Mill Lane"}`; c.asked != want {
			t.Errorf("asked %s, want %s", c.asked, want)
		}
	}
}

func TestCourierHandsOver(t *testing.T) {
	t.Parallel()
	c := courier(t)
	for _, it := range []struct {
		status int
		body   string
		want   delivery.HandOver
	}{
		{200, `{"key":"k","status":"delivered"}`, delivery.HandOver{}},
		{409, `{"key":"k","status":"refused","reason":"nobody_home","detail":"rang twice"}`, delivery.HandOver{Refused: "nobody_home", Detail: "rang twice"}},
		{409, `{"key":"k","status":"voided"}`, delivery.HandOver{Refused: "no_courier", Detail: "the hand-over had been called off before"}},
	} {
		c.says(it.status, it.body)
		got, err := c.handOver()
		if err != nil || got != it.want {
			t.Errorf("%d %s: got %+v, %v, want %+v", it.status, it.body, got, err, it.want)
		}
		if want := `PUT /handovers/o1%2Fhandover {"order":"o1","address":"12 Mill Lane","courier":"Ida"}`; c.asked != want {
			t.Errorf("asked %s, want %s", c.asked, want)
		}
	}
}

func TestCourierVoids(t *testing.T) {
	t.Parallel()
	c := courier(t)
	c.says(200, `{"key":"k","status":"voided"}`)
	if err := c.Void(context.Background(), "k"); err != nil {
		t.Error(err)
	}
	if want := "POST /dispatches/k/void"; c.asked != want {
		t.Errorf("asked %s, want %s", c.asked, want)
	}
	if got, err := c.VoidHandOver(context.Background(), "k"); err != nil || got.Refused != "no_courier" || got.Detail == "" {
		t.Errorf("got %+v, %v, want a refusal", got, err)
	}
	if want := "POST /handovers/k/void"; c.asked != want {
		t.Errorf("asked %s, want %s", c.asked, want)
	}
	c.says(200, `{"key":"k","status":"delivered"}`)
	if got, err := c.VoidHandOver(context.Background(), "k"); err != nil || got.Refused != "" {
		t.Errorf("got %+v, %v, want delivered", got, err)
	}
}

// Whatever is not clearly an answer leaves the outcome unknown, and the error says what and why.
func TestCourierUnknownOutcomes(t *testing.T) {
	t.Parallel()
	c := courier(t)
	for _, it := range []struct {
		status int
		body   string
		why    string
	}{
		{503, `{"title":"Service Unavailable","status":503,"detail":"try again"}`, "503 Service Unavailable: try again"},
		{502, `<html>`, "502 Bad Gateway: no details"},
		{402, `{"status":"voided"}`, "402"},
		{200, `<html>`, "read the courier's answer 200 OK"},
		{200, `{}`, "makes no sense"},
		{409, `{"status":"refused"}`, "makes no sense"},
		{200, strings.Repeat(" ", 65<<10) + `{"status":"voided"}`, "longer than"},
	} {
		c.says(it.status, it.body)
		_, dispatch := c.dispatch()
		_, handOver := c.handOver()
		_, voidHandOver := c.VoidHandOver(context.Background(), "k")
		for what, err := range map[string]error{
			"dispatch o1/dispatch: ":  dispatch,
			"hand over o1/handover: ": handOver,
			"void dispatch k: ":       c.Void(context.Background(), "k"),
			"void hand-over k: ":      voidHandOver,
		} {
			if err == nil || !strings.Contains(err.Error(), it.why) || !strings.HasPrefix(err.Error(), what) {
				t.Errorf("%d %.40s: got %v, want %s%s", it.status, it.body, err, what, it.why)
			}
		}
	}
}

func TestCourierIsAskedOnceThoughTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	c := courier(t)
	c.says(200, `{"status":"delivered"}`)
	if _, err := c.handOver(); err != nil { // so that the next call uses a connection again
		t.Fatal(err)
	}
	c.says(0, "")
	if got, err := c.handOver(); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("got %+v, %v, want an error", got, err)
	}
	if n := c.requests.Load(); n != 2 {
		t.Errorf("%d requests, want 2: the attempts are the caller's to count", n)
	}
}

func TestCourierKeepsItsConnection(t *testing.T) {
	t.Parallel()
	c := courier(t)
	for _, status := range []int{200, 409, 503, 404} {
		c.says(status, `{"status":"refused","reason":"refused"}`+strings.Repeat(" ", 10_000))
		c.handOver()
	}
	if n := c.connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestCourierGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(held)
		<-r.Context().Done()
	}))
	defer web.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-held
		cancel()
	}()
	if _, err := delivery.NewCourier(web.URL).Dispatch(ctx, "k", "o1", "slow lane"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestCourierWithoutAPath(t *testing.T) {
	t.Parallel()
	c := courier(t)
	for _, key := range []string{"", ".", ".."} {
		if err := c.Void(context.Background(), key); err == nil {
			t.Errorf("%q is not a key", key)
		}
	}
	if err := delivery.NewCourier("no url at all\n").Void(context.Background(), "k"); err == nil {
		t.Error("no error without a URL")
	}
	if n := c.requests.Load(); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}
