package strictyaml

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxSize is the size of the largest file that Parse reads.
	MaxSize = 16 << 20

	// maxDepth is far more than any of the files needs.
	maxDepth = 32
)

// Parse reads one YAML document and returns its root together with every
// problem found so far. The root is nil if the text could not be read as YAML
// at all; otherwise it can be walked, so that all problems are found in one
// go, but the text is to be used only if root.Problems().Err() is nil at the
// end of the walk.
func Parse(r io.Reader, filename string) (*Node, Problems) {
	d := newDocument(filename)
	root := d.parse(r)
	if root == nil && d.problems.Err() == nil {
		d.add(0, 0, "the file could not be read") // never nil without a reason
	}
	return root, d.sorted()
}

// A document is what the nodes of one file share.
type document struct {
	file     string
	lines    []string
	problems problemSet
	names    []string         // keys of mappings, each once; the first is ""
	nameIDs  map[string]int32 // their places
}

func newDocument(filename string) *document {
	return &document{file: filename, names: []string{""}, nameIDs: map[string]int32{"": 0}}
}

// nameID returns the place of a key in names.
func (d *document) nameID(name string) int32 {
	id, ok := d.nameIDs[name]
	if !ok {
		id = int32(len(d.names))
		d.names = append(d.names, name)
		d.nameIDs[name] = id
	}
	return id
}

func (d *document) add(line, column int, format string, args ...any) *Problem {
	p := &Problem{File: d.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	d.problems = append(d.problems, p)
	return p
}

// A problemSet holds pointers, so that a hint can be added to a problem that
// is already noted.
type problemSet []*Problem

func (s problemSet) Err() error {
	for _, p := range s {
		if !p.Warning {
			return p
		}
	}
	return nil
}

// sorted returns the problems as the text runs, each once.
func (d *document) sorted() Problems {
	if len(d.problems) == 0 {
		return nil
	}
	ps := make(Problems, 0, len(d.problems))
	seen := make(map[Problem]bool, len(d.problems))
	for _, p := range d.problems {
		if !seen[*p] {
			seen[*p] = true
			ps = append(ps, *p)
		}
	}
	ps.Sort()
	return ps.most(maxProblems)
}

// maxProblems is how many problems of a file are told: nobody reads more, and
// a large file that is wrong throughout must not flood what they are told in.
const maxProblems = 1000

// most returns the first n problems, errors before warnings, and a last one
// that says how many there are besides.
func (ps Problems) most(n int) Problems {
	if len(ps) <= n {
		return ps
	}
	errs, warnings := ps.Errors(), ps.Warnings()
	more := Problem{File: ps[0].File, Warning: len(errs) <= n, Message: fmt.Sprintf("and %d more problems", len(ps)-n)}
	kept := errs[:min(len(errs), n)]
	kept = append(kept, warnings[:n-len(kept)]...)
	kept.Sort()
	return append(kept, more)
}

func (d *document) parse(r io.Reader) *Node {
	content, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		d.add(0, 0, "reading it: %v", err)
		return nil
	case len(content) > MaxSize:
		d.add(0, 0, "the file is larger than %d MiB", MaxSize>>20)
		return nil
	}
	text := strings.TrimPrefix(string(content), "\ufeff") // some editors leave this mark
	if !d.scan(text) {
		return nil
	}
	if pieces := cut(text, pieceSize); len(pieces) > 1 {
		if root := d.readPieces(pieces); root != nil {
			return root
		}
	}
	y := d.decode(text)
	if y == nil {
		return nil
	}
	return d.convert(y, 0, 0)
}

// scan looks at the text itself, for what the YAML parser would not report
// or not place. It returns false if the text is not to be parsed.
func (d *document) scan(text string) bool {
	ok := true
	d.lines = strings.Split(text, "\n")
	for i, line := range d.lines {
		line = strings.TrimSuffix(line, "\r")
		d.lines[i] = line
		if ordinary(line) {
			continue
		}
		number, column := i+1, 0
		indent, good := true, true
		for j := 0; j < len(line); {
			r, size := rune(line[j]), 1
			if r >= utf8.RuneSelf {
				r, size = utf8.DecodeRuneInString(line[j:])
			}
			j += size
			column++
			switch {
			case r == utf8.RuneError && size == 1:
				d.add(number, column, "the text is not UTF-8")
				good = false
			case r == '\t':
				if indent && strings.TrimSpace(line) != "" {
					d.add(number, column, "a tab in the indentation").Hint = "indent with spaces"
				}
				continue
			case hidden(r):
				d.add(number, column, "the character %U is not allowed: it does not show, or breaks the line", r)
				good = false
			}
			if r != ' ' {
				indent = false
			}
			if !good {
				ok = false
				break // one such problem a line is enough
			}
		}
		if strings.HasPrefix(line, "%") {
			d.add(number, 1, "directives are not allowed").Hint = "remove the line"
			ok = false
		}
	}
	return ok
}

