package host

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
)

// State reads the state of one stream, and its version; version 0 means that there is none.
func State[S any](ctx context.Context, rt Runtime, stream string) (state S, version int64, err error) {
	var row struct {
		Version int64
		Doc     []byte
	}
	err = rt.DB.GetContext(ctx, &row, `SELECT version, doc FROM stream_state WHERE key = $1`, stream)
	if errors.Is(err, sql.ErrNoRows) {
		return state, 0, nil
	}
	if err != nil {
		return state, 0, err
	}
	return state, row.Version, json.Unmarshal(row.Doc, &state)
}
