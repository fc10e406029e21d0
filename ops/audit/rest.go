package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

// Limits of the questions to the broker and the partners.
const (
	askTimeout = 30 * time.Second
	poll       = 500 * time.Millisecond
	lettersMax = 10_000 // dead letters of one service that are looked at

	looksMax  = 20 // how often the dead letters are looked at until all are seen
	lookAgain = 100 * time.Millisecond
)

// sample is how much was on its way at one moment.
type sample struct {
	at          time.Time
	queued      map[string]int64 // messages by queue, where there are any; the dead letters apart
	dead        map[string]int64 // dead letters by service
	unpublished map[string]int64 // events in the outbox, by service
	overdue     map[string]int64 // timers that should have gone off, by service
	last        map[string]int64 // the last position of each log
}

// unrest says what keeps the shop from resting; before is the first sample of this rest, if there is one.
func (s sample) unrest(before *sample) (reasons []string) {
	for _, queue := range sorted(s.queued) {
		reasons = append(reasons, fmt.Sprintf("%d messages in the queue %s", s.queued[queue], queue))
	}
	for _, service := range sorted(s.unpublished) {
		reasons = append(reasons, fmt.Sprintf("%d events in the outbox of %s", s.unpublished[service], service))
	}
	for _, service := range sorted(s.overdue) {
		reasons = append(reasons, fmt.Sprintf("%d timers of %s are due", s.overdue[service], service))
	}
	for _, service := range sorted(s.last) {
		if before != nil && s.last[service] != before.last[service] {
			reasons = append(reasons, service+" writes events")
		}
	}
	return reasons
}

