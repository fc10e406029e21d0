package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func doctor() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what up would need, what is missing, and how to get it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			findings := s.Doctor(cmd.Context())
			if output == "json" {
				if err := printJSON(cmd.OutOrStdout(), findings); err != nil {
					return err
				}
			}
			var missing bool
			for _, f := range findings {
				mark := "ok     "
				if !f.OK {
					mark, missing = "MISSING", true
				}
				if output == "json" {
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-11s %s\n", mark, f.What, f.Is)
				if f.Fix != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "         -> %s\n", strings.ReplaceAll(f.Fix, "\n", "\n         "))
				}
			}
			if missing {
				return exitCode(1)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
