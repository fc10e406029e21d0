package host

import (
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"hotchoc/pkg/web"
)

// attemptsMax bounds the answer of GET /attempts.
const attemptsMax = 500

// attempt is a line of the attempt ledger: one try that failed.
type attempt struct {
	Message uuid.UUID `db:"message_id" json:"message"`
	Event   string    `db:"type" json:"event"`
	Step    string    `db:"step" json:"step"`
	Saga    uuid.UUID `db:"saga" json:"saga"`
	N       int       `db:"n" json:"n"`
	Error   string    `db:"error" json:"error"`
	At      time.Time `db:"at" json:"at"`
	// NextAt is when it is tried again; null when it was set aside.
	NextAt *time.Time `db:"next_at" json:"next_at"`
}

// attempts adds GET /attempts, the newest first, and ?saga= for those of one order.
func attempts(s *web.Server, rt Runtime) {
	s.GET("/attempts", func(c echo.Context) error {
		rows := []attempt{}
		query, args := `SELECT message_id, type, step, saga, n, error, at, next_at FROM attempt`, []any{attemptsMax}
		if saga := c.QueryParam("saga"); saga != "" {
			if uuid.Validate(saga) != nil {
				return web.Problemf(http.StatusUnprocessableEntity, "invalid-saga", "saga must be the ID of an order, not %q.", saga)
			}
			query, args = query+` WHERE saga = $2`, append(args, saga)
		}
		if err := rt.DB.SelectContext(c.Request().Context(), &rows, query+` ORDER BY at DESC LIMIT $1`, args...); err != nil {
			return err
		}
		return c.JSON(http.StatusOK, map[string]any{"attempts": rows})
	})
}
