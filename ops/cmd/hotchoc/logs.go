package main

import (
	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func logs() *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs [name ...]",
		Short: "Show the end of the logs, of all or of some",
		RunE: func(cmd *cobra.Command, names []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			return s.Logs(cmd.Context(), cmd.OutOrStdout(), names, lines, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many lines of each")
	return cmd
}
