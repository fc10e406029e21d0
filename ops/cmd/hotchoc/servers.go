package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"hotchoc/ops/stack"
)

func servers() *cobra.Command {
	return &cobra.Command{
		Use:   "servers -- command [argument ...]",
		Short: "Run a command, such as the tests, with a RabbitMQ and a Postgres of its own",
		Long: `Starts a RabbitMQ and a Postgres on free ports, beside everything that runs already, and tells the
command by TEST_AMQP_URL, TEST_MANAGEMENT_URL and TEST_DATABASE_URL where they are. When the command
ends both are stopped and their data deleted; the exit code is the command's.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cfg := config(cmd)
			parent := filepath.Join(cfg.Dir, "test")
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			if cfg.Dir, err = os.MkdirTemp(parent, ""); err != nil {
				return err
			}
			if err := os.Chmod(cfg.Dir, 0o755); err != nil { // the servers' accounts pass through
				return err
			}
			cfg.AnyPorts, cfg.Throwaway = true, true
			servers, err := stack.StartServers(cmd.Context(), cfg)
			if err != nil {
				return errors.Join(err, os.RemoveAll(cfg.Dir))
			}
			defer func() { err = errors.Join(err, servers.Stop()) }()
			return run(args, append(os.Environ(),
				"TEST_AMQP_URL="+servers.AMQPURL,
				"TEST_MANAGEMENT_URL="+servers.ManagementURL,
				"TEST_DATABASE_URL="+servers.DatabaseURL,
			))
		},
	}
}

// run hands the terminal and all signals to the command: it decides when it ends.
func run(args, env []string) error {
	child := exec.Command(args[0], args[1:]...)
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-signals:
				child.Process.Signal(sig)
			case <-done:
				return
			}
		}
	}()
	err := child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exitCode(exit.ExitCode())
	}
	return err
}
