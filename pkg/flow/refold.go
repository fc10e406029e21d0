package flow

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/event"
	"hotchoc/pkg/store"
)

// Refold folds the documents of a table anew, outside the door: for those who prove that a table says what the log says,
// or rebuild it. The table is States, or that of a view or a copy. fold takes facts one by one, those of a stream in the
// order of their versions; what the table is not folded from changes nothing. done returns the documents that they come to,
// by key, and begins anew.
func (f *Flow) Refold(table string) (fold func(proto.Message, event.Envelope), done func() ([]store.Doc, error), err error) {
	docs := map[string]*doc{}
	of := func(key string, fresh func() any) *doc {
		d := docs[key]
		if d == nil {
			d = &doc{value: fresh()}
			docs[key] = d
		}
		return d
	}
	at := slices.IndexFunc(f.views, func(v *view) bool { return v.table == table })
	switch {
	case table == store.States:
		fold = func(fact proto.Message, e event.Envelope) {
			category, _, _ := strings.Cut(e.Stream, "/")
			if s := f.streams[category]; s != nil && e.Source == f.Service {
				d := of(e.Stream, s.fresh)
				s.evolve(d.value, fact)
				d.version++
			}
		}
	case at >= 0:
		v := f.views[at]
		fold = func(fact proto.Message, e event.Envelope) {
			if !slices.Contains(v.hears, e.Type) {
				return
			}
			for _, key := range v.keysOf(fact, e) {
				d := of(key, v.fresh)
				if v.copies && e.Version <= d.version {
					continue
				}
				v.fold(d.value, fact, e)
				d.version++
				if v.copies {
					d.version = e.Version
				}
			}
		}
	default:
		return nil, nil, fmt.Errorf("flow %s has no table %q", f.Service, table)
	}
	done = func() ([]store.Doc, error) {
		folded := make([]store.Doc, 0, len(docs))
		for _, key := range slices.Sorted(maps.Keys(docs)) {
			body, err := json.Marshal(docs[key].value)
			if err != nil {
				return nil, fmt.Errorf("encode the document %s of %s: %w", key, table, err)
			}
			folded = append(folded, store.Doc{Key: store.Key{Table: table, Key: key}, Version: docs[key].version, Body: body})
		}
		clear(docs)
		return folded, nil
	}
	return fold, done, nil
}
