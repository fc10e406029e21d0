package menu

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/host"
	"hotchoc/pkg/web"
)

// Config is the service's configuration.
type Config struct {
	host.Config
}

// Run runs the service until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	return host.Run(ctx, cfg.Config, host.Service{
		Flow:   Flow,
		Routes: func(s *web.Server, rt host.Runtime) { (&api{rt.Intake, queries{rt.DB}}).routes(s) },
		Start:  opening,
	})
}

// The menu a new shop opens with. Spice is in stock for three cups of winter only, and lava always breaks the machine.
var openingMenu = []Describe{
	{"classic", "Classic hot chocolate", 450, "EUR", []Amount{{"milk", 200}, {"chocolate", 30}, {"sugar", 10}}, true},
	{"dark", "Dark hot chocolate", 480, "EUR", []Amount{{"milk", 180}, {"dark chocolate", 40}}, true},
	{"white", "White hot chocolate", 480, "EUR", []Amount{{"milk", 200}, {"white chocolate", 35}}, true},
	{"vegan", "Vegan hot chocolate", 520, "EUR", []Amount{{"oat milk", 220}, {"dark chocolate", 30}, {"sugar", 10}}, true},
	{"winter", "Winter hot chocolate", 550, "EUR", []Amount{{"milk", 200}, {"chocolate", 30}, {"spice", 5}}, true},
	{"lava", "Lava hot chocolate", 660, "EUR", []Amount{{"milk", 150}, {"dark chocolate", 60}, {"chili", 5}}, true},
}

// opening writes the menu of a new shop, once: the message IDs are always the same, so the inbox knows them.
func opening(ctx context.Context, rt host.Runtime) error {
	for _, item := range openingMenu {
		id := event.DerivedID(uuid.Nil, "opening/"+item.SKU)
		v := rt.Intake.Do(ctx, flow.NewCommand("add", id, id, "opening", Add{item}))
		if v.Err != nil {
			return fmt.Errorf("opening menu: %w", v.Err)
		}
	}
	return nil
}
