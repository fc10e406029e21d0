package rabbit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/flow"
)

// cure is what to do about a topology that is not what it should be.
const cure = "hotchoc topology diff tells all that differs, hotchoc topology apply declares what is missing"

// checkTopology looks whether what a service needs of the topology is there: its exchanges, its queue, its wait queues and
// its dead letters. The error names all that is missing, and what to do.
//
// A service has no rights to see more. Bindings, arguments and rights are looked at by Diff, as administrator; and
// RabbitMQ 4 does not tell a service either whether its wait queues are there, which it may neither write nor read.
func checkTopology(conn *amqp.Connection, service string) error {
	var missing []string
	look := func(kind, name string, mayKnow bool, declare func(*amqp.Channel) error) error {
		channel, err := conn.Channel() // an own one: the broker closes it with the refusal
		if err != nil {
			return err
		}
		defer channel.Close()
		var refusal *amqp.Error
		switch err := declare(channel); {
		case err == nil:
		case errors.As(err, &refusal) && refusal.Code == amqp.NotFound:
			missing = append(missing, fmt.Sprintf("%s %s is missing", kind, name))
		case errors.As(err, &refusal) && refusal.Code == amqp.AccessRefused:
			if mayKnow {
				missing = append(missing, fmt.Sprintf("%s %s is missing, or %s has no right to use it", kind, name, service))
			}
		default:
			return err
		}
		return nil
	}
	exchange := func(name, kind string) error {
		return look("exchange", name, true, func(c *amqp.Channel) error {
			return c.ExchangeDeclarePassive(name, kind, true, false, false, false, nil)
		})
	}
	queue := func(name string, mayKnow bool) error {
		return look("queue", name, mayKnow, func(c *amqp.Channel) error {
			_, err := c.QueueDeclarePassive(name, true, false, false, false, nil)
			return err
		})
	}
	err := errors.Join(
		exchange(EventsExchange(service), "topic"),
		exchange(RetryExchange(service), "direct"),
		queue(service, true),
		queue(DeadQueue(service), true),
	)
	for _, delay := range flow.Rungs {
		err = errors.Join(err, queue(WaitQueue(service, delay), false))
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("the topology is not what %s needs: %s; %s", service, strings.Join(missing, ", "), cure)
	}
	return nil
}
