package strictyaml

import (
	"fmt"
	"strings"
	"testing"
)

// tree writes everything that is in a node.
func tree(b *strings.Builder, n *Node) {
	fmt.Fprintf(b, "(%v %d:%d key %d:%d %q %q %t %t", n.Kind, n.Line, n.Column, n.keyLine, n.keyColumn, n.name(), n.value, n.quoted, n.bad)
	for _, v := range n.items {
		tree(b, v)
	}
	b.WriteString(")")
}

const whole = -1

// read reads a text as a whole, or in pieces of a size if it can be.
func read(text string, size int) (result string, pieces int) {
	d := newDocument("f")
	if !d.scan(text) {
		return "", 0
	}
	scanned := len(d.problems)
	var root *Node
	if size != whole {
		cuts := cut(text, size)
		if root = d.readPieces(cuts); len(cuts) == 0 || root == nil {
			if len(d.problems) != scanned {
				return "noted a problem", 0
			}
			return "", 0
		}
		pieces = len(cuts)
	} else if y := d.decode(text); y != nil {
		root = d.convert(y, 0, 0)
	}
	var b strings.Builder
	if root != nil {
		tree(&b, root)
	}
	return b.String() + "\n" + texts(d.sorted()), pieces
}

func TestPiecesAreReadAsTheWhole(t *testing.T) {
	tests := []struct {
		name, text string
		pieces     int // 0: it cannot be read in pieces
	}{
		{"a policy", "version: 1\nusers:\n  - {name: a}\n  - name: b\n    keys:\n      - x\n\n  # c\n  - {name: c}\ngrants:\n  - d\n", 5},
		{"items in the column of the key", "a:\n- 1\n- 2\nb:\n- x: 1\n  y: 2\n- z\n", 4},
		{"a mark of the start, comments, empty lines and CRLF", "# c\r\n---\r\n\r\na:\r\n  # c\r\n  - 1\r\n\r\n  - 2\r\nb: 1\r\n", 3},
		{"no newline at the end", "a:\n  - 1\n  - 2", 2},
		{"texts of several lines that end in time", "a:\n  - |\n    x\n  - >\n\n    y\n    z\n  - x\n   y\n  - \"x\n    y\"\n  - 1\n", 5},
		{"empty values", "a:\nb:\n  - \n  -\n  - x:\n  - y\nc:\n", 5},
		{"problems", "a:\n  - 007\n  - {a: 1, a: 2}\na:\n  - &y 1\n  - !!str 2\nnull: 1\n", 5},
		{"a list that is the value of another one's item", "a:\n  - - 1\n    - 2\n  - - 3\n", 2},
		{"a key without a value", "a:\n  - ? b\n  - c\n", 0},
		{"a tagged list", "a: !x\n  - 1\n  - 2\n", 0},
		{"what looks like an item in quotes", "a:\n  - \"x\n  - y\"\n  - z\n", 0},
		{"what looks like an item in brackets", "a:\n  - [x,\n  - y]\n", 0},
		{"what looks like items in a text", "a: |\n  - x\n  - y\n", 0},
		{"what looks like items in a plain text", "a: x\n  - y\n  - z\n", 0},
		{"what looks like a key in quotes", "a: \"x\nb:\n  - y\"\n", 0},
		{"an alias into another piece", "a:\n  - &x 1\n  - *x\n", 0},
		{"two documents", "a:\n  - 1\n---\nb: 1\n", 0},
		{"an end of the document", "a:\n  - 1\n...\n  - 2\n", 0},
		{"an end of the document in an item", "a:\n  - 1\n  - \n ...\n", 0},
		{"a directive in the middle", "a:\n  - 1\nb: 1\n", 2},
		{"a root in braces", "{a: 1,\nb: 2\n}\n", 0},
		{"a list for a root", "- a\n- b\n", 0},
		{"items that are too far left", "a:\n    - 1\n    - 2\n  - 3\n", 0},
		{"a quoted key", "a: 1\n\"b\": 2\n", 0},
		{"a merge key", "a: 1\n<<: {b: 1}\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want, _ := read(tt.text, whole)
			got, pieces := read(tt.text, 0)
			if pieces != tt.pieces {
				t.Errorf("%d pieces, want %d: %+v", pieces, tt.pieces, cut(tt.text, 0))
			}
			if pieces > 0 && got != want || pieces == 0 && got != "" {
				t.Errorf("in pieces:\n%s\nas a whole:\n%s", got, want)
			}
		})
	}
}

func TestALargeTextIsReadInPieces(t *testing.T) {
	text := "a:\n" + strings.Repeat("  - {x: [1, \"2\"], y: z}\n", 50_000) + "b: 007\n"
	d := newDocument("f")
	if pieces := cut(text, pieceSize); len(pieces) < 3 || !d.scan(text) || d.readPieces(pieces) == nil {
		t.Fatalf("%d pieces", len(pieces))
	}
	root, ps := Parse(strings.NewReader(text), "f")
	if len(root.Map("a", "b").Get("a").Items()) != 50_000 || len(ps) != 1 || ps[0].Line != 50_002 {
		t.Errorf("%v", ps)
	}
	_, ps = Parse(strings.NewReader(text+"c: [\n"), "f")
	if want := "f:50004:1: not understood as YAML: did not find expected node content"; texts(ps) != want {
		t.Errorf("got %s, want %s", texts(ps), want)
	}
}

func FuzzPiecesAreReadAsTheWhole(f *testing.F) {
	for _, s := range []string{
		"a:\n  - 1\n  - {b: c}\nd:\n- e\n- f: g\n  h: 'i'\n", "a: |\n  - x\nb:\n  - >1\n   y\n  - z\n", "---\na:\n  - \"x\n  - y\"\n",
		"a:\n  - ? b\n  - : c\n  - [d,\n  - e]\n", "a: &x\n  - *x\n...\n", "a:\n  - b\n # c\n  - d # e\n\n  # f\ng:\n", "a:\n  - b\n  c: d\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, _ := read(text, whole)
		for _, size := range []int{0, 7, 20} {
			if got, pieces := read(text, size); pieces > 0 && got != want {
				t.Errorf("in pieces of %d:\n%s\nas a whole:\n%s", size, got, want)
			} else if pieces == 0 && got != "" {
				t.Error(got)
			}
		}
	})
}
