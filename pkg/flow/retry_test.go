package flow_test

import (
	"strings"
	"testing"
	"time"

	"hotchoc/pkg/flow"
)

func policy(t *testing.T, f *flow.Flow, step string) flow.Retry {
	t.Helper()
	for _, p := range f.Policies() {
		if p.Step == step {
			return p.Retry
		}
	}
	t.Fatalf("there is no step %q", step)
	return flow.Retry{}
}

func TestAStepIsRetriedAsConfigured(t *testing.T) {
	f := desk()
	declared := policy(t, f, "charge")
	if err := f.Configure(" charge: attempts=2 delays=10s,1m ; "); err != nil {
		t.Fatal(err)
	}
	got := policy(t, f, "charge")
	if got.Attempts != 2 || got.Delay(1) != 10*time.Second || got.Delay(2) != time.Minute || got.Timeout != declared.Timeout {
		t.Errorf("configured, the step has %v; what was not set must stay %v", got, declared)
	}
}

func TestAPolicyIsWrittenAsItIsRead(t *testing.T) {
	f := desk()
	want := policy(t, f, "charge")
	if err := f.Configure("charge: " + want.String()); err != nil {
		t.Fatal(err)
	}
	if got := policy(t, f, "charge"); got.String() != want.String() {
		t.Errorf("%v was read as %v", want, got)
	}
}

func TestAConfigurationThatCannotBeIsRefusedAndChangesNothing(t *testing.T) {
	for text, says := range map[string]string{
		"steal: attempts=2":                       `no step "steal"; it has charge`,
		"charge":                                  "nothing is set",
		"charge: attempts=0":                      "from 1 to 1000, not 0",
		"charge: attempts=many":                   "attempts=many",
		"charge: delays=2s":                       "no wait queue for a delay of 2s",
		"charge: delays=":                         `"delays="`,
		"charge: timeout=1h":                      "from 1ns to 1m0s, not 1h",
		"charge: patience=3":                      "there are attempts, delays and timeout",
		"charge: attempts=2; charge: attempts=3":  "twice",
		"charge: attempts=2; refund: attempts=-1": `step "refund"`,
	} {
		f := desk()
		before := policy(t, f, "charge").String()
		err := f.Configure(text)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; it should say %q", text, err, says)
		}
		if after := policy(t, f, "charge").String(); after != before {
			t.Errorf("%q was refused and yet changed %s to %s", text, before, after)
		}
	}
}
