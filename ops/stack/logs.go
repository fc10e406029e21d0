package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Logs writes the last lines of these processes, or of all, and goes on with what they write if asked to.
func (s *Stack) Logs(ctx context.Context, out io.Writer, names []string, lines int, follow bool) error {
	if s.known().Mode == compose {
		args := []string{"logs", "--tail", fmt.Sprint(lines)}
		if follow {
			args = append(args, "--follow")
		}
		s.cfg.Out = out
		return s.compose(ctx, append(args, names...)...)
	}
	all, err := s.logNames()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("no logs in %s: nothing was started yet", s.path("log"))
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("no log of %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	if len(names) == 0 {
		names = all
	}
	w := &lineWriter{out: out, wide: len(slices.MaxFunc(names, func(a, b string) int { return len(a) - len(b) }))}
	w.named = len(names) > 1
	var wg sync.WaitGroup
	for _, name := range names {
		tail, err := tailOf(s.logFile(name), 0, lines)
		if err != nil {
			return err
		}
		for _, line := range tail {
			w.write(name, line+"\n")
		}
		if follow {
			wg.Go(func() { s.follow(ctx, name, w) })
		}
	}
	wg.Wait()
	return nil
}

func (s *Stack) logNames() (names []string, err error) {
	files, err := filepath.Glob(s.path("log", "*.log"))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".log"))
	}
	return names, err
}

// follow writes what is added to a log, also after it was set aside for a new one.
func (s *Stack) follow(ctx context.Context, name string, w *lineWriter) {
	f, err := os.Open(s.logFile(name))
	if err != nil {
		return
	}
	defer func() { f.Close() }()
	f.Seek(0, io.SeekEnd)
	r := bufio.NewReader(f)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for part := ""; ; {
		line, err := r.ReadString('\n')
		part += line
		if err == nil {
			w.write(name, part)
			part = ""
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		was, err := f.Stat()
		is, err2 := os.Stat(s.logFile(name))
		if errors.Is(err2, fs.ErrNotExist) || err != nil || os.SameFile(was, is) {
			continue
		}
		if fresh, err := os.Open(s.logFile(name)); err == nil {
			f.Close()
			f, part = fresh, ""
			r.Reset(f)
		}
	}
}

// lineWriter keeps the lines of many logs whole, and says whose each is.
type lineWriter struct {
	mu    sync.Mutex
	out   io.Writer
	named bool
	wide  int
}

func (w *lineWriter) write(name, line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.named {
		fmt.Fprintf(w.out, "%-*s | ", w.wide, name)
	}
	io.WriteString(w.out, line)
}
