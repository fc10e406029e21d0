package partners

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// MaxLatency is the longest latency that a [Fault] may add.
const MaxLatency = time.Minute

// Faults is the trouble that the partners make, per partner: the body of GET and PUT /faults. A partner that is left out
// of a PUT makes none. Not kept over a restart.
type Faults struct {
	Gateway Fault `json:"gateway"`
	Courier Fault `json:"courier"`
}

// Fault is the trouble that one partner makes for every request that does or voids something.
type Fault struct {
	// LatencyMS is waited before anything is decided; milliseconds, 0 to 60000.
	LatencyMS int `json:"latency_ms"`
	// ErrorRate is how many requests get a 503 before anything is booked; 0 to 1.
	ErrorRate float64 `json:"error_rate"`
	// LostRate is how many requests are booked, but their answer is lost: the connection closes; 0 to 1.
	LostRate float64 `json:"lost_rate"`
}

func (f Faults) validate() error {
	return errors.Join(f.Gateway.validate(gatewayName), f.Courier.validate(courierName))
}

func (f Fault) validate(partner string) error {
	var errs []error
	if f.LatencyMS < 0 || f.LatencyMS > int(MaxLatency/time.Millisecond) {
		errs = append(errs, fmt.Errorf("%s.latency_ms is %d, must be 0 to %d", partner, f.LatencyMS, MaxLatency/time.Millisecond))
	}
	if !(f.ErrorRate >= 0 && f.ErrorRate <= 1) {
		errs = append(errs, fmt.Errorf("%s.error_rate is %v, must be 0 to 1", partner, f.ErrorRate))
	}
	if !(f.LostRate >= 0 && f.LostRate <= 1) {
		errs = append(errs, fmt.Errorf("%s.lost_rate is %v, must be 0 to 1", partner, f.LostRate))
	}
	return errors.Join(errs...)
}

// SetFaults switches the trouble, as PUT /faults does.
func (s *Server) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	s.faults.Store(&f)
	return nil
}

// dice is a seeded random generator for several goroutines.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newDice(seed uint64) *dice {
	return &dice{rng: rand.New(rand.NewPCG(seed, seed))}
}

// hit is true with the probability rate. Only rates between 0 and 1 throw the dice.
func (d *dice) hit(rate float64) bool {
	switch {
	case rate <= 0:
		return false
	case rate >= 1:
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64() < rate
}
