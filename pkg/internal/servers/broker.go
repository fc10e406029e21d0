package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

// Broker is a virtual host of one test.
type Broker struct {
	VHost string
	// URL is the way in, as administrator.
	URL string
	// ManagementURL is the server's, as administrator.
	ManagementURL string
}

// NewBroker makes a virtual host with the topology of flows. It goes when the test ends.
func NewBroker(t testing.TB, flows ...*flow.Flow) *Broker {
	t.Helper()
	b := ReserveBroker(t)
	b.Apply(t, flows...)
	return b
}

// ReserveBroker only gives a virtual host its name: nothing is there yet.
func ReserveBroker(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{VHost: unique(), ManagementURL: setting(t, "TEST_MANAGEMENT_URL")}
	u, err := url.Parse(setting(t, "TEST_AMQP_URL"))
	if err != nil {
		t.Fatalf("TEST_AMQP_URL: %v", err)
	}
	u.Path = "/" + b.VHost
	b.URL = u.String()
	return b
}

// Password is that of a service's user. Users are shared by all virtual hosts of a server, so it is the same in each.
func Password(service string) string { return service + "'s secret" }

// Apply makes the virtual host and what is missing of the topology of flows.
func (b *Broker) Apply(t testing.TB, flows ...*flow.Flow) {
	t.Helper()
	definitions := b.Definitions(t, flows...)
	err := rabbit.Apply(Soon(t), b.ManagementURL, definitions)
	for try := 1; err != nil && strings.Contains(err.Error(), "user_already_exists") && try < 10; try++ {
		// Another test makes the same users at the same time.
		err = rabbit.Apply(Soon(t), b.ManagementURL, definitions)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Call(t, http.MethodDelete, "vhosts/"+b.VHost, nil, nil) })
	u, err := url.Parse(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.Call(t, http.MethodPut, "permissions/"+b.VHost+"/"+u.User.Username(), map[string]string{"configure": ".*", "write": ".*", "read": ".*"}, nil)
}

// Definitions are the topology of flows in this virtual host, and the exchanges of the services that they hear without
// their being among them: RabbitMQ 4 imports nothing that binds a queue to an exchange that is not there.
func (b *Broker) Definitions(t testing.TB, flows ...*flow.Flow) []byte {
	t.Helper()
	passwords := map[string]string{}
	for _, f := range flows {
		passwords[f.Service] = Password(f.Service)
	}
	definitions, err := rabbit.Definitions(b.VHost, flows, passwords)
	if err != nil {
		t.Fatal(err)
	}
	var d map[string][]map[string]any
	if err := json.Unmarshal(definitions, &d); err != nil {
		t.Fatal(err)
	}
	declared := map[any]bool{}
	for _, e := range d["exchanges"] {
		declared[e["name"]] = true
	}
	for _, binding := range d["bindings"] {
		if source := binding["source"]; !declared[source] {
			declared[source] = true
			d["exchanges"] = append(d["exchanges"], map[string]any{"name": source, "vhost": b.VHost, "type": "topic", "durable": true, "auto_delete": false})
		}
	}
	if definitions, err = json.Marshal(d); err != nil {
		t.Fatal(err)
	}
	return definitions
}

// As is the way in for a service's user.
func (b *Broker) As(service string) string {
	u, err := url.Parse(b.URL)
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(service, Password(service))
	return u.String()
}

// Dial connects, as administrator or by the URL of As. The connection is closed when the test ends.
func Dial(t testing.TB, target string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

// Call calls the management API. in is sent and out is read as JSON; both may be nil.
func (b *Broker) Call(t testing.TB, method, path string, in, out any) {
	t.Helper()
	if err := b.call(method, path, in, out); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
}

func (b *Broker) call(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.ManagementURL+"/api/"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	return err
}

// Version is that of RabbitMQ, such as 3.10.8.
func (b *Broker) Version(t testing.TB) string {
	t.Helper()
	var about struct {
		Version string `json:"rabbitmq_version"`
	}
	b.Call(t, http.MethodGet, "overview", nil, &about)
	return about.Version
}

// Kill closes, on the side of the broker, every connection whose name contains this, and tells how many there were.
func (b *Broker) Kill(t testing.TB, name string) (killed int) {
	t.Helper()
	var connections []struct {
		Name     string `json:"name"`
		Provided string `json:"user_provided_name"`
	}
	b.Call(t, http.MethodGet, "vhosts/"+b.VHost+"/connections", nil, &connections)
	for _, c := range connections {
		// One that is gone in the meantime is a 404.
		if strings.Contains(c.Provided, name) && b.call(http.MethodDelete, "connections/"+url.PathEscape(c.Name), nil, nil) == nil {
			killed++
		}
	}
	return killed
}

// Ready is how many messages of a queue wait for a consumer; those in work are not counted.
func (b *Broker) Ready(t testing.TB, queue string) int {
	t.Helper()
	channel := Dial(t, b.URL)
	q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// Unbind takes a binding of a queue away.
func (b *Broker) Unbind(t testing.TB, exchange, key, queue string) {
	t.Helper()
	channel := Dial(t, b.URL)
	if err := channel.QueueUnbind(queue, key, exchange, nil); err != nil {
		t.Fatal(err)
	}
}

// Bind puts it back.
func (b *Broker) Bind(t testing.TB, exchange, key, queue string) {
	t.Helper()
	channel := Dial(t, b.URL)
	if err := channel.QueueBind(queue, key, exchange, false, nil); err != nil {
		t.Fatal(err)
	}
}

// Take waits until there are n messages in a queue, and takes them out of it.
func (b *Broker) Take(t testing.TB, queue string, n int) []amqp.Delivery {
	t.Helper()
	channel := Dial(t, b.URL)
	var taken []amqp.Delivery
	Eventually(t, func() error {
		for len(taken) < n {
			d, ok, err := channel.Get(queue, true)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return fmt.Errorf("%d of %d messages are in %s", len(taken), n, queue)
			}
			taken = append(taken, d)
		}
		return nil
	})
	return taken
}
