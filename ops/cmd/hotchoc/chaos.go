package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	havoc "hotchoc/ops/chaos"
	"hotchoc/ops/stack"
)

func chaos() *cobra.Command {
	var cfg havoc.Config
	var only []string
	var plan bool
	var output string
	var all []string
	for _, k := range havoc.Kinds {
		all = append(all, string(k))
	}
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break everything while customers come, heal it, and see whether a promise was broken",
		Long: `Works on the stack that is up, on this machine. Faults and customers are drawn from the seed, so a run can
be made again. Fails when a promise is broken, and when a kind of fault or a guard was never hit.

The faults: ` + strings.Join(all, ", ") + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range only {
				if !slices.Contains(all, name) {
					return fmt.Errorf("--only: there is no fault %q; there are %s", name, strings.Join(all, ", "))
				}
				cfg.Only = append(cfg.Only, havoc.Kind(name))
			}
			if cfg.Orders < 1 || cfg.Duration <= 0 || cfg.Every <= 0 || cfg.Customers < 1 || cfg.Duplicates < 0 || cfg.Duplicates > 1 {
				return errors.New("--orders, --duration, --every and --customers must be positive, --duplicates from 0 to 1")
			}
			if !cmd.Flags().Changed("seed") {
				cfg.Seed = rand.Uint64N(1_000_000)
			}
			if plan {
				kinds := cfg.Only
				if len(kinds) == 0 {
					kinds = havoc.Kinds
				}
				for _, f := range havoc.Plan(cfg.Seed, cfg.Duration, cfg.Every, kinds) {
					fmt.Fprintf(cmd.OutOrStdout(), "%6.1f s  %s\n", f.At.Seconds(), f)
				}
				return nil
			}
			s, err := asItRuns(cmd)
			if err != nil {
				return err
			}
			cfg.Stack, cfg.Out = s, cmd.ErrOrStderr()
			cfg.Dir, _ = cmd.Flags().GetString("dir")
			r, err := havoc.Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := printJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else if err := r.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !r.OK {
				return exitCode(1)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Orders, "orders", havoc.DefaultOrders, "how many customers come")
	f.Uint64Var(&cfg.Seed, "seed", 0, "what everything is drawn from; another one each time")
	f.DurationVar(&cfg.Duration, "duration", havoc.DefaultDuration, "how long things break")
	f.DurationVar(&cfg.Every, "every", havoc.DefaultEvery, "how often a service is killed")
	f.IntVar(&cfg.Customers, "customers", havoc.DefaultCustomers, "how many may wait for their order at once")
	f.Float64Var(&cfg.Duplicates, "duplicates", havoc.DefaultDuplicates, "which share of all deliveries comes twice")
	f.StringSliceVar(&only, "only", nil, "these faults only")
	f.BoolVar(&cfg.AllowZero, "allow-zero", false, "do not fail when a fault or a guard was never hit: for small runs")
	f.BoolVar(&plan, "plan", false, "show what would break when, and do nothing")
	outputFlag(cmd, &output)
	return cmd
}

// asItRuns opens the stack so that what is started again gets the settings that it runs with.
func asItRuns(cmd *cobra.Command) (*stack.Stack, error) {
	cfg := config(cmd)
	cfg.Out, cfg.Patience = nil, 45*time.Second
	s, err := stack.Open(cfg)
	if err != nil {
		return nil, err
	}
	for _, name := range append(stack.Services(), "partners") {
		env, err := s.Env(name)
		if err != nil {
			return nil, fmt.Errorf("chaos needs a stack that runs natively: HOTCHOC_MODE=native hotchoc up: %w", err)
		}
		for _, setting := range env {
			cfg.Env = append(cfg.Env, name+":"+setting)
		}
	}
	return stack.Open(cfg)
}
