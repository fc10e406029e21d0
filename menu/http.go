package menu

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/web"
)

// Limits of an item.
const (
	nameMax     = 100
	priceMax    = 1_000_000
	recipeMax   = 20
	amountMax   = 10_000
	pageDefault = 100
	pageMax     = 200
)

var (
	skuForm      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
)

type api struct {
	intake *flow.Intake
	views  queries
}

func (a *api) routes(s *web.Server) {
	s.GET("/menu", a.list)
	s.GET("/menu/:sku", a.get)
	s.POST("/menu", a.add)
	s.PUT("/menu/:sku", a.edit)
	s.DELETE("/menu/:sku", a.retire)
}

// request is the wire of an item. SKU may be left out of a PUT, where the path has it.
type request struct {
	SKU    string   `json:"sku"`
	Name   string   `json:"name"`
	Price  Money    `json:"price"`
	Recipe []Amount `json:"recipe"`
	// Offered defaults to true.
	Offered *bool `json:"offered"`
}

func (r *request) problems() (all []string) {
	bad := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if !skuForm.MatchString(r.SKU) {
		bad("sku must have 1 to 64 characters of a-z, 0-9 and -, not %q", r.SKU)
	}
	if !web.Printable(r.Name, nameMax) {
		bad("name must have 1 to %d printable characters", nameMax)
	}
	if r.Price.Amount < 1 || r.Price.Amount > priceMax {
		bad("price.amount must be from 1 to %d minor units, not %d", priceMax, r.Price.Amount)
	}
	if !currencyForm.MatchString(r.Price.Currency) {
		bad("price.currency must be an ISO 4217 code such as EUR, not %q", r.Price.Currency)
	}
	if len(r.Recipe) < 1 || len(r.Recipe) > recipeMax {
		bad("recipe must have 1 to %d ingredients, not %d", recipeMax, len(r.Recipe))
	}
	seen := map[string]bool{}
	for i, a := range r.Recipe[:min(len(r.Recipe), recipeMax)] {
		if !web.Printable(a.Ingredient, 64) {
			bad("recipe[%d].ingredient must have 1 to 64 printable characters", i)
		}
		if a.Amount < 1 || a.Amount > amountMax {
			bad("recipe[%d].amount must be from 1 to %d grams or millilitres, not %d", i, amountMax, a.Amount)
		}
		if seen[a.Ingredient] {
			bad("recipe[%d].ingredient %q is there twice", i, a.Ingredient)
		}
		seen[a.Ingredient] = true
	}
	return all
}

func (a *api) add(c echo.Context) error {
	d, body, err := a.described(c, "")
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, "/menu/"+d.SKU)
	return a.do(c, "add", d.SKU, Add{d}, body, http.StatusCreated)
}

func (a *api) edit(c echo.Context) error {
	d, body, err := a.described(c, c.Param("sku"))
	if err != nil {
		return err
	}
	return a.do(c, "edit", d.SKU, Edit{d}, body, http.StatusOK)
}

func (a *api) retire(c echo.Context) error {
	return a.do(c, "retire", c.Param("sku"), Retire{c.Param("sku")}, nil, http.StatusOK)
}

func (a *api) described(c echo.Context, sku string) (Describe, []byte, error) {
	var r request
	body, err := web.Decode(c, &r)
	if err != nil {
		return Describe{}, nil, err
	}
	if r.SKU == "" {
		r.SKU = sku
	}
	problems := r.problems()
	if sku != "" && r.SKU != sku {
		problems = append(problems, fmt.Sprintf("sku %q is not that of the path, %q", r.SKU, sku))
	}
	if len(problems) > 0 {
		return Describe{}, nil, web.Problemf(http.StatusUnprocessableEntity, "invalid-item", "%s.", strings.Join(problems, "; "))
	}
	return Describe{
		SKU: r.SKU, Name: r.Name, Price: r.Price.Amount, Currency: r.Price.Currency, Recipe: r.Recipe,
		Offered: r.Offered == nil || *r.Offered,
	}, body, nil
}

// do carries a command out and answers with the item.
func (a *api) do(c echo.Context, step, sku string, command any, body []byte, status int) error {
	_, err := web.Do(c, a.intake, web.Command{Step: step, Scope: sku, Saga: event.NewID(), Actor: "staff", Wish: command, Body: body})
	if err != nil {
		return err
	}
	entry, _, err := a.views.item(c.Request().Context(), sku)
	if err != nil {
		return err
	}
	return c.JSON(status, entry)
}

func (a *api) list(c echo.Context) error {
	limit := pageDefault
	if l := c.QueryParam("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > pageMax {
			return web.Problemf(http.StatusUnprocessableEntity, "invalid-limit", "limit must be from 1 to %d, not %q.", pageMax, l)
		}
		limit = n
	}
	after := c.QueryParam("after")
	if after != "" && !skuForm.MatchString(after) {
		return web.Problemf(http.StatusUnprocessableEntity, "invalid-after", "after must be a sku, not %q.", after)
	}
	entries, err := a.views.menu(c.Request().Context(), after, limit)
	if err != nil {
		return err
	}
	answer := map[string]any{"items": entries}
	if len(entries) == limit {
		answer["next"] = fmt.Sprintf("/menu?limit=%d&after=%s", limit, entries[limit-1].SKU)
	}
	return c.JSON(http.StatusOK, answer)
}

func (a *api) get(c echo.Context) error {
	unknown := web.Problemf(http.StatusNotFound, "unknown-item", "There is no item %q. GET /menu lists them.", c.Param("sku"))
	if !skuForm.MatchString(c.Param("sku")) {
		return unknown
	}
	entry, found, err := a.views.item(c.Request().Context(), c.Param("sku"))
	if err == nil && !found {
		err = unknown
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, entry)
}
