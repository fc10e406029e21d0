package saga

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"hotchoc/ops/dead"
	"hotchoc/ops/saga/platform"
)

const clock = "15:04:05.000"

func table(w io.Writer, rows func(io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	t.Flush()
}

// Table writes orders, a line each.
func Table(w io.Writer, orders []Order, now time.Time) {
	table(w, func(t io.Writer) {
		fmt.Fprintln(t, "ORDER\tSTATUS\tENDED\tCUSTOMER\tTOTAL\tPLACED\tTOOK\tREFUND\tCAUSE")
		for _, o := range orders {
			ended, took := "no", "-"
			if o.Ended {
				ended, took = "yes", milliseconds(o.Updated.Sub(o.PlacedAt))
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				o.ID, o.Status, ended, none(o.Customer), amount(o.Total.Amount, o.Total.Currency), dead.Ago(now.Sub(o.PlacedAt)), took, none(o.Refund), none(o.Cause))
		}
	})
}

// Print writes all that is known of one order.
func (s *Saga) Print(w io.Writer, now time.Time) {
	table(w, func(t io.Writer) {
		line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
		switch {
		case s.Status == "":
			line("order", "%s: the order service has not heard of it", s.ID)
		case s.Ended:
			line("order", "%s, %s after %s", s.ID, s.Status, milliseconds(s.Updated.Sub(s.PlacedAt)))
		default:
			line("order", "%s, %s for %s", s.ID, s.Status, dead.Ago(now.Sub(s.PlacedAt)))
		}
		if s.Status != "" {
			line("placed", "%s by %s, %s", s.PlacedAt.Local().Format(time.DateTime), none(s.Customer), amount(s.Total.Amount, s.Total.Currency))
		}
		if !s.Ended && !s.Deadline.IsZero() {
			line("deadline", "%s", s.Deadline.Local().Format(time.DateTime))
		}
		if s.Cause != "" {
			line("cause", "%s", dead.Clean(s.Cause))
		}
		line("payment", "%s", s.payment())
	})
	if len(s.Events) > 0 {
		fmt.Fprintln(w)
		s.printTree(w, now)
	}
	types := map[uuid.UUID]string{}
	for _, e := range s.Events {
		types[e.ID] = e.Type
	}
	for _, a := range s.Attempts {
		if types[a.Message] == "" { // a timer, or what only says that it belongs here
			fmt.Fprintf(w, "! %s: %s\n", none(a.Type), attempt(a))
		}
	}
	if len(s.Barriers) > 0 {
		fmt.Fprintln(w)
		table(w, func(t io.Writer) {
			fmt.Fprintln(t, "BARRIER\tSTATE\tFACT\tUNDONE BY")
			for _, b := range s.Barriers {
				fmt.Fprintf(t, "%s/%s\t%s\t%s\t%s\n", b.Service, b.Step, b.State, named(types, b.Fact), named(types, b.UndoneBy))
			}
		})
	}
	if len(s.Timers) > 0 {
		fmt.Fprintln(w)
		table(w, func(t io.Writer) {
			fmt.Fprintln(t, "TIMER\tSERVICE\tDUE")
			for _, timer := range s.Timers {
				due := "in " + dead.Ago(timer.DueAt.Sub(now))
				if timer.DueAt.Before(now) {
					due = "overdue for " + dead.Ago(now.Sub(timer.DueAt))
				}
				fmt.Fprintf(t, "%s\t%s\t%s\n", timer.Type, timer.Service, due)
			}
		})
	}
	if len(s.Dead) > 0 {
		fmt.Fprintln(w)
		fmt.Fprintln(w, "Dead letters")
		dead.Table(w, s.Dead, true, now)
	}
	if len(s.Awaited) > 0 {
		fmt.Fprintln(w)
		table(w, func(t io.Writer) {
			fmt.Fprintln(t, "AWAITED\tEVENT\tFOR\tATTEMPTS\tWHERE")
			for _, a := range s.Awaited {
				fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", a.By(), a.Type, dead.Ago(now.Sub(a.Since)), a.Attempts, dead.Cut(a.Where))
			}
		})
		for _, c := range commands(s.Awaited) {
			fmt.Fprintln(w, "-> "+c)
		}
	}
}

// printTree writes the events, each below what caused it, with the attempts that failed and who has not heard it yet.
func (s *Saga) printTree(w io.Writer, now time.Time) {
	type row struct {
		cells string
		notes []string
	}
	rows := []row{{cells: "EVENT\tBY\tVERSION\tAT\t+MS"}}
	var root *uuid.UUID
	for _, e := range s.Events {
		if e.Depth == 0 && (root == nil || *root != e.Causation) {
			root = &e.Causation
			rows = append(rows, row{cells: e.Cause + "\t\t\t\t"})
		}
		rows = append(rows, row{
			cells: fmt.Sprintf("%s%s\t%s/%s\t%s v%d\t%s\t%.1f", branch(e.last), e.Type, e.Service, none(e.Step),
				strings.TrimSuffix(e.Stream, "/"+s.ID.String()), e.Version, e.At.Local().Format(clock), e.Since),
			notes: s.notes(e, now),
		})
	}
	var buffer bytes.Buffer
	table(&buffer, func(t io.Writer) {
		for _, r := range rows {
			fmt.Fprintln(t, r.cells)
		}
	})
	for i, line := range strings.Split(strings.TrimSuffix(buffer.String(), "\n"), "\n") {
		fmt.Fprintln(w, strings.TrimRight(line, " "))
		for _, note := range rows[i].notes {
			fmt.Fprintln(w, note)
		}
	}
}

// notes are the lines below an event.
func (s *Saga) notes(e Event, now time.Time) (notes []string) {
	indent := below(e.last) + "  "
	for _, a := range s.Attempts {
		if a.Message == e.ID {
			notes = append(notes, indent+"! "+attempt(a))
		}
	}
	for _, a := range s.Awaited {
		if a.Message == e.ID {
			notes = append(notes, fmt.Sprintf("%s? awaited by %s for %s", indent, a.By(), dead.Ago(now.Sub(a.Since))))
		}
	}
	return notes
}

func attempt(a platform.Attempt) string {
	next := "set aside"
	if a.NextAt != nil {
		next = "again at " + a.NextAt.Local().Format(clock)
	}
	return fmt.Sprintf("%s/%s attempt %d failed at %s, %s: %s", a.Service, none(a.Step), a.N, a.At.Local().Format(clock), next, dead.Cut(a.Error))
}

// branch draws the way from the root to an event; below is the same for the lines under it.
func branch(last []bool) string {
	b := strings.Builder{}
	for i, l := range last {
		switch {
		case i == len(last)-1 && l:
			b.WriteString("└ ")
		case i == len(last)-1:
			b.WriteString("├ ")
		case l:
			b.WriteString("  ")
		default:
			b.WriteString("│ ")
		}
	}
	return b.String()
}

func below(last []bool) string {
	b := strings.Builder{}
	for _, l := range last {
		if l {
			b.WriteString("  ")
		} else {
			b.WriteString("│ ")
		}
	}
	return b.String()
}

// TableStuck writes what is awaited in each saga, and what moves it.
func TableStuck(w io.Writer, sagas []Saga, now time.Time) {
	var all []Awaited
	table(w, func(t io.Writer) {
		fmt.Fprintln(t, "ORDER\tSTATUS\tAGE\tAWAITED\tEVENT\tFOR\tATTEMPTS\tWHERE")
		for _, s := range sagas {
			status := s.Status
			if !s.Deadline.IsZero() && s.Deadline.Before(now) && !s.Ended {
				status += ", overdue"
			}
			head := fmt.Sprintf("%s\t%s\t%s", s.ID, status, dead.Ago(now.Sub(s.PlacedAt)))
			for _, a := range s.Awaited {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", head, a.By(), a.Type, dead.Ago(now.Sub(a.Since)), a.Attempts, dead.Cut(a.Where))
				head = "\t\t"
			}
			if len(s.Awaited) == 0 {
				fmt.Fprintf(t, "%s\t-\t-\t-\t-\tnothing is on its way%s\n", head, s.waiting(now))
			}
			all = append(all, s.Awaited...)
		}
	})
	for _, c := range commands(all) {
		fmt.Fprintln(w, "-> "+c)
	}
}

// waiting tells what will move a saga in which nothing is awaited.
func (s *Saga) waiting(now time.Time) string {
	for _, t := range s.Timers {
		return fmt.Sprintf("; %s fires in %s", t.Type, dead.Ago(t.DueAt.Sub(now)))
	}
	return ""
}

// commands are what is to be done, each once, with how many messages it is for.
func commands(awaited []Awaited) []string {
	var all []string
	count := map[string]int{}
	for _, a := range awaited {
		if a.Command != "" {
			if count[a.Command]++; count[a.Command] == 1 {
				all = append(all, a.Command)
			}
		}
	}
	for i, c := range all {
		if count[c] > 1 {
			all[i] = fmt.Sprintf("%s  (for %d messages)", c, count[c])
		}
	}
	return all
}

func (s *Saga) payment() string {
	p := s.Payment
	switch {
	case p == nil || p.Phase == "":
		return "nothing charged"
	case p.Phase == "captured":
		return fmt.Sprintf("captured %s (%s)", amount(p.Amount, p.Currency), p.CaptureID)
	case p.Phase == "refunded":
		return fmt.Sprintf("refunded %s (captured as %s, refunded as %s)", amount(p.Amount, p.Currency), p.CaptureID, p.RefundID)
	}
	return fmt.Sprintf("%s, nothing charged: %s", p.Phase, p.Reason)
}

func amount(minor int64, currency string) string {
	return fmt.Sprintf("%d.%02d %s", minor/100, minor%100, currency)
}

func milliseconds(d time.Duration) string {
	if d = max(d, 0); d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return dead.Ago(d)
}

func named(types map[uuid.UUID]string, id *uuid.UUID) string {
	if id == nil {
		return "-"
	}
	if typ := types[*id]; typ != "" {
		return typ
	}
	return id.String()
}

func none(s string) string {
	if s == "" {
		return "-"
	}
	return dead.Clean(s)
}
