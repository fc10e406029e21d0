// Package migrations sets up the services' databases: a database and a role per service, the platform's tables in each,
// and the service's own views.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"

	"github.com/lib/pq"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed platform menu order pay make delivery
var files embed.FS

var name = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// Apply brings the database of a service up to date, on the server of adminURL: it makes the role and the database named
// after the service if they are missing, sets the role's password, runs the migrations that have not been run, and grants
// the role no more than it needs: it may not change the tables, nor the facts of the event log. It may be called at any
// time, by one at a time.
func Apply(ctx context.Context, adminURL, service, password string) error {
	if !name.MatchString(service) {
		return fmt.Errorf("%q cannot be the name of a service: letters, digits and _ only", service)
	}
	admin, err := url.Parse(adminURL)
	if err != nil {
		return errors.New("the administrator's database URL is malformed")
	}
	server, err := sql.Open("postgres", admin.String())
	if err != nil {
		return errors.New("the administrator's database URL is malformed")
	}
	defer server.Close()
	if err := create(ctx, server, service, password); err != nil {
		return fmt.Errorf("set up the database of %s: %w", service, err)
	}
	own := *admin
	own.Path = "/" + service
	db, err := sql.Open("postgres", own.String())
	if err != nil {
		return err
	}
	defer db.Close()
	for _, folder := range []string{"platform", service} {
		if err := up(ctx, db, folder); err != nil {
			return fmt.Errorf("migrate %s of %s: %w", folder, service, err)
		}
	}
	return grant(ctx, db, service)
}

func create(ctx context.Context, server *sql.DB, service, password string) error {
	role := pq.QuoteIdentifier(service)
	var hasRole, hasDatabase bool
	if err := server.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $1)`, service).Scan(&hasRole, &hasDatabase); err != nil {
		return err
	}
	verb := "ALTER"
	if !hasRole {
		verb = "CREATE"
	}
	// Everything the door does goes by key, in two large statements that are prepared once: planning them anew for each
	// batch costs more than running them, and a plan made while the tables were empty must not scan them when they are not.
	statements := []string{
		verb + " ROLE " + role + " LOGIN PASSWORD " + pq.QuoteLiteral(password),
		"ALTER ROLE " + role + " SET idle_in_transaction_session_timeout = '30s'",
		"ALTER ROLE " + role + " SET plan_cache_mode = 'force_generic_plan'",
		"ALTER ROLE " + role + " SET enable_seqscan = off",
		"ALTER ROLE " + role + " SET jit = off",
	}
	if !hasDatabase {
		statements = append(statements, "CREATE DATABASE "+role)
	}
	statements = append(statements, "REVOKE ALL ON DATABASE "+role+" FROM PUBLIC", "GRANT CONNECT ON DATABASE "+role+" TO "+role)
	for _, statement := range statements {
		if _, err := server.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func up(ctx context.Context, db *sql.DB, folder string) error {
	store, err := database.NewStore(database.DialectPostgres, "migrations_"+folder)
	if err != nil {
		return err
	}
	sub, err := fs.Sub(files, folder)
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider("", db, sub, goose.WithStore(store))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

func grant(ctx context.Context, db *sql.DB, service string) error {
	role := pq.QuoteIdentifier(service)
	for _, statement := range []string{
		"REVOKE ALL ON SCHEMA public FROM PUBLIC",
		"GRANT USAGE ON SCHEMA public TO " + role,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO " + role,
		"REVOKE UPDATE, DELETE ON event_log, inbox FROM " + role,
		"REVOKE DELETE ON barrier, stream_state FROM " + role,
		"REVOKE ALL ON migrations_platform, migrations_" + service + " FROM " + role,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("grant to %s: %w", service, err)
		}
	}
	return nil
}
