package audit

import (
	"fmt"
	"slices"
)

// lifecycle says which facts may follow in a stream: by state, from the empty one, what each type leads to. A state that
// nothing leads out of is the end.
type lifecycle map[string]map[string]string

// lifecycles are those of all categories. They are written down here, and not taken from the services, for the services
// are what is audited.
var lifecycles = map[string]lifecycle{
	"item": {
		"":        {"item.added": "on"},
		"on":      {"item.edited": "on", "item.retired": "retired"},
		"retired": {"item.added": "on"},
	},
	"order": {
		"":           {"order.placed": "placed"},
		"placed":     {"order.cancel_requested": "cancelling", "order.cancelled": "cancelled", "order.completed": "completed"},
		"cancelling": {"order.cancelled": "cancelled", "order.completed": "completed"},
	},
	"payment": {
		"":         {"payment.captured": "captured", "payment.failed": "failed"},
		"captured": {"payment.refunded": "refunded"},
	},
	"customer": {
		"": {"customer.flagged": ""},
	},
	"drink": {
		// A cancel is rejected from the moment when the ingredients are reserved, which is in another stream.
		"":                {"make.cancel_rejected": "going on", "drink.made": "made", "make.failed": "failed"},
		"going on":        {"drink.made": "made, going on", "make.failed": "failed"},
		"made":            {"make.cancel_rejected": "made, going on", "drink.discarded": "discarded"},
		"made, going on":  {"drink.discarded": "discarded, late"},
		"discarded":       {"make.cancel_rejected": "discarded, late"},
		"discarded, late": {},
	},
	"stock": {
		"": {"stock.reserved": "", "stock.consumed": "", "stock.released": "", "stock.replenished": "", "stock.depleted": ""},
	},
	"delivery": {
		"":           {"delivery.dispatched": "dispatched", "delivery.failed": "failed"},
		"dispatched": {"delivery.delivered": "delivered", "delivery.failed": "failed"},
	},
}

// Next tells where a fact leads a stream of a category from a state; false when it may not stand there. The first state
// of every stream is "".
func Next(category, state, typ string) (next string, ok bool) {
	next, ok = lifecycles[category][state][typ]
	return next, ok
}

// The statuses of an order as people see it, in the order in which it comes to them.
var forward = []string{"placed", "paid", "made", "dispatched"}

// Walk tells whether somebody who asked for an order's status again and again can have seen these, in this order. Some may
// be missed, or seen often. An order comes forward, or is on its way back ("cancelling"); from there it goes on only once,
// when a cancel came too late; "completed" and "cancelled" are the end.
func Walk(statuses []string) error {
	furthest, before, resumed := -1, "", false
	for n, s := range statuses {
		if s == before {
			continue
		}
		at := slices.Index(forward, s)
		bad := func(why string) error { return fmt.Errorf("status %d: %s after %s: %s", n+1, s, before, why) }
		switch {
		case at < 0 && !slices.Contains([]string{"cancelling", "completed", "cancelled"}, s):
			return fmt.Errorf("status %d: there is no status %q", n+1, s)
		case before == "completed" || before == "cancelled":
			return bad("that was the end")
		case at >= 0 && at < furthest:
			return bad("the order had come to " + forward[furthest] + " already")
		case before == "cancelling" && s != "cancelled" && resumed:
			return bad("a cancel is asked for once, and so comes too late only once")
		}
		resumed = resumed || before == "cancelling" && s != "cancelled"
		furthest, before = max(furthest, at), s
	}
	return nil
}
