package main

import (
	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func migrate() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Give each service its database, role and tables; harmless when they are there",
		Long: `Works on the running stack, or on the server of DATABASE_URL, an administrator's address. There the
passwords of the services are those of MENU_PASSWORD, ORDER_PASSWORD and so on, or of the run folder.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			return s.Migrate(cmd.Context())
		},
	}
}

func topology() *cobra.Command {
	cmd := &cobra.Command{Use: "topology", Short: "Exchanges, queues, bindings and users, as the flows ask for them"}
	cmd.AddCommand(&cobra.Command{
		Use:   "apply",
		Short: "Declare them; harmless when they are there",
		Long: `Works on the running stack, or on the broker of AMQP_URL and RABBITMQ_MANAGEMENT_URL, an
administrator's addresses. There the passwords of the services are those of MENU_PASSWORD and so on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			return s.ApplyTopology(cmd.Context())
		},
	})
	return cmd
}
