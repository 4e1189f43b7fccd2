package policyedit

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"sekisho/authz/strictyaml"
)

const byteOrderMark = "\ufeff"

// A policy is a file's text, its tree, and how the one lies in the other.
type policy struct {
	name  string
	mark  string // a byte order mark, or nothing
	text  string // after it, as positions count
	root  *strictyaml.Node
	lines []line

	offsets map[place]int // of the first byte of each node but those of nothing
	ends    map[int]int   // behind flow collections and quoted texts, by where they begin
}

// A line is a line of the text, by offsets.
type line struct {
	start   int
	end     int // of the text in it: the line break begins here
	next    int // the following line begins here
	indent  int // how many blanks it begins with
	comment int // where its comment begins, or -1
	content bool
}

// onlyComment reports whether there is nothing but a comment in the line.
func (l line) onlyComment() bool { return !l.content && l.comment >= 0 }

// blank reports whether there is nothing in the line.
func (l line) blank() bool { return !l.content && l.comment < 0 }

type place struct{ line, column int }

func placeOf(n *strictyaml.Node) place { return place{n.Line, n.Column} }

// read reads a file that is to be edited. Every error has its place.
func read(content []byte, filename string) (*policy, error) {
	root, problems := strictyaml.Parse(bytes.NewReader(content), filename)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	p := &policy{name: filename, root: root, offsets: map[place]int{}, ends: map[int]int{}}
	p.text = string(content)
	if rest, ok := strings.CutPrefix(p.text, byteOrderMark); ok {
		p.mark, p.text = byteOrderMark, rest
	}
	if root.Kind != strictyaml.Mapping {
		root.Map() // says what is wanted
		return nil, root.Problems().Err()
	}
	if strings.HasSuffix(p.text, "\r") {
		return nil, p.problem(strings.Count(p.text, "\n")+1, 1, "the last line ends in half a line break", "end it as the other lines")
	}
	if err := p.layOut(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *policy) problem(line, column int, message, hint string) error {
	return strictyaml.Problem{File: p.name, Line: line, Column: column, Message: message, Hint: hint}
}

func (p *policy) problemAt(n *strictyaml.Node, message, hint string) error {
	return p.problem(n.Line, n.Column, message, hint)
}

// layOut goes through the text once, and finds for each line what is content
// and what is comment, and the ends of what has an end in the text.
func (p *policy) layOut() error {
	p.splitLines()
	p.expect(p.root)
	s := scanner{policy: p}
	for i := range p.lines {
		if err := s.line(i); err != nil {
			return err
		}
	}
	if s.quote != 0 || len(s.open) > 0 {
		return p.problem(len(p.lines), 1, "it is not clear where this file's brackets and quotes end", "edit it by hand")
	}
	return nil
}

// A scanner goes through a text that is known to be good, and of which it is
// known where each node begins. So it need not understand YAML.
type scanner struct {
	*policy
	open     []int // where the flow collections begin that are open here
	quote    byte  // the quote that is open here, or 0
	quoted   int   // where it begins
	boundary bool  // no plain text is open here: '#' begins a comment
}

func (s *scanner) line(i int) error {
	l := &s.lines[i]
	if rest, ok := strings.CutPrefix(s.text[l.start:l.end], "..."); ok && strings.Trim(rest[:min(1, len(rest))], " \t") == "" {
		return s.problem(i+1, 1, `"..." ends the document here`, "remove the line, so that something can be added behind")
	}
	l.content = s.quote != 0 // also if it is empty
	s.boundary = true
	column := 1
	for at := l.start; at < l.end; column++ {
		if s.quote != 0 {
			escapes := s.inQuote(at, l.end)
			at, column = at+escapes, column+escapes // to the last character of the two
		} else {
			node := s.arrive(place{i + 1, column}, at)
			if c := s.text[at]; node && (c == '|' || c == '>') {
				return s.problem(i+1, column, "a file with text in the style of | or > is not edited in place", "write it on one line, in quotes")
			}
			if s.token(at, node) {
				l.content = true
			}
			if s.boundary && s.text[at] == '#' {
				l.comment = at
				return nil
			}
		}
		_, size := utf8.DecodeRuneInString(s.text[at:])
		at += size
	}
	return nil
}

// arrive notes where a node begins, and reports whether one begins here.
func (s *scanner) arrive(here place, at int) bool {
	_, node := s.offsets[here]
	if node {
		s.offsets[here] = at
	}
	return node
}

// inQuote goes on in a quoted text. It returns 1 if the byte there stands for
// nothing itself, but for how the next one is meant.
func (s *scanner) inQuote(at, end int) int {
	c := s.text[at]
	switch {
	case c == '\\' && s.quote == '"' && at+1 < end: // at the end of a line it is for the line break
		return 1
	case c == '\'' && s.quote == '\'' && at+1 < end && s.text[at+1] == '\'':
		return 1
	case c == s.quote:
		s.ends[s.quoted] = at + 1
		s.quote, s.boundary = 0, true
	}
	return 0
}

// token goes on outside of quotes, and reports whether there is content.
func (s *scanner) token(at int, node bool) bool {
	c, flow := s.text[at], len(s.open) > 0
	switch {
	case c == ' ' || c == '\t':
		s.boundary = true
		return false
	case c == '#' && s.boundary:
		return false
	case node && (c == '"' || c == '\''):
		s.quote, s.quoted = c, at
	case (node || flow) && (c == '[' || c == '{'):
		s.open = append(s.open, at)
		s.boundary = true
	case flow && (c == ']' || c == '}'):
		s.ends[s.open[len(s.open)-1]] = at + 1
		s.open, s.boundary = s.open[:len(s.open)-1], true
	case flow && c == ',':
		s.boundary = true
	case flow && c == ':' && s.boundary: // as in "a":b
	default:
		s.boundary = false
	}
	return true
}

func (p *policy) splitLines() {
	for at := 0; at < len(p.text); {
		l := line{start: at, end: len(p.text), next: len(p.text), comment: -1}
		if n := strings.IndexByte(p.text[at:], '\n'); n >= 0 {
			l.end, l.next = at+n, at+n+1
			if l.end > at && p.text[l.end-1] == '\r' {
				l.end--
			}
		}
		text := p.text[l.start:l.end]
		l.indent = len(text) - len(strings.TrimLeft(text, " "))
		p.lines = append(p.lines, l)
		at = l.next
	}
}

// expect notes the places of all nodes. A node of nothing has no text, and its
// place may be that of whatever comes next.
func (p *policy) expect(n *strictyaml.Node) {
	if n.Kind != strictyaml.Null {
		p.offsets[placeOf(n)] = -1
	}
	for _, c := range n.Children() {
		if k := c.Key(); k != c {
			p.expect(k)
		}
		p.expect(c)
	}
}

// start returns the offset of the node's first byte, or -1 if it has none.
func (p *policy) start(n *strictyaml.Node) int {
	if at, ok := p.offsets[placeOf(n)]; ok && n.Kind != strictyaml.Null {
		return at
	}
	return -1
}

// flowEnd returns the offset behind a flow mapping or list, and whether the
// node is one: braces or brackets.
func (p *policy) flowEnd(n *strictyaml.Node) (end int, ok bool) {
	if n.Kind != strictyaml.Mapping && n.Kind != strictyaml.List {
		return 0, false
	}
	at := p.start(n)
	if at < 0 || p.text[at] != '{' && p.text[at] != '[' {
		return 0, false
	}
	end, ok = p.ends[at]
	return end, ok
}

func (p *policy) isFlow(n *strictyaml.Node) bool {
	_, ok := p.flowEnd(n)
	return ok
}

// behindColon returns the offset behind a key's colon.
func (p *policy) behindColon(key *strictyaml.Node) (int, bool) {
	at := p.start(key)
	if at < 0 {
		return 0, false
	}
	if end, quoted := p.ends[at]; quoted {
		at = end
	} else {
		at += len(key.Text())
	}
	rest := strings.TrimLeft(p.text[min(at, len(p.text)):], " \t")
	return len(p.text) - len(rest) + 1, strings.HasPrefix(rest, ":")
}

// lineAt returns the index of the line that has an offset.
func (p *policy) lineAt(at int) int {
	i, found := slices.BinarySearchFunc(p.lines, at, func(l line, at int) int { return cmp.Compare(l.start, at) })
	if !found {
		i--
	}
	return i
}

// lineBreak returns how lines end around a line.
func (p *policy) lineBreak(i int) string {
	for _, j := range []int{i, 0} {
		if l := p.lines[j]; l.end < l.next {
			return p.text[l.end:l.next]
		}
	}
	return "\n"
}

// behind skips blanks, comments and line breaks.
func (p *policy) behind(at int) int {
	for at < len(p.text) {
		switch c := p.text[at]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			at++
		case c == '#' && p.lines[p.lineAt(at)].comment == at:
			at = p.lines[p.lineAt(at)].end
		default:
			return at
		}
	}
	return at
}

// comma returns the offset of the comma that follows in a flow list, or -1.
func (p *policy) comma(at int) int {
	if at = p.behind(at); at < len(p.text) && p.text[at] == ',' {
		return at
	}
	return -1
}

// hasComment reports whether a comment begins from start up to end.
func (p *policy) hasComment(start, end int) bool {
	for i := p.lineAt(start); i < len(p.lines) && p.lines[i].start < end; i++ {
		if c := p.lines[i].comment; start <= c && c < end {
			return true
		}
	}
	return false
}

// restIsEmpty reports whether nothing but blanks and a comment follows in the
// line.
func (p *policy) restIsEmpty(at int) bool {
	l := p.lines[p.lineAt(at)]
	end := l.end
	if l.comment >= at {
		end = l.comment
	}
	return strings.Trim(p.text[min(at, end):end], " \t") == ""
}

// An edit replaces some bytes of the text by others.
type edit struct {
	start, end int
	text       string
}

// apply returns the content with the edits, which must not overlap.
func (p *policy) apply(edits ...edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	out, at := []byte(p.mark), 0
	for _, e := range edits {
		out = append(out, p.text[at:e.start]...)
		out = append(out, e.text...)
		at = e.end
	}
	return append(out, p.text[at:]...)
}
