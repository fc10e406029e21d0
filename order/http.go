package order

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/web"
)

// Limits of an order.
const (
	linesMax        = 20
	quantityMax     = 20
	customerMax     = 64
	addressMax      = 200
	tokenMax        = 100
	deadlineDefault = 900
	deadlineMax     = 24 * 60 * 60
	pageDefault     = 50
	pageMax         = 200
)

type api struct {
	intake *flow.Intake
	views  queries
	ends   *ends
}

func (a *api) routes(s *web.Server) {
	s.POST("/orders", a.place)
	s.GET("/orders", a.list)
	s.GET("/orders/:id", a.get)
	s.GET("/orders/:id/events", a.events)
	s.POST("/orders/:id/cancel", a.cancel)
	s.GET("/customers/:id", a.customer)
}

// request is the wire of POST /orders.
type request struct {
	Customer string `json:"customer"`
	Lines    []struct {
		SKU      string `json:"sku"`
		Quantity int    `json:"quantity"`
	} `json:"lines"`
	Payment struct {
		Token string `json:"token"`
	} `json:"payment"`
	Handover struct {
		Type    string `json:"type"`
		Address string `json:"address"`
	} `json:"handover"`
	DeadlineSeconds *int `json:"deadline_seconds"`
}

// problems are all that is wrong with the form of a request; what is on the menu is the decision's to say.
func (r *request) problems() (all []string) {
	bad := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if !web.Printable(r.Customer, customerMax) {
		bad("customer must have 1 to %d printable characters", customerMax)
	}
	if len(r.Lines) < 1 || len(r.Lines) > linesMax {
		bad("lines must have 1 to %d entries, not %d", linesMax, len(r.Lines))
	}
	seen := map[string]bool{}
	for i, line := range r.Lines[:min(len(r.Lines), linesMax)] {
		if !web.Printable(line.SKU, customerMax) {
			bad("lines[%d].sku must name an item of the menu", i)
		} else if seen[line.SKU] {
			bad("lines[%d].sku %q is there twice: give each item one line", i, line.SKU)
		}
		seen[line.SKU] = true
		if line.Quantity < 1 || line.Quantity > quantityMax {
			bad("lines[%d].quantity must be from 1 to %d, not %d", i, quantityMax, line.Quantity)
		}
	}
	if !web.Printable(r.Payment.Token, tokenMax) {
		bad("payment.token must have 1 to %d printable characters", tokenMax)
	}
	switch r.Handover.Type {
	case "counter":
		if r.Handover.Address != "" {
			bad("handover.address goes with handover.type \"address\" only")
		}
	case "address":
		if !web.Printable(r.Handover.Address, addressMax) {
			bad("handover.address must have 1 to %d printable characters", addressMax)
		}
	default:
		bad("handover.type must be \"counter\" or \"address\", not %q", r.Handover.Type)
	}
	if d := r.DeadlineSeconds; d != nil && (*d < 1 || *d > deadlineMax) {
		bad("deadline_seconds must be from 1 to %d, not %d", deadlineMax, *d)
	}
	return all
}

func (r *request) command(id uuid.UUID, now time.Time) PlaceOrder {
	wish := PlaceOrder{
		OrderID: id.String(), Customer: r.Customer, PaymentToken: r.Payment.Token,
		Handover: &shopv1.Handover{Type: r.Handover.Type, Address: r.Handover.Address},
	}
	for _, line := range r.Lines {
		wish.Lines = append(wish.Lines, WishedLine{line.SKU, line.Quantity})
	}
	seconds := deadlineDefault
	if r.DeadlineSeconds != nil {
		seconds = *r.DeadlineSeconds
	}
	wish.Deadline = now.Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Microsecond)
	return wish
}

// place: POST /orders.
func (a *api) place(c echo.Context) error {
	var r request
	body, err := web.Decode(c, &r)
	if err != nil {
		return err
	}
	if problems := r.problems(); len(problems) > 0 {
		return web.Problemf(http.StatusUnprocessableEntity, "invalid-order", "%s.", strings.Join(problems, "; "))
	}
	wait, err := preferredWait(c)
	if err != nil {
		return err
	}
	id := event.NewID()
	v, err := web.Do(c, a.intake, web.Command{
		Step: "place", Saga: id, Actor: "customer:" + r.Customer, Wish: r.command(id, time.Now()), Body: body,
	})
	if err != nil {
		return err
	}
	var page Page
	if v.Duplicate {
		id = v.First.Saga
		if page, _, err = a.views.order(c.Request().Context(), id.String()); err != nil {
			return err
		}
	} else if page, err = placedPage(id, v.Events); err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, "/orders/"+id.String())
	return a.answer(c, page, wait, http.StatusCreated)
}

// placedPage is the page of an order that has just been placed, from its event: no need to read it back.
func placedPage(id uuid.UUID, events []event.Record) (Page, error) {
	var s Status
	for _, e := range events {
		declared, _ := contract.Lookup(e.Type)
		fact, err := declared.Unmarshal(e.Body)
		if err != nil {
			return Page{}, err
		}
		s.fold(fact, e.Envelope)
	}
	return s.page(id.String(), int64(len(events))), nil
}

