package chaos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"hotchoc/ops/stack"
)

// Kind is a way to break something.
type Kind string

// The kinds of faults.
const (
	KillService     Kind = "kill"             // SIGKILL, and started again at once
	StopService     Kind = "stop"             // SIGTERM, and started again
	PauseService    Kind = "pause"            // SIGSTOP, and SIGCONT after a while
	Twin            Kind = "twin"             // a second instance comes, shares the work, and dies; some hang for a while before
	KillBroker      Kind = "broker-kill"      // SIGKILL, and started again at once
	RestartBroker   Kind = "broker-restart"   // asked to stop, and started again
	PauseBroker     Kind = "broker-pause"     // SIGSTOP for less than its clients notice
	FreezeBroker    Kind = "broker-freeze"    // SIGSTOP until all its clients have noticed
	KillPostgres    Kind = "postgres-kill"    // SIGKILL, and started again at once
	RestartPostgres Kind = "postgres-restart" // asked to stop, and started again
	PausePostgres   Kind = "postgres-pause"   // SIGSTOP to all its processes, for less or more than statements may take
	KillPartners    Kind = "partners-kill"    // the gateway and the courier are gone for a while
	GatewayFails    Kind = "gateway-fails"    // 503 before anything is booked
	GatewayLoses    Kind = "gateway-loses"    // booked, but the answer is lost
	GatewaySlows    Kind = "gateway-slows"    // answers late, some of them too late
	CourierFails    Kind = "courier-fails"
	CourierLoses    Kind = "courier-loses"
	Poison          Kind = "poison"    // messages that can never be handled
	Duplicate       Kind = "duplicate" // messages are delivered twice
	Reorder         Kind = "reorder"   // the second delivery comes late, after what followed
)

// Kinds are all of them, in the order in which they are reported.
var Kinds = []Kind{
	KillService, StopService, PauseService, Twin, KillBroker, RestartBroker, PauseBroker, FreezeBroker, KillPostgres, RestartPostgres,
	PausePostgres, KillPartners, GatewayFails, GatewayLoses, GatewaySlows, CourierFails, CourierLoses, Poison, Duplicate, Reorder,
}

// lane is what faults are carried out one after the other in. The lanes run beside each other.
type lane int

const (
	killLane lane = iota
	serviceLane
	serverLane
	partnerLane
	poisonLane
	twinLane
	messageLane // not scheduled: every message is drawn for
)

func (k Kind) lane() lane {
	switch k {
	case KillService:
		return killLane
	case StopService, PauseService:
		return serviceLane
	case GatewayFails, GatewayLoses, GatewaySlows, CourierFails, CourierLoses, KillPartners:
		return partnerLane
	case Twin:
		return twinLane
	case Poison:
		return poisonLane
	case Duplicate, Reorder:
		return messageLane
	}
	return serverLane
}

// Fault is one entry of a schedule.
type Fault struct {
	At     time.Duration // after the beginning
	Kind   Kind
	Target string        // the service, server or partner
	For    time.Duration // how long, if it is not over at once
	Rate   float64       // of requests or messages that are hit
	Draw   uint64        // what else has to be drawn for it
}

func (f Fault) String() string {
	s := fmt.Sprintf("%-16s %s", f.Kind, f.Target)
	if f.For > 0 {
		s += fmt.Sprintf(" for %.1f s", f.For.Seconds())
	}
	if f.Rate > 0 {
		s += fmt.Sprintf(", %.0f %%", 100*f.Rate)
	}
	return s
}

// MarshalJSON writes durations as seconds.
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"at_seconds": f.At.Seconds(), "kind": f.Kind, "target": f.Target, "for_seconds": f.For.Seconds(), "rate": f.Rate})
}

// rhythm is how often a kind comes: at least once, and once in this time.
var rhythm = map[Kind]time.Duration{
	StopService: 10 * time.Second, PauseService: 10 * time.Second,
	KillBroker: 100 * time.Second, RestartBroker: 400 * time.Second, PauseBroker: 200 * time.Second, FreezeBroker: 400 * time.Second,
	KillPostgres: 50 * time.Second, RestartPostgres: 200 * time.Second, PausePostgres: 100 * time.Second,
	KillPartners: 60 * time.Second,
	GatewayFails: 40 * time.Second, GatewayLoses: 40 * time.Second, GatewaySlows: 80 * time.Second,
	CourierFails: 60 * time.Second, CourierLoses: 60 * time.Second,
	Poison: 5 * time.Second, Twin: 8 * time.Second,
}

