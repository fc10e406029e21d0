// Package flowtest tests the decisions of a flow in memory, as sentences: given, when, then.
//
//	func TestAFailedDeliveryRefundsThePayment(t *testing.T) {
//		s := flowtest.New(t, Flow(gateway))
//		s.Given(placed)
//		s.When(&deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "nobody_home"})
//		s.Then(&payv1.PaymentRefunded{OrderId: flowtest.Order, Amount: eur(450)})
//	}
//
// The messages go through the real door over a store in memory. With each of them the fixture also checks what must
// always hold: that the same message once more changes nothing, that what it caused carries its saga, its ID as cause and
// the next hop, that versions have no gaps, that each state is the fold of its log, and that every body can be read back.
package flowtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// Order is the ID of the saga that the fixture tells of.
const Order = "01900000-0000-7000-8000-000000000001"

// Saga is one saga in one service, in memory. Not safe for concurrent use.
type Saga struct {
	t        *testing.T
	flow     *flow.Flow
	store    *store.Memory
	door     *flow.Door
	versions map[string]int64
	saga     uuid.UUID
	attempt  int

	verdict flow.Verdict
	message flow.Message
}

// New returns a saga of which nothing has happened yet.
func New(t *testing.T, f *flow.Flow) *Saga {
	m := store.NewMemory()
	return &Saga{t: t, flow: f, store: m, door: flow.NewDoor(f, m, nil, nil), versions: map[string]int64{}, saga: uuid.MustParse(Order), attempt: 1}
}

// Store is the store the saga is kept in.
func (s *Saga) Store() *store.Memory { return s.store }

// Given lets these messages happen before: events that are heard, from wherever they come.
func (s *Saga) Given(events ...proto.Message) {
	s.t.Helper()
	for _, e := range events {
		s.When(e)
		if s.verdict.Err != nil {
			s.t.Fatalf("given %s: %v", s.message.Type, s.verdict.Err)
		}
	}
}

// GivenDone lets a command be carried out before.
func (s *Saga) GivenDone(step string, command any) {
	s.t.Helper()
	s.WhenDone(step, command)
	if err := s.trouble(); err != nil {
		s.t.Fatalf("given %s: %v", step, err)
	}
}

// In lets the following messages belong to another saga, of the order with this ID.
func (s *Saga) In(order string) { s.saga = uuid.MustParse(order) }

// Attempt lets the next message be the nth try at it.
func (s *Saga) Attempt(n int) { s.attempt = n }

// When lets an event arrive. One of the service's own that is in its log arrives as it was recorded.
func (s *Saga) When(fact proto.Message) {
	s.t.Helper()
	e, ok := contract.Of(fact)
	if !ok {
		s.t.Fatalf("%T is not a declared event", fact)
	}
	body, err := contract.Marshal(fact)
	if err != nil {
		s.t.Fatalf("encode %s: %v", e.Type, err)
	}
	stream := e.StreamOf(fact)
	for _, r := range slices.Backward(s.store.Log()) {
		if recorded, err := e.Unmarshal(r.Body); r.Type == e.Type && err == nil && proto.Equal(recorded, fact) {
			s.arrive(r)
			return
		}
	}
	s.versions[stream]++
	s.arrive(event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: e.Version, Source: e.Owner, Stream: stream, Version: s.versions[stream],
		Saga: s.saga, Causation: event.NewID(), Hops: 3, Actor: "customer:ada", At: time.Now().UTC().Truncate(time.Microsecond),
	}})
}

// WhenRecorded lets the latest event of this type in the service's own log arrive.
func (s *Saga) WhenRecorded(typ string) {
	s.t.Helper()
	for _, r := range slices.Backward(s.store.Log()) {
		if r.Type == typ {
			s.arrive(r)
			return
		}
	}
	s.t.Fatalf("there is no %s in the log", typ)
}

// WhenDue lets the timer of this type go off.
func (s *Saga) WhenDue(typ string) {
	s.t.Helper()
	for _, timer := range s.store.Timers() {
		if timer.Type == typ {
			s.arrive(timer.Record)
			return
		}
	}
	s.t.Fatalf("no timer %s is armed", typ)
}

