package order

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow/flowtest"
	"hotchoc/pkg/store"
)

// A story is what happens in a saga, in an order in which it can happen: each event with the status that people see after
// it. In the end there may be a refund, and a cause.
type story struct {
	name          string
	events        string // "event status, event status, …"
	reason        string // of the Failed events
	refund, cause string
}

var stories = []story{
	{"completed", "order.placed placed, payment.captured paid, stock.reserved paid, drink.made made, stock.consumed made, delivery.dispatched dispatched, " +
		"delivery.delivered dispatched, order.completed completed", "", "", ""},
	{"cancelled too late", "order.placed placed, payment.captured paid, stock.reserved paid, order.cancel_requested cancelling, make.cancel_rejected paid, " +
		"drink.made made, stock.consumed made, delivery.dispatched dispatched, delivery.delivered dispatched, order.completed completed", "", "", ""},
	{"payment refused", "order.placed placed, payment.failed cancelling, order.cancelled cancelled", "declined", "", "payment.failed: declined"},
	{"out of stock", "order.placed placed, payment.captured paid, make.failed cancelling, order.cancelled cancelled, payment.refunded cancelled",
		"out_of_stock", "refunded", "make.failed: out_of_stock"},
	{"machine broken", "order.placed placed, payment.captured paid, stock.reserved paid, make.failed cancelling, stock.released cancelling, " +
		"order.cancelled cancelled, payment.refunded cancelled", "machine_broken", "refunded", "make.failed: machine_broken"},
	{"no courier", "order.placed placed, payment.captured paid, stock.reserved paid, drink.made made, stock.consumed made, delivery.failed cancelling, " +
		"order.cancelled cancelled, drink.discarded cancelled, payment.refunded cancelled", "no_courier", "refunded", "delivery.failed: no_courier"},
	{"nobody home", "order.placed placed, payment.captured paid, stock.reserved paid, drink.made made, stock.consumed made, delivery.dispatched dispatched, " +
		"delivery.failed cancelling, order.cancelled cancelled, drink.discarded cancelled, payment.refunded cancelled", "nobody_home", "refunded", "delivery.failed: nobody_home"},
	{"cancelled before the payment", "order.placed placed, order.cancel_requested cancelling, make.failed cancelling, order.cancelled cancelled, " +
		"payment.failed cancelled", "cancelled", "", "make.failed: cancelled"},
	{"cancelled after the payment", "order.placed placed, payment.captured paid, order.cancel_requested cancelling, make.failed cancelling, " +
		"order.cancelled cancelled, payment.refunded cancelled", "cancelled", "refunded", "make.failed: cancelled"},
}

// told is an event as the view hears it, and the status after it.
type told struct {
	fact   proto.Message
	e      event.Envelope
	status string
}

func (s story) told() (all []told) {
	cause, _, _ := strings.Cut(s.cause, ":")
	for i, line := range strings.Split(s.events, ", ") {
		typ, status, _ := strings.Cut(line, " ")
		fact := contract.Example(typ)
		switch f := fact.(type) {
		case *payv1.PaymentFailed:
			f.Reason = s.reason
		case *makev1.MakeFailed:
			f.Reason = s.reason
		case *deliveryv1.DeliveryFailed:
			f.Reason = s.reason
		case *orderv1.OrderCancelled:
			f.Cause, f.Reason = cause, s.reason
		}
		all = append(all, told{fact, event.Envelope{Type: typ, At: due.Add(time.Duration(i) * time.Second)}, status})
	}
	return all
}

// encoded is the document but for the order in which its events came, which nobody reads.
func encoded(t *testing.T, s Status) string {
	t.Helper()
	slices.Sort(s.Seen)
	doc, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func TestPeopleSeeHowFarAnOrderIs(t *testing.T) {
	for _, story := range stories {
		var s Status
		events := story.told()
		for i, e := range events {
			s.fold(e.fact, e.e)
			if s.Status != e.status {
				t.Errorf("%s: %q after %s, want %q", story.name, s.Status, e.e.Type, e.status)
			}
			if last := i == len(events)-1; s.Ended != last {
				t.Errorf("%s: ended is %v after %s", story.name, s.Ended, e.e.Type)
			}
		}
		if s.Refund != story.refund || s.Cause != story.cause {
			t.Errorf("%s: refund %q, cause %q", story.name, s.Refund, s.Cause)
		}
		last := events[len(events)-1]
		if s.Customer != "ada" || s.Total != (Money{900, "EUR"}) || len(s.Lines) != 1 || !s.PlacedAt.Equal(due) || !s.Updated.Equal(last.e.At) {
			t.Errorf("%s: the order is %+v", story.name, s)
		}
	}
}

// All orders of arrival are covered without going through each: what n events come to is what any of them adds to what
// the other n-1 can come to. So there is one pass per subset of the events, over the documents it can have led to.
func TestTheStatusIsTheSameInWhateverOrderTheEventsArrive(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			events := story.told()
			var want Status
			for _, e := range events {
				want.fold(e.fact, e.e)
			}
			docs := make([]map[string]bool, 1<<len(events))
			docs[0] = map[string]bool{encoded(t, Status{}): true}
			for subset, reached := range docs {
				for doc := range reached {
					for i, e := range events {
						next := subset | 1<<i
						if next == subset {
							continue
						}
						var s Status
						if err := json.Unmarshal([]byte(doc), &s); err != nil {
							t.Fatal(err)
						}
						s.fold(e.fact, e.e)
						if docs[next] == nil {
							docs[next] = map[string]bool{}
						}
						docs[next][encoded(t, s)] = true
					}
				}
			}
			ends := docs[len(docs)-1]
			if len(ends) != 1 || !ends[encoded(t, want)] {
				t.Errorf("the orders of arrival lead to %d documents: %v\nwant %s", len(ends), ends, encoded(t, want))
			}
		})
	}
}

