package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

const passwordsNote = `

Works on the running stack, or on the servers of DATABASE_URL, AMQP_URL and RABBITMQ_MANAGEMENT_URL,
an administrator's addresses. There the passwords of the services are those of MENU_PASSWORD,
ORDER_PASSWORD and so on, or else of the run folder.`

func migrate() *cobra.Command {
	const short = "Give each service its database, role and tables; harmless when they are there"
	return onStack("migrate", short, (*stack.Stack).Migrate)
}

func setup() *cobra.Command {
	return onStack("setup", "Migrate and apply the topology", (*stack.Stack).Setup)
}

func onStack(use, short string, do func(*stack.Stack, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + "." + passwordsNote,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			return do(s, cmd.Context())
		},
	}
}

// ready is for the health check of an image without a shell.
func ready() *cobra.Command {
	return &cobra.Command{
		Use:    "ready URL",
		Short:  "Ask a service whether it is ready",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := http.Get(strings.TrimSuffix(args[0], "/") + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", resp.Status)
			}
			return nil
		},
	}
}
