package order

import (
	"context"

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
	var waits *ends
	return host.Run(ctx, cfg.Config, host.Service{
		Flow: Flow,
		Routes: func(s *web.Server, rt host.Runtime) {
			views := queries{rt.DB}
			waits = newEnds(views.ended)
			go waits.poll(ctx)
			(&api{intake: rt.Intake, views: views, ends: waits}).routes(s)
		},
		Check: func(ctx context.Context, rt host.Runtime) error { return queries{rt.DB}.hasMenu(ctx) },
		Committed: func(events []event.Record) {
			for _, e := range events {
				waits.happened(e.Type, e.Saga)
			}
		},
		Handled: func(batch []flow.Message) {
			for _, m := range batch {
				waits.happened(m.Type, m.Saga)
			}
		},
	})
}
