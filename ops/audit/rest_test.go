package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hotchoc/ops/audit"
)

// counted waits until the management API has counted the messages of a queue.
func counted(t *testing.T, queue string, want int) {
	t.Helper()
	if err := eventually(20*time.Second, func() error {
		var q struct{ Messages int }
		if err := call("GET", shop.Management()+"/api/queues/%2F/"+queue, "", &q); err != nil {
			return err
		}
		if q.Messages != want {
			return fmt.Errorf("%d messages in %s, want %d", q.Messages, queue, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, want int, env []string, args ...string) answer {
	t.Helper()
	a, err := hotchoc(env, append([]string{"audit", "--gap", "1ms"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if a.code != want {
		t.Errorf("audit %v: exit code %d, want %d\n%s%s", args, a.code, want, a.err, a.out)
	}
	return a
}

func TestWhatKeepsAShopFromRestingIsBlamed(t *testing.T) {
	b := newBench(t)
	b.cfg.Wait = 10 * time.Millisecond
	b.exec("order", `INSERT INTO outbox (message_id, due_at, timer) VALUES (gen_random_uuid(), now(), '{}')`)
	b.only(b.audit(), "Q7", "", "1 timers are overdue after 10ms")

	b = newBench(t)
	b.cfg.Wait = 10 * time.Millisecond
	b.exec("order", `INSERT INTO outbox (message_id, due_at) SELECT event_id, now() FROM event_log LIMIT 2`)
	b.only(b.audit(), "Q4", "", "2 events are in the outbox, unpublished, after 10ms")
}

func TestAnAuditThatCannotBeMadeSaysWhy(t *testing.T) {
	nowhere := "postgres://nobody:secret@127.0.0.1:1/"
	a := exitCode(t, 2, []string{"DATABASE_URL=" + nowhere})
	if !strings.Contains(a.err, "database of menu: ") || strings.Contains(a.err, "secret") {
		t.Errorf("got %s", a.err)
	}
	exitCode(t, 2, nil, "--wait", "soon")
	if a := exitCode(t, 2, nil, "--dir", t.TempDir()); !strings.Contains(a.err, "nothing runs") {
		t.Errorf("got %s", a.err)
	}
	for _, c := range []struct {
		change func(*audit.Config)
		why    string
	}{
		{func(c *audit.Config) { *c = audit.Config{} }, "the database URL must look like postgres://"},
		{func(c *audit.Config) { c.Databases = map[string]string{"pay": "://"} }, "the database URL of pay"},
		{func(c *audit.Config) { c.Management = nowhere }, "broker: "},
		{func(c *audit.Config) { c.VHost = "elsewhere" }, "broker: "},
		{func(c *audit.Config) { c.Partners = "http://127.0.0.1:1" }, "gateway: "},
		{func(c *audit.Config) { c.Partners = c.Management }, "gateway: "},
	} {
		cfg := config()
		c.change(&cfg)
		if _, err := audit.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("got %v, want %q", err, c.why)
		}
	}
}

func TestWhatIsNotNamedIsNotLookedAt(t *testing.T) {
	cfg := config()
	cfg.Management = ""
	r, err := audit.Run(t.Context(), cfg)
	if err != nil || !r.OK() || r.AtRest || !slices.Equal(r.Unrest, []string{"the broker was not named"}) {
		t.Errorf("got %+v, %v", r, err)
	}
	cfg = config()
	cfg.Partners = ""
	r, err = audit.Run(t.Context(), cfg)
	if err != nil || !r.OK() || !r.AtRest {
		t.Errorf("got %+v, %v", r, err)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "ok so far") || !strings.Contains(out.String(), "not at the gateway: it was not named") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

func TestManyViolationsAreCountedAndSomeTold(t *testing.T) {
	b := newBench(t)
	b.cfg.Most, b.cfg.Running = 3, true
	b.exec("delivery", `UPDATE stream_state SET version = version + 1`)
	r := b.audit()
	var states int64
	if err := b.database("delivery").QueryRow(`SELECT count(*) FROM stream_state`).Scan(&states); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(r.Checked, func(i audit.Invariant) bool { return i.ID == "S12" })
	if len(r.Violations) != 3 || r.Checked[at].Violated != states || states < 10 {
		t.Errorf("%d told, %d counted, want 3 and %d", len(r.Violations), r.Checked[at].Violated, states)
	}
}

// TestTheBroker is the last, since it leaves a message behind.
func TestTheBroker(t *testing.T) {
	b := newBench(t)
	b.cfg.Poison = nil
	r := b.audit()
	b.only(r, "Q5", orders["counter"], "order.eaten "+poison+" is a dead letter: nobody eats orders")
	a := exitCode(t, 1, nil)
	for _, part := range []string{
		"Q5", "VIOLATED 1", "Q5  pay  order " + orders["counter"] + ": order.eaten", "  order     order.placed\n", "  delivery          delivery.delivered\n", "at rest",
	} {
		if !strings.Contains(a.out, part) {
			t.Errorf("%q is not said:\n%s", part, a.out)
		}
	}
	if a := exitCode(t, 1, nil, "-o", "json"); json.Unmarshal([]byte(a.out), &r) != nil || len(r.Violations) != 1 || len(r.Violations[0].Trace) == 0 {
		t.Errorf("got %s", a.out)
	}
	exitCode(t, 0, nil, "--running")
	exitCode(t, 0, nil, "--poison", poison, "--wait", "1s") // and looking takes nothing away
	b.cfg.Poison = []string{poison, "another"}
	b.only(b.audit(), "Q5", "", "the poison another is not among the dead letters")

	if _, err := letter("10m"); err != nil {
		t.Fatal(err)
	}
	counted(t, "pay.retry.10m", 1)
	b = newBench(t)
	if r := b.audit(); r.AtRest || !r.OK() || !slices.Equal(r.Unrest, []string{"1 messages in the queue pay.retry.10m"}) {
		t.Errorf("got %+v", r)
	}
	b.cfg.Wait = 10 * time.Millisecond
	b.only(b.audit(), "Q5", "", "1 messages are in the queue pay.retry.10m after 10ms")
	exitCode(t, 0, nil)
	exitCode(t, 1, nil, "--wait", "10ms")
}