// WhenDone lets a command come.
func (s *Saga) WhenDone(step string, command any) {
	s.t.Helper()
	s.process(flow.NewCommand(step, event.NewID(), s.saga, "customer:ada", command))
}

// arrive is the way of a message from the wire to the door.
func (s *Saga) arrive(r event.Record) {
	s.t.Helper()
	m, err := s.flow.Accept(r)
	if err != nil {
		s.t.Fatalf("%s cannot be heard here: %v", r.Type, err)
	}
	s.process(m)
}

func (s *Saga) process(m flow.Message) {
	s.t.Helper()
	m.Attempt, s.attempt = s.attempt, 1
	s.message = m
	before := s.store.Log()
	if s.flow.Asks(m) {
		asked, err := s.door.AskOutside(context.Background(), m)
		if err != nil {
			s.verdict = flow.Verdict{Err: err}
			return
		}
		m = asked
	}
	s.verdict = s.door.Process(context.Background(), []flow.Message{m})[0]
	s.check(m, before)
}

// check is what holds after every message.
func (s *Saga) check(m flow.Message, before []event.Record) {
	s.t.Helper()
	after := s.store.Log()
	if s.verdict.Err != nil || s.verdict.Refusal != nil || s.verdict.Duplicate {
		if len(after) != len(before) {
			s.t.Errorf("%s was not carried out, but left %d events in the log", m.Type, len(after)-len(before))
		}
	}
	for _, r := range after[len(before):] {
		note(s.flow.Service, r.Type)
		switch {
		case r.Saga != m.Saga:
			s.t.Errorf("%s belongs to the saga %s, but was caused in %s", r.Type, r.Saga, m.Saga)
		case r.Causation != m.ID:
			s.t.Errorf("%s says it was caused by %s, not by %s (%s)", r.Type, r.Causation, m.ID, m.Type)
		case r.Hops != m.Hops+1:
			s.t.Errorf("%s is at hop %d after hop %d", r.Type, r.Hops, m.Hops)
		case r.Source != s.flow.Service:
			s.t.Errorf("%s is from %q", r.Type, r.Source)
		}
		if e, ok := contract.Lookup(r.Type); !ok {
			s.t.Errorf("%s is not declared", r.Type)
		} else if _, err := e.Decode(r.Schema, r.Body); err != nil {
			s.t.Errorf("%s cannot be read back: %v", r.Type, err)
		}
	}
	s.checkFolds(after)
	if s.verdict.Err != nil || s.verdict.Refusal != nil {
		return
	}
	again := s.door.Process(context.Background(), []flow.Message{m})[0]
	if again.Err != nil || !again.Duplicate || len(s.store.Log()) != len(after) {
		s.t.Errorf("%s once more was not a duplicate: %+v", m.Type, again)
	}
}

