package flow_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

func TestABatchIsOneCommit(t *testing.T) {
	f := desk()
	s := &hooked{Memory: store.NewMemory()}
	handled(t, process(s, f, placed(t, f, 1, "ok"), placed(t, f, 2, "fail"), placed(t, f, 3, "nothing"), placed(t, f, 4, "ok")),
		"payment.captured", "payment.failed", "payment.captured")
	if s.begun != 1 || len(s.writes) != 1 {
		t.Errorf("%d transactions, %d writes, want one", s.begun, len(s.writes))
	}
	if got := state[payment](t, s.Memory, f, "payment/"+order(1)); got.Captured != 1 {
		t.Errorf("the payment is %+v", got)
	}
}

func TestWhatIsCausedSaysByWhat(t *testing.T) {
	f := desk()
	now := time.Date(2026, 12, 6, 16, 45, 0, 123456789, time.FixedZone("there", 3600))
	id := uuid.MustParse(order(77))
	m := placed(t, f, 1, "ok")
	s := store.NewMemory()
	v := flow.NewDoor(f, s, func() time.Time { return now }, func() uuid.UUID { return id }).Process(t.Context(), []flow.Message{m})[0]
	want := event.Envelope{
		ID: id, Type: "payment.captured", Schema: 1, Source: "pay", Stream: "payment/" + order(1), Version: 1,
		Saga: m.Saga, Causation: m.ID, Hops: m.Hops + 1, Actor: "customer:ada", At: time.Date(2026, 12, 6, 15, 45, 0, 123456000, time.UTC),
	}
	if len(v.Events) != 1 || v.Events[0].Envelope != want {
		t.Fatalf("caused %+v\nwant %+v", v.Events, want)
	}
	if log := s.Log(); len(log) != 1 || log[0].Envelope != want || !bytes.Equal(log[0].Body, v.Events[0].Body) {
		t.Errorf("the log has %+v", log)
	}
}

func TestABadMessageDoesNotTakeItsNeighboursDownAndLeavesNothing(t *testing.T) {
	for wish, why := range map[string]string{
		"panic":         "panic",
		"undeclared":    `step "charge": emitted *payv1.CustomerFlagged, which it does not declare`,
		"foreign":       "emitted *orderv1.OrderCompleted, which it does not declare",
		"no event":      "emitted *shopv1.Money, which it does not declare",
		"no key":        "order_id, its key",
		"no text":       "UTF-8",
		"too early":     `step "charge" is not ready for order.placed: nobody has counted the till`,
		"refuse":        "events are facts",
		"strange timer": "is not a timer of pay",
	} {
		t.Run(wish, func(t *testing.T) {
			f := desk()
			s := &hooked{Memory: store.NewMemory()}
			bad := placed(t, f, 2, wish)
			verdicts := process(s, f, placed(t, f, 1, "ok"), bad, placed(t, f, 3, "ok"))
			if v := verdicts[1]; v.Err == nil || !strings.Contains(v.Err.Error(), why) || errors.Is(v.Err, store.ErrUnavailable) || v.Events != nil || v.Duplicate {
				t.Errorf("the verdict is %+v, want %q", v, why)
			}
			handled(t, []flow.Verdict{verdicts[0], verdicts[2]}, "payment.captured", "payment.captured")
			if got := types(s.Log()); !slices.Equal(got, []string{"payment.captured", "payment.captured"}) {
				t.Errorf("the log has %v", got)
			}
			if len(s.writes) != 1 || s.writes[0] != 2 {
				t.Errorf("%v claims were written, want two at once", s.writes)
			}
			if doc, ok := s.Doc(store.Key{Table: flow.States, Key: "payment/" + order(2)}); ok {
				t.Errorf("there is a state %s", doc.Body)
			}
			if got := s.Barrier(store.BarrierKey{Saga: bad.Saga, Step: "charge"}); got != "" {
				t.Errorf("the barrier is %q", got)
			}
			if len(s.Timers()) != 0 {
				t.Errorf("armed %v", s.Timers())
			}
			// It is no duplicate when it comes again.
			if v := process(s, f, bad)[0]; v.Err == nil {
				t.Errorf("once more it was %+v", v)
			}
		})
	}
}

// count is a state that many sagas share.
type count struct{ Reserved, Depleted int }

// shelf is a small make service: all orders reserve from one stock. What an order pays with says how it goes.
func shelf() *flow.Flow {
	stock := flow.NewStream("stock", func(c *count, fact proto.Message) {
		switch fact.(type) {
		case *makev1.StockReserved:
			c.Reserved++
		case *makev1.StockDepleted:
			c.Depleted++
		}
	})
	return flow.New("make", stock, flow.On("reserve", flow.By(stock, func(*payv1.PaymentCaptured) string { return "main" }),
		func(c *count, paid *payv1.PaymentCaptured) flow.Outcome {
			o := flow.Emit(&makev1.StockReserved{Location: "main", OrderId: paid.OrderId})
			if paid.CaptureId == "spoils it" {
				return o.Also(&makev1.StockReleased{Location: "main"})
			}
			if c.Reserved == 1 {
				o = o.Also(&makev1.StockDepleted{Location: "main", Ingredient: "milk"})
			}
			return o
		}).Emits(&makev1.StockReserved{}, &makev1.StockDepleted{}))
}

func paid(t *testing.T, f *flow.Flow, n int, capture string) flow.Message {
	t.Helper()
	return heard(t, f, order(n), &payv1.PaymentCaptured{OrderId: order(n), CaptureId: capture})
}

