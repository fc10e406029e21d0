package servers

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Database is a database of one test.
type Database struct {
	Name string
	// URL is the way in, as the owner.
	URL string

	admin string
}

// NewDatabase makes a database with the platform's tables. It goes when the test ends.
func NewDatabase(t testing.TB) *Database {
	t.Helper()
	d := ReserveDatabase(t)
	d.Create(t)
	d.Migrate(t)
	return d
}

// ReserveDatabase only gives a database its name: nothing is there yet.
func ReserveDatabase(t testing.TB) *Database {
	t.Helper()
	d := &Database{Name: unique(), admin: setting(t, "TEST_DATABASE_URL")}
	u, err := url.Parse(d.admin)
	if err != nil {
		t.Fatalf("TEST_DATABASE_URL: %v", err)
	}
	u.Path = "/" + d.Name
	d.URL = u.String()
	return d
}

// Create makes the database, empty.
func (d *Database) Create(t testing.TB) {
	t.Helper()
	d.asAdmin(t, "CREATE DATABASE "+d.Name+" TEMPLATE template0")
	t.Cleanup(func() { d.asAdmin(t, "DROP DATABASE IF EXISTS "+d.Name+" WITH (FORCE)") })
}

// Drop deletes the database, whoever is connected to it.
func (d *Database) Drop(t testing.TB) {
	t.Helper()
	d.asAdmin(t, "DROP DATABASE "+d.Name+" WITH (FORCE)")
}

// Migrate makes the platform's tables, and the settings of the planner that a service's role has.
func (d *Database) Migrate(t testing.TB) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(here), "../../../migrations/platform/*.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations of the platform beside %s", here)
	}
	statements := fmt.Sprintf("ALTER DATABASE %[1]s SET plan_cache_mode = force_generic_plan; ALTER DATABASE %[1]s SET enable_seqscan = off; ALTER DATABASE %[1]s SET jit = off;\n", d.Name)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, up, _ := strings.Cut(string(text), "-- +goose Up")
		up, _, _ = strings.Cut(up, "-- +goose Down")
		statements += up
	}
	d.Exec(t, statements)
}

// Exec runs statements as the owner.
func (d *Database) Exec(t testing.TB, statements string) {
	t.Helper()
	if err := exec(d.URL, statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

func (d *Database) asAdmin(t testing.TB, statement string) {
	t.Helper()
	if err := exec(d.admin, statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
}

func exec(target, statements string) error {
	db, err := sqlx.Open("postgres", target)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	_, err = db.ExecContext(ctx, statements)
	return err
}

// Open opens a pool on target, which is the URL of a database, straight or by way of a Proxy.
func Open(t testing.TB, target string) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("postgres", target+"&binary_parameters=yes")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Int reads one number.
func (d *Database) Int(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	db := Open(t, d.URL)
	defer db.Close()
	if err := db.Get(&n, query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Terminate ends all connections to the database, as a restart of the server does, and waits until they are gone.
func (d *Database) Terminate(t testing.TB) {
	t.Helper()
	db := Open(t, d.admin)
	defer db.Close()
	var pids []int64
	if err := db.Select(&pids, `SELECT pid FROM pg_stat_activity WHERE datname = $1`, d.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid`, pq.Array(pids)); err != nil {
		t.Fatal(err)
	}
	Eventually(t, func() error {
		var left int
		if err := db.Get(&left, `SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1::int[])`, pq.Array(pids)); err != nil || left > 0 {
			return fmt.Errorf("%d connections are left, %v", left, err)
		}
		return nil
	})
}

// WaitForLock waits until n connections to the database wait for a lock that another one holds.
func (d *Database) WaitForLock(t testing.TB, n int) {
	t.Helper()
	db := Open(t, d.admin)
	defer db.Close()
	Eventually(t, func() error {
		var waiting int
		if err := db.Get(&waiting, `SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'`, d.Name); err != nil || waiting < n {
			return fmt.Errorf("%d of %d wait for a lock, %v", waiting, n, err)
		}
		return nil
	})
}

// Soon is a deadline for what is done at once or never.
func Soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Took fails the test when something took longer than it may.
func Took(t testing.TB, what string, since time.Time, most time.Duration) {
	t.Helper()
	if took := time.Since(since); took > most {
		t.Errorf("%s took %v, more than %v", what, took.Round(time.Millisecond), most)
	}
}
