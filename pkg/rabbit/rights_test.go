package rabbit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
)

// The exchanges that a broker has by itself. The first is the default exchange, which leads into every queue.
var brokersOwn = []string{"", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "amq.rabbitmq.trace"}

// TestEachUserMayDoToEachExchangeAndQueueWhatIsDeclared tries all users, exchanges and queues, and all rights.
func TestEachUserMayDoToEachExchangeAndQueueWhatIsDeclared(t *testing.T) {
	t.Parallel()
	flows := all()
	b := servers.NewBroker(t, flows...)
	exchanges := append(slices.Clone(brokersOwn), "none.events")
	queues := []string{"history", "none"}
	for _, f := range flows {
		exchanges = append(exchanges, f.Service+".events", f.Service+".retry")
		queues = append(queues, f.Service, f.Service+".dead")
		for _, delay := range flow.Rungs {
			queues = append(queues, rabbit.WaitQueue(f.Service, delay))
		}
	}
	declared := declaredRights(t, b, flows)

	for _, f := range flows {
		t.Run(f.Service, func(t *testing.T) {
			t.Parallel()
			user, own := f.Service, flow.OwnedBy(f.Service)[0]
			conn, err := amqp.Dial(b.As(user))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// check tries one thing. may is what is promised: each service writes to its own exchanges, reads its own queue
			// and its dead letters, and makes, deletes and binds nothing.
			check := func(right, kind, name string, may bool, try func(*amqp.Channel) error) {
				t.Helper()
				want := map[bool]int{true: 0, false: amqp.AccessRefused}[may]
				if got := replyCode(t, conn, try); got != want {
					t.Errorf("%s may %s %s %q: code %d, want %d", user, right, kind, name, got, want)
				}
				if declares := declared[user][right].MatchString(resource(name)); declares != may {
					t.Errorf("it is declared that %s may %s %s %q: %v, want %v", user, right, kind, name, declares, may)
				}
			}
			for _, x := range exchanges {
				check("configure", "exchange", x, false, func(c *amqp.Channel) error {
					return c.ExchangeDeclare(x, "topic", true, false, false, false, nil)
				})
				check("write", "exchange", x, x == user+".events" || x == user+".retry", func(c *amqp.Channel) error {
					key := own
					if x == user+".retry" || x == "" {
						key = user
					}
					return published(t, c, x, key, user)
				})
				// To read from an exchange is to bind to it. The other end is one that the user may write to.
				check("read", "exchange", x, false, func(c *amqp.Channel) error { return c.ExchangeBind(user+".retry", "#", x, false, nil) })
			}
			for _, q := range queues {
				check("configure", "queue", q, false, func(c *amqp.Channel) error {
					_, err := c.QueueDeclare(q, true, false, false, false, nil)
					return err
				})
				check("configure", "queue", q, false, func(c *amqp.Channel) error { _, err := c.QueueDelete(q, false, false, false); return err })
				check("write", "queue", q, false, func(c *amqp.Channel) error { return c.QueueBind(q, "#", user+".events", false, nil) })
				check("read", "queue", q, q == user || q == user+".dead", func(c *amqp.Channel) error { _, _, err := c.Get(q, false); return err })
			}
		})
	}
}

// TestNobodyPublishesUnderTheNameOfAnother tries all users with all names.
func TestNobodyPublishesUnderTheNameOfAnother(t *testing.T) {
	t.Parallel()
	flows := all()
	b := servers.NewBroker(t, flows...)
	names := []string{"", "guest", "nobody", "hotchoc"}
	for _, f := range flows {
		names = append(names, f.Service)
	}
	for _, f := range flows {
		conn, err := amqp.Dial(b.As(f.Service))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, name := range names {
			want := amqp.PreconditionFailed
			if name == f.Service || name == "" { // a message without a name is poison to whoever reads it
				want = 0
			}
			for x, key := range map[string]string{f.Service + ".events": flow.OwnedBy(f.Service)[0], f.Service + ".retry": f.Service} {
				if got := replyCode(t, conn, func(c *amqp.Channel) error { return published(t, c, x, key, name) }); got != want {
					t.Errorf("%s publishes to %s as %q: code %d, want %d", f.Service, x, name, got, want)
				}
			}
		}
	}
}

// declaredRights are the patterns that the definitions give each user: configure, write and read.
func declaredRights(t *testing.T, b *servers.Broker, flows []*flow.Flow) map[string]map[string]*regexp.Regexp {
	t.Helper()
	var d struct {
		Permissions []map[string]string
	}
	if err := json.Unmarshal(b.Definitions(t, flows...), &d); err != nil {
		t.Fatal(err)
	}
	rights := map[string]map[string]*regexp.Regexp{}
	for _, p := range d.Permissions {
		rights[p["user"]] = map[string]*regexp.Regexp{}
		for _, right := range []string{"configure", "write", "read"} {
			rights[p["user"]][right] = regexp.MustCompile(p[right])
		}
	}
	if len(rights) != len(flows) {
		t.Fatalf("%d users have rights", len(rights))
	}
	return rights
}

// resource is the name by which rights are given: the default exchange has one.
func resource(name string) string {
	if name == "" {
		return "amq.default"
	}
	return name
}

// replyCode tells by which code the broker refuses something; 0 when it does it.
func replyCode(t *testing.T, conn *amqp.Connection, try func(*amqp.Channel) error) int {
	t.Helper()
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

// published publishes an empty message and waits for the broker's word.
func published(t *testing.T, c *amqp.Channel, exchange, key, user string) error {
	t.Helper()
	gone := c.NotifyClose(make(chan *amqp.Error, 1))
	if err := c.Confirm(false); err != nil {
		return err
	}
	confirm, err := c.PublishWithDeferredConfirm(exchange, key, false, false, amqp.Publishing{UserId: user})
	if err != nil {
		return err
	}
	if ok, err := confirm.WaitContext(servers.Soon(t)); err != nil {
		return fmt.Errorf("no word of the broker: %w", err)
	} else if ok {
		return nil
	}
	if refusal := <-gone; refusal != nil {
		return refusal
	}
	return errors.New("not confirmed, and no word why")
}
