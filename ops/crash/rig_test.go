package crash_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver "postgres"

	"hotchoc/ops/stack"
)

const (
	poll     = 5 * time.Millisecond
	patience = 60 * time.Second // with anything; nothing takes a second on a machine that is not busy otherwise
)

// rig is a stack of its own, whose services the tests start themselves, as they want them to die.
type rig struct {
	shop    *stack.Stack
	dir     string
	running map[string]*process // the services; at first those of the stack, which is no process of ours
	dbs     map[string]*sql.DB
	wire    *wire
	fork    func(func()) // on the thread that our processes live as long as
	marks   int
	deeds   []*begun

	mu     sync.Mutex // guards what deeds count
	orders []string   // that were accepted
	poison []string   // message IDs
	edits  int        // of the item "matrix"
	sacks  int        // of the ingredient "powder"
	names  int
}

// newRig brings the stack up, with the crash points compiled in.
func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the servers' users have to get in
		t.Fatal(err)
	}
	r := &rig{dir: dir, running: map[string]*process{}, dbs: map[string]*sql.DB{}}
	bin := filepath.Join(r.dir, "bin")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "crashpoints", "-o", bin+"/", "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu",
		"hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make", "hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the services: %v\n%s", err, out)
	}
	r.shop, err = stack.Up(t.Context(), stack.Config{
		Dir: filepath.Join(r.dir, "run"), Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true, Out: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range r.running {
			p.kill()
		}
		if t.Failed() {
			r.tellTroubles(t)
		}
		if err := r.shop.Down(context.Background(), true); err != nil {
			t.Error(err)
		}
	})
	r.wire = newWire(t, r.shop.AMQP())
	for _, service := range stack.Services() {
		u, err := url.Parse(r.shop.Database())
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/" + service
		if r.dbs[service], err = sql.Open("postgres", u.String()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.dbs[service].Close() })
	}
	forks := make(chan func())
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread is there until the tests are over
		for f := range forks {
			f()
		}
	}()
	r.fork = func(f func()) {
		done := make(chan struct{})
		forks <- func() { f(); close(done) }
		<-done
	}
	return r
}

// process is a service that we have started.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

// broker is the broker's address, as a service knows it.
func (r *rig) broker(service string) (*url.URL, error) {
	told, err := r.shop.Env(service)
	if err != nil {
		return nil, err
	}
	for _, setting := range told {
		if broker, ok := strings.CutPrefix(setting, "AMQP_URL="); ok {
			return url.Parse(broker)
		}
	}
	return nil, fmt.Errorf("%s has not been told where the broker is", service)
}

// start replaces the process of a service, if need be by killing it, by a new one.
func (r *rig) start(t *testing.T, service string, env ...string) *process {
	t.Helper()
	if p, ours := r.running[service]; ours {
		p.kill()
	} else {
		if err := r.shop.Kill(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		// The stack says that a process is gone when its first thread is; the others may have the port for a moment longer.
		r.must(t, func() error {
			l, err := net.Listen("tcp", strings.TrimPrefix(r.shop.URL(service), "http://"))
			if err == nil {
				err = l.Close()
			}
			return err
		})
	}
	r.age(t, service)
	told, err := r.shop.Env(service)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(r.log(service), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{cmd: exec.Command(r.shop.Program(service)), gone: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = append(told, env...), log, log, dieWithUs()
	r.fork(func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.gone)
	}()
	r.running[service] = p
	return p
}

// kill ends the process, if it is there, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// killed tells whether the process, which is gone, died as it does at a crash point.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// ready waits until the service says that it is.
func (r *rig) ready(t *testing.T, service string, p *process) {
	t.Helper()
	r.must(t, func() error {
		select {
		case <-p.gone:
			t.Fatalf("%s died before it was ready: %v", service, p.cmd.ProcessState)
		default:
		}
		if a, err := r.call("GET", service, "/readyz", ""); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%s is not ready: %v %s", service, err, a.body)
		}
		return nil
	})
}

func (r *rig) log(service string) string {
	return filepath.Join(r.dir, "run", "log", service+".log")
}

// tellTroubles shows the last warnings and errors of each service: the logs are gone afterwards.
func (r *rig) tellTroubles(t *testing.T) {
	for _, service := range stack.Services() {
		text, _ := os.ReadFile(r.log(service))
		var troubles []string
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"level":"warn"`) && !strings.Contains(line, `"no broker"`) || !strings.Contains(line, `"level":"`) || strings.Contains(line, `"level":"error"`) {
				troubles = append(troubles, line)
			}
		}
		for _, line := range troubles[max(0, len(troubles)-8):] {
			t.Logf("%s: %s", service, strings.TrimSpace(line))
		}
	}
}

