package rabbit_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
)

// barista is a flow with a user that no other test has: users are shared by all virtual hosts.
func barista(t *testing.T, b *servers.Broker) *flow.Flow {
	t.Helper()
	f := flow.New("barista_"+b.VHost, flow.NewView("seen", []proto.Message{&orderv1.OrderPlaced{}}, func(*counter, proto.Message, event.Envelope) {}))
	t.Cleanup(func() { b.Call(t, http.MethodDelete, "users/"+f.Service, nil, nil) })
	return f
}

func TestATopologyAsTheFlowsAskForItDoesNotDiffer(t *testing.T) {
	t.Parallel()
	flows := all()
	b := servers.NewBroker(t, flows...)
	if found := diff(t, b, flows...); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

func TestWhereNothingIsAllIsMissing(t *testing.T) {
	t.Parallel()
	b := servers.ReserveBroker(t)
	barista := barista(t, b)
	kinds := map[string]int{}
	for _, d := range diff(t, b, barista) {
		if kinds[d.Kind]++; d.Is != rabbit.Missing || d.Fix != "hotchoc topology apply" {
			t.Errorf("%+v", d)
		}
	}
	// Two exchanges; the queue, the dead letters, four wait queues and the history; each bound, and the queue to what it hears.
	if want := map[string]int{"exchange": 2, "queue": 7, "binding": 8, "user": 1, "permission": 1, "topic permission": 1}; !maps.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	b.Apply(t, barista) // so that there is a user to delete
}

func diff(t *testing.T, b *servers.Broker, flows ...*flow.Flow) []rabbit.Difference {
	t.Helper()
	passwords := map[string]string{}
	for _, f := range flows {
		passwords[f.Service] = servers.Password(f.Service)
	}
	found, err := rabbit.Diff(servers.Soon(t), b.ManagementURL, b.VHost, flows, passwords)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWhatSomebodyChangedIsToldWithTheCommandThatPutsItRight changes one thing after the other, and follows the advice.
func TestWhatSomebodyChangedIsToldWithTheCommandThatPutsItRight(t *testing.T) {
	t.Parallel()
	b := servers.ReserveBroker(t)
	barista := barista(t, b)
	// An order service that hears nobody.
	order := flow.New("order", flow.On("expire", flow.NewStream("order", func(*counter, proto.Message) {}), func(*counter, *orderv1.OrderDeadline) flow.Outcome { return flow.Nothing() }))
	flows := []*flow.Flow{order, barista}
	b.Apply(t, flows...)
	me := barista.Service
	channel := servers.Dial(t, b.URL)
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set := func(path string, in any) { t.Helper(); b.Call(t, http.MethodPut, path, in, nil) }
	remove := func(path string) { t.Helper(); b.Call(t, http.MethodDelete, path, nil, nil) }
	queue := func(name string, arguments amqp.Table) {
		t.Helper()
		_, err := channel.QueueDeclare(name, true, false, false, false, arguments)
		do(err)
	}
	eve := "eve_" + b.VHost
	set("users/"+eve, map[string]any{"password": "x", "tags": ""})
	t.Cleanup(func() { remove("users/" + eve) })
	boundToo := []string{} // since RabbitMQ 4, an exchange takes the rights on it with it
	if b.Version(t) >= "4" {
		boundToo = []string{"topic permission ME ME.events missing"}
	}

	for _, c := range []struct {
		given  string
		tamper func()
		want   []string // kind, name, is, changes
	}{
		{"a queue is gone", func() { remove("queues/" + b.VHost + "/" + me + ".dead") }, []string{
			"queue ME.dead missing", "binding ME.retry -ME.dead-> ME.dead missing"}},
		{"the history is gone", func() { remove("queues/" + b.VHost + "/history") }, []string{
			"queue history missing", "binding ME.events -#-> history missing", "binding order.events -#-> history missing"}},
		{"there is a queue more", func() { queue("audit's queue", amqp.Table{"x-queue-type": "quorum"}) },
			[]string{"queue audit's queue extra"}},
		{"a wait queue waits longer, and its limit is gone", func() {
			remove("queues/" + b.VHost + "/" + me + ".retry.1s")
			queue(me+".retry.1s", amqp.Table{
				"x-queue-type": "quorum", "x-message-ttl": 2000, "x-dead-letter-exchange": me + ".retry", "x-dead-letter-routing-key": me,
				"x-dead-letter-strategy": "at-least-once", "x-max-length": 5,
			})
			do(channel.QueueBind(me+".retry.1s", "1s", me+".retry", false, nil))
		}, []string{`queue ME.retry.1s changed: x-max-length is 5, not not set; x-message-ttl is 2000, not 1000; x-overflow is not set, not "reject-publish"`}},
		{"an exchange is gone", func() { remove("exchanges/" + b.VHost + "/" + me + ".events") }, append([]string{
			"exchange ME.events missing", "binding ME.events -#-> history missing"}, boundToo...)},
		{"there is an exchange more", func() { do(channel.ExchangeDeclare("coupons", "topic", true, false, false, false, nil)) },
			[]string{"exchange coupons extra"}},
		{"an exchange has another type", func() {
			remove("exchanges/" + b.VHost + "/" + me + ".events")
			do(channel.ExchangeDeclare(me+".events", "fanout", true, false, false, false, nil))
			do(channel.QueueBind("history", "#", me+".events", false, nil))
		}, append([]string{`exchange ME.events changed: type is "fanout", not "topic"`}, boundToo...)},
		{"a binding is gone", func() { do(channel.QueueUnbind(me, "order.placed", "order.events", nil)) },
			[]string{"binding order.events -order.placed-> ME missing"}},
		{"there is a binding more", func() { do(channel.QueueBind(me, "order.#", "order.events", false, nil)) },
			[]string{"binding order.events -order.#-> ME extra"}},
		{"an exchange leads to another", func() { do(channel.ExchangeBind(me+".events", "", "order.events", false, nil)) },
			[]string{"binding order.events --> ME.events (exchange) extra"}},
		{"a user is gone", func() { remove("users/" + me) }, []string{
			"user ME missing", "permission ME missing", "topic permission ME ME.events missing"}},
		{"a password is another one", func() { set("users/"+me, map[string]any{"password": "x", "tags": ""}) },
			[]string{`user ME changed: password is "another one", not "that of the service"`}},
		{"a user looks at the management pages", func() { set("users/"+me, map[string]any{"password": servers.Password(me), "tags": "monitoring"}) },
			[]string{`user ME changed: tags is "monitoring", not ""`}},
		{"a user may write more", func() {
			set("permissions/"+b.VHost+"/"+me, map[string]string{"configure": "^$", "write": ".*", "read": "^" + me + `(\.dead)?$`})
		}, []string{`permission ME changed: write is ".*", not "^ME\\.(events|retry)$"`}},
		{"a user may do nothing", func() { remove("permissions/" + b.VHost + "/" + me) },
			[]string{"permission ME missing"}},
		{"somebody else may", func() {
			set("permissions/"+b.VHost+"/"+eve, map[string]string{"configure": "", "write": "", "read": ".*"})
		}, []string{"permission EVE extra"}},
		{"a user may publish the events of others", func() {
			set("topic-permissions/"+b.VHost+"/order", map[string]string{"exchange": "order.events", "write": ".*", "read": "^$"})
		}, []string{`topic permission order order.events changed: write is ".*", not "^(order\\.cancel_requested|order\\.cancelled|order\\.completed|order\\.placed)$"`}},
		{"the bound on a user's events is gone", func() { remove("topic-permissions/" + b.VHost + "/order") },
			[]string{"topic permission order order.events missing"}},
		{"there is a policy", func() {
			set("policies/"+b.VHost+"/shorter", map[string]any{"pattern": ".*", "definition": map[string]any{"max-length": 10}, "apply-to": "queues"})
		}, []string{"policy shorter extra"}},
		{"there is an operator's policy", func() {
			set("operator-policies/"+b.VHost+"/shorter", map[string]any{"pattern": ".*", "definition": map[string]any{"max-length": 10}, "apply-to": "queues"})
		}, []string{"parameter operator_policy shorter extra"}},
	} {
		c.tamper()
		found := diff(t, b, flows...)
		var got []string
		for _, d := range found {
			line := d.Kind + " " + d.Name + " " + d.Is
			for i, change := range d.Changes {
				line += []string{": ", "; "}[min(i, 1)] + change.String()
			}
			got = append(got, strings.NewReplacer(me, "ME", eve, "EVE").Replace(line))
			if d.Why == "" {
				t.Errorf("%s: it does not say why: %+v", c.given, d)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.given, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		for _, d := range found {
			follow(t, b, d.Fix, flows...)
		}
		if left := diff(t, b, flows...); len(left) > 0 {
			t.Fatalf("%s: the advice does not put it right: %+v", c.given, left)
		}
	}
}

var deletion = regexp.MustCompile(`^curl --fail -u '([^']+)' -X DELETE '(.+)'$`)

// follow does what an advice says.
func follow(t *testing.T, b *servers.Broker, advice string, flows ...*flow.Flow) {
	t.Helper()
	admin, err := url.Parse(b.ManagementURL)
	if err != nil {
		t.Fatal(err)
	}
	for command := range strings.SplitSeq(advice, " && ") {
		delete := deletion.FindStringSubmatch(strings.ReplaceAll(command, `'\''`, "’"))
		switch {
		case command == "hotchoc topology apply":
			if err := rabbit.Apply(servers.Soon(t), b.ManagementURL, b.Definitions(t, flows...)); err != nil {
				t.Error(err)
			}
		case delete != nil && delete[1] == admin.User.Username():
			_, path, _ := strings.Cut(strings.ReplaceAll(delete[2], "’", "'"), "/api/")
			b.Call(t, http.MethodDelete, path, nil, nil)
		default:
			t.Errorf("not an advice: %s", command)
		}
	}
	password, _ := admin.User.Password()
	if strings.Contains(advice, password+"@") || strings.Contains(advice, fmt.Sprintf("%s:%s", admin.User.Username(), password)) {
		t.Errorf("it tells the password: %s", advice)
	}
}

func TestABrokerThatCannotBeLookedAtIsNoDifference(t *testing.T) {
	t.Parallel()
	b := servers.ReserveBroker(t)
	passwords := map[string]string{"pay": "geheim"}
	for what, target := range map[string]string{
		"nobody there":     "http://hotchoc:geheim@127.0.0.1:1",
		"a wrong password": "http://hotchoc:geheim@" + hostOf(b.ManagementURL),
		"a malformed URL":  "http://hotchoc:geheim@127.0.0.1:x",
	} {
		http.DefaultClient.CloseIdleConnections()
		found, err := rabbit.Diff(servers.Soon(t), target, b.VHost, []*flow.Flow{pay}, passwords)
		if err == nil || found != nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, %v", what, found, err)
		}
	}
}

// TestAServiceWithoutItsTopologyTellsWhatIsMissing takes one thing after the other away before a service starts, and gives
// it back.
func TestAServiceWithoutItsTopologyTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	const cure = "; hotchoc topology diff tells all that differs, hotchoc topology apply declares what is missing"
	lacks := func(what string) string { return "the topology is not what pay needs: " + what + cure }
	b := servers.NewBroker(t, order, pay)
	hidden := b.Version(t) >= "4" // what a user may neither write nor read, such as its wait queues
	for _, c := range []struct {
		gone []string // objects, as the management API calls them
		says string
	}{
		{[]string{"queues/VHOST/pay"}, lacks("queue pay is missing")},
		{[]string{"queues/VHOST/pay.dead"}, lacks("queue pay.dead is missing")},
		{[]string{"queues/VHOST/pay.retry.1s"}, lacks("queue pay.retry.1s is missing")},
		{[]string{"queues/VHOST/pay.retry.10s"}, lacks("queue pay.retry.10s is missing")},
		{[]string{"queues/VHOST/pay.retry.1m"}, lacks("queue pay.retry.1m is missing")},
		{[]string{"queues/VHOST/pay.retry.10m"}, lacks("queue pay.retry.10m is missing")},
		{[]string{"exchanges/VHOST/pay.events"}, lacks("exchange pay.events is missing")},
		{[]string{"exchanges/VHOST/pay.retry"}, lacks("exchange pay.retry is missing")},
		{[]string{"exchanges/VHOST/pay.events", "queues/VHOST/pay", "queues/VHOST/pay.dead"},
			lacks("exchange pay.events is missing, queue pay is missing, queue pay.dead is missing")},
		{[]string{"permissions/VHOST/pay"}, "no broker: connect to "},
	} {
		if hidden && strings.Contains(c.gone[0], ".retry.") {
			continue // topology diff alone sees it
		}
		for _, path := range c.gone {
			b.Call(t, http.MethodDelete, strings.Replace(path, "VHOST", b.VHost, 1), nil, nil)
		}
		refuses(t, b, c.says)
	}
	b.Call(t, http.MethodPut, "permissions/"+b.VHost+"/pay", map[string]string{"configure": "^$", "write": `^pay\.`, "read": "^$"}, nil)
	if hidden {
		refuses(t, b, lacks("queue pay is missing, or pay has no right to use it"))
	} else {
		refuses(t, b, "queue pay cannot be consumed: Exception (403)")
	}
}

// refuses starts pay, which must say this and not consume, and must come by itself when the topology is applied.
func refuses(t *testing.T, b *servers.Broker, says string) {
	t.Helper()
	s := start(t, b.As("pay"), pay, rabbit.Config{})
	defer s.stop()
	servers.Eventually(t, func() error {
		if err := s.consumer.Err(); err == nil || !strings.Contains(err.Error(), says) {
			return fmt.Errorf("it says %v, not %q", err, says)
		}
		return nil
	})
	if err := rabbit.Apply(servers.Soon(t), b.ManagementURL, b.Definitions(t, order, pay)); err != nil {
		t.Fatal(err)
	}
	s.consuming()
	if err := s.consumer.Err(); err != nil {
		t.Errorf("it consumes, and says %v", err)
	}
}
