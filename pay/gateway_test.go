package pay_test

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

	"hotchoc/pay"
	"hotchoc/pkg/contract/shopv1"
)

// theGateway answers as the test says and remembers what it was asked.
type theGateway struct {
	pay.HTTPGateway
	status      int
	body        string
	asked       string // method, path and body of the latest request
	requests    atomic.Int64
	connections atomic.Int64
}

func gateway(t *testing.T) *theGateway {
	g := &theGateway{}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		g.asked = strings.TrimSpace(r.Method + " " + r.URL.EscapedPath() + " " + string(body))
		switch g.status {
		case 0: // lose the answer
			panic(http.ErrAbortHandler)
		case http.StatusTemporaryRedirect:
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(g.status)
		io.WriteString(w, g.body)
	}))
	web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			g.connections.Add(1)
		}
	}
	web.Start()
	t.Cleanup(web.Close)
	g.HTTPGateway = pay.NewGateway(web.URL + "/")
	return g
}

func (g *theGateway) says(status int, body string) { g.status, g.body = status, body }

func (g *theGateway) capture() (pay.Capture, error) {
	return g.Capture(context.Background(), "o1/charge", "o1", "tok_ok", &shopv1.Money{Amount: 900, Currency: "EUR"})
}

func TestGatewayCaptures(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, c := range []struct {
		status int
		body   string
		want   pay.Capture
	}{
		{200, `{"key":"k","status":"captured","capture_id":"cap_1","amount":900,"currency":"EUR"}`, pay.Capture{ID: "cap_1"}},
		{402, `{"key":"k","status":"refused","reason":"fraud","detail":"looks odd"}`, pay.Capture{Refused: "fraud", Detail: "looks odd"}},
		{409, `{"key":"k","status":"voided"}`, pay.Capture{Refused: "unavailable", Detail: "the capture had been called off before"}},
	} {
		g.says(c.status, c.body)
		got, err := g.capture()
		if err != nil || got != c.want {
			t.Errorf("%d %s: got %+v, %v, want %+v", c.status, c.body, got, err, c.want)
		}
		if want := `PUT /captures/o1%2Fcharge {"amount":900,"currency":"EUR","token":"tok_ok","order":"o1"}`; g.asked != want {
			t.Errorf("asked %s, want %s", g.asked, want)
		}
	}
}

func TestGatewayVoids(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	g.says(200, `{"key":"k","status":"voided","refund_id":"ref_2","amount":900,"currency":"EUR"}`)
	got, err := g.Void(context.Background(), "o1/charge")
	if err != nil || got.RefundID != "ref_2" || got.Amount.GetAmount() != 900 || got.Amount.GetCurrency() != "EUR" {
		t.Errorf("got %+v, %v", got, err)
	}
	if want := "POST /captures/o1%2Fcharge/void"; g.asked != want {
		t.Errorf("asked %s, want %s", g.asked, want)
	}

	g.says(200, `{"key":"k","status":"voided","refund_id":"","amount":0,"currency":""}`)
	got, err = g.Void(context.Background(), "o1/charge")
	if err != nil || got.RefundID != "" || got.Amount != nil {
		t.Errorf("got %+v, %v, want nothing given back", got, err)
	}
}

// Whatever is not clearly an answer leaves the outcome unknown, and the error says what and why.
func TestGatewayUnknownOutcomes(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, c := range []struct {
		status int
		body   string
		why    string
	}{
		{503, `{"title":"Service Unavailable","status":503,"detail":"try again"}`, "503 Service Unavailable: try again"},
		{502, `<html>`, "502 Bad Gateway: no details"},
		{422, `{"title":"x","status":422,"detail":"another amount"}`, "another amount"},
		{404, ``, "404"},
		{307, ``, "307"},
		{200, `<html>`, "read the gateway's answer 200 OK"},
		{200, ``, "read the gateway's answer 200 OK"},
		{200, `{}`, "makes no sense"},
		{200, `{"status":"captured"}`, "makes no sense"},
		{402, `{"status":"refused"}`, "makes no sense"},
		{200, `{"status":"voided","amount":900}`, "makes no sense"}, // fine for a capture, not for a void
		{200, strings.Repeat(" ", 65<<10) + `{"status":"voided","refund_id":"r"}`, "longer than"},
	} {
		g.says(c.status, c.body)
		if got, err := g.Void(context.Background(), "k"); err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "void capture k: ") {
			t.Errorf("%d %.40s: void got %+v, %v, want %q", c.status, c.body, got, err, c.why)
		}
		if strings.Contains(c.body, "voided") {
			continue
		}
		if got, err := g.capture(); err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "capture o1/charge: ") {
			t.Errorf("%d %.40s: capture got %+v, %v, want %q", c.status, c.body, got, err, c.why)
		}
	}
}

func TestGatewayIsAskedOnceThoughTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	g.says(200, `{"status":"captured","capture_id":"cap_1"}`)
	if _, err := g.capture(); err != nil { // so that the next call uses a connection again
		t.Fatal(err)
	}
	g.says(0, "")
	if got, err := g.capture(); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("got %+v, %v, want an error", got, err)
	}
	if n := g.requests.Load(); n != 2 {
		t.Errorf("%d requests, want 2: the attempts are the caller's to count", n)
	}
}

func TestGatewayKeepsItsConnection(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, status := range []int{200, 402, 409, 503, 404} {
		g.says(status, `{"status":"refused","reason":"declined"}`+strings.Repeat(" ", 10_000))
		g.capture()
	}
	if n := g.connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestGatewayGivesUpWithItsContext(t *testing.T) {
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
	_, err := pay.NewGateway(web.URL).Capture(ctx, "k", "o1", "tok_down", &shopv1.Money{Amount: 900, Currency: "EUR"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestGatewayWithoutAPath(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, key := range []string{"", ".", ".."} {
		if _, err := g.Void(context.Background(), key); err == nil {
			t.Errorf("%q is not a key", key)
		}
	}
	if _, err := pay.NewGateway("no url at all\n").Void(context.Background(), "k"); err == nil {
		t.Error("no error without a URL")
	}
	if n := g.requests.Load(); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}
