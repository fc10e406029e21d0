package stack

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Servers are a RabbitMQ and a Postgres of one's own, for tests.
type Servers struct {
	AMQPURL       string // each as administrator
	ManagementURL string
	DatabaseURL   string

	stack *Stack
}

// StartServers starts only the two servers, or uses those that the Config names.
func StartServers(ctx context.Context, cfg Config) (*Servers, error) {
	s, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lockForStart()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.orUndo(s.startServers(ctx)); err != nil {
		return nil, err
	}
	return &Servers{AMQPURL: s.AMQP(), ManagementURL: s.Management(), DatabaseURL: s.Database(), stack: s}, nil
}

// Stop stops both, and deletes the data of throw-away servers.
func (s *Servers) Stop() error {
	err := s.stack.Down(context.Background(), false)
	if s.stack.cfg.Throwaway {
		err = errors.Join(err, os.RemoveAll(s.stack.cfg.Dir))
	}
	return err
}

// lockForStart also makes room for throw-away stacks: it stops and deletes those beside whose owner
// was killed before it could.
func (s *Stack) lockForStart() (unlock func(), err error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	if s.cfg.Throwaway {
		beside, _ := filepath.Glob(filepath.Join(filepath.Dir(s.cfg.Dir), "*", "state.json"))
		for _, path := range beside {
			sweep(filepath.Dir(path))
		}
	}
	return s.lock()
}

func sweep(dir string) {
	s := &Stack{cfg: Config{Dir: dir, Throwaway: true, Out: io.Discard}}
	// What another user says in a folder of his is not to be trusted with our rights.
	if s.owned() != nil || s.load() != nil || s.state.Owner.PID == 0 || s.state.Owner.alive() {
		return
	}
	if s.Down(context.Background(), false) == nil {
		os.RemoveAll(dir)
	}
}
