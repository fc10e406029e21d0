package dead

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/pkg/rabbit"
)

// Headers of a message that was redriven. They stay on it, so that a second death is told from a first.
const (
	headerRedriven   = "redriven"
	headerRedrivenAt = "redriven_at"
	headerRedrivenBy = "redriven_by"
)

// Letter is one dead letter: a message that a service, or the broker, has set aside.
type Letter struct {
	Service string `json:"service"` // whose dead letter it is
	ID      string `json:"id"`      // the message ID; empty when it came without
	Type    string `json:"type"`
	Saga    string `json:"saga"`
	From    string `json:"from"` // the service that it says it is from
	Reason  string `json:"reason"`
	// Cause is the reason without what is only of this message: letters with the same cause are one group.
	Cause    string    `json:"cause"`
	Step     string    `json:"step,omitempty"` // the step whose budget was spent
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at,omitzero"` // when it was set aside
	// Redriven is how often it was sent back before.
	Redriven   int       `json:"redriven"`
	RedrivenAt time.Time `json:"redriven_at,omitzero"`
	RedrivenBy string    `json:"redriven_by,omitempty"`
	// Foreign says that it was not published by the service that it says it is from.
	Foreign bool `json:"foreign,omitempty"`
	Bytes   int  `json:"bytes"` // of the body
}

// read makes a letter of what lies in the dead letter queue of a service. Nothing on it can be relied on: it may be there
// because it is malformed.
func read(service string, d amqp.Delivery) Letter {
	l := Letter{
		Service: service, ID: d.MessageId, Type: d.Type, Saga: d.CorrelationId, From: d.AppId,
		Reason: text(d.Headers, rabbit.HeaderReason), Step: text(d.Headers, rabbit.HeaderStep), At: at(d.Headers, rabbit.HeaderDeadAt),
		Attempts: max(number(d.Headers, rabbit.HeaderAttempt), 1), Redriven: number(d.Headers, headerRedriven),
		RedrivenAt: at(d.Headers, headerRedrivenAt), RedrivenBy: text(d.Headers, headerRedrivenBy), Bytes: len(d.Body),
	}
	// What the broker sets aside it marks itself; a service strips that mark when it sets aside.
	if death, ok := lastDeath(d.Headers); ok {
		l.Reason, l.Step = "set aside by the broker: "+text(death, "reason"), ""
		if text(death, "reason") == "delivery_limit" {
			l.Reason += ", the service took it again and again and never finished with it"
		}
		l.At, _ = death["time"].(time.Time)
	}
	l.Reason = cmp.Or(l.Reason, "no reason is given")
	l.Cause = causeOf(l.Reason)
	exchange, _, user := first(d)
	l.Foreign = user != d.AppId && exchange != rabbit.RetryExchange(service)
	return l
}

// first tells how a message came to the service in the first place: dead-lettering and publishing again replace all three.
func first(d amqp.Delivery) (exchange, key, user string) {
	if d.Headers[rabbit.HeaderFirstExchange] != nil {
		return text(d.Headers, rabbit.HeaderFirstExchange), text(d.Headers, rabbit.HeaderFirstKey), text(d.Headers, rabbit.HeaderFirstUser)
	}
	if death, ok := lastDeath(d.Headers); ok {
		if keys, _ := death["routing-keys"].([]any); len(keys) > 0 {
			key, _ = keys[0].(string)
		}
		return text(death, "exchange"), key, d.UserId
	}
	return d.Exchange, d.RoutingKey, d.UserId
}

// lastDeath is the broker's own mark; the newest stands first.
func lastDeath(headers amqp.Table) (amqp.Table, bool) {
	deaths, _ := headers["x-death"].([]any)
	if len(deaths) == 0 {
		return nil, false
	}
	death, ok := deaths[0].(amqp.Table)
	return death, ok
}

func text(headers amqp.Table, name string) string {
	s, _ := headers[name].(string)
	return s
}

func number(headers amqp.Table, name string) int {
	switch n := headers[name].(type) {
	case int64:
		return int(n)
	case int32:
		return int(n)
	}
	return 0
}

func at(headers amqp.Table, name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, text(headers, name))
	return t
}

// What differs between messages that died of the same.
var (
	uuids  = regexp.MustCompile(`[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}`)
	places = regexp.MustCompile(`\(line \d+:\d+\)`)
	ports  = regexp.MustCompile(`([\d.]+|\[[0-9a-f:]+\]):\d+->`)
)

func causeOf(reason string) string {
	reason = uuids.ReplaceAllString(reason, "<id>")
	reason = places.ReplaceAllString(reason, "(line <n>)")
	return ports.ReplaceAllString(reason, "<from>->")
}

// Selection chooses among the dead letters. What is empty chooses all.
type Selection struct {
	Services []string
	IDs      []string
	// Cause is a part of the reason, whatever the case of its letters.
	Cause string
	// Limit is how many letters of each service are looked at, the oldest first. Default DefaultLimit.
	Limit int
}

// DefaultLimit is how many letters of each service are looked at.
const DefaultLimit = 1000

func (s Selection) chooses(l Letter) bool {
	cause := strings.ToLower(strings.TrimSuffix(s.Cause, "…")) // as a table shows a long one
	return (len(s.IDs) == 0 || slices.Contains(s.IDs, l.ID)) &&
		(strings.Contains(strings.ToLower(l.Reason), cause) || strings.Contains(strings.ToLower(l.Cause), cause))
}

// Group is the letters of one service that died of the same.
type Group struct {
	Service, Type, Step, Cause string
	Count, Redriven            int // Redriven is the most that one of them was
	Oldest, Newest             time.Time
}

// Groups puts together what died of the same, the largest group first.
func Groups(letters []Letter) []Group {
	var groups []Group
	for _, l := range letters {
		i := slices.IndexFunc(groups, func(g Group) bool {
			return g.Service == l.Service && g.Type == l.Type && g.Step == l.Step && g.Cause == l.Cause
		})
		if i < 0 {
			i = len(groups)
			groups = append(groups, Group{Service: l.Service, Type: l.Type, Step: l.Step, Cause: l.Cause, Oldest: l.At, Newest: l.At})
		}
		g := &groups[i]
		g.Count++
		g.Redriven = max(g.Redriven, l.Redriven)
		if l.At.Before(g.Oldest) {
			g.Oldest = l.At
		}
		if l.At.After(g.Newest) {
			g.Newest = l.At
		}
	}
	slices.SortStableFunc(groups, func(a, b Group) int { return b.Count - a.Count })
	return groups
}
