package migrations

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

var services = []string{"menu", "order", "pay", "make", "delivery"}

// server is the administrator's way in.
func server(t *testing.T) string {
	t.Helper()
	target := os.Getenv("TEST_DATABASE_URL")
	if target == "" {
		t.Fatal("TEST_DATABASE_URL is not set: run ./task test, which starts the servers that tests need")
	}
	return target
}

// as is the way into a database.
func as(t *testing.T, name string, user *url.Userinfo) string {
	t.Helper()
	u, err := url.Parse(server(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	if user != nil {
		u.User = user
	}
	return u.String()
}

func connect(t *testing.T, target string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func strs(t *testing.T, db *sql.DB, query string) (all []string) {
	t.Helper()
	if err := db.QueryRow("SELECT coalesce(array_agg(x ORDER BY x), '{}') FROM (" + query + ") q(x)").Scan((*pq.StringArray)(&all)); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return all
}

// code is the code by which the database refuses; "" when it does not.
func code(err error) string {
	var p *pq.Error
	if errors.As(err, &p) {
		return string(p.Code)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

const (
	notPermitted = "42501"
	tables       = `SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'`
)

// TestEachServiceHasADatabaseInWhichItMayDoItsPart sets up all five, as a start of the shop does, and again.
func TestEachServiceHasADatabaseInWhichItMayDoItsPart(t *testing.T) {
	admin := connect(t, server(t))
	if there := strs(t, admin, `SELECT datname::text FROM pg_database WHERE datname IN ('menu', 'order', 'pay', 'make', 'delivery')`); len(there) > 0 {
		t.Fatalf("the server has the databases %v already: this test makes and deletes them, and needs a server of its own", there)
	}
	ctx := context.Background()
	for _, service := range services {
		t.Cleanup(func() {
			name := pq.QuoteIdentifier(service)
			exec(t, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "DROP ROLE IF EXISTS "+name)
		})
		if err := Apply(ctx, server(t), service, "first 'secret' \\ of "+service); err != nil {
			t.Fatal(err)
		}
	}
	before := map[string][]string{}
	for _, service := range services {
		db := connect(t, as(t, service, nil))
		exec(t, db, `INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
			VALUES (gen_random_uuid(), 'x/1', 1, 'x', 1, '{}', gen_random_uuid(), gen_random_uuid(), 1, '', now())`)
		before[service] = strs(t, db, tables)
	}

	t.Run("again, with another password", func(t *testing.T) {
		for _, service := range services {
			for range 2 {
				if err := Apply(ctx, server(t), service, password(service)); err != nil {
					t.Fatal(err)
				}
			}
			db := connect(t, as(t, service, nil))
			if after := strs(t, db, tables); !slices.Equal(after, before[service]) {
				t.Errorf("%s had %v and has %v", service, before[service], after)
			}
			if n := strs(t, db, `SELECT stream FROM event_log`); len(n) != 1 {
				t.Errorf("%s has the events %v", service, n)
			}
			old := connect(t, as(t, service, url.UserPassword(service, "first 'secret' \\ of "+service)))
			if err := old.Ping(); err == nil {
				t.Errorf("%s: the old password is good", service)
			}
		}
	})

	for i, service := range services {
		t.Run(service, func(t *testing.T) {
			db := connect(t, as(t, service, url.UserPassword(service, password(service))))
			for _, may := range []string{
				`SELECT * FROM event_log`,
				`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
				 VALUES (gen_random_uuid(), 'x/1', 2, 'x', 1, '{}', gen_random_uuid(), gen_random_uuid(), 1, '', now())`,
				`INSERT INTO stream_state VALUES ('x/1', 1, '{}')`, `UPDATE stream_state SET version = 2`, `SELECT * FROM stream_state FOR UPDATE`,
				`INSERT INTO inbox (step, message_id, saga) VALUES ('s', gen_random_uuid(), gen_random_uuid())`, `SELECT * FROM inbox`,
				`INSERT INTO barrier (saga, step, state) VALUES (gen_random_uuid(), 's', 'done')`, `UPDATE barrier SET state = 'undone'`, `SELECT * FROM barrier FOR UPDATE`,
				`INSERT INTO outbox (message_id, due_at) VALUES (gen_random_uuid(), now())`, `UPDATE outbox SET due_at = now()`, `DELETE FROM outbox`,
				`INSERT INTO attempt (message_id, step, n, type, saga, error, at) VALUES (gen_random_uuid(), 's', 1, 'x', gen_random_uuid(), '', now())`,
			} {
				if _, err := db.Exec(may); err != nil {
					t.Errorf("%s: %v", may, err)
				}
			}
			for _, mayNot := range []string{
				`UPDATE event_log SET actor = 'x'`, `DELETE FROM event_log`, `TRUNCATE event_log`, `ALTER TABLE event_log DISABLE TRIGGER ALL`, `DROP TABLE event_log`,
				`ALTER TABLE event_log ADD COLUMN x int`, `DROP TRIGGER event_log_append_only ON event_log`, `ALTER FUNCTION event_log_is_append_only() RENAME TO x`,
				`SET session_replication_role = replica`,
				`INSERT INTO event_log (event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at)
				 SELECT event_id, stream, version, type, schema, data, saga, causation, hops, actor, recorded_at FROM event_log
				 ON CONFLICT (event_id) DO UPDATE SET actor = 'x'`,
				`MERGE INTO event_log l USING event_log x ON l.position = x.position WHEN MATCHED THEN DELETE`,
				`SELECT * FROM event_log FOR UPDATE`,
				`UPDATE inbox SET step = 'x'`, `DELETE FROM inbox`, `TRUNCATE inbox`, `DELETE FROM barrier`, `DELETE FROM stream_state`, `TRUNCATE outbox`,
				`CREATE TABLE mine (x int)`, `CREATE TEMP TABLE mine (x int)`, `CREATE SCHEMA mine`, `CREATE VIEW mine AS SELECT 1`,
				`CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE INDEX ON event_log (actor)`, `CREATE DATABASE mine`, `CREATE ROLE mine`, `CREATE EXTENSION dblink`,
				`SELECT * FROM migrations_platform`, `DELETE FROM migrations_` + service, `SELECT setval('event_log_position_seq', 1)`,
				`SELECT pg_read_file('/etc/passwd')`, `COPY event_log TO PROGRAM 'cat'`, `ALTER DATABASE ` + pq.QuoteIdentifier(service) + ` SET jit = on`,
			} {
				if _, err := db.Exec(mayNot); code(err) != notPermitted {
					t.Errorf("%s: got %q, want %s", mayNot, code(err), notPermitted)
				}
			}
			// Who may do all is stopped by the trigger.
			owner := connect(t, as(t, service, nil))
			for _, mayNot := range []string{`UPDATE event_log SET actor = 'x'`, `DELETE FROM event_log`, `TRUNCATE event_log`, `TRUNCATE event_log CASCADE`} {
				if _, err := owner.Exec(mayNot); err == nil || !strings.Contains(err.Error(), "the event log is append-only") {
					t.Errorf("the owner may %s: %v", mayNot, err)
				}
			}
			if left := strs(t, owner, `SELECT version::text || actor FROM event_log`); !slices.Equal(left, []string{"1", "2"}) {
				t.Errorf("the log has %v", left)
			}
			other := services[(i+1)%len(services)]
			if _, err := db.Exec(`SET ROLE ` + pq.QuoteIdentifier(other)); code(err) != notPermitted {
				t.Errorf("it may be %s: %v", other, err)
			}
			for _, name := range services {
				err := connect(t, as(t, name, url.UserPassword(service, password(service)))).Ping()
				if name == service && err != nil || name != service && code(err) != notPermitted {
					t.Errorf("connect to %s: %v", name, err)
				}
			}
			for setting, want := range map[string]string{"enable_seqscan": "off", "jit": "off", "idle_in_transaction_session_timeout": "30s"} {
				var got string
				if err := db.QueryRow("SHOW " + setting).Scan(&got); err != nil || got != want {
					t.Errorf("%s is %s, want %s, %v", setting, got, want, err)
				}
			}
		})
	}
}

func password(service string) string { return "it's " + service + "'s \\ \"secret\"" }

// TestEveryMigrationCanBeTakenBack runs them down and up again, beside what Apply does.
func TestEveryMigrationCanBeTakenBack(t *testing.T) {
	t.Parallel()
	admin := connect(t, server(t))
	for _, service := range services {
		name := "test_down_" + service
		exec(t, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name+" TEMPLATE template0")
		t.Cleanup(func() { exec(t, admin, "DROP DATABASE "+name+" WITH (FORCE)") })
		db := connect(t, as(t, name, nil))
		all := func() {
			t.Helper()
			for _, folder := range []string{"platform", service} {
				if err := up(t.Context(), db, folder); err != nil {
					t.Fatalf("up %s: %v", folder, err)
				}
			}
		}
		all()
		before := strs(t, db, tables)
		for _, folder := range []string{service, "platform"} {
			store, err := database.NewStore(database.DialectPostgres, "migrations_"+folder)
			if err != nil {
				t.Fatal(err)
			}
			sub, err := fs.Sub(files, folder)
			if err != nil {
				t.Fatal(err)
			}
			provider, err := goose.NewProvider("", db, sub, goose.WithStore(store))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provider.DownTo(t.Context(), 0); err != nil {
				t.Errorf("down %s: %v", folder, err)
			}
		}
		if left := strs(t, db, tables); !slices.Equal(left, []string{"migrations_" + service, "migrations_platform"}) && len(left) != 2 {
			t.Errorf("%s: %v are left", service, left)
		}
		if left := strs(t, db, `SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace`); len(left) != 0 {
			t.Errorf("%s: the functions %v are left", service, left)
		}
		all()
		if after := strs(t, db, tables); !slices.Equal(before, after) {
			t.Errorf("%s had %v and has %v", service, before, after)
		}
	}
}

func TestWhatCannotBeSetUpIsSaidWithoutSecrets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ target, service string }{
		"a name that is none":   {server(t), `pay"; DROP DATABASE pay; --`},
		"an upper-case name":    {server(t), "Pay"},
		"no name":               {server(t), ""},
		"a wrong administrator": {as(t, "postgres", url.UserPassword("hotchoc", "geheim")), "pay"},
		"a malformed URL":       {"postgres://hotchoc:geheim@127.0.0.1:port/", "pay"},
		"nobody there":          {"postgres://hotchoc:geheim@127.0.0.1:1/", "pay"},
	} {
		err := Apply(t.Context(), c.target, c.service, "geheim, too")
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
