package order

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

func TestMain(m *testing.M) { flowtest.Main(m, Flow) }

var due = time.Date(2026, 12, 6, 16, 45, 0, 0, time.UTC)

func eur(amount int64) *shopv1.Money { return &shopv1.Money{Amount: amount, Currency: "EUR"} }

func added(sku string, price int64) *menuv1.ItemAdded {
	return &menuv1.ItemAdded{Sku: sku, Name: "Hot " + sku, Price: eur(price), Available: true, Offered: true}
}

// wish is two cups of classic and one of dark, brought to the door.
func wish() PlaceOrder {
	return PlaceOrder{
		OrderID: flowtest.Order, Customer: "ada", PaymentToken: "tok_ok", Deadline: due,
		Lines:    []WishedLine{{"classic", 2}, {"dark", 1}},
		Handover: &shopv1.Handover{Type: "address", Address: "12 Mill Lane"},
	}
}

// menued is a shop that sells classic and dark.
func menued(t *testing.T) *flowtest.Saga {
	t.Helper()
	s := flowtest.New(t, Flow)
	s.Given(added("classic", 450), added("dark", 480))
	return s
}

// ordered is a shop with an order under way.
func ordered(t *testing.T) *flowtest.Saga {
	t.Helper()
	s := menued(t)
	s.GivenDone("place", wish())
	return s
}

// record is an event of another service, as it comes over the wire.
func record(t *testing.T, version int64, fact proto.Message) event.Record {
	t.Helper()
	e, _ := contract.Of(fact)
	body, err := contract.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	return event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: 1, Source: e.Owner, Stream: e.StreamOf(fact), Version: version,
		Saga: uuid.MustParse(flowtest.Order), Causation: event.NewID(), Hops: 4, At: due,
	}}
}

// arrives lets a record arrive and returns what it caused.
func arrives(t *testing.T, s *flowtest.Saga, r event.Record) []event.Record {
	t.Helper()
	m, err := Flow.Accept(r)
	if err != nil {
		t.Fatal(err)
	}
	v := flow.NewDoor(Flow, s.Store(), nil, nil).Process(context.Background(), []flow.Message{m})[0]
	if v.Err != nil {
		t.Fatal(v.Err)
	}
	return v.Events
}

var (
	declined   = &payv1.PaymentFailed{OrderId: flowtest.Order, Customer: "ada", Reason: "declined", Detail: "ask your bank"}
	outOfStock = &makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock", Detail: "milk: 400 needed, 100 left"}
	nobodyHome = &deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "nobody_home", Detail: "rang twice"}
	delivered  = &deliveryv1.DeliveryDelivered{OrderId: flowtest.Order, Courier: "Grace"}
	timeIsUp   = &orderv1.OrderDeadline{OrderId: flowtest.Order}
)

func TestAnOrderIsPlacedAtThePricesAndNamesOfTheMenu(t *testing.T) {
	s := menued(t)
	s.WhenDone("place", wish())
	s.Then(&orderv1.OrderPlaced{
		OrderId: flowtest.Order, Customer: "ada", Total: eur(2*450 + 480), PaymentToken: "tok_ok",
		Lines: []*shopv1.Line{
			{Sku: "classic", Name: "Hot classic", Quantity: 2, UnitPrice: eur(450)},
			{Sku: "dark", Name: "Hot dark", Quantity: 1, UnitPrice: eur(480)},
		},
		Handover: &shopv1.Handover{Type: "address", Address: "12 Mill Lane"}, Deadline: timestamppb.New(due),
	})
	s.ThenBarrier("place", "done")
	s.ThenArmed("order.deadline", true)
	if timer := s.Store().Timers()[0]; !timer.DueAt.Equal(due) {
		t.Errorf("the timer is due at %v, want %v", timer.DueAt, due)
	}
}

func TestALaterEditDoesNotChangeWhatWasSold(t *testing.T) {
	s := ordered(t)
	s.Given(&menuv1.ItemEdited{Sku: "classic", Name: "Classic, dearer", Price: eur(900), Available: true})
	if got := flowtest.Doc[Status](s, "order_status", flowtest.Order); got.Total != (Money{1380, "EUR"}) || got.Lines[0] != (Line{"classic", "Hot classic", 2, Money{450, "EUR"}}) {
		t.Errorf("the order became %+v", got)
	}
}

