package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"hotchoc/migrations"
	"hotchoc/ops/shop"
	"hotchoc/pkg/rabbit"
)

var errNothing = errors.New("nothing runs: start it with up, or name the servers by DATABASE_URL and AMQP_URL")

// Migrate gives each service its database, its role and its tables.
func (s *Stack) Migrate(ctx context.Context) error {
	if s.cfg.DatabaseURL == "" && s.known().Ports == nil {
		return errNothing
	}
	server := cmp.Or(s.cfg.DatabaseURL, s.Database())
	return s.step("migrations", func() (string, error) {
		for _, service := range services { // one after the other: databases are copies of a template that only one may copy
			password, err := s.password(service)
			if err != nil {
				return "", err
			}
			if err := migrations.Apply(ctx, server, service, password); err != nil {
				return "", err
			}
		}
		return "of " + strings.Join(services, ", "), nil
	})
}

// ApplyTopology declares exchanges, queues, bindings and users, as the flows ask for them.
func (s *Stack) ApplyTopology(ctx context.Context) error {
	management, vhost, passwords, err := s.topology()
	if err != nil {
		return err
	}
	return s.step("topology", func() (string, error) {
		flows := shop.Flows()
		definitions, err := rabbit.Definitions(vhost, flows, passwords)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("of %d flows", len(flows)), rabbit.Apply(ctx, management, definitions)
	})
}

// DiffTopology compares what ApplyTopology declares with what is there.
func (s *Stack) DiffTopology(ctx context.Context) ([]rabbit.Difference, error) {
	management, vhost, passwords, err := s.topology()
	if err != nil {
		return nil, err
	}
	return rabbit.Diff(ctx, management, vhost, shop.Flows(), passwords)
}

// topology tells where the topology is, and the passwords of the users in it.
func (s *Stack) topology() (management, vhost string, passwords map[string]string, err error) {
	if s.cfg.AMQPURL == "" && s.known().Ports == nil {
		return "", "", nil, errNothing
	}
	amqp, management := s.AMQP(), s.Management()
	if s.cfg.AMQPURL != "" {
		guess, err := managementOf(s.cfg.AMQPURL)
		if err != nil {
			return "", "", nil, err
		}
		amqp, management = s.cfg.AMQPURL, cmp.Or(s.cfg.ManagementURL, guess)
	}
	passwords, err = s.Passwords()
	return management, vhostOf(amqp), passwords, err
}

// Setup does both: all that the services need before their first start.
func (s *Stack) Setup(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Migrate(ctx) })
	g.Go(func() error { return s.ApplyTopology(ctx) })
	return g.Wait()
}

// vhostOf is the virtual host that an AMQP URL names: none is the default one, /.
func vhostOf(amqp string) string {
	first, _, _ := strings.Cut(amqp, ",")
	u, err := url.Parse(first)
	if err != nil {
		return "/"
	}
	return cmp.Or(strings.TrimPrefix(u.Path, "/"), "/")
}
