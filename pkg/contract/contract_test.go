package contract_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
)

// What is on the wire stays: readers and stored events know these names. Lines are added, never changed.
// Columns: wire type, message, owner, class, stream and key.
var frozen = []string{
	"customer.flagged hotchoc.pay.v1.CustomerFlagged pay keyed customer/customer",
	"delivery.delivered hotchoc.delivery.v1.DeliveryDelivered delivery keyed delivery/order_id",
	"delivery.dispatched hotchoc.delivery.v1.DeliveryDispatched delivery keyed delivery/order_id",
	"delivery.failed hotchoc.delivery.v1.DeliveryFailed delivery keyed delivery/order_id failure",
	"drink.discarded hotchoc.make.v1.DrinkDiscarded make keyed drink/order_id terminal",
	"drink.made hotchoc.make.v1.DrinkMade make keyed drink/order_id",
	"item.added hotchoc.menu.v1.ItemAdded menu entity item/sku",
	"item.edited hotchoc.menu.v1.ItemEdited menu entity item/sku",
	"item.retired hotchoc.menu.v1.ItemRetired menu tombstone item/sku",
	"make.cancel_rejected hotchoc.make.v1.MakeCancelRejected make keyed drink/order_id",
	"make.failed hotchoc.make.v1.MakeFailed make keyed drink/order_id failure",
	"order.cancel_requested hotchoc.order.v1.OrderCancelRequested order keyed order/order_id",
	"order.cancelled hotchoc.order.v1.OrderCancelled order keyed order/order_id terminal",
	"order.completed hotchoc.order.v1.OrderCompleted order keyed order/order_id terminal",
	"order.deadline hotchoc.order.v1.OrderDeadline order timer order/order_id",
	"order.placed hotchoc.order.v1.OrderPlaced order keyed order/order_id",
	"payment.captured hotchoc.pay.v1.PaymentCaptured pay keyed payment/order_id",
	"payment.failed hotchoc.pay.v1.PaymentFailed pay keyed payment/order_id failure",
	"payment.refunded hotchoc.pay.v1.PaymentRefunded pay keyed payment/order_id terminal",
	"stock.consumed hotchoc.make.v1.StockConsumed make keyed stock/location",
	"stock.depleted hotchoc.make.v1.StockDepleted make keyed stock/location",
	"stock.released hotchoc.make.v1.StockReleased make keyed stock/location",
	"stock.replenished hotchoc.make.v1.StockReplenished make keyed stock/location",
	"stock.reserved hotchoc.make.v1.StockReserved make keyed stock/location",
}

func TestDeclarationsAreFrozen(t *testing.T) {
	var declared []string
	for _, e := range contract.All() {
		line := strings.Join([]string{e.Type, string(proto.MessageName(e.New())), e.Owner, string(e.Class), e.Stream + "/" + e.KeyField}, " ")
		if e.Failure {
			line += " failure"
		}
		if e.Terminal {
			line += " terminal"
		}
		declared = append(declared, line)
	}
	for _, line := range frozen {
		if !slices.Contains(declared, line) {
			t.Errorf("changed or gone: %s", line)
		}
	}
	for _, line := range declared {
		if !slices.Contains(frozen, line) {
			t.Errorf("not among the frozen ones: %s", line)
		}
	}
}

// A message that is part of no other is an event, so it must be declared as one.
func TestEveryMessageIsDeclared(t *testing.T) {
	shared := map[protoreflect.FullName]bool{"hotchoc.shop.v1": true, "hotchoc.contract.v1": true}
	seen := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "hotchoc.") || shared[file.Package()] {
			return true
		}
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			seen++
			found, err := protoregistry.GlobalTypes.FindMessageByName(m.FullName())
			if err != nil {
				t.Fatal(err)
			}
			e, ok := contract.Of(found.New().Interface())
			if !ok {
				t.Errorf("%s is not declared as an event", m.FullName())
				continue
			}
			if owner := strings.Split(string(file.Package()), ".")[1]; e.Owner != owner {
				t.Errorf("%s: owner %q, but declared by %q", e.Type, e.Owner, owner)
			}
		}
		return true
	})
	if seen != len(contract.All()) {
		t.Errorf("%d messages, but %d events", seen, len(contract.All()))
	}
}

