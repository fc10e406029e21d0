package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	native  = "native"
	compose = "compose"
)

// mode decides between containers and processes: what runs already, then what was asked for, then
// containers if there is an engine.
func (s *Stack) mode(ctx context.Context) (string, error) {
	elsewhere := s.cfg.AMQPURL != "" || s.cfg.DatabaseURL != ""
	docker := func() error { return dockerAnswers(ctx) }
	switch {
	case s.cfg.Mode != "" && s.cfg.Mode != native && s.cfg.Mode != compose:
		return "", fmt.Errorf("HOTCHOC_MODE is %q: want %s or %s", s.cfg.Mode, native, compose)
	case s.cfg.Mode == compose && s.anyAlive():
		return "", errors.New("this stack runs natively: run down first")
	case s.cfg.Mode == compose && elsewhere:
		return "", errors.New("AMQP_URL and DATABASE_URL are for native mode; compose.yaml brings its own servers")
	case s.cfg.Mode == compose:
		return compose, docker()
	case s.cfg.Mode == native || s.anyAlive() || elsewhere || docker() != nil:
		if s.known().Mode == compose && docker() == nil && s.composeRuns(ctx) {
			return "", errors.New("this stack runs in containers: run down first")
		}
		return native, nil
	}
	return compose, nil
}

// dockerAnswers says why there are no containers, or nil.
func dockerAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, args := range [][]string{{"info"}, {"compose", "version"}} {
		cmd := exec.CommandContext(ctx, "docker", args...)
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			return fmt.Errorf("docker %s: %w %s", strings.Join(args, " "), err, lines[len(lines)-1])
		}
	}
	return nil
}

// composeUp leaves build, order and waiting to compose, and only chooses the ports.
func (s *Stack) composeUp(ctx context.Context) error {
	ran := s.composeRuns(ctx)
	ports := s.known().Ports
	if !ran || len(ports) == 0 {
		var err error
		if ports, err = choosePorts(); err != nil {
			return err
		}
		delete(ports, "epmd") // not published
		delete(ports, "distribution")
	}
	password := func(p string) *url.Userinfo { return url.UserPassword("hotchoc", cmp.Or(p, "hotchoc")) }
	reach := urls{
		AMQP:       (&url.URL{Scheme: "amqp", User: password(s.cfg.RabbitPassword), Host: address(ports["amqp"]), Path: "/"}).String(),
		Management: (&url.URL{Scheme: "http", User: password(s.cfg.RabbitPassword), Host: address(ports["management"])}).String(),
		Database:   (&url.URL{Scheme: "postgres", User: password(s.cfg.PostgresPassword), Host: address(ports["postgres"]), Path: "/postgres", RawQuery: "sslmode=disable"}).String(),
	}
	if err := s.update(func(st *state) {
		*st = state{Mode: compose, Ports: ports, Elsewhere: reach, Processes: map[string]process{}}
	}); err != nil {
		return err
	}
	err := s.compose(ctx, "up", "--build", "--detach", "--wait")
	if err == nil {
		return nil
	}
	last := context.WithoutCancel(ctx)
	err = errors.Join(err, s.compose(last, "logs", "--tail", "20"))
	if !ran {
		err = errors.Join(err, s.compose(last, "down"))
	}
	return err
}

func (s *Stack) composeDown(ctx context.Context, volumes bool) error {
	args := []string{"down", "--remove-orphans"}
	if volumes {
		args = append(args, "--volumes")
	}
	return s.compose(ctx, args...)
}

func (s *Stack) composeRuns(ctx context.Context) bool {
	out, err := s.composeCommand(ctx, "ps", "--quiet").Output()
	return err == nil && len(out) > 0
}

// composeRunning are the services whose container runs.
func (s *Stack) composeRunning(ctx context.Context) (map[string]bool, error) {
	out, err := s.composeCommand(ctx, "ps", "--services", "--status", "running").Output()
	if err != nil {
		return nil, fmt.Errorf("docker compose ps: %w", err)
	}
	running := map[string]bool{}
	for _, name := range strings.Fields(string(out)) {
		running[name] = true
	}
	return running, nil
}

func (s *Stack) compose(ctx context.Context, args ...string) error {
	cmd := s.composeCommand(ctx, args...)
	cmd.Stdout, cmd.Stderr = s.cfg.Out, s.cfg.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker compose %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// composeCommand runs compose with the chosen ports in its environment, PAY_PORT and so on.
func (s *Stack) composeCommand(ctx context.Context, args ...string) *exec.Cmd {
	file := filepath.Join(filepath.Dir(s.cfg.Bin), "compose.yaml")
	cmd := exec.CommandContext(ctx, "docker", append([]string{"compose", "--file", file}, args...)...)
	cmd.Env = os.Environ()
	for name, port := range s.known().Ports {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s_PORT=%d", strings.ToUpper(name), port))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}
