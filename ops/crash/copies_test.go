package crash_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// A crash between the republication of a message and its ack leaves a copy behind, with a count of attempts of its own.
// One of them may give up after the other has charged.
func TestACopyThatGivesUpVoidsNothingThatAnotherHasCharged(t *testing.T) {
	r := newRig(t)
	trouble := func(rate float64) {
		if err := r.faults(partner{ErrorRate: rate}, partner{}); err != nil {
			t.Fatal(err)
		}
	}
	k := kind{name: "a copy", service: "pay", drive: func(point) deed { return completed() }}
	trouble(1)
	open, died := r.die(t, k, point{"retry.confirmed", "order.placed"}, nil)
	if !died {
		t.FailNow()
	}
	trouble(0) // for the delivery that was not acked, which comes at once
	r.ready(t, "pay", r.start(t, "pay"))
	<-open[0].done
	o := open[0].deed.(*order)
	r.must(t, func() error { return o.happened(r, "payment.captured") })
	trouble(1) // for the copy, which comes a second later
	r.must(t, func() error {
		spent := false
		if err := r.dbs["pay"].QueryRow(`SELECT count(*) > 0 FROM attempt WHERE n >= 3`).Scan(&spent); err != nil {
			return err
		}
		if log, err := os.ReadFile(r.log("pay")); !spent && !bytes.Contains(log, []byte(`"gave up"`)) {
			return fmt.Errorf("the copy has not been given up: %v", err)
		}
		return nil
	})
	trouble(0)
	r.atRest(t)
	r.finish(t, open)
}
