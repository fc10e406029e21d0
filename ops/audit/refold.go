package audit

import (
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// folder folds one event into documents.
type folder = func(proto.Message, event.Envelope)

// refold folds the documents of a table of a service anew: fold takes one event after the other, done returns what they
// come to, by key, and begins anew.
func refold(f *flow.Flow, table string) (fold folder, done func() ([]store.Doc, error), err error) {
	type refolder interface {
		Refold(table string) (func(proto.Message, event.Envelope), func() ([]store.Doc, error), error)
	}
	if r, ok := any(f).(refolder); ok {
		return r.Refold(table)
	}
	// Without it: keep the events, and ask for every document that they could be about.
	names := func(e event.Record) []string {
		return append(leaves(e.Body), key(e.Stream), e.Saga.String(), e.ID.String())
	}
	whole := func(name string, events []event.Record) (json.RawMessage, error) {
		return f.FoldView(table, name, events)
	}
	if table == flow.States {
		names = func(e event.Record) []string { return []string{e.Stream} }
		whole = f.Fold
	}
	kept := map[string][]event.Record{}
	fold = func(fact proto.Message, e event.Envelope) {
		body, err := contract.Marshal(fact)
		if err != nil {
			panic(err)
		}
		r := event.Record{Envelope: e, Body: body}
		told := map[string]bool{}
		for _, name := range names(r) {
			if !told[name] {
				kept[name], told[name] = append(kept[name], r), true
			}
		}
	}
	done = func() (docs []store.Doc, err error) {
		defer clear(kept)
		for _, name := range sorted(kept) {
			body, err := whole(name, kept[name])
			if err != nil {
				return nil, err
			}
			if body != nil {
				docs = append(docs, store.Doc{Key: store.Key{Table: table, Key: name}, Body: body})
			}
		}
		return docs, nil
	}
	return fold, done, nil
}

// key is the part of a stream's name after the category.
func key(stream string) string {
	_, k, _ := strings.Cut(stream, "/")
	return k
}

// leaves are all texts in a JSON document.
func leaves(doc []byte) (found []string) {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			found = append(found, v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for _, name := range sorted(v) {
				walk(v[name])
			}
		}
	}
	v, _ := decode(doc)
	walk(v)
	return found
}
