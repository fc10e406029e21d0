package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func up() *cobra.Command {
	var env []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start everything that does not run yet, and show what to try first",
		Long: `Starts RabbitMQ, Postgres, the simulated partners and the five services, and waits until all are
ready: in containers where a Docker engine answers, else as processes of this machine.
What runs already is left alone; what died, or was built anew, is started.

  HOTCHOC_MODE=native|compose    choose yourself
  AMQP_URL, DATABASE_URL         use these servers, as administrator, instead of starting any
  RABBITMQ_MANAGEMENT_URL        the management API of that RabbitMQ; port 15672 of its host
  RABBITMQ_ADMIN_PASSWORD        of the user hotchoc in RabbitMQ; hotchoc`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := config(cmd)
			cfg.Env = env
			s, err := stack.Up(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			rows, err := s.Status(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintln(out)
			printRows(out, rows)
			printMoved(out, s.Moved())
			fmt.Fprintf(out, "\nOrder a hot chocolate, and wait until it is there:\n  %s\n", firstCurl(s.URL("order")))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&env, "env", nil, "a setting for the services, KEY=value, or for one, pay:KEY=value; may be repeated")
	return cmd
}

func firstCurl(order string) string {
	return `curl -s -H 'Prefer: wait=10' ` + order + `/orders -d '{"customer": "ada", "lines": [{"sku": "classic", "quantity": 2}],` +
		"\n    " + `"payment": {"token": "tok_ok"}, "handover": {"type": "counter"}}'`
}

func down() *cobra.Command {
	var volumes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop everything; the data stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			return s.Down(cmd.Context(), volumes)
		},
	}
	cmd.Flags().BoolVar(&volumes, "volumes", false, "delete the data too")
	return cmd
}
