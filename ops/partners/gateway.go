package partners

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
)

// Payment tokens, and what the gateway does with them. Any other is declined as unknown.
const (
	TokenOK           = "tok_ok"           // captures
	TokenDeclined     = "tok_declined"     // refuses: declined
	TokenInsufficient = "tok_insufficient" // refuses: insufficient_funds
	TokenFraud        = "tok_fraud"        // refuses: fraud
	TokenSlow         = "tok_slow"         // captures and answers after Config.SlowFor
	TokenFlaky        = "tok_flaky"        // fails with 503 the first two times per key, then captures
	TokenLost         = "tok_lost"         // captures, but the answer is lost the first time
	TokenDown         = "tok_down"         // never answers and books nothing
)

// Tokens are all payment tokens that mean something.
var Tokens = []string{TokenOK, TokenDeclined, TokenInsufficient, TokenFraud, TokenSlow, TokenFlaky, TokenLost, TokenDown}

// flakyFailures is how often tok_flaky fails per key.
const flakyFailures = 2

// maxFlaky bounds the keys whose failures are remembered; when there are more, tok_flaky captures at once.
const maxFlaky = 10_000

var errFlaky = errors.New("the card's bank didn't answer, nothing was captured; try again")

type captureRequest struct {
	Amount   int64  `json:"amount"`   // minor units, 0 to maxAmount
	Currency string `json:"currency"` // ISO 4217, three upper-case letters
	Token    string `json:"token"`
	Order    string `json:"order"`
}

const maxAmount = 1_000_000_000_000

func (req *captureRequest) validate() error {
	if req.Amount < 0 || req.Amount > maxAmount {
		return unprocessable("amount is %d, must be 0 to %d minor units", req.Amount, int64(maxAmount))
	}
	c := req.Currency
	if len(c) != 3 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' || c[2] < 'A' || c[2] > 'Z' {
		return unprocessable("currency is %q, must be three upper-case letters", c)
	}
	return errors.Join(checkText("token", req.Token, maxName), checkText("order", req.Order, maxName))
}

func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	withBuffer(func(b *bytes.Buffer) {
		var req captureRequest
		key, err := requestKey(r)
		if err == nil {
			err = decode(r, b, &req, false)
		}
		if err == nil {
			err = req.validate()
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		faults := s.faults.Load().Gateway
		rec, err := s.charge(r, key, &req, faults)
		if err == nil {
			err = s.leave(faults)
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		b.Reset()
		status, body := captureAnswer(b.AvailableBuffer(), key, &rec)
		respond(w, status, body)
	})
}

// charge captures at most once per key; it returns what holds for the key, on the disk.
func (s *Server) charge(r *http.Request, key string, req *captureRequest, faults Fault) (record, error) {
	if err := s.enter(faults); err != nil {
		return record{}, err
	}
	rec, known := s.gateway.known(actionCapture, key)
	booked := false
	if !known {
		switch req.Token {
		case TokenFlaky:
			if s.flakes(key) {
				return record{}, errFlaky
			}
		case TokenSlow:
			if err := s.wait(s.cfg.SlowFor); err != nil {
				return record{}, err
			}
		case TokenDown:
			return record{}, s.hold(r)
		}
		// Whatever has happened to the key meanwhile counts: a void that came first wins.
		e := Entry{Action: actionCapture, Kind: KindCaptured, Key: key, Order: req.Order,
			Amount: req.Amount, Currency: req.Currency, Token: req.Token}
		if e.Reason, e.Detail = refusal(req.Token); e.Reason != "" {
			e.Kind = KindRefused
		}
		var err error
		if rec, booked, err = s.gateway.do(&e); err != nil {
			return record{}, err
		}
	}
	if err := rec.batch.wait(); err != nil {
		return record{}, err
	}
	if rec.kind != KindVoided &&
		(rec.amount != req.Amount || rec.currency != req.Currency || rec.subject != req.Token || rec.order != req.Order) {
		return record{}, unprocessable("the key %s was used before, with another amount, token or order", key)
	}
	if booked && req.Token == TokenLost {
		return record{}, errSilence
	}
	return rec, nil
}

// refusal is why the gateway doesn't take a token; no reason: it does.
func refusal(token string) (reason, detail string) {
	switch token {
	case TokenOK, TokenSlow, TokenFlaky, TokenLost:
		return "", ""
	case TokenDeclined:
		return "declined", "the bank declined the card"
	case TokenInsufficient:
		return "insufficient_funds", "there is not enough money on the card"
	case TokenFraud:
		return "fraud", "the payment looks like fraud"
	}
	return "declined", "unknown token"
}

// flakes is true while tok_flaky still has to fail for a key.
func (s *Server) flakes(key string) bool {
	s.flakyMu.Lock()
	defer s.flakyMu.Unlock()
	failures := s.flaky[key]
	if failures == flakyFailures || failures == 0 && len(s.flaky) == maxFlaky {
		delete(s.flaky, key)
		return false
	}
	s.flaky[key] = failures + 1
	return true
}

func captureAnswer(b []byte, key string, rec *record) (status int, body []byte) {
	b = append(b, `{"key":`...)
	b = appendString(b, key)
	switch rec.kind {
	case KindCaptured:
		status = http.StatusOK
		b = append(b, `,"status":"captured","capture_id":"cap_`...)
		b = strconv.AppendUint(b, rec.id, 10)
		b = append(b, `","amount":`...)
		b = strconv.AppendInt(b, rec.amount, 10)
		b = appendField(b, "currency", rec.currency)
	case KindVoided:
		status = http.StatusConflict
		b = append(b, `,"status":"voided"`...)
	default:
		status = http.StatusPaymentRequired
		b = appendRefusal(b, rec)
	}
	return status, append(b, '}', '\n')
}

func appendRefusal(b []byte, rec *record) []byte {
	b = append(b, `,"status":"refused"`...)
	b = appendField(b, "reason", rec.reason)
	return appendField(b, "detail", rec.detail)
}

func (s *Server) voidCapture(w http.ResponseWriter, r *http.Request) {
	s.void(w, r, s.gateway, s.faults.Load().Gateway, actionCapture)
}

// void bars a key, whatever it stands for.
func (s *Server) void(w http.ResponseWriter, r *http.Request, l *ledger, faults Fault, action string) {
	withBuffer(func(b *bytes.Buffer) {
		key, err := requestKey(r)
		if err == nil {
			err = decode(r, b, new(struct{}), true)
		}
		if err == nil {
			err = s.enter(faults)
		}
		var rec record
		if err == nil {
			rec, err = l.void(action, key)
		}
		if err == nil {
			err = rec.batch.wait()
		}
		if err == nil {
			err = s.leave(faults)
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		b.Reset()
		respond(w, http.StatusOK, voidAnswer(b.AvailableBuffer(), action, key, &rec))
	})
}

func voidAnswer(b []byte, action, key string, rec *record) []byte {
	b = append(b, `{"key":`...)
	b = appendString(b, key)
	b = appendField(b, "status", rec.kind)
	if action == actionCapture {
		amount := int64(0)
		b = append(b, `,"refund_id":"`...)
		if rec.refund != 0 {
			b = append(b, "ref_"...)
			b = strconv.AppendUint(b, rec.refund, 10)
			amount = rec.amount
		}
		b = append(b, `","amount":`...)
		b = strconv.AppendInt(b, amount, 10)
		b = append(b, `,"currency":`...)
		b = appendString(b, rec.currency)
	}
	return append(b, '}', '\n')
}
