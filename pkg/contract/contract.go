// Package contract is the registry of declared events: which there are, who writes them, to which
// stream, and how they look on the wire.
//
// The declarations are the .proto files under proto/; see options.proto for what can be declared.
// Everything here is read from the generated code's descriptors, so nothing can drift from them.
// All functions are safe for concurrent use.
package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"hotchoc/pkg/contract/contractv1"

	// The registry knows the messages that are linked in.
	_ "hotchoc/pkg/contract/deliveryv1"
	_ "hotchoc/pkg/contract/makev1"
	_ "hotchoc/pkg/contract/menuv1"
	_ "hotchoc/pkg/contract/orderv1"
	_ "hotchoc/pkg/contract/payv1"
)

// Class says what readers may conclude from one event about the others of the same key.
type Class string

// The classes, as declared in options.proto.
const (
	ClassEntity    Class = "entity"    // full state of a keyed entity: the newest version replaces older ones
	ClassKeyed     Class = "keyed"     // a fact about one key: every one counts, in order
	ClassKeyless   Class = "keyless"   // a fact about no key: no order is promised
	ClassTombstone Class = "tombstone" // the key is gone
	ClassTimer     Class = "timer"     // sent by a service to its own queue for later, never published
)

// Event describes one declared message. It is shared and must not be changed.
type Event struct {
	Type     string // frozen name on the wire, such as "order.placed"
	Owner    string // the service that alone writes it
	Class    Class
	Stream   string // category of its stream, such as "order"
	KeyField string // field that holds the stream's key; empty only if keyless
	Failure  bool   // earlier steps roll back on it
	Terminal bool   // the saga's end: nobody needs to hear it
	Version  int    // of the schema, from 1 up

	message   protoreflect.MessageType
	upcasters []func(proto.Message)
	key       protoreflect.FieldDescriptor // nil only if keyless
}

type registry struct {
	byType map[string]*Event
	byName map[protoreflect.FullName]*Event
	sorted []*Event
}

var events = sync.OnceValue(load)

// load panics on a declaration that can't be worked with: the contract's own tests find it first.
func load() registry {
	r := registry{byType: map[string]*Event{}, byName: map[protoreflect.FullName]*Event{}}
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		options := m.Descriptor().Options()
		if !proto.HasExtension(options, contractv1.E_Event) {
			return true
		}
		e := newEvent(m, proto.GetExtension(options, contractv1.E_Event).(*contractv1.Event))
		if twin, ok := r.byType[e.Type]; ok {
			panic(fmt.Sprintf("contract: %s and %s are both declared as %q",
				twin.message.Descriptor().FullName(), m.Descriptor().FullName(), e.Type))
		}
		r.byType[e.Type] = e
		r.byName[m.Descriptor().FullName()] = e
		r.sorted = append(r.sorted, e)
		return true
	})
	slices.SortFunc(r.sorted, func(a, b *Event) int { return cmp.Compare(a.Type, b.Type) })
	return r
}

func newEvent(m protoreflect.MessageType, declared *contractv1.Event) *Event {
	e := &Event{
		Type:      declared.GetType(),
		Owner:     declared.GetOwner(),
		Class:     Class(strings.ToLower(strings.TrimPrefix(declared.GetClass().String(), "CLASS_"))),
		Stream:    declared.GetStream(),
		KeyField:  declared.GetKey(),
		Failure:   declared.GetFailure(),
		Terminal:  declared.GetTerminal(),
		Version:   int(declared.GetVersion()),
		message:   m,
		upcasters: upcasters[declared.GetType()],
		key:       m.Descriptor().Fields().ByName(protoreflect.Name(declared.GetKey())),
	}
	if e.Class != ClassKeyless && (e.key == nil || e.key.Kind() != protoreflect.StringKind || e.key.IsList()) {
		panic(fmt.Sprintf("contract: the key of %s, %q, is not a string field of it", m.Descriptor().FullName(), e.KeyField))
	}
	if len(e.upcasters) != e.Version-1 {
		panic(fmt.Sprintf("contract: %s has version %d and %d upcasters; each version but the first takes one", e.Type, e.Version, len(e.upcasters)))
	}
	return e
}

