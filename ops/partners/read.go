package partners

import (
	"bufio"
	"bytes"
	"io"
	"net/http"

	"go.uber.org/zap"
)

// Total is how many entries there are of one kind, and the sums of their amounts by currency, in minor units.
type Total struct {
	Count int64            `json:"count"`
	Sums  map[string]int64 `json:"sums,omitempty"`
}

// Summary is the body of GET /summary: totals by kind of entry.
type Summary struct {
	Gateway map[string]Total `json:"gateway"`
	Courier map[string]Total `json:"courier"`
}

func (s *Server) getSummary(w http.ResponseWriter, _ *http.Request) {
	var summary Summary
	var err error
	if summary.Gateway, err = s.gateway.summary(); err == nil {
		summary.Courier, err = s.courier.summary()
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	respondJSON(w, summary)
}

// getLedger streams both ledgers as they are on the disk, merged by time, or the entries of one order.
func (s *Server) getLedger(w http.ResponseWriter, r *http.Request) {
	var only []byte
	query := r.URL.Query()
	for name, values := range query {
		if name != "order" || len(values) != 1 || values[0] == "" {
			problem(w, http.StatusBadRequest, "the only parameter is order, given once and not empty")
			return
		}
		// A quotation mark within a string is escaped, so these bytes can only be the member itself.
		only = appendString([]byte(`"order":`), values[0])
	}

	w.Header()["Content-Type"] = linesType
	out := bufio.NewWriterSize(w, 32<<10)
	gateway, courier := s.gateway.lines(only), s.courier.lines(only)
	for len(gateway.line) > 0 || len(courier.line) > 0 {
		next := gateway
		if len(gateway.line) == 0 || len(courier.line) > 0 && courier.at() < gateway.at() {
			next = courier
		}
		if _, err := out.Write(next.line); err != nil {
			return // the client is gone
		}
		next.advance()
	}
	for _, l := range []*lines{gateway, courier} {
		if l.err != nil {
			s.cfg.Log.Error("partners: the ledger can't be read", zap.Error(l.err))
			panic(http.ErrAbortHandler) // a list that ends early must not look whole
		}
	}
	out.Flush()
}

// lines walks the lines that were on the disk when the walk began.
type lines struct {
	in   *bufio.Reader
	only []byte // part of the lines that are wanted; none: all
	line []byte // the current line; none: the walk is over
	err  error  // why it is over too early
}

func (l *ledger) lines(only []byte) *lines {
	walk := &lines{in: bufio.NewReaderSize(io.NewSectionReader(l.file, 0, l.size.Load()), maxLine), only: only}
	walk.advance()
	return walk
}

func (l *lines) advance() {
	for {
		line, err := l.in.ReadSlice('\n')
		if err != nil {
			if err != io.EOF {
				l.err = err
			}
			l.line = nil
			return
		}
		if bytes.Contains(line, l.only) {
			l.line = line
			return
		}
	}
}

// at is when the current line was booked: it begins with {"at":"<time>".
func (l *lines) at() string {
	const before = len(`{"at":"`)
	if len(l.line) < before+len(entryTime) {
		return ""
	}
	return string(l.line[before : before+len(entryTime)])
}
