package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A chart is lines over two logarithmic axes, as an SVG image that reads on light
// and dark pages.
type chart struct {
	title  string
	x, y   string // what the axes count
	series []series
	notes  []string // lines below
}

// A series is one line.
type series struct {
	name   string
	dashed bool
	colour int // of the colours of the style
	points []point
}

type point struct{ x, y float64 }

// The image, what of it the axes frame, and what is above and below that.
const (
	chartWidth, left, right = 680, 78, 40
	width, height           = chartWidth - left - right, 268
	legendTop, legendLine   = 51, 22
	axisText, noteLine      = 58, 16
)

// The background is drawn, since a page may be dark where the reader's system is
// light.
const chartStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 16px; font-weight: 600 } .note { font-size: 11px }
.back { fill: #fff } .frame { fill: none; stroke: #888 } .grid { stroke: #ddd }
.line { fill: none; stroke-width: 2.5 } .dash { stroke-dasharray: 6 4 }
.c0 { stroke: #0b63ce } .c1 { stroke: #c2410c } .c2 { stroke: #15803d } .c3 { stroke: #7e22ce }
.f0 { fill: #0b63ce } .f1 { fill: #c2410c } .f2 { fill: #15803d } .f3 { fill: #7e22ce }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .back { fill: #16181d } .frame { stroke: #777 } .grid { stroke: #333 }
.c0 { stroke: #6cb0ff } .c1 { stroke: #ff9a5c } .c2 { stroke: #5fd38a } .c3 { stroke: #c99bff }
.f0 { fill: #6cb0ff } .f1 { fill: #ff9a5c } .f2 { fill: #5fd38a } .f3 { fill: #c99bff }
}
</style>
`

// svg draws the chart. Points that a logarithmic axis has no place for are left
// out.
func (c chart) svg() string {
	var b strings.Builder
	entries, top := c.legend()
	chartHeight := top + height + axisText + noteLine*len(c.notes)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		chartWidth, chartHeight, chartWidth, chartHeight, html.EscapeString(c.title))
	b.WriteString(chartStyle)
	fmt.Fprintf(&b, `<rect class="back" width="%d" height="%d" rx="6"/>`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<text class="title" x="%d" y="28">%s</text>`+"\n", left, html.EscapeString(c.title))

	var xs, ys []float64
	for _, s := range c.series {
		for _, p := range s.drawn() {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	x, y := newAxis(xs), newAxis(ys)
	atX := func(v float64) float64 { return left + x.at(v)*width }
	atY := func(v float64) float64 { return float64(top) + (1-y.at(v))*height }

	for _, v := range x.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", atX(v), top, atX(v), top+height)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", atX(v), top+height+20, tickText(v))
	}
	for _, v := range y.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", left, atY(v), left+width, atY(v))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-8, atY(v)+4, tickText(v))
	}
	fmt.Fprintf(&b, `<rect class="frame" x="%d" y="%d" width="%d" height="%d"/>`+"\n", left, top, width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", left+width/2, top+height+46, html.EscapeString(c.x))
	fmt.Fprintf(&b, `<text transform="translate(20 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", top+height/2, html.EscapeString(c.y))

	for i, note := range c.notes {
		fmt.Fprintf(&b, `<text class="note" x="%d" y="%d">%s</text>`+"\n", left, top+height+axisText+8+noteLine*i, html.EscapeString(note))
	}
	for i, s := range c.series {
		at := entries[i]
		class := fmt.Sprintf("line c%d", s.colour)
		if s.dashed {
			class += " dash"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f"/>`+"\n", class, at.x, at.y, at.x+28, at.y)
		b.WriteString(s.mark(at.x+14, at.y))
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f">%s</text>`+"\n", at.x+34, at.y+4, html.EscapeString(s.name))

		var line []string
		for _, p := range s.drawn() {
			line = append(line, fmt.Sprintf("%.1f,%.1f", atX(p.x), atY(p.y)))
		}
		fmt.Fprintf(&b, `<polyline class="%s" points="%s"/>`+"\n", class, strings.Join(line, " "))
		for _, p := range s.drawn() {
			b.WriteString(s.mark(atX(p.x), atY(p.y)))
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// legend places the entries, in as many rows as they need and those of dashed lines
// in rows of their own, and returns where what is below them begins.
func (c chart) legend() (entries []point, top int) {
	x, y := left, legendTop
	for i, s := range c.series {
		wide := 34 + 7*len([]rune(s.name))
		if i > 0 && (x+wide > left+width || s.dashed != c.series[i-1].dashed) {
			x, y = left, y+legendLine
		}
		entries = append(entries, point{float64(x), float64(y)})
		x += wide + 20
	}
	return entries, y + 23
}

// mark is one point. Its shape goes with the colour, for those who do not tell
// colours apart.
func (s series) mark(x, y float64) string {
	switch s.colour {
	case 1:
		return fmt.Sprintf(`<rect class="f1" x="%.1f" y="%.1f" width="7" height="7"/>`+"\n", x-3.5, y-3.5)
	case 2:
		return fmt.Sprintf(`<path class="f2" d="M%.1f %.1f l4.5 8 h-9 z"/>`+"\n", x, y-5)
	}
	return fmt.Sprintf(`<circle class="f%d" cx="%.1f" cy="%.1f" r="3.5"/>`+"\n", s.colour, x, y)
}

// drawn are the points that have a place.
func (s series) drawn() (good []point) {
	for _, p := range s.points {
		if p.x > 0 && p.y > 0 && !math.IsInf(p.x, 0) && !math.IsInf(p.y, 0) {
			good = append(good, p)
		}
	}
	return good
}

// An axis is a logarithmic one, from low to high.
type axis struct{ low, high float64 }

// newAxis reaches from the step of 1, 2 or 5 below the least value to the one
// above the greatest.
func newAxis(values []float64) axis {
	if len(values) == 0 {
		return axis{1, 10}
	}
	low, high := math.Inf(1), 0.0
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	a := axis{stepBelow(low), stepBelow(high)}
	if a.high < high {
		a.high = stepAbove(a.high)
	}
	if a.high == a.low {
		a.high = stepAbove(a.high)
	}
	return a
}

func (a axis) at(v float64) float64 { return math.Log(v/a.low) / math.Log(a.high/a.low) }

// ticks are the steps of 1, 2 and 5 on the axis, or only those of 1 and its two
// ends if there are many.
func (a axis) ticks() []float64 {
	var all, few []float64
	for v := a.low; v <= a.high*1.001; v = stepAbove(v) {
		all = append(all, v)
		if math.Abs(math.Log10(v)-math.Round(math.Log10(v))) < 1e-6 || v == a.low || v > a.high*0.999 {
			few = append(few, v)
		}
	}
	if len(all) > 8 {
		return few
	}
	return all
}

// stepBelow is the greatest 1, 2 or 5 times a power of ten that is not above v.
func stepBelow(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)+1e-9))
	for _, m := range []float64{5, 2} {
		if v >= m*decade*(1-1e-9) {
			return m * decade
		}
	}
	return decade
}

// stepAbove is the step after v, which is one.
func stepAbove(v float64) float64 {
	switch v = stepBelow(v); math.Round(v / math.Pow(10, math.Floor(math.Log10(v)+1e-9))) {
	case 1:
		return 2 * v
	case 2:
		return 2.5 * v
	}
	return 2 * v
}

// tickText writes a step with thousands parted.
func tickText(v float64) string {
	if v < 1 {
		return strings.TrimRight(fmt.Sprintf("%.6f", v), "0")
	}
	return thousands(int(math.Round(v)))
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
