package hostsfile

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a file. They are far beyond what anybody writes, and keep a wrong
// file, such as a disk image, from being loaded into memory.
const (
	maxFile     = 16 << 20 // bytes
	maxLine     = 4 << 10  // bytes, without the line's end
	maxEntries  = 1_000_000
	maxProblems = 1000 // told, before Parse gives up

	maxName  = 253 // bytes, without the trailing dot
	maxLabel = 63
)

// A Problem is something wrong at one place of a file. The file is in use only
// when all its problems are warnings.
type Problem struct {
	File         string
	Line, Column int // from 1; the column counts bytes, without a byte order mark
	Message      string
	Warning      bool
}

func (p Problem) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// A ParseError is why a file was not accepted, with every problem in it.
type ParseError struct {
	Problems []Problem // in file order; warnings too
}

// Error gives the problems one a line.
func (e *ParseError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a whole hosts file. It returns every problem at once, in file
// order, and no table when any of them is an error. The filename is only for the
// problems.
func Parse(r io.Reader, filename string) (*Table, []Problem) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, []Problem{{File: filename, Line: 1, Column: 1, Message: "cannot be read: " + err.Error()}}
	}
	return parse(string(text), filename, nil)
}

// parse is Parse for a file that replaces the table old, which may be nil. What
// looks like a cut-off file is an error where there is an old table to keep.
func parse(text, filename string, old *Table) (*Table, []Problem) {
	p := parser{file: filename, line: 1, addrs: make(map[string][]netip.Addr)}
	if len(text) > maxFile {
		p.errorf(1, "file is larger than %d MiB", maxFile>>20)
		return nil, p.problems
	}
	rest := strings.TrimPrefix(text, "\ufeff")
	for ; rest != "" && !p.stopped; p.line++ {
		line, after, ended := strings.Cut(rest, "\n")
		if ended {
			line = strings.TrimSuffix(line, "\r")
		}
		p.parseLine(line)
		switch {
		case ended:
		case old != nil:
			p.errorf(len(line)+1, "no newline at the end: taken as cut off")
		default:
			p.report(Problem{Column: len(line) + 1, Warning: true,
				Message: "no newline at the end: accepted now, but a later change that ends so is taken as cut off"})
		}
		rest = after
	}
	if old.Len() > 0 && len(p.addrs) == 0 && !p.failed {
		p.line = 1
		p.errorf(1, "no names in the file: taken as cut off, since there were names before (a file without names is accepted at start only)")
	}
	if p.failed {
		return nil, p.problems
	}
	// Only now, once a name: looking for a duplicate at each line would take
	// quadratic time for a name with very many addresses.
	for name, addrs := range p.addrs {
		if len(addrs) > 1 {
			p.addrs[name] = unique(addrs)
		}
	}
	return &Table{p.addrs}, p.problems
}

// A parser goes through one file.
type parser struct {
	file     string
	line     int
	addrs    map[string][]netip.Addr // duplicates not yet removed
	entries  int
	fields   []field // of the line; kept between lines to reuse its memory
	problems []Problem
	failed   bool // one of problems is an error
	stopped  bool // a bound was passed: the rest is not looked at
}

type field struct {
	column int
	text   string
}

func (p *parser) errorf(column int, format string, args ...any) {
	p.report(Problem{Column: column, Message: fmt.Sprintf(format, args...)})
}

func (p *parser) report(problem Problem) {
	if p.stopped {
		return
	}
	problem.File, problem.Line = p.file, p.line
	if len(p.problems) == maxProblems {
		p.stopped = true
		problem.Message, problem.Warning = fmt.Sprintf("more than %d problems: the rest is not looked at", maxProblems), false
	}
	p.failed = p.failed || !problem.Warning
	p.problems = append(p.problems, problem)
}