// ordinary reports whether scan has nothing to say of a line: most are.
func ordinary(line string) bool {
	for i := 0; i < len(line); i++ {
		if line[i] < ' ' || line[i] > '~' {
			return false
		}
	}
	return !strings.HasPrefix(line, "%")
}

// hidden reports whether r is a character that an editor does not show, that
// reorders the text around it, or that YAML takes for a line break where an
// editor does not.
func hidden(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f: // C0 (tab is seen to elsewhere), DEL, C1 with NEL
		return true
	case r == 0xad, r == 0x61c, r == 0x180e, r == 0xfeff, r == 0xfffe, r == 0xffff:
		return true
	case 0x200b <= r && r <= 0x200f: // zero width, marks of direction
		return true
	case 0x2028 <= r && r <= 0x202e: // line and paragraph separators, embeddings
		return true
	case 0x2060 <= r && r <= 0x206f: // invisible operators, isolates
		return true
	case 0xe0000 <= r && r <= 0xe0fff: // tags
		return true
	}
	return false
}

// decode runs the YAML parser. It returns nil after an error.
func (d *document) decode(text string) (root *yaml.Node) {
	defer func() {
		if e := recover(); e != nil { // the parser panics on what it did not foresee
			d.add(0, 0, "not understood as YAML: %.200q", fmt.Sprint(e))
			root = nil
		}
	}()
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.add(1, 1, "the file is empty")
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	if len(doc.Content) != 1 {
		d.add(1, 1, "the file is empty")
		return nil
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err)
	default:
		d.add(max(more.Line, 1), max(more.Column, 1), "a second document begins here").Hint = `write one document, without "---"`
	}
	return doc.Content[0]
}

var (
	yamlLine      = regexp.MustCompile(`^yaml: line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced$`)

	// The YAML parser counts its lines from 0 in these, and from 1 in the rest.
	fromZero = []string{
		"did not find expected <stream-start>",
		"did not find expected <document start>",
		"did not find expected node content",
		"did not find expected '-' indicator",
		"did not find expected key",
		"did not find expected ',' or ']'",
		"did not find expected ',' or '}'",
		"found undefined tag handle",
	}
)

// syntax notes an error of the YAML parser, at the place that it tells.
func (d *document) syntax(err error) {
	msg := err.Error()
	if m := unknownAnchor.FindStringSubmatch(msg); m != nil {
		line, column := d.find("*" + m[1])
		d.add(line, column, "aliases are not allowed").Hint = "write the value out"
		return
	}
	line := 1
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
		if slices.Contains(fromZero, msg) {
			line++
		}
	}
	msg = strings.TrimPrefix(msg, "yaml: ")
	line = min(max(line, 1), len(d.lines))
	text := d.lines[line-1]
	column := 1 + len(text) - len(strings.TrimLeft(text, " \t"))
	if strings.HasPrefix(msg, "found character that cannot start any token") && d.problems.Err() != nil {
		return // the tab that is already noted
	}
	p := d.add(line, column, "not understood as YAML: %s", safe(msg))
	switch {
	case strings.Contains(msg, "mapping values are not allowed"):
		p.Hint = `a value with ": " in it must be quoted`
	case strings.Contains(msg, "cannot start any token"):
		p.Hint = "a value that begins with such a character must be quoted"
	case strings.Contains(msg, "unexpected end of stream"):
		p.Hint = "a quote opened here or before is not closed"
	case strings.Contains(msg, "did not find expected ',' or"):
		p.Hint = "a bracket opened here or before is not closed, or a comma is missing"
	}
}

// find returns the place of the first s in the text outside whole-line comments.
func (d *document) find(s string) (line, column int) {
	for i, l := range d.lines {
		if strings.HasPrefix(strings.TrimLeft(l, " "), "#") {
			continue
		}
		if j := strings.Index(l, s); j >= 0 {
			return i + 1, 1 + utf8.RuneCountInString(l[:j])
		}
	}
	return 1, 1
}

