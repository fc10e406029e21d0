package host

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// good is the least that a service needs.
func good(more ...string) []string {
	return append([]string{"DATABASE_URL=postgres://pay:geheim@127.0.0.1:5432/pay", "AMQP_URL=amqp://pay:geheim@127.0.0.1:5672/", "HTTP_ADDR=127.0.0.1:0"}, more...)
}

func load(environ ...string) (Config, error) { return Load(environ, (*Config).Validate) }

func TestAConfigurationHasDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(good()...)
	if err != nil {
		t.Fatal(err)
	}
	if c.LogLevel != "info" || c.LogFormat != "json" || c.BatchMax != 384 || c.AsksMax != 64 || c.Prefetch != 1536 || c.PoolMax != 8 || c.SweepInterval != 200*time.Millisecond || c.StopTimeout != 10*time.Second {
		t.Errorf("got %+v", c)
	}
	c, err = load(good("BATCH_MAX=7", "STOP_TIMEOUT=3s", "AMQP_URL=amqp://a/,amqps://b/")...)
	if err != nil || c.BatchMax != 7 || c.StopTimeout != 3*time.Second || len(c.AMQPURLs()) != 2 || c.AMQPURLs()[1] != "amqps://b/" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestAllThatIsWrongWithAConfigurationIsSaidAtOnceAndWithoutSecrets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		environ []string
		says    []string
	}{
		"nothing is set": {nil, []string{"DATABASE_URL is not set (nor DATABASE_URL_FILE)", "AMQP_URL is not set (nor AMQP_URL_FILE)", "HTTP_ADDR must look like 127.0.0.1:8081"}},
		"everything is wrong": {
			[]string{
				"DATABASE_URL=mysql://pay:geheim@127.0.0.1/pay", "AMQP_URL=http://pay:geheim@127.0.0.1", "HTTP_ADDR=8081", "LOG_LEVEL=loud", "LOG_FORMAT=xml",
				"BATCH_MAX=0", "ASKS_MAX=100000", "PREFETCH=65536", "POOL_MAX=1", "SWEEP_INTERVAL=1ms", "STOP_TIMEOUT=1h", "PPROF_ADDR=0.0.0.0:6060",
			},
			[]string{
				"DATABASE_URL must", "AMQP_URL must", "HTTP_ADDR must", "LOG_LEVEL must", `"loud"`, "LOG_FORMAT must", "BATCH_MAX must be from 1 to 1000, not 0",
				"ASKS_MAX must", "PREFETCH must", "POOL_MAX must be from 2", "SWEEP_INTERVAL must", "STOP_TIMEOUT must", "PPROF_ADDR must",
			},
		},
		"nothing is a number": {
			good("BATCH_MAX=many", "ASKS_MAX=1.5", "PREFETCH=99999999999999999999", "SWEEP_INTERVAL=soon", "STOP_TIMEOUT=10"),
			[]string{"BATCH_MAX", "ASKS_MAX", "PREFETCH", "SWEEP_INTERVAL", "STOP_TIMEOUT"},
		},
		"the URLs are malformed": {
			[]string{"DATABASE_URL=postgres://pay:geheim@127.0.0.1:port/pay", "AMQP_URL=amqp://pay:ge%heim@127.0.0.1/", "HTTP_ADDR=127.0.0.1:1"},
			[]string{"DATABASE_URL must", "AMQP_URL must"},
		},
		"one broker of several":           {good("AMQP_URL=amqp://pay:geheim@a/,geheim@b"), []string{"AMQP_URL must"}},
		"a name without a scheme":         {good("DATABASE_URL=pay:geheim@127.0.0.1/pay"), []string{"DATABASE_URL must"}},
		"a file that is not there":        {append(good(), "DATABASE_URL_FILE=/no/such/file"), []string{"DATABASE_URL_FILE", "/no/such/file"}},
		"a URL instead of a file":         {append(good()[1:], "DATABASE_URL_FILE=postgres://pay:geheim@127.0.0.1/pay"), []string{"DATABASE_URL_FILE"}},
		"the other URL instead of a file": {append(good()[:1], "HTTP_ADDR=:1", "AMQP_URL_FILE=amqp://pay:geheim@127.0.0.1/"), []string{"AMQP_URL_FILE"}},
	} {
		_, err := load(c.environ...)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: it does not say %q:\n%v", name, want, err)
			}
		}
		if strings.Contains(err.Error(), "heim") {
			t.Errorf("%s: it tells the password:\n%v", name, err)
		}
	}
}

func TestSecretsAreReadFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	database, broker := file("database", "postgres://pay:geheim@db/pay\n"), file("broker", "  amqp://pay:geheim@mq/\r\n")
	c, err := load("HTTP_ADDR=:1", "DATABASE_URL_FILE="+database, "AMQP_URL_FILE="+broker)
	if err != nil || c.DatabaseURL != "postgres://pay:geheim@db/pay" || c.AMQPURLs()[0] != "amqp://pay:geheim@mq/" {
		t.Errorf("got %+v, %v", c, err)
	}
	// What is set itself comes first.
	if c, err = load(good("DATABASE_URL_FILE=" + database)...); err != nil || c.DatabaseURL != "postgres://pay:geheim@127.0.0.1:5432/pay" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err = load("HTTP_ADDR=:1", "DATABASE_URL_FILE="+file("empty", "\n"), "AMQP_URL_FILE="+file("wrong", "geheim")); err == nil ||
		!strings.Contains(err.Error(), "DATABASE_URL is not set") || !strings.Contains(err.Error(), "AMQP_URL must") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("got %v", err)
	}
}

// run runs this program as a service's command would be.
func runCommand(t *testing.T, environ []string, signal os.Signal) (code int, stderr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = environ
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if lines := bufio.NewScanner(out); lines.Scan() && signal != nil {
		if err := cmd.Process.Signal(signal); err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), errors.String()
}

func TestTheExitCodeSaysHowItEnded(t *testing.T) {
	t.Parallel()
	if code, stderr := runCommand(t, good("HOST_TEST_COMMAND=ends"), syscall.SIGTERM); code != 0 || stderr != "" {
		t.Errorf("stopped by SIGTERM: code %d, %s", code, stderr)
	}
	if code, stderr := runCommand(t, good("HOST_TEST_COMMAND=ends"), syscall.SIGINT); code != 0 || stderr != "" {
		t.Errorf("stopped by SIGINT: code %d, %s", code, stderr)
	}
	if code, stderr := runCommand(t, good("HOST_TEST_COMMAND=fails"), syscall.SIGTERM); code != 1 || stderr != "it came to a bad end\n" {
		t.Errorf("failed: code %d, %s", code, stderr)
	}
	code, stderr := runCommand(t, []string{"HOST_TEST_COMMAND=ends", "DATABASE_URL=mysql://pay:geheim@db/pay", "BATCH_MAX=0"}, nil)
	for _, want := range []string{"The configuration is not complete", "DATABASE_URL must", "AMQP_URL is not set", "HTTP_ADDR must", "BATCH_MAX must"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr does not say %q:\n%s", want, stderr)
		}
	}
	if code != 2 || strings.Contains(stderr, "geheim") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

func TestAServicesOwnSettingsAreCheckedWithTheShared(t *testing.T) {
	t.Parallel()
	type own struct {
		Config
		Gateway string `env:"GATEWAY_URL"`
	}
	_, err := Load([]string{"HTTP_ADDR=x"}, func(c *own) error {
		return errors.Join(c.Config.Validate(), errors.New("GATEWAY_URL is "+c.Gateway+"missing"))
	})
	if err == nil || !strings.Contains(err.Error(), "GATEWAY_URL is missing") || !strings.Contains(err.Error(), "AMQP_URL is not set") {
		t.Errorf("got %v", err)
	}
}
