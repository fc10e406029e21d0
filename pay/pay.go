package pay

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// patience is how long the gateway is asked before the payment is given up: three times two and a half seconds, a second
// between. A customer is waiting.
var patience = flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}, Timeout: 2500 * time.Millisecond}

// Payment is the state of an order's payment.
type Payment struct {
	Phase     Phase  `json:"phase"`
	Customer  string `json:"customer,omitempty"`
	Amount    int64  `json:"amount,omitempty"` // minor units
	Currency  string `json:"currency,omitempty"`
	CaptureID string `json:"capture_id,omitempty"`
	RefundID  string `json:"refund_id,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// Phase is how far a payment has come.
type Phase string

// The phases.
const (
	None     Phase = ""
	Captured Phase = "captured"
	Failed   Phase = "failed"
	Refunded Phase = "refunded"
)

func (p *Payment) evolve(fact proto.Message) {
	switch e := fact.(type) {
	case *payv1.PaymentCaptured:
		*p = Payment{Phase: Captured, Customer: e.Customer, Amount: e.Amount.GetAmount(), Currency: e.Amount.GetCurrency(), CaptureID: e.CaptureId}
	case *payv1.PaymentFailed:
		*p = Payment{Phase: Failed, Customer: e.Customer, Amount: e.Amount.GetAmount(), Currency: e.Amount.GetCurrency(), Reason: e.Reason}
	case *payv1.PaymentRefunded:
		p.Phase, p.RefundID, p.Reason = Refunded, e.RefundId, e.Reason
	}
}

// charge records what the gateway said to the capture.
func charge(p *Payment, placed *orderv1.OrderPlaced, answer Capture) flow.Outcome {
	if p.Phase != None {
		return flow.Nothing()
	}
	if answer.Refused != "" {
		return flow.Emit(&payv1.PaymentFailed{
			OrderId: placed.OrderId, Customer: placed.Customer, Amount: placed.Total, Reason: answer.Refused, Detail: answer.Detail,
		})
	}
	return flow.Emit(&payv1.PaymentCaptured{
		OrderId: placed.OrderId, Customer: placed.Customer, Amount: placed.Total, CaptureId: answer.ID,
		Lines: placed.Lines, Handover: placed.Handover,
	})
}

// unreachable gives up on a gateway that does not answer. The key has been voided: whatever it had taken is given back.
func unreachable(p *Payment, placed *orderv1.OrderPlaced, _ any) flow.Outcome {
	if p.Phase != None {
		return flow.Nothing()
	}
	return flow.Emit(&payv1.PaymentFailed{
		OrderId: placed.OrderId, Customer: placed.Customer, Amount: placed.Total,
		Reason: "unavailable", Detail: "the payment gateway does not answer; nothing was charged",
	})
}

// refund undoes a capture: the amount is that of the recorded capture, whatever the order says now.
func refund(_ *Payment, captured *payv1.PaymentCaptured, because flow.Failure, answer Void) flow.Outcome {
	return flow.Emit(&payv1.PaymentRefunded{
		OrderId: captured.OrderId, Amount: captured.Amount, CaptureId: captured.CaptureId,
		RefundId: answer.RefundID, Reason: because.Reason,
	})
}

// neverCharged tells the others that there will be no capture: the saga was rolled back before.
func neverCharged(p *Payment, because flow.Failure, e event.Envelope) flow.Outcome {
	if p.Phase != None {
		return flow.Nothing()
	}
	return flow.Emit(&payv1.PaymentFailed{
		OrderId: e.Saga.String(), Reason: "cancelled", Detail: "rolled back before the payment, on " + because.Type,
	})
}

// The pattern over events: that many refusals of one customer within this time.
const (
	flagRefusals = 3
	flagWindow   = 10 * time.Minute
)

// Customer is the state of a customer's stream.
type Customer struct {
	Flags int `json:"flags"`
}

func (c *Customer) evolve(fact proto.Message) {
	if _, ok := fact.(*payv1.CustomerFlagged); ok {
		c.Flags++
	}
}

// Refusals are the times of a customer's refusals since the last flag, within the window before the newest.
type Refusals struct {
	At []time.Time `json:"at"`
}

func (r *Refusals) fold(fact proto.Message, e event.Envelope) {
	if _, flagged := fact.(*payv1.CustomerFlagged); flagged {
		r.At = nil
		return
	}
	r.At = append(r.At, e.At)
	slices.SortFunc(r.At, time.Time.Compare)
	newest := r.At[len(r.At)-1]
	r.At = slices.DeleteFunc(r.At, func(t time.Time) bool { return newest.Sub(t) > flagWindow })
}

func byCustomer(fact proto.Message, _ event.Envelope) []string {
	switch f := fact.(type) {
	case *payv1.CustomerFlagged:
		return []string{f.Customer}
	case *payv1.PaymentFailed:
		// Only what says something about the customer counts.
		if slices.Contains([]string{"declined", "insufficient_funds", "fraud"}, f.Reason) {
			return []string{f.Customer}
		}
	}
	return nil
}

// Record is what flagging looks at.
type Record struct {
	Customer *Customer
	Refusals *Refusals
}

func record(r flow.Reader, failed *payv1.PaymentFailed, _ event.Envelope) *Record {
	return &Record{customers.Of(r, failed.Customer), refusals.Of(r, failed.Customer)}
}

// flag finds the pattern.
func flag(r *Record, failed *payv1.PaymentFailed) flow.Outcome {
	if len(r.Refusals.At) < flagRefusals {
		return flow.Nothing()
	}
	return flow.Emit(&payv1.CustomerFlagged{
		Customer: failed.Customer, Refusals: int32(len(r.Refusals.At)), WindowSeconds: int64(flagWindow.Seconds()),
	})
}
