// Package host runs a service: configuration, logging, and its parts started and stopped in order.
package host

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"hotchoc/pkg/rabbit"
)

// Config is the configuration that all services share, read from the environment by their commands. docs/configuration.md
// is the table of it.
type Config struct {
	// HTTPAddr is where the service listens.
	HTTPAddr string `env:"HTTP_ADDR"`
	// DatabaseURL is the service's own database; or the name of a file that holds the URL.
	DatabaseURL     string `env:"DATABASE_URL"`
	DatabaseURLFile string `env:"DATABASE_URL_FILE"`
	// AMQPURL is the broker, with the service's own user; several, separated by commas, are tried in turn. Or a file.
	AMQPURL     string `env:"AMQP_URL"`
	AMQPURLFile string `env:"AMQP_URL_FILE"`
	LogLevel    string `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat   string `env:"LOG_FORMAT" envDefault:"json"`
	// PprofAddr is where the profiler of net/http/pprof listens; empty: nowhere. For a loopback address only.
	PprofAddr string `env:"PPROF_ADDR"`
	// BatchMax is how many messages share a commit at most.
	BatchMax int `env:"BATCH_MAX" envDefault:"384"`
	// AsksMax is how many calls to the outside run at once.
	AsksMax int `env:"ASKS_MAX" envDefault:"64"`
	// Prefetch is how many messages the broker hands over before the first is acked.
	Prefetch int `env:"PREFETCH" envDefault:"1536"`
	// PoolMax is how many database connections the service opens for its commits and reads; two more clear the outbox.
	PoolMax int `env:"POOL_MAX" envDefault:"8"`
	// SweepInterval is how often the outbox is swept for timers and for what a crash left behind.
	SweepInterval time.Duration `env:"SWEEP_INTERVAL" envDefault:"200ms"`
	// Retry changes the retry policies of steps: see flow.Flow.Configure.
	Retry string `env:"RETRY"`
	// StopTimeout is how long work under way may take at the end.
	StopTimeout time.Duration `env:"STOP_TIMEOUT" envDefault:"10s"`
}

// Load reads a configuration from an environment. All problems come back at once, none with a secret in it.
func Load[C any](environ []string, validate func(*C) error) (C, error) {
	var c C
	vars := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		vars[name] = value
	}
	err := env.ParseWithOptions(&c, env.Options{Environment: vars})
	problems := []error{validate(&c)}
	var several env.AggregateError
	if errors.As(err, &several) {
		problems = append(problems, several.Errors...)
	} else {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

// Validate completes the configuration and returns all that is wrong with it.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	pick := func(name string, value *string, file string) {
		text, err := read(file)
		if err != nil {
			bad("%s_FILE: %v", name, err)
			return
		}
		if *value == "" {
			*value = text
		}
		if *value == "" {
			bad("%s is not set (nor %s_FILE)", name, name)
		}
	}
	pick("DATABASE_URL", &c.DatabaseURL, c.DatabaseURLFile)
	pick("AMQP_URL", &c.AMQPURL, c.AMQPURLFile)
	if u, err := url.Parse(c.DatabaseURL); c.DatabaseURL != "" && (err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql") {
		bad("DATABASE_URL must look like postgres://user:password@host:port/database")
	}
	for _, one := range c.AMQPURLs() {
		if u, err := url.Parse(one); err != nil || u.Scheme != "amqp" && u.Scheme != "amqps" {
			bad("AMQP_URL must look like amqp://user:password@host:port/")
		}
	}
	if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
		bad("HTTP_ADDR must look like 127.0.0.1:8081, not %q", c.HTTPAddr)
	}
	if host, _, err := net.SplitHostPort(c.PprofAddr); c.PprofAddr != "" && (err != nil || !net.ParseIP(host).IsLoopback()) {
		bad("PPROF_ADDR must be a loopback address such as 127.0.0.1:6060, not %q", c.PprofAddr)
	}
	if _, err := zapcore.ParseLevel(c.LogLevel); err != nil {
		bad("LOG_LEVEL must be debug, info, warn or error, not %q", c.LogLevel)
	}
	if c.LogFormat != "json" && c.LogFormat != "console" {
		bad("LOG_FORMAT must be json or console, not %q", c.LogFormat)
	}
	within := func(name string, value, least, most int) {
		if value < least || value > most {
			bad("%s must be from %d to %d, not %d", name, least, most, value)
		}
	}
	within("BATCH_MAX", c.BatchMax, 1, 1000)
	within("ASKS_MAX", c.AsksMax, 1, 10_000)
	within("PREFETCH", c.Prefetch, 1, 65_535)
	within("POOL_MAX", c.PoolMax, 2, 1000)
	if c.SweepInterval < 10*time.Millisecond || c.SweepInterval > time.Minute {
		bad("SWEEP_INTERVAL must be from 10ms to 1m, not %v", c.SweepInterval)
	}
	if c.StopTimeout < time.Second || c.StopTimeout > 10*time.Minute {
		bad("STOP_TIMEOUT must be from 1s to 10m, not %v", c.StopTimeout)
	}
	return errors.Join(problems...)
}

// read reads a secret from a file, if there is one. The error does not repeat what may be the secret itself.
func read(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	if strings.Contains(file, "://") {
		return "", errors.New("it must be the name of a file that holds the URL, not the URL")
	}
	text, err := os.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}

// AMQPURLs are the brokers.
func (c *Config) AMQPURLs() []string {
	if c.AMQPURL == "" {
		return nil
	}
	return strings.Split(c.AMQPURL, ",")
}

func (c *Config) rabbit(service string) rabbit.Config {
	return rabbit.Config{URLs: c.AMQPURLs(), Service: service, Prefetch: c.Prefetch, StopTimeout: c.StopTimeout}
}

// Logger makes the service's log: structured, to standard output, with the service's name on each line.
func (c *Config) Logger(service string) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, err
	}
	z := zap.NewProductionConfig()
	if c.LogFormat == "console" {
		z = zap.NewDevelopmentConfig()
	}
	z.Level = zap.NewAtomicLevelAt(level)
	z.Encoding = c.LogFormat
	z.OutputPaths = []string{"stdout"}
	z.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	z.DisableCaller, z.DisableStacktrace, z.Sampling = true, true, nil
	log, err := z.Build()
	if err != nil {
		return nil, err
	}
	return log.With(zap.String("service", service)), nil
}