func TestMoneyThatWasTakenIsOwedUntilItIsGivenBack(t *testing.T) {
	var s Status
	for _, c := range []struct {
		typ    string
		refund string
		ended  bool
	}{
		{"order.placed", "", false},
		{"payment.captured", "", false},
		{"make.failed", "", false},
		{"order.cancelled", "pending", false},
		{"payment.refunded", "refunded", true},
	} {
		s.fold(contract.Example(c.typ), event.Envelope{Type: c.typ, At: due})
		if s.Refund != c.refund || s.Ended != c.ended {
			t.Errorf("after %s the refund is %q and ended %v, want %q and %v", c.typ, s.Refund, s.Ended, c.refund, c.ended)
		}
	}
}

func TestACancelledOrderHasNotEndedUntilPayHasSpoken(t *testing.T) {
	// The cancel came before the payment, of which this service has not heard yet: there may be money to give back.
	var s Status
	for _, typ := range []string{"order.placed", "order.cancel_requested", "make.failed", "order.cancelled"} {
		s.fold(contract.Example(typ), event.Envelope{Type: typ, At: due})
	}
	if s.Ended || s.Refund != "" {
		t.Errorf("ended is %v, refund %q", s.Ended, s.Refund)
	}
	captured := s
	captured.fold(contract.Example("payment.captured"), event.Envelope{Type: "payment.captured", At: due})
	if captured.Ended || captured.Refund != "pending" {
		t.Errorf("captured after all: ended is %v, refund %q", captured.Ended, captured.Refund)
	}
	s.fold(contract.Example("payment.failed"), event.Envelope{Type: "payment.failed", At: due})
	if !s.Ended || s.Refund != "" {
		t.Errorf("never captured: ended is %v, refund %q", s.Ended, s.Refund)
	}
}

func TestAPageHasNoCauseAndNoRefundWhenThereIsNone(t *testing.T) {
	var s Status
	s.fold(contract.Example("order.placed"), event.Envelope{Type: "order.placed", At: due})
	if p := s.page("o1", 1); p.Refund != nil || p.Cause != nil || p.ID != "o1" || p.Version != 1 || p.Status != "placed" || p.ended {
		t.Errorf("the page is %+v", p)
	}
	s.fold(contract.Example("payment.failed"), event.Envelope{Type: "payment.failed", At: due})
	s.fold(contract.Example("order.cancelled"), event.Envelope{Type: "order.cancelled", At: due})
	if p := s.page("o1", 3); p.Refund != nil || p.Cause == nil || *p.Cause != "make.failed: out_of_stock" || !p.ended {
		t.Errorf("the page is %+v", p)
	}
}

func TestTheHistoryHasAnEntryPerEvent(t *testing.T) {
	s := ordered(t)
	records := s.Store().Log()
	for _, typ := range []string{"payment.captured", "stock.reserved", "drink.made", "stock.consumed", "delivery.dispatched", "delivery.delivered"} {
		fact := contract.Example(typ).ProtoReflect()
		fact.Set(fact.Descriptor().Fields().ByName("order_id"), protoreflect.ValueOfString(flowtest.Order))
		r := record(t, 1, fact.Interface())
		caused := arrives(t, s, r)
		if typ != "delivery.delivered" && len(caused) != 0 {
			t.Errorf("%s caused %v", typ, caused)
		}
		arrives(t, s, r) // once more: the same event, the same entry
		records = append(append(records, r), caused...)
	}
	if len(records) != 8 {
		t.Fatalf("%d events, want the 8 of a completed order", len(records))
	}
	for _, r := range records {
		got := flowtest.Doc[Entry](s, "order_history", r.ID.String())
		if got.Order != flowtest.Order || got.ID != r.ID.String() || got.Type != r.Type || got.Service != r.Source || got.Stream != r.Stream ||
			got.Version != r.Version || got.Causation != r.Causation.String() || got.Hops != r.Hops || !got.At.Equal(r.At) || string(got.Data) != string(r.Body) {
			t.Errorf("the entry of %s is %+v\nwant %+v", r.Type, got, r)
		}
	}
	// A status has one version per event as well.
	doc, _ := s.Store().Doc(store.Key{Table: "order_status", Key: flowtest.Order})
	if got := flowtest.Doc[Status](s, "order_status", flowtest.Order); doc.Version != 8 || got.Status != "completed" {
		t.Errorf("the status is version %d, %q", doc.Version, got.Status)
	}
}
func TestTheStatusDocumentDoesNotTellTheOrderOfArrival(t *testing.T) {
	events := stories[0].told() // completed
	var forwards, backwards Status
	for i := range events {
		forwards.fold(events[i].fact, events[i].e)
		backwards.fold(events[len(events)-1-i].fact, events[len(events)-1-i].e)
	}
	if !reflect.DeepEqual(forwards, backwards) {
		t.Errorf("one way\n\t%+v\nthe other\n\t%+v", forwards, backwards)
	}
}