// settle waits for rest, as long as it may: two samples with nothing on its way, far enough apart for the broker to have
// counted anew, and no other between them. It returns the last one, or why there is no rest.
func (a *audit) settle(ctx context.Context) (*sample, []string, error) {
	if a.cfg.Running {
		return nil, []string{"not asked for"}, nil
	}
	if a.cfg.Management == "" {
		return nil, []string{"the broker was not named"}, nil
	}
	deadline := time.Now().Add(a.cfg.Wait)
	var first *sample
	told := ""
	tick := time.NewTicker(min(poll, a.cfg.Gap))
	defer tick.Stop()
	for {
		s, err := a.sample(ctx)
		var reasons []string
		if err == nil {
			reasons = s.unrest(first)
		} else {
			reasons = []string{err.Error()}
		}
		switch late := time.Now().After(deadline); {
		case len(reasons) == 0 && first != nil && s.at.Sub(first.at) >= a.cfg.Gap:
			return &s, nil, nil
		case len(reasons) == 0 && first == nil:
			first = &s
		case len(reasons) > 0 && late:
			if err == nil && a.cfg.Wait > 0 {
				a.blame(s)
			}
			return nil, reasons, err
		case len(reasons) > 0:
			first = nil
		}
		if now := strings.Join(reasons, ", "); now != told {
			a.say("%s", strings.TrimSuffix("waiting for rest: "+now, ": "))
			told = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// blame reports what a shop that should rest is still held up by.
func (a *audit) blame(s sample) {
	for _, queue := range sorted(s.queued) {
		a.report("Q5", "", uuid.Nil, "%d messages are in the queue %s after %v", s.queued[queue], queue, a.cfg.Wait)
	}
	for _, service := range sorted(s.unpublished) {
		a.report("Q4", service, uuid.Nil, "%d events are in the outbox, unpublished, after %v", s.unpublished[service], a.cfg.Wait)
	}
	for _, service := range sorted(s.overdue) {
		a.report("Q7", service, uuid.Nil, "%d timers are overdue after %v", s.overdue[service], a.cfg.Wait)
	}
}

// sinceThen tells whether the snapshots are still of the rest that was seen.
func (a *audit) sinceThen(calm sample) (reasons []string) {
	for _, d := range a.databases {
		if d.last != calm.last[d.service] {
			reasons = append(reasons, d.service+" wrote events when the audit began")
		}
	}
	return reasons
}

func (a *audit) sample(ctx context.Context) (sample, error) {
	s := sample{
		at: time.Now(), queued: map[string]int64{}, dead: map[string]int64{},
		unpublished: map[string]int64{}, overdue: map[string]int64{}, last: map[string]int64{},
	}
	// Databases first: what leaves an outbox now is in a queue later.
	for _, d := range a.databases {
		var unpublished, overdue, last int64
		err := d.pool.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE timer IS NULL), count(*) FILTER (WHERE timer IS NOT NULL AND due_at <= now()),
  (SELECT coalesce(max(position), 0) FROM event_log) FROM outbox`).Scan(&unpublished, &overdue, &last)
		if err != nil {
			return s, d.wrap(err)
		}
		s.last[d.service] = last
		if unpublished > 0 {
			s.unpublished[d.service] = unpublished
		}
		if overdue > 0 {
			s.overdue[d.service] = overdue
		}
	}
	var queues []struct {
		Name     string
		Messages *int64 // ready, unacknowledged and dead-lettered but not arrived; none before the first count
	}
	if err := a.askBroker(ctx, http.MethodGet, "/api/queues/"+url.PathEscape(a.cfg.VHost)+"?columns=name,messages", nil, &queues); err != nil {
		return s, err
	}
	counts := map[string]*int64{}
	for _, q := range queues {
		counts[q.Name] = q.Messages
	}
	for _, f := range a.rules.flows {
		names := []string{f.Service, rabbit.DeadQueue(f.Service)}
		for _, delay := range flow.Rungs {
			names = append(names, rabbit.WaitQueue(f.Service, delay))
		}
		for _, name := range names {
			n, there := counts[name]
			switch {
			case !there:
				return s, fmt.Errorf("the broker has no queue %s", name)
			case n == nil:
				return s, fmt.Errorf("the broker has not counted the messages of %s yet", name)
			case *n > 0 && name == rabbit.DeadQueue(f.Service):
				s.dead[f.Service] = *n
			case *n > 0:
				s.queued[name] = *n
			}
		}
	}
	return s, nil
}

// deadLetters holds the dead letters against the poison that was injected.
func (a *audit) deadLetters(ctx context.Context, calm sample) error {
	poison, missing := map[string]bool{}, map[string]bool{}
	for _, id := range a.cfg.Poison {
		poison[id], missing[id] = true, true
	}
	for _, f := range a.rules.flows {
		if calm.dead[f.Service] == 0 {
			continue
		}
		queue := rabbit.DeadQueue(f.Service)
		type letter struct {
			Properties struct {
				MessageID     string `json:"message_id"`
				CorrelationID string `json:"correlation_id"`
				Type          string
				Headers       map[string]any
			}
		}
		var letters []letter
		// A look, after which all of them are back in the queue, a moment later: who has just looked may miss some.
		all := min(calm.dead[f.Service], lettersMax)
		question := map[string]any{"count": all, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 1}
		for look := 1; ; look++ {
			letters = nil
			if err := a.askBroker(ctx, http.MethodPost, "/api/queues/"+url.PathEscape(a.cfg.VHost)+"/"+url.PathEscape(queue)+"/get", question, &letters); err != nil {
				return err
			}
			if int64(len(letters)) >= int64(all) || look == looksMax {
				break
			}
			select {
			case <-time.After(lookAgain):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		a.looked(int64(len(letters)), "Q5")
		for _, l := range letters {
			if poison[l.Properties.MessageID] {
				delete(missing, l.Properties.MessageID)
				continue
			}
			a.report("Q5", f.Service, id(l.Properties.CorrelationID), "%s %s is a dead letter: %v", l.Properties.Type, l.Properties.MessageID, l.Properties.Headers["dead_reason"])
		}
		if n := calm.dead[f.Service]; n > int64(len(letters)) {
			a.report("Q5", f.Service, uuid.Nil, "%d dead letters, of which only %d were looked at", n, len(letters))
		}
	}
	for _, id := range sorted(missing) {
		a.report("Q5", "", uuid.Nil, "the poison %s is not among the dead letters", id)
	}
	a.looked(int64(len(a.rules.flows)*(len(flow.Rungs)+2)), "Q5")
	return nil
}

// askBroker asks the management API.
func (a *audit) askBroker(ctx context.Context, method, path string, question, answer any) error {
	var body []byte
	if question != nil {
		var err error
		if body, err = json.Marshal(question); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(a.cfg.Management, "/")+path, bytes.NewReader(body))
	if err != nil {
		return errors.New("the management URL is malformed")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		says, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("broker: %s %s: %s %s", method, path, resp.Status, bytes.TrimSpace(says))
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("broker: %s %s: %w", method, path, err)
	}
	return nil
}
