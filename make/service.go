package making

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/host"
)

// Config is the service's configuration.
type Config struct {
	host.Config
	// BrewFor is how long the machine takes.
	BrewFor time.Duration `env:"BREW_FOR" envDefault:"0s"`
}

// Validate returns all that is wrong.
func (c *Config) Validate() error {
	var wrong error
	if c.BrewFor < 0 || c.BrewFor > time.Minute {
		wrong = fmt.Errorf("BREW_FOR must be from 0s to 1m, not %v", c.BrewFor)
	}
	return errors.Join(c.Config.Validate(), wrong)
}

// Run runs the service until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	return host.Run(ctx, cfg.Config, host.Service{Flow: Flow(Machine{BrewFor: cfg.BrewFor}), Routes: routes, Start: opening})
}

// The stock a new shop opens with: plenty, but spice for three cups of winter only.
var openingStock = []Replenish{
	{"milk", 20_000_000}, {"oat milk", 20_000_000}, {"chocolate", 5_000_000}, {"dark chocolate", 5_000_000},
	{"white chocolate", 5_000_000}, {"sugar", 5_000_000}, {"spice", 15}, {"chili", 1_000_000},
}

// opening fills the shelves of a new shop, once: the message IDs are always the same, so the inbox knows them.
func opening(ctx context.Context, rt host.Runtime) error {
	for _, goods := range openingStock {
		id := event.DerivedID(uuid.Nil, "opening/"+goods.Ingredient)
		if v := rt.Intake.Do(ctx, flow.NewCommand("replenish", id, id, "opening", goods)); v.Err != nil {
			return fmt.Errorf("opening stock: %w", v.Err)
		}
	}
	return nil
}
