package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	letter "hotchoc/ops/dead"
	order "hotchoc/ops/saga"
	"hotchoc/ops/shop"
	"hotchoc/ops/stack"
)

func saga() *cobra.Command {
	cmd := group("saga", "Orders over all services: what happened, what is awaited, what is stuck")
	cmd.AddCommand(sagaList(), sagaShow(), sagaStuck())
	return cmd
}

func sagaList() *cobra.Command {
	var status string
	var since time.Duration
	var limit int
	cmd := reading("list", "List orders, the newest first", 0, func(cmd *cobra.Command, _ []string, output string) error {
		if status != "" && !slices.Contains(order.Statuses, status) {
			return complain(cmd, wrongUse, "--status is %q: want one of %s", status, strings.Join(order.Statuses, ", "))
		}
		f := order.Filter{Status: status, Limit: limit}
		if since > 0 {
			f.Since = time.Now().Add(-since)
		}
		return onSagas(cmd, limit, func(r *order.Reader) error {
			orders, err := r.List(cmd.Context(), f)
			switch {
			case err != nil:
				return err
			case output == "json":
				return printJSON(cmd.OutOrStdout(), orders)
			case len(orders) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "no orders")
				return nil
			}
			order.Table(cmd.OutOrStdout(), orders, time.Now())
			tellLimit(cmd, len(orders), limit)
			return nil
		})
	})
	cmd.Flags().StringVar(&status, "status", "", "only those that are "+strings.Join(order.Statuses, ", "))
	cmd.Flags().DurationVar(&since, "since", 0, "only those placed within this time, such as 10m")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return cmd
}

func sagaShow() *cobra.Command {
	return reading("show ORDER", "Show one order: its events by causation, failed attempts, money, and what is awaited", 1, func(cmd *cobra.Command, args []string, output string) error {
		id, err := uuid.Parse(args[0])
		if err != nil {
			return complain(cmd, wrongUse, "%q is not the ID of an order", args[0])
		}
		return onSagas(cmd, 1, func(r *order.Reader) error {
			s, err := r.Show(cmd.Context(), id)
			switch {
			case errors.Is(err, order.ErrUnknown):
				return complain(cmd, notFound, "%v: %s; %s saga list shows the newest", err, id, calledAs(cmd))
			case err != nil:
				return err
			case output == "json":
				return printJSON(cmd.OutOrStdout(), s)
			}
			s.Print(cmd.OutOrStdout(), time.Now())
			return nil
		})
	})
}

func sagaStuck() *cobra.Command {
	var older time.Duration
	var limit int
	cmd := reading("stuck", "List orders that are past their time, where their messages are, and what moves them", 0, func(cmd *cobra.Command, _ []string, output string) error {
		if older < 0 {
			return complain(cmd, wrongUse, "--older must not be negative")
		}
		return onSagas(cmd, limit, func(r *order.Reader) error {
			stuck, err := r.Stuck(cmd.Context(), older, limit)
			switch {
			case err != nil:
				return err
			case output == "json":
				return printJSON(cmd.OutOrStdout(), stuck)
			case len(stuck) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "nothing is stuck")
				return nil
			}
			order.TableStuck(cmd.OutOrStdout(), stuck, time.Now())
			tellLimit(cmd, len(stuck), limit)
			return nil
		})
	})
	cmd.Flags().DurationVar(&older, "older", time.Minute, "how old an order that has not ended must be")
	cmd.Flags().IntVar(&limit, "limit", order.StuckLimit, "how many at most, the oldest first")
	return cmd
}

func tellLimit(cmd *cobra.Command, n, limit int) {
	if n >= limit {
		fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: raise --limit\n")
	}
}

func onSagas(cmd *cobra.Command, limit int, do func(*order.Reader) error) error {
	if limit < 1 || limit > 10_000 {
		return complain(cmd, wrongUse, "--limit must be from 1 to 10000, not %d", limit)
	}
	return onQueues(cmd, func(q *letter.Queues) error {
		return do(order.New(q, shop.Graph(), calledAs(cmd), func(ctx context.Context) map[string]string { return states(ctx, cmd) }))
	})
}

// states tells which parts of the stack run; nothing when that cannot be known.
func states(ctx context.Context, cmd *cobra.Command) map[string]string {
	s, err := stack.Open(config(cmd))
	if err != nil {
		return nil
	}
	rows, _ := s.Status(ctx)
	states := map[string]string{}
	for _, r := range rows {
		states[r.Name] = r.State
	}
	return states
}

// calledAs is how this program was called, for commands that can be repeated as they are shown.
func calledAs(cmd *cobra.Command) string {
	call := os.Args[0]
	if dir := cmd.Flags().Lookup("dir"); dir != nil && dir.Changed {
		call += " --dir " + dir.Value.String()
	}
	return call
}
