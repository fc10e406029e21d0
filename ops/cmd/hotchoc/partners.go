package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"hotchoc/ops/partners"
	"hotchoc/pkg/host"
)

func partnersCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "partners",
		Short: "Be the payment gateway and the courier, simulated, at HTTP_ADDR, with a ledger in LEDGER_DIR",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logging := host.Config{
				LogLevel:  cmp.Or(os.Getenv("LOG_LEVEL"), "info"),
				LogFormat: cmp.Or(os.Getenv("LOG_FORMAT"), "json"),
			}
			log, err := logging.Logger("partners")
			if err != nil {
				return err
			}
			return partners.Run(cmd.Context(), partners.Config{
				HTTPAddr:  os.Getenv("HTTP_ADDR"),
				LedgerDir: os.Getenv("LEDGER_DIR"),
				Log:       log,
			})
		},
	}
}
