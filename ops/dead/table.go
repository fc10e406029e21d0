package dead

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// causeMax is how much of a cause a table shows; --cause takes it as it is shown.
const causeMax = 160

// plainMax is how many lines a preview shows one by one.
const plainMax = 20

func table(w io.Writer, rows func(io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	t.Flush()
}

// Table writes the letters, each or by what they died of.
func Table(w io.Writer, letters []Letter, each bool, now time.Time) {
	table(w, func(t io.Writer) {
		if each {
			fmt.Fprintln(t, "MESSAGE\tSERVICE\tEVENT\tSTEP\tORDER\tAGE\tATTEMPTS\tREDRIVEN\tCAUSE")
			for _, l := range letters {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", none(l.ID), l.Service, none(l.Type), none(l.Step), none(l.Saga), age(now, l.At), l.Attempts, l.Redriven, Cut(l.Cause))
			}
			return
		}
		fmt.Fprintln(t, "COUNT\tSERVICE\tEVENT\tSTEP\tOLDEST\tNEWEST\tREDRIVEN\tCAUSE")
		for _, g := range Groups(letters) {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Count, g.Service, none(g.Type), none(g.Step), age(now, g.Oldest), age(now, g.Newest), upTo(g), Cut(g.Cause))
		}
	})
}

// Table writes what would go where.
func (p *Plan) Table(w io.Writer, each bool, now time.Time) {
	if each || len(p.Items) <= plainMax {
		table(w, func(t io.Writer) {
			if len(p.Items) > 0 {
				fmt.Fprintln(t, "MESSAGE\tEVENT\tBACK TO\tINBOX\tREDRIVEN\tAGE\tCAUSE")
			}
			for _, i := range p.Items {
				fmt.Fprintf(t, "%s\t%s\tqueue %s\t%s\t%d\t%s\t%s\n", none(i.ID), none(i.Type), i.To, i.Inbox, i.Redriven, age(now, i.At), Cut(i.Cause))
			}
		})
	} else {
		byInbox := map[string][]Letter{}
		for _, i := range p.Items {
			byInbox[i.Inbox] = append(byInbox[i.Inbox], i.Letter)
		}
		table(w, func(t io.Writer) {
			fmt.Fprintln(t, "COUNT\tEVENT\tBACK TO\tINBOX\tREDRIVEN\tOLDEST\tCAUSE")
			for _, inbox := range slices.Sorted(maps.Keys(byInbox)) {
				for _, g := range Groups(byInbox[inbox]) {
					fmt.Fprintf(t, "%d\t%s\tqueue %s\t%s\t%s\t%s\t%s\n", g.Count, none(g.Type), g.Service, inbox, upTo(g), age(now, g.Oldest), Cut(g.Cause))
				}
			}
		})
	}
	note := func(n int, what string) {
		if n > 0 {
			fmt.Fprintf(w, "%d %s\n", n, what)
		}
	}
	count := func(which func(Item) bool) (n int) {
		for _, i := range p.Items {
			if which(i) {
				n++
			}
		}
		return n
	}
	note(count(func(i Item) bool { return i.Inbox == Handled }), "handled already: sent back they change nothing, and are gone")
	note(count(func(i Item) bool { return i.Inbox == Unheard }), "of a type that the service does not hear: sent back they die again")
	note(count(func(i Item) bool { return i.Foreign }), "not published by the service that they say they are from: sent back they are believed")
	note(len(p.LeftOut), "left out, as they were not published by the service that they say they are from; choose them by --id")
}

// Print writes all that is known of one dead letter.
func (o Opened) Print(w io.Writer, now time.Time) {
	table(w, func(t io.Writer) {
		line := func(name, format string, args ...any) {
			if value := fmt.Sprintf(format, args...); value != "" {
				fmt.Fprintf(t, "%s\t%s\n", name, value)
			}
		}
		line("message", "%s", none(o.ID))
		line("event", "%s from %s", none(o.Type), none(o.From))
		line("order", "%s", none(o.Saga))
		line("dead letter of", "%s", o.Service)
		line("step", "%s", Clean(o.Step))
		line("reason", "%s", Clean(o.Reason))
		if !o.At.IsZero() {
			line("set aside", "%s, %s ago, after attempt %d", o.At.Local().Format(time.DateTime), age(now, o.At), o.Attempts)
		}
		if o.Redriven > 0 {
			line("redriven", "%d×, last by %s %s ago", o.Redriven, none(o.RedrivenBy), age(now, o.RedrivenAt))
		}
		var handled []string
		for _, h := range o.Handled {
			handled = append(handled, h.Step)
		}
		line("handled by", "%s", strings.Join(handled, ", "))
		line("not handled by", "%s", strings.Join(o.Awaiting, ", "))
		if o.Foreign {
			line("beware", "not published by %s: sent back it would be believed", none(o.From))
		}
	})
	if len(o.Ledger) > 0 {
		fmt.Fprintln(w, "\nattempts")
		table(w, func(t io.Writer) {
			for _, a := range o.Ledger {
				next := "set aside"
				if a.NextAt != nil {
					next = "again at " + a.NextAt.Local().Format(time.TimeOnly)
				}
				fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\n", a.N, none(a.Step), a.At.Local().Format(time.DateTime), next, Clean(a.Error))
			}
		})
	}
	fmt.Fprintln(w, "\nheaders")
	table(w, func(t io.Writer) {
		for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
			fmt.Fprintf(t, "  %s\t%s\n", Clean(name), Clean(fmt.Sprint(o.Headers[name])))
		}
	})
	fmt.Fprintf(w, "\nbody, %d bytes\n  %s\n", o.Bytes, pretty(o.Body))
}

// pretty is a body for people: JSON with its fields below each other, anything else as it is, if it can be shown at all.
func pretty(body string) string {
	var out bytes.Buffer
	if json.Indent(&out, []byte(body), "  ", "  ") == nil {
		body = out.String()
	}
	if !utf8.ValidString(body) || strings.ContainsFunc(body, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", body)
	}
	return body
}

// Clean is a text that cannot do anything to a table or a terminal: what is on a dead letter came from anybody.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func none(s string) string {
	if s == "" {
		return "-"
	}
	return Clean(s)
}

// Cut is the beginning of a text, without what is only of one message.
func Cut(s string) string {
	s = Clean(causeOf(s))
	if utf8.RuneCountInString(s) <= causeMax {
		return s
	}
	return string([]rune(s)[:causeMax]) + "…"
}

func upTo(g Group) string {
	if g.Count > 1 && g.Redriven > 0 {
		return fmt.Sprintf("up to %d", g.Redriven)
	}
	return fmt.Sprint(g.Redriven)
}

func age(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return Ago(now.Sub(at))
}

// Ago is how long something is, for tables: 4s, 3m, 2h, 5d.
func Ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}
