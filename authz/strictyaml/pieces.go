package strictyaml

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pieceSize is the size from which on a text is read in pieces, and about that
// of each. What the YAML parser makes of a text is some twenty times larger
// than the text; of a piece it is gone before the next one is read.
const pieceSize = 256 << 10

// A piece is a part of a text that the YAML parser reads on its own: some
// entries of the mapping that the text is, or else some items of the list that
// is the value of an entry of it.
type piece struct {
	text   string
	line   int // lines before it
	column int // of the items; 0: entries
}

// firstLine is how an entry of the mapping begins: its value may follow.
var firstLine = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*:([ \r\n]|$)`)

// cut cuts a text into pieces, each about as long as size, if the text is longer
// than that. It goes by the lines alone, so that whoever reads the pieces must see whether
// they are what they seem: a line in a quoted text can look like an item. It
// returns nil for a text in a form of which it is not sure.
func cut(text string, size int) (pieces []piece) {
	if len(text) <= size {
		return nil
	}
	const unknown, noList = -1, -2
	begun := false    // an entry has
	indent := unknown // of the items of the list that is the entry's value
	var p piece
	start := 0 // where p begins
	for offset, number := 0, 0; offset < len(text); number++ {
		line := text[offset:]
		if i := strings.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		rest := strings.TrimLeft(line, " ")
		column := len(line) - len(rest) + 1
		item := strings.HasPrefix(rest, "- ")
		next := piece{line: number}
		switch {
		case strings.TrimRight(rest, "\r\n") == "" || rest[0] == '#':
			next.line = unknown
		case column == 1 && !item && firstLine.MatchString(rest):
			if !begun {
				next.line = unknown // what is before it belongs to it
			}
			begun, indent = true, unknown
		case !begun && strings.TrimRight(line, "\r\n") == "---":
			next.line = unknown
		case column == 1 && !item || !begun:
			return nil
		case indent == unknown && item:
			indent, next.line = column, unknown
		case indent == unknown:
			indent, next.line = noList, unknown
		case item && column == indent:
			next.column = column
		default:
			next.line = unknown
		}
		endOfList := p.column > 0 && next.column == 0
		if next.line != unknown && (offset-start >= size || endOfList) {
			p.text = text[start:offset]
			pieces = append(pieces, p)
			p, start = next, offset
		}
		offset += len(line)
	}
	p.text = text[start:]
	return append(pieces, p)
}

// readPieces makes nodes of a text in pieces. It returns nil, and has noted
// nothing, if they do not fit together: then only the whole text tells what is
// wrong, if anything is.
//
// Pieces that fit are read as the text would be. The YAML parser has come to
// the end of each without an error, so no quotes or brackets are open there;
// what is open still, in a list whose items begin in the column of the next
// piece, or in the outermost mapping, ends where a line begins in that column,
// as it ends with the piece.
func (d *document) readPieces(pieces []piece) *Node {
	noted := len(d.problems)
	giveUp := func() *Node {
		d.problems = d.problems[:noted]
		return nil
	}
	const mostEntries = 100 // in no file of ours there are more
	var root, last *Node
	column := 0 // of the items of last, if it is a list in lines of their own
	for i, p := range pieces {
		before := len(d.problems)
		y := d.decode(p.text)
		if y == nil || len(d.problems) > before || y.Style != 0 || y.Anchor != "" {
			return giveUp()
		}
		moveDown(y, p.line)
		if i+1 < len(pieces) && end(y) > pieces[i+1].line {
			return giveUp() // nothing, as the value after "? key" can be: its place is where the next thing begins
		}
		switch {
		case p.column > 0 && y.Kind == yaml.SequenceNode && y.Column == p.column && column == p.column:
			d.list(last, y, 1)
			continue
		case p.column > 0 || y.Kind != yaml.MappingNode || y.Column != 1 || len(y.Content) > 2*mostEntries:
			return giveUp()
		case root == nil:
			root = &Node{Kind: Mapping, doc: d, Line: y.Line, Column: y.Column}
		}
		last = d.mapping(root, y, 0)
		column = 0
		if v := y.Content[len(y.Content)-1]; v.Kind == yaml.SequenceNode && v.Style&yaml.FlowStyle == 0 {
			column = v.Column
		}
		if len(root.items) > mostEntries {
			return giveUp()
		}
	}
	return root
}

// end returns the line of the last node.
func end(y *yaml.Node) int {
	for len(y.Content) > 0 {
		y = y.Content[len(y.Content)-1]
	}
	return y.Line
}

// moveDown adds to the lines of all nodes.
func moveDown(y *yaml.Node, lines int) {
	y.Line += lines
	for _, c := range y.Content {
		moveDown(c, lines)
	}
}
