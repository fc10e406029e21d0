package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// What the tests see of the inside.

const VariantsMax = variantsMax

func itself[T any](item T) T { return item }

func Texts(items ...string) any     { return texts(items, itself) }
func UUIDs(items ...uuid.UUID) any  { return uuids(items, itself) }
func OrNull(items ...uuid.UUID) any { return orNull(items, itself) }
func Int4s(items ...int) any        { return int4s(items, itself) }
func Int8s(items ...int64) any      { return int8s(items, itself) }
func Times(items ...time.Time) any  { return times(items, itself) }
func Byteas(items ...[]byte) any    { return byteas(items, itself) }
func JSONs(items ...string) any {
	return jsons(items, func(text string) []byte { return []byte(text) })
}

type Statement struct{ *statement }

func NewStatement(parts []string, join func([]string) string) Statement {
	return Statement{newStatement(parts, join)}
}

// Ask runs the statement with the parts given, as a store would, and returns the whole numbers that it answers.
func (s Statement) Ask(ctx context.Context, db *sqlx.DB, parts map[int]any) (answers []int, err error) {
	if err := s.prepare(ctx, db); err != nil {
		return nil, err
	}
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	c := s.call()
	for part, arg := range parts {
		c.with(part, arg)
	}
	rows, err := c.query(ctx, tx)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		answers = append(answers, n)
	}
	return answers, rows.Err()
}

// Prepared counts the variants that are kept, and those that are prepared.
func (s Statement) Prepared() (kept, prepared int) {
	for _, v := range s.variants {
		if v.prepared != nil {
			prepared++
		}
	}
	return len(s.variants), prepared
}
