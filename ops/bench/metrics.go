package bench

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"hotchoc/ops/stack"
)

// counter adds up all series of a counter at the services with these URLs, by the value of one of its labels.
func counter(ctx context.Context, services []string, name, label string) (map[string]float64, error) {
	sums := map[string]float64{}
	for _, service := range services {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, service+"/metrics", nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		err = addCounter(sums, resp.Body, name, label)
		resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("%s/metrics: %w", service, err)
		}
	}
	return sums, nil
}

// addCounter reads the text format of Prometheus, as far as counters need it.
func addCounter(sums map[string]float64, text io.Reader, name, label string) error {
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		labels, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), name+"{"), "} ")
		if !ok || !strings.HasPrefix(lines.Text(), name+"{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(","+labels, ","+label+`="`)
		which, _, _ := strings.Cut(after, `"`)
		sums[which] += n
	}
	return lines.Err()
}

// Table is how large a table has become that is worked off, or grows with every message.
type Table struct {
	Service string `json:"service"`
	Table   string `json:"table"`
	// Rows are those that are there.
	Rows int `json:"rows"`
	// Bytes are the table's with its indexes, dead rows and free space included.
	Bytes int64 `json:"bytes"`
}

// queueLike are the tables that are written and cleared with the messages, or grow with them, but for the log.
var queueLike = []string{"outbox", "inbox", "barrier", "attempt", "stream_state"}

// tables measures the queue-like tables of all services.
func tables(ctx context.Context, s *stack.Stack) (all []Table, err error) {
	for _, service := range stack.Services() {
		err := withDatabase(s, service, func(db *sql.DB) error {
			for _, name := range queueLike {
				t := Table{Service: service, Table: name}
				if err := db.QueryRowContext(ctx, `SELECT pg_total_relation_size('`+name+`'), (SELECT count(*) FROM `+name+`)`).Scan(&t.Bytes, &t.Rows); err != nil {
					return err
				}
				all = append(all, t)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// withDatabase works on one database of a stack as its superuser.
func withDatabase(s *stack.Stack, name string, work func(*sql.DB) error) error {
	u, err := url.Parse(s.Database())
	if err != nil {
		return err
	}
	u.Path = "/" + name
	db, err := sql.Open("postgres", u.String())
	if err != nil {
		return err
	}
	defer db.Close()
	if err := work(db); err != nil {
		return fmt.Errorf("database %s: %w", name, err)
	}
	return nil
}