// age lets the time of what a dead process has left in its outbox be over, that of timers it had taken as well: as if it
// were started again a minute later.
func (r *rig) age(t *testing.T, service string) {
	t.Helper()
	r.must(t, func() error { // a commit may still be on its way
		held := 0
		err := r.dbs[service].QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE application_name IN ($1, $1 || ' relay')`, service).Scan(&held)
		if err == nil && held > 0 {
			err = fmt.Errorf("the database still serves %d connections of %s, which is dead", held, service)
		}
		return err
	})
	if _, err := r.dbs[service].Exec(`UPDATE outbox SET due_at = now() WHERE timer IS NULL OR due_at < now() + interval '1 minute'`); err != nil {
		t.Fatal(err)
	}
}

// published waits until the service has nothing to publish.
func (r *rig) published(service string) error {
	return eventually(func() error {
		left := 0
		if err := r.dbs[service].QueryRow(`SELECT count(*) FROM outbox WHERE timer IS NULL`).Scan(&left); err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("%s has %d events to publish", service, left)
		}
		return nil
	})
}

// faults lets the partners make trouble.
func (r *rig) faults(gateway, courier partner) error {
	body, err := json.Marshal(map[string]partner{"gateway": gateway, "courier": courier})
	if err != nil {
		return err
	}
	if a, err := r.call("PUT", "partners", "/faults", string(body)); err != nil || a.status >= 300 {
		return fmt.Errorf("PUT /faults: %v %d %s", err, a.status, a.body)
	}
	return nil
}

type partner struct {
	LatencyMS int     `json:"latency_ms"`
	ErrorRate float64 `json:"error_rate"`
}

// eventually tries until f has no complaint, or patience is at its end.
func eventually(f func() error) error {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

func (r *rig) must(t *testing.T, f func() error) {
	t.Helper()
	if err := eventually(f); err != nil {
		t.Fatal(err)
	}
}

// answer is what came back over HTTP.
type answer struct {
	status int
	body   string
}

// call makes one request; headers are name, value, name, value.
func (r *rig) call(method, service, path, body string, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.shop.URL(service)+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return answer{}, err
	}
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text)}, err
}

// get asks and decodes the answer.
func (r *rig) get(service, path string, v any) error {
	a, err := r.call("GET", service, path, "")
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %s", path, a.status, a.body)
	}
	if err == nil {
		err = json.Unmarshal([]byte(a.body), v)
	}
	return err
}

// insist makes a request until it is answered, as a client does who got no answer: with the same Idempotency-Key, once the
// service is ready again. (Earlier it may take the request, but not publish at once what comes of it.)
func (r *rig) insist(method, service, path, body, key string, v any) error {
	var refused error
	err := eventually(func() error {
		if err := r.get(service, "/readyz", &struct{}{}); err != nil {
			return err
		}
		a, err := r.call(method, service, path, body, "Idempotency-Key", key)
		switch {
		case err != nil:
			return err
		case a.status >= 500:
			return fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body)
		case a.status >= 300:
			refused = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			return nil
		}
		return json.Unmarshal([]byte(a.body), v)
	})
	return errors.Join(err, refused)
}

// name is a new name: of a customer, or an Idempotency-Key.
func (r *rig) name(of string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names++
	return fmt.Sprintf("%s %d", of, r.names)
}
