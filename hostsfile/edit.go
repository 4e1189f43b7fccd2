package hostsfile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// tabWidth is how far apart tabs stop in the files that people align with them.
const tabWidth = 8

// Add returns the content of a hosts file with one line more at its end, which
// gives the name the address; the line is aligned as the last one before it is.
// It is an error if the name has that address already, or if the file is not
// good as it is: one without a newline at its end, too, since that is how a
// cut-off file looks. Remove of the same name and address gives back the same
// bytes. The filename is only for the errors.
func Add(content []byte, filename, name string, addr netip.Addr) ([]byte, error) {
	e, err := newEditor(content, filename, name, addr)
	if err != nil {
		return nil, err
	}
	if len(e.found) > 0 {
		f := e.found[0]
		return nil, Problem{File: filename, Line: f.line + 1, Column: f.column, Message: fmt.Sprintf("%q has the address %s already", name, e.addr)}
	}
	want := e.table()
	want[e.name] = append(want[e.name], e.addr)
	e.lines = append(e.lines, e.addr.String()+e.gap(e.addr.String())+name+e.lineBreak())
	return e.result(want)
}

// Remove returns the content of a hosts file in which the name does not have
// the address. Of a line with other names, only the name is taken out; else the
// whole line, with the comment in it. It is an error if the name does not have
// the address, or if the file is not good as it is, as for Add.
//
// The result may have no names at all. Then it is not taken over while a table
// with names is in force, as the package comment says.
func Remove(content []byte, filename, name string, addr netip.Addr) ([]byte, error) {
	e, err := newEditor(content, filename, name, addr)
	if err != nil {
		return nil, err
	}
	if len(e.found) == 0 {
		return nil, e.notFound(name)
	}
	want := e.table()
	if want[e.name] = slices.DeleteFunc(want[e.name], func(a netip.Addr) bool { return a == e.addr }); len(want[e.name]) == 0 {
		delete(want, e.name)
	}
	for i := len(e.found) - 1; i >= 0; i-- { // from the right, so that columns stay as they are
		f := e.found[i]
		e.lines[f.line] = withoutName(e.lines[f.line], f)
	}
	return e.result(want)
}

// An editor holds a file that is good, and where in it the name has the
// address.
type editor struct {
	filename string
	name     string // in normal form
	addr     netip.Addr
	before   *Table
	mark     string // a byte order mark, or nothing
	lines    []string
	entries  []entry // all lines with an address
	found    []place
}

// An entry is a line with an address, by columns in bytes.
type entry struct {
	line            int // from 0
	address, second field
}

// A place is where a name stands.
type place struct {
	line, column int // the line from 0, the column from 1
	nth          int // 1 for the first name of the line
	text         string
}

func newEditor(content []byte, filename, name string, addr netip.Addr) (*editor, error) {
	e := &editor{filename: filename}
	var err error
	if e.name, err = normalName(name); err != nil {
		return nil, fmt.Errorf("name %q %w", name, err)
	}
	if !addr.IsValid() {
		return nil, fmt.Errorf("there is no address for %q", name)
	}
	if e.addr, err = parseAddr(addr.String()); err != nil {
		return nil, fmt.Errorf("%s %w", addr, err)
	}
	var problems []Problem
	if e.before, problems = parse(string(content), filename, nil); e.before == nil {
		return nil, &ParseError{problems}
	}
	text := string(content)
	if rest, ok := strings.CutPrefix(text, "\ufeff"); ok {
		e.mark, text = "\ufeff", rest
	}
	e.lines = slices.Collect(strings.Lines(text))
	if text != "" && !strings.HasSuffix(text, "\n") {
		last := len(e.lines)
		return nil, Problem{File: filename, Line: last, Column: len(e.lines[last-1]) + 1, Message: "no newline at the end: taken as cut off, and not edited"}
	}
	e.find()
	return e, nil
}

