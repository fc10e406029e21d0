package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"hotchoc/ops/shop"
)

func flow() *cobra.Command {
	cmd := &cobra.Command{Use: "flow", Short: "The choreography, computed from the flows of the services"}
	graph := &cobra.Command{
		Use:   "graph",
		Short: "Draw it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g := shop.Graph()
			switch format, _ := cmd.Flags().GetString("output"); format {
			case "mermaid":
				fmt.Fprint(cmd.OutOrStdout(), g.Mermaid())
			case "markdown":
				fmt.Fprint(cmd.OutOrStdout(), g.Markdown())
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(g)
			default:
				return fmt.Errorf("-o must be mermaid, markdown or json, not %q", format)
			}
			return nil
		},
	}
	graph.Flags().StringP("output", "o", "mermaid", "mermaid, markdown (the page docs/flow.md) or json")
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Prove what it promises; exit code 1 when something does not hold",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g := shop.Graph()
			problems := g.Verify()
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if len(problems) > 0 {
				return exitCode(1)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d services, %d steps, %d views: the choreography holds what it promises\n", len(g.Services), len(g.Steps), len(g.Views))
			return nil
		},
	}
	cmd.AddCommand(graph, verify)
	return cmd
}
