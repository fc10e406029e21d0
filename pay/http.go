package pay

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"hotchoc/pkg/host"
	"hotchoc/pkg/web"
)

// routes adds GET /payments/{order}.
func routes(s *web.Server, rt host.Runtime) {
	s.GET("/payments/:order", func(c echo.Context) error {
		id := c.Param("order")
		p, version, err := host.State[Payment](c.Request().Context(), rt, "payment/"+id)
		if err != nil {
			return err
		}
		if version == 0 {
			return web.Problemf(http.StatusNotFound, "unknown-payment", "There is no payment for an order %q; perhaps not yet.", id)
		}
		return c.JSON(http.StatusOK, struct {
			Order string `json:"order"`
			Payment
			Version int64 `json:"version"`
		}{id, p, version})
	})
}
