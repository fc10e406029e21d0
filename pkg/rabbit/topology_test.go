package rabbit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
)

// view is a flow that only listens.
func view(service string, hears ...proto.Message) *flow.Flow {
	return flow.New(service, flow.NewView(service+"_view", hears, func(*counter, proto.Message, event.Envelope) {}))
}

// all are flows of all five services.
func all() []*flow.Flow {
	return []*flow.Flow{order, pay, view("menu", &makev1.StockDepleted{}), view("make", &payv1.PaymentCaptured{}, &menuv1.ItemAdded{}), view("delivery", &makev1.DrinkMade{})}
}

type thing map[string]any

// list reads objects by the management API, by a name made of some of their fields.
func list(t *testing.T, b *servers.Broker, path string, name func(thing) string) map[string]thing {
	t.Helper()
	var things []thing
	b.Call(t, http.MethodGet, path, nil, &things)
	byName := map[string]thing{}
	for _, one := range things {
		byName[name(one)] = one
	}
	return byName
}

func named(one thing) string { return one["name"].(string) }

func same(t *testing.T, what string, got any, want any) {
	t.Helper()
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("%s: got %s, want %s", what, a, b)
	}
}

func TestTheTopologyIsImportedAgainAndAgain(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, order, pay)
	read := func() (objects []any) {
		bindings := list(t, b, "bindings/"+b.VHost, func(o thing) string { return fmt.Sprint(o["source"], o["routing_key"], o["destination"]) })
		for _, o := range list(t, b, "queues/"+b.VHost, named) {
			objects = append(objects, fmt.Sprint(o["name"], o["arguments"], o["durable"]))
		}
		for name := range bindings {
			objects = append(objects, name)
		}
		slices.SortFunc(objects, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		return objects
	}
	before := read()
	place(t, b, 3)
	for range 2 {
		if err := rabbit.Apply(t.Context(), b.ManagementURL, b.Definitions(t, order, pay)); err != nil {
			t.Fatal(err)
		}
	}
	if after := read(); !reflect.DeepEqual(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
	// What was in the queues still is, and a user's password is what it was.
	if got := b.Take(t, "pay", 3); len(got) != 3 {
		t.Errorf("%d messages", len(got))
	}
	place(t, b, 1)
}

func TestTheTopologyIsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	flows := all()
	b := servers.NewBroker(t, flows...)
	exchanges := list(t, b, "exchanges/"+b.VHost, named)
	queues := list(t, b, "queues/"+b.VHost, named)
	bindings := list(t, b, "bindings/"+b.VHost, func(o thing) string {
		return fmt.Sprintf("%s -%s-> %s", o["source"], o["routing_key"], o["destination"])
	})
	queue := func(name string, arguments thing) {
		q := queues[name]
		delete(queues, name)
		same(t, name, q["arguments"], arguments)
		if q["durable"] != true || q["auto_delete"] != false || q["exclusive"] != false {
			t.Errorf("%s is %v", name, q)
		}
		delete(bindings, " -"+name+"-> "+name) // that of the default exchange
	}
	bound := func(source, key, queue string) {
		name := fmt.Sprintf("%s -%s-> %s", source, key, queue)
		if bindings[name] == nil {
			t.Errorf("there is no %s", name)
		}
		delete(bindings, name)
	}
	for _, f := range flows {
		s := f.Service
		for name, kind := range map[string]string{s + ".events": "topic", s + ".retry": "direct"} {
			e := exchanges[name]
			delete(exchanges, name)
			if e["type"] != kind || e["durable"] != true || e["auto_delete"] != false || e["internal"] != false || len(e["arguments"].(map[string]any)) != 0 {
				t.Errorf("%s is %v", name, e)
			}
		}
		dead := thing{"x-dead-letter-exchange": s + ".retry", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", "x-queue-type": "quorum"}
		with := func(more thing) thing {
			arguments := thing{}
			for k, v := range dead {
				arguments[k] = v
			}
			for k, v := range more {
				arguments[k] = v
			}
			return arguments
		}
		queue(s, with(thing{"x-dead-letter-routing-key": s + ".dead", "x-delivery-limit": 200}))
		bound(s+".retry", s, s)
		for rung, ms := range map[string]int{"1s": 1000, "10s": 10_000, "1m": 60_000, "10m": 600_000} {
			queue(s+".retry."+rung, with(thing{"x-dead-letter-routing-key": s, "x-message-ttl": ms}))
			bound(s+".retry", rung, s+".retry."+rung)
		}
		queue(s+".dead", thing{"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 1_000_000})
		bound(s+".retry", s+".dead", s+".dead")
		bound(s+".events", "#", "history")
		for _, typ := range f.Hears() {
			owner, _ := flow.Owner(typ)
			bound(owner+".events", typ, s)
		}
	}
	queue("history", thing{"x-queue-type": "stream", "x-max-age": "30D", "x-max-length-bytes": 2 << 30, "x-stream-max-segment-size-bytes": 50 << 20})
	for name := range exchanges {
		if name != "" && !strings.HasPrefix(name, "amq.") {
			t.Errorf("there is also an exchange %s", name)
		}
	}
	if len(queues)+len(bindings) != 0 {
		t.Errorf("there are also queues %v and bindings %v", queues, bindings)
	}
}

func TestADelayHasItsWaitQueue(t *testing.T) {
	t.Parallel()
	for _, d := range flow.Rungs {
		if name := rabbit.WaitQueue("pay", d); !slices.Contains([]string{"pay.retry.1s", "pay.retry.10s", "pay.retry.1m", "pay.retry.10m"}, name) {
			t.Errorf("%v waits in %s", d, name)
		}
	}
}

// refused tells by which reply code a publishing is refused; 0 when it is taken.
func refused(t *testing.T, target, exchange, key, user string) int {
	t.Helper()
	conn, err := amqp.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	gone := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirm, err := channel.PublishWithDeferredConfirm(exchange, key, false, false, amqp.Publishing{UserId: user})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := confirm.WaitContext(servers.Soon(t)); ok || err != nil {
		return 0
	}
	return (<-gone).Code
}

func TestAServiceMayPublishOnlyItsOwnEventsUnderItsOwnName(t *testing.T) {
	t.Parallel()
	flows := all()
	b := servers.NewBroker(t, flows...)
	for _, f := range flows {
		user := f.Service
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			check := func(exchange, key, name string, want int) {
				t.Helper()
				if got := refused(t, b.As(user), exchange, key, name); got != want {
					t.Errorf("%s publishes to %q by %q as %q: code %d, want %d", user, exchange, key, name, got, want)
				}
			}
			own := flow.OwnedBy(user)
			if len(own) == 0 {
				t.Fatal("it owns no events")
			}
			for _, typ := range own {
				check(user+".events", typ, user, 0)
			}
			check(user+".events", own[0], "", 0)
			check(user+".retry", user, user, 0)
			check(user+".retry", "1s", user, 0)
			check(user+".retry", user+".dead", user, 0)

			check(user+".events", own[0], "somebody", 406)
			check(user+".events", own[0]+".more", user, 403)
			check(user+".events", "", user, 403)
			check("", user, user, 403)
			check("amq.topic", own[0], user, 403)
			check("amq.direct", user, user, 403)
			check("none.events", own[0], user, 403)
			for _, other := range flows {
				if other.Service == user {
					continue
				}
				foreign := flow.OwnedBy(other.Service)[0]
				check(user+".events", own[0], other.Service, 406)
				check(user+".events", foreign, user, 403)
				check(other.Service+".events", foreign, user, 403)
				check(other.Service+".events", own[0], user, 403)
				check(other.Service+".retry", other.Service, user, 403)
				check("", other.Service, user, 403)
			}
		})
	}
}

func TestAServiceMayReadOnlyItsOwnQueuesAndDeclareNothing(t *testing.T) {
	t.Parallel()
	flows := []*flow.Flow{order, pay}
	b := servers.NewBroker(t, flows...)
	conn, err := amqp.Dial(b.As("pay"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	code := func(try func(*amqp.Channel) error) int {
		channel, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		defer channel.Close()
		var refusal *amqp.Error
		if err := try(channel); errors.As(err, &refusal) {
			return refusal.Code
		} else if err != nil {
			t.Fatal(err)
		}
		return 0
	}
	for what, c := range map[string]struct {
		try  func(*amqp.Channel) error
		want int
	}{
		"get own":            {func(c *amqp.Channel) error { _, _, err := c.Get("pay", true); return err }, 0},
		"get own dead":       {func(c *amqp.Channel) error { _, _, err := c.Get("pay.dead", true); return err }, 0},
		"get own wait queue": {func(c *amqp.Channel) error { _, _, err := c.Get("pay.retry.1s", true); return err }, 403},
		"get another's":      {func(c *amqp.Channel) error { _, _, err := c.Get("order", true); return err }, 403},
		"get another's dead": {func(c *amqp.Channel) error { _, _, err := c.Get("order.dead", true); return err }, 403},
		"consume the history": {func(c *amqp.Channel) error {
			_, err := c.Consume("history", "", false, false, false, false, nil)
			return err
		}, 403},
		"purge another's": {func(c *amqp.Channel) error { _, err := c.QueuePurge("order", false); return err }, 403},
		"declare a queue": {func(c *amqp.Channel) error {
			_, err := c.QueueDeclare("pay.mine", true, false, false, false, nil)
			return err
		}, 403},
		"declare its queue": {func(c *amqp.Channel) error {
			_, err := c.QueueDeclare("pay", true, false, false, false, nil)
			return err
		}, 403},
		"declare an exchange": {func(c *amqp.Channel) error {
			return c.ExchangeDeclare("pay.mine", "topic", true, false, false, false, nil)
		}, 403},
		"bind its queue":      {func(c *amqp.Channel) error { return c.QueueBind("pay", "#", "order.events", false, nil) }, 403},
		"unbind its queue":    {func(c *amqp.Channel) error { return c.QueueUnbind("pay", "order.placed", "order.events", nil) }, 403},
		"delete its queue":    {func(c *amqp.Channel) error { _, err := c.QueueDelete("pay", false, false, false); return err }, 403},
		"delete its exchange": {func(c *amqp.Channel) error { return c.ExchangeDelete("pay.events", false, false) }, 403},
	} {
		if got := code(c.try); got != c.want {
			t.Errorf("pay may %s: code %d, want %d", what, got, c.want)
		}
	}
}

func TestAServiceMayNotUseTheManagementAPI(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, pay)
	resp, err := http.Get(strings.Replace(b.ManagementURL, "//", "//pay:pay%27s%20secret@", 1) + "/api/overview")
	if err == nil {
		defer resp.Body.Close()
	}
	if err == nil && resp.StatusCode == http.StatusOK {
		t.Error("pay may look at the management API")
	}
}

func TestWhatIsWrongWithAnApplyIsSaidWithoutThePassword(t *testing.T) {
	t.Parallel()
	b := servers.ReserveBroker(t)
	good := b.Definitions(t, pay)
	for what, c := range map[string]struct {
		target      string
		definitions []byte
		says        string
	}{
		"a wrong password":   {"http://hotchoc:geheim@" + hostOf(b.ManagementURL), good, "401"},
		"nobody there":       {"http://hotchoc:geheim@127.0.0.1:1", good, "refused"},
		"a malformed URL":    {"http://hotchoc:geheim@127.0.0.1:x", good, "malformed"},
		"wrong definitions":  {b.ManagementURL, []byte("{"), "400"},
		"a path that is not": {b.ManagementURL + "/none", good, "40"},
	} {
		http.DefaultClient.CloseIdleConnections() // the broker closes one that it has refused, and says so late
		err := rabbit.Apply(t.Context(), c.target, c.definitions)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "hotchoc:hotchoc") {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rabbit.Apply(ctx, b.ManagementURL, good); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := rabbit.Definitions("/", []*flow.Flow{pay}, nil); err == nil || !strings.Contains(err.Error(), "no password") {
		t.Errorf("without a password: %v", err)
	}
}

func hostOf(target string) string { return target[strings.Index(target, "@")+1:] }
