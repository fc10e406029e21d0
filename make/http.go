package making

import (
	"maps"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"hotchoc/pkg/event"
	"hotchoc/pkg/host"
	"hotchoc/pkg/web"
)

// Limits of a delivery of goods.
const (
	amountMax = 1_000_000_000
	nameMax   = 64
)

// routes adds GET /stock, POST /stock/{ingredient} and GET /drinks/{order}.
func routes(s *web.Server, rt host.Runtime) {
	s.GET("/stock", func(c echo.Context) error {
		stock, version, err := host.State[Stock](c.Request().Context(), rt, "stock/"+location)
		if err != nil {
			return err
		}
		type line struct {
			Ingredient string `json:"ingredient"`
			Available  int64  `json:"available"`
			Kept
		}
		lines := []line{}
		for _, name := range slices.Sorted(maps.Keys(stock.Ingredients)) {
			k := stock.Ingredients[name]
			lines = append(lines, line{name, k.available(), k})
		}
		return c.JSON(http.StatusOK, map[string]any{"location": location, "version": version, "ingredients": lines})
	})

	s.POST("/stock/:ingredient", func(c echo.Context) error {
		var goods struct {
			Amount int64 `json:"amount"`
		}
		body, err := web.Decode(c, &goods)
		if err != nil {
			return err
		}
		name := c.Param("ingredient")
		if !web.Printable(name, nameMax) {
			return web.Problemf(http.StatusUnprocessableEntity, "invalid-ingredient", "An ingredient's name must have 1 to %d printable characters.", nameMax)
		}
		if goods.Amount < 1 || goods.Amount > amountMax {
			return web.Problemf(http.StatusUnprocessableEntity, "invalid-amount", "amount must be from 1 to %d grams or millilitres, not %d.", amountMax, goods.Amount)
		}
		_, err = web.Do(c, rt.Intake, web.Command{
			Step: "replenish", Scope: name, Saga: event.NewID(), Actor: "staff", Wish: Replenish{name, goods.Amount}, Body: body,
		})
		if err != nil {
			return err
		}
		stock, version, err := host.State[Stock](c.Request().Context(), rt, "stock/"+location)
		if err != nil {
			return err
		}
		k := stock.Ingredients[name]
		return c.JSON(http.StatusOK, map[string]any{"ingredient": name, "available": k.available(), "on_hand": k.OnHand, "reserved": k.Reserved, "version": version})
	})

	s.GET("/drinks/:order", func(c echo.Context) error {
		id := c.Param("order")
		d, version, err := host.State[Drink](c.Request().Context(), rt, "drink/"+id)
		if err != nil {
			return err
		}
		if version == 0 {
			return web.Problemf(http.StatusNotFound, "unknown-drink", "There are no drinks for an order %q; perhaps not yet.", id)
		}
		return c.JSON(http.StatusOK, struct {
			Order string `json:"order"`
			Drink
			Version int64 `json:"version"`
		}{id, d, version})
	})
}