func TestWhatIsNotForSaleIsRefused(t *testing.T) {
	for _, c := range []struct {
		because string
		given   []proto.Message
	}{
		{"unknown-item", nil},
		{"retired-item", []proto.Message{added("winter", 550), &menuv1.ItemRetired{Sku: "winter"}}},
		{"item-unavailable", []proto.Message{added("winter", 550), &menuv1.ItemEdited{Sku: "winter", Name: "Winter", Price: eur(550), Offered: true, Depleted: []string{"spice"}}}},
		{"item-unavailable", []proto.Message{&menuv1.ItemAdded{Sku: "winter", Name: "Winter", Price: eur(550)}}},
		{"mixed-currencies", []proto.Message{&menuv1.ItemAdded{Sku: "winter", Name: "Winter", Price: &shopv1.Money{Amount: 550, Currency: "CHF"}, Available: true}}},
	} {
		s := menued(t)
		s.Given(c.given...)
		w := wish()
		w.Lines = append(w.Lines, WishedLine{"winter", 1})
		s.WhenDone("place", w)
		s.ThenRefused(c.because)
		s.ThenArmed("order.deadline", false)
		s.ThenBarrier("place", "")
	}
}

func TestWhatWasSoldOutIsSoldAgainWhenItIsBack(t *testing.T) {
	s := menued(t)
	sold := &menuv1.ItemEdited{Sku: "dark", Name: "Hot dark", Price: eur(480), Offered: true, Depleted: []string{"milk"}}
	s.Given(sold, &menuv1.ItemEdited{Sku: "dark", Name: "Hot dark", Price: eur(490), Offered: true, Available: true})
	s.WhenDone("place", wish())
	if got := flowtest.Doc[Status](s, "order_status", flowtest.Order); got.Total.Amount != 2*450+490 {
		t.Errorf("sold for %d", got.Total.Amount)
	}
}

func TestThereIsOneOrderOfAnID(t *testing.T) {
	s := ordered(t)
	s.WhenDone("place", wish())
	s.ThenRefused("order-exists")
	s.Given(declined)
	s.WhenDone("place", wish())
	s.ThenRefused("order-exists")
}

func TestTheNewestWordOnAnItemCounts(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      []proto.Message // in the order in which they arrive
		as      []int64
		refused string
		total   int64
	}{
		{"edited before added", []proto.Message{&menuv1.ItemEdited{Sku: "classic", Name: "Classic", Price: eur(500), Available: true}, added("classic", 450)}, []int64{2, 1}, "", 1000},
		{"the newest first", []proto.Message{&menuv1.ItemEdited{Sku: "classic", Name: "Classic", Price: eur(700), Available: true}, &menuv1.ItemEdited{Sku: "classic", Price: eur(1)}, added("classic", 450)}, []int64{9, 5, 1}, "", 1400},
		{"retired before added", []proto.Message{&menuv1.ItemRetired{Sku: "classic"}, added("classic", 450)}, []int64{2, 1}, "retired-item", 0},
		{"sold out before added", []proto.Message{&menuv1.ItemEdited{Sku: "classic", Name: "Classic", Price: eur(450)}, added("classic", 450)}, []int64{2, 1}, "item-unavailable", 0},
		{"added anew before retired", []proto.Message{added("classic", 450), added("classic", 600), &menuv1.ItemRetired{Sku: "classic"}}, []int64{1, 3, 2}, "", 1200},
	} {
		s := flowtest.New(t, Flow)
		for i, fact := range c.in {
			arrives(t, s, record(t, c.as[i], fact))
		}
		w := wish()
		w.Lines = []WishedLine{{"classic", 2}}
		s.WhenDone("place", w)
		if c.refused != "" {
			s.ThenRefused(c.refused)
			continue
		}
		if got := flowtest.Doc[Status](s, "order_status", flowtest.Order); got.Total.Amount != c.total {
			t.Errorf("%s: sold for %d, want %d", c.name, got.Total.Amount, c.total)
		}
	}
}

func TestAFailureCancelsTheOrder(t *testing.T) {
	for _, c := range []struct {
		failed proto.Message
		want   *orderv1.OrderCancelled
	}{
		{declined, &orderv1.OrderCancelled{OrderId: flowtest.Order, Cause: "payment.failed", Reason: "declined", Detail: "ask your bank"}},
		{outOfStock, &orderv1.OrderCancelled{OrderId: flowtest.Order, Cause: "make.failed", Reason: "out_of_stock", Detail: "milk: 400 needed, 100 left"}},
		{nobodyHome, &orderv1.OrderCancelled{OrderId: flowtest.Order, Cause: "delivery.failed", Reason: "nobody_home", Detail: "rang twice"}},
	} {
		s := ordered(t)
		s.When(c.failed)
		s.Then(c.want)
		s.ThenBarrier("place", "undone")
		s.ThenArmed("order.deadline", false)
		if got := flowtest.Doc[Order](s, flow.States, "order/"+flowtest.Order); got.Phase != Cancelled {
			t.Errorf("the order is %s", got.Phase)
		}
	}
}

