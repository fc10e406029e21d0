package bench

import (
	_ "embed"
	"fmt"
	"math"
	"strings"
	"text/template"
)

// bar is a value with its name.
type bar struct {
	name  string
	value float64
}

// line is a curve with its name.
type line struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

// The size of a plot in pixels, and of what is around it.
const (
	wide, high              = 760, 380
	left, right, top, below = 74, 24, 52, 56
	barHigh, barLeft        = 34, 260
)

// colours can be told apart by people who see colours differently (Okabe and Ito); dashes tell lines apart without any.
var (
	colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}
	dashes  = []string{"", "8 4", "2 3", "10 3 2 3", "5 5", "1 4"}
)

//go:embed chart.svg.tmpl
var chartText string

var chartTemplate = template.Must(template.New("chart").Funcs(template.FuncMap{"px": func(v float64) string { return fmt.Sprintf("%.1f", v) }}).Parse(chartText))

// chart is what the template draws. Everything is in pixels from the top left.
type chart struct {
	Wide, High int
	Title      string
	X, Y       string
	Marks      []mark // of the axes
	Bars       []drawn
	Lines      []drawn
}

// mark is a line of the grid with its label, at (LX, LY) and anchored there.
type mark struct {
	X1, Y1, X2, Y2, LX, LY float64
	Label, Anchor          string
}

// drawn is a bar or a line.
type drawn struct {
	X, Y, Width, Height  float64 // of a bar
	Path, Dash           string  // of a line
	Name, Value, Colour  string
	NameX, NameY, ValueX float64
}

// bars draws horizontal bars from zero, each with its name and value.
func bars(title, unit string, all []bar) string {
	most := 0.0
	for _, b := range all {
		most = max(most, b.value)
	}
	c := chart{Wide: wide, High: top + barHigh*len(all) + 20, Title: title + ", " + unit}
	room := float64(wide - barLeft - 90)
	for i, b := range all {
		y := float64(top + barHigh*i)
		width := room * b.value / max(most, 1e-9)
		c.Bars = append(c.Bars, drawn{
			X: barLeft, Y: y, Width: width, Height: barHigh - 10, Colour: colours[0],
			Name: b.name, NameX: barLeft - 10, NameY: y + 17, Value: num(b.value), ValueX: barLeft + width + 8,
		})
	}
	return draw(c)
}

// axis says how the x axis is marked.
type axis struct {
	title string
	marks func(most float64) []mark // X1 is the value, Label what is written there
}

var (
	seconds = axis{"seconds", func(most float64) (marks []mark) {
		for _, v := range ticks(most) {
			marks = append(marks, mark{X1: v, Label: num0(v)})
		}
		return marks
	}}
	// nines has a step for each nine: 90 %, 99 %, 99.9 %.
	nines = axis{"share of all orders", func(most float64) (marks []mark) {
		for n, label := range []string{"0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"} {
			if float64(n) <= most {
				marks = append(marks, mark{X1: float64(n), Label: label})
			}
		}
		return append(marks, mark{X1: math.Log10(2), Label: "50 %"})
	}}
)

// ninesOf is how many nines a share has: 1 for 0.9, 2 for 0.99.
func ninesOf(share float64) float64 { return -math.Log10(max(1-share, 1e-9)) }

// lines draws curves over a common x axis, from zero.
func lines(title string, x axis, y string, all []line) string {
	var mostX, mostY float64
	for _, l := range all {
		for _, p := range l.points {
			mostX, mostY = max(mostX, p.x), max(mostY, p.y)
		}
	}
	scale := ticks(mostY)
	mostX, mostY = max(mostX, 1e-9), max(scale[len(scale)-1], 1e-9)
	atX := func(v float64) float64 { return left + v/mostX*(wide-left-right) }
	atY := func(v float64) float64 { return high - below - v/mostY*(high-top-below) }
	c := chart{Wide: wide, High: high, Title: title, X: x.title, Y: y}
	for _, v := range scale {
		c.Marks = append(c.Marks, mark{left, atY(v), wide - right, atY(v), left - 8, atY(v) + 4, num0(v), "end"})
	}
	for _, m := range x.marks(mostX) {
		if m.X1 <= mostX {
			c.Marks = append(c.Marks, mark{atX(m.X1), top, atX(m.X1), high - below, atX(m.X1), high - below + 18, m.Label, "middle"})
		}
	}
	for i, l := range all {
		var path strings.Builder
		for n, p := range l.points {
			command := "L"
			if n == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", command, atX(p.x), atY(p.y))
		}
		c.Lines = append(c.Lines, drawn{
			Path: path.String(), Colour: colours[i%len(colours)], Dash: dashes[i%len(dashes)],
			Name: l.name, NameX: left + 14, NameY: float64(top + 18 + 20*i),
		})
	}
	return draw(c)
}

// ticks are round numbers from zero to the first that is not below most, three to six of them.
func ticks(most float64) (values []float64) {
	if most <= 0 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(most/3)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if most/(step*factor) <= 5 {
			step *= factor
			break
		}
	}
	for n := 0.0; ; n++ {
		values = append(values, n*step)
		if n*step >= most {
			return values
		}
	}
}

// num0 writes a round number.
func num0(v float64) string {
	if v >= 1000 {
		return thousands(int(v + 0.5))
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}

func draw(c chart) string {
	var out strings.Builder
	if err := chartTemplate.Execute(&out, c); err != nil {
		panic(err) // the template and the fields are both ours
	}
	return out.String()
}
