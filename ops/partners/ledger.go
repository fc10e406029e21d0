package partners

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unique"

	"go.uber.org/zap"
)

// ledger is an append-only file of entries, one JSON object per line, and in memory what they say about each key.
//
// An entry is decided under the lock and joins the batch that collects. One goroutine writes the batches: while one is on
// its way to the disk the next collects, so that a single sync serves all requests that wait, and nobody waits for a timer.
// A request is answered when the batch of the entry it rests on is on the disk, also when another request wrote it.
//
// When a write or sync fails nobody knows what is on the disk, and a second sync would lie. So the ledger then refuses
// everything until it is opened anew.
type ledger struct {
	partner string
	file    *os.File
	size    atomic.Int64  // bytes that are on the disk
	broken  chan struct{} // closed when the file can't be written any more
	written chan struct{} // closed when the writer has ended

	mu      sync.Mutex
	wake    *sync.Cond // the writer has something to do
	records map[string]map[string]*record
	totals  map[string]*Total
	count   int64  // entries, those that are on their way included
	pending []byte // lines of the batch that collects
	next    *batch
	writing *batch // the batch before next; nil: there was none
	failed  error  // why nothing can be booked; nil: it can
}

// batch is what one sync makes durable.
type batch struct {
	done chan struct{}
	err  error // written before done is closed
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

func (b *batch) wait() error {
	<-b.done
	return b.err
}

var errClosed = errors.New("the ledger is closed")

// openLedger loads <dir>/<partner>.jsonl. A last line without its newline was never promised to anyone and is cut off; any
// other damage is an error, since the ledger is the truth.
func openLedger(dir, partner string, log *zap.Logger) (_ *ledger, err error) {
	path := filepath.Join(dir, partner+".jsonl")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("ledger %s is used by another process: %w", path, err)
	}
	l := &ledger{
		partner: partner,
		file:    file,
		broken:  make(chan struct{}),
		written: make(chan struct{}),
		records: map[string]map[string]*record{},
		totals:  map[string]*Total{},
		next:    newBatch(),
	}
	l.wake = sync.NewCond(&l.mu)
	actions := []string{actionCapture}
	if partner == courierName {
		actions = []string{actionDispatch, actionHandover}
	}
	for _, action := range actions {
		l.records[action] = map[string]*record{}
	}

	size, torn, err := l.load()
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	if torn > 0 {
		log.Warn("partners: the last line of a ledger was torn, cutting it off", zap.String("ledger", path),
			zap.Int64("at_byte", size), zap.Int64("bytes", torn))
		if err := file.Truncate(size); err != nil {
			return nil, fmt.Errorf("cut the torn line off ledger %s: %w", path, err)
		}
	}
	// What was loaded may not have been synced before a crash, and from now on it is promised. The same holds for the file's name.
	if err := errors.Join(file.Sync(), syncDir(dir)); err != nil {
		return nil, fmt.Errorf("sync ledger %s: %w", path, err)
	}
	l.size.Store(size)
	go l.write()
	return l, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxLine is longer than any line that we write: the fields are bounded.
const maxLine = 64 << 10

// load folds the file; it tells how many bytes are whole lines and how many follow.
func (l *ledger) load() (size, torn int64, err error) {
	onDisk := newBatch()
	close(onDisk.done)
	lines := bufio.NewReaderSize(l.file, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			return size, int64(len(line)), nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("line %d: %w", l.count+1, err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, 0, fmt.Errorf("line %d is damaged: %w", l.count+1, err)
		}
		if e.Partner != l.partner {
			return 0, 0, fmt.Errorf("line %d belongs to %q", l.count+1, e.Partner)
		}
		if err := l.apply(&e, onDisk); err != nil {
			return 0, 0, fmt.Errorf("line %d: %w", l.count+1, err)
		}
		size += int64(len(line))
	}
}

// apply changes the memory as e says. The one way, for new entries and for those that are loaded.
func (l *ledger) apply(e *Entry, b *batch) error {
	records, ok := l.records[e.Action]
	if !ok {
		return fmt.Errorf("unknown action %q", e.Action)
	}
	if e.Key == "" {
		return errors.New("no key")
	}
	rec := records[e.Key]
	was := ""
	if rec != nil {
		was = rec.kind
	}
	allowed := false
	switch e.Kind {
	case KindCaptured:
		allowed = was == "" && e.Action == actionCapture
	case KindDispatched:
		allowed = was == "" && e.Action == actionDispatch
	case KindDelivered:
		allowed = was == "" && e.Action == actionHandover
	case KindRefused:
		allowed = was == ""
	case KindRefunded:
		allowed = was == KindCaptured
	case KindVoided:
		allowed = was == "" || was == KindRefused || was == KindDispatched
	default:
		return fmt.Errorf("unknown kind %q", e.Kind)
	}
	if !allowed {
		return fmt.Errorf("%s %s can't be %s, it is %q", e.Action, e.Key, e.Kind, was)
	}
	var id uint64
	if prefix := idPrefix(e.Kind); prefix != "" {
		var err error
		if id, err = number(e.ID, prefix); err != nil {
			return err
		}
	}

	switch {
	case rec != nil && e.Kind == KindRefunded:
		rec.kind, rec.refund, rec.batch = KindVoided, id, b
	case rec != nil:
		rec.kind, rec.batch = KindVoided, b
	default:
		records[e.Key] = &record{
			kind:     unique.Make(e.Kind).Value(),
			order:    e.Order,
			subject:  unique.Make(e.Token + e.Address).Value(), // one of them is empty
			currency: unique.Make(e.Currency).Value(),
			courier:  unique.Make(e.Courier).Value(),
			reason:   unique.Make(e.Reason).Value(),
			detail:   unique.Make(e.Detail).Value(),
			amount:   e.Amount,
			id:       id,
			batch:    b,
		}
	}
	l.count++
	total := l.totals[e.Kind]
	if total == nil {
		total = &Total{Sums: map[string]int64{}}
		l.totals[unique.Make(e.Kind).Value()] = total
	}
	total.Count++
	if e.Currency != "" {
		total.Sums[unique.Make(e.Currency).Value()] += e.Amount
	}
	return nil
}

// idPrefix is what the IDs of entries of a kind begin with; "": they have none. The entry's place in the ledger follows.
func idPrefix(kind string) string {
	switch kind {
	case KindCaptured:
		return "cap_"
	case KindRefunded:
		return "ref_"
	case KindDispatched:
		return "dsp_"
	case KindDelivered:
		return "dlv_"
	}
	return ""
}

// book adds e to the batch that collects. The caller holds the lock and has decided that e is allowed.
func (l *ledger) book(e *Entry) error {
	if l.failed != nil {
		return l.failed
	}
	e.Partner = l.partner
	if prefix := idPrefix(e.Kind); prefix != "" {
		e.ID = prefix + strconv.FormatInt(l.count+1, 10)
	}
	if err := l.apply(e, l.next); err != nil {
		return fmt.Errorf("book: %w", err)
	}
	l.pending = appendEntry(l.pending, e, time.Now())
	l.wake.Signal()
	return nil
}

// known is what the ledger says about a key.
func (l *ledger) known(action, key string) (rec record, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec := l.records[action][key]; rec != nil {
		return *rec, true
	}
	return record{}, false
}

// do books e unless its key is known. It returns what then holds for the key, and whether e was booked.
// The record may be told to others when its batch is done.
func (l *ledger) do(e *Entry) (rec record, booked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec := l.records[e.Action][e.Key]; rec != nil {
		return *rec, false, nil
	}
	if err := l.book(e); err != nil {
		return record{}, false, err
	}
	return *l.records[e.Action][e.Key], true, nil
}

// void bars a key and gives captured money back. What was handed over stays so. It returns what then holds for the key.
func (l *ledger) void(action, key string) (record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := Entry{Action: action, Kind: KindVoided, Key: key}
	if rec := l.records[action][key]; rec != nil {
		e.Order = rec.order
		switch rec.kind {
		case KindVoided, KindDelivered:
			return *rec, nil
		case KindCaptured:
			e.Kind, e.Amount, e.Currency = KindRefunded, rec.amount, rec.currency
		}
	}
	if err := l.book(&e); err != nil {
		return record{}, err
	}
	return *l.records[action][key], nil
}

// write is the goroutine that brings the batches to the disk.
func (l *ledger) write() {
	defer close(l.written)
	var spare []byte
	l.mu.Lock()
	for {
		for len(l.pending) == 0 {
			if l.failed != nil { // closed
				l.mu.Unlock()
				return
			}
			l.wake.Wait()
		}
		lines, b := l.pending, l.next
		l.pending, l.next, l.writing = spare[:0], newBatch(), b
		l.mu.Unlock()

		_, err := l.file.Write(lines)
		if err == nil {
			err = syncData(l.file)
		}
		if err != nil {
			l.fail(b, fmt.Errorf("the %s's ledger can't be written: %w", l.partner, err))
			return
		}
		l.size.Add(int64(len(lines)))
		close(b.done)
		spare = lines
		if cap(spare) > 1<<20 {
			spare = nil
		}
		l.mu.Lock()
	}
}

// fail ends the booking for good: nobody joins a batch any more, and then those who wait are told.
func (l *ledger) fail(b *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.pending = err, nil
	close(l.broken)
	for _, lost := range []*batch{b, l.next} {
		lost.err = err
		close(lost.done)
	}
}

func (l *ledger) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *ledger) entries() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// summary is the totals, all of them on the disk.
func (l *ledger) summary() (map[string]Total, error) {
	l.mu.Lock()
	totals := make(map[string]Total, len(l.totals))
	for kind, total := range l.totals {
		sums := make(map[string]int64, len(total.Sums))
		for currency, sum := range total.Sums {
			sums[currency] = sum
		}
		totals[kind] = Total{Count: total.Count, Sums: sums}
	}
	latest := l.writing
	if len(l.pending) > 0 {
		latest = l.next
	}
	err := l.failed
	l.mu.Unlock()
	if err == nil && latest != nil {
		err = latest.wait()
	}
	return totals, err
}

// close writes what is pending and closes the file.
func (l *ledger) close() error {
	l.mu.Lock()
	if l.failed == nil {
		l.failed = errClosed
	}
	l.wake.Signal()
	l.mu.Unlock()
	<-l.written
	err := l.file.Close() // unlocks it, too
	if errors.Is(err, os.ErrClosed) {
		return nil // closed twice
	}
	return err
}