// checkFolds compares every state with the fold of its events.
func (s *Saga) checkFolds(log []event.Record) {
	s.t.Helper()
	streams := map[string][]event.Record{}
	for _, r := range log {
		streams[r.Stream] = append(streams[r.Stream], r)
	}
	for name, records := range streams {
		for i, r := range records {
			if r.Version != int64(i+1) {
				s.t.Errorf("%s has version %d where %d is due", name, r.Version, i+1)
			}
		}
		folded, err := s.flow.Fold(name, records)
		if err != nil {
			s.t.Errorf("fold %s: %v", name, err)
			continue
		}
		doc, _ := s.store.Doc(store.Key{Table: store.States, Key: name})
		if !sameJSON(folded, doc.Body) || doc.Version != int64(len(records)) {
			s.t.Errorf("the state of %s is version %d\n\t%s\nbut the fold of its log is version %d\n\t%s", name, doc.Version, doc.Body, len(records), folded)
		}
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// Then says which events the message caused, exactly these, in this order. None means that it changed nothing.
func (s *Saga) Then(want ...proto.Message) {
	s.t.Helper()
	if err := s.trouble(); err != nil {
		s.t.Fatalf("%s: %v", s.message.Type, err)
	}
	var got []proto.Message
	for _, r := range s.verdict.Events {
		e, _ := contract.Lookup(r.Type)
		fact, err := e.Unmarshal(r.Body)
		if err != nil {
			s.t.Fatalf("%s: %v", r.Type, err)
		}
		got = append(got, fact)
	}
	if !slices.EqualFunc(got, want, proto.Equal) {
		s.t.Errorf("when %s arrives\nthen got  %s\nbut want  %s", s.message.Type, sentence(got), sentence(want))
	}
}

// ThenRefused says that the command was refused, with this name, and changed nothing.
func (s *Saga) ThenRefused(name string) {
	s.t.Helper()
	if s.verdict.Refusal == nil || s.verdict.Refusal.Name != name {
		s.t.Errorf("want the refusal %q, got %+v", name, s.verdict)
	}
}

// ThenTrouble says that the message ran into an error that mentions this, and is to be tried again.
func (s *Saga) ThenTrouble(mentions string) {
	s.t.Helper()
	if s.verdict.Err == nil || !strings.Contains(s.verdict.Err.Error(), mentions) {
		s.t.Errorf("want trouble with %q, got %+v", mentions, s.verdict)
	}
}

// ThenSuppressed says that the message found its way barred, because the saga was rolled back before.
func (s *Saga) ThenSuppressed() {
	s.t.Helper()
	s.Then()
	if !s.verdict.Suppressed {
		s.t.Errorf("%s was not suppressed: %+v", s.message.Type, s.verdict)
	}
}

// ThenArmed says whether a timer of this type is armed.
func (s *Saga) ThenArmed(typ string, armed bool) {
	s.t.Helper()
	if got := slices.ContainsFunc(s.store.Timers(), func(t store.Timer) bool { return t.Type == typ }); got != armed {
		s.t.Errorf("timer %s armed: %v, want %v", typ, got, armed)
	}
}

// ThenBarrier says how far a step has come: "", done, undone or suppressed.
func (s *Saga) ThenBarrier(step, state string) {
	s.t.Helper()
	if got := s.store.Barrier(store.BarrierKey{Saga: s.saga, Step: step}); got != state {
		s.t.Errorf("the barrier of %s is %q, want %q", step, got, state)
	}
}

// Doc decodes a document of the store: a state, a copy or a row of a view.
func Doc[V any](s *Saga, table, key string) V {
	s.t.Helper()
	var v V
	doc, ok := s.store.Doc(store.Key{Table: table, Key: key})
	if !ok {
		s.t.Fatalf("there is no %s in %s", key, table)
	}
	if err := json.Unmarshal(doc.Body, &v); err != nil {
		s.t.Fatalf("%s in %s: %v", key, table, err)
	}
	return v
}

func (s *Saga) trouble() error {
	if s.verdict.Refusal != nil {
		return s.verdict.Refusal
	}
	return s.verdict.Err
}

func sentence(events []proto.Message) string {
	if len(events) == 0 {
		return "nothing"
	}
	parts := make([]string, len(events))
	for i, e := range events {
		declared, _ := contract.Of(e)
		parts[i] = declared.Type + "{" + prototext.MarshalOptions{}.Format(e) + "}"
	}
	return strings.Join(parts, "\n          ")
}

var (
	mu       sync.Mutex
	produced = map[string]bool{} // service/type
)

func note(service, typ string) {
	mu.Lock()
	defer mu.Unlock()
	produced[service+"/"+typ] = true
}

// Main runs the tests of a service and then fails if an event that its flow declares was produced by none of them. For
// TestMain.
func Main(m *testing.M, f *flow.Flow) {
	code := m.Run()
	selected := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.run") || strings.HasPrefix(a, "-test.bench=") })
	if code == 0 && !selected {
		for _, s := range flow.NewGraph(f).Steps {
			for _, typ := range s.Emits {
				if !produced[f.Service+"/"+typ] {
					fmt.Fprintf(os.Stderr, "no test of %s produced %s, which its step %s declares\n", f.Service, typ, s.Name)
					code = 1
				}
			}
		}
	}
	os.Exit(code)
}
