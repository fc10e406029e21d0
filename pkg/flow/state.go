package flow

import (
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// A stream is the facts about one thing in this service; its state is their fold, kept as a document that is written in
// the same commit, so that it is a snapshot that is always current. The log is the truth: Fold gives the same.
type stream struct {
	category string
	fresh    func() any
	evolve   func(state any, fact proto.Message)
}

// Stream is a category of streams ("payment/…") with states of type S. S must survive JSON.
type Stream[S any] struct{ *stream }

// NewStream declares a category. evolve changes the state by one fact; it must be deterministic and ignore facts it does
// not know.
func NewStream[S any](category string, evolve func(*S, proto.Message)) *Stream[S] {
	return &Stream[S]{&stream{
		category: category,
		fresh:    func() any { return new(S) },
		evolve:   func(state any, fact proto.Message) { evolve(state.(*S), fact) },
	}}
}

func (s *Stream[S]) join(f *Flow) { f.streams[s.category] = s.stream }

// Of returns the state of one stream. For the functions of Join.
func (s *Stream[S]) Of(r Reader, key string) *S {
	return r.turn.load(store.Key{Table: store.States, Key: s.category + "/" + key}, s.fresh).(*S)
}

// bind makes a Stream a Source: the stream whose key is the saga.
func (s *Stream[S]) bind(r Reader, m Message) *S { return s.Of(r, m.Saga.String()) }

// A view is a document that is folded from events, this service's and others'. It may be rebuilt at any time.
type view struct {
	table   string
	hears   []string
	fresh   func() any
	fold    func(doc any, fact proto.Message, e event.Envelope)
	keys    func(fact proto.Message, e event.Envelope) []string
	copies  bool // of a foreign stream: the newest version wins
	journal bool // a document per event, never changed
}

// View is a table of documents of type V, folded from events.
type View[V any] struct{ *view }

// NewView declares a view: its table, the events it is folded from, and the fold. The fold must come to the same result
// in whatever order the events of different streams arrive. Events of the service itself are folded in the commit that
// writes them; others when they are heard. A document is kept per saga, or as By says.
func NewView[V any](table string, hears []proto.Message, fold func(*V, proto.Message, event.Envelope)) *View[V] {
	return &View[V]{&view{
		table: table,
		hears: wireTypes(hears),
		fresh: func() any { return new(V) },
		fold:  func(doc any, fact proto.Message, e event.Envelope) { fold(doc.(*V), fact, e) },
	}}
}

// NewCopy declares a copy of what another service owns: a document per foreign stream, by its key. Of events that
// arrive in the wrong order only the newest counts; each must carry the full state (class entity or tombstone).
func NewCopy[V any](table string, hears []proto.Message, fold func(*V, proto.Message, event.Envelope)) *View[V] {
	v := NewView(table, hears, fold)
	for _, m := range hears {
		if e, _ := contract.Of(m); e.Class != contract.ClassEntity && e.Class != contract.ClassTombstone {
			panic(fmt.Sprintf("flow: %s copies %s, which does not carry a full state", table, e.Type))
		}
	}
	v.copies = true
	v.keys = func(_ proto.Message, e event.Envelope) []string {
		_, key, _ := strings.Cut(e.Stream, "/")
		return []string{key}
	}
	return v
}

// NewJournal declares a view with one document per event, by the event's ID.
func NewJournal[V any](table string, hears []proto.Message, fold func(*V, proto.Message, event.Envelope)) *View[V] {
	v := NewView(table, hears, fold)
	v.journal = true
	v.keys = func(_ proto.Message, e event.Envelope) []string { return []string{e.ID.String()} }
	return v
}

// By keys the documents otherwise than by saga; an event may change several, or none.
func (v *View[V]) By(keys func(proto.Message, event.Envelope) []string) *View[V] {
	v.keys = keys
	return v
}

func (v *View[V]) join(f *Flow) { f.views = append(f.views, v.view) }

// Of returns a document of the view, fresh if there is none. For the functions of Join.
func (v *View[V]) Of(r Reader, key string) *V {
	return r.turn.load(store.Key{Table: v.table, Key: key}, v.fresh).(*V)
}

func (v *view) keysOf(fact proto.Message, e event.Envelope) []string {
	if v.keys == nil {
		return []string{e.Saga.String()}
	}
	return v.keys(fact, e)
}

// Source is where a step's state comes from: a Stream (the saga's), By or Join.
type Source[S any] interface{ bind(Reader, Message) *S }

// Reader gives the functions of By and Join access to states and views.
type Reader struct{ turn *turn }

type sourceFunc[S any] func(Reader, Message) *S

func (f sourceFunc[S]) bind(r Reader, m Message) *S { return f(r, m) }

// By is a stream whose key is in the message.
func By[S, M any](s *Stream[S], key func(M) string) Source[S] {
	return sourceFunc[S](func(r Reader, m Message) *S { return s.Of(r, key(m.Payload.(M))) })
}

// Join is several states as one value, for decisions that look at more than one stream. collect is called more than
// once: first over empty states, to learn which ones the message needs, then over what was loaded. It may follow what it
// reads to further keys; see MaxLoads.
func Join[S, M any](collect func(r Reader, m M, e event.Envelope) *S) Source[S] {
	return sourceFunc[S](func(r Reader, m Message) *S { return collect(r, m.Payload.(M), m.Envelope) })
}

// Fold computes the state of a stream from its facts, which must be in the order of their versions. It is what the
// document in stream_state must be equal to; nil if the category is not of this flow.
func (f *Flow) Fold(name string, records []event.Record) (json.RawMessage, error) {
	category, _, _ := strings.Cut(name, "/")
	s := f.streams[category]
	if s == nil {
		return nil, fmt.Errorf("flow %s has no streams %q", f.Service, category)
	}
	state := s.fresh()
	for _, r := range records {
		e, ok := contract.Lookup(r.Type)
		if !ok {
			return nil, fmt.Errorf("%s version %d has the unknown type %q", name, r.Version, r.Type)
		}
		fact, err := e.Decode(r.Schema, r.Body)
		if err != nil {
			return nil, fmt.Errorf("%s version %d: %w", name, r.Version, err)
		}
		s.evolve(state, fact)
	}
	return json.Marshal(state)
}
