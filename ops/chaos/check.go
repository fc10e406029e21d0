package chaos

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/audit"
	"hotchoc/ops/partners"
	"hotchoc/ops/stack"
	"hotchoc/pkg/rabbit"
)

// checker counts what only the databases, the broker and the gateway know, and lets the audit find out whether all is well.
type checker struct {
	stack *stack.Stack
	out   io.Writer
}

// counts are what there is to see at one moment.
type counts struct {
	emptyRollbacks int // steps that were barred before they had run
	hanging        int // steps that came after that, and did not run
	voids          int // keys that the gateway barred before anything was booked
	refunds        int
	dead           []string // message IDs of dead letters
}

func (c *checker) look(ctx context.Context) (n counts, err error) {
	var summary partners.Summary
	if err := getJSON(ctx, http.DefaultClient, c.stack.URL("partners")+"/summary", &summary); err != nil {
		return n, err
	}
	n.voids, n.refunds = int(summary.Gateway[partners.KindVoided].Count), int(summary.Gateway[partners.KindRefunded].Count)
	if n.dead, err = c.dead(ctx, nil); err != nil {
		return n, err
	}
	for _, barred := range []struct{ service, step string }{{"pay", "charge"}, {"make", "reserve"}} {
		var rollbacks, hanging int
		if err := c.query(ctx, barred.service, `SELECT count(DISTINCT (b.saga, b.step)), count(i.message_id)
			FROM barrier b LEFT JOIN inbox i USING (saga, step) WHERE b.state = 'suppressed' AND step = $1`, barred.step, &rollbacks, &hanging); err != nil {
			return n, fmt.Errorf("the database of %s: %w", barred.service, err)
		}
		n.emptyRollbacks += rollbacks
		n.hanging += hanging
	}
	return n, nil
}

// query reads one row, as the administrator.
func (c *checker) query(ctx context.Context, service, query, arg string, row ...any) error {
	u, err := url.Parse(c.stack.Database())
	if err != nil {
		return errors.New("the address of the database is malformed")
	}
	u.Path = "/" + service
	db, err := sql.Open("postgres", u.String())
	if err != nil {
		return err
	}
	defer db.Close()
	return db.QueryRowContext(ctx, query, arg).Scan(row...)
}

// dead lists the dead letters and leaves them where they are; but those that are to go are taken out.
func (c *checker) dead(ctx context.Context, gone []string) (ids []string, err error) {
	conn, err := amqp.Dial(c.stack.AMQP())
	if err != nil {
		return nil, err
	}
	defer conn.Close() // what was looked at goes back to its queue
	channel, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	for _, service := range stack.Services() {
		for ctx.Err() == nil {
			d, ok, err := channel.Get(rabbit.DeadQueue(service), false)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			if ids = append(ids, d.MessageId); slices.Contains(gone, d.MessageId) {
				if err := d.Ack(false); err != nil {
					return nil, err
				}
			}
		}
	}
	return ids, ctx.Err()
}

// audit waits for rest and looks at everything.
func (c *checker) audit(ctx context.Context, dead []string, orders []*Order) (audit.Report, error) {
	var accepted []string
	for _, o := range orders {
		accepted = append(accepted, o.ID)
	}
	return audit.Run(ctx, audit.Config{
		Database: c.stack.Database(), Management: c.stack.Management(), Partners: c.stack.URL("partners"),
		Wait: endsWithin, Poison: dead, Accepted: accepted, Progress: c.out,
	})
}

// getJSON reads an answer of 200.
func getJSON(ctx context.Context, client *http.Client, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL.Redacted(), resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
