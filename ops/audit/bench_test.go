package audit_test

import (
	"bytes"
	"crypto/md5"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"hotchoc/ops/audit"
	"hotchoc/ops/stack"
)

var size = flag.Int("events", 1_000_000, "how many events BenchmarkAudit has in the logs, about")

// BenchmarkAudit audits a large shop at rest: the orders of trade, copied again and again.
func BenchmarkAudit(b *testing.B) {
	cfg, events := large(b, *size)
	var most uint64
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			case <-done:
				return
			}
		}
	}()
	for b.Loop() {
		r, err := audit.Run(b.Context(), cfg)
		if err != nil || !r.OK() || !r.AtRest {
			var out bytes.Buffer
			r.Print(&out)
			b.Fatal(err, out.String()[:min(out.Len(), 5000)])
		}
	}
	close(done)
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(most)/(1<<20), "heap-MB")
}

// large makes a shop of many events, in schemas beside the real one.
func large(t testing.TB, want int) (cfg audit.Config, events int) {
	cfg = config()
	cfg.Databases = map[string]string{}
	// Those that let something run out, or flagged somebody, cannot be copied by themselves.
	var sagas []string
	for name, order := range orders {
		if !slices.Contains([]string{"rare", "out of stock", "flagged"}, name) && !strings.HasPrefix(name, "mallory") {
			sagas = append(sagas, order)
		}
	}
	for _, service := range stack.Services() {
		var n int
		if err := databases[service].QueryRow(`SELECT count(*) FROM event_log WHERE saga = ANY($1)`, pq.Array(sagas)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		events += n
	}
	copies := want / events
	for _, service := range stack.Services() {
		begin := time.Now()
		grow(t, service, sagas, copies)
		t.Logf("%s copied %d times in %v", service, copies, time.Since(begin).Round(time.Second))
		cfg.Databases[service] = databaseURL(service) + "&search_path=large"
	}
	cfg.Partners = growLedger(t, cfg.Partners, sagas, copies)
	return cfg, events * copies
}

// grow copies the orders within one service. An ID's copy is the MD5 of the copy's number and the ID.
func grow(t testing.TB, service string, sagas []string, copies int) {
	db, err := sql.Open("postgres", databaseURL(service)+"&search_path=large")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		db.Exec(`DROP SCHEMA large CASCADE`)
		db.Close()
	})
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := db.Exec(statement, args...); err != nil {
			t.Fatalf("%s: %s: %v", service, statement, err)
		}
	}
	copyTables(t, db, "large", "INCLUDING ALL")
	exec(`CREATE FUNCTION large.again(k int, id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5(k || id::text)::uuid $$`)
	// Copied customers are customers of their own.
	exec(`CREATE FUNCTION large.again(k int, saga uuid, data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN d ? 'customer' THEN jsonb_set(d, '{customer}', to_jsonb((d ->> 'customer') || '-' || k)) ELSE d END
  FROM (SELECT replace(data::text, saga::text, large.again(k, saga)::text)::jsonb AS d) AS d $$`)
	which := pq.Array(sagas)
	exec(`UPDATE event_log SET data = jsonb_set(data, '{amount}', to_jsonb((data ->> 'amount') || '000')) WHERE type = 'stock.replenished' AND (data ->> 'amount') IS NOT NULL`)
	exec(`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
SELECT again(k, event_id), replace(stream, saga::text, again(k, saga)::text),
       CASE WHEN stream = 'stock/main' THEN (SELECT max(version) FROM event_log WHERE stream = 'stock/main') + row_number() OVER (PARTITION BY stream ORDER BY k, version) ELSE version END,
       type, schema, again(k, saga, data), again(k, saga), again(k, causation), hops, actor, recorded_at
  FROM event_log, generate_series(1, $2) AS k WHERE saga = ANY($1) ORDER BY k, position`, which, copies)
	exec(`INSERT INTO inbox (step, message_id, saga, digest) SELECT step, again(k, message_id), again(k, saga), digest FROM inbox, generate_series(1, $2) AS k WHERE saga = ANY($1)`, which, copies)
	exec(`INSERT INTO barrier (saga, step, state, fact, undone_by) SELECT again(k, saga), step, state, again(k, fact), again(k, undone_by) FROM barrier, generate_series(1, $2) AS k WHERE saga = ANY($1)`, which, copies)
	exec(`INSERT INTO stream_state SELECT split_part(key, '/', 1) || '/' || again(k, split_part(key, '/', 2)::uuid), version, again(k, split_part(key, '/', 2)::uuid, doc)
  FROM stream_state, generate_series(1, $2) AS k WHERE split_part(key, '/', 2) = ANY($1)`, which, copies)
	switch service {
	case "pay":
		exec(`INSERT INTO refusals SELECT key || '-' || k, version, doc FROM refusals, generate_series(1, $1) AS k WHERE key <> 'mallory'`, copies)
	case "make":
		(&bench{t: t, databases: map[string]*sql.DB{"make": db}}).rebuild("make", "stock/main")
	case "order":
		exec(`INSERT INTO order_status (key, version, doc) SELECT again(k, key::uuid), version, again(k, key::uuid, doc) FROM order_status, generate_series(1, $2) AS k WHERE key = ANY($1)`, which, copies)
		var stock int
		if err := databases["make"].QueryRow(`SELECT max(version) FROM event_log WHERE stream = 'stock/main'`).Scan(&stock); err != nil {
			t.Fatal(err)
		}
		exec(`INSERT INTO order_history (key, version, doc)
SELECT again(k, key::uuid), version, again(k, order_id::uuid, doc)
       || jsonb_build_object('id', again(k, key::uuid), 'causation', again(k, (doc ->> 'causation')::uuid), 'data', again(k, order_id::uuid, doc -> 'data'))
       || CASE WHEN doc ->> 'stream' = 'stock/main' THEN jsonb_build_object('version',
            $3 + row_number() OVER (PARTITION BY doc ->> 'stream' ORDER BY k, (doc ->> 'version')::bigint)) ELSE '{}' END
  FROM order_history, generate_series(1, $2) AS k WHERE order_id = ANY($1)`, which, copies, stock)
	}
	exec(`ANALYZE`)
}

// growLedger is a gateway that charged for the copies, too.
func growLedger(t testing.TB, real string, sagas []string, copies int) string {
	resp, err := http.Get(real + "/ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var lines []string
	for ledger := json.NewDecoder(resp.Body); ; {
		var line json.RawMessage
		if ledger.Decode(&line) != nil {
			break
		}
		lines = append(lines, string(line))
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for k := range copies + 1 {
			for _, line := range lines {
				if k == 0 {
					fmt.Fprintln(w, line)
					continue
				}
				for _, saga := range sagas {
					if strings.Contains(line, saga) {
						sum := md5.Sum(fmt.Append(nil, k, saga))
						fmt.Fprintln(w, strings.ReplaceAll(line, saga, uuid.UUID(sum).String()))
					}
				}
			}
		}
	}))
	t.Cleanup(web.Close)
	return web.URL
}
