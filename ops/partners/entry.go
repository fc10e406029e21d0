package partners

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The two partners, as they are named in ledgers and faults.
const (
	gatewayName = "gateway"
	courierName = "courier"
)

// Kinds of ledger entries.
const (
	KindCaptured   = "captured"   // money was taken
	KindRefunded   = "refunded"   // a capture was voided: the money was given back and the key is barred
	KindDispatched = "dispatched" // a courier is on the way
	KindDelivered  = "delivered"  // the drinks were handed over
	KindRefused    = "refused"    // asked, and said no; the reason says why
	KindVoided     = "voided"     // the key is barred, and no money had to be given back
)

// What was asked for under a key. Each has its own keys.
const (
	actionCapture  = "capture"
	actionDispatch = "dispatch"
	actionHandover = "handover"
)

// Entry is one line of a ledger: the truth about one key, when it changed. Fields that don't apply are left out.
type Entry struct {
	// At is when it was booked, UTC, with nanoseconds and a fixed width.
	At string `json:"at"`
	// Partner is "gateway" or "courier".
	Partner string `json:"partner"`
	// Action is what the key stands for: "capture", "dispatch" or "handover".
	Action string `json:"action"`
	// Kind is what happened: one of the Kind constants.
	Kind string `json:"kind"`
	Key  string `json:"key"`
	// Order is the order's ID as the request said; unknown when a key was voided before it was used.
	Order string `json:"order,omitempty"`
	// Amount is what was captured, refused or given back, in minor units.
	Amount   int64  `json:"amount,omitempty"`
	Currency string `json:"currency,omitempty"`
	// ID is the capture ID, the refund ID, or the ID of a dispatch or hand-over; none when nothing was done.
	ID      string `json:"id,omitempty"`
	Token   string `json:"token,omitempty"`
	Address string `json:"address,omitempty"`
	Courier string `json:"courier,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

// entryTime has a fixed width, so that times compare as strings.
const entryTime = "2006-01-02T15:04:05.000000000Z"

// appendEntry writes e as one JSON line. By hand because it runs under the ledger's lock, for every request.
func appendEntry(b []byte, e *Entry, now time.Time) []byte {
	b = append(b, `{"at":"`...)
	b = now.UTC().AppendFormat(b, entryTime)
	b = append(b, `","partner":"`...)
	b = append(b, e.Partner...)
	b = append(b, `","action":"`...)
	b = append(b, e.Action...)
	b = append(b, `","kind":"`...)
	b = append(b, e.Kind...)
	b = append(b, `","key":`...)
	b = appendString(b, e.Key)
	b = appendField(b, "order", e.Order)
	if e.Amount != 0 {
		b = append(b, `,"amount":`...)
		b = strconv.AppendInt(b, e.Amount, 10)
	}
	b = appendField(b, "currency", e.Currency)
	b = appendField(b, "id", e.ID)
	b = appendField(b, "token", e.Token)
	b = appendField(b, "address", e.Address)
	b = appendField(b, "courier", e.Courier)
	b = appendField(b, "reason", e.Reason)
	b = appendField(b, "detail", e.Detail)
	return append(b, '}', '\n')
}

// appendField writes a member that follows another one, unless it is empty.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

// appendString writes s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always has a JSON form
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// record is what a partner remembers about a key: the fold of the key's entries.
type record struct {
	kind     string // of the latest entry; KindVoided after a refund, too
	order    string
	subject  string // what was asked with: the token or the address
	currency string
	courier  string
	reason   string
	detail   string
	amount   int64
	id       uint64 // number of the capture; 0: none
	refund   uint64 // number of the refund; 0: none
	batch    *batch // when it has reached the disk
}

// number reads the number out of an ID such as "cap_42".
func number(id, prefix string) (uint64, error) {
	if id == "" {
		return 0, nil
	}
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
		return 0, fmt.Errorf("id %q does not begin with %q", id, prefix)
	}
	return strconv.ParseUint(id[len(prefix):], 10, 64)
}
