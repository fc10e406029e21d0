// Package partners is the outside world, simulated: a payment gateway and a courier company in one process.
//
// Both behave as real ones do. Every request carries a key; the same key is the same request and has the same answer,
// however often it arrives. A void bars a key for ever: what had been done under it is undone, and a request that arrives
// late is refused. What was answered is in a ledger on disk first, so it survives a crash, and an auditor can compare it
// with what the shop believes. And both can be made slow, failing and forgetful while they run ([Faults]).
//
//	PUT  /captures/{key}         take money            POST /captures/{key}/void
//	PUT  /dispatches/{key}       send a courier        POST /dispatches/{key}/void
//	PUT  /handovers/{key}        hand the drinks over  POST /handovers/{key}/void
//	GET  /ledger[?order=]        all entries, one JSON object per line, oldest first
//	GET  /summary                counts and sums per kind of entry
//	GET  /faults, PUT /faults    trouble, switched at run time
//	GET  /livez, /readyz
//
// Payment tokens and addresses choose the outcome, as test cards do: see [Tokens] and the constants beside it.
package partners

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Defaults of [Config].
const (
	DefaultHTTPAddr    = ":8085"
	DefaultLedgerDir   = ".run/partners"
	DefaultSlowFor     = 2 * time.Second
	DefaultDownFor     = time.Minute
	DefaultStopWithin  = 10 * time.Second
	DefaultMaxInFlight = 10_000
)

// Config is what the partners need to run. The zero value works.
type Config struct {
	// HTTPAddr is the address to listen on. Default DefaultHTTPAddr; ":0" picks a free port, told to Listening.
	HTTPAddr string
	// Listening is called once with the address, when requests are accepted. Default: nobody is told.
	Listening func(net.Addr)
	// LedgerDir holds gateway.jsonl and courier.jsonl; it is made when missing. Only one process may use it at a time.
	// Default DefaultLedgerDir, below the working directory.
	LedgerDir string
	// Log hears about starts, stops, repairs and failures, not about requests. Default: silence.
	Log *zap.Logger
	// SlowFor is how long tok_slow and the address "slow lane" take. Default DefaultSlowFor.
	SlowFor time.Duration
	// DownFor is how long tok_down holds a client that does not go away. Default DefaultDownFor.
	DownFor time.Duration
	// StopWithin is how long a stop waits for requests that are being answered. Default DefaultStopWithin.
	StopWithin time.Duration
	// MaxInFlight is how many requests may be under way, waiting ones included; more are told 503. Default DefaultMaxInFlight.
	MaxInFlight int
	// Faults is the trouble to start with. Default: none.
	Faults Faults
	// Seed makes the dice of Faults repeatable. Default 0: a random seed, told to Log.
	Seed uint64
	// After tells when a wait is over; a test puts its own clock here. Default time.After.
	After func(time.Duration) <-chan time.Time
}

func (c Config) withDefaults() Config {
	if c.HTTPAddr == "" {
		c.HTTPAddr = DefaultHTTPAddr
	}
	if c.LedgerDir == "" {
		c.LedgerDir = filepath.FromSlash(DefaultLedgerDir)
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.SlowFor == 0 {
		c.SlowFor = DefaultSlowFor
	}
	if c.DownFor == 0 {
		c.DownFor = DefaultDownFor
	}
	if c.StopWithin == 0 {
		c.StopWithin = DefaultStopWithin
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if c.After == nil {
		c.After = time.After
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	for _, d := range []struct {
		name string
		is   time.Duration
	}{{"SlowFor", c.SlowFor}, {"DownFor", c.DownFor}, {"StopWithin", c.StopWithin}} {
		if d.is < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, must not be negative", d.name, d.is))
		}
	}
	if c.MaxInFlight < 0 {
		errs = append(errs, fmt.Errorf("MaxInFlight is %d, must not be negative", c.MaxInFlight))
	}
	if err := c.Faults.validate(); err != nil {
		errs = append(errs, fmt.Errorf("Faults: %w", err))
	}
	return errors.Join(errs...)
}

// Server is both partners, with their ledgers open.
type Server struct {
	cfg      Config
	gateway  *ledger
	courier  *ledger
	faults   atomic.Pointer[Faults]
	dice     *dice
	inFlight atomic.Int64
	handler  http.Handler

	// flaky counts the failures that tok_flaky has shown per key. Memory only: a restart may show them again.
	flakyMu sync.Mutex
	flaky   map[string]int

	stopping chan struct{} // closed first: whoever waits is sent away
	stopOnce sync.Once
}

// New opens the ledgers. Close the server after use.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("partners: configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.LedgerDir, 0o755); err != nil {
		return nil, fmt.Errorf("partners: ledger directory: %w", err)
	}
	gateway, err := openLedger(cfg.LedgerDir, gatewayName, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("partners: %w", err)
	}
	courier, err := openLedger(cfg.LedgerDir, courierName, cfg.Log)
	if err != nil {
		gateway.close()
		return nil, fmt.Errorf("partners: %w", err)
	}
	s := &Server{
		cfg:      cfg,
		gateway:  gateway,
		courier:  courier,
		dice:     newDice(cfg.Seed),
		flaky:    map[string]int{},
		stopping: make(chan struct{}),
	}
	s.faults.Store(&cfg.Faults)
	s.handler = s.routes()
	cfg.Log.Info("partners: ledgers open", zap.String("dir", cfg.LedgerDir), zap.Uint64("seed", cfg.Seed),
		zap.Int64("gateway_entries", gateway.entries()), zap.Int64("courier_entries", courier.entries()))
	return s, nil
}

// Handler is the HTTP face of both partners.
func (s *Server) Handler() http.Handler { return s.handler }

// stop sends away every request that waits and makes /readyz say no.
func (s *Server) stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// Close sends waiting requests away, writes what is pending and closes the ledgers. Stop sending requests before.
func (s *Server) Close() error {
	s.stop()
	return errors.Join(s.gateway.close(), s.courier.close())
}

// Run serves until ctx is done, or until a ledger can't be written any more: then nothing may be promised, and a restart
// finds out what is on disk. It returns nil after an orderly stop.
func Run(ctx context.Context, cfg Config) (err error) {
	s, err := New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	log := s.cfg.Log

	listener, err := net.Listen("tcp", s.cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("partners: %w", err)
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		// The longest a request may wait is a minute of latency and DownFor; beyond that a client is stuck.
		ReadTimeout:    2*time.Minute + s.cfg.SlowFor + s.cfg.DownFor,
		WriteTimeout:   4*time.Minute + s.cfg.SlowFor + s.cfg.DownFor,
		IdleTimeout:    5 * time.Minute, // longer than our clients keep a connection: they close first, so no request meets a closing one
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       zap.NewStdLog(log),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("partners: listening", zap.Stringer("addr", listener.Addr()))
	if s.cfg.Listening != nil {
		s.cfg.Listening(listener.Addr())
	}

	select {
	case <-ctx.Done():
	case err = <-served:
		return fmt.Errorf("partners: serve: %w", err)
	case <-s.gateway.broken:
		err = fmt.Errorf("partners: %w", s.gateway.err())
	case <-s.courier.broken:
		err = fmt.Errorf("partners: %w", s.courier.err())
	}
	s.stop()
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StopWithin)
	defer cancel()
	if stopErr := server.Shutdown(within); stopErr != nil {
		log.Warn("partners: requests were still under way, cutting them off", zap.Error(stopErr))
		server.Close()
	}
	log.Info("partners: stopped")
	return err
}
