package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hotchoc/ops/stack"
)

// scenario is one question.
type scenario struct {
	name string
	asks string
	run  func(*bench, context.Context) error
}

var scenarios = []scenario{
	{"throughput", "How many orders a second, with so many under way at all times?", (*bench).throughput},
	{"latency", "How long does an order take, alone and at fixed rates?", (*bench).latency},
	{"failures", "What do rollbacks cost, when three orders in ten fail?", (*bench).failures},
	{"backlog", "How fast is worked off what came while a service was down?", (*bench).backlog},
	{"instances", "What does a second instance of each service change?", (*bench).instances},
	{"growth", "Does a large log make it slower?", (*bench).growth},
	{"burst", "What happens when many orders come in one instant?", (*bench).burst},
	{"peers", "How does it compare: with what is possible at most, with a pipeline written by hand, with Watermill?", (*bench).peers},
}

// Names are the scenarios there are.
func Names() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func choose(names []string) (chosen []scenario, err error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	for _, name := range names {
		at := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if at < 0 {
			return nil, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(Names(), ", "))
		}
		chosen = append(chosen, scenarios[at])
	}
	return chosen, nil
}

func (b *bench) throughput(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		for _, n := range b.sizes.inFlight {
			if _, err := b.closed(ctx, s, "", n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) latency(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		if _, err := b.closed(ctx, s, "", 1); err != nil {
			return err
		}
		capacity, err := b.closed(ctx, s, "capacity", b.sizes.busy)
		if err != nil {
			return err
		}
		for _, share := range b.sizes.shares {
			if err := b.open(ctx, s, fmt.Sprintf("%.0f %% of capacity", 100*share), share*capacity.Throughput); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) failures(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		for _, c := range []struct {
			label string
			wish  func(int64) string
		}{{"all go well", goesWell}, {"30 % fail", someFail}} {
			s.wish = c.wish
			if _, err := b.closed(ctx, s, c.label, b.sizes.busy); err != nil {
				return err
			}
		}
		b.now.Notes = append(b.now.Notes, "Of ten orders one has its card declined, one breaks the machine, and one has an address that nobody can deliver to. A failed order has ended when it is cancelled and its money, if any, is given back.")
		return nil
	})
}

// backlog stops pay while the orders come: everything after the placing is still to be done when it is back.
func (b *bench) backlog(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		if err := b.rig.stack.Stop(ctx, "pay"); err != nil {
			return err
		}
		c := b.rig.customers(s, 64)
		if err := c.queue(ctx, b.sizes.backlog, 64); err != nil {
			return err
		}
		all, pay := s.services, b.rig.stack.URL("pay")
		s.services = slices.DeleteFunc(slices.Clone(all), func(url string) bool { return url == pay })
		from, err := s.look(ctx)
		if err != nil {
			return err
		}
		if err := b.rig.stack.Start(ctx, "pay"); err != nil {
			return err
		}
		s.parts, s.services = b.rig.shopParts(), all // pay has counted nothing before
		if err := c.ends.drained(ctx, endsWithin); err != nil {
			return err
		}
		b.now.Notes = append(b.now.Notes, "Counted from the start of the process of pay. How long the orders took says nothing here: it counts from their placing, and so the time that pay was down.")
		return b.afterAll(ctx, s, c, from)
	})
}

func (b *bench) burst(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		warm := b.rig.customers(s, b.sizes.burst)
		if err := warm.open(ctx, atOnce(b.sizes.burst)); err != nil { // connections, statements, memory
			return err
		}
		c := b.rig.customers(s, b.sizes.burst)
		c.client = warm.client
		from, err := s.look(ctx)
		if err != nil {
			return err
		}
		if err := c.open(ctx, atOnce(b.sizes.burst)); err != nil {
			return err
		}
		return b.afterAll(ctx, s, c, from)
	})
}

// afterAll notes a run that begins with a look and ends with the last order.
func (b *bench) afterAll(ctx context.Context, s *system, c *customers, from look) error {
	to, err := s.look(ctx)
	if err != nil {
		return err
	}
	orders := c.finished()
	r := s.run(from, to, orders, false)
	r.Orders = len(orders)
	begin := from.at
	if len(orders) > 0 { // a burst begins later
		first := slices.MinFunc(orders, func(a, b order) int { return a.start.Compare(b.start) })
		if first.start.After(begin) {
			begin = first.start
		}
	}
	r.Drain = drain(orders, begin, 60)
	b.add(r)
	return nil
}

