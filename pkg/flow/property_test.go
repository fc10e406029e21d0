package flow_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"hotchoc/pkg/flow"
)

// Whatever a policy says: the delays are those of wait queues, do not shrink if they were declared so, and end.
func TestEveryPolicyThatIsAcceptedCanBeCarriedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := flow.Retry{
			Attempts: rapid.IntRange(-1, flow.AttemptsMax+1).Draw(t, "attempts"),
			Delays:   rapid.SliceOfN(rapid.SampledFrom(append([]time.Duration{2 * time.Second}, flow.Rungs...)), 0, 5).Draw(t, "delays"),
			Timeout:  time.Duration(rapid.Int64Range(-1, int64(2*flow.TimeoutMax)).Draw(t, "timeout")),
		}
		f := desk()
		sound := want.Attempts >= 1 && want.Attempts <= flow.AttemptsMax && len(want.Delays) > 0 && want.Timeout > 0 && want.Timeout <= flow.TimeoutMax
		for _, d := range want.Delays {
			sound = sound && d != 2*time.Second
		}
		if err := f.Configure("charge: " + want.String()); (err == nil) != sound {
			t.Fatalf("%v: %v", want, err)
		}
		if !sound {
			return
		}
		got := f.Policies()[0].Retry
		if got.String() != want.String() {
			t.Fatalf("%v was read as %v", want, got)
		}
		for n := -1; n < got.Attempts+2; n++ {
			if d := got.Delay(n); d < flow.Rungs[0] || d > flow.Rungs[len(flow.Rungs)-1] {
				t.Fatalf("after attempt %d it waits %v", n, d)
			}
		}
	})
}
