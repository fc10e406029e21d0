package saga_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga"
)

// handled is how many messages of a type went through the door of a service with an outcome.
func handled(t *testing.T, service, typ, outcome string) int {
	t.Helper()
	_, metrics := call(t, "GET", shop.URL(service)+"/metrics", "")
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, fmt.Sprintf(`hotchoc_messages_total{outcome=%q,type=%q} `, outcome, typ)); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// awaited is what one service awaits in a saga.
func awaited(s saga.Saga, by string) (saga.Awaited, error) {
	for _, a := range s.Awaited {
		if a.By() == by {
			return a, nil
		}
	}
	return saga.Awaited{}, fmt.Errorf("%s is not awaited in %s: %+v", by, s.ID, s.Awaited)
}

// stuck finds one order among those that are stuck.
func stuck(t *testing.T, id string) (saga.Saga, error) {
	t.Helper()
	for _, s := range read[[]saga.Saga](t, "saga", "stuck", "--older", "0s", "--limit", "1000") {
		if s.ID.String() == id {
			return s, nil
		}
	}
	return saga.Saga{}, errors.New(id + " is not stuck")
}

// A service is killed before it hears of three orders. What then lies in its queue is taken from there as trouble would:
// one message has used up its budget but for the last attempt, one is set aside by the broker, one is left alone.
func TestWhatIsStuckIsNamedAndMovedByTheCommandsShown(t *testing.T) {
	ctx := context.Background()
	if err := shop.Kill(ctx, "pay"); err != nil {
		t.Fatal(err)
	}
	spent, refused, waiting := place(t, wish{}), place(t, wish{}), place(t, wish{})
	for _, id := range []string{spent, refused, waiting} {
		eventually(t, func() error {
			s, err := stuck(t, id)
			if err != nil {
				return err
			}
			a, err := awaited(s, "pay/charge")
			if err == nil && (a.Place != saga.PlaceQueue || !strings.Contains(a.Where, "nobody consumes queue pay") || a.Command != "start the service pay: ./task up" || a.Type != "order.placed") {
				err = fmt.Errorf("got %+v", a)
			}
			return err
		})
	}
	if r := hotchoc(t, "saga", "stuck", "--older", "0s"); r.code != 0 || !strings.Contains(r.out, "-> start the service pay: ./task up  (for 3 messages)") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	} else {
		t.Log("\n" + r.out)
	}
	if r := hotchoc(t, "saga", "stuck", "--older", "1h"); r.code != 0 || r.out != "nothing is stuck\n" {
		t.Errorf("younger than an hour: %s%s", r.out, r.err)
	}

	ch := channel(t, shop.AMQP())
	originals := map[string]amqp.Delivery{}
	for range 3 {
		d, ok, err := ch.Get("pay", false)
		if err != nil || !ok {
			t.Fatalf("queue pay: %v, %v", ok, err)
		}
		originals[d.CorrelationId] = d
	}
	// As the consumer of pay does it.
	again := func(d amqp.Delivery, more amqp.Table) amqp.Publishing {
		headers := amqp.Table{"first_exchange": d.Exchange, "first_key": d.RoutingKey, "first_user": d.UserId}
		for _, table := range []amqp.Table{d.Headers, more} {
			for k, v := range table {
				if !strings.HasPrefix(k, "x-") {
					headers[k] = v
				}
			}
		}
		return amqp.Publishing{
			ContentType: d.ContentType, DeliveryMode: amqp.Persistent, MessageId: d.MessageId, Type: d.Type,
			CorrelationId: d.CorrelationId, AppId: d.AppId, Timestamp: d.Timestamp, Headers: headers, Body: d.Body,
		}
	}
	publish(t, ch, "pay.retry", "pay", again(originals[spent], amqp.Table{"attempt": int64(153)}))
	if err := originals[spent].Ack(false); err != nil {
		t.Fatal(err)
	}
	if err := originals[refused].Reject(false); err != nil {
		t.Fatal(err)
	}
	if err := originals[waiting].Nack(false, true); err != nil {
		t.Fatal(err)
	}

	faults := func(gateway string) {
		t.Helper()
		if status, answer := call(t, "PUT", shop.URL("partners")+"/faults", `{"gateway":`+gateway+`}`); status >= 300 {
			t.Fatalf("PUT /faults: %d %s", status, answer)
		}
	}
	faults(`{"error_rate":1}`)
	if err := shop.Start(ctx, "pay"); err != nil {
		t.Fatal(err)
	}
	id := originals[spent].MessageId
	var dying saga.Awaited
	eventually(t, func() (err error) {
		s, err := stuck(t, spent)
		if err != nil {
			return err
		}
		if dying, err = awaited(s, "pay/charge"); err == nil && dying.Place != saga.PlaceDead {
			err = fmt.Errorf("not dead yet: %+v", dying)
		}
		return err
	})
	if !strings.HasSuffix(dying.Command, " dead redrive --id "+id+" --yes") || dying.Attempts != 153 || dying.NextAt != nil || !strings.Contains(dying.Error, "503") {
		t.Errorf("got %+v", dying)
	}
	if l := letters(t, id); len(l) != 1 || l[0].Service != "pay" || l[0].Step != "charge" || l[0].Attempts != 153 || l[0].Saga != spent || l[0].Foreign ||
		!strings.HasPrefix(l[0].Reason, "153 attempts failed") || strings.Contains(l[0].Cause, spent) || l[0].Redriven != 0 || time.Since(l[0].At) > time.Minute {
		t.Errorf("got %+v", l)
	}
	opened := read[[]dead.Opened](t, "dead", "show", id)
	if len(opened) != 1 || !slices.Equal(opened[0].Awaiting, []string{"charge"}) || len(opened[0].Ledger) != 1 || opened[0].Ledger[0].N != 153 ||
		!strings.Contains(opened[0].Body, spent) || opened[0].Headers["actor"] == nil {
		t.Errorf("got %+v", opened)
	}
	if r := hotchoc(t, "dead", "show", id); r.code != 0 || !strings.Contains(r.out, "153 attempts failed") || !strings.Contains(r.out, `    "order_id": "`+spent+`"`) {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	} else {
		t.Log("\n" + r.out)
	}
	if l := letters(t, originals[refused].MessageId); len(l) != 1 || l[0].Reason != "set aside by the broker: rejected" || l[0].Foreign || time.Since(l[0].At) > time.Minute {
		t.Errorf("got %+v", l)
	}
	s := show(t, spent)
	if len(s.Dead) != 1 || len(s.Attempts) != 1 || s.Ended || s.Payment != nil || len(s.Timers) != 1 {
		t.Errorf("got %+v", s)
	}
	t.Log("\n" + hotchoc(t, "saga", "show", spent).out)

	faults(`{}`)
	r := hotchoc(t, "dead", "redrive", "--id", id)
	if r.code != 0 || !strings.Contains(r.out, "queue pay  new") || !strings.Contains(r.out, "Nothing was done: 1 would be sent back. Do it with --yes.") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if len(letters(t, id)) != 1 {
		t.Fatal("a preview moved the dead letter")
	}
	command := strings.Fields(dying.Command)
	if r := execute(t, command[0], command[1:]...); r.code != 0 || !strings.Contains(r.out, "1 of 1 sent back") {
		t.Errorf("%s: exit code %d\n%s%s", dying.Command, r.code, r.out, r.err)
	}
	finish(t, spent, "cancelled") // it was given up: what is sent back is only its void
	if r := hotchoc(t, "dead", "redrive", "--cause", "Set aside by the broker: REJECTED", "--yes"); r.code != 0 || !strings.Contains(r.out, "1 of 1 sent back") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	finish(t, refused, "completed")
	finish(t, waiting, "completed")
	for _, id := range []string{spent, refused, waiting} {
		if s, err := stuck(t, id); err == nil {
			t.Errorf("still stuck: %+v", s)
		}
		want := 450
		if id == spent {
			want = 0
		}
		if kept := charged(t, id); kept != want {
			t.Errorf("charged %d, want %d", kept, want)
		}
	}

	// What was handled meanwhile is known by the inbox.
	eventually(t, func() error {
		if s := show(t, spent); len(s.Awaited) > 0 {
			return fmt.Errorf("still awaited: %+v", s.Awaited)
		}
		return nil
	})
	before, duplicates := show(t, spent), handled(t, "pay", "order.placed", "duplicate")
	publish(t, ch, "pay.retry", "pay.dead", again(originals[spent], amqp.Table{"dead_reason": "as a test wants it", "dead_at": "2026-01-02T03:04:05Z"}))
	plan := read[dead.Plan](t, "dead", "redrive", "--id", id)
	if len(plan.Items) != 1 || plan.Items[0].Inbox != dead.Handled || plan.Items[0].Sent {
		t.Errorf("got %+v", plan)
	}
	if s, err := stuck(t, spent); err == nil {
		t.Errorf("a dead letter that was handled is nothing to move: %+v", s)
	}
	if plan := read[dead.Plan](t, "dead", "redrive", "--id", id, "--yes"); len(plan.Items) != 1 || !plan.Items[0].Sent {
		t.Errorf("got %+v", plan)
	}
	eventually(t, func() error {
		if n := handled(t, "pay", "order.placed", "duplicate"); n != duplicates+1 {
			return fmt.Errorf("%d duplicates, want %d", n, duplicates+1)
		}
		return nil
	})
	if after := show(t, spent); len(after.Events) != len(before.Events) || len(after.Barriers) != len(before.Barriers) || len(after.Attempts) != len(before.Attempts) || len(after.Dead) != 0 || charged(t, spent) != 0 {
		t.Errorf("it changed something: %+v", after)
	}
}

