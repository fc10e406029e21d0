package contract

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
)

// upcasters make an event of schema version n one of version n+1, by wire type, from version 1 on. They work on the current
// message, which every older body can be read as: fields are added, and none is ever removed or changed. What was written is
// never rewritten: logs, outboxes, dead letters and the history keep the version they were written in, and every reader reads
// the current one, by Decode. So a new version takes three things, and the tests ask for them: the version in the .proto file,
// an upcaster here, and a sample in testdata/corpus.
//
// An upcaster must come to the same result for the same event, whenever and wherever it is read.
var upcasters = map[string][]func(proto.Message){
	"stock.replenished": {whyReplenished},
}

// whyReplenished is version 2 of stock.replenished, which says why. In version 1 an amount of 0 meant a release.
func whyReplenished(m proto.Message) {
	replenished := m.(*makev1.StockReplenished)
	replenished.Cause = "staff"
	if replenished.GetAmount() == 0 {
		replenished.Cause = "release"
	}
}

// ErrFuture marks a body of a version that this program does not know yet. Nobody may guess what it means: who hears it sets
// it aside, and it is sent back after the upgrade.
var ErrFuture = errors.New("written by a newer program")

// Decode reads what was written under a version of the schema, as a message of the current one. Fields that the current
// version does not know are dropped; anything else that is not what the contract says is an error that names it.
func (e *Event) Decode(schema int, body []byte) (proto.Message, error) {
	switch {
	case schema > e.Version:
		return nil, fmt.Errorf("%s: schema version %d; this program knows 1 to %d: %w", e.Type, schema, e.Version, ErrFuture)
	case schema < 1:
		return nil, fmt.Errorf("%s: there is no schema version %d; they begin with 1", e.Type, schema)
	}
	m, err := e.Unmarshal(body)
	if err != nil {
		return nil, err
	}
	for v := schema; v < e.Version; v++ {
		e.upcasters[v-1](m)
	}
	return m, nil
}
