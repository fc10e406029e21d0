package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	meter "hotchoc/ops/bench"
	"hotchoc/ops/bench/pipeline"
)

func bench() *cobra.Command {
	var cfg meter.Config
	var out, output string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how many orders, how fast, and for how much; on a stack of its own",
		Long: `Starts throw-away stacks beside whatever runs, with servers as safe as in production, places orders over
HTTP, and hears from the broker when each has ended. After each scenario the audit must be clean. Writes
report.md, results.json and the plots. The whole takes about twenty minutes; what else runs on the machine
meanwhile is in the figures.

The scenarios: ` + strings.Join(meter.Names(), ", ") + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Seconds <= 0 || cfg.Rounds < 1 {
				return errors.New("--seconds and --rounds must be positive")
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			dir, _ := cmd.Flags().GetString("dir")
			cfg.Bin, cfg.Dir, cfg.Out = filepath.Dir(program), filepath.Join(dir, "bench"), cmd.ErrOrStderr()
			results, err := meter.Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if err := results.Write(out); err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), results)
			} else {
				err = results.Print(cmd.OutOrStdout())
			}
			if err == nil && !results.Clean() {
				err = exitCode(1)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Scenarios, "scenario", nil, "only this one; can be repeated")
	f.StringArrayVar(&cfg.Env, "env", nil, "a setting for the services, KEY=value, or for one, pay:KEY=value; may be repeated")
	f.IntSliceVar(&cfg.InFlight, "in-flight", nil, "the loads of the scenario throughput: so many orders under way at all times (default 1,64,256,1024)")
	f.Float64Var(&cfg.Seconds, "seconds", meter.DefaultSeconds, "how long each load is measured")
	f.IntVar(&cfg.Rounds, "rounds", meter.DefaultRounds, "how often the systems are compared, in turns")
	f.BoolVar(&cfg.Smoke, "smoke", false, "everything tiny, to see that it works; no figure means anything")
	f.StringVar(&out, "out", filepath.Join("docs", "bench"), "the folder of the report")
	outputFlag(cmd, &output)
	cmd.AddCommand(benchPipeline())
	return cmd
}

// benchPipeline is a system to compare with, started by bench.
func benchPipeline() *cobra.Command {
	return &cobra.Command{
		Use:    "pipeline",
		Short:  "Take orders by a pipeline written for speed, on the servers of DATABASE_URL and AMQP_URL, until the input ends",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			go func() {
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				stop()
			}()
			where := config(cmd)
			return pipeline.Run(ctx, where.DatabaseURL, where.AMQPURL, func(url string) { fmt.Fprintln(cmd.OutOrStdout(), url) })
		},
	}
}
