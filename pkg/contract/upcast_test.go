package contract_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/makev1"
)

func TestWhatAnOldProducerWroteIsReadAsIfItWereNew(t *testing.T) {
	e, _ := contract.Lookup("stock.replenished")
	for body, want := range map[string]*makev1.StockReplenished{
		`{"location":"main","ingredient":"milk","amount":"500","available":"700"}`: {Location: "main", Ingredient: "milk", Amount: 500, Available: 700, Cause: "staff"},
		`{"location":"main","ingredient":"milk","available":"12"}`:                 {Location: "main", Ingredient: "milk", Available: 12, Cause: "release"},
		`{"location":"main","ingredient":"milk","amount":"0","oat":true}`:          {Location: "main", Ingredient: "milk", Cause: "release"},
		// Whatever an old reader understood, and as it understood it.
		`{"location":"main","amount":7}`:     {Location: "main", Amount: 7, Cause: "staff"},
		`{"location":"main","amount":"0.0"}`: {Location: "main", Cause: "release"},
		`{"location":"main","amount":7e2}`:   {Location: "main", Amount: 700, Cause: "staff"},
	} {
		got, err := e.Decode(1, []byte(body))
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s of version 1 is read as %v, %v", body, got, err)
		}
	}
}

func TestWhatANewerProducerAddedIsKeptOutOfTheWay(t *testing.T) {
	e, _ := contract.Lookup("stock.replenished")
	got, err := e.Decode(2, []byte(`{"location":"main","ingredient":"milk","amount":"5","cause":"staff","supplier":{"name":"Grace"}}`))
	want := &makev1.StockReplenished{Location: "main", Ingredient: "milk", Amount: 5, Cause: "staff"}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestABodyThatCannotBeBroughtUpToDateIsRefusedWithTheReason(t *testing.T) {
	e, _ := contract.Lookup("stock.replenished")
	for _, c := range []struct {
		schema int
		body   string
		says   string
	}{
		{0, `{}`, "there is no schema version 0"},
		{3, `{}`, "this program knows 1 to 2"},
		{1, `{"location"`, "unexpected EOF"},
		{1, `null`, "null"},
		{1, `[]`, "unexpected token ["},
		{1, `{"location":"main","amount":7.5}`, "amount: 7.5"},
		{1, `{"location":"main","location":"store"}`, "duplicate field"},
		{1, `{"ingredient":"milk"}`, "location is empty, but it is the key"},
	} {
		if _, err := e.Decode(c.schema, []byte(c.body)); err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, contract.ErrFuture) != (c.schema > 2) {
			t.Errorf("%s of version %d: %v; it should say %q", c.body, c.schema, err, c.says)
		}
	}
}
