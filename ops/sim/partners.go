package sim

import (
	"context"
	"errors"
	"fmt"

	"hotchoc/delivery"
	"hotchoc/ops/partners"
	"hotchoc/pay"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow/sim"
)

// books are those of both partners in one run: what they promise (at most once under a key, never under a voided one), in
// memory. That they answer as the partners behind HTTP do is a test of its own.
type books struct {
	captures   map[string]*captured
	dispatches map[string]*carried
	handovers  map[string]*carried
	tries      map[string]int // of what goes wrong at first
	number     int
}

type captured struct {
	order  string
	amount *shopv1.Money
	answer pay.Capture // what it was at first
	refund string
	voided bool
}

type carried struct {
	order   string
	refused string
	courier string
	voided  bool
}

func newBooks() *books {
	return &books{captures: map[string]*captured{}, dispatches: map[string]*carried{}, handovers: map[string]*carried{}, tries: map[string]int{}}
}

// kept is what the gateway has taken for an order and not given back.
func (b *books) kept(order string) (sum int64) {
	for _, c := range b.captures {
		if c.order == order && c.answer.ID != "" && !c.voided {
			sum += c.amount.GetAmount()
		}
	}
	return sum
}

// handedOver tells whether a courier has handed the drinks of an order over; sent, whether one was on the way and not
// called back.
func (b *books) handedOver(order string) bool { return stands(b.handovers, order) }

func (b *books) sent(order string) bool { return stands(b.dispatches, order) }

func stands(all map[string]*carried, order string) bool {
	for _, c := range all {
		if c.order == order && !c.voided && c.refused == "" {
			return true
		}
	}
	return false
}

var errSilence = errors.New("no answer")

// silent tells that a token keeps the gateway from answering, this time.
func (b *books) silent(key, token string) bool {
	b.tries[key]++
	return token == partners.TokenDown || token == partners.TokenFlaky && b.tries[key] <= 2
}

func (b *books) capture(key, order, token string, amount *shopv1.Money) (pay.Capture, error) {
	c, known := b.captures[key]
	if !known {
		if b.silent(key, token) {
			return pay.Capture{}, errSilence
		}
		c = &captured{order: order, amount: amount}
		switch token {
		case partners.TokenOK, partners.TokenFlaky, partners.TokenLost:
			b.number++
			c.answer = pay.Capture{ID: fmt.Sprintf("cap_%d", b.number)}
		case partners.TokenInsufficient:
			c.answer = pay.Capture{Refused: "insufficient_funds"}
		case partners.TokenFraud:
			c.answer = pay.Capture{Refused: "fraud"}
		default:
			c.answer = pay.Capture{Refused: "declined"}
		}
		b.captures[key] = c
		if token == partners.TokenLost {
			return pay.Capture{}, errSilence
		}
	}
	if c.voided {
		return pay.Capture{Refused: "unavailable"}, nil
	}
	return c.answer, nil
}

func (b *books) voidCapture(key string) pay.Void {
	c, known := b.captures[key]
	if !known {
		c = &captured{}
		b.captures[key] = c
	}
	if c.answer.ID != "" && !c.voided {
		b.number++
		c.refund = fmt.Sprintf("ref_%d", b.number)
	}
	c.voided = true
	if c.refund == "" {
		return pay.Void{}
	}
	return pay.Void{RefundID: c.refund, Amount: c.amount}
}

// rider is who rides; there is one.
const rider = "Ida"

func (b *books) dispatch(key, order, address string) delivery.Dispatch {
	d, known := b.dispatches[key]
	if !known {
		d = &carried{order: order, courier: rider}
		if address == partners.AddressNoCourier {
			d.refused, d.courier = "no_courier", ""
		}
		b.dispatches[key] = d
	}
	if d.voided {
		return delivery.Dispatch{Refused: "no_courier"}
	}
	return delivery.Dispatch{Courier: d.courier, Refused: d.refused}
}

func (b *books) voidDispatch(key string) {
	d, known := b.dispatches[key]
	if !known {
		d = &carried{}
		b.dispatches[key] = d
	}
	d.voided = true
}

func (b *books) handOver(key, order, address string) delivery.HandOver {
	h, known := b.handovers[key]
	if !known {
		h = &carried{order: order}
		if address == partners.AddressNowhere {
			h.refused = "nobody_home"
		}
		b.handovers[key] = h
	}
	if h.voided {
		return delivery.HandOver{Refused: "no_courier"}
	}
	return delivery.HandOver{Refused: h.refused}
}

func (b *books) voidHandOver(key string) delivery.HandOver {
	h, known := b.handovers[key]
	if !known {
		h = &carried{}
		b.handovers[key] = h
	} else if !h.voided && h.refused == "" {
		return delivery.HandOver{} // what was handed over stays so
	}
	h.voided = true
	return delivery.HandOver{Refused: "no_courier"}
}

// gateway is the payment gateway as one process reaches it.
type gateway struct {
	out *sim.Outside
	*books
}

var _ pay.Gateway = gateway{}

func (g gateway) Capture(_ context.Context, key, order, token string, amount *shopv1.Money) (pay.Capture, error) {
	return sim.Call(g.out, "capture", func() (pay.Capture, error) { return g.capture(key, order, token, amount) })
}

func (g gateway) Void(_ context.Context, key string) (pay.Void, error) {
	return sim.Call(g.out, "void the capture", func() (pay.Void, error) { return g.voidCapture(key), nil })
}

// courier is the courier company as one process reaches it.
type courier struct {
	out *sim.Outside
	*books
}

var _ delivery.Courier = courier{}

func (c courier) Dispatch(_ context.Context, key, order, address string) (delivery.Dispatch, error) {
	return sim.Call(c.out, "dispatch", func() (delivery.Dispatch, error) { return c.dispatch(key, order, address), nil })
}

func (c courier) HandOver(_ context.Context, key, order, address, _ string) (delivery.HandOver, error) {
	return sim.Call(c.out, "hand over", func() (delivery.HandOver, error) { return c.handOver(key, order, address), nil })
}

func (c courier) Void(_ context.Context, key string) error {
	_, err := sim.Call(c.out, "void the dispatch", func() (struct{}, error) {
		c.voidDispatch(key)
		return struct{}{}, nil
	})
	return err
}

func (c courier) VoidHandOver(_ context.Context, key string) (delivery.HandOver, error) {
	return sim.Call(c.out, "void the hand-over", func() (delivery.HandOver, error) { return c.voidHandOver(key), nil })
}
