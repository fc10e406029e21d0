// Command hotchoc runs the shop and looks into it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return
	case errors.As(err, &code):
		os.Exit(int(code))
	}
	fmt.Fprintln(os.Stderr, "hotchoc:", err)
	os.Exit(1)
}

// exitCode ends the program without a word: the finding was printed, or is that of a command we ran.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "hotchoc",
		Short:         "Run the hot-chocolate shop and look into it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().String("dir", runFolder(), "the run folder: data, logs, pids, secrets")
	cmd.AddCommand(
		up(), down(), status(), logs(), doctor(), servers(),
		migrate(), topology(), setup(), flow(), partnersCmd(), chaos(), ready(), audit(), dead(), saga(), simCmd(), contractsCmd(), bench(),
	)
	return cmd
}
