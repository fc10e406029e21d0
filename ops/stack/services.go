package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const partners = "partners" // the outside world: a payment gateway and a courier, simulated

var services = []string{"menu", "order", "pay", "make", "delivery"}

// Services are the five, by name.
func Services() []string { return slices.Clone(services) }

// startService starts one service, or the partners, and waits until it says that it is ready.
func (s *Stack) startService(ctx context.Context, name string) (detail string, err error) {
	p := s.process(name)
	if p.alive() && s.outdated(name) {
		if err := s.stopOne(name, false); err != nil {
			return "", err
		}
	}
	detail = s.URL(name)
	if p.alive() {
		detail += ", runs already"
	} else {
		env, err := s.serviceEnv(name)
		if err != nil {
			return "", err
		}
		file := strings.Join(env, "\n") + "\n"
		if err := writeFile(s.path("env", name+".env"), []byte(file), 0o600); err != nil {
			return "", err
		}
		cmd := command{name: name, path: s.Program(name), env: env}
		if name == partners {
			cmd.args = []string{partners}
		}
		if p, err = s.launch(cmd); err != nil {
			return "", err
		}
	}
	return detail, s.await(ctx, name, p, func(ctx context.Context) error { return get(ctx, s.URL(name)+"/readyz") })
}

// serviceEnv is everything a service is told. It is also written to env/<service>.env, so that a
// second instance can be started by hand with the same.
func (s *Stack) serviceEnv(name string) ([]string, error) {
	env := []string{"HTTP_ADDR=" + address(s.port(name)), "LOG_LEVEL=info", "LOG_FORMAT=json"}
	if name == partners {
		env = append(env, "LEDGER_DIR="+s.path("partners"))
	} else {
		password, err := s.password(name)
		if err != nil {
			return nil, err
		}
		database, err := s.serviceDatabase(name, password)
		if err != nil {
			return nil, err
		}
		amqp, err := s.serviceBroker(name, password)
		if err != nil {
			return nil, err
		}
		env = append(env, "DATABASE_URL="+database, "AMQP_URL="+amqp)
	}
	switch name {
	case "pay":
		env = append(env, "GATEWAY_URL="+s.URL(partners))
	case "delivery":
		env = append(env, "COURIER_URL="+s.URL(partners))
	}
	return s.override(name, env)
}

// override puts the settings of the Config over ours.
func (s *Stack) override(name string, env []string) ([]string, error) {
	for _, setting := range s.cfg.Env {
		key, value, ok := strings.Cut(setting, "=")
		if service, rest, ok := strings.Cut(key, ":"); ok {
			if service != name {
				continue
			}
			key = rest
		}
		if !ok || key == "" || strings.ContainsAny(key, " \t'\"") || strings.Contains(setting, "\n") {
			return nil, fmt.Errorf("setting %q: want KEY=value or service:KEY=value on one line", setting)
		}
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		env = append(env, key+"="+value)
	}
	return env, nil
}

// password of a service, for its database role and for its broker user.
func (s *Stack) password(service string) (string, error) {
	if p := s.cfg.Passwords[service]; p != "" {
		return p, nil
	}
	if s.known().Mode == compose {
		return service, nil // the default of compose.yaml
	}
	return s.secret(service)
}

// Passwords of all services.
func (s *Stack) Passwords() (map[string]string, error) {
	all := map[string]string{}
	for _, service := range services {
		p, err := s.password(service)
		if err != nil {
			return nil, err
		}
		all[service] = p
	}
	return all, nil
}

// URL is where a service, or the partners, listen.
func (s *Stack) URL(name string) string { return "http://" + address(s.port(name)) }

// Env is what a service was started with.
func (s *Stack) Env(name string) ([]string, error) {
	raw, err := os.ReadFile(s.path("env", name+".env"))
	return strings.FieldsFunc(string(raw), func(r rune) bool { return r == '\n' }), err
}

func isService(name string) bool { return name == partners || slices.Contains(services, name) }

// Program is the path of a service's program, or of that of the partners.
func (s *Stack) Program(name string) string {
	if name == partners {
		name = "hotchoc"
	}
	return filepath.Join(s.cfg.Bin, name)
}

// checkPrograms sees that all are built before anything is started.
func (s *Stack) checkPrograms() error {
	var missing []string
	for _, name := range append([]string{partners}, services...) {
		if _, err := os.Stat(s.Program(name)); err != nil {
			missing = append(missing, s.Program(name))
		}
	}
	if missing == nil {
		return nil
	}
	return errors.New("not built: " + strings.Join(missing, ", ") + "; run ./task build")
}

// get succeeds when the answer is 200; otherwise the error quotes the answer.
func get(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s %s", req.URL.Redacted(), resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
