package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	auditor "hotchoc/ops/audit"
	"hotchoc/ops/stack"
)

// The exit codes of audit, besides 0.
const (
	auditViolated exitCode = 1 // a promise is broken
	auditFailed   exitCode = 2 // nobody knows: the audit could not be made
)

func audit() *cobra.Command {
	var output string
	var cfg auditor.Config
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Prove from outside that the shop keeps its promises; fails when one is broken",
		Long: `Reads the five databases, the broker and the gateway's ledger, and changes nothing. What must hold within
one database is looked at any time (S1 to S12), what must hold across them at rest (Q1 to Q8): when no
message is on its way, no outbox holds an event and no timer is due, seen twice and 5 s apart.

Exit codes: 0 all promises are kept, 1 one is broken, 2 the audit could not be made.

Works on the running stack, or on the servers of DATABASE_URL and RABBITMQ_MANAGEMENT_URL.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			failed := func(err error) error {
				fmt.Fprintln(cmd.ErrOrStderr(), "hotchoc: audit:", err)
				return auditFailed
			}
			where := config(cmd)
			s, err := stack.Open(where)
			if err != nil {
				return failed(err)
			}
			if rows, err := s.Status(cmd.Context()); err != nil || rows == nil && where.DatabaseURL == "" {
				return failed(cmp.Or(err, errors.New("nothing runs: start it with up, or name the servers by DATABASE_URL and RABBITMQ_MANAGEMENT_URL")))
			}
			cfg.Database = cmp.Or(where.DatabaseURL, s.Database())
			cfg.Management = cmp.Or(where.ManagementURL, s.Management())
			cfg.Partners = cmp.Or(cfg.Partners, s.URL("partners"))
			cfg.Progress = cmd.ErrOrStderr()
			report, err := auditor.Run(cmd.Context(), cfg)
			if err != nil {
				return failed(err)
			}
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return failed(err)
			case !report.OK():
				return auditViolated
			case cfg.Wait > 0 && !report.AtRest:
				return auditFailed
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		fmt.Fprintln(cmd.ErrOrStderr(), "hotchoc:", err)
		return auditFailed
	})
	outputFlag(cmd, &output)
	flags := cmd.Flags()
	flags.DurationVar(&cfg.Wait, "wait", 0, "wait so long for rest; a shop that does not come to rest breaks a promise")
	flags.BoolVar(&cfg.Running, "running", false, "do not look for rest, only at what holds at any time")
	flags.DurationVar(&cfg.Gap, "gap", auditor.DefaultGap, "how far apart two looks must agree that the shop rests")
	flags.StringSliceVar(&cfg.Poison, "poison", nil, "IDs of messages that are meant to be dead letters")
	flags.StringVar(&cfg.Partners, "partners", "", "URL of the gateway with the ledger (default: of the stack)")
	flags.IntVar(&cfg.Most, "most", auditor.DefaultMost, "how many violations of each promise to tell; all are counted")
	return cmd
}