// A Failed event that three services hear is poison to all of them.
func TestARedriveGoesToTheSameServiceOnlyAndIsCounted(t *testing.T) {
	t.Parallel()
	m := message("delivery", "delivery.failed", "delivery")
	publish(t, channel(t, as(t, "delivery")), "delivery.events", m.Type, m)
	redriven := func(want map[string]int) func() error {
		return func() error {
			got := map[string]int{}
			for _, l := range letters(t, m.MessageId) {
				got[l.Service] = l.Redriven
				if !strings.HasPrefix(l.Reason, "poison: delivery.failed: the body is not what the contract says") {
					return fmt.Errorf("got %+v", l)
				}
				if l.Redriven > 0 && (l.RedrivenBy == "" || time.Since(l.RedrivenAt) > time.Minute || l.RedrivenAt.After(l.At)) {
					return fmt.Errorf("not marked: %+v", l)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("redriven %v, want %v", got, want)
			}
			return nil
		}
	}
	eventually(t, redriven(map[string]int{"order": 0, "pay": 0, "make": 0}))

	spy := channel(t, shop.AMQP())
	q, err := spy.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"order", "menu", "pay", "make", "delivery"} {
		if err := errors.Join(spy.QueueBind(q.Name, "#", s+".events", false, nil), spy.QueueBind(q.Name, s, s+".retry", false, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if r := hotchoc(t, "dead", "redrive", "--id", m.MessageId, "--service", "pay", "--yes"); r.code != 0 || !strings.Contains(r.out, "1 of 1 sent back") {
		t.Fatalf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	eventually(t, redriven(map[string]int{"order": 0, "pay": 1, "make": 0}))
	if r := hotchoc(t, "dead", "redrive", "--id", m.MessageId, "--yes"); r.code != 0 || !strings.Contains(r.out, "3 of 3 sent back") {
		t.Fatalf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	eventually(t, redriven(map[string]int{"order": 1, "pay": 2, "make": 1}))
	var seen []string
	for {
		d, ok, err := spy.Get(q.Name, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if d.MessageId != m.MessageId {
			continue // of other tests
		}
		seen = append(seen, d.Exchange+" "+d.RoutingKey)
		if d.Headers["attempt"] != nil || d.Headers["dead_reason"] != nil || d.Headers["x-death"] != nil || d.UserId != "" || d.Type != m.Type || d.AppId != m.AppId ||
			d.CorrelationId != m.CorrelationId || d.DeliveryMode != amqp.Persistent || !d.Timestamp.Equal(m.Timestamp) || d.Headers["cloudEvents_time"] != m.Headers["cloudEvents_time"] ||
			d.Headers["first_exchange"] != "delivery.events" || d.Headers["first_user"] != "delivery" || string(d.Body) != string(m.Body) {
			t.Errorf("got %+v", d)
		}
	}
	slices.Sort(seen)
	if want := []string{"make.retry make", "order.retry order", "pay.retry pay", "pay.retry pay"}; !slices.Equal(seen, want) {
		t.Errorf("it was published to %v, want %v", seen, want)
	}
	t.Log("\n" + hotchoc(t, "dead", "list", "--each").out)
	t.Log("\n" + hotchoc(t, "dead", "show", m.MessageId, "--service", "pay").out)
	t.Log("\n" + hotchoc(t, "dead", "redrive", "--id", m.MessageId).out)
	if opened := read[[]dead.Opened](t, "dead", "show", m.MessageId, "--service", "make"); len(opened) != 1 || len(opened[0].Handled) != 0 || !slices.Equal(opened[0].Awaiting, []string{"discard"}) {
		t.Errorf("got %+v", opened)
	}
}

func TestManyAreShownByCauseAndSentBackAtARate(t *testing.T) {
	t.Parallel()
	ch := channel(t, as(t, "menu"))
	cause := fmt.Sprintf("free-%d", time.Now().UnixNano())
	for range 25 {
		m := message("menu", "item.added", "item")
		m.Body = fmt.Appendf(nil, `{"sku":"x","price":%q}`, cause)
		publish(t, ch, "menu.events", m.Type, m)
	}
	mine := func() (found []dead.Letter) {
		t.Helper()
		return read[[]dead.Letter](t, "dead", "list", "--service", "order", "--cause", cause)
	}
	eventually(t, func() error {
		if n := len(mine()); n != 25 {
			return fmt.Errorf("%d dead letters", n)
		}
		return nil
	})
	r := hotchoc(t, "dead", "list", "--service", "order", "--cause", cause)
	if r.code != 0 || strings.Count(r.out, "\n") != 2 || !strings.Contains(r.out, "\n25     order    item.added") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	t.Log("\n" + hotchoc(t, "dead", "list").out)
	if r := hotchoc(t, "dead", "list", "--service", "order", "--cause", cause, "--each"); strings.Count(r.out, "\n") != 26 {
		t.Errorf("got\n%s", r.out)
	}
	if r := hotchoc(t, "dead", "list", "--service", "order", "--limit", "10"); r.code != 0 || !strings.Contains(r.err, "more were not looked at: raise --limit") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	r = hotchoc(t, "dead", "redrive", "--service", "order", "--cause", cause)
	if r.code != 0 || !strings.Contains(r.out, "\n25     item.added  queue order  new") || !strings.Contains(r.out, "Nothing was done: 25 would be sent back.") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	t.Log("\n" + r.out)
	began := time.Now()
	if r := hotchoc(t, "dead", "redrive", "--service", "order", "--cause", cause, "--rate", "50", "--yes"); r.code != 0 || !strings.Contains(r.out, "25 of 25 sent back") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if took := time.Since(began); took < 24*time.Second/50 {
		t.Errorf("25 took %v at 50 in a second", took)
	}
	eventually(t, func() error {
		again := 0
		for _, l := range mine() {
			again += l.Redriven
		}
		if again != 25 {
			return fmt.Errorf("%d of 25 have died again", again)
		}
		return nil
	})
}

func TestWhatNobodyVouchedForIsLeftOutOfABulk(t *testing.T) {
	t.Parallel()
	m := message("order", "order.placed", "order")
	m.UserId = ""
	publish(t, channel(t, shop.AMQP()), "order.events", m.Type, m)
	eventually(t, func() error {
		if l := letters(t, m.MessageId); len(l) != 1 || !l[0].Foreign {
			return fmt.Errorf("got %+v", l)
		}
		return nil
	})
	plan := read[dead.Plan](t, "dead", "redrive", "--cause", `but the user "" published it`)
	if len(plan.Items) != 0 || !slices.ContainsFunc(plan.LeftOut, func(l dead.Letter) bool { return l.ID == m.MessageId }) {
		t.Errorf("got %+v", plan)
	}
	r := hotchoc(t, "dead", "redrive", "--id", m.MessageId)
	if r.code != 0 || !strings.Contains(r.out, "1 not published by the service that they say they are from: sent back they are believed") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

func TestExitCodesSayWhatWentWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"dead list", 0, ""},
		{"dead show 01900000-0000-7000-8000-000000000000", 3, "no dead letter"},
		{"dead redrive --id 01900000-0000-7000-8000-000000000000 --yes", 3, "no dead letter is chosen"},
		{"dead redrive", 2, "say which: --id, --cause, --service or --all"},
		{"dead redrive --all --rate 0", 2, "--rate"},
		{"dead list --service tea", 2, `no service "tea"`},
		{"dead list --limit 0", 2, "--limit"},
		{"dead list -o yaml", 2, "--output"},
		{"dead list --colour", 2, "unknown flag"},
		{"dead show", 2, "show MESSAGE"},
		{"dead bury", 2, `unknown command "bury"`},
		{"saga list --status lost", 2, "--status"},
		{"saga list --since yesterday", 2, "since"},
		{"saga show 01900000-0000-7000-8000-000000000000", 3, "no service knows this order"},
		{"saga show tea", 2, `"tea" is not the ID of an order`},
		{"saga stuck --older -1s", 2, "--older"},
	} {
		if r := hotchoc(t, strings.Fields(c.args)...); r.code != c.code || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: exit code %d, want %d with %q\n%s%s", c.args, r.code, c.code, c.says, r.out, r.err)
		}
	}
	if r := execute(t, shop.Program("partners"), "--dir", t.TempDir(), "dead", "list"); r.code != 1 || !strings.Contains(r.err, "does it run?") {
		t.Errorf("without a stack: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if status, _ := call(t, "GET", shop.URL("pay")+"/readyz", ""); status != http.StatusOK {
		t.Error("looking is harmless")
	}
}
