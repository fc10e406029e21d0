package stack

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets this program stand in for the services: started under the name of one, it is ready, and no more.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); isService(name) || name == "hotchoc" {
		standIn()
	}
	os.Exit(m.Run())
}

func standIn() {
	if os.Getenv("FAIL") != "" {
		fmt.Println("the machine is broken")
		os.Exit(3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go http.ListenAndServe(os.Getenv("HTTP_ADDR"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	<-ctx.Done()
	os.Exit(0)
}

// testConfig is a stack of stand-ins in a folder with blanks in its path.
func testConfig(t *testing.T) Config {
	t.Helper()
	if _, err := rabbitScript(""); err != nil {
		t.Skip("no RabbitMQ: ", err)
	}
	if _, err := postgresBin(""); err != nil {
		t.Skip("no Postgres: ", err)
	}
	root, err := os.MkdirTemp("", "a stack ")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"hotchoc"}, services...) {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return Config{Dir: filepath.Join(root, ".run"), Bin: bin, Mode: native, AnyPorts: true, Throwaway: true, Out: testLog{t}}
}

// TestStack walks through the life of a stack. The parts depend on each other: servers take seconds to start.
func TestStack(t *testing.T) {
	cfg := testConfig(t)

	// A start that fails says why and leaves nothing.
	failing := cfg
	failing.Env = []string{"pay:FAIL=1"}
	if _, err := Up(t.Context(), failing); err == nil || !strings.Contains(err.Error(), "pay ended") || !strings.Contains(err.Error(), "the machine is broken") {
		t.Errorf("the error does not say what happened: %v", err)
	}
	nothingRuns(t, cfg)

	s, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Down(context.Background(), true) })
	allReady(t, s)

	t.Run("a second start changes nothing", func(t *testing.T) {
		before := s.known().Processes
		again, err := Up(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range again.known().Processes {
			if p != before[name] {
				t.Errorf("%s was %v and is %v", name, before[name], p)
			}
		}
	})

	t.Run("only what died is started", func(t *testing.T) {
		before := s.known().Processes
		died := []string{"pay", "epmd"}
		for _, name := range died {
			if err := s.Kill(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		if rows, err := s.Status(t.Context()); err != nil || rowOf(rows, "pay").State != "dead" {
			t.Errorf("pay is %v, %v", rowOf(rows, "pay"), err)
		}
		again, err := Up(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range again.known().Processes {
			if same := p.PID == before[name].PID; same == slices.Contains(died, name) {
				t.Errorf("%s was %v and is %v", name, before[name], p)
			}
		}
		allReady(t, again)
	})

	t.Run("servers come back with their data after a crash", func(t *testing.T) {
		for _, name := range []string{"postgres", "rabbitmq"} {
			if err := s.Kill(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		allReady(t, s)
		env, err := s.Env("pay")
		if err != nil {
			t.Fatal(err)
		}
		database, _ := strings.CutPrefix(env[slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, "DATABASE_URL=") })], "DATABASE_URL=")
		if err := reachPostgres(t.Context(), database); err != nil {
			t.Error("pay's own database: ", err)
		}
	})

	t.Run("a start that fails leaves alone what ran", func(t *testing.T) {
		if err := s.Stop(t.Context(), "pay"); err != nil {
			t.Fatal(err)
		}
		if _, err := Up(t.Context(), failing); err == nil {
			t.Error("no error")
		}
		if err := s.Start(t.Context(), "pay"); err != nil {
			t.Error(err)
		}
		allReady(t, s)
	})

	t.Run("a program that was built anew is started anew", func(t *testing.T) {
		program := s.Program("make")
		raw, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program+".new", raw, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
		if !s.outdated("make") || s.outdated("menu") {
			t.Error("outdated are not: make alone")
		}
		old := s.process("make")
		again, err := Up(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if old.alive() || again.outdated("make") {
			t.Error("the old program runs")
		}
	})

	t.Run("a second instance starts from the environment file", func(t *testing.T) {
		env, err := s.Env("pay")
		if err != nil {
			t.Fatal(err)
		}
		l, err := listen(0)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		second := exec.Command(s.Program("pay"))
		second.Env = append(env, "HTTP_ADDR="+l.Addr().String())
		if err := second.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { second.Process.Kill(); second.Wait() }()
		eventually(t, "it is ready", func() bool { return get(t.Context(), "http://"+l.Addr().String()+"/readyz") == nil })
	})

	t.Run("servers elsewhere are used, not started", func(t *testing.T) {
		other := testConfig(t)
		other.AMQPURL, other.ManagementURL, other.DatabaseURL = s.AMQP(), s.Management(), s.Database()
		second, err := Up(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(second.known().Processes); n != len(services)+1 {
			t.Errorf("%d processes: %v", n, second.known().Processes)
		}
		if err := second.Down(t.Context(), true); err != nil {
			t.Error(err)
		}
		nothingRuns(t, other)
		allReady(t, s)
	})

	if err := s.Down(t.Context(), false); err != nil {
		t.Error(err)
	}
	nothingRuns(t, cfg)
	if _, err := os.Stat(s.path("postgres", "PG_VERSION")); err != nil {
		t.Error("the data are not kept: ", err)
	}
	if err := s.Down(t.Context(), true); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) != 1 {
		t.Errorf("left is %v, %v; want the lock alone", left, err)
	}
}

func allReady(t *testing.T, s *Stack) {
	t.Helper()
	rows, err := s.Status(t.Context())
	if err != nil || len(rows) == 0 {
		t.Errorf("status: %v, %v", rows, err)
	}
	for _, row := range rows {
		if row.State != "ready" {
			t.Errorf("%s is %s: %s", row.Name, row.State, row.Why)
		}
	}
}

// nothingRuns looks at the machine, not at what the stack says of itself.
func nothingRuns(t *testing.T, cfg Config) {
	t.Helper()
	lines := func() (mine []string) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			raw, _ := os.ReadFile(file)
			if bytes.Contains(raw, []byte(filepath.Dir(cfg.Dir))) || bytes.Contains(raw, []byte(detour(filepath.Join(cfg.Dir, "rabbitmq")))) {
				mine = append(mine, strings.ReplaceAll(string(raw), "\x00", " "))
			}
		}
		return mine
	}
	for end := time.Now().Add(5 * time.Second); len(lines()) > 0; time.Sleep(10 * time.Millisecond) { // a killed server's children take a moment
		if time.Now().After(end) {
			t.Errorf("still running: %s", strings.Join(lines(), "\n"))
			return
		}
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, port := range s.known().Ports {
		if s.known().Elsewhere == (urls{}) && !free(port) {
			t.Errorf("something listens on the port %d of %s", port, name)
		}
	}
}

func rowOf(rows []Row, name string) Row {
	for _, row := range rows {
		if row.Name == name {
			return row
		}
	}
	return Row{}
}

func listen(port int) (net.Listener, error) { return net.Listen("tcp", address(port)) }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
