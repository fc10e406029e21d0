package bench

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hotchoc/ops/audit"
	"hotchoc/ops/stack"
)

const (
	// restWithin is how long the shop may take to come to rest before an audit.
	restWithin = 3 * time.Minute
	// readyWithin is how long a program that is no part of the stack may take to be ready.
	readyWithin = 30 * time.Second
	// generator is the part that places the orders and hears of their ends: this process.
	generator = "load generator"
)

// rig is a stack of its own for some scenarios: servers, partners and services on ports that the kernel chooses, with data
// that are deleted at the end.
type rig struct {
	stack *stack.Stack
	dir   string
	bin   string
	shops []*customers // of the shop, whose orders the audit must find
}

// newRig starts one, below the folder of the configuration.
func newRig(ctx context.Context, cfg Config) (_ *rig, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Dir, "")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the servers' accounts pass through
		return nil, err
	}
	r := &rig{dir: dir, bin: cfg.Bin}
	r.stack, err = stack.Up(ctx, stack.Config{Dir: dir, Bin: cfg.Bin, Env: cfg.Env, Mode: "native", AnyPorts: true, Throwaway: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := r.fillShelves(ctx); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// fillShelves brings what orders need for millions of them.
func (r *rig) fillShelves(ctx context.Context) error {
	for _, ingredient := range []string{"milk", "chocolate", "sugar", "dark chocolate", "chili"} {
		where := r.stack.URL("make") + "/stock/" + url.PathEscape(ingredient)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, where, strings.NewReader(`{"amount":1000000000}`))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("POST %s: %s", where, resp.Status)
		}
	}
	return nil
}

// close stops everything and deletes the data.
func (r *rig) close() error {
	return errors.Join(r.stack.Down(context.Background(), true), os.RemoveAll(r.dir))
}

// customers of a system. Those of the shop are remembered for the audit.
func (r *rig) customers(s *system, connections int) *customers {
	c := newCustomers(s.url, s.ends, s.wish, connections)
	if s.name == shopName {
		r.shops = append(r.shops, c)
	}
	return c
}

// audit waits for rest and proves that nothing was lost or done twice.
func (r *rig) audit(ctx context.Context) (Audit, error) {
	var accepted []string
	for _, c := range r.shops {
		accepted = append(accepted, c.ids...)
	}
	report, err := audit.Run(ctx, audit.Config{
		Database: r.stack.Database(), Management: r.stack.Management(), Partners: r.stack.URL("partners"), Wait: restWithin, Accepted: accepted,
	})
	if err != nil {
		return Audit{}, err
	}
	a := Audit{Clean: report.OK() && report.AtRest, Orders: len(accepted), Seconds: report.Took.Seconds(), Violations: report.Unrest}
	for _, i := range report.Checked {
		if i.ID == "S1" {
			a.Events = int(i.Rows)
		}
	}
	for _, v := range report.Violations {
		a.Violations = append(a.Violations, strings.TrimSpace(fmt.Sprintf("%s %s %s: %s", v.Invariant, v.Service, v.Saga, v.What)))
	}
	return a, nil
}

const shopName = "hotchoc"

// shop is the shop that runs, as a system.
func (r *rig) shop() (*system, error) {
	ends, err := hearEnds(r.stack.AMQP(), shopEnds)
	if err != nil {
		return nil, err
	}
	s := &system{name: shopName, url: r.stack.URL("order") + "/orders", ends: ends, parts: r.shopParts(), wish: goesWell}
	for _, name := range stack.Services() {
		s.services = append(s.services, r.stack.URL(name))
	}
	return s, nil
}

// shopParts are the parts of the shop, as they run now.
func (r *rig) shopParts() []part {
	parts := r.commonParts()
	for _, name := range append(stack.Services(), "partners") {
		parts = append(parts, part{name, r.pids(name)})
	}
	return parts
}

// commonParts are those of every system.
func (r *rig) commonParts() []part {
	return []part{{"broker", r.pids("rabbitmq", "epmd")}, {"database", r.pids("postgres")}, {generator, []int{os.Getpid()}}}
}

// pids of processes of the stack; of one that does not run there is none.
func (r *rig) pids(names ...string) (pids []int) {
	for _, name := range names {
		text, _ := os.ReadFile(filepath.Join(r.dir, "pid", name))
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// second starts a second instance of each service, and adds them to the system. They are stopped as a service manager
// does it.
func (r *rig) second(ctx context.Context, s *system) (stop func() error, err error) {
	var running []*exec.Cmd
	stop = func() (err error) {
		for _, cmd := range running {
			err = errors.Join(err, cmd.Process.Signal(os.Interrupt), cmd.Wait())
		}
		s.parts = r.shopParts()
		s.services = s.services[:len(stack.Services())]
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	for _, name := range stack.Services() {
		env, err := r.stack.Env(name)
		if err != nil {
			return nil, err
		}
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, r.stack.Program(name))
		cmd.Env = append(env, "HTTP_ADDR="+address)
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		running = append(running, cmd)
		for i := range s.parts {
			if s.parts[i].name == name {
				s.parts[i].roots = append(s.parts[i].roots, cmd.Process.Pid)
			}
		}
		s.services = append(s.services, "http://"+address)
		if err := ready(ctx, "http://"+address+"/readyz"); err != nil {
			return nil, err
		}
	}
	return stop, nil
}

// freeAddress is one where nobody listens now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// ready waits for a good answer.
func ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := getJSON(ctx, url, nil)
		if err == nil {
			return nil
		}
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return err
		}
	}
}

// getJSON reads an answer, unless answer is nil.
func getJSON(ctx context.Context, url string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", req.URL.Redacted(), resp.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// closeShop stops all services and the partners, so that they do not take part when another system is measured.
func (r *rig) closeShop(ctx context.Context) error {
	for _, name := range append(stack.Services(), "partners") {
		if err := r.stack.Stop(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// openShop starts them again.
func (r *rig) openShop(ctx context.Context) error {
	for _, name := range append([]string{"partners"}, stack.Services()...) {
		if err := r.stack.Start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// versions of the servers; empty where they do not say.
func (r *rig) versions(ctx context.Context) (postgres, rabbitmq string) {
	_ = withDatabase(r.stack, "postgres", func(db *sql.DB) error {
		return db.QueryRowContext(ctx, "SHOW server_version").Scan(&postgres)
	})
	var overview struct {
		Version string `json:"rabbitmq_version"`
	}
	_ = getJSON(ctx, r.stack.Management()+"/api/overview", &overview)
	postgres, _, _ = strings.Cut(postgres, " ")
	return postgres, overview.Version
}
