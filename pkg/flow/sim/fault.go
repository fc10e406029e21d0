package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Point is a place in the life of a process where something can go wrong.
type Point string

// The points.
const (
	Tick      Point = "tick"      // between two things that a process does
	Deliver   Point = "deliver"   // the broker hands a message over
	Ask       Point = "ask"       // a call to the outside
	Begin     Point = "begin"     // a transaction begins
	Read      Point = "read"      // its one read
	Write     Point = "write"     // its one write
	Commit    Point = "commit"    // its end
	Publish   Point = "publish"   // an event or timer goes to the broker
	Sweep     Point = "sweep"     // the outbox is asked for what is due
	Published Point = "published" // what was confirmed is taken out of the outbox
	Release   Point = "release"   // what failed is given back to the outbox
	Attempted Point = "attempted" // a failed try goes to the ledger
	Republish Point = "republish" // a message goes to a wait queue or to the dead letters
	Ack       Point = "ack"       // a message is done with
	Answer    Point = "answer"    // a command's verdict goes to the customer
)

// Kind is what goes wrong.
type Kind string

// The kinds.
const (
	Crash      Kind = "crash"       // the process dies before
	CrashAfter Kind = "crash-after" // the process dies after
	Fail       Kind = "fail"        // nothing happens, and an error says so
	Lost       Kind = "lost"        // it happens, and the answer is lost
	Late       Kind = "late"        // the answer is lost, and it happens some time later
	Away       Kind = "away"        // nobody is there to be asked, for a while
	Moody      Kind = "moody"       // for a while the outside fails, or loses answers, or is late, whoever asks
	Conflict   Kind = "conflict"    // somebody else wrote first, they say
	Refused    Kind = "refused"     // the database refuses it, for a reason of its own
	Overtaken  Kind = "overtaken"   // the others go on in the midst of it
	Slow       Kind = "slow"        // it takes long
	Again      Kind = "again"       // the message comes twice
	Drop       Kind = "drop"        // the connection to the broker breaks
	Pause      Kind = "pause"       // the process stands still for a while, and then goes on as if nothing had been
	CutStore   Kind = "cut-store"   // the process cannot reach its database for a while
	CutBroker  Kind = "cut-broker"  // the process cannot reach the broker for a while
	Skew       Kind = "skew"        // the clock of the process jumps
	Restart    Kind = "restart"     // the broker goes down and comes back
)

// possible says what can go wrong where.
var possible = map[Point][]Kind{
	Tick:      {Crash, Pause, CutStore, CutBroker, Skew, Restart},
	Deliver:   {Crash, Again, Slow, Drop},
	Ask:       {Crash, CrashAfter, Fail, Lost, Late, Away, Moody, Slow},
	Begin:     {Crash, Fail},
	Read:      {Crash, CrashAfter, Fail, Overtaken},
	Write:     {Crash, CrashAfter, Fail, Conflict, Refused},
	Commit:    {Crash, CrashAfter, Fail, Lost, Conflict},
	Publish:   {Crash, CrashAfter, Fail, Lost, Slow},
	Sweep:     {Crash, CrashAfter, Fail, Lost},
	Published: {Crash, CrashAfter, Fail, Lost},
	Release:   {Crash, CrashAfter, Fail, Lost},
	Attempted: {Crash, CrashAfter, Fail},
	Republish: {Crash, CrashAfter, Fail, Lost, Slow},
	Ack:       {Crash, CrashAfter, Drop, Slow},
	Answer:    {Lost},
}

// points are all of them, in a fixed order.
var points = []Point{Tick, Deliver, Ask, Begin, Read, Write, Commit, Publish, Sweep, Published, Release, Attempted, Republish, Ack, Answer}

// Fault is one thing that goes wrong, the Nth time that a process comes to a point.
type Fault struct {
	Process string
	Point   Point
	N       int
	Kind    Kind
}

func (f Fault) String() string { return fmt.Sprintf("%s:%s:%d:%s", f.Process, f.Point, f.N, f.Kind) }

