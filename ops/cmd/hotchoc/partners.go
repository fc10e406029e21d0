package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"hotchoc/ops/partners"
)

func partnersCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "partners",
		Short: "Be the payment gateway and the courier, simulated, at HTTP_ADDR, with a ledger in LEDGER_DIR",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := zap.NewProduction()
			if err != nil {
				return err
			}
			return partners.Run(cmd.Context(), partners.Config{
				HTTPAddr:  os.Getenv("HTTP_ADDR"),
				LedgerDir: os.Getenv("LEDGER_DIR"),
				Log:       log.With(zap.String("service", "partners")),
			})
		},
	}
}