// answer sends the page: at once with 202 while the order is under way, or when it has ended within the wait preferred.
func (a *api) answer(c echo.Context, page Page, wait time.Duration, ended int) error {
	status := http.StatusAccepted
	if wait > 0 {
		c.Response().Header().Set("Preference-Applied", fmt.Sprintf("wait=%d", int(wait.Seconds())))
		if !page.ended {
			a.ends.wait(c.Request().Context(), page.ID, wait)
			var err error
			// The client may be gone, or the service stopping: then this is read in vain.
			if page, _, err = a.views.order(context.WithoutCancel(c.Request().Context()), page.ID); err != nil {
				return err
			}
		}
	}
	if page.ended {
		status = ended
	} else {
		c.Response().Header().Set("Retry-After", "1")
	}
	return c.JSON(status, page)
}

// get: GET /orders/{id}, with Prefer: wait until it has ended.
func (a *api) get(c echo.Context) error {
	page, err := a.known(c)
	if err != nil {
		return err
	}
	wait, err := preferredWait(c)
	if err != nil {
		return err
	}
	if wait > 0 && !page.ended {
		return a.answer(c, page, wait, http.StatusOK)
	}
	return c.JSON(http.StatusOK, page)
}

// events: GET /orders/{id}/events.
func (a *api) events(c echo.Context) error {
	page, err := a.known(c)
	if err != nil {
		return err
	}
	entries, err := a.views.events(c.Request().Context(), page.ID)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"order": page.ID, "events": entries})
}

// cancel: POST /orders/{id}/cancel.
func (a *api) cancel(c echo.Context) error {
	page, err := a.known(c)
	if err != nil {
		return err
	}
	_, err = web.Do(c, a.intake, web.Command{
		Step: "request-cancel", Scope: page.ID, Saga: uuid.MustParse(page.ID), Actor: "customer:" + page.Customer, Wish: RequestCancel{page.ID},
	})
	if err != nil {
		return err
	}
	wait, err := preferredWait(c)
	if err != nil {
		return err
	}
	if page, _, err = a.views.order(c.Request().Context(), page.ID); err != nil {
		return err
	}
	return a.answer(c, page, wait, http.StatusOK)
}

// list: GET /orders?status=&customer=&after=&limit=.
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
	if after != "" && uuid.Validate(after) != nil {
		return web.Problemf(http.StatusUnprocessableEntity, "invalid-after", "after must be the ID of an order, not %q.", after)
	}
	status := c.QueryParam("status")
	switch status {
	case "", "placed", "paid", "made", "dispatched", "completed", "cancelling", "cancelled":
	default:
		return web.Problemf(http.StatusUnprocessableEntity, "invalid-status", "status must be placed, paid, made, dispatched, completed, cancelling or cancelled, not %q.", status)
	}
	customer := c.QueryParam("customer")
	if customer != "" && !web.Printable(customer, customerMax) {
		return web.Problemf(http.StatusUnprocessableEntity, "invalid-customer", "customer must have at most %d printable characters.", customerMax)
	}
	pages, err := a.views.orders(c.Request().Context(), status, customer, after, limit)
	if err != nil {
		return err
	}
	answer := map[string]any{"orders": pages}
	if len(pages) == limit {
		next := url.Values{}
		for key := range c.QueryParams() {
			next.Set(key, c.QueryParam(key))
		}
		next.Set("after", pages[limit-1].ID)
		answer["next"] = "/orders?" + next.Encode()
	}
	return c.JSON(http.StatusOK, answer)
}

// customer: GET /customers/{id}, what this service keeps of a customer.
func (a *api) customer(c echo.Context) error {
	id := c.Param("id")
	kept, known, err := a.views.customer(c.Request().Context(), id)
	if err != nil {
		return err
	}
	answer := map[string]any{"customer": id, "flagged": known, "refusals": kept.Refusals}
	if known {
		answer["flagged_at"] = kept.FlaggedAt
	}
	return c.JSON(http.StatusOK, answer)
}

// known is the order of the path, or the problem that there is none.
func (a *api) known(c echo.Context) (Page, error) {
	unknown := web.Problemf(http.StatusNotFound, "unknown-order", "There is no order %q. POST /orders answers with the ID of a new one.", c.Param("id"))
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return Page{}, unknown
	}
	page, found, err := a.views.order(c.Request().Context(), id.String())
	if err == nil && !found {
		err = unknown
	}
	return page, err
}

// preferredWait reads Prefer: wait=SECONDS (RFC 7240).
func preferredWait(c echo.Context) (time.Duration, error) {
	for _, header := range c.Request().Header.Values("Prefer") {
		for _, preference := range strings.Split(header, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(preference), "=")
			if !strings.EqualFold(name, "wait") {
				continue
			}
			seconds, err := strconv.Atoi(strings.Trim(value, `"`))
			if err != nil || seconds < 0 {
				return 0, web.Problemf(http.StatusBadRequest, "invalid-preference", "Prefer: wait must be a number of seconds, not %q.", value)
			}
			return min(time.Duration(seconds)*time.Second, web.WaitMax), nil
		}
	}
	return 0, nil
}
