// Package contracts reads what was really written with today's code: every event in the logs of a running shop, and every
// timer that is armed.
package contracts

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	_ "github.com/lib/pq" // the driver "postgres"

	"hotchoc/pkg/contract"
)

// unreadableMax is how many that cannot be read are told one by one; the others are counted.
const unreadableMax = 100

// Kind is all there is of one version of one type in one service.
type Kind struct {
	Service string `json:"service"`
	Type    string `json:"type"`
	Schema  int    `json:"schema_version"`
	// Current is the version that today's code writes; 0 when the type is not declared any more.
	Current int   `json:"current_version"`
	Number  int64 `json:"number"`
	Timers  int64 `json:"timers,omitempty"` // of them, armed in the outbox
}

// Unreadable is one that today's code cannot read.
type Unreadable struct {
	Service string `json:"service"`
	Where   string `json:"where"` // "event_log position 7", "outbox 0198…"
	Type    string `json:"type"`
	Schema  int    `json:"schema_version"`
	Why     string `json:"why"`
}

// Report is what a check found.
type Report struct {
	Kinds []Kind `json:"kinds"`
	// Unreadable are the first hundred of them.
	Unreadable []Unreadable `json:"unreadable"`
	Failed     int64        `json:"failed"` // all that cannot be read
	Read       int64        `json:"read"`   // all that was looked at
}

// OK tells that everything can be read.
func (r Report) OK() bool { return r.Failed == 0 }

// Check looks at the databases of these services on a server, each named like its service, and changes nothing. database is
// the URL of somebody who may read them. progress is told now and then how far it is. An error means that nobody knows.
func Check(ctx context.Context, database string, services []string, progress io.Writer) (Report, error) {
	u, err := url.Parse(database)
	if err != nil || u.Host == "" {
		return Report{}, errors.New("the database URL must look like postgres://user:password@host:port/")
	}
	r := Report{Kinds: []Kind{}, Unreadable: []Unreadable{}}
	for _, service := range services {
		u.Path = "/" + service
		q := u.Query()
		q.Set("options", "-c default_transaction_read_only=on")
		u.RawQuery = q.Encode()
		if err := r.check(ctx, u.String(), service, progress); err != nil {
			return r, fmt.Errorf("%s: %w", service, err)
		}
	}
	return r, nil
}

// written are all bodies of a service with what is needed to read them. Timers are in the outbox, for they are in no log.
const written = `SELECT 'event_log position ' || position, type, schema, data::text, false FROM event_log
UNION ALL
SELECT 'outbox ' || message_id, timer->'envelope'->>'type', (timer->'envelope'->>'schema')::int, timer->>'body', true FROM outbox WHERE timer IS NOT NULL`

func (r *Report) check(ctx context.Context, database, service string, progress io.Writer) error {
	db, err := sql.Open("postgres", database)
	if err != nil {
		return errors.New("the database URL is malformed")
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, written)
	if err != nil {
		return err
	}
	defer rows.Close()
	type key struct {
		typ    string
		schema int
	}
	kinds := map[key]*Kind{}
	told := time.Now()
	for rows.Next() {
		var where string
		var typ, body sql.NullString
		var schema sql.NullInt64
		var timer bool
		if err := rows.Scan(&where, &typ, &schema, &body, &timer); err != nil {
			return err
		}
		k := key{typ.String, int(schema.Int64)}
		declared, ok := contract.Lookup(k.typ)
		if kinds[k] == nil {
			kinds[k] = &Kind{Service: service, Type: k.typ, Schema: k.schema}
			if ok {
				kinds[k].Current = declared.Version
			}
		}
		kinds[k].Number++
		if timer {
			kinds[k].Timers++
		}
		r.Read++
		err := fmt.Errorf("%q is not a declared event type", k.typ)
		if ok {
			_, err = declared.Decode(k.schema, []byte(body.String))
		}
		if err != nil {
			if r.Failed++; len(r.Unreadable) < unreadableMax {
				r.Unreadable = append(r.Unreadable, Unreadable{service, where, k.typ, k.schema, err.Error()})
			}
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			fmt.Fprintf(progress, "%s: %d read so far\n", service, r.Read)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	first := len(r.Kinds)
	for _, k := range kinds {
		r.Kinds = append(r.Kinds, *k)
	}
	slices.SortFunc(r.Kinds[first:], func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), a.Schema-b.Schema)
	})
	return nil
}

// Print writes the report for people.
func (r Report) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tTYPE\tVERSION\tNUMBER\t")
	for _, k := range r.Kinds {
		note := ""
		switch {
		case k.Current == 0:
			note = "not declared"
		case k.Current != k.Schema:
			note = fmt.Sprintf("read as version %d", k.Current)
		}
		if k.Current != 0 && k.Schema > k.Current {
			note = "written by a newer program"
		}
		if k.Timers > 0 {
			note = fmt.Sprintf("%d of them armed timers  %s", k.Timers, note)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", k.Service, k.Type, k.Schema, k.Number, note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, u := range r.Unreadable {
		fmt.Fprintf(out, "\n%s, %s: %s version %d: %s\n", u.Service, u.Where, u.Type, u.Schema, u.Why)
	}
	if r.OK() {
		_, err := fmt.Fprintf(out, "\nToday's code reads all %d.\n", r.Read)
		return err
	}
	_, err := fmt.Fprintf(out, "\nToday's code cannot read %d of %d. A type or a field was taken away, or an upcaster is wrong: see docs/contracts.md.\n", r.Failed, r.Read)
	return err
}
