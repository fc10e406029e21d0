package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

var errMissing = errors.New("its package is not installed; hotchoc doctor says how to get it")

const aptInstall = "apt-get install --yes --no-install-recommends"

// missingPackages are the Debian packages of the servers that must be started and are not installed.
func (s *Stack) missingPackages(elsewhere urls) (names []string) {
	if elsewhere.AMQP == "" {
		if _, err := rabbitScript(s.cfg.RabbitHome); err != nil {
			names = append(names, "rabbitmq-server")
		}
	}
	if elsewhere.Database == "" {
		if _, err := postgresBin(s.path("postgres")); errors.Is(err, errMissing) {
			names = append(names, "postgresql")
		}
	}
	return names
}

// requirePackages installs what is missing when we are root on a machine with apt, and otherwise says what to type.
func (s *Stack) requirePackages(ctx context.Context, elsewhere urls) error {
	names := s.missingPackages(elsewhere)
	if names == nil {
		return nil
	}
	if runtime.GOOS != "linux" {
		return errors.New("servers as processes of this machine need Linux: start a Docker engine, or name servers by AMQP_URL and DATABASE_URL")
	}
	if how := howToInstall(names); os.Geteuid() != 0 || !hasApt() {
		return fmt.Errorf("missing: %s\n    %s", strings.Join(names, ", "), how)
	}
	return s.step("packages", func() (string, error) { return "installed " + strings.Join(names, ", "), s.install(ctx, names) })
}

func howToInstall(names []string) string {
	if !hasApt() {
		return "install RabbitMQ (3.10 or later) and Postgres (15 or later) as your system does it, or start a Docker engine, or name servers by AMQP_URL and DATABASE_URL"
	}
	return "type: sudo apt-get update && sudo " + aptInstall + " " + strings.Join(names, " ") + "\n    (the servers that the packages may start are not used; private ones are)"
}

func hasApt() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil
}

// install runs apt. The packages would start servers of their own and take the standard ports: a
// policy keeps them from it, and goes away again. A policy that is there already is not ours to change.
func (s *Stack) install(ctx context.Context, names []string) error {
	const policy = "/usr/sbin/policy-rc.d"
	if f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err == nil {
		defer os.Remove(policy)
		_, err = f.WriteString("#!/bin/sh\nexit 101\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.say("installing %s (the output is in %s)", strings.Join(names, " and "), s.logFile("apt"))
	log, from, err := openLog(s.logFile("apt"))
	if err != nil {
		return err
	}
	defer log.Close()
	apt := func(line string) error {
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.WaitDelay = 10 * time.Second
		return cmd.Run()
	}
	install := aptInstall + " " + strings.Join(names, " ")
	if apt(install) == nil { // the lists may be old, or not there at all as in most images
		return nil
	}
	if err := apt("apt-get update && " + install); err != nil {
		return s.failed("apt", fmt.Sprintf("%s: %v", install, err), from)
	}
	return nil
}
