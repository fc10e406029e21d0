package main

import (
	"cmp"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	letter "hotchoc/ops/dead"
	"hotchoc/ops/shop"
	"hotchoc/ops/stack"
)

// The exit codes of the commands that look and move: 0 ok, 1 error, 2 wrong use, 3 not found.
const (
	wrongUse = exitCode(2)
	notFound = exitCode(3)
)

func dead() *cobra.Command {
	cmd := group("dead", "Dead letters: messages that were set aside, and the way back")
	cmd.Long = cmd.Short + `.

A message is set aside when it is poison, when its budget of attempts is spent and the step cannot give up, or when a
service took it 200 times and never finished with it. It lies in the queue S.dead of the service that should have
handled it. Looking changes nothing.`
	cmd.AddCommand(deadList(), deadShow(), deadRedrive())
	return cmd
}

func deadList() *cobra.Command {
	var s letter.Selection
	var each bool
	cmd := reading("list", "Count them by what they died of, or list each", 0, func(cmd *cobra.Command, _ []string, output string) error {
		return onQueues(cmd, func(q *letter.Queues) error {
			letters, unseen, err := q.List(cmd.Context(), s)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case output == "json":
				if letters == nil {
					letters = []letter.Letter{}
				}
				err = printJSON(out, letters)
			case len(letters) == 0:
				fmt.Fprintln(out, "no dead letters")
			default:
				letter.Table(out, letters, each, time.Now())
			}
			tellUnseen(cmd, unseen)
			return err
		})
	})
	cmd.Flags().BoolVar(&each, "each", false, "a line for each; JSON always has each")
	selecting(cmd, &s)
	return cmd
}

func deadShow() *cobra.Command {
	var s letter.Selection
	cmd := reading("show MESSAGE", "Show one with headers, body, and the attempts at it", 1, func(cmd *cobra.Command, args []string, output string) error {
		return onQueues(cmd, func(q *letter.Queues) error {
			letters, err := q.Show(cmd.Context(), args[0], s)
			switch {
			case err != nil:
				return err
			case len(letters) == 0:
				return complain(cmd, notFound, "no dead letter %q; %s dead list --each shows which there are", args[0], calledAs(cmd))
			case output == "json":
				return printJSON(cmd.OutOrStdout(), letters)
			}
			for i, l := range letters {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				l.Print(cmd.OutOrStdout(), time.Now())
			}
			return nil
		})
	})
	cmd.Flags().IntVar(&s.Limit, "limit", letter.DefaultLimit, "how many of each service to look at, the oldest first")
	cmd.Flags().StringSliceVar(&s.Services, "service", nil, "only of this service; may be repeated")
	return cmd
}

func deadRedrive() *cobra.Command {
	var (
		s              letter.Selection
		all, each, yes bool
		rate           int
	)
	cmd := reading("redrive", "Send them back to the service that set them aside", 0, func(cmd *cobra.Command, _ []string, output string) error {
		if !all && len(s.IDs) == 0 && s.Cause == "" && len(s.Services) == 0 {
			return complain(cmd, wrongUse, "say which: --id, --cause, --service or --all")
		}
		if rate < 1 || rate > 10_000 {
			return complain(cmd, wrongUse, "--rate must be from 1 to 10000, not %d", rate)
		}
		return onQueues(cmd, func(q *letter.Queues) error {
			plan, err := q.Plan(cmd.Context(), s)
			if err != nil {
				return err
			}
			defer plan.Close()
			return redrive(cmd, plan, output, yes, each, rate)
		})
	})
	cmd.Long = cmd.Short + `: to its queue, not to the others who heard the
same event. Without --yes it only shows what would happen.

Each keeps its message ID, so that what had been handled already changes nothing, and gets a new budget of attempts
and a mark: how often, when and by whom it was sent back. A bulk of letters from before the cause was removed dies
again: send back one, see it pass, then the rest.`
	f := cmd.Flags()
	f.StringSliceVar(&s.IDs, "id", nil, "the one with this message ID; may be repeated")
	f.BoolVar(&all, "all", false, "all of them")
	f.BoolVar(&each, "each", false, "show a line for each")
	f.BoolVar(&yes, "yes", false, "do it")
	f.IntVar(&rate, "rate", 100, "how many in a second at most")
	selecting(cmd, &s)
	return cmd
}

