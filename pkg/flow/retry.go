package flow

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rungs are the delays there are wait queues for. A step's policy chooses among them.
var Rungs = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}

// Limits of a policy.
const (
	AttemptsMax = 1000
	TimeoutMax  = time.Minute
)

// Retry is what happens to a message whose handling ran into trouble.
type Retry struct {
	// Attempts is how often it is tried in all, from 1 to AttemptsMax. Afterwards a step with GiveUp emits its Failed event;
	// without one the message becomes a dead letter.
	Attempts int
	// Delays are waited between the attempts, each one of Rungs; the last one repeats.
	Delays []time.Duration
	// Timeout bounds one call to the outside, see Ask; at most TimeoutMax.
	Timeout time.Duration
}

// The default policies. A forward step tries for about eighty seconds, calls not counted; a compensation, which must not be given
// up, for about a day.
var (
	Forward      = Retry{Attempts: 6, Delays: []time.Duration{time.Second, time.Second, 10 * time.Second, 10 * time.Second, time.Minute}, Timeout: 5 * time.Second}
	Compensation = Retry{Attempts: 150, Delays: []time.Duration{time.Second, time.Second, 10 * time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}, Timeout: 10 * time.Second}
)

// Delay returns how long to wait after the nth attempt failed.
func (r Retry) Delay(n int) time.Duration { return r.Delays[min(max(n, 1), len(r.Delays))-1] }

// String writes a policy as Configure reads it.
func (r Retry) String() string {
	delays := make([]string, len(r.Delays))
	for i, d := range r.Delays {
		delays[i] = short(d)
	}
	return fmt.Sprintf("attempts=%d delays=%s timeout=%s", r.Attempts, strings.Join(delays, ","), short(r.Timeout))
}

// short leaves out what is zero at the end of a duration: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// check says all that is wrong with a policy.
func (r Retry) check() error {
	var problems []error
	if r.Attempts < 1 || r.Attempts > AttemptsMax {
		problems = append(problems, fmt.Errorf("attempts must be from 1 to %d, not %d", AttemptsMax, r.Attempts))
	}
	if len(r.Delays) == 0 {
		problems = append(problems, errors.New("there must be a delay"))
	}
	for _, d := range r.Delays {
		if !slices.Contains(Rungs, d) {
			problems = append(problems, fmt.Errorf("there is no wait queue for a delay of %v; there are some for %v", d, Rungs))
		}
	}
	if r.Timeout <= 0 || r.Timeout > TimeoutMax {
		problems = append(problems, fmt.Errorf("the timeout must be from 1ns to %v, not %v", TimeoutMax, r.Timeout))
	}
	return errors.Join(problems...)
}

// Policy is the policy of a step.
type Policy struct {
	Step string
	Retry
}

// Policies are the policies of all steps, in the order in which they were declared.
func (f *Flow) Policies() []Policy {
	policies := make([]Policy, len(f.steps))
	for i, s := range f.steps {
		policies[i] = Policy{s.name, s.retry}
	}
	return policies
}

// Configure changes the policies of steps, as in
//
//	charge: attempts=5 delays=1s,10s timeout=2s; refund: attempts=300
//
// where what is left out stays as it was declared. The error says all that is wrong, and then nothing has changed. It must
// be called before the flow is used.
func (f *Flow) Configure(text string) error {
	changed := map[*step]Retry{}
	var problems []error
	for clause := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(clause) == "" {
			continue
		}
		name, settings, _ := strings.Cut(clause, ":")
		name = strings.TrimSpace(name)
		s := f.step(name)
		if s == nil {
			var names []string
			for _, s := range f.steps {
				names = append(names, s.name)
			}
			problems = append(problems, fmt.Errorf("%s has no step %q; it has %s", f.Service, name, strings.Join(names, ", ")))
			continue
		}
		if _, twice := changed[s]; twice {
			problems = append(problems, fmt.Errorf("step %q is there twice", name))
		}
		r, err := s.retry.with(settings)
		if err != nil {
			problems = append(problems, fmt.Errorf("step %q: %w", name, err))
		}
		changed[s] = r
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	for s, r := range changed {
		s.retry = r
	}
	return nil
}

// with reads settings over a policy.
func (r Retry) with(settings string) (Retry, error) {
	fields := strings.Fields(settings)
	if len(fields) == 0 {
		return r, errors.New("nothing is set; write attempts=5, delays=1s,10s or timeout=2s")
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, "=")
		var err error
		switch name {
		case "attempts":
			r.Attempts, err = strconv.Atoi(value)
		case "timeout":
			r.Timeout, err = time.ParseDuration(value)
		case "delays":
			r.Delays = nil
			for text := range strings.SplitSeq(value, ",") {
				var d time.Duration
				if d, err = time.ParseDuration(text); err != nil {
					break
				}
				r.Delays = append(r.Delays, d)
			}
		default:
			err = errors.New("there are attempts, delays and timeout")
		}
		if err != nil {
			return r, fmt.Errorf("%q: %w", field, err)
		}
	}
	return r, r.check()
}