func TestMessagesOfABatchSeeEachOthersChangesButNotThoseOfABadOne(t *testing.T) {
	f := shelf()
	s := &hooked{Memory: store.NewMemory()}
	verdicts := process(s, f, paid(t, f, 1, ""), paid(t, f, 2, "spoils it"), paid(t, f, 3, ""), paid(t, f, 4, "spoils it"), paid(t, f, 5, ""))
	if verdicts[1].Err == nil || verdicts[3].Err == nil {
		t.Errorf("the bad ones are %+v and %+v", verdicts[1], verdicts[3])
	}
	handled(t, []flow.Verdict{verdicts[0], verdicts[2], verdicts[4]}, "stock.reserved", "stock.reserved", "stock.depleted", "stock.reserved")
	if got := state[count](t, s.Memory, f, "stock/main"); got != (count{Reserved: 3, Depleted: 1}) {
		t.Errorf("the stock is %+v", got)
	}
	if s.begun != 1 {
		t.Errorf("%d transactions: what is decided is taken back in memory", s.begun)
	}
	handled(t, process(s, f, paid(t, f, 6, "")), "stock.reserved")
	if got := state[count](t, s.Memory, f, "stock/main"); got.Reserved != 4 {
		t.Errorf("the stock is %+v", got)
	}
}

func TestTheSameMessageTwiceInABatchIsHandledOnce(t *testing.T) {
	f := shelf()
	s := store.NewMemory()
	m := paid(t, f, 1, "")
	verdicts := process(s, f, m, paid(t, f, 2, ""), m)
	if v := verdicts[2]; v.Err != nil || !v.Duplicate || len(v.Events) != 0 || v.First.Saga != m.Saga || v.First.Step != "reserve" {
		t.Errorf("the second is %+v", v)
	}
	if len(verdicts[0].Events) != 1 || state[count](t, s, f, "stock/main").Reserved != 2 {
		t.Errorf("the first is %+v", verdicts[0])
	}
	v := process(s, f, m)[0]
	if !v.Duplicate || v.First.Saga != m.Saga {
		t.Errorf("later it is %+v", v)
	}
}

func TestTheSameBadMessageTwiceInABatchIsBadTwice(t *testing.T) {
	f := desk()
	m := placed(t, f, 1, "panic")
	for _, v := range process(store.NewMemory(), f, m, m) {
		if v.Err == nil || v.Duplicate {
			t.Errorf("got %+v", v)
		}
	}
}

type open struct{ Name string }

// door is a small order service: it opens what it is told to.
func door() *flow.Flow {
	orders := flow.NewStream("order", func(n *int, _ proto.Message) { *n++ })
	return flow.New("order", orders, flow.Command("open", orders, func(n *int, c open) flow.Outcome {
		switch {
		case c.Name == "":
			return flow.Refuse(flow.Invalid, "no-name", "An order needs a name.")
		case *n > 0:
			return flow.Refuse(flow.Conflict, "open-already", "%s is open.", c.Name)
		}
		return flow.Emit(&orderv1.OrderPlaced{OrderId: order(1), Customer: c.Name})
	}).Emits(&orderv1.OrderPlaced{}))
}

func TestARefusedCommandIsNotRememberedAndARepeatedOneIsAnsweredFromTheInbox(t *testing.T) {
	f := door()
	s := &hooked{Memory: store.NewMemory()}
	id, saga := event.NewID(), uuid.MustParse(order(1))
	command := func(name string, digest byte) flow.Message {
		m := flow.NewCommand("open", id, saga, "customer:ada", open{name})
		m.Digest = []byte{digest}
		return m
	}
	v := process(s, f, command("", 0))[0]
	if v.Err != nil || v.Refusal == nil || v.Refusal.Code != flow.Invalid || v.Refusal.Name != "no-name" || v.Refusal.Error() != "no-name: An order needs a name." {
		t.Errorf("got %+v", v)
	}
	if len(s.writes) != 0 {
		t.Error("a refusal was written")
	}
	verdicts := process(s, f, command("ada", 1), command("ada", 2))
	handled(t, verdicts[:1], "order.placed")
	if e := verdicts[0].Events[0]; e.Actor != "customer:ada" || e.Hops != 1 || e.Causation != id {
		t.Errorf("placed as %+v", e)
	}
	if v := verdicts[1]; !v.Duplicate || !bytes.Equal(v.First.Digest, []byte{1}) || v.First.Saga != saga {
		t.Errorf("the same key in the same batch: %+v", v)
	}
	if v := process(s, f, command("ada", 3))[0]; !v.Duplicate || !bytes.Equal(v.First.Digest, []byte{1}) || v.First.Saga != saga {
		t.Errorf("the same key later: %+v", v)
	}
	if v := process(s, f, flow.NewCommand("open", event.NewID(), saga, "", open{"eve"}))[0]; v.Refusal == nil || v.Refusal.Detail != "eve is open." {
		t.Errorf("another key: %+v", v)
	}
}

func TestACommandOfAnotherKindIsPoison(t *testing.T) {
	f := door()
	for _, m := range []flow.Message{
		flow.NewCommand("open", event.NewID(), uuid.MustParse(order(1)), "", "ada"),
		flow.NewCommand("close", event.NewID(), uuid.MustParse(order(1)), "", open{"ada"}),
	} {
		s := &hooked{Memory: store.NewMemory()}
		good := flow.NewCommand("open", event.NewID(), uuid.MustParse(order(1)), "", open{"ada"})
		verdicts := process(s, f, m, good)
		if !errors.Is(verdicts[0].Err, flow.ErrPoison) {
			t.Errorf("got %+v", verdicts[0])
		}
		handled(t, verdicts[1:], "order.placed")
	}
}

