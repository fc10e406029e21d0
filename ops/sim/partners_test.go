package sim

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"testing"

	"hotchoc/delivery"
	"hotchoc/ops/partners"
	"hotchoc/pay"
	"hotchoc/pkg/contract/shopv1"
)

// The partners of the simulator promise what those behind HTTP do.
func TestTheBooksAnswerAsThePartnersDo(t *testing.T) {
	server, err := partners.New(partners.Config{LedgerDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server.Handler())
	defer func() {
		web.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	gateway, courier, books := pay.NewGateway(web.URL), delivery.NewCourier(web.URL), newBooks()
	ctx, r, price := t.Context(), rand.New(rand.NewPCG(1, 1)), &shopv1.Money{Amount: 900, Currency: "EUR"}
	tokens := []string{partners.TokenOK, partners.TokenDeclined, partners.TokenInsufficient, partners.TokenFraud, partners.TokenFlaky, partners.TokenLost}
	addresses := []string{"12 Mill Lane", partners.AddressNowhere, partners.AddressNoCourier}
	for range 600 {
		n := r.IntN(60)
		key, token, address := fmt.Sprintf("o%d/step", n), tokens[n%len(tokens)], addresses[n%len(addresses)]
		var got, want string
		switch r.IntN(6) {
		case 0, 1:
			a, aErr := gateway.Capture(ctx, key, "o", token, price)
			b, bErr := books.capture(key, "o", token, price)
			got, want = fmt.Sprint(a.ID != "", a.Refused, aErr != nil), fmt.Sprint(b.ID != "", b.Refused, bErr != nil)
		case 2:
			a, aErr := gateway.Void(ctx, key)
			b := books.voidCapture(key)
			got, want = fmt.Sprint(a.RefundID != "", a.Amount.GetAmount(), aErr), fmt.Sprint(b.RefundID != "", b.Amount.GetAmount(), nil)
		case 3:
			a, aErr := courier.Dispatch(ctx, key, "o", address)
			b := books.dispatch(key, "o", address)
			got, want = fmt.Sprint(a.Courier != "", a.Refused, aErr), fmt.Sprint(b.Courier != "", b.Refused, nil)
		case 4:
			a, aErr := courier.HandOver(ctx, key, "o", address, rider)
			b := books.handOver(key, "o", address)
			got, want = fmt.Sprint(a.Refused, aErr), fmt.Sprint(b.Refused, nil)
		case 5:
			if n%2 == 0 {
				aErr := courier.Void(ctx, key)
				books.voidDispatch(key)
				got, want = fmt.Sprint(aErr), fmt.Sprint(nil)
			} else {
				a, aErr := courier.VoidHandOver(ctx, key)
				b := books.voidHandOver(key)
				got, want = fmt.Sprint(a.Refused, aErr), fmt.Sprint(b.Refused, nil)
			}
		}
		if got != want {
			t.Fatalf("%s with %s to %s: behind HTTP %s, in the books %s", key, token, address, got, want)
		}
	}
}
