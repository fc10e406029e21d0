package delivery

import (
	"context"
	"fmt"
	"net/http"

	"hotchoc/pkg/outside"
)

// Courier is the outside party that brings the drinks to the customer.
//
// The key makes a call safe to repeat: all calls with one key are one dispatch, or one hand-over. It must follow from the
// saga and the step, so that it can be named again when the log never heard what became of it. An error means that the
// outcome is unknown. Ask again with the same key, or void the key.
type Courier interface {
	// Dispatch sends a courier, at most once per key. A refusal is an answer, not an error.
	Dispatch(ctx context.Context, key, order, address string) (Dispatch, error)
	// HandOver lets the courier hand the drinks over, at most once per key. A refusal is an answer, not an error.
	HandOver(ctx context.Context, key, order, address, courier string) (HandOver, error)
	// Void calls a dispatch back and bars its key for ever: a dispatch that arrives later is refused. Repeating it
	// changes nothing.
	Void(ctx context.Context, key string) error
	// VoidHandOver bars a hand-over's key for ever, unless the drinks have been handed over: that can't be undone. So
	// either way it ends the uncertainty, and its answer is the outcome: delivered, or refused as "no_courier".
	VoidHandOver(ctx context.Context, key string) (HandOver, error)
}

// Dispatch is what the courier company said to a dispatch.
type Dispatch struct {
	// Courier is the name of who brings the drinks; empty if nobody does.
	Courier string
	// Refused is why not: "no_courier", also when the key had been voided. Empty: a courier is on the way.
	Refused string
	// Detail is what the company said about the refusal, for people.
	Detail string
}

// HandOver is what became of a hand-over.
type HandOver struct {
	// Refused is why the customer doesn't have the drinks: "nobody_home", "refused", or "no_courier" when the hand-over
	// had been voided. Empty: delivered.
	Refused string
	// Detail is what the company said about the refusal, for people.
	Detail string
}

// HTTPCourier is the [Courier] behind a URL. How long a call may take is up to its context.
type HTTPCourier struct{ *outside.Party }

var _ Courier = HTTPCourier{}

// NewCourier returns the courier company at a base URL such as "http://localhost:8090".
func NewCourier(baseURL string) HTTPCourier { return HTTPCourier{outside.New("courier", baseURL)} }

type dispatchRequest struct {
	Order   string `json:"order"`
	Address string `json:"address"`
}

type handOverRequest struct {
	Order   string `json:"order"`
	Address string `json:"address"`
	Courier string `json:"courier"`
}

// courierReply is any answer of the courier company. Status says what became of the key.
type courierReply struct {
	Status  string `json:"status"`
	Courier string `json:"courier"`
	Reason  string `json:"reason"`
	Detail  string `json:"detail"`
}

// Dispatch implements [Courier].
func (c HTTPCourier) Dispatch(ctx context.Context, key, order, address string) (Dispatch, error) {
	reply, err := c.call(ctx, http.MethodPut, "/dispatches/", key, "", dispatchRequest{order, address})
	if err != nil {
		return Dispatch{}, fmt.Errorf("dispatch %s: %w", key, err)
	}
	switch {
	case reply.Status == "dispatched" && reply.Courier != "":
		return Dispatch{Courier: reply.Courier}, nil
	case reply.Status == "refused" && reply.Reason != "":
		return Dispatch{Refused: reply.Reason, Detail: reply.Detail}, nil
	case reply.Status == "voided":
		return Dispatch{Refused: "no_courier", Detail: "the dispatch had been called off before"}, nil
	}
	return Dispatch{}, fmt.Errorf("dispatch %s: the courier's answer makes no sense: %+v", key, reply)
}

// HandOver implements [Courier].
func (c HTTPCourier) HandOver(ctx context.Context, key, order, address, courier string) (HandOver, error) {
	reply, err := c.call(ctx, http.MethodPut, "/handovers/", key, "", handOverRequest{order, address, courier})
	if err != nil {
		return HandOver{}, fmt.Errorf("hand over %s: %w", key, err)
	}
	switch {
	case reply.Status == "delivered":
		return HandOver{}, nil
	case reply.Status == "refused" && reply.Reason != "":
		return HandOver{Refused: reply.Reason, Detail: reply.Detail}, nil
	case reply.Status == "voided":
		return HandOver{Refused: "no_courier", Detail: "the hand-over had been called off before"}, nil
	}
	return HandOver{}, fmt.Errorf("hand over %s: the courier's answer makes no sense: %+v", key, reply)
}

// Void implements [Courier].
func (c HTTPCourier) Void(ctx context.Context, key string) error {
	reply, err := c.call(ctx, http.MethodPost, "/dispatches/", key, "/void", nil)
	if err != nil {
		return fmt.Errorf("void dispatch %s: %w", key, err)
	}
	if reply.Status != "voided" {
		return fmt.Errorf("void dispatch %s: the courier's answer makes no sense: %+v", key, reply)
	}
	return nil
}

// VoidHandOver implements [Courier].
func (c HTTPCourier) VoidHandOver(ctx context.Context, key string) (HandOver, error) {
	reply, err := c.call(ctx, http.MethodPost, "/handovers/", key, "/void", nil)
	if err != nil {
		return HandOver{}, fmt.Errorf("void hand-over %s: %w", key, err)
	}
	switch reply.Status {
	case "delivered":
		return HandOver{}, nil
	case "voided":
		return HandOver{Refused: "no_courier", Detail: "the courier company didn't answer in time, the hand-over was called off"}, nil
	}
	return HandOver{}, fmt.Errorf("void hand-over %s: the courier's answer makes no sense: %+v", key, reply)
}

func (c HTTPCourier) call(ctx context.Context, method, path, key, verb string, request any) (reply courierReply, err error) {
	err = c.Call(ctx, method, path, key, verb, request, &reply, http.StatusOK, http.StatusConflict)
	return reply, err
}
