package dead

import (
	"bytes"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func death(reason, exchange, key string) []any {
	return []any{amqp.Table{"reason": reason, "queue": "pay", "exchange": exchange, "routing-keys": []any{key}, "count": int64(1), "time": noon}}
}

func TestALetterIsReadHoweverItCame(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		from amqp.Delivery
		want Letter
	}{
		{
			"set aside by the service",
			amqp.Delivery{Exchange: "pay.retry", UserId: "pay", AppId: "order", MessageId: "m", Type: "order.placed", CorrelationId: "s", Body: []byte("{}"), Headers: amqp.Table{
				"attempt": int64(6), "dead_reason": "6 attempts failed", "dead_step": "charge", "dead_at": "2026-01-02T12:00:00Z",
				"first_exchange": "order.events", "first_key": "order.placed", "first_user": "order",
			}},
			Letter{Service: "pay", ID: "m", Type: "order.placed", Saga: "s", From: "order", Reason: "6 attempts failed", Cause: "6 attempts failed", Step: "charge", Attempts: 6, At: noon, Bytes: 2},
		},
		{
			"set aside by the broker, after it had been a dead letter before",
			amqp.Delivery{Exchange: "pay.retry", UserId: "order", AppId: "order", Headers: amqp.Table{
				"dead_reason": "long ago", "dead_step": "charge", "redriven": int64(2), "redriven_at": "2026-01-02T12:00:00Z", "redriven_by": "ada", "x-death": death("rejected", "pay.retry", "pay"),
			}},
			Letter{Service: "pay", From: "order", Reason: "set aside by the broker: rejected", Cause: "set aside by the broker: rejected", Attempts: 1, At: noon, Redriven: 2, RedrivenAt: noon, RedrivenBy: "ada"},
		},
		{
			"published by somebody else, and set aside by the broker",
			amqp.Delivery{Exchange: "pay.retry", UserId: "", AppId: "order", Headers: amqp.Table{"x-death": death("rejected", "order.events", "order.placed")}},
			Letter{Service: "pay", From: "order", Reason: "set aside by the broker: rejected", Cause: "set aside by the broker: rejected", Attempts: 1, At: noon, Foreign: true},
		},
		{
			"with nothing on it that makes sense",
			amqp.Delivery{Exchange: "pay.retry", Headers: amqp.Table{"attempt": "many", "dead_reason": int64(1), "dead_at": "noon", "redriven": []any{}, "x-death": "yes"}},
			Letter{Service: "pay", Reason: "no reason is given", Cause: "no reason is given", Attempts: 1},
		},
	} {
		if got := read("pay", c.from); got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestWhatGoesBackIsTheSameMessageWithANewBudgetAndAMark(t *testing.T) {
	t.Parallel()
	d := amqp.Delivery{
		Exchange: "pay.retry", RoutingKey: "pay.dead", UserId: "order", AppId: "order", MessageId: "m", Type: "order.placed", CorrelationId: "s", ContentType: "application/json",
		Timestamp: noon, Priority: 9, Expiration: "1000", ReplyTo: "me", Body: []byte("{}"),
		Headers: amqp.Table{
			"actor": "ada", "attempt": int64(6), "dead_reason": "r", "dead_step": "s", "dead_at": "a", "redriven": int64(1),
			"x-death": death("delivery_limit", "order.events", "order.placed"), "x-delivery-count": int64(4),
		},
	}
	m := back(d, "bob", noon)
	if m.MessageId != "m" || m.Type != "order.placed" || m.CorrelationId != "s" || m.AppId != "order" || m.ContentType != "application/json" || !m.Timestamp.Equal(noon) || string(m.Body) != "{}" ||
		m.DeliveryMode != amqp.Persistent || m.UserId != "" || m.Priority != 0 || m.Expiration != "" || m.ReplyTo != "" {
		t.Errorf("got %+v", m)
	}
	want := amqp.Table{
		"actor": "ada", "redriven": int64(2), "redriven_at": "2026-01-02T12:00:00Z", "redriven_by": "bob",
		"first_exchange": "order.events", "first_key": "order.placed", "first_user": "order",
	}
	if len(m.Headers) != len(want) {
		t.Errorf("got %v", m.Headers)
	}
	for k, v := range want {
		if m.Headers[k] != v {
			t.Errorf("%s is %v, want %v", k, m.Headers[k], v)
		}
	}
}

func TestWhatDiedOfTheSameIsOneGroupThatCanBeChosen(t *testing.T) {
	t.Parallel()
	var letters []Letter
	for i, reason := range []string{
		`6 attempts failed, the last one: ask under 01a1fb7d-ec2f-770e-914b-02a7048d8cf4/charge: read tcp 127.0.0.1:40001->127.0.0.1:8090: EOF`,
		`6 attempts failed, the last one: ask under 01a1fb7d-ec5d-7edb-a204-2b81fd043bcd/charge: read tcp 127.0.0.1:40002->127.0.0.1:8090: EOF`,
		"syntax error (line 1:13): " + strings.Repeat("long ", 50),
	} {
		letters = append(letters, read("pay", amqp.Delivery{Headers: amqp.Table{"dead_reason": reason, "dead_at": noon.Add(time.Duration(i) * time.Minute).Format(time.RFC3339)}}))
	}
	groups := Groups(letters)
	if len(groups) != 2 || groups[0].Count != 2 || !groups[0].Oldest.Equal(noon) || !groups[0].Newest.Equal(noon.Add(time.Minute)) {
		t.Errorf("got %+v", groups)
	}
	for _, l := range letters {
		for _, cause := range []string{l.Reason, l.Cause, Cut(l.Reason), "ATTEMPTS", ""} {
			if want := cause != "ATTEMPTS" || strings.Contains(l.Reason, "attempts"); (Selection{Cause: cause}).chooses(l) != want {
				t.Errorf("%q: chosen %v, want %v", cause, !want, want)
			}
		}
	}
}

func TestNothingOnALetterReachesTheTerminalAsItIs(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\a\r\n\ttwo\x00\u202e\xff"
	l := read("pay", amqp.Delivery{MessageId: evil, Type: evil, CorrelationId: evil, AppId: evil, Body: []byte(evil), Headers: amqp.Table{
		"dead_reason": evil, "dead_step": evil, "redriven": int64(1), "redriven_by": evil, evil: evil,
	}})
	var out bytes.Buffer
	Table(&out, []Letter{l}, true, noon)
	Table(&out, []Letter{l}, false, noon)
	(&Plan{Items: []Item{{Letter: l, To: "pay"}}}).Table(&out, true, noon)
	Opened{Letter: l, Headers: amqp.Table{evil: evil}, Body: evil}.Print(&out, noon)
	Opened{Letter: l, Body: `{"a":"` + "\u202e" + `"}`}.Print(&out, noon)
	for _, bad := range []string{"\x1b", "\a", "\r", "\t", "\x00", "\u202e", "\xff"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("%q is in %q", bad, out.String())
		}
	}
}