func (p *parser) parseLine(line string) {
	if len(line) > maxLine {
		p.errorf(maxLine+1, "line is longer than %d bytes", maxLine)
		return
	}
	// In comments too: zero bytes are how a file looks that a crash cut off, and
	// escape sequences are not for the terminal of whoever prints the file.
	if i := strings.IndexFunc(line, isControl); i >= 0 {
		r, _ := utf8.DecodeRuneInString(line[i:])
		p.errorf(i+1, "control character %q", r)
		return
	}
	line, _, _ = strings.Cut(line, "#")
	p.split(line)
	if len(p.fields) == 0 {
		return
	}
	first, names := p.fields[0], p.fields[1:]
	addr, err := parseAddr(first.text)
	switch {
	case err != nil && len(names) > 0 && isAddr(names[0].text):
		p.errorf(first.column, "%q is not an address: the address comes first, then its names", first.text)
		return
	case err != nil:
		p.errorf(first.column, "%q %v", first.text, err)
	case len(names) == 0:
		p.errorf(first.column, "address %s has no name", first.text)
	}
	for _, f := range names {
		if p.entries++; p.entries > maxEntries {
			p.errorf(f.column, "more than %d entries: the rest is not looked at", maxEntries)
			p.stopped = true
			return
		}
		name, err := normalName(f.text)
		switch {
		case err != nil && isAddr(f.text):
			p.errorf(f.column, "%q is an address where a name is expected: each address begins a line", f.text)
		case err != nil:
			p.errorf(f.column, "name %q %v", f.text, err)
		case addr.IsValid():
			p.addrs[name] = append(p.addrs[name], addr)
		}
	}
}

// split sets p.fields to what blanks and tabs part in the line. Other white
// space, which an editor may show as a blank, does not part.
func (p *parser) split(line string) {
	p.fields = p.fields[:0]
	for i := 0; i < len(line); {
		n := strings.IndexAny(line[i:], " \t")
		if n < 0 {
			n = len(line) - i
		}
		if n > 0 {
			p.fields = append(p.fields, field{i + 1, line[i : i+n]})
		}
		i += n + 1
	}
}

func isControl(r rune) bool { return r != '\t' && unicode.IsControl(r) }

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "ParseAddr("+strconv.Quote(s)+"): ")
		return netip.Addr{}, fmt.Errorf("is not an address: %s", why)
	}
	if addr.Zone() != "" {
		return netip.Addr{}, errors.New("has a zone, which means something on one machine only")
	}
	return addr.Unmap(), nil
}

// normalName returns a host name's one spelling: lower case, no trailing dot.
// Only ASCII is folded: Unicode has letters whose lower case is an ASCII one.
func normalName(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if len(name) > maxName {
		return "", fmt.Errorf("is longer than %d bytes", maxName)
	}
	upper := false
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
		case 'A' <= r && r <= 'Z':
			upper = true
		case r >= utf8.RuneSelf:
			return "", fmt.Errorf("contains %+q: letters beyond ASCII are written as xn--…", r)
		default:
			return "", fmt.Errorf("contains %q: only letters, digits, '-', '_' and '.' may stand in it", r)
		}
	}
	if upper {
		name = strings.ToLower(name)
	}
	var last string
	for last = range strings.SplitSeq(name, ".") {
		switch {
		case last == "":
			return "", errors.New("has an empty label")
		case len(last) > maxLabel:
			return "", fmt.Errorf("has a label longer than %d bytes", maxLabel)
		case last[0] == '-' || last[len(last)-1] == '-':
			return "", errors.New("has a label that begins or ends with '-'")
		}
	}
	if isNumber(last) {
		return "", errors.New("ends in a number, as an address does")
	}
	return name, nil
}

// isNumber reports whether a host name that ends in this label would be read as
// an IPv4 address by inet_aton and its many copies: "1", "0177", "0x7f", "0x".
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// unique removes, in place, every address that came before.
func unique(addrs []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(addrs))
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		before := seen[a]
		seen[a] = true
		return before
	})
}
