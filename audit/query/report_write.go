package query

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// mostShown are the rows of refusals and of failed logins in the text; CSV and
// JSON have all of them.
const mostShown = 50

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error { return WriteJSON(w, r) }

// WriteText writes the report for people: what was refused comes first.
func (r *Report) WriteText(w io.Writer, zone *time.Location) error {
	var b bytes.Buffer
	clock := func(t time.Time) string { return t.In(zone).Format(TimeLayout) }
	edge := func(t time.Time, none string) string {
		if t.IsZero() {
			return none
		}
		return clock(t)
	}
	fmt.Fprintf(&b, "Report of the audit log, from %s to %s\n", edge(r.From, "its begin"), edge(r.To, "its end"))
	if r.Records == 0 {
		b.WriteString("\nThere is nothing in that time.\n")
		_, err := w.Write(b.Bytes())
		return err
	}
	fmt.Fprintf(&b, "Made of %s between %s and %s\n", count(r.Records, "record"), clock(r.First), clock(r.Last))

	var times uint64
	rows := [][]string{{"TIMES", "WHO", "WHAT", "REASON", "FIRST", "LAST"}}
	for i, d := range r.Denials {
		times += d.Count
		who, what := word(d.User), d.what()
		if d.Others {
			who, what = "(others)", "-"
		}
		if i < mostShown {
			rows = append(rows, []string{number(d.Count), who, what, word(d.Reason), clock(d.First), clock(d.Last)})
		}
	}
	section(&b, "Refused", times, rows, len(r.Denials))

	times = 0
	rows = [][]string{{"TIMES", "SOURCE", "LOGINS TRIED", "FIRST", "LAST"}}
	for i, f := range r.FailedLogins {
		times += f.Count
		source := "-"
		if f.Source.IsValid() {
			source = f.Source.String()
		}
		if f.Others {
			source = "(others)"
		}
		if i < mostShown {
			rows = append(rows, []string{number(f.Count), source, f.logins(word), clock(f.First), clock(f.Last)})
		}
	}
	section(&b, "Failed logins", times, rows, len(r.FailedLogins))

	times = 0
	var open, lost uint64
	rows = [][]string{{"WHO", "TARGET", "FORWARDS", "UP", "DOWN", "FAILED", "LOST", "OPEN", "FIRST", "LAST"}}
	last := ""
	for i, x := range r.Reached {
		times += x.Forwards + x.Earlier
		open, lost = open+x.Open, lost+x.Lost
		who, target := word(x.User), word(x.Target)
		if x.Others {
			who, target = "(others)", "-"
		}
		if i > 0 && who == last {
			who = "" // the same as above
		} else {
			last = who
		}
		rows = append(rows, []string{
			who, target, number(x.Forwards + x.Earlier), size(x.BytesUp), size(x.BytesDown), number(x.Failed), number(x.Lost), number(x.Open), clock(x.First), clock(x.Last),
		})
	}
	section(&b, "Forwards", times, rows, len(r.Reached))
	if open > 0 {
		fmt.Fprintf(&b, "Still open at the end: %d.\n", open)
	}
	if lost > 0 {
		fmt.Fprintf(&b, "Lost when the server was cut off: %d.\n", lost)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// what names a target, or a request.
func (d *Denial) what() string {
	if request, ok := strings.CutPrefix(d.What, asked); ok {
		return asked + word(request)
	}
	return word(d.What)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// logins lists the names that were tried.
func (f *FailedLogin) logins(write func(string) string) string {
	names := make([]string, len(f.Logins))
	for i, l := range f.Logins {
		names[i] = write(l)
	}
	if f.MoreLogins {
		names = append(names, "…")
	}
	return strings.Join(names, " ")
}

// section writes a table, whose columns are as wide as they need to be. The
// numbers in it are set to the right.
func section(b *bytes.Buffer, title string, times uint64, rows [][]string, all int) {
	fmt.Fprintf(b, "\n%s: ", title)
	if all == 0 {
		b.WriteString("none\n")
		return
	}
	fmt.Fprintf(b, "%d\n\n", times)
	right := map[string]bool{"TIMES": true, "FORWARDS": true, "UP": true, "DOWN": true, "FAILED": true, "LOST": true, "OPEN": true}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			line.WriteString("  ")
			if right[rows[0][i]] {
				line.WriteString(pad + c)
			} else {
				line.WriteString(c + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	if more := all - (len(rows) - 1); more > 0 {
		fmt.Fprintf(b, "  and %d rows more; --format csv has them all\n", more)
	}
}

// WriteCSV writes the report as one table. The first column says of what a row
// is: denied, failed_login or reached. Times are RFC 3339, in UTC.
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	clock := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	c.Write([]string{
		"what", "user", "target", "reason", "source", "logins", "count", "first", "last",
		"bytes_up", "bytes_down", "earlier", "closed", "failed", "lost", "open",
	})
	const others = "(others)"
	for _, d := range r.Denials {
		user := d.User
		if d.Others {
			user = others
		}
		c.Write([]string{"denied", cell(user), cell(d.What), cell(d.Reason), "", "", number(d.Count), clock(d.First), clock(d.Last), "", "", "", "", "", "", ""})
	}
	for _, f := range r.FailedLogins {
		source := ""
		if f.Source.IsValid() {
			source = f.Source.String()
		}
		if f.Others {
			source = others
		}
		c.Write([]string{"failed_login", "", "", "", source, cell(f.logins(word)), number(f.Count), clock(f.First), clock(f.Last), "", "", "", "", "", "", ""})
	}
	for _, x := range r.Reached {
		user := x.User
		if x.Others {
			user = others
		}
		c.Write([]string{
			"reached", cell(user), cell(x.Target), "", "", "", number(x.Forwards), clock(x.First), clock(x.Last),
			number(x.BytesUp), number(x.BytesDown), number(x.Earlier), number(x.Closed), number(x.Failed), number(x.Lost), number(x.Open),
		})
	}
	c.Flush()
	return c.Error()
}

// cell makes a text harmless for a program that calculates: one that begins as
// a formula does gets an apostrophe before it.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		s = "'" + s
	}
	return Printable(s)
}