func (b *bench) instances(ctx context.Context) error {
	return b.withShop(func(s *system) error {
		if _, err := b.closed(ctx, s, "one of each", b.sizes.busy); err != nil {
			return err
		}
		stop, err := b.rig.second(ctx, s)
		if err != nil {
			return err
		}
		_, err = b.closed(ctx, s, "two of each", b.sizes.busy)
		return errors.Join(err, stop())
	})
}

func (b *bench) growth(ctx context.Context) error {
	measure := func(label string) error {
		if err := b.withShop(func(s *system) error {
			for _, n := range []int{1, b.sizes.busy} {
				if _, err := b.closed(ctx, s, label, n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for _, name := range stack.Services() {
			if err := b.rig.stack.Stop(ctx, name); err != nil {
				return err
			}
			begin := time.Now()
			if err := b.rig.stack.Start(ctx, name); err != nil {
				return err
			}
			b.now.Starts = append(b.now.Starts, Start{label, name, time.Since(begin).Seconds()})
		}
		return nil
	}
	if err := measure("empty log"); err != nil {
		return err
	}
	begin := time.Now()
	events, err := b.rig.grow(ctx, b.sizes.events)
	if err != nil {
		return err
	}
	b.say("  the logs have %s events more, after %.0f s", thousands(events), time.Since(begin).Seconds())
	b.now.Notes = append(b.now.Notes,
		fmt.Sprintf("%s events were added to the five logs while the services were stopped: orders that had ended were copied within the databases, with their inbox rows, barriers, states, views and the entries of the gateway's ledger, each copy under IDs of its own; then the tables were analysed. The audit covers the copies.", thousands(events)),
		"Services were stopped in good order and started again; they are asked whether they are ready every 30 ms.")
	return measure(thousands(events) + " events")
}

// withShop lets the shop be measured.
func (b *bench) withShop(do func(*system) error) error {
	s, err := b.rig.shop()
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.ends.close())
}

// closed measures a system with so many orders under way.
func (b *bench) closed(ctx context.Context, s *system, label string, inFlight int) (Trial, error) {
	drive := func(ctx context.Context, c *customers) error { return c.closed(ctx, inFlight) }
	r, err := s.trial(ctx, b.rig.customers(s, inFlight), drive, false, b.sizes.warm, b.sizes.window)
	if err != nil {
		return r, err
	}
	r.Label, r.InFlight = label, inFlight
	b.add(r)
	return r, nil
}

// open measures a system with so many orders a second.
func (b *bench) open(ctx context.Context, s *system, label string, perSecond float64) error {
	drive := func(ctx context.Context, c *customers) error {
		return c.open(ctx, rate(perSecond))
	}
	r, err := s.trial(ctx, b.rig.customers(s, 256), drive, true, b.sizes.warm, b.sizes.window)
	if err != nil {
		return err
	}
	r.Label, r.PerSecond = label, perSecond
	b.add(r)
	return nil
}

func goesWell(n int64) string {
	return wish(n, "classic", "tok_ok", `{"type":"counter"}`)
}

// someFail lets three of ten orders fail, each at another place of the way.
func someFail(n int64) string {
	counter := `{"type":"counter"}`
	switch n % 10 {
	case 2:
		return wish(n, "classic", "tok_declined", counter)
	case 5:
		return wish(n, "lava", "tok_ok", counter)
	case 8:
		return wish(n, "classic", "tok_ok", `{"type":"address","address":"nowhere"}`)
	}
	return goesWell(n)
}

// wish is an order of one cup, of a customer of its own: who is refused too often is flagged, which is not the question.
func wish(n int64, sku, token, handover string) string {
	return fmt.Sprintf(`{"customer":"c%d-%d","lines":[{"sku":%q,"quantity":1}],"payment":{"token":%q},"handover":%s,"deadline_seconds":3600}`, time.Now().UnixNano(), n, sku, token, handover)
}
