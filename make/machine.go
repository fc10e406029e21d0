package making

import (
	"context"
	"fmt"
	"time"

	"hotchoc/pkg/contract/shopv1"
)

// Machine is the shop's own machine, simulated: a device in this process that makes hot chocolate, and that lava breaks.
// The zero value works and takes no time. It may be used by several goroutines.
type Machine struct {
	// BrewFor is how long the machine takes for an order. Default 0: no time.
	BrewFor time.Duration
}

// Brew is what the machine said.
type Brew struct {
	// Broken is why the drinks were not made; empty: they were.
	Broken string
}

// Brew makes all drinks of an order. That it broke is an answer; an error means that the machine was left before it was
// done, and nothing was made. The key names the attempt, as for every device and outside party; this machine has no need
// of it, since the same lines always have the same outcome.
func (m Machine) Brew(ctx context.Context, key string, lines []*shopv1.Line) (Brew, error) {
	if err := ctx.Err(); err != nil {
		return Brew{}, fmt.Errorf("brew %s: %w", key, err)
	}
	if m.BrewFor > 0 {
		done := time.NewTimer(m.BrewFor)
		defer done.Stop()
		select {
		case <-done.C:
		case <-ctx.Done():
			return Brew{}, fmt.Errorf("brew %s: %w", key, ctx.Err())
		}
	}
	for _, line := range lines {
		if line.GetSku() == "lava" {
			return Brew{Broken: "lava is too hot for the machine"}, nil
		}
	}
	return Brew{}, nil
}
