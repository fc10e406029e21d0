package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// upcasters make the body of an event of schema version n one of version n+1, by wire type, from version 1 on. What was
// written is never rewritten: logs, outboxes, dead letters and the history keep the version they were written in, and every
// reader reads the current one, by Decode. So a new version takes three things, and the tests ask for them: the version in the
// .proto file, an upcaster here, and a sample in testdata/corpus.
//
// An upcaster must come to the same result for the same body, whenever and wherever it is read.
var upcasters = map[string][]func(fields) error{
	"stock.replenished": {whyReplenished},
}

// fields are those of a body, by their names in the .proto file.
type fields map[string]json.RawMessage

// text reads a field that is a string on the wire, as int64 are; "" when it is left out.
func (f fields) text(name string) (s string, err error) {
	if raw, ok := f[name]; ok {
		err = json.Unmarshal(raw, &s)
	}
	return s, err
}

// whyReplenished is version 2 of stock.replenished, which says why. In version 1 an amount of 0 meant a release.
func whyReplenished(f fields) error {
	amount, err := f.text("amount")
	f["cause"] = json.RawMessage(`"staff"`)
	if amount == "" || amount == "0" {
		f["cause"] = json.RawMessage(`"release"`)
	}
	return err
}

// ErrFuture marks a body of a version that this program does not know yet. Nobody may guess what it means: who hears it sets
// it aside, and it is sent back after the upgrade.
var ErrFuture = errors.New("written by a newer program")

// Decode reads what was written under a version of the schema, as a message of the current one. Fields that the current
// version does not know are dropped; anything else that is not what the contract says is an error that names it.
func (e *Event) Decode(schema int, body []byte) (proto.Message, error) {
	switch {
	case schema == e.Version:
		return e.Unmarshal(body)
	case schema > e.Version:
		return nil, fmt.Errorf("%s: schema version %d; this program knows 1 to %d: %w", e.Type, schema, e.Version, ErrFuture)
	case schema < 1:
		return nil, fmt.Errorf("%s: there is no schema version %d; they begin with 1", e.Type, schema)
	}
	var f fields
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, fmt.Errorf("%s: the body is not what the contract says: %w", e.Type, err)
	}
	if f == nil {
		return nil, fmt.Errorf("%s: the body is null", e.Type)
	}
	for v := schema; v < e.Version; v++ {
		if err := e.upcasters[v-1](f); err != nil {
			return nil, fmt.Errorf("%s: from schema version %d to %d: %w", e.Type, v, v+1, err)
		}
	}
	var current bytes.Buffer
	if err := json.NewEncoder(&current).Encode(f); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Type, err)
	}
	return e.Unmarshal(current.Bytes())
}
