package pay

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
	// GatewayURL is the payment gateway.
	GatewayURL string `env:"GATEWAY_URL"`
}

// Validate returns all that is wrong.
func (c *Config) Validate() error {
	var wrong error
	if u, err := url.Parse(c.GatewayURL); err != nil || u.Host == "" {
		wrong = fmt.Errorf("GATEWAY_URL must look like http://host:port, not %q", c.GatewayURL)
	}
	return errors.Join(c.Config.Validate(), wrong)
}

// Run runs the service until ctx is done.
func Run(ctx context.Context, cfg Config) error {
	gateway := NewGateway(cfg.GatewayURL)
	return host.Run(ctx, cfg.Config, host.Service{Flow: Flow(gateway), Routes: routes, Outside: gateway.Reachable})
}
