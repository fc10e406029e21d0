package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func status() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs, where, and how it is; fails when something does not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := stack.Open(config(cmd))
			if err != nil {
				return err
			}
			rows, err := s.Status(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case output == "json":
				if err := printJSON(out, rows); err != nil {
					return err
				}
			case rows == nil:
				fmt.Fprintln(out, "nothing runs; up starts it")
			default:
				printRows(out, rows)
				printMoved(out, s.Moved())
			}
			for _, row := range rows {
				if row.State != "ready" && row.State != "elsewhere" {
					return exitCode(1)
				}
			}
			if rows == nil {
				return exitCode(1)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *output != "table" && *output != "json" {
			return fmt.Errorf("--output is %q: want table or json", *output)
		}
		return nil
	}
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printRows(out io.Writer, rows []stack.Row) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tSTATE\tWHERE\tLOGIN\tPID\tLOG")
	for _, r := range rows {
		pid := ""
		if r.PID != 0 {
			pid = fmt.Sprint(r.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.State, r.URL, r.Login, pid, short(r.Log))
		for _, also := range r.Also {
			fmt.Fprintf(t, "\t\t%s\t\t\t\n", also)
		}
	}
	t.Flush()
	for _, r := range rows {
		if r.Why != "" {
			fmt.Fprintf(out, "%s: %s\n", r.Name, r.Why)
		}
	}
}

func printMoved(out io.Writer, moved []string) {
	if len(moved) > 0 {
		fmt.Fprintln(out, "Something else holds the standard port, so: "+strings.Join(moved, ", "))
	}
}

// short shows a path as seen from here, when that is shorter.
func short(path string) string {
	here, err := os.Getwd()
	if err != nil || path == "" {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