func TestDeclarationsAreSane(t *testing.T) {
	wireType := regexp.MustCompile(`^[a-z]+\.[a-z_]+$`)
	classes := []contract.Class{contract.ClassEntity, contract.ClassKeyed, contract.ClassKeyless, contract.ClassTombstone, contract.ClassTimer}
	streams := []string{"order", "payment", "drink", "stock", "item", "customer", "delivery"}
	writers := map[string]string{}
	for _, e := range contract.All() {
		t.Run(e.Type, func(t *testing.T) {
			if !wireType.MatchString(e.Type) {
				t.Error("malformed wire type")
			}
			if !slices.Contains(classes, e.Class) {
				t.Errorf("class %q", e.Class)
			}
			if !slices.Contains(streams, e.Stream) {
				t.Errorf("stream %q", e.Stream)
			}
			if writer, ok := writers[e.Stream]; ok && writer != e.Owner {
				t.Errorf("stream %q is written by %s and %s", e.Stream, writer, e.Owner)
			}
			writers[e.Stream] = e.Owner
			if e.Version < 1 {
				t.Errorf("version %d", e.Version)
			}

			fields := e.New().ProtoReflect().Descriptor().Fields()
			isText := func(name string) bool {
				f := fields.ByName(protoreflect.Name(name))
				return f != nil && f.Kind() == protoreflect.StringKind && f.Cardinality() != protoreflect.Repeated
			}
			if keyless := e.Class == contract.ClassKeyless; keyless != (e.KeyField == "") || !keyless && !isText(e.KeyField) {
				t.Errorf("key %q", e.KeyField)
			}
			if e.Failure && !(isText("reason") && isText("detail")) {
				t.Error("a Failed event without reason or detail")
			}
			if e.Failure && e.Terminal {
				t.Error("a Failed event that nobody hears")
			}
			if found, ok := contract.Lookup(e.Type); !ok || found != e {
				t.Error("not found by its wire type")
			}
			if found, ok := contract.Of(e.New()); !ok || found != e {
				t.Error("not found by its message")
			}
		})
	}
}

func TestAllIsSortedAndTheCallers(t *testing.T) {
	all := contract.All()
	if !slices.IsSortedFunc(all, func(a, b *contract.Event) int { return strings.Compare(a.Type, b.Type) }) {
		t.Error("not sorted")
	}
	all[0] = nil
	if contract.All()[0] == nil {
		t.Error("a caller's change shows")
	}
}

func TestWhatIsNoEvent(t *testing.T) {
	if _, ok := contract.Lookup("order.lost"); ok {
		t.Error("an unknown wire type was found")
	}
	if _, ok := contract.Of(&shopv1.Money{}); ok {
		t.Error("a part of events is an event")
	}
	if _, ok := contract.Of(nil); ok {
		t.Error("nil is an event")
	}
	if m := contract.Example("order.lost"); m != nil {
		t.Errorf("example %v", m)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, e := range contract.All() {
		t.Run(e.Type, func(t *testing.T) {
			m := contract.Example(e.Type)
			if m == nil {
				t.Fatal("no example")
			}
			if of, ok := contract.Of(m); !ok || of != e {
				t.Fatalf("the example is a %T", m)
			}
			body, err := contract.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			back, err := e.Unmarshal(body)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(m, back) {
				t.Errorf("got  %v\nwant %v", back, m)
			}
		})
	}
}

func TestExamplesAreFilled(t *testing.T) {
	// These are empty by meaning: an edited item with a depleted ingredient isn't available, one just
	// added has nothing depleted.
	empty := []string{"item.edited available", "item.added depleted"}
	for _, e := range contract.All() {
		m := contract.Example(e.Type).ProtoReflect()
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			if !m.Has(f) && !slices.Contains(empty, e.Type+" "+string(f.Name())) {
				t.Errorf("%s: %s is empty", e.Type, f.Name())
			}
		}
	}
}

func TestExamplesAreNotShared(t *testing.T) {
	first := contract.Example("order.placed").(*orderv1.OrderPlaced)
	first.Lines[0].Name = "changed"
	if contract.Example("order.placed").(*orderv1.OrderPlaced).Lines[0].Name == "changed" {
		t.Error("a change shows in the next example")
	}
}

func TestStreamOf(t *testing.T) {
	for wireType, want := range map[string]string{
		"order.placed":     "order/019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27",
		"payment.captured": "payment/019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27",
		"stock.reserved":   "stock/main",
		"item.retired":     "item/classic",
		"customer.flagged": "customer/ada",
	} {
		e, ok := contract.Lookup(wireType)
		if !ok {
			t.Fatalf("%s is not declared", wireType)
		}
		if got := e.StreamOf(contract.Example(wireType)); got != want {
			t.Errorf("%s: stream %q, want %q", wireType, got, want)
		}
	}
}

