package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
	"hotchoc/pkg/rabbit"
)

func topology() *cobra.Command {
	cmd := &cobra.Command{Use: "topology", Short: "Exchanges, queues, bindings and users, as the flows ask for them"}
	cmd.AddCommand(
		onStack("apply", "Declare them; harmless when they are there", (*stack.Stack).ApplyTopology),
		topologyDiff(func(cmd *cobra.Command) ([]rabbit.Difference, error) {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return nil, err
			}
			return s.DiffTopology(cmd.Context())
		}),
	)
	return cmd
}

// The exit codes of topology diff, besides 0.
const (
	topologyDiffers exitCode = 1
	topologyUnknown exitCode = 2 // it could not be looked at
)

func topologyDiff(diff func(*cobra.Command) ([]rabbit.Difference, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Compare them with what the broker has; fails when something differs",
		Long: `Compares exchanges, queues, bindings, users, permissions and policies with what the flows ask for, changes
nothing, and tells of each that is missing, extra or changed what happens with it, and the command that
puts it right.

Exit codes: 0 nothing differs, 1 something does, 2 the broker could not be looked at.` + passwordsNote,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			differences, err := diff(cmd)
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "hotchoc:", err)
				return topologyUnknown
			}
			if output == "json" {
				if err := printJSON(cmd.OutOrStdout(), append([]rabbit.Difference{}, differences...)); err != nil {
					return err
				}
			} else {
				printDifferences(cmd.OutOrStdout(), differences)
			}
			if len(differences) > 0 {
				return topologyDiffers
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// printDifferences prints what differs; what has the same cause and cure stands together, and has them once.
func printDifferences(out io.Writer, differences []rabbit.Difference) {
	if len(differences) == 0 {
		fmt.Fprintln(out, "the topology is what the flows ask for")
	}
	for i, d := range differences {
		fmt.Fprintf(out, "%-7s  %s %s\n", d.Is, d.Kind, d.Name)
		for _, c := range d.Changes {
			fmt.Fprintf(out, "         %s\n", c)
		}
		if i+1 == len(differences) || differences[i+1].Why != d.Why || differences[i+1].Fix != d.Fix {
			fmt.Fprintf(out, "  why    %s\n  fix    %s\n", d.Why, d.Fix)
		}
	}
}