func TestASecondFailureChangesNothing(t *testing.T) {
	failures := []proto.Message{declined, outOfStock, nobodyHome}
	for _, first := range failures {
		for _, second := range failures {
			if first == second {
				continue
			}
			s := ordered(t)
			s.Given(first)
			s.When(second)
			s.Then()
			if got := flowtest.Doc[Order](s, flow.States, "order/"+flowtest.Order); got.Phase != Cancelled {
				t.Errorf("the order is %s", got.Phase)
			}
		}
	}
}

func TestAFailureOfAnOrderThatNeverWasBarsIt(t *testing.T) {
	s := menued(t)
	s.When(outOfStock)
	s.ThenSuppressed()
	s.ThenBarrier("place", "suppressed")
}

func TestACancelIsPassedOnOnce(t *testing.T) {
	s := ordered(t)
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.Then(&orderv1.OrderCancelRequested{OrderId: flowtest.Order, By: "customer"})
	s.ThenArmed("order.deadline", true) // make may still find it too late
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.Then()
}

func TestACancelOfAnUnknownOrderIsRefused(t *testing.T) {
	s := menued(t)
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.ThenRefused("unknown-order")
}

func TestACancelAfterTheEndIsTooLateOrNotNeeded(t *testing.T) {
	s := ordered(t)
	s.Given(delivered)
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.ThenRefused("order-completed")

	s = ordered(t)
	s.Given(declined)
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.Then()
}

func TestACancelledOrderThatMakeDidNotCancelIsCompleted(t *testing.T) {
	s := ordered(t)
	s.GivenDone("request-cancel", RequestCancel{flowtest.Order})
	s.Given(&makev1.MakeCancelRejected{OrderId: flowtest.Order, Detail: "too late"})
	s.When(delivered)
	s.Then(&orderv1.OrderCompleted{OrderId: flowtest.Order})
}

func TestTheDeadlineAsksForACancel(t *testing.T) {
	s := ordered(t)
	s.WhenDue("order.deadline")
	s.Then(&orderv1.OrderCancelRequested{OrderId: flowtest.Order, By: "deadline"})
	s.WhenDone("request-cancel", RequestCancel{flowtest.Order})
	s.Then()
}

func TestTheDeadlineComesTooLateOrSecond(t *testing.T) {
	for _, given := range []func(*flowtest.Saga){
		func(s *flowtest.Saga) { s.Given(delivered) },
		func(s *flowtest.Saga) { s.Given(nobodyHome) },
		func(s *flowtest.Saga) { s.GivenDone("request-cancel", RequestCancel{flowtest.Order}) },
	} {
		s := ordered(t)
		given(s)
		s.When(timeIsUp) // it was on its way when it was disarmed
		s.Then()
	}
}

func TestADeliveredOrderIsCompleted(t *testing.T) {
	s := ordered(t)
	s.When(delivered)
	s.Then(&orderv1.OrderCompleted{OrderId: flowtest.Order})
	s.ThenArmed("order.deadline", false)
	if got := flowtest.Doc[Status](s, "order_status", flowtest.Order); got.Status != "completed" || !got.Ended {
		t.Errorf("people see %+v", got)
	}
}

func TestADeliveryAfterTheCancellationCompletesNothing(t *testing.T) {
	s := ordered(t)
	s.Given(outOfStock)
	s.When(delivered)
	s.Then()
}

func TestTheOrderKeepsWhomPayHasFlagged(t *testing.T) {
	s := menued(t)
	s.When(&payv1.CustomerFlagged{Customer: "ada", Refusals: 3, WindowSeconds: 600})
	s.Then()
	if got := flowtest.Doc[Customer](s, "customer_copy", "ada"); got.Refusals != 3 || got.FlaggedAt.IsZero() {
		t.Errorf("kept %+v", got)
	}
}

func TestTheNewestFlagOfACustomerCounts(t *testing.T) {
	var c Customer
	for _, f := range []struct {
		refusals int32
		after    time.Duration
	}{{3, time.Hour}, {5, 2 * time.Hour}, {4, time.Minute}} {
		c.fold(&payv1.CustomerFlagged{Customer: "ada", Refusals: f.refusals}, event.Envelope{At: due.Add(f.after)})
	}
	if c.Refusals != 5 || !c.FlaggedAt.Equal(due.Add(2*time.Hour)) {
		t.Errorf("kept %+v", c)
	}
}
