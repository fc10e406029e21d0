package contract_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
)

func TestWhatIsWrittenIsReadBackWhateverItSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[^\x00]*`)
		m := &payv1.PaymentRefunded{
			OrderId:   rapid.StringN(1, 40, -1).Draw(t, "order"),
			Amount:    &shopv1.Money{Amount: rapid.Int64().Draw(t, "amount"), Currency: text.Draw(t, "currency")},
			CaptureId: text.Draw(t, "capture"), RefundId: text.Draw(t, "refund"), Reason: text.Draw(t, "reason"),
		}
		body, err := contract.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		e, _ := contract.Of(m)
		got, err := e.Decode(e.Version, body)
		if err != nil || !proto.Equal(got, m) {
			t.Fatalf("%s is read as %v, %v", body, got, err)
		}
		if twice, _ := contract.Marshal(got); string(twice) != string(body) {
			t.Fatalf("written once more it is %s, not %s", twice, body)
		}
	})
}

// Whatever an old program wrote: nothing of it is lost, and the reason follows from the amount.
func TestEveryOldReplenishmentIsUpcast(t *testing.T) {
	e, _ := contract.Lookup("stock.replenished")
	rapid.Check(t, func(t *rapid.T) {
		old := &makev1.StockReplenished{
			Location: "main", Ingredient: rapid.String().Draw(t, "ingredient"),
			Amount: rapid.Int64Range(0, 1<<62).Draw(t, "amount"), Available: rapid.Int64().Draw(t, "available"),
		}
		body, err := contract.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		want := proto.Clone(old).(*makev1.StockReplenished)
		want.Cause = "staff"
		if old.Amount == 0 {
			want.Cause = "release"
		}
		got, err := e.Decode(1, body)
		if err != nil || !proto.Equal(got, want) {
			t.Fatalf("%s is read as %v, %v; want %v", body, got, err, want)
		}
	})
}
