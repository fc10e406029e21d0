package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Finding is one thing that a start needs, and how it stands.
type Finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Is   string `json:"is"`
	Fix  string `json:"fix,omitempty"` // how to get it, when it is not there
}

// Doctor looks for everything that Up needs. It changes nothing.
func (s *Stack) Doctor(ctx context.Context) []Finding {
	mode, err := s.mode(ctx)
	if err != nil {
		return []Finding{{What: "mode", Is: err.Error(), Fix: "see HOTCHOC_MODE, AMQP_URL and DATABASE_URL"}}
	}
	findings := []Finding{{What: "mode", OK: true, Is: mode}}
	if mode == compose {
		findings[0].Is = "containers, since a Docker engine answers"
	} else {
		why := "as asked for"
		if err := dockerAnswers(ctx); err != nil && s.cfg.Mode == "" {
			why = "since no Docker engine answers (" + err.Error() + ")"
		}
		findings[0].Is = "processes of this machine, " + why
		findings = append(findings, s.doctorServers(ctx)...)
		findings = append(findings, s.doctorPrograms())
	}
	ports := Finding{What: "ports", OK: true, Is: "in use by this stack"}
	if !s.anyAlive() && (mode == native || !s.composeRuns(ctx)) {
		ports.Is = freePorts()
	}
	return append(findings, s.doctorFolder(), ports)
}

func (s *Stack) doctorServers(ctx context.Context) []Finding {
	check := func(what, elsewhere, pkg string, ping func(context.Context, string) error, find func() (string, error)) Finding {
		if elsewhere != "" {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if err := ping(ctx, elsewhere); err != nil {
				return Finding{What: what, Is: err.Error(), Fix: "start the server at " + withoutLogin(elsewhere) + ", or correct its URL"}
			}
			return Finding{What: what, OK: true, Is: "answers at " + withoutLogin(elsewhere)}
		}
		is, err := find()
		switch {
		case errors.Is(err, errMissing):
			f := Finding{What: what, Is: "not installed", Fix: howToInstall([]string{pkg})}
			if os.Geteuid() == 0 && hasApt() {
				f.Fix = "up installs it, as you are root"
			}
			return f
		case err != nil:
			return Finding{What: what, Is: err.Error(), Fix: "see there"}
		}
		return Finding{What: what, OK: true, Is: is}
	}
	management := s.cfg.ManagementURL
	if s.cfg.AMQPURL != "" && management == "" {
		guess, err := managementOf(s.cfg.AMQPURL)
		if err != nil {
			return []Finding{{What: "RabbitMQ", Is: err.Error()}}
		}
		management = guess
	}
	return []Finding{
		check("RabbitMQ", management, "rabbitmq-server", pingRabbit, func() (string, error) {
			script, err := rabbitScript(s.cfg.RabbitHome)
			return rabbitVersion(script) + ", " + script, err
		}),
		check("Postgres", s.cfg.DatabaseURL, "postgresql", reachPostgres, func() (string, error) { return postgresBin(s.path("postgres")) }),
	}
}

func (s *Stack) doctorPrograms() Finding {
	if err := s.checkPrograms(); err != nil {
		f := Finding{What: "programs", Is: err.Error(), Fix: "./task build"}
		if _, err := exec.LookPath("go"); err != nil {
			f.Fix = "install Go (https://go.dev/dl), then ./task build"
		}
		return f
	}
	return Finding{What: "programs", OK: true, Is: "built, in " + s.cfg.Bin}
}

func (s *Stack) doctorFolder() Finding {
	const need = 2 << 30
	f := Finding{What: "run folder", Is: s.cfg.Dir, Fix: "make room, or use another folder with --dir"}
	if err := s.owned(); err != nil {
		return Finding{What: "run folder", Is: err.Error()}
	}
	dir := s.cfg.Dir
	if _, err := os.Stat(dir); err != nil {
		dir = filepath.Dir(dir)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		f.Is += ": " + err.Error()
		return f
	}
	room := uint64(fs.Bavail) * uint64(fs.Bsize)
	f.Is += fmt.Sprintf(", %.1f GB free", float64(room)/(1<<30))
	f.OK = room > need
	if f.OK {
		f.Fix = ""
	}
	return f
}

func freePorts() string {
	var taken []string
	for name, port := range standard {
		if !free(port) {
			taken = append(taken, fmt.Sprintf("%d (%s)", port, name))
		}
	}
	if taken == nil {
		return "all standard ports are free"
	}
	slices.Sort(taken)
	return "taken: " + strings.Join(taken, ", ") + "; up uses the next free ones"
}
