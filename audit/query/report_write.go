package query

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What the text has at most; CSV and JSON have all.
const (
	mostShown   = 50  // rows of refusals and of failed logins
	mostShownOf = 10  // refusals of one user
	mostWide    = 120 // columns of a cell
	mostSaid    = 10  // what is wrong with the log
)

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
	r.caveats(&b, zone)
	if r.Records == 0 {
		b.WriteString("\nThere is nothing in that time.\n")
		_, err := w.Write(b.Bytes())
		return err
	}
	fmt.Fprintf(&b, "Made of %s between %s and %s\n", count(r.Records, "record"), clock(r.First), clock(r.Last))

	var times uint64
	rows := [][]string{{"TIMES", "WHO", "WHAT", "REASON", "FIRST", "LAST"}}
	shown, left, unshown := map[string]int{}, map[string]int{}, 0
	for _, d := range r.Denials {
		times += d.Count
		switch {
		case len(rows) > mostShown:
			unshown++
		case shown[d.User] >= mostShownOf:
			left[d.User]++
		default:
			shown[d.User]++
			rows = append(rows, []string{number(d.Count), d.who(), d.what(), word(d.Reason), clock(d.First), clock(d.Last)})
		}
	}
	section(&b, "Refused", times, rows)
	for _, user := range slices.Sorted(maps.Keys(left)) {
		fmt.Fprintf(&b, "  and %d more of %s; --format csv has them all\n", left[user], cut(word(user), mostWide))
	}
	more(&b, unshown)

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
	section(&b, "Failed logins", times, rows)
	more(&b, len(r.FailedLogins)-(len(rows)-1))

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
	section(&b, "Forwards", times, rows)
	if open > 0 {
		fmt.Fprintf(&b, "Still open at the end: %d.\n", open)
	}
	if lost > 0 {
		fmt.Fprintf(&b, "Lost when the server was cut off: %d.\n", lost)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// caveats tells what the report cannot have.
func (r *Report) caveats(b *bytes.Buffer, zone *time.Location) {
	if !r.Complete {
		b.WriteString("NOT COMPLETE: the log is damaged, or not all of it could be read.\n")
		for _, d := range r.Damage[:min(len(r.Damage), mostSaid)] {
			fmt.Fprintf(b, "- %s\n", Printable(d))
		}
		if more := len(r.Damage) - mostSaid; more > 0 {
			fmt.Fprintf(b, "- and more: sekisho audit verify finds all of it\n")
		}
	}
	if r.Begins != nil {
		fmt.Fprintf(b, "%s.\n", r.Begins.Say(zone))
	}
}

// who names the user, and that more of him, or of all, are taken together.
func (d *Denial) who() string {
	switch {
	case !d.Others:
		return word(d.User)
	case d.User == "":
		return "(others)"
	}
	return word(d.User) + " (others)"
}

// what names a target, or a request.
func (d *Denial) what() string {
	switch {
	case d.Others:
		return "-"
	case d.Target == "":
		return "request " + word(d.Request)
	}
	return word(d.Target)
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
func section(b *bytes.Buffer, title string, times uint64, rows [][]string) {
	fmt.Fprintf(b, "\n%s: ", title)
	if len(rows) == 1 {
		b.WriteString("none\n")
		return
	}
	fmt.Fprintf(b, "%d\n\n", times)
	right := map[string]bool{"TIMES": true, "FORWARDS": true, "UP": true, "DOWN": true, "FAILED": true, "LOST": true, "OPEN": true}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			row[i] = cut(c, mostWide)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
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
}

func more(b *bytes.Buffer, n int) {
	if n > 0 {
		fmt.Fprintf(b, "  and %s more; --format csv has them all\n", count(n, "row"))
	}
}

// cut shortens a cell that would make a table too wide to be read.
func cut(cell string, most int) string {
	if utf8.RuneCountInString(cell) <= most {
		return cell
	}
	return string([]rune(cell)[:most-1]) + "…"
}

// columnsCSV are those of every row. What a row does not have is empty.
var columnsCSV = []string{
	"what", "user", "target", "request", "reason", "source", "logins", "count", "first", "last",
	"bytes_up", "bytes_down", "earlier", "closed", "failed", "lost", "open", "detail",
}

// WriteCSV writes the report as one table. The first column says of what a row
// is: denied, failed_login or reached; and before them, if the report lacks
// something, damage, and log_begins. Times are RFC 3339, in UTC.
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	clock := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	c.Write(columnsCSV)
	row := func(values map[string]string) {
		cells := make([]string, len(columnsCSV))
		for i, name := range columnsCSV {
			cells[i] = values[name]
		}
		c.Write(cells)
	}
	name := func(s string, isOthers bool) string {
		if isOthers && s == "" {
			return "(others)"
		}
		return cell(s)
	}
	if !r.Complete && len(r.Damage) == 0 {
		row(map[string]string{"what": "damage"})
	}
	for _, d := range r.Damage {
		row(map[string]string{"what": "damage", "detail": cell(d)})
	}
	if r.Begins != nil {
		row(map[string]string{"what": "log_begins", "first": clock(r.Begins.Time), "detail": r.Begins.Say(time.UTC)})
	}
	for _, d := range r.Denials {
		detail := ""
		if d.Others {
			detail = "(others)"
		}
		row(map[string]string{
			"what": "denied", "user": name(d.User, d.Others), "target": cell(d.Target), "request": cell(d.Request), "reason": cell(d.Reason),
			"count": number(d.Count), "first": clock(d.First), "last": clock(d.Last), "detail": detail,
		})
	}
	for _, f := range r.FailedLogins {
		source := ""
		if f.Source.IsValid() {
			source = f.Source.String()
		}
		row(map[string]string{
			"what": "failed_login", "source": name(source, f.Others), "logins": cell(f.logins(word)),
			"count": number(f.Count), "first": clock(f.First), "last": clock(f.Last),
		})
	}
	for _, x := range r.Reached {
		row(map[string]string{
			"what": "reached", "user": name(x.User, x.Others), "target": cell(x.Target),
			"count": number(x.Forwards), "first": clock(x.First), "last": clock(x.Last),
			"bytes_up": number(x.BytesUp), "bytes_down": number(x.BytesDown), "earlier": number(x.Earlier),
			"closed": number(x.Closed), "failed": number(x.Failed), "lost": number(x.Lost), "open": number(x.Open),
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
