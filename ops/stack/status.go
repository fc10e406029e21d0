package stack

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Row is one part of the stack, as status shows it.
type Row struct {
	Name  string   `json:"name"`
	State string   `json:"state"` // ready, starting, dead, stopped, elsewhere, older program
	URL   string   `json:"url"`
	Also  []string `json:"also,omitempty"` // more addresses of the same part
	Login string   `json:"login,omitempty"`
	PID   int      `json:"pid,omitempty"`
	Log   string   `json:"log,omitempty"`
	Why   string   `json:"why,omitempty"` // when it is not ready
}

// Status asks every part how it is.
func (s *Stack) Status(ctx context.Context) ([]Row, error) {
	if err := s.load(); err != nil { // others may have changed it
		return nil, err
	}
	known := s.known()
	if known.Ports == nil {
		return nil, nil
	}
	rows := s.serverRows(known)
	for _, name := range append([]string{partners}, services...) {
		rows = append(rows, Row{Name: name, URL: s.URL(name), Log: s.logFile(name)})
	}
	var err error
	up := map[string]bool{}
	if known.Mode == compose {
		if up, err = s.composeRunning(ctx); err != nil {
			return nil, err
		}
	}
	var wg sync.WaitGroup
	for i := range rows {
		row := &rows[i]
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			if known.Mode == compose {
				row.Log = ""
				row.State = "stopped"
				if !up[row.Name] {
					return
				}
			} else if row.State != "elsewhere" {
				p := known.Processes[row.Name]
				row.PID = p.PID
				switch {
				case p.PID == 0:
					row.State = "stopped"
					return
				case !p.alive():
					row.State = "dead"
					return
				}
			}
			if err := s.ask(ctx, row.Name); err != nil {
				row.State, row.Why = "not ready", err.Error()
			} else if row.State != "elsewhere" {
				row.State = "ready"
				if s.outdated(row.Name) {
					row.Why = "runs a program that was built anew since; up restarts it"
				}
			}
		})
	}
	wg.Wait()
	return rows, nil
}

func (s *Stack) serverRows(known state) []Row {
	rabbit := Row{Name: "rabbitmq", URL: "http://" + address(known.Ports["management"]), Login: broker + " / " + known.Rabbit,
		Log: s.logFile("rabbitmq"), Also: []string{
			"amqp://" + address(known.Ports["amqp"]),
			"http://" + address(known.Ports["prometheus"]) + "/metrics",
		}}
	postgres := Row{Name: "postgres", URL: "postgres://" + address(known.Ports["postgres"]),
		Login: superuser + " / in " + filepath.Join(filepath.Base(s.cfg.Dir), "secrets", "postgres"), Log: s.logFile("postgres")}
	if known.Mode == compose {
		rabbit.Login, postgres.Login = "hotchoc / hotchoc", "hotchoc / hotchoc"
		return []Row{rabbit, postgres}
	}
	if known.Elsewhere.Management != "" {
		rabbit = Row{Name: "rabbitmq", State: "elsewhere", URL: withoutLogin(known.Elsewhere.Management), Also: []string{withoutLogin(known.Elsewhere.AMQP)}}
	}
	if known.Elsewhere.Database != "" {
		postgres = Row{Name: "postgres", State: "elsewhere", URL: withoutLogin(known.Elsewhere.Database)}
	}
	rows := []Row{rabbit, postgres}
	if rabbit.State == "" {
		epmd := Row{Name: "epmd", URL: address(known.Ports["epmd"]), Log: s.logFile("epmd"),
			Also: []string{address(known.Ports["distribution"])}}
		rows = append(rows, epmd)
	}
	return rows
}

// ask finds out whether a part answers.
func (s *Stack) ask(ctx context.Context, name string) error {
	switch name {
	case "epmd":
		return dial(ctx, s.port("epmd"))
	case "rabbitmq":
		return pingRabbit(ctx, s.Management())
	case "postgres":
		return reachPostgres(ctx, s.Database())
	default:
		return get(ctx, s.URL(name)+"/readyz")
	}
}

// Moved names the ports that are not the standard ones, since something else holds those.
func (s *Stack) Moved() (moved []string) {
	for name, port := range s.known().Ports {
		if port != standard[name] {
			moved = append(moved, fmt.Sprintf("%s %d instead of %d", name, port, standard[name]))
		}
	}
	slices.Sort(moved)
	return moved
}

// outdated says whether a service runs a program that has been replaced on disk since it started.
func (s *Stack) outdated(name string) bool {
	p := s.process(name)
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.PID))
	if err != nil || !isService(name) {
		return false
	}
	built, err := os.Stat(s.Program(name))
	return err == nil && !os.SameFile(running, built)
}

func withoutLogin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "?"
	}
	u.User = nil
	return u.String()
}
