package delivery

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"hotchoc/pkg/host"
	"hotchoc/pkg/web"
)

// routes adds GET /deliveries/{order}.
func routes(s *web.Server, rt host.Runtime) {
	s.GET("/deliveries/:order", func(c echo.Context) error {
		id := c.Param("order")
		d, version, err := host.State[Delivery](c.Request().Context(), rt, "delivery/"+id)
		if err != nil {
			return err
		}
		if version == 0 {
			return web.Problemf(http.StatusNotFound, "unknown-delivery", "There is no delivery for an order %q; perhaps not yet.", id)
		}
		return c.JSON(http.StatusOK, struct {
			Order string `json:"order"`
			Delivery
			Version int64 `json:"version"`
		}{id, d, version})
	})
}
