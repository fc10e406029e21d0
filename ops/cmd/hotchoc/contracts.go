package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"hotchoc/ops/contracts"
	"hotchoc/ops/stack"
)

func contractsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "contracts", Short: "The schemas of the events"}
	cmd.AddCommand(contractsCheck())
	return cmd
}

func contractsCheck() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read everything that was ever written with today's code; fails when something cannot be read",
		Long: `Reads the event logs of the five services and the timers that are armed, changes nothing, and counts them by type
and schema version. Run it before a release that changes a schema or an upcaster.

Exit codes: 0 everything can be read, 1 something cannot, 2 the databases could not be looked at.

Works on the running stack, or on the server of DATABASE_URL.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			failed := func(err error) error {
				fmt.Fprintln(cmd.ErrOrStderr(), "hotchoc: contracts check:", err)
				return exitCode(2)
			}
			where := config(cmd)
			s, err := stack.Open(where)
			if err != nil {
				return failed(err)
			}
			if rows, err := s.Status(cmd.Context()); err != nil || rows == nil && where.DatabaseURL == "" {
				return failed(cmp.Or(err, errors.New("nothing runs: start it with up, or name the server by DATABASE_URL")))
			}
			report, err := contracts.Check(cmd.Context(), cmp.Or(where.DatabaseURL, s.Database()), stack.Services(), cmd.ErrOrStderr())
			if err != nil {
				return failed(err)
			}
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Print(cmd.OutOrStdout())
			}
			if err == nil && !report.OK() {
				err = exitCode(1)
			}
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
