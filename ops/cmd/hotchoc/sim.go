package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	shop "hotchoc/ops/sim"
	"hotchoc/pkg/flow/sim"
)

func simCmd() *cobra.Command {
	var seed uint64
	var runs int
	var trace, exhaustive bool
	var plan string
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run the shop in the simulator, with everything going wrong that can",
		Long: `Run the shop in the simulator: the five services over databases and a broker in memory, under a virtual clock, with
processes that die, messages that come twice or late, and partners that do not answer. What goes wrong is drawn from a
seed, so every run can be run again. Exit status 1 means that something was violated; the run is then told, cut down to
what it takes.`,
		Example: `  hotchoc sim --runs 100000             the runs of 100,000 seeds
  hotchoc sim --seed 42 --trace         one run, told
  hotchoc sim --plan "42 pay/1:commit:3:lost,-1"
                                        one run with just these faults, without the second wish
  hotchoc sim --exhaustive              every single fault, and every two crashes, on each way of an order`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer debug.SetGCPercent(debug.SetGCPercent(800)) // many short lives
			out := cmd.OutOrStdout()
			if exhaustive {
				return exhaust(cmd.Context(), out)
			}
			world, err := shop.Shop()
			if err != nil {
				return err
			}
			if runs > 1 && plan == "" {
				return random(cmd.Context(), out, world, seed, runs)
			}
			what := world.Seed(seed)
			if plan != "" {
				if what, err = sim.ParsePlan(plan); err != nil {
					return complain(cmd, wrongUse, "--plan: %v", err)
				}
			}
			run := world.Run(what, trace || plan != "")
			fmt.Fprint(out, run.Trace)
			fmt.Fprintf(out, "%q: %s\n", run.Plan, ended(run.Violations))
			if len(run.Violations) > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 1, "the first seed")
	cmd.Flags().IntVar(&runs, "runs", 1, "how many seeds")
	cmd.Flags().BoolVar(&trace, "trace", false, "tell what happens, when there is one run")
	cmd.Flags().BoolVar(&exhaustive, "exhaustive", false, "try all faults and all pairs of crashes on each way of an order")
	cmd.Flags().StringVar(&plan, "plan", "", "run just this: a seed, faults, and wishes to leave out, as a failure prints them")
	return cmd
}

// progressEvery is how many runs there are between two lines.
const progressEvery = 10_000

func random(ctx context.Context, out io.Writer, world *sim.Sim, seed uint64, runs int) error {
	for done := 0; done < runs && ctx.Err() == nil; {
		n := min(progressEvery, runs-done)
		found := world.Random(ctx, seed+uint64(done), n)
		done += found.Runs
		fmt.Fprintf(out, "%d of %d: %v\n", done, runs, found)
		if found.Failure != nil {
			return failed(out, found)
		}
	}
	return ctx.Err()
}

func exhaust(ctx context.Context, out io.Writer) error {
	for _, way := range shop.Ways {
		world, err := way.World()
		if err != nil {
			return err
		}
		for _, all := range []struct {
			what string
			try  func(context.Context, uint64) sim.Found
		}{{"every single fault", world.SingleFaults}, {"every pair of crashes", world.PairsOfCrashes}} {
			found := all.try(ctx, 1)
			fmt.Fprintf(out, "%s, %s: %v\n", way.Name, all.what, found)
			if found.Failure != nil {
				return failed(out, found)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

func failed(out io.Writer, found sim.Found) error {
	fmt.Fprintf(out, "\n%v\n\nrun it again with: hotchoc sim --plan %q\n", found.Failure, found.Failure.Shrunk)
	return exitCode(1)
}

func ended(violations []string) string {
	if len(violations) == 0 {
		return "all is as it must be"
	}
	return "VIOLATED\n" + strings.Join(violations, "\n")
}
