package flow_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// order is the ID of the nth order.
func order(n int) string { return fmt.Sprintf("01900000-0000-7000-8000-%012d", n) }

func eur(amount int64) *shopv1.Money { return &shopv1.Money{Amount: amount, Currency: "EUR"} }

// wire is an event as it comes over the wire, the first of its stream.
func wire(t *testing.T, saga string, fact proto.Message) event.Record {
	t.Helper()
	e, ok := contract.Of(fact)
	if !ok {
		t.Fatalf("%T is not declared", fact)
	}
	body, err := contract.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	return event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: e.Version, Source: e.Owner, Stream: e.StreamOf(fact), Version: 1,
		Saga: uuid.MustParse(saga), Causation: event.NewID(), Hops: 2, Actor: "customer:ada",
	}}
}

// heard is the message that such an event makes.
func heard(t *testing.T, f *flow.Flow, saga string, fact proto.Message) flow.Message {
	t.Helper()
	m, err := f.Accept(wire(t, saga, fact))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// placed is an order with a wish at the cash desk, see desk.
func placed(t *testing.T, f *flow.Flow, n int, wish string) flow.Message {
	t.Helper()
	return heard(t, f, order(n), &orderv1.OrderPlaced{OrderId: order(n), Customer: "ada", PaymentToken: wish, Total: eur(450)})
}

// payment is the state of a payment at the cash desk.
type payment struct {
	Captured, Refunded int
}

func (p *payment) evolve(fact proto.Message) {
	switch fact.(type) {
	case *payv1.PaymentCaptured:
		p.Captured++
	case *payv1.PaymentRefunded:
		p.Refunded++
	}
}

func newPayments() *flow.Stream[payment] { return flow.NewStream("payment", (*payment).evolve) }

// captured is what the cash desk says when all is well.
func captured(placed *orderv1.OrderPlaced) *payv1.PaymentCaptured {
	return &payv1.PaymentCaptured{OrderId: placed.OrderId, Customer: placed.Customer, Amount: placed.Total}
}

// charge does as the order's token says.
func charge(_ *payment, placed *orderv1.OrderPlaced) flow.Outcome {
	switch placed.PaymentToken {
	case "panic":
		var nobody *payment
		nobody.Captured++
	case "undeclared":
		return flow.Emit(&payv1.CustomerFlagged{Customer: placed.Customer})
	case "foreign":
		return flow.Emit(captured(placed), &orderv1.OrderCompleted{OrderId: placed.OrderId})
	case "no event":
		return flow.Emit(captured(placed), &shopv1.Money{})
	case "no key":
		return flow.Emit(&payv1.PaymentCaptured{})
	case "no text":
		return flow.Emit(captured(placed), &payv1.PaymentFailed{OrderId: placed.OrderId, Reason: "\xff"})
	case "too early":
		return flow.NotYet("nobody has counted the till")
	case "refuse":
		return flow.Refuse(flow.Conflict, "no-money", "No money today.")
	case "strange timer":
		return flow.Emit(captured(placed)).At(placed.Deadline.AsTime(), "tick", &orderv1.OrderDeadline{OrderId: placed.OrderId})
	case "nothing":
		return flow.Nothing()
	case "fail":
		return flow.Emit(&payv1.PaymentFailed{OrderId: placed.OrderId, Customer: placed.Customer, Reason: "declined"})
	}
	return flow.Emit(captured(placed))
}

func refund(_ *payment, fact *payv1.PaymentCaptured, because flow.Failure) flow.Outcome {
	if because.Reason == "say nothing" {
		return flow.Nothing()
	}
	return flow.Emit(&payv1.PaymentRefunded{OrderId: fact.OrderId, Amount: fact.Amount, Reason: because.Type + ": " + because.Reason + ": " + because.Detail})
}

// desk is a small pay service without anybody outside: it charges, and gives back.
func desk(more ...flow.Part) *flow.Flow {
	payments := newPayments()
	return flow.New("pay", append([]flow.Part{
		payments,
		flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}),
		flow.Compensate("refund", "charge", payments, refund).When(&makev1.MakeFailed{}, &deliveryv1.DeliveryFailed{}).Emits(&payv1.PaymentRefunded{}),
	}, more...)...)
}

