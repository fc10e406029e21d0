package partners_test

import (
	"context"
	"testing"
	"time"

	"hotchoc/delivery"
	"hotchoc/ops/partners"
	"hotchoc/pay"
	"hotchoc/pkg/contract/shopv1"
)

// The services' clients and the partners speak the same language.

func TestPaysGateway(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	ctx := context.Background()
	gateway := pay.NewGateway(w.web.URL)
	price := &shopv1.Money{Amount: 900, Currency: "EUR"}
	capture := func(key, token string) pay.Capture {
		t.Helper()
		got, err := gateway.Capture(ctx, key, "o1", token, price)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	first := capture("o1/charge", partners.TokenOK)
	if first.ID == "" || first.Refused != "" || capture("o1/charge", partners.TokenOK) != first {
		t.Errorf("got %+v", first)
	}
	for token, want := range map[string]string{
		partners.TokenDeclined:     "declined",
		partners.TokenInsufficient: "insufficient_funds",
		partners.TokenFraud:        "fraud",
		"tok_unknown":              "declined",
	} {
		if got := capture(token, token); got.ID != "" || got.Refused != want || got.Detail == "" {
			t.Errorf("%s: got %+v, want %s", token, got, want)
		}
	}

	void, err := gateway.Void(ctx, "o1/charge")
	if err != nil || void.RefundID == "" || void.Amount.GetAmount() != 900 || void.Amount.GetCurrency() != "EUR" {
		t.Errorf("got %+v, %v", void, err)
	}
	if again, err := gateway.Void(ctx, "o1/charge"); err != nil || again.RefundID != void.RefundID {
		t.Errorf("got %+v, %v, first %+v", again, err, void)
	}
	if got := capture("o1/charge", partners.TokenOK); got.Refused != "unavailable" {
		t.Errorf("got %+v, want unavailable", got)
	}
	if void, err := gateway.Void(ctx, "o2/charge"); err != nil || void.RefundID != "" || void.Amount != nil {
		t.Errorf("got %+v, %v, want nothing given back", void, err)
	}

	if got, err := gateway.Capture(ctx, "lost", "o1", partners.TokenLost, price); err == nil {
		t.Errorf("got %+v, want no answer", got)
	}
	if got := capture("lost", partners.TokenLost); got.ID == "" {
		t.Errorf("got %+v, want what was captured", got)
	}
	if got, err := gateway.Capture(ctx, "flaky", "o1", partners.TokenFlaky, price); err == nil {
		t.Errorf("got %+v, want an error", got)
	}
	left, leave := context.WithTimeout(ctx, time.Millisecond)
	defer leave()
	if got, err := gateway.Capture(left, "down", "o1", partners.TokenDown, price); err == nil {
		t.Errorf("got %+v, want no answer", got)
	}
}

func TestDeliverysCourier(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	ctx := context.Background()
	courier := delivery.NewCourier(w.web.URL)

	sent, err := courier.Dispatch(ctx, "o1/dispatch", "o1", "12 Mill Lane")
	if err != nil || sent.Courier == "" || sent.Refused != "" {
		t.Errorf("got %+v, %v", sent, err)
	}
	if got, err := courier.HandOver(ctx, "o1/handover", "o1", "12 Mill Lane", sent.Courier); err != nil || got.Refused != "" {
		t.Errorf("got %+v, %v, want delivered", got, err)
	}
	if got, err := courier.VoidHandOver(ctx, "o1/handover"); err != nil || got.Refused != "" {
		t.Errorf("got %+v, %v, want still delivered", got, err)
	}

	if got, err := courier.Dispatch(ctx, "o2/dispatch", "o2", partners.AddressNoCourier); err != nil || got.Refused != "no_courier" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := courier.Void(ctx, "o3/dispatch"); err != nil {
		t.Error(err)
	}
	if got, err := courier.Dispatch(ctx, "o3/dispatch", "o3", "12 Mill Lane"); err != nil || got.Refused != "no_courier" {
		t.Errorf("got %+v, %v, want it called off", got, err)
	}

	for address, want := range map[string]string{partners.AddressNowhere: "nobody_home", partners.AddressRefuse + "d": "refused"} {
		if got, err := courier.HandOver(ctx, address, "o4", address, "Ida"); err != nil || got.Refused != want || got.Detail == "" {
			t.Errorf("got %+v, %v, want %s", got, err, want)
		}
	}
	if got, err := courier.VoidHandOver(ctx, "o5/handover"); err != nil || got.Refused != "no_courier" {
		t.Errorf("got %+v, %v, want it called off", got, err)
	}
	if got, err := courier.HandOver(ctx, "o5/handover", "o5", "12 Mill Lane", "Ida"); err != nil || got.Refused != "no_courier" {
		t.Errorf("got %+v, %v, want it called off", got, err)
	}
}
