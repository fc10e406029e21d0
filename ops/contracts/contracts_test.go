package contracts_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/lib/pq"

	"hotchoc/ops/contracts"
	"hotchoc/pkg/contract"
)

// newDatabase makes a database as services have them, on the tests' server.
func newDatabase(t *testing.T) (server, name string, exec func(statement string, args ...any)) {
	t.Helper()
	server = os.Getenv("TEST_DATABASE_URL")
	if server == "" {
		t.Fatal("TEST_DATABASE_URL is not set: run ./task test, which starts the servers that tests need")
	}
	name = fmt.Sprintf("contracts_%d", time.Now().UnixNano())
	open := func(target string) *sql.DB {
		db, err := sql.Open("postgres", target)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	admin := open(server)
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	db := open(u.String())
	t.Cleanup(func() {
		db.Close()
		if _, err := admin.Exec("DROP DATABASE " + name); err != nil {
			t.Error(err)
		}
		admin.Close()
	})
	exec = func(statement string, args ...any) {
		t.Helper()
		if _, err := db.Exec(statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	platform, err := os.ReadFile("../../migrations/platform/00001_platform.sql")
	if err != nil {
		t.Fatal(err)
	}
	up, _, _ := strings.Cut(string(platform), "-- +goose Down")
	exec(up)
	return server, name, exec
}

func TestEverythingThatWasWrittenIsReadWithTodaysCode(t *testing.T) {
	server, name, exec := newDatabase(t)
	n := 0
	write := func(typ string, schema int, body string) {
		n++
		exec(`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
VALUES ($1, 'stock/main', $2, $3, $4, $5, $1, $1, 1, '', now())`, uuid.New(), n, typ, schema, body)
	}
	body, err := contract.Marshal(contract.Example("order.completed"))
	if err != nil {
		t.Fatal(err)
	}
	write("order.completed", 1, string(body))
	write("order.completed", 1, string(body))
	write("stock.replenished", 1, `{"location":"main","ingredient":"milk","amount":"5"}`)
	exec(`INSERT INTO outbox (message_id, due_at, timer) VALUES ($1, now(), $2)`, uuid.New(),
		`{"envelope": {"type": "order.deadline", "schema": 1}, "body": {"order_id": "019a2f3e-7c41-7d2b-9a58-3f1c6b0e4d27"}}`)

	r, err := contracts.Check(t.Context(), server, []string{name}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, k := range r.Kinds {
		kinds = append(kinds, fmt.Sprintf("%s %d of %d: %d, %d timers", k.Type, k.Schema, k.Current, k.Number, k.Timers))
	}
	if want := "order.completed 1 of 1: 2, 0 timers; order.deadline 1 of 1: 1, 1 timers; stock.replenished 1 of 2: 1, 0 timers"; strings.Join(kinds, "; ") != want || !r.OK() || r.Read != 4 {
		t.Errorf("got %q, want %q; %+v", strings.Join(kinds, "; "), want, r)
	}

	// What no code of today knows.
	write("order.sung", 1, `{}`)
	write("stock.replenished", 3, `{}`)
	write("order.completed", 1, `{"order_id": 7}`)
	if r, err = contracts.Check(t.Context(), server, []string{name}, t.Output()); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		`event_log position 4: order.sung version 1: "order.sung" is not a declared event type`,
		"event_log position 5: stock.replenished version 3: stock.replenished: schema version 3; this program knows 1 to 2",
		"event_log position 6: order.completed version 1: order.completed: the body is not what the contract says",
		"cannot read 3 of 7", "read as version 2", "written by a newer program", "not declared",
	} {
		if !strings.Contains(text.String(), says) {
			t.Errorf("the report does not say %q:\n%s", says, text.String())
		}
	}
	if r.OK() {
		t.Error("the check is content")
	}
}

func TestACheckThatCannotLookSaysSo(t *testing.T) {
	if _, err := contracts.Check(t.Context(), "postgres://127.0.0.1:1/?sslmode=disable&connect_timeout=1", []string{"pay"}, t.Output()); err == nil || !strings.Contains(err.Error(), "pay: ") {
		t.Errorf("got %v", err)
	}
	if _, err := contracts.Check(t.Context(), "nowhere", []string{"pay"}, t.Output()); err == nil {
		t.Error("nowhere is a server")
	}
}