// Plan is all that a run depends on: a seed, what goes wrong, and which of the seed's wishes are left out.
type Plan struct {
	Seed    uint64
	Faults  []Fault
	Without []int
}

// String is the form that ParsePlan reads: "42 pay/1:commit:3:lost,-0".
func (p Plan) String() string {
	var parts []string
	for _, f := range p.Faults {
		parts = append(parts, f.String())
	}
	for _, n := range p.Without {
		parts = append(parts, fmt.Sprintf("-%d", n))
	}
	return fmt.Sprintf("%d %s", p.Seed, strings.Join(parts, ","))
}

// ParsePlan reads what String wrote.
func ParsePlan(text string) (p Plan, err error) {
	bad := func() (Plan, error) {
		return Plan{}, fmt.Errorf("%q is not a plan, such as \"42 pay/1:commit:3:lost,-0\": seed, faults as process:point:n:kind, wishes left out", text)
	}
	seed, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	if p.Seed, err = strconv.ParseUint(seed, 10, 64); err != nil {
		return bad()
	}
	for part := range strings.SplitSeq(rest, ",") {
		if part == "" {
			continue
		}
		if without, ok := strings.CutPrefix(part, "-"); ok {
			n, err := strconv.Atoi(without)
			if err != nil {
				return bad()
			}
			p.Without = append(p.Without, n)
			continue
		}
		fields := strings.Split(part, ":")
		if len(fields) != 4 {
			return bad()
		}
		f := Fault{Process: fields[0], Point: Point(fields[1]), Kind: Kind(fields[3])}
		if f.N, err = strconv.Atoi(fields[2]); err != nil || !slices.Contains(possible[f.Point], f.Kind) {
			return bad()
		}
		p.Faults = append(p.Faults, f)
	}
	return p, nil
}

func (p Plan) withoutFault(n int) Plan {
	p.Faults = slices.Delete(slices.Clone(p.Faults), n, n+1)
	return p
}

func (p Plan) withoutWish(n int) Plan {
	p.Without = append(slices.Clip(p.Without), n)
	return p
}

// Limits of what is drawn.
const (
	kindsMax  = 5
	faultsMax = 8
)

// swarm draws what goes wrong in one run: a few kinds, and some occurrences of them, where a calm run comes by or a little
// later. Few kinds at a time find more than all at once: https://users.cs.utah.edu/~regehr/papers/swarm12.pdf
func swarm(seed uint64, sites []site) (faults []Fault) {
	r := rand.New(rand.NewPCG(seed, 1))
	if r.IntN(50) == 0 {
		return nil // also calm runs are runs
	}
	reached := slices.DeleteFunc(slices.Clone(points), func(p Point) bool {
		return !slices.ContainsFunc(sites, func(s site) bool { return s.point == p })
	})
	var kinds []Kind
	for range 1 + r.IntN(kindsMax) {
		of := possible[reached[r.IntN(len(reached))]]
		kinds = append(kinds, of[r.IntN(len(of))])
	}
	for range 1 + r.IntN(faultsMax) {
		kind := kinds[r.IntN(len(kinds))]
		can := slices.DeleteFunc(slices.Clone(sites), func(s site) bool { return !slices.Contains(possible[s.point], kind) })
		s := can[r.IntN(len(can))]
		faults = append(faults, Fault{s.process, s.point, 1 + r.IntN(s.times+s.times/4), kind})
	}
	return faults
}

// site is a point of a process, and how often a run came by.
type site struct {
	process string
	point   Point
	times   int
}

// visited lists where the processes came by.
func (w *World) visited() (all []site) {
	for _, p := range w.processes {
		for _, point := range points {
			if n := p.counts[point]; n > 0 {
				all = append(all, site{p.name, point, n})
			}
		}
	}
	return all
}

func timesAt(sites []site, process string, point Point) int {
	for _, s := range sites {
		if s.process == process && s.point == point {
			return s.times
		}
	}
	return 0
}
