package audit

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes the report for people: the invariants, then every violation with its order and what happened to it, each
// event below its cause.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tRESULT\tROWS\tTHE PROMISE")
	for _, i := range r.Checked {
		result := "ok"
		switch {
		case i.Violated > 0:
			result = fmt.Sprintf("VIOLATED %d", i.Violated)
		case i.Skipped != "" && i.Rows == 0:
			result = "-"
		case i.Skipped != "":
			result = "ok so far"
		}
		sentence := i.Sentence
		if i.Skipped != "" {
			sentence += " (" + i.Skipped + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", i.ID, result, i.Rows, sentence)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Violations) > 0 {
		fmt.Fprintln(w)
	}
	told := map[string]bool{}
	for _, v := range r.Violations {
		where := []string{v.Invariant}
		if v.Service != "" {
			where = append(where, v.Service)
		}
		if v.Saga != "" {
			where = append(where, v.about()+" "+v.Saga)
		}
		fmt.Fprintf(w, "%s: %s\n", strings.Join(where, "  "), v.What)
		if told[v.Saga] {
			continue // its events stand above
		}
		told[v.Saga] = v.Saga != ""
		for _, e := range v.Trace {
			fmt.Fprintf(w, "      %s  %-9s %s%s\n", e.At.Format("2006-01-02 15:04:05.000000"), e.Service, strings.Repeat("  ", e.Depth), e.Type)
		}
	}
	rest := "at rest"
	if !r.AtRest {
		rest = "not at rest: " + strings.Join(r.Unrest, ", ")
	}
	_, err := fmt.Fprintf(w, "\n%s, %s, %s\n", r.At.Format(time.RFC3339), rest, r.Took.Round(time.Millisecond))
	return err
}

// about is what the saga is: an order, unless it began otherwise, such as with a change of the menu.
func (v Violation) about() string {
	if len(v.Trace) > 0 && !slices.ContainsFunc(v.Trace, func(e Event) bool { return e.Type == placed }) {
		return "saga"
	}
	return "order"
}
