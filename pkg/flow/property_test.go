package flow_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// Whatever a policy says: the delays are those of wait queues, do not shrink if they were declared so, and end.
func TestEveryPolicyThatIsAcceptedCanBeCarriedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := flow.Retry{
			Attempts: rapid.IntRange(-1, flow.AttemptsMax+1).Draw(t, "attempts"),
			Delays:   rapid.SliceOfN(rapid.SampledFrom(append([]time.Duration{2 * time.Second}, flow.Rungs...)), 0, 5).Draw(t, "delays"),
			Timeout:  time.Duration(rapid.Int64Range(-1, int64(2*flow.TimeoutMax)).Draw(t, "timeout")),
		}
		f := desk()
		sound := want.Attempts >= 1 && want.Attempts <= flow.AttemptsMax && len(want.Delays) > 0 && want.Timeout > 0 && want.Timeout <= flow.TimeoutMax
		for _, d := range want.Delays {
			sound = sound && d != 2*time.Second
		}
		if err := f.Configure("charge: " + want.String()); (err == nil) != sound {
			t.Fatalf("%v: %v", want, err)
		}
		if !sound {
			return
		}
		got := f.Policies()[0].Retry
		if got.String() != want.String() {
			t.Fatalf("%v was read as %v", want, got)
		}
		for n := -1; n < got.Attempts+2; n++ {
			if d := got.Delay(n); d < flow.Rungs[0] || d > flow.Rungs[len(flow.Rungs)-1] {
				t.Fatalf("after attempt %d it waits %v", n, d)
			}
		}
	})
}

// Whatever order a foreign stream's events come in, and however often: a copy is what the newest of them says.
func TestACopyIsWhatTheNewestEventSaysInWhateverOrderTheyCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type item struct{ Name string }
		copies := flow.NewCopy("item_copy", []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}}, func(i *item, fact proto.Message, _ event.Envelope) {
			i.Name = fact.(interface{ GetName() string }).GetName()
		})
		f := flow.New("order", copies)
		s := store.NewMemory()
		door := flow.NewDoor(f, s, nil, nil)
		versions := rapid.SliceOfN(rapid.Int64Range(1, 6), 1, 12).Draw(t, "versions")
		newest := int64(0)
		for len(versions) > 0 {
			n := rapid.IntRange(1, len(versions)).Draw(t, "batch")
			var batch []flow.Message
			for _, v := range versions[:n] {
				newest = max(newest, v)
				fact := &menuv1.ItemEdited{Sku: "classic", Name: fmt.Sprint(v)}
				batch = append(batch, flow.Message{Payload: fact, Attempt: 1, Envelope: event.Envelope{
					ID: event.DerivedID(uuid.Nil, fmt.Sprint(v)), Type: "item.edited", Schema: 1, Source: "menu", Stream: "item/classic", Version: v,
				}})
			}
			for _, v := range door.Process(t.Context(), batch) {
				if v.Err != nil {
					t.Fatal(v.Err)
				}
			}
			versions = versions[n:]
		}
		doc, _ := s.Doc(store.Key{Table: "item_copy", Key: "classic"})
		if want := fmt.Sprintf(`{"Name":"%d"}`, newest); string(doc.Body) != want || doc.Version != newest {
			t.Fatalf("the copy is %s of version %d, want %s", doc.Body, doc.Version, want)
		}
	})
}

// Whatever happened: the state that grew with the events is the one that is folded from the log at once.
func TestAStateIsTheFoldOfItsLogHoweverItGrew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, s := desk(), store.NewMemory()
		door := flow.NewDoor(f, s, nil, nil)
		id := uuid.MustParse("019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27")
		charge := flow.Message{Payload: &orderv1.OrderPlaced{OrderId: id.String(), Customer: "ada"}, Attempt: 1, Envelope: event.Envelope{
			ID: event.DerivedID(id, "placed"), Type: "order.placed", Schema: 1, Source: "order", Stream: "order/" + id.String(), Version: 1, Saga: id,
		}}
		undo := flow.Message{Payload: &makev1.MakeFailed{OrderId: id.String()}, Attempt: 1, Envelope: event.Envelope{
			ID: event.DerivedID(id, "failed"), Type: "make.failed", Schema: 1, Source: "make", Stream: "drink/" + id.String(), Version: 1, Saga: id,
		}}
		for _, m := range rapid.SliceOfN(rapid.SampledFrom([]flow.Message{charge, undo}), 1, 6).Draw(t, "messages") {
			if v := door.Process(t.Context(), []flow.Message{m})[0]; v.Err != nil {
				t.Fatal(v.Err)
			}
		}
		log := s.Log()
		if len(log) == 0 {
			return // the undoing came first and barred the rest
		}
		want, err := f.Fold(log[0].Stream, log)
		doc, _ := s.Doc(store.Key{Table: store.States, Key: log[0].Stream})
		if err != nil || string(doc.Body) != string(want) || doc.Version != int64(len(log)) {
			t.Fatalf("the state is %s, the fold %s, %v", doc.Body, want, err)
		}
	})
}