// Plan draws a schedule. The same seed and limits give the same one.
func Plan(seed uint64, total, every time.Duration, kinds []Kind) []Fault {
	var faults []Fault
	for l := range messageLane {
		// A generator for each lane, so that what one draws does not move the others.
		rng := rand.New(rand.NewPCG(seed, uint64(l)))
		mine := slices.DeleteFunc(slices.Clone(kinds), func(k Kind) bool { return k.lane() != l })
		slices.SortFunc(mine, func(a, b Kind) int { return slices.Index(Kinds, a) - slices.Index(Kinds, b) })
		if len(mine) == 0 {
			continue
		}
		if l == killLane {
			faults = append(faults, kills(rng, total, every)...)
			continue
		}
		faults = append(faults, spread(rng, total, mine)...)
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return faults
}

// kills ends one service after the other, in an order that chance decides.
func kills(rng *rand.Rand, total, every time.Duration) (faults []Fault) {
	var targets []string
	for at := every; at < total; at += every {
		if len(targets) == 0 {
			targets = stack.Services()
		}
		f := Fault{At: at + jitter(rng, every/4), Kind: KillService, Draw: rng.Uint64()}
		f.Target, targets = draw(rng, targets)
		faults = append(faults, f)
	}
	return faults
}

// spread gives each kind its share of the time, in an order that chance decides.
func spread(rng *rand.Rand, total time.Duration, kinds []Kind) (faults []Fault) {
	var bag []Kind
	for _, k := range kinds {
		for range max(1, int(total/rhythm[k])) {
			bag = append(bag, k)
		}
	}
	slot := total / time.Duration(len(bag))
	for i := 0; len(bag) > 0; i++ {
		f := Fault{At: slot*time.Duration(i) + slot/4 + jitter(rng, slot/5)}
		f.Kind, bag = draw(rng, bag)
		f.Draw = rng.Uint64()
		switch f.Kind {
		case PauseService:
			f.For = between(rng, time.Second, 5*time.Second)
		case PauseBroker:
			f.For = between(rng, time.Second, 3*time.Second)
		case PausePostgres:
			f.For = between(rng, 2*time.Second, 13*time.Second)
		case KillPartners:
			f.For = between(rng, 100*time.Millisecond, 3*time.Second)
		case Twin:
			f.For = between(rng, time.Second, 12*time.Second)
		case FreezeBroker:
			f.For = 15 * time.Second // at most
		case GatewayFails, CourierFails:
			f.For, f.Rate = min(between(rng, 2*time.Second, 6*time.Second), slot/2), min(1, 0.3+rng.Float64()) // often nobody gets through
		case GatewayLoses, CourierLoses:
			f.For, f.Rate = min(between(rng, 2*time.Second, 6*time.Second), slot/2), 0.2+0.4*rng.Float64()
		case GatewaySlows:
			f.For = min(between(rng, 2*time.Second, 4*time.Second), slot/2)
		}
		switch l := f.Kind.lane(); {
		case l == serverLane:
			f.Target = "rabbitmq"
			if f.Kind == KillPostgres || f.Kind == RestartPostgres || f.Kind == PausePostgres {
				f.Target = "postgres"
			}
		case l == partnerLane:
			f.Target, _, _ = strings.Cut(string(f.Kind), "-")
		default:
			all := stack.Services()
			f.Target = all[rng.IntN(len(all))]
		}
		faults = append(faults, f)
	}
	return faults
}

// draw takes one out of a bag.
func draw[T any](rng *rand.Rand, bag []T) (T, []T) {
	i := rng.IntN(len(bag))
	one := bag[i]
	return one, slices.Delete(bag, i, i+1)
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

func jitter(rng *rand.Rand, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(2*most))) - most
}