func redrive(cmd *cobra.Command, plan *letter.Plan, output string, yes, each bool, rate int) error {
	out, n := cmd.OutOrStdout(), len(plan.Items)
	if output == "table" {
		plan.Table(out, each, time.Now())
	}
	tellUnseen(cmd, plan.Unseen)
	var err error
	done := 0
	if yes && n > 0 {
		step := max(rate, 100)
		err = plan.Send(cmd.Context(), operator(), rate, func(sent int) {
			if done = sent; sent%step == 0 && sent < n {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d sent back\n", sent, n)
			}
		})
	}
	switch {
	case output == "json":
		err = errors.Join(err, printJSON(out, plan))
	case n == 0 && len(plan.LeftOut) == 0:
	case yes:
		fmt.Fprintf(out, "%d of %d sent back\n", done, n)
	case n > 0:
		fmt.Fprintf(out, "Nothing was done: %d would be sent back. Do it with --yes.\n", n)
	}
	if n == 0 && len(plan.LeftOut) == 0 {
		return complain(cmd, notFound, "no dead letter is chosen; %s dead list shows which there are", calledAs(cmd))
	}
	return err
}

// operator is who redrives, for the mark.
func operator() string {
	u, err := user.Current()
	if err != nil {
		return "hotchoc"
	}
	return u.Username
}

func tellUnseen(cmd *cobra.Command, n int) {
	if n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d more were not looked at: raise --limit\n", n)
	}
}

func selecting(cmd *cobra.Command, s *letter.Selection) {
	cmd.Flags().StringSliceVar(&s.Services, "service", nil, "only those of this service; may be repeated")
	cmd.Flags().StringVar(&s.Cause, "cause", "", "only those with this in their reason")
	cmd.Flags().IntVar(&s.Limit, "limit", letter.DefaultLimit, "how many of each service to look at, the oldest first")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if s.Limit < 1 {
			return complain(cmd, wrongUse, "--limit must be at least 1, not %d", s.Limit)
		}
		for _, service := range s.Services {
			if !slices.Contains(stack.Services(), service) {
				return complain(cmd, wrongUse, "there is no service %q, only %s", service, strings.Join(stack.Services(), ", "))
			}
		}
		return check(cmd, args)
	}
}

// onQueues works on the running stack, or on the servers that the environment names.
func onQueues(cmd *cobra.Command, do func(*letter.Queues) error) error {
	cfg := config(cmd)
	s, err := stack.Open(cfg)
	if err != nil {
		return err
	}
	q, err := letter.Open(letter.Config{
		AMQP: cmp.Or(cfg.AMQPURL, s.AMQP()), Database: cmp.Or(cfg.DatabaseURL, s.Database()), Graph: shop.Graph(),
	})
	if err != nil {
		return fmt.Errorf("%w (does it run? ./task status)", err)
	}
	defer q.Close()
	return do(q)
}

// group is a command that only holds others.
func group(use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return complain(cmd, wrongUse, "unknown command %q; %s --help lists what there is", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return complain(cmd, wrongUse, "%v", err) })
	return cmd
}

// reading is a command that shows something, as a table or as JSON.
func reading(use, short string, args int, run func(cmd *cobra.Command, args []string, output string) error) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) != args {
				return complain(cmd, wrongUse, "want %s", cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd, args, output) },
	}
	outputFlag(cmd, &output)
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return complain(cmd, wrongUse, "%v", err)
		}
		return nil
	}
	return cmd
}

// complain says what is wrong and ends the program with a code of its own.
func complain(cmd *cobra.Command, code exitCode, format string, args ...any) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "hotchoc: "+format+"\n", args...)
	return code
}