// The three cases of a compensation, in one batch as in many.
func TestACompensationUndoesWhatStandsOnce(t *testing.T) {
	f := desk()
	p, failed, again := placed(t, f, 1, "ok"), makeFailed(t, f, 1, "out_of_stock"), heard(t, f, order(1), &deliveryv1.DeliveryFailed{OrderId: order(1)})
	for _, batches := range [][][]flow.Message{{{p, failed, again}}, {{p}, {failed}, {again}}, {{p}, {failed, again}}, {{p, failed}, {again}}} {
		s := store.NewMemory()
		var verdicts []flow.Verdict
		for _, batch := range batches {
			verdicts = append(verdicts, process(s, f, batch...)...)
		}
		handled(t, verdicts, "payment.captured", "payment.refunded")
		if got := s.Barrier(store.BarrierKey{Saga: p.Saga, Step: "charge"}); got != store.Undone {
			t.Errorf("the barrier is %q", got)
		}
		if e := verdicts[1].Events[0]; e.Causation != failed.ID || !strings.Contains(string(e.Body), "make.failed: out_of_stock: no milk") || !strings.Contains(string(e.Body), `"450"`) {
			t.Errorf("undone by %+v %s", e, e.Body)
		}
		if got := state[payment](t, s, f, "payment/"+order(1)); got != (payment{1, 1}) {
			t.Errorf("the payment is %+v", got)
		}
	}
}

func TestACompensationOfWhatNeverWasBarsIt(t *testing.T) {
	f := desk()
	p, failed := placed(t, f, 1, "ok"), makeFailed(t, f, 1, "cancelled")
	for _, batches := range [][][]flow.Message{{{failed, p}}, {{failed}, {p}}} {
		s := store.NewMemory()
		var verdicts []flow.Verdict
		for _, batch := range batches {
			verdicts = append(verdicts, process(s, f, batch...)...)
		}
		handled(t, verdicts)
		if !verdicts[0].Suppressed || !verdicts[1].Suppressed {
			t.Errorf("got %+v", verdicts)
		}
		if got := s.Barrier(store.BarrierKey{Saga: p.Saga, Step: "charge"}); got != store.Suppressed {
			t.Errorf("the barrier is %q", got)
		}
		// Both are done with: the inbox knows them.
		if again := process(s, f, p, failed); !again[0].Duplicate || !again[1].Duplicate {
			t.Errorf("once more: %+v", again)
		}
	}
}

func TestAStepThatFailedHasNothingToUndo(t *testing.T) {
	f := desk()
	s := store.NewMemory()
	handled(t, process(s, f, placed(t, f, 1, "fail"), makeFailed(t, f, 1, "cancelled")), "payment.failed")
	if got := s.Barrier(store.BarrierKey{Saga: uuid.MustParse(order(1)), Step: "charge"}); got != store.Suppressed {
		t.Errorf("the barrier is %q", got)
	}
}

func TestACompensationMustSayThatItUndid(t *testing.T) {
	f := desk()
	s := store.NewMemory()
	handled(t, process(s, f, placed(t, f, 1, "ok")), "payment.captured")
	if v := process(s, f, makeFailed(t, f, 1, "say nothing"))[0]; v.Err == nil || !strings.Contains(v.Err.Error(), `step "refund" undid payment.captured without an event that says so`) {
		t.Errorf("got %+v", v)
	}
	if got := s.Barrier(store.BarrierKey{Saga: uuid.MustParse(order(1)), Step: "charge"}); got != store.Done {
		t.Errorf("the barrier is %q", got)
	}
}

func TestNeverTellsTheOthers(t *testing.T) {
	payments := newPayments()
	f := flow.New("pay", payments,
		flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}),
		flow.Compensate("refund", "charge", payments, refund).When(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}, &payv1.PaymentFailed{}).
			Never(func(p *payment, because flow.Failure, e event.Envelope) flow.Outcome {
				return flow.Emit(&payv1.PaymentFailed{OrderId: e.Saga.String(), Reason: because.Reason, Detail: because.Type + " " + because.Detail})
			}))
	s := store.NewMemory()
	v := process(s, f, makeFailed(t, f, 1, "cancelled"))
	handled(t, v, "payment.failed")
	if body := string(v[0].Events[0].Body); !strings.Contains(body, "make.failed no milk") || v[0].Suppressed {
		t.Errorf("said %s, %+v", body, v[0])
	}
	v = process(s, f, placed(t, f, 1, "ok"))
	handled(t, v)
	if !v[0].Suppressed {
		t.Errorf("got %+v", v[0])
	}
}