// find looks at every line that has an address.
func (e *editor) find() {
	var p parser
	for i, line := range e.lines {
		line, _, _ = strings.Cut(strings.TrimRight(line, "\r\n"), "#")
		p.split(line)
		if len(p.fields) < 2 {
			continue
		}
		e.entries = append(e.entries, entry{i, p.fields[0], p.fields[1]})
		addr, err := parseAddr(p.fields[0].text)
		if err != nil || addr != e.addr {
			continue
		}
		for nth, f := range p.fields[1:] {
			if name, err := normalName(f.text); err == nil && name == e.name {
				e.found = append(e.found, place{i, f.column, nth + 1, f.text})
			}
		}
	}
}

// table returns a copy of what the file says.
func (e *editor) table() map[string][]netip.Addr {
	table := make(map[string][]netip.Addr, e.before.Len())
	for name, addrs := range e.before.addrs {
		table[name] = slices.Clone(addrs)
	}
	return table
}

// result returns the new content, if it says what is wanted and nothing else.
func (e *editor) result(want map[string][]netip.Addr) ([]byte, error) {
	text := e.mark + strings.Join(e.lines, "")
	after, problems := parse(text, e.filename, nil)
	if after == nil {
		return nil, &ParseError{problems}
	}
	if !maps.EqualFunc(after.addrs, want, slices.Equal[[]netip.Addr]) {
		return nil, fmt.Errorf("%s: cannot be edited without changing other names: edit it by hand", e.filename)
	}
	return []byte(text), nil
}

// notFound says what the name has instead of the address.
func (e *editor) notFound(name string) error {
	addrs := e.before.find(e.name)
	if len(addrs) == 0 {
		return fmt.Errorf("%s: there is no name %q", e.filename, name)
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return fmt.Errorf("%s: %q does not have the address %s, but %s", e.filename, name, e.addr, strings.Join(texts, ", "))
}

// lineBreak returns how the last line ends.
func (e *editor) lineBreak() string {
	if len(e.lines) > 0 && strings.HasSuffix(e.lines[len(e.lines)-1], "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// gap returns what to write between an address and its name, so that the name
// begins where it does in the last line that has one.
func (e *editor) gap(address string) string {
	if len(e.entries) == 0 {
		return " "
	}
	last := e.entries[len(e.entries)-1]
	line := e.lines[last.line]
	between := line[last.address.column-1+len(last.address.text) : last.second.column-1]
	if strings.Contains(between, "\t") {
		// As many tabs as reach the name's column, and one at least.
		n := width(line[:last.second.column-1])/tabWidth - len(address)/tabWidth
		return strings.Repeat("\t", max(1, n))
	}
	if len(between) == 1 && !e.aligned(last) {
		return " "
	}
	return strings.Repeat(" ", max(1, last.second.column-1-len(address)))
}

// aligned reports whether another line, with an address of another length, has
// its name in the same column.
func (e *editor) aligned(last entry) bool {
	return slices.ContainsFunc(e.entries, func(o entry) bool {
		return len(o.address.text) != len(last.address.text) && o.second.column == last.second.column && o.address.column == last.address.column
	})
}

// width returns how wide a text is on a screen.
func width(s string) int {
	n := 0
	for _, c := range s {
		if n++; c == '\t' {
			n = (n + tabWidth - 1) / tabWidth * tabWidth
		}
	}
	return n
}

// withoutName returns the line without the name, and "" if it was the only one
// of the line. The first name goes with the blanks behind it, so that the next
// one takes its column, and any other with those before it.
func withoutName(line string, f place) string {
	before, after := line[:f.column-1], line[f.column-1+len(f.text):]
	if f.nth > 1 {
		return strings.TrimRight(before, " \t") + after
	}
	rest := strings.TrimLeft(after, " \t")
	if strings.Trim(rest, "\r\n") == "" || rest[0] == '#' {
		return ""
	}
	return before + rest
}
