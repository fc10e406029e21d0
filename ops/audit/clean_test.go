package audit_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hotchoc/ops/audit"
)

func TestAShopThatHasSeenEverythingKeepsItsPromises(t *testing.T) {
	var r audit.Report
	if err := json.Unmarshal([]byte(first.out), &r); err != nil || first.code != 0 {
		t.Fatalf("exit code %d, %v\n%s\n%s", first.code, err, first.err, first.out)
	}
	if !r.AtRest || !r.OK() || len(r.Violations) > 0 || r.Took <= 0 {
		t.Errorf("got %+v", r)
	}
	for _, i := range r.Checked {
		if i.Rows == 0 && i.ID != "Q8" || i.Skipped != "" && i.ID != "Q8" || i.Sentence == "" {
			t.Errorf("nothing was looked at: %+v", i)
		}
	}
	if n := len(r.Checked); n != 20 {
		t.Errorf("%d invariants, want S1 to S12 and Q1 to Q8", n)
	}
	if !strings.Contains(first.err, "waiting for rest") {
		t.Errorf("no word of what is waited for: %s", first.err)
	}
}

func TestNothingIsFoundInAStorm(t *testing.T) {
	var rows int64
	for n, r := range storm {
		if r.AtRest || !r.OK() || len(r.Violations) > 0 {
			t.Errorf("audit %d of %d: %+v", n+1, len(storm), r)
		}
		for _, i := range r.Checked {
			if i.Scope == audit.AtRest && (i.Rows > 0 || i.Skipped == "") {
				t.Errorf("%s was looked at", i.ID)
			}
			rows += i.Rows
		}
	}
	if len(storm) < 5 || rows == 0 {
		t.Errorf("%d audits of %d rows say nothing", len(storm), rows)
	}
}
