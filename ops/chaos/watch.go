package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"hotchoc/ops/stack"
)

// watch keeps what the services say about themselves over all their deaths: counters that begin anew with each process,
// and logs.
type watch struct {
	stack  *stack.Stack
	dir    string
	client *http.Client

	mu       sync.Mutex
	last     map[string]counters // by service, of the process that was seen last
	total    map[string]float64  // by series, over all services and processes
	lines    map[string]int      // log lines by message
	errors   map[string]int      // log lines of level error, without what tells them apart
	redeemed float64             // redeliveries of the broker, over all its lives
	redeemer float64             // as the present one counts
}

// counters are the counters of one process.
type counters struct {
	born   float64 // when the process began, seconds
	series map[string]float64
}

const scrapeEvery = 400 * time.Millisecond

// alarms are what Go itself writes when a program is wrong. Other lines that are not of the log are the last words of a
// service that could not start or stop in the middle of the storm.
var alarms = []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"}

func newWatch(s *stack.Stack, dir string) *watch {
	return &watch{
		stack: s, dir: dir, client: &http.Client{Timeout: 500 * time.Millisecond},
		last: map[string]counters{}, total: map[string]float64{}, lines: map[string]int{}, errors: map[string]int{},
	}
}

// begin notes what was there before.
func (w *watch) begin(ctx context.Context) {
	for _, name := range stack.Services() {
		if c, err := w.counters(ctx, name); err == nil {
			w.last[name] = c
		}
	}
	w.redeemer, _ = w.redelivered(ctx)
}

// run looks again and again, until ctx is done.
func (w *watch) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, name := range stack.Services() {
		log, err := follow(filepath.Join(w.dir, "log", name+".log"))
		if err != nil {
			continue
		}
		all.Go(func() {
			defer log.close()
			tick := time.NewTicker(scrapeEvery)
			defer tick.Stop()
			for ctx.Err() == nil {
				w.scrape(ctx, name)
				log.each(w.line)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
			log.each(w.line)
		})
	}
	all.Go(func() {
		tick := time.NewTicker(scrapeEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			w.count(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	all.Wait()
}

// scrape adds what a service has counted since the last look.
func (w *watch) scrape(ctx context.Context, service string) {
	now, err := w.counters(ctx, service)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.last[service]
	if was.born > now.born {
		return // an answer that is older than what is known
	}
	for name, v := range now.series {
		if was.born == now.born {
			v -= was.series[name]
		}
		if v > 0 {
			w.total[name] += v
		}
	}
	w.last[service] = now
}

// counters reads the platform's counters of a service.
func (w *watch) counters(ctx context.Context, service string) (counters, error) {
	c := counters{series: map[string]float64{}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.stack.URL(service)+"/metrics", nil)
	if err != nil {
		return c, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := cutLast(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil:
		case name == "process_start_time_seconds":
			c.born = v
		case strings.HasPrefix(name, "hotchoc_") && strings.Contains(name, "_total"):
			c.series[name] = v
		}
	}
	if c.born == 0 {
		return c, fmt.Errorf("%s does not say when it began", service)
	}
	return c, nil
}

// sum adds the series of a metric whose labels contain a text.
func sum(series map[string]float64, metric, label string) (total float64) {
	for name, v := range series {
		if strings.HasPrefix(name, metric) && strings.Contains(name, label) {
			total += v
		}
	}
	return total
}

func (w *watch) counted(metric, label string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(sum(w.total, metric, label))
}

// The two metrics that tell that work is done: of deliveries acked, and of messages handled in a commit.
func acks(c counters) float64    { return sum(c.series, "hotchoc_deliveries_total", `fate="ack"`) }
func commits(c counters) float64 { return sum(c.series, "hotchoc_messages_total", `outcome="handled"`) }

// firstWork waits until one of the services has done more work than at the call, and returns when that was seen; false when
// none did in time. A process that began at or after since starts from nothing.
func (w *watch) firstWork(ctx context.Context, most time.Duration, since time.Time, work func(counters) float64, services ...string) (time.Time, bool) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	found := make(chan time.Time, len(services))
	for _, name := range services {
		go func() {
			var base *counters
			tick := time.NewTicker(15 * time.Millisecond)
			defer tick.Stop()
			for {
				now, err := w.counters(ctx, name)
				switch {
				case err != nil:
				case now.born >= float64(since.UnixMilli())/1000-0.05 && work(now) > 0,
					base != nil && base.born == now.born && work(now) > work(*base):
					found <- time.Now()
					return
				case base == nil || base.born != now.born:
					base = &now
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	select {
	case at := <-found:
		return at, true
	case <-ctx.Done():
		return time.Time{}, false
	}
}

// count reads how often the broker has delivered something once more.
func (w *watch) count(ctx context.Context) {
	n, err := w.redelivered(ctx)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < w.redeemer {
		w.redeemer = 0 // a new life
	}
	w.redeemed += n - w.redeemer
	w.redeemer = n
}

func (w *watch) redelivered(ctx context.Context) (float64, error) {
	var overview struct {
		Stats struct{ Redeliver float64 } `json:"message_stats"`
	}
	err := getJSON(ctx, w.client, w.stack.Management()+"/api/overview", &overview)
	return overview.Stats.Redeliver, err
}

// line notes a log line.
func (w *watch) line(raw []byte) {
	var l struct{ Level, Msg, Service, Method, Path, Error string }
	if json.Unmarshal(raw, &l) != nil {
		for _, alarm := range alarms {
			if bytes.Contains(raw, []byte(alarm)) {
				l.Level, l.Msg = "error", string(raw)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines[l.Msg]++
	if l.Level == "error" && l.Msg != "dead letter" {
		w.errors[strings.Join(strings.Fields(l.Service+" "+l.Msg+" "+l.Method+" "+l.Path+" "+l.Error), " ")]++
	}
}

func (w *watch) logged(message string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines[message]
}

// follower reads what is added to a log, also when it is set aside and begun anew.
type follower struct {
	path string
	file *os.File
	rest []byte
}

func follow(path string) (*follower, error) {
	f := &follower{path: path}
	var err error
	if f.file, err = os.Open(path); err != nil {
		return nil, err
	}
	_, err = f.file.Seek(0, io.SeekEnd)
	return f, err
}

func (f *follower) close() { f.file.Close() }

// each hands over the whole lines that came since the last time.
func (f *follower) each(line func([]byte)) {
	for {
		more, err := io.ReadAll(f.file)
		f.rest = append(f.rest, more...)
		for {
			l, rest, whole := bytes.Cut(f.rest, []byte("\n"))
			if !whole {
				break
			}
			line(l)
			f.rest = rest
		}
		if err != nil {
			return
		}
		is, err := os.Stat(f.path)
		if err != nil {
			return
		}
		if was, err := f.file.Stat(); err != nil || os.SameFile(was, is) {
			return
		}
		next, err := os.Open(f.path)
		if err != nil {
			return
		}
		f.file.Close()
		f.file, f.rest = next, nil
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