func makeFailed(t *testing.T, f *flow.Flow, n int, reason string) flow.Message {
	t.Helper()
	return heard(t, f, order(n), &makev1.MakeFailed{OrderId: order(n), Reason: reason, Detail: "no milk"})
}

// hooked is a store in memory that misbehaves as the test says.
type hooked struct {
	*store.Memory
	mu     sync.Mutex
	begin  func() error
	read   func(store.Request) error
	write  func(store.Changes) error
	commit func(really func() error) error
	begun  int
	writes []int // how many claims each write had
}

func (h *hooked) Begin(ctx context.Context) (store.Tx, error) {
	h.mu.Lock()
	h.begun++
	h.mu.Unlock()
	if h.begin != nil {
		if err := h.begin(); err != nil {
			return nil, err
		}
	}
	tx, err := h.Memory.Begin(ctx)
	return &hookedTx{tx, h}, err
}

type hookedTx struct {
	store.Tx
	h *hooked
}

func (t *hookedTx) Read(ctx context.Context, r store.Request) (store.Snapshot, error) {
	if t.h.read != nil {
		if err := t.h.read(r); err != nil {
			return store.Snapshot{}, err
		}
	}
	return t.Tx.Read(ctx, r)
}

func (t *hookedTx) Write(ctx context.Context, c store.Changes) error {
	t.h.mu.Lock()
	t.h.writes = append(t.h.writes, len(c.Claims))
	t.h.mu.Unlock()
	if t.h.write != nil {
		if err := t.h.write(c); err != nil {
			return err
		}
	}
	return t.Tx.Write(ctx, c)
}

func (t *hookedTx) Commit() error {
	if t.h.commit != nil {
		return t.h.commit(t.Tx.Commit)
	}
	return t.Tx.Commit()
}

// times gives the error the first n times, then none.
func times(n int, err error) func() error {
	return func() error {
		if n--; n >= 0 {
			return err
		}
		return nil
	}
}

func process(s store.Store, f *flow.Flow, batch ...flow.Message) []flow.Verdict {
	return flow.NewDoor(f, s, nil, nil).Process(context.Background(), batch)
}

// handled fails the test unless these messages were handled, and caused events of these types in all.
func handled(t *testing.T, verdicts []flow.Verdict, want ...string) {
	t.Helper()
	var got []string
	for i, v := range verdicts {
		if v.Err != nil || v.Refusal != nil || v.Duplicate {
			t.Errorf("message %d was not handled: %+v", i, v)
		}
		got = append(got, types(v.Events)...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("caused %v, want %v", got, want)
	}
}

func types(records []event.Record) (types []string) {
	for _, r := range records {
		types = append(types, r.Type)
	}
	return types
}

// state decodes the state of a stream, which must be the fold of its events.
func state[S any](t *testing.T, m *store.Memory, f *flow.Flow, stream string) (s S) {
	t.Helper()
	var records []event.Record
	for _, r := range m.Log() {
		if r.Stream == stream {
			records = append(records, r)
			if r.Version != int64(len(records)) {
				t.Errorf("%s has version %d where %d is due", stream, r.Version, len(records))
			}
		}
	}
	doc, ok := m.Doc(store.Key{Table: flow.States, Key: stream})
	if !ok && len(records) == 0 {
		return s
	}
	folded, err := f.Fold(stream, records)
	if err != nil {
		t.Fatal(err)
	}
	if string(folded) != string(doc.Body) || doc.Version != int64(len(records)) {
		t.Errorf("the state of %s is version %d, %s, but its %d events are %s", stream, doc.Version, doc.Body, len(records), folded)
	}
	if err := json.Unmarshal(doc.Body, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// asking is a charge for which somebody outside has to be asked.
func asking(payments *flow.Stream[payment], ask func(context.Context) error) flow.Part {
	return flow.Ask("charge", payments,
		func(ctx context.Context, _ flow.Call, _ *orderv1.OrderPlaced) (struct{}, error) {
			return struct{}{}, ask(ctx)
		},
		func(_ *payment, p *orderv1.OrderPlaced, _ struct{}) flow.Outcome { return flow.Emit(captured(p)) }).Emits(&payv1.PaymentCaptured{})
}

// listening is a step that hears failures and does nothing about them.
func listening(payments *flow.Stream[payment]) flow.Part {
	return flow.On("listen", payments, nothing[payment, *makev1.MakeFailed])
}