// kitchen is a small make service with a judge over its reservations.
func kitchen() *flow.Flow {
	drinks, stock := flow.NewStream("drink", func(n *int, _ proto.Message) { *n++ }), flow.NewStream("stock", func(n *int, _ proto.Message) { *n++ })
	return flow.New("make", drinks, stock,
		flow.On("reserve", drinks, func(_ *int, paid *payv1.PaymentCaptured) flow.Outcome {
			if paid.CaptureId == "no milk" {
				return flow.Emit(&makev1.MakeFailed{OrderId: paid.OrderId, Reason: "out_of_stock"})
			}
			return flow.Emit(&makev1.StockReserved{Location: "main", OrderId: paid.OrderId})
		}).Emits(&makev1.StockReserved{}, &makev1.MakeFailed{}),
		flow.Judge("cancel", "reserve", drinks, func(n *int, wish *orderv1.OrderCancelRequested, won bool) flow.Outcome {
			switch {
			case *n > 0:
				return flow.Nothing()
			case won:
				return flow.Emit(&makev1.MakeFailed{OrderId: wish.OrderId, Reason: "cancelled"})
			}
			return flow.Emit(&makev1.MakeCancelRejected{OrderId: wish.OrderId})
		}).Emits(&makev1.MakeFailed{}, &makev1.MakeCancelRejected{}),
	)
}

func TestAJudgeLetsOneOfTwoWin(t *testing.T) {
	f := kitchen()
	pays, cancels := paid(t, f, 1, ""), heard(t, f, order(1), &orderv1.OrderCancelRequested{OrderId: order(1)})
	for _, c := range []struct {
		name    string
		batches [][]flow.Message
		want    []string
		barrier string
	}{
		{"paid first", [][]flow.Message{{pays}, {cancels}}, []string{"stock.reserved", "make.cancel_rejected"}, store.Done},
		{"paid first in a batch", [][]flow.Message{{pays, cancels}}, []string{"stock.reserved", "make.cancel_rejected"}, store.Done},
		{"cancelled first", [][]flow.Message{{cancels}, {pays}}, []string{"make.failed"}, store.Suppressed},
		{"cancelled first in a batch", [][]flow.Message{{cancels, pays}}, []string{"make.failed"}, store.Suppressed},
		{"failed first", [][]flow.Message{{paid(t, f, 1, "no milk")}, {cancels}}, []string{"make.failed"}, store.Suppressed},
	} {
		s := store.NewMemory()
		var verdicts []flow.Verdict
		for _, batch := range c.batches {
			verdicts = append(verdicts, process(s, f, batch...)...)
		}
		handled(t, verdicts, c.want...)
		if got := s.Barrier(store.BarrierKey{Saga: pays.Saga, Step: "reserve"}); got != c.barrier {
			t.Errorf("%s: the barrier is %q, want %q", c.name, got, c.barrier)
		}
	}
}

// diary is a flow that keeps every kind of view.
func diary() *flow.Flow {
	events := []proto.Message{&payv1.PaymentCaptured{}, &orderv1.OrderPlaced{}}
	payments := newPayments()
	note := func(seen *[]string, _ proto.Message, e event.Envelope) { *seen = append(*seen, e.Type) }
	return flow.New("pay", payments,
		flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}),
		flow.NewView("by_saga", events, note),
		flow.NewView("by_customer", events, note).By(func(fact proto.Message, _ event.Envelope) []string {
			if c := fact.(interface{ GetCustomer() string }).GetCustomer(); c != "" {
				return []string{c, "everybody"}
			}
			return nil
		}),
		flow.NewJournal("journal", events, note),
		flow.NewCopy("copy", []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}}, func(name *string, fact proto.Message, _ event.Envelope) {
			if f, ok := fact.(interface{ GetName() string }); ok {
				*name = f.GetName()
			}
		}))
}

func doc(t *testing.T, s *store.Memory, table, key string) (string, int64) {
	t.Helper()
	d, ok := s.Doc(store.Key{Table: table, Key: key})
	if !ok {
		t.Errorf("there is no %s in %s", key, table)
	}
	return string(d.Body), d.Version
}

func TestViewsAreFoldedInTheCommitThatCausesThem(t *testing.T) {
	f := diary()
	s := &hooked{Memory: store.NewMemory()}
	bad, good := placed(t, f, 1, "panic"), placed(t, f, 1, "ok")
	verdicts := process(s, f, bad, good, good)
	handled(t, verdicts[1:2], "payment.captured")
	if verdicts[0].Err == nil || !verdicts[2].Duplicate {
		t.Errorf("got %+v", verdicts)
	}
	const both = `["order.placed","payment.captured"]`
	for table, key := range map[string]string{"by_saga": order(1), "by_customer": "ada"} {
		if body, version := doc(t, s.Memory, table, key); body != both || version != 2 {
			t.Errorf("%s is version %d, %s", table, version, body)
		}
	}
	if body, _ := doc(t, s.Memory, "by_customer", "everybody"); body != both {
		t.Errorf("everybody is %s", body)
	}
	if body, version := doc(t, s.Memory, "journal", good.ID.String()); body != `["order.placed"]` || version != 1 {
		t.Errorf("the entry of order.placed is version %d, %s", version, body)
	}
	if body, version := doc(t, s.Memory, "journal", verdicts[1].Events[0].ID.String()); body != `["payment.captured"]` || version != 1 {
		t.Errorf("the entry of payment.captured is version %d, %s", version, body)
	}
	if _, ok := s.Doc(store.Key{Table: "journal", Key: bad.ID.String()}); ok {
		t.Error("there is an entry of the message that was not handled")
	}
	if s.begun != 1 {
		t.Errorf("%d transactions", s.begun)
	}
}