func TestFailure(t *testing.T) {
	for _, e := range contract.All() {
		reason, detail := contract.Failure(contract.Example(e.Type))
		if filled := reason != "" && detail != ""; filled != e.Failure {
			t.Errorf("%s: reason %q, detail %q", e.Type, reason, detail)
		}
	}
	reason, detail := contract.Failure(&payv1.PaymentFailed{Reason: "fraud", Detail: "stolen card"})
	if reason != "fraud" || detail != "stolen card" {
		t.Errorf("reason %q, detail %q", reason, detail)
	}
}

// The bytes as documented for consumers written in other languages.
func TestMarshalIsCompactJSONWithProtoNames(t *testing.T) {
	want := `{"order_id":"019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27","customer":"ada",` +
		`"lines":[{"sku":"classic","name":"Classic hot chocolate","quantity":2,"unit_price":{"amount":"450","currency":"EUR"}}],` +
		`"total":{"amount":"900","currency":"EUR"},"payment_token":"tok_ok",` +
		`"handover":{"type":"address","address":"12 Mill Lane"},"deadline":"2026-12-06T16:45:00Z"}`
	for range 2 {
		got, err := contract.Marshal(contract.Example("order.placed"))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for _, e := range contract.All() {
		got, err := contract.Marshal(contract.Example(e.Type))
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got); err != nil || !bytes.Equal(compact.Bytes(), got) {
			t.Errorf("%s: not compact: %s", e.Type, got)
		}
	}
}

func TestMarshalKeepsText(t *testing.T) {
	const detail = "rang  twice, \"nobody\" : at <12, Mill Lane> \\ \n ☃"
	m := &orderv1.OrderCancelled{OrderId: "1", Detail: detail}
	body, err := contract.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := contract.Of(m)
	back, err := e.Unmarshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if got := back.(*orderv1.OrderCancelled).GetDetail(); got != detail {
		t.Errorf("got %q, want %q", got, detail)
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, m := range map[string]proto.Message{
		"an empty key":      &orderv1.OrderCompleted{},
		"text not in UTF-8": &orderv1.OrderCancelled{OrderId: "1", Detail: "\xff"},
	} {
		if body, err := contract.Marshal(m); err == nil {
			t.Errorf("%s: got %s", name, body)
		}
	}
	if body, err := contract.Marshal(&shopv1.Money{}); err != nil || string(body) != "{}" {
		t.Errorf("a message that is no event: got %s, %v", body, err)
	}
}

func TestUnmarshalDropsUnknownFields(t *testing.T) {
	e, _ := contract.Lookup("order.cancelled")
	m, err := e.Unmarshal([]byte(`{"order_id":"1","mood":{"deep":[1,2,{"x":null}]},"cause":"make.failed"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (&orderv1.OrderCancelled{OrderId: "1", Cause: "make.failed"}); !proto.Equal(m, want) {
		t.Errorf("got %v, want %v", m, want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	e, _ := contract.Lookup("order.placed")
	for name, c := range map[string]struct{ body, says string }{
		"nothing":           {``, "order.placed"},
		"null":              {`null`, "null"},
		"a list":            {`[]`, "["},
		"half a message":    {`{"order_id":"1"`, "EOF"},
		"two messages":      {`{"order_id":"1"}{"order_id":"2"}`, "{"},
		"a field twice":     {`{"order_id":"1","order_id":"2"}`, "order_id"},
		"a wrong type":      {`{"order_id":"1","customer":7}`, "customer"},
		"an amount of 1.5":  {`{"order_id":"1","total":{"amount":"1.5"}}`, "amount"},
		"a deadline of now": {`{"order_id":"1","deadline":"now"}`, "now"},
		"text not in UTF-8": {"{\"order_id\":\"\xff\"}", "UTF-8"},
		"no key":            {`{"customer":"ada"}`, "order_id"},
		"an empty key":      {`{"order_id":"","customer":"ada"}`, "order_id"},
	} {
		m, err := e.Unmarshal([]byte(c.body))
		if err == nil {
			t.Errorf("%s: accepted as %v", name, m)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "order.placed: ") || !strings.Contains(text, c.says) {
			t.Errorf("%s: the error does not say what: %v", name, err)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	m := contract.Example("order.placed")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contract.Marshal(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	e, _ := contract.Lookup("order.placed")
	body, err := contract.Marshal(contract.Example("order.placed"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Unmarshal(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStreamOf(b *testing.B) {
	m := contract.Example("order.placed")
	b.ReportAllocs()
	for b.Loop() {
		e, _ := contract.Of(m)
		e.StreamOf(m)
	}
}
