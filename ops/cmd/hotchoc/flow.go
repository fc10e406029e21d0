package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hotchoc/ops/shop"
	choreography "hotchoc/pkg/flow"
)

func flow() *cobra.Command {
	cmd := &cobra.Command{Use: "flow", Short: "The choreography, computed from the flows of the services"}
	cmd.AddCommand(flowGraph(shop.Graph()), flowVerify(shop.Graph()), flowAsyncAPI())
	return cmd
}

func flowGraph(g choreography.Graph) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			out := cmd.OutOrStdout()
			switch format {
			case "mermaid":
				_, err = io.WriteString(out, g.Mermaid())
			case "dot":
				_, err = io.WriteString(out, g.DOT())
			case "markdown":
				_, err = io.WriteString(out, g.Markdown())
			case "json":
				err = printJSON(out, struct {
					choreography.Graph
					Edges []choreography.Edge `json:"edges"`
				}{g, g.Edges()})
			default:
				err = fmt.Errorf("--output is %q: want mermaid, dot, json or markdown", format)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "mermaid", "mermaid, dot (for Graphviz), json or markdown (the page docs/flow.md)")
	return cmd
}

func flowVerify(g choreography.Graph) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove what it promises; fails when something does not hold",
		Long: `Goes through the rules of a choreography, from what the flows of all services declare. What does not hold
is told with the way through the flows that shows it, what would happen, and what to change.

What a decision does with its freedom is not looked at: one that emits nothing, or arms no timer. That is
for the tests of decisions.

Exit codes: 0 all rules hold, 1 one does not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proofs, broken := g.Prove(), len(g.Verify())
			if output == "json" {
				if err := printJSON(cmd.OutOrStdout(), struct {
					OK    bool                 `json:"ok"`
					Rules []choreography.Proof `json:"rules"`
				}{broken == 0, proofs}); err != nil {
					return err
				}
			} else {
				printProofs(cmd.OutOrStdout(), proofs)
				fmt.Fprintf(cmd.OutOrStdout(), "%d services, %d steps, %d views: ", len(g.Services), len(g.Steps), len(g.Views))
				if broken == 0 {
					fmt.Fprintln(cmd.OutOrStdout(), "the choreography keeps what it promises")
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "%d problems\n", broken)
				}
			}
			if broken > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// printProofs prints a line per rule with how many cases it was proved for, and below it what does not hold.
func printProofs(out io.Writer, proofs []choreography.Proof) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range proofs {
		mark := "ok"
		if len(p.Problems) > 0 {
			mark = "BROKEN"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", mark, p.Rule, p.Cases, p.Promise)
	}
	_ = t.Flush()
	for _, p := range proofs {
		for _, problem := range p.Problems {
			fmt.Fprintf(out, "\n%s: %s\n", problem.Rule, problem.What)
			if len(problem.Path) > 0 {
				fmt.Fprintf(out, "  path  %s\n", strings.Join(problem.Path, " -> "))
			}
			fmt.Fprintf(out, "  why   %s\n  fix   %s\n\n", problem.Why, problem.Fix)
		}
	}
}
