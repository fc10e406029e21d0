package pay

import (
	"context"
	"fmt"
	"net/http"

	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/outside"
)

// Gateway is the outside party that takes and gives back money.
//
// The key makes a call safe to repeat: all calls with one key are one capture. It must follow from the saga and the step,
// so that a compensation can name it even when the log never heard what became of it. An error means that the outcome is
// unknown: the money may have been taken. Ask again with the same key, or void the key.
type Gateway interface {
	// Capture takes the money for an order, at most once per key. A refusal is an answer, not an error.
	Capture(ctx context.Context, key string, order, token string, amount *shopv1.Money) (Capture, error)
	// Void gives back what was captured under the key, if anything, and bars the key for ever: a capture that arrives
	// later is refused. Repeating it changes nothing and has the same answer.
	Void(ctx context.Context, key string) (Void, error)
}

// Capture is what the gateway said to a capture.
type Capture struct {
	// ID is the gateway's ID of the capture; empty if it refused.
	ID string
	// Refused is why not: "declined", "insufficient_funds", "fraud", or "unavailable" when the key had been voided.
	// Empty: the money was taken.
	Refused string
	// Detail is what the gateway said about the refusal, for people.
	Detail string
}

// Void is what the gateway said to a void.
type Void struct {
	// RefundID is the gateway's ID of the refund; empty if nothing had been captured.
	RefundID string
	// Amount is what was given back; nil if nothing had been captured.
	Amount *shopv1.Money
}

// HTTPGateway is the [Gateway] behind a URL. How long a call may take is up to its context.
type HTTPGateway struct{ *outside.Party }

var _ Gateway = HTTPGateway{}

// NewGateway returns the gateway at a base URL such as "http://localhost:8090".
func NewGateway(baseURL string) HTTPGateway { return HTTPGateway{outside.New("gateway", baseURL)} }

type captureRequest struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Token    string `json:"token"`
	Order    string `json:"order"`
}

// gatewayReply is any answer of the gateway. Status says what became of the key.
type gatewayReply struct {
	Status    string `json:"status"`
	CaptureID string `json:"capture_id"`
	RefundID  string `json:"refund_id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Reason    string `json:"reason"`
	Detail    string `json:"detail"`
}

// Capture implements [Gateway].
func (g HTTPGateway) Capture(ctx context.Context, key string, order, token string, amount *shopv1.Money) (Capture, error) {
	reply, err := g.call(ctx, http.MethodPut, key, "", captureRequest{amount.GetAmount(), amount.GetCurrency(), token, order})
	if err != nil {
		return Capture{}, fmt.Errorf("capture %s: %w", key, err)
	}
	switch {
	case reply.Status == "captured" && reply.CaptureID != "":
		return Capture{ID: reply.CaptureID}, nil
	case reply.Status == "refused" && reply.Reason != "":
		return Capture{Refused: reply.Reason, Detail: reply.Detail}, nil
	case reply.Status == "voided":
		return Capture{Refused: "unavailable", Detail: "the capture had been called off before"}, nil
	}
	return Capture{}, fmt.Errorf("capture %s: the gateway's answer makes no sense: %+v", key, reply)
}

// Void implements [Gateway].
func (g HTTPGateway) Void(ctx context.Context, key string) (Void, error) {
	reply, err := g.call(ctx, http.MethodPost, key, "/void", nil)
	if err != nil {
		return Void{}, fmt.Errorf("void capture %s: %w", key, err)
	}
	switch {
	case reply.Status == "voided" && reply.RefundID != "":
		return Void{RefundID: reply.RefundID, Amount: &shopv1.Money{Amount: reply.Amount, Currency: reply.Currency}}, nil
	case reply.Status == "voided" && reply.Amount == 0:
		return Void{}, nil
	}
	return Void{}, fmt.Errorf("void capture %s: the gateway's answer makes no sense: %+v", key, reply)
}

func (g HTTPGateway) call(ctx context.Context, method, key, verb string, request any) (reply gatewayReply, err error) {
	err = g.Call(ctx, method, "/captures/", key, verb, request, &reply, http.StatusOK, http.StatusPaymentRequired, http.StatusConflict)
	return reply, err
}
