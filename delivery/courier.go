package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hotchoc/pkg/flow"
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
type HTTPCourier struct {
	url    string
	client *http.Client
}

var _ Courier = (*HTTPCourier)(nil)

// NewCourier returns the courier company at a base URL such as "http://localhost:8085".
func NewCourier(baseURL string) *HTTPCourier {
	return &HTTPCourier{
		url: strings.TrimSuffix(baseURL, "/"),
		client: &http.Client{
			// Its own connections, kept for the next call. PUT is sent once: repeating it is the caller's decision.
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
				MaxIdleConns:        256,
				MaxIdleConnsPerHost: 256,
				IdleConnTimeout:     90 * time.Second,
				TLSHandshakeTimeout: 5 * time.Second,
				DisableCompression:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

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
func (c *HTTPCourier) Dispatch(ctx context.Context, key, order, address string) (Dispatch, error) {
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
func (c *HTTPCourier) HandOver(ctx context.Context, key, order, address, courier string) (HandOver, error) {
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
func (c *HTTPCourier) Void(ctx context.Context, key string) error {
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
func (c *HTTPCourier) VoidHandOver(ctx context.Context, key string) (HandOver, error) {
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

// maxReply is more than the courier company ever says, in bytes.
const maxReply = 64 << 10

// call asks once; no request means no body. A reply that says what became of the key is no error, whatever its HTTP status.
func (c *HTTPCourier) call(ctx context.Context, method, path, key, verb string, request any) (courierReply, error) {
	var reply courierReply
	if key == "" || key == "." || key == ".." { // no path could carry it
		return reply, fmt.Errorf("%q is not a key", key)
	}
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return reply, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path+url.PathEscape(key)+verb, bytes.NewReader(body))
	if err != nil {
		return reply, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.client.Do(req)
	if err != nil {
		return reply, flow.Away(err) // it says method, URL and why
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1)) // to its end, so that the connection can be used again
	if err == nil && len(text) > maxReply {
		err = fmt.Errorf("it is longer than %d bytes", maxReply)
	}
	if err != nil {
		return reply, fmt.Errorf("read the courier's answer: %w", err)
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusConflict:
		if err := json.Unmarshal(text, &reply); err != nil {
			return reply, fmt.Errorf("read the courier's answer %s: %w", res.Status, err)
		}
		return reply, nil
	}
	var problem struct{ Detail string }
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = "no details"
	}
	return reply, errors.New("the courier answered " + res.Status + ": " + problem.Detail)
}
