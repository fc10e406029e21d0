package host

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // the profiler's handlers, on the default mux
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/relay"
	"hotchoc/pkg/store"
	"hotchoc/pkg/web"
)

// Service is what a service brings: its flow and its routes. The rest is the same for all.
type Service struct {
	Flow *flow.Flow
	// Routes adds the service's own HTTP routes.
	Routes func(*web.Server, Runtime)
	// Outside, if not nil, tells whether the outside that the service asks can be reached. While it cannot, nothing is
	// consumed: see flow.ErrAway.
	Outside func(context.Context) error
	// Check, if not nil, tells whether the service has what it needs of its own to be ready.
	Check func(context.Context, Runtime) error
	// Start, if not nil, runs once the database is there and before the service is ready: to fill an empty one, say.
	Start func(context.Context, Runtime) error
	// Committed, if not nil, is told what each commit wrote to the log. It must not block.
	Committed func([]event.Record)
	// Handled, if not nil, is told of each batch of messages that was handled. It must not block.
	Handled func([]flow.Message)
}

// Runtime is what the routes of a service work with.
type Runtime struct {
	// DB is the service's own database, for reading views.
	DB *sqlx.DB
	// Intake takes commands.
	Intake *flow.Intake
	Log    *zap.Logger
}

// Main is the whole life of a service's command: it reads the configuration, runs until SIGINT or SIGTERM, and returns
// the exit code: 0 after a clean stop, 1 after a failure, 2 for a bad configuration, with all that is wrong on stderr.
func Main[C any](environ []string, validate func(*C) error, run func(context.Context, C) error) int {
	if !slices.ContainsFunc(environ, func(pair string) bool { return strings.HasPrefix(pair, "GOGC=") }) {
		debug.SetGCPercent(gcPercent)
	}
	cfg, err := Load(environ, validate)
	if err != nil {
		fmt.Fprintf(os.Stderr, "The configuration is not complete:\n%v\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg); errors.Is(err, errConfiguration) {
		fmt.Fprintln(os.Stderr, err)
		return 2
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// gcPercent is how much a service's memory grows before garbage is collected, unless GOGC says otherwise. A service holds
// little and makes much garbage: some megabytes more than with Go's own 100 spare it a part of that work.
const gcPercent = 150

// errConfiguration marks what can be told of a configuration only by those who know the flow.
var errConfiguration = errors.New("the configuration is wrong")

// Run runs a service until ctx is done, then stops it in order: the edges first (HTTP, consumer), then what they feed
// (intake, relay), the broker connection last.
//
// The broker and the database need not be there: the service reports that it is not ready, keeps trying with backoff,
// and comes back by itself.
func Run(ctx context.Context, cfg Config, s Service) error {
	if err := s.Flow.Configure(cfg.Retry); err != nil {
		return fmt.Errorf("%w: RETRY: %w", errConfiguration, err)
	}
	log, err := cfg.Logger(s.Flow.Service)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	listener, err := web.Listen(cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("HTTP_ADDR: %w", err)
	}
	db, err := open(cfg.DatabaseURL, s.Flow.Service, cfg.PoolMax, "", hangMax)
	if err != nil {
		return err
	}
	defer db.Close()
	lazy, err := open(cfg.DatabaseURL, s.Flow.Service+" relay", 2, "-c synchronous_commit=off", hangMax)
	if err != nil {
		return err
	}
	defer lazy.Close()

	m := newMetrics()
	pg := store.NewPostgres(db, lazy, store.PostgresConfig{Service: s.Flow.Service, Tables: s.Flow.Tables()})
	publisher := rabbit.NewPublisher(cfg.rabbit(s.Flow.Service), log)
	out := relay.New(pg, publisher, log, relay.Config{Interval: cfg.SweepInterval, Observed: m.relayed})
	intake := flow.NewIntake(s.Flow, flow.NewDoor(s.Flow, pg, nil, nil), log, flow.IntakeConfig{
		BatchMax: cfg.BatchMax, AsksMax: cfg.AsksMax,
		Committed: func(events []event.Record) {
			out.Committed(events)
			if s.Committed != nil {
				s.Committed(events)
			}
		},
		Observed: func(batch []flow.Message, verdicts []flow.Verdict, took time.Duration) {
			m.observe(batch, verdicts, took)
			if s.Handled != nil {
				s.Handled(batch)
			}
		},
	})
	rt := Runtime{DB: db, Intake: intake, Log: log}
	started := s.Start == nil
	back := func(ctx context.Context) error {
		if err := pg.Ping(ctx); err != nil {
			return err
		}
		if !started {
			if err := s.Start(ctx, rt); err != nil {
				return err
			}
			started = true
		}
		if s.Outside != nil {
			return s.Outside(ctx)
		}
		return nil
	}
	consumer := rabbit.NewConsumer(cfg.rabbit(s.Flow.Service), s.Flow, intake, publisher, pg, back, m.settled, log)
	checks := map[string]web.Check{
		"database":   func(ctx context.Context) error { return pg.Ping(ctx) },
		"publishing": func(context.Context) error { return publisher.Err() },
		"consuming":  func(context.Context) error { return consumer.Err() },
	}
	if s.Check != nil {
		checks[s.Flow.Service] = func(ctx context.Context) error { return s.Check(ctx, rt) }
	}
	server := web.New(s.Flow, checks, m.registry, log)
	attempts(server, rt)
	s.Routes(server, rt)

	if cfg.PprofAddr != "" {
		go func() { log.Warn("profiler", zap.Error(http.ListenAndServe(cfg.PprofAddr, nil))) }()
	}
	log.Info("starting", zap.String("http", listener.Addr().String()), zap.Int("pid", os.Getpid()), zap.Any("hears", s.Flow.Hears()))
	err = inOrder(ctx,
		publisher.Run,
		out.Run,
		intake.Run,
		consumer.Run,
		func(ctx context.Context) error { return server.Serve(ctx, listener) },
	)
	log.Info("stopped", zap.Error(err))
	return err
}

// inOrder runs the parts until ctx is done or one of them ends, then stops them one after the other, the last one first.
func inOrder(ctx context.Context, parts ...func(context.Context) error) error {
	type running struct {
		stop context.CancelFunc
		done chan error
	}
	ended := make(chan struct{}, len(parts))
	var all []running
	for _, part := range parts {
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := running{stop, make(chan error, 1)}
		go func() {
			r.done <- part(ctx)
			ended <- struct{}{}
		}()
		all = append(all, r)
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var problems []error
	for i := len(all) - 1; i >= 0; i-- {
		all[i].stop()
		problems = append(problems, <-all[i].done)
	}
	return errors.Join(problems...)
}

// hangMax is how long a database may let a connection wait for an answer before it is given up. No statement takes as
// long: see store.DefaultTimeout.
const hangMax = 15 * time.Second

// dialer makes connections that do not wait for ever. The driver has a timeout for the making of a connection only; later
// it asks the server to cancel what takes too long, and a server that hangs does not do that either.
type dialer struct{ most time.Duration }

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		return &impatient{TCPConn: tcp, most: d.most}, nil
	}
	return conn, err
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// impatient is a connection on which nothing takes longer than most, unless the driver has set a deadline itself.
type impatient struct {
	*net.TCPConn
	most time.Duration
	set  atomic.Bool
}

func (c *impatient) SetDeadline(t time.Time) error {
	c.set.Store(!t.IsZero())
	return c.TCPConn.SetDeadline(t)
}

func (c *impatient) Read(b []byte) (int, error) {
	if !c.set.Load() {
		_ = c.SetReadDeadline(time.Now().Add(c.most))
	}
	return c.TCPConn.Read(b)
}

func (c *impatient) Write(b []byte) (int, error) {
	if !c.set.Load() {
		_ = c.SetWriteDeadline(time.Now().Add(c.most))
	}
	return c.TCPConn.Write(b)
}

// open makes a pool; nothing is connected yet.
func open(target, name string, most int, options string, hang time.Duration) (*sqlx.DB, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("DATABASE_URL is malformed")
	}
	q := u.Query()
	set := func(key, value string) {
		if q.Get(key) == "" && value != "" {
			q.Set(key, value)
		}
	}
	set("application_name", name)
	set("connect_timeout", "5")
	set("options", options)
	q.Set("binary_parameters", "yes") // the store needs it, and a statement that is not prepared takes one round trip
	u.RawQuery = q.Encode()
	connector, err := pq.NewConnector(u.String())
	if err != nil {
		return nil, errors.New("DATABASE_URL is malformed")
	}
	connector.Dialer(dialer{hang})
	db := sqlx.NewDb(sql.OpenDB(connector), "postgres")
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}

// metrics are what /metrics shows beside the process's own.
type metrics struct {
	registry *prometheus.Registry
	messages *prometheus.CounterVec
	fates    *prometheus.CounterVec
	relays   *prometheus.CounterVec
	size     prometheus.Histogram
	took     prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotchoc_messages_total", Help: "Messages that went through the door, by type and outcome."}, []string{"type", "outcome"}),
		fates:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotchoc_deliveries_total", Help: "Deliveries settled, by fate."}, []string{"fate"}),
		relays:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotchoc_relay_messages_total", Help: "Messages of the outbox, by what happened: confirmed, failed, swept (left behind, or timers)."}, []string{"what"}),
		size:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotchoc_batch_messages", Help: "Messages per commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 9)}),
		took:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotchoc_batch_seconds", Help: "Time from the first read of a batch to the end of its commit.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
	}
	m.registry.MustRegister(m.messages, m.fates, m.relays, m.size, m.took, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(batch []flow.Message, verdicts []flow.Verdict, took time.Duration) {
	m.size.Observe(float64(len(batch)))
	m.took.Observe(took.Seconds())
	for i, v := range verdicts {
		outcome := "handled"
		switch {
		case v.Err != nil:
			outcome = "trouble"
		case v.Refusal != nil:
			outcome = "refused"
		case v.Duplicate:
			outcome = "duplicate"
		case v.Suppressed:
			outcome = "suppressed"
		}
		m.messages.WithLabelValues(batch[i].Type, outcome).Inc()
	}
}

func (m *metrics) relayed(what string, messages int) {
	m.relays.WithLabelValues(what).Add(float64(messages))
}

func (m *metrics) settled(_ flow.Message, fate flow.Fate) {
	name := "retry"
	switch {
	case fate.Ack:
		name = "ack"
	case fate.Requeue:
		name = "requeue"
	case fate.Dead != "":
		name = "dead"
	}
	m.fates.WithLabelValues(name).Inc()
}
