package partners

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
)

// Addresses, and what the couriers make of them. Any other is delivered to.
const (
	AddressNoCourier = "no-courier" // nobody wants to go there: no_courier
	AddressNowhere   = "nowhere"    // nobody opens: nobody_home
	AddressSlow      = "slow lane"  // delivered after Config.SlowFor
	AddressRefuse    = "refuse"     // and all that begin so: the customer doesn't want the drinks any more: refused
)

// couriers are the people who ride for the courier company.
var couriers = []string{"Ida", "Juri", "Kofi", "Lene", "Milo", "Nour", "Otto", "Pia"}

// rider picks a courier: always the same one for a key, so that runs can be repeated.
func rider(key string) string {
	sum := uint32(0)
	for i := range len(key) {
		sum = sum*31 + uint32(key[i])
	}
	return couriers[sum%uint32(len(couriers))]
}

type dispatchRequest struct {
	Order   string `json:"order"`
	Address string `json:"address"`
}

func (req *dispatchRequest) validate() error {
	return errors.Join(checkText("order", req.Order, maxName), checkText("address", req.Address, maxAddress))
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	withBuffer(func(b *bytes.Buffer) {
		var req dispatchRequest
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
		e := Entry{Action: actionDispatch, Kind: KindDispatched, Key: key, Order: req.Order, Address: req.Address}
		if req.Address == AddressNoCourier {
			e.Kind, e.Reason, e.Detail = KindRefused, "no_courier", "no courier wants to go there"
		} else {
			e.Courier = rider(key)
		}
		s.carry(w, b, &e)
	})
}

type handOverRequest struct {
	Order   string `json:"order"`
	Address string `json:"address"`
	Courier string `json:"courier"`
}

func (req *handOverRequest) validate() error {
	return errors.Join(checkText("order", req.Order, maxName), checkText("address", req.Address, maxAddress),
		checkText("courier", req.Courier, maxName))
}

func (s *Server) handOver(w http.ResponseWriter, r *http.Request) {
	withBuffer(func(b *bytes.Buffer) {
		var req handOverRequest
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
		e := Entry{Action: actionHandover, Kind: KindDelivered, Key: key, Order: req.Order, Address: req.Address, Courier: req.Courier}
		switch {
		case req.Address == AddressNowhere:
			e.Kind, e.Reason, e.Detail = KindRefused, "nobody_home", "the courier rang, nobody opened"
		case strings.HasPrefix(req.Address, AddressRefuse):
			e.Kind, e.Reason, e.Detail = KindRefused, "refused", "the customer doesn't want the drinks"
		}
		s.carry(w, b, &e)
	})
}

// carry does what e says, at most once per key, and answers.
func (s *Server) carry(w http.ResponseWriter, b *bytes.Buffer, e *Entry) {
	faults := s.faults.Load().Courier
	rec, err := s.bring(e, faults)
	if err == nil {
		err = s.leave(faults)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	b.Reset()
	status, body := courierAnswer(b.AvailableBuffer(), e.Key, &rec)
	respond(w, status, body)
}

// bring books e unless its key is known; it returns what holds for the key, on the disk.
func (s *Server) bring(e *Entry, faults Fault) (record, error) {
	if err := s.enter(faults); err != nil {
		return record{}, err
	}
	rec, known := s.courier.known(e.Action, e.Key)
	if !known {
		if e.Action == actionHandover && e.Address == AddressSlow {
			if err := s.wait(s.cfg.SlowFor); err != nil {
				return record{}, err
			}
		}
		var err error
		if rec, _, err = s.courier.do(e); err != nil {
			return record{}, err
		}
	}
	if err := rec.batch.wait(); err != nil {
		return record{}, err
	}
	if rec.kind != KindVoided &&
		(rec.order != e.Order || rec.subject != e.Address || e.Action == actionHandover && rec.courier != e.Courier) {
		return record{}, unprocessable("the key %s was used before, with another order, address or courier", e.Key)
	}
	return rec, nil
}

func courierAnswer(b []byte, key string, rec *record) (status int, body []byte) {
	b = append(b, `{"key":`...)
	b = appendString(b, key)
	switch rec.kind {
	case KindDispatched, KindDelivered:
		status = http.StatusOK
		b = appendField(b, "status", rec.kind)
		b = appendField(b, "courier", rec.courier)
	case KindVoided:
		status = http.StatusConflict
		b = append(b, `,"status":"voided"`...)
	default:
		status = http.StatusConflict
		b = appendRefusal(b, rec)
	}
	return status, append(b, '}', '\n')
}

func (s *Server) voidDispatch(w http.ResponseWriter, r *http.Request) {
	s.void(w, r, s.courier, s.faults.Load().Courier, actionDispatch)
}

// voidHandOver answers "delivered" when the drinks had been handed over: that can't be undone.
func (s *Server) voidHandOver(w http.ResponseWriter, r *http.Request) {
	s.void(w, r, s.courier, s.faults.Load().Courier, actionHandover)
}
