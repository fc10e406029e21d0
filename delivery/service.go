package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"hotchoc/pkg/host"
)

// Config is the service's configuration.
type Config struct {
	host.Config
	// CourierURL is the courier company.
	CourierURL string `env:"COURIER_URL"`
}

// Validate returns all that is wrong.
func (c *Config) Validate() error {
	var wrong error
	if u, err := url.Parse(c.CourierURL); err != nil || u.Host == "" {
		wrong = fmt.Errorf("COURIER_URL must look like http://host:port, not %q", c.CourierURL)
	}
	return errors.Join(c.Config.Validate(), wrong)
}

// Run runs the service until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	courier := NewCourier(cfg.CourierURL)
	return host.Run(ctx, cfg.Config, host.Service{Flow: Flow(courier), Routes: routes, Outside: courier.Reachable})
}
