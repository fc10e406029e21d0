package audit_test

import (
	"strings"
	"testing"

	"hotchoc/ops/audit"
)

func TestWalksThatCanBeSeen(t *testing.T) {
	t.Parallel()
	for _, walk := range []string{
		"",
		"placed paid made dispatched completed completed",
		"placed placed completed",
		"made",
		"placed cancelling cancelled cancelled",
		"placed paid cancelled",
		"paid cancelling made dispatched completed", // the cancel came too late
		"cancelling placed paid",                    // it is known to be too late before the payment is
		"paid cancelling completed",
		"made cancelling made cancelling cancelled", // too late, and then nobody was home
	} {
		if err := audit.Walk(strings.Fields(walk)); err != nil {
			t.Errorf("%s: %v", walk, err)
		}
	}
}

func TestWalksThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	for walk, why := range map[string]string{
		"placed lost":                               `status 2: there is no status "lost"`,
		"paid placed":                               "status 2: placed after paid: the order had come to paid already",
		"made cancelling paid":                      "status 3: paid after cancelling: the order had come to made already",
		"completed cancelled":                       "that was the end",
		"cancelled cancelling":                      "that was the end",
		"cancelled made":                            "that was the end",
		"made cancelling made cancelling made":      "only once",
		"made cancelling made cancelling completed": "only once",
	} {
		if err := audit.Walk(strings.Fields(walk)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want %q", walk, err, why)
		}
	}
}