func TestACopyIsOfTheNewestVersion(t *testing.T) {
	f := diary()
	version := func(v int64, fact proto.Message) flow.Message {
		r := wire(t, order(int(v)), fact)
		r.Version = v
		m, err := f.Accept(r)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	one, two, three := version(1, &menuv1.ItemAdded{Sku: "a", Name: "one"}), version(2, &menuv1.ItemEdited{Sku: "a", Name: "two"}), version(3, &menuv1.ItemEdited{Sku: "a", Name: "three"})
	for _, batches := range [][][]flow.Message{
		{{one, two, three}}, {{three, two, one}}, {{three}, {one}, {two}}, {{two}, {three, one}}, {{two, one}, {three}}, {{one}, {three}, {two}},
	} {
		s := store.NewMemory()
		for _, batch := range batches {
			handled(t, process(s, f, batch...))
		}
		if body, v := doc(t, s, "copy", "a"); body != `"three"` || v != 3 {
			t.Errorf("the copy is version %d, %s", v, body)
		}
	}
}

func TestWhatTwoStepsHearEachOfThemHandlesOnce(t *testing.T) {
	customers := flow.NewStream("customer", func(n *int, _ proto.Message) { *n++ })
	flagged := flow.On("flag", flow.By(customers, func(p *orderv1.OrderPlaced) string { return p.Customer }), func(n *int, p *orderv1.OrderPlaced) flow.Outcome {
		return flow.Emit(&payv1.CustomerFlagged{Customer: p.Customer, Refusals: int32(*n)})
	}).Emits(&payv1.CustomerFlagged{})
	f := desk(customers, flagged)
	s := store.NewMemory()
	m := placed(t, f, 1, "ok")
	handled(t, process(s, f, m, placed(t, f, 2, "ok")), "payment.captured", "customer.flagged", "payment.captured", "customer.flagged")
	if v := process(s, f, m)[0]; !v.Duplicate {
		t.Errorf("once more: %+v", v)
	}
	// A step that came with a later version of the service has not handled what came before it.
	s = store.NewMemory()
	handled(t, process(s, desk(), m), "payment.captured")
	handled(t, process(s, f, m), "customer.flagged")
	// Both or none.
	s = store.NewMemory()
	if v := process(s, f, placed(t, f, 3, "panic"))[0]; v.Err == nil || len(s.Log()) != 0 {
		t.Errorf("got %+v, and %v in the log", v, types(s.Log()))
	}
}

// clock is a small order service with a timer.
func clock() *flow.Flow {
	orders := flow.NewStream("order", func(n *int, _ proto.Message) { *n++ })
	return flow.New("order", orders,
		flow.Command("open", orders, func(_ *int, c open) flow.Outcome {
			return flow.Emit(&orderv1.OrderPlaced{OrderId: order(1)}).At(time.Unix(100, 0), "deadline", &orderv1.OrderDeadline{OrderId: order(1)})
		}).Emits(&orderv1.OrderPlaced{}),
		flow.On("expire", orders, func(*int, *orderv1.OrderDeadline) flow.Outcome {
			return flow.Emit(&orderv1.OrderCancelRequested{OrderId: order(1), By: "deadline"})
		}).Emits(&orderv1.OrderCancelRequested{}),
		flow.On("complete", orders, func(*int, *deliveryv1.DeliveryDelivered) flow.Outcome {
			return flow.Emit(&orderv1.OrderCompleted{OrderId: order(1)}).Disarm("deadline")
		}).Emits(&orderv1.OrderCompleted{}))
}

func TestATimerIsAMessageToOneself(t *testing.T) {
	f := clock()
	s := store.NewMemory()
	command := flow.NewCommand("open", event.NewID(), uuid.MustParse(order(1)), "customer:ada", open{})
	handled(t, process(s, f, command), "order.placed")
	timers := s.Timers()
	if len(timers) != 1 || !timers[0].DueAt.Equal(time.Unix(100, 0)) {
		t.Fatalf("armed %+v", timers)
	}
	timer := timers[0].Record
	if timer.ID != event.DerivedID(command.Saga, "deadline") || timer.Type != "order.deadline" || timer.Source != "order" || timer.Causation != command.ID || timer.Hops != 1 || timer.Saga != command.Saga {
		t.Errorf("the timer is %+v", timer)
	}
	m, err := f.Accept(timer)
	if err != nil {
		t.Fatal(err)
	}
	v := process(s, f, m)
	handled(t, v, "order.cancel_requested")
	if e := v[0].Events[0]; e.Causation != timer.ID || e.Hops != 2 || e.Actor != "customer:ada" {
		t.Errorf("caused %+v", e)
	}
	handled(t, process(s, f, heard(t, f, order(1), &deliveryv1.DeliveryDelivered{OrderId: order(1)})), "order.completed")
	if timers := s.Timers(); len(timers) != 0 {
		t.Errorf("still armed: %+v", timers)
	}
}

func TestATimerThatIsDisarmedInTheBatchThatArmsItIsNotArmed(t *testing.T) {
	f := clock()
	s := store.NewMemory()
	opens := flow.NewCommand("open", event.NewID(), uuid.MustParse(order(1)), "customer:ada", open{})
	handled(t, process(s, f, opens, heard(t, f, order(1), &deliveryv1.DeliveryDelivered{OrderId: order(1)})), "order.placed", "order.completed")
	if timers := s.Timers(); len(timers) != 0 {
		t.Errorf("armed: %+v", timers)
	}
}

// bar is a small make service with two steps that one failure undoes.
func bar() *flow.Flow {
	drinks, stock := flow.NewStream("drink", func(n *int, _ proto.Message) { *n++ }), flow.NewStream("stock", func(n *int, _ proto.Message) { *n++ })
	return flow.New("make", drinks, stock,
		flow.On("reserve", drinks, func(_ *int, m *payv1.PaymentCaptured) flow.Outcome {
			return flow.Emit(&makev1.StockReserved{Location: "main", OrderId: m.OrderId})
		}).Emits(&makev1.StockReserved{}),
		flow.Compensate("release", "reserve", drinks, func(_ *int, m *makev1.StockReserved, _ flow.Failure) flow.Outcome {
			return flow.Emit(&makev1.StockReleased{Location: "main", OrderId: m.OrderId})
		}).When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.StockReleased{}),
		flow.On("brew", drinks, func(_ *int, m *makev1.StockReserved) flow.Outcome {
			return flow.Emit(&makev1.DrinkMade{OrderId: m.OrderId})
		}).Emits(&makev1.DrinkMade{}),
		flow.Compensate("discard", "brew", drinks, func(_ *int, m *makev1.DrinkMade, _ flow.Failure) flow.Outcome {
			return flow.Emit(&makev1.DrinkDiscarded{OrderId: m.OrderId})
		}).When(&deliveryv1.DeliveryFailed{}).Emits(&makev1.DrinkDiscarded{}))
}