// Lookup returns the event with the given wire type.
func Lookup(wireType string) (*Event, bool) {
	e, ok := events().byType[wireType]
	return e, ok
}

// Of returns the event that m is declared as; a nil message or one without a declaration is none.
func Of(m proto.Message) (*Event, bool) {
	e, ok := events().byName[proto.MessageName(m)]
	return e, ok
}

// All returns every event, sorted by wire type. The slice is the caller's.
func All() []*Event {
	return slices.Clone(events().sorted)
}

// New returns an empty message of the event's Go type.
func (e *Event) New() proto.Message {
	return e.message.New().Interface()
}

// StreamOf returns the name of the stream that m belongs to, such as "order/<order_id>": category and
// key, split at the first slash. A keyless event's stream is the category alone.
// It panics if m is not a message of this event.
func (e *Event) StreamOf(m proto.Message) string {
	if e.key == nil {
		return e.Stream
	}
	return e.Stream + "/" + e.keyOf(m)
}

func (e *Event) keyOf(m proto.Message) string {
	return m.ProtoReflect().Get(e.key).String()
}

// checkKey refuses a message that belongs to no stream.
func (e *Event) checkKey(m proto.Message) error {
	if e.key != nil && e.keyOf(m) == "" {
		return fmt.Errorf("%s: %s is empty, but it is the key", e.Type, e.KeyField)
	}
	return nil
}

// Failure returns why a Failed event happened: a reason that programs can tell apart, and a detail for
// people. Both are empty for all other messages.
func Failure(m proto.Message) (reason, detail string) {
	if e, ok := Of(m); !ok || !e.Failure {
		return "", ""
	}
	f := m.(interface {
		GetReason() string
		GetDetail() string
	})
	return f.GetReason(), f.GetDetail()
}

// toJSON keeps the names of the .proto files, which is how the wire is documented.
var toJSON = protojson.MarshalOptions{UseProtoNames: true}

// fromJSON accepts fields it doesn't know: their writer may be newer than this reader.
var fromJSON = protojson.UnmarshalOptions{DiscardUnknown: true}

// Marshal returns m as compact JSON: equal messages give equal bytes. Fields with a zero value are left
// out, and int64 are strings, as JSON's numbers are not exact.
//
// It fails on text that is not UTF-8, on a timestamp out of range, and on an event with an empty key,
// which no reader would accept.
func Marshal(m proto.Message) ([]byte, error) {
	if e, ok := Of(m); ok {
		if err := e.checkKey(m); err != nil {
			return nil, err
		}
	}
	body, err := toJSON.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", proto.MessageName(m), err)
	}
	return compact(body), nil
}

// compact takes out, in place, the spaces that protojson puts between tokens in some builds so that
// nobody relies on its bytes.
func compact(body []byte) []byte {
	kept, inText, escaped := body[:0], false, false
	for _, c := range body {
		if c == ' ' && !inText {
			continue
		}
		kept = append(kept, c)
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			inText = !inText
		}
	}
	return kept
}

// Unmarshal reads a message of this event. Unknown fields are dropped; anything else that is not what
// the contract says is an error that names it, as is an empty key.
func (e *Event) Unmarshal(body []byte) (proto.Message, error) {
	m := e.New()
	if err := fromJSON.Unmarshal(body, m); err != nil {
		// The library's texts begin with "proto:" and one of two kinds of space, so that nobody relies on them.
		why := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
		return nil, fmt.Errorf("%s: the body is not what the contract says: %s", e.Type, why)
	}
	if err := e.checkKey(m); err != nil {
		return nil, err
	}
	return m, nil
}
