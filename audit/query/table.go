package query

import (
	"bufio"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"sekisho/audit"
)

// A Table prints records for people, a line each. The columns are as wide as
// most values are: the log is too long to be looked through first. Wider ones
// push the rest of their line to the right.
type Table struct {
	// Widest is what a cell may have at most, or 0: a terminal is not to be
	// flooded with one value. What is read by programs is never cut.
	Widest int

	w      *bufio.Writer
	zone   *time.Location
	widths []int
	headed bool
}

// NewTable returns a table whose times are of the zone.
func NewTable(w io.Writer, zone *time.Location) *Table {
	t := &Table{w: bufio.NewWriter(w), zone: zone}
	for _, c := range columns {
		t.widths = append(t.widths, c.width)
	}
	t.widths[0] = len(time.Now().In(zone).Format(TimeLayout))
	return t
}

var columns = []struct {
	name  string
	width int
}{
	{"TIME", 0}, {"TYPE", 16}, {"WHO", 14}, {"SOURCE", 21}, {"TARGET → ADDRESS", 40}, {"UP", 9}, {"DOWN", 9}, {"LASTED", 8}, {"ID", 17}, {"WHY", 0},
}

// Add prints a record.
func (t *Table) Add(r audit.Record) error {
	if !t.headed {
		t.headed = true
		var names []string
		for _, c := range columns {
			names = append(names, c.name)
		}
		t.row(names)
	}
	source, up, down, took := "-", "-", "-", "-"
	if r.Source.Addr().IsValid() {
		source = r.Source.String()
	}
	counted := r.Type.Ends() || r.Type == audit.ForwardProgress
	if counted || r.BytesUp != 0 || r.BytesDown != 0 {
		up, down = size(r.BytesUp), size(r.BytesDown)
	}
	if r.Duration > 0 || counted && r.Type != audit.ForwardLost {
		took = lasted(r.Duration)
	}
	id := r.Forward
	if id == "" {
		id = r.Conn
	}
	target := way(&r)
	if target == "" {
		target = "-"
	}
	return t.row([]string{
		r.Time.In(t.zone).Format(TimeLayout), word(string(r.Type)), who(&r), source, target, up, down, took, word(id), why(&r),
	})
}

func (t *Table) row(cells []string) error {
	var line strings.Builder
	for i, c := range cells {
		if t.Widest > 0 {
			c = cut(c, t.Widest)
		}
		line.WriteString(c)
		if i < len(cells)-1 {
			pad := max(0, t.widths[i]-utf8.RuneCountInString(c))
			line.WriteString(strings.Repeat(" ", pad+2))
		}
	}
	_, err := t.w.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	return err
}

// Flush writes what is still held back.
func (t *Table) Flush() error { return t.w.Flush() }