func TestWhatWasDoneLastIsUndoneFirst(t *testing.T) {
	f := bar()
	pays := paid(t, f, 1, "")
	reserves := heard(t, f, order(1), &makev1.StockReserved{Location: "main", OrderId: order(1)})
	fails := heard(t, f, order(1), &deliveryv1.DeliveryFailed{OrderId: order(1)})
	for _, batches := range [][][]flow.Message{{{pays}, {reserves}, {fails}}, {{pays, reserves}, {fails}}} {
		s := store.NewMemory()
		for _, batch := range batches {
			process(s, f, batch...)
		}
		if got := types(s.Log()); !slices.Equal(got, []string{"stock.reserved", "drink.made", "drink.discarded", "stock.released"}) {
			t.Errorf("in %d batches: %v", len(batches), got)
		}
	}
}

func TestOneFailureUndoesOneAndBarsTheOther(t *testing.T) {
	f := bar()
	s := store.NewMemory()
	verdicts := process(s, f, paid(t, f, 1, ""), heard(t, f, order(1), &deliveryv1.DeliveryFailed{OrderId: order(1)}),
		heard(t, f, order(1), &makev1.StockReserved{Location: "main", OrderId: order(1)}))
	handled(t, verdicts, "stock.reserved", "stock.released")
	if !verdicts[1].Suppressed || !verdicts[2].Suppressed {
		t.Errorf("got %+v", verdicts)
	}
}

var errAway = fmt.Errorf("%w: the cable is out", store.ErrUnavailable)

func TestAStoreThatIsAwayGivesAllVerdicts(t *testing.T) {
	f := desk()
	for name, away := range map[string]func(*hooked){
		"begin":  func(s *hooked) { s.begin = func() error { return errAway } },
		"read":   func(s *hooked) { s.read = func(store.Request) error { return errAway } },
		"write":  func(s *hooked) { s.write = func(store.Changes) error { return errAway } },
		"commit": func(s *hooked) { s.commit = func(func() error) error { return errAway } },
	} {
		s := &hooked{Memory: store.NewMemory()}
		away(s)
		for i, v := range process(s, f, placed(t, f, 1, "ok"), placed(t, f, 2, "panic"), placed(t, f, 3, "ok")) {
			if !errors.Is(v.Err, store.ErrUnavailable) || v.Events != nil {
				t.Errorf("%s: message %d is %+v", name, i, v)
			}
		}
		if s.begun != 2 {
			t.Errorf("%s: asked %d times, want once more and no halving", name, s.begun)
		}
		if len(s.Log()) != 0 {
			t.Errorf("%s: the log has %v", name, types(s.Log()))
		}
	}
}

func TestAStoreThatIsBackAtOnceIsNotNoticed(t *testing.T) {
	f := desk()
	s := &hooked{Memory: store.NewMemory(), begin: times(1, errAway)}
	handled(t, process(s, f, placed(t, f, 1, "ok"), placed(t, f, 2, "ok")), "payment.captured", "payment.captured")
}

func TestTheInboxTellsWhatBecameOfACommitOfUnknownOutcome(t *testing.T) {
	f := desk()
	a, b := placed(t, f, 1, "ok"), placed(t, f, 2, "ok")

	s := &hooked{Memory: store.NewMemory()}
	fail := times(1, errAway)
	s.commit = func(really func() error) error {
		if err := fail(); err != nil {
			return errors.Join(err, really()) // it lasts, but nobody hears so
		}
		return really()
	}
	for i, v := range process(s, f, a, b) {
		if v.Err != nil || !v.Duplicate || v.First.Saga != []flow.Message{a, b}[i].Saga || len(v.Events) != 0 {
			t.Errorf("committed: message %d is %+v", i, v)
		}
	}
	if got := types(s.Log()); !slices.Equal(got, []string{"payment.captured", "payment.captured"}) {
		t.Errorf("committed: the log has %v", got)
	}

	s = &hooked{Memory: store.NewMemory()}
	fail = times(1, errAway)
	s.commit = func(really func() error) error {
		if err := fail(); err != nil {
			return err
		}
		return really()
	}
	handled(t, process(s, f, a, b), "payment.captured", "payment.captured")
	if got := types(s.Log()); !slices.Equal(got, []string{"payment.captured", "payment.captured"}) {
		t.Errorf("lost: the log has %v", got)
	}
}