// safe makes text of unknown origin fit for a terminal.
func safe(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`), `\\`, `\`)
}

// has reports whether the character c is at a place.
func (d *document) has(c byte, line, column int) bool {
	if line < 1 || line > len(d.lines) {
		return false
	}
	l := d.lines[line-1]
	if strings.IndexByte(l, c) < 0 {
		return false
	}
	for ; column > 1 && l != ""; column-- {
		_, size := utf8.DecodeRuneInString(l)
		l = l[size:]
	}
	return l != "" && l[0] == c
}

var leadingZero = regexp.MustCompile(`^[-+]?0[0-9_]+(\.[0-9_]*)?$`)

// convert makes nodes of yaml's, noting everything that the subset leaves out.
func (d *document) convert(y *yaml.Node, what int32, depth int) *Node {
	n := &Node{doc: d, what: what, Line: y.Line, Column: y.Column}
	if depth > maxDepth {
		n.bad = true
		d.add(y.Line, y.Column, "nested more than %d deep", maxDepth)
		return n
	}
	if y.Anchor != "" {
		d.add(y.Line, y.Column, "anchors are not allowed").Hint = "write the value out where it is used"
	}
	// yaml.Node does not tell the tag "!", but no untagged node begins with that character.
	if y.Style&yaml.TaggedStyle != 0 || d.has('!', y.Line, y.Column) {
		n.bad = true
		d.add(y.Line, y.Column, "tags are not allowed").Hint = "quote what is text"
	}
	switch y.Kind {
	case yaml.AliasNode:
		n.bad = true
		d.add(y.Line, y.Column, "aliases are not allowed").Hint = "write the value out"
	case yaml.ScalarNode:
		d.scalar(n, y)
	case yaml.SequenceNode:
		n.Kind = List
		d.list(n, y, depth)
	case yaml.MappingNode:
		n.Kind = Mapping
		d.mapping(n, y, depth)
	default:
		n.bad = true
		d.add(y.Line, y.Column, "not understood as YAML")
	}
	return n
}

func (d *document) scalar(n *Node, y *yaml.Node) {
	n.value = y.Value
	n.quoted = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	n.Kind = String
	if n.quoted || n.bad {
		return
	}
	switch y.Tag {
	case "!!null":
		n.Kind = Null
	case "!!bool":
		n.Kind = Bool
	case "!!int":
		n.Kind = Int
	case "!!float":
		n.Kind = Float
	}
	if strings.HasPrefix(strings.TrimLeft(y.Value, "+-"), "0") && leadingZero.MatchString(y.Value) {
		n.bad = true
		d.add(y.Line, y.Column, "the number %s has leading zeros", y.Value).Hint = "some programs would read it as octal; leave them out, or quote what is text"
	}
}

// list adds the items of y to a list.
func (d *document) list(n *Node, y *yaml.Node, depth int) {
	n.items = slices.Grow(n.items, len(y.Content))
	for _, c := range y.Content {
		item := d.convert(c, 0, depth+1)
		item.what = n.what
		n.items = append(n.items, item)
	}
}

// mapping adds the entries of y to a mapping. It returns the value of the last
// one, whatever becomes of it.
func (d *document) mapping(n *Node, y *yaml.Node, depth int) (last *Node) {
	n.items = slices.Grow(n.items, len(y.Content)/2)
	earlier := n.finder(len(n.items) + len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		ky, vy := y.Content[i], y.Content[i+1]
		if ky.Kind == yaml.ScalarNode && ky.Tag == "!!merge" {
			d.add(ky.Line, ky.Column, "merge keys are not allowed").Hint = "write the values out"
			last = d.convert(vy, 0, depth+1) // for its problems
			continue
		}
		k := d.convert(ky, 0, depth+1)
		if !k.bad && k.Kind != String {
			k.bad = true
			d.add(k.Line, k.Column, "a key must be text, not %s", k.Kind).Hint = "quote it"
		}
		if k.bad {
			last = d.convert(vy, 0, depth+1)
			continue
		}
		what := d.nameID(k.value)
		last = d.convert(vy, what, depth+1)
		last.keyLine, last.keyColumn = int32(k.Line), int32(k.Column)
		if line := earlier(last); line != 0 {
			d.add(k.Line, k.Column, "the key %q is already at line %d", k.value, line)
			continue
		}
		n.items = append(n.items, last)
	}
	return last
}

// finder returns a function that tells the line at which a mapping has the key
// of a value already, or 0. The mapping will have this many entries.
func (n *Node) finder(size int) func(*Node) int32 {
	const few = 16
	if size <= few {
		return func(v *Node) int32 {
			for _, e := range n.items {
				if e.what == v.what {
					return e.keyLine
				}
			}
			return 0
		}
	}
	lines := make(map[int32]int32, size)
	for _, e := range n.items {
		lines[e.what] = e.keyLine
	}
	return func(v *Node) int32 {
		line := lines[v.what]
		if line == 0 {
			lines[v.what] = v.keyLine
		}
		return line
	}
}