func TestAConflictIsDecidedAgainUponWhatIsTrueNow(t *testing.T) {
	f := shelf()
	s := &hooked{Memory: store.NewMemory()}
	fail := times(1, store.ErrConflict)
	s.write = func(store.Changes) error { return fail() }
	s.begin = func() error {
		if s.begun == 2 { // somebody else was first
			handled(t, process(s.Memory, f, paid(t, f, 9, "")), "stock.reserved")
		}
		return nil
	}
	handled(t, process(s, f, paid(t, f, 1, ""), paid(t, f, 2, "")), "stock.reserved", "stock.depleted", "stock.reserved")
	if got := state[count](t, s.Memory, f, "stock/main"); got != (count{Reserved: 3, Depleted: 1}) {
		t.Errorf("the stock is %+v", got)
	}
}

func TestAnotherInstanceMayHaveHandledTheMessageBefore(t *testing.T) {
	f := shelf()
	s := &hooked{Memory: store.NewMemory()}
	m := paid(t, f, 1, "")
	fail := times(1, store.ErrConflict)
	s.write = func(store.Changes) error { return fail() }
	s.begin = func() error {
		if s.begun == 2 {
			handled(t, process(s.Memory, f, m), "stock.reserved")
		}
		return nil
	}
	if v := process(s, f, m)[0]; v.Err != nil || !v.Duplicate {
		t.Errorf("got %+v", v)
	}
}

func TestAConflictWithoutEndIsTroubleOfWhoHasIt(t *testing.T) {
	f := desk()
	s := &hooked{Memory: store.NewMemory()}
	cursed := placed(t, f, 2, "ok")
	s.write = func(c store.Changes) error {
		if slices.ContainsFunc(c.Claims, func(c store.Claim) bool { return c.Message == cursed.ID }) {
			return store.ErrConflict
		}
		return nil
	}
	verdicts := process(s, f, placed(t, f, 1, "ok"), cursed, placed(t, f, 3, "ok"))
	handled(t, []flow.Verdict{verdicts[0], verdicts[2]}, "payment.captured", "payment.captured")
	if v := verdicts[1]; !errors.Is(v.Err, store.ErrConflict) {
		t.Errorf("got %+v", v)
	}
	if fate := f.Fate(cursed, verdicts[1]); fate.RetryAfter != time.Second {
		t.Errorf("its fate is %+v", fate)
	}
}

func TestABatchThatCannotBeWrittenIsHalvedUntilTheCulpritIsAlone(t *testing.T) {
	f := desk()
	errDisk := errors.New("value too long")
	for _, culprits := range [][]int{{0}, {5}, {15}, {3, 4}, {0, 8, 15}} {
		s := &hooked{Memory: store.NewMemory()}
		var batch []flow.Message
		bad := map[uuid.UUID]bool{}
		for i := range 16 {
			m := placed(t, f, i, "ok")
			bad[m.ID] = slices.Contains(culprits, i)
			batch = append(batch, m)
		}
		s.write = func(c store.Changes) error {
			if slices.ContainsFunc(c.Claims, func(c store.Claim) bool { return bad[c.Message] }) {
				return errDisk
			}
			return nil
		}
		for i, v := range process(s, f, batch...) {
			if bad[batch[i].ID] {
				if !errors.Is(v.Err, errDisk) || v.Events != nil {
					t.Errorf("culprits %v: %d is %+v", culprits, i, v)
				}
				continue
			}
			if v.Err != nil || len(v.Events) != 1 {
				t.Errorf("culprits %v: %d is %+v", culprits, i, v)
			}
		}
		if len(s.Log()) != 16-len(culprits) {
			t.Errorf("culprits %v: %d events in the log", culprits, len(s.Log()))
		}
		if most := 1 + 8*len(culprits); s.begun > most {
			t.Errorf("culprits %v: %d transactions, want at most %d", culprits, s.begun, most)
		}
	}
}

func TestASourceThatKeepsNamingKeysIsStopped(t *testing.T) {
	payments := newPayments()
	chase := flow.On("chase", flow.Join(func(r flow.Reader, m *orderv1.OrderPlaced, _ event.Envelope) *payment {
		if m.PaymentToken != "chase" {
			return payments.Of(r, m.OrderId)
		}
		p := payments.Of(r, event.NewID().String())
		return p
	}), func(*payment, *orderv1.OrderPlaced) flow.Outcome { return flow.Nothing() })
	f := flow.New("pay", payments, chase)
	verdicts := process(store.NewMemory(), f, placed(t, f, 1, "ok"), placed(t, f, 2, "chase"), placed(t, f, 3, "ok"))
	handled(t, []flow.Verdict{verdicts[0], verdicts[2]})
	if v := verdicts[1]; v.Err == nil || !strings.Contains(v.Err.Error(), "a source keeps naming new keys") {
		t.Errorf("got %+v", v)
	}
}

func TestASourceMayFollowWhatItReads(t *testing.T) {
	type chain struct{ Next string }
	type pair struct{ first, second *chain }
	links := flow.NewStream("customer", func(c *chain, fact proto.Message) {
		c.Next = fmt.Sprintf("after-%d", fact.(*payv1.CustomerFlagged).Refusals)
	})
	f := flow.New("pay", links,
		flow.On("follow", flow.Join(func(r flow.Reader, m *orderv1.OrderPlaced, _ event.Envelope) *pair {
			p := &pair{first: links.Of(r, m.Customer)}
			if p.first.Next != "" {
				p.second = links.Of(r, p.first.Next)
			}
			return p
		}), func(p *pair, m *orderv1.OrderPlaced) flow.Outcome {
			if p.second == nil {
				return flow.Emit(&payv1.CustomerFlagged{Customer: m.Customer, Refusals: 2}, &payv1.CustomerFlagged{Customer: "after-2", Refusals: 3})
			}
			return flow.Emit(&payv1.CustomerFlagged{Customer: p.second.Next})
		}).Emits(&payv1.CustomerFlagged{}))
	s := &hooked{Memory: store.NewMemory()}
	handled(t, process(s, f, placed(t, f, 1, "")), "customer.flagged", "customer.flagged")
	v := process(s, f, placed(t, f, 2, ""))
	handled(t, v, "customer.flagged")
	if e := v[0].Events[0]; e.Stream != "customer/after-3" || e.Version != 1 {
		t.Errorf("followed to %s", e.Stream)
	}
}

func TestTheStateIsTheFoldOfTheLog(t *testing.T) {
	f := desk()
	s := store.NewMemory()
	for n := range 4 {
		process(s, f, placed(t, f, n, []string{"ok", "fail", "nothing", "ok"}[n]), makeFailed(t, f, n, "out_of_stock"))
	}
	for n := range 4 {
		state[payment](t, s, f, "payment/"+order(n))
	}
	log := s.Log()
	if _, err := f.Fold("order/"+order(1), nil); err == nil || !strings.Contains(err.Error(), `has no streams "order"`) {
		t.Errorf("a stream of others: %v", err)
	}
	unknown, broken := log[0], log[0]
	unknown.Type, broken.Body = "payment.stolen", []byte("[]")
	for _, c := range []struct {
		record event.Record
		why    string
	}{{unknown, `unknown type "payment.stolen"`}, {broken, "payment.captured"}} {
		if _, err := f.Fold(log[0].Stream, []event.Record{c.record}); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("got %v, want %q", err, c.why)
		}
	}
}

func TestAViewIsTheFoldOfItsEvents(t *testing.T) {
	f := diary()
	s := store.NewMemory()
	var records []event.Record
	arrive := func(version int64, saga string, fact proto.Message) {
		r := wire(t, saga, fact)
		r.Version = version
		m, err := f.Accept(r)
		if err != nil {
			t.Fatal(err)
		}
		records = append(append(records, r), process(s, f, m)[0].Events...)
	}
	arrive(1, order(1), &orderv1.OrderPlaced{OrderId: order(1), Customer: "ada"})
	arrive(1, order(2), &orderv1.OrderPlaced{OrderId: order(2), Customer: "eve", PaymentToken: "fail"})
	arrive(1, order(3), &orderv1.OrderPlaced{OrderId: order(3), PaymentToken: "nothing"})
	arrive(3, order(4), &menuv1.ItemEdited{Sku: "a", Name: "three"})
	arrive(1, order(5), &menuv1.ItemAdded{Sku: "a", Name: "one"})
	for _, c := range []struct{ table, key string }{
		{"by_saga", order(1)}, {"by_saga", order(2)}, {"by_saga", order(3)}, {"by_customer", "ada"}, {"by_customer", "everybody"},
		{"journal", records[0].ID.String()}, {"journal", records[1].ID.String()}, {"copy", "a"},
	} {
		fold, done, err := f.Refold(c.table)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			e, _ := contract.Lookup(r.Type)
			fact, err := e.Unmarshal(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			fold(fact, r.Envelope)
		}
		docs, err := done()
		at := slices.IndexFunc(docs, func(d store.Doc) bool { return d.Key.Key == c.key })
		if err != nil || at < 0 {
			t.Fatalf("%s in %s is not folded: %v, %v", c.key, c.table, docs, err)
		}
		if kept, _ := doc(t, s, c.table, c.key); string(docs[at].Body) != kept {
			t.Errorf("%s in %s is %s, but its events are %s", c.key, c.table, kept, docs[at].Body)
		}
		if again, err := done(); len(again) != 0 || err != nil {
			t.Errorf("it does not begin anew: %v, %v", again, err)
		}
	}
	if _, _, err := f.Refold("by_heart"); err == nil || !strings.Contains(err.Error(), `has no table "by_heart"`) {
		t.Errorf("an unknown table: %v", err)
	}
}

func TestADocumentThatCannotBeReadIsTheTroubleOfItsMessage(t *testing.T) {
	f := desk()
	s := store.NewMemory()
	tx, _ := s.Begin(t.Context())
	if err := tx.Write(t.Context(), store.Changes{Docs: []store.Doc{{Key: store.Key{Table: flow.States, Key: "payment/" + order(2)}, Version: 1, Body: []byte(`{"Captured": "lots"}`)}}}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	verdicts := process(s, f, placed(t, f, 1, "ok"), placed(t, f, 2, "ok"), placed(t, f, 3, "ok"))
	handled(t, []flow.Verdict{verdicts[0], verdicts[2]}, "payment.captured", "payment.captured")
	if v := verdicts[1]; v.Err == nil || !strings.Contains(v.Err.Error(), "payment/"+order(2)+" of stream_state cannot be read") {
		t.Errorf("got %+v", v)
	}
}
