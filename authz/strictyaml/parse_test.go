package strictyaml

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func lines(s ...string) string { return strings.Join(s, "\n") }

func texts(ps Problems) string {
	var b strings.Builder
	for _, p := range ps {
		if p.Warning {
			b.WriteString("warning: ")
		}
		b.WriteString(p.Error() + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestWhatTheSubsetLeavesOutIsAProblemWithItsPlace(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"an ordinary document is fine", "a: 1\nb: [x, \"y\"]\n# end\n", ""},
		{"an explicit start is fine", "---\na: 1\n", ""},
		{"JSON is fine", `{"a": 1, "b": ["x"]}`, ""},
		{"a byte order mark at the start is fine", "\ufeffa: 1\n", ""},
		{"CRLF is fine", "a: 1\r\nb: 2\r\n", ""},
		{"a tab after a value is fine", "a: 1\t# one\n", ""},
		{"text in other scripts is fine", "a: 関所\n", ""},
		{"an empty file", "", lines(
			`f:1:1: the file is empty`)},
		{"only a comment", "# nothing\n", lines(
			`f:1:1: the file is empty`)},
		{"a tag", "a: !!str 1\n", lines(
			`f:1:4: tags are not allowed; quote what is text`)},
		{"the tag that says nothing", "a: ! 1\n", lines(
			`f:1:4: tags are not allowed; quote what is text`)},
		{"a tag of a mapping", "a: !x\n  b: 1\n", lines(
			`f:1:4: tags are not allowed; quote what is text`)},
		{"a tagged key", "!!str a: 1\n", lines(
			`f:1:1: tags are not allowed; quote what is text`)},
		{"an anchor", "a: &x 1\n", lines(
			`f:1:4: anchors are not allowed; write the value out where it is used`)},
		{"an alias", "a: &x 1\nb: *x\n", lines(
			`f:1:4: anchors are not allowed; write the value out where it is used`,
			`f:2:4: aliases are not allowed; write the value out`)},
		{"an alias of nothing", "a: 1\n# *x\nb: [*x]\n", lines(
			`f:3:5: aliases are not allowed; write the value out`)},
		{"a merge key", "a: {b: 1}\nc:\n  <<: {b: 1}\n", lines(
			`f:3:3: merge keys are not allowed; write the values out`)},
		{"a key twice", "a: 1\nb: 2\na: 3\n", lines(
			`f:3:1: the key "a" is already at line 1`)},
		{"a key twice on one line", "x: {a: 1, \"a\": 2}\n", lines(
			`f:1:11: the key "a" is already at line 1`)},
		{"two documents", "a: 1\n---\nb: 1\n", lines(
			`f:2:1: a second document begins here; write one document, without "---"`)},
		{"two documents, the second broken", "a: 1\n---\n[\n", lines(
			`f:4:1: not understood as YAML: did not find expected node content`)},
		{"tabs", "a:\n\tb: 1\n", lines(
			`f:2:1: a tab in the indentation; indent with spaces`)},
		{"a tab after spaces", "a:\n  b:\n  \t- 1\n", lines(
			`f:3:3: a tab in the indentation; indent with spaces`)},
		{"leading zero", "a: [022, 1]\nb: -07\nc: 00\nd: 01.5\n", lines(
			`f:1:5: the number 022 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`,
			`f:2:4: the number -07 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`,
			`f:3:4: the number 00 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`,
			`f:4:4: the number 01.5 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`)},
		{"a directive", "%YAML 1.1\n---\na: 1\n", lines(
			`f:1:1: directives are not allowed; remove the line`)},
		{"not UTF-8", "a: x\nb: \"\xff\"\nc: \"\xfe\"\n", lines(
			`f:2:5: the text is not UTF-8`,
			`f:3:5: the text is not UTF-8`)},
		{"a control character", "a: \"x\x1b[31m\"\n", lines(
			`f:1:6: the character U+001B is not allowed: it does not show, or breaks the line`)},
		{"a bidi override", "a: \"é\u202e\"\n", lines(
			`f:1:6: the character U+202E is not allowed: it does not show, or breaks the line`)},
		{"a zero-width space", "a: b\u200bc\n", lines(
			`f:1:5: the character U+200B is not allowed: it does not show, or breaks the line`)},
		{"a lone CR", "a: 1\rb: 2\n", lines(
			`f:1:5: the character U+000D is not allowed: it does not show, or breaks the line`)},
		{"NEL", "a: 1\u0085b: 2\n", lines(
			`f:1:5: the character U+0085 is not allowed: it does not show, or breaks the line`)},
		{"a key that is a number", "1: a\ntrue: b\nnull: c\n1.5: d\n[x]: e\n", lines(
			`f:1:1: a key must be text, not a number; quote it`,
			`f:2:1: a key must be text, not true or false; quote it`,
			`f:3:1: a key must be text, not nothing; quote it`,
			`f:4:1: a key must be text, not a number; quote it`,
			`f:5:1: a key must be text, not a list; quote it`)},
		{"an unclosed bracket", "a: 1\nb: [x,\n  y\nc: 2\n", lines(
			`f:2:1: not understood as YAML: did not find expected ',' or ']'; a bracket opened here or before is not closed, or a comma is missing`)},
		{"an unclosed brace on the first line", "a: {b: 1\n", lines(
			`f:2:1: not understood as YAML: did not find expected ',' or '}'; a bracket opened here or before is not closed, or a comma is missing`)},
		{"an unclosed quote", "a: 1\nb: \"x\nc: 2\n", lines(
			`f:2:1: not understood as YAML: found unexpected end of stream; a quote opened here or before is not closed`)},
		{"a colon in a value", "a: 1\nb: x: y\n", lines(
			`f:2:1: not understood as YAML: mapping values are not allowed in this context; a value with ": " in it must be quoted`)},
		{"bad indentation", "a: 1\nb:\n  c: 1\n d: 2\n", lines(
			`f:4:2: not understood as YAML: did not find expected key`)},
		{"an at sign", "a: 1\nb: @x\n", lines(
			`f:2:1: not understood as YAML: found character that cannot start any token; a value that begins with such a character must be quoted`)},
		{"a list item among keys", "a: 1\n- b\n", lines(
			`f:2:1: not understood as YAML: did not find expected key`)},
		{"a percent sign", "a: 1\nb:  %x\n", lines(
			`f:2:1: not understood as YAML: found character that cannot start any token; a value that begins with such a character must be quoted`)},
		{"unknown tag handle", "a: 1\nb: !x!y 1\n", lines(
			`f:2:1: not understood as YAML: found undefined tag handle`)},
		{"bad escape", "a: 1\nb: \"\\q\"\n", lines(
			`f:2:1: not understood as YAML: found unknown escape character`)},
		{"deep", "a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n", lines(
			`f:1:36: nested more than 32 deep`)},
		{"very deep", "a: " + strings.Repeat("[", 20000), lines(
			`f:1:1: not understood as YAML: exceeded max depth of 10000`)},
		{"several at once", "a: &x 1\nb: !!int 2\na: 3\nc: 007\n", lines(
			`f:1:4: anchors are not allowed; write the value out where it is used`,
			`f:2:4: tags are not allowed; quote what is text`,
			`f:3:1: the key "a" is already at line 1`,
			`f:4:4: the number 007 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, ps := Parse(strings.NewReader(tt.text), "f")
			if got := texts(ps); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if root == nil && ps.Err() == nil {
				t.Error("no root and no error")
			}
		})
	}
}

func TestFileLimits(t *testing.T) {
	big := io.MultiReader(strings.NewReader("a: "), io.LimitReader(zeros{}, MaxSize))
	root, ps := Parse(big, "f")
	if got, want := texts(ps), "f: the file is larger than 16 MiB"; got != want || root != nil {
		t.Errorf("got %s, want %s", got, want)
	}
	root, ps = Parse(iotest.ErrReader(errors.New("disk on fire")), "f")
	if got, want := texts(ps), "f: reading it: disk on fire"; got != want || root != nil {
		t.Errorf("got %s, want %s", got, want)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestErr(t *testing.T) {
	warning := Problem{File: "f", Line: 2, Column: 1, Message: "w", Warning: true}
	bad := Problem{File: "f", Line: 1, Column: 3, Message: "b", Hint: "h"}
	ps := Problems{warning, bad}
	if err := (Problems{warning}).Err(); err != nil {
		t.Errorf("a warning is no error, got %v", err)
	}
	var p Problem
	if err := ps.Err(); err == nil || err.Error() != "f:1:3: b; h" || !errors.As(err, &p) || p != bad {
		t.Errorf("got %v", err)
	}
	if e, w := ps.Errors(), ps.Warnings(); len(e) != 1 || e[0] != bad || len(w) != 1 || w[0] != warning {
		t.Errorf("errors %v, warnings %v", e, w)
	}
	if ps.Sort(); ps[0] != bad {
		t.Errorf("not sorted: %v", ps)
	}
}

func TestSuggest(t *testing.T) {
	tests := []struct {
		word       string
		candidates []string
		want       string
	}{
		{"grnats", []string{"users", "targets", "grants"}, "grants"},
		{"Users", []string{"users"}, "users"},
		{"max-startups", []string{"max_startups", "max_startups_per_source"}, "max_startups"},
		{"dba", []string{"db", "web"}, "db"},
		{"x", []string{"y"}, ""},
		{"hosts", []string{"ports", "hosts"}, ""},
		{"zebra", []string{"users", "grants"}, ""},
		{"", []string{"a"}, ""},
		{strings.Repeat("a", 1000), []string{strings.Repeat("a", 999)}, ""},
		{"login_grase", []string{"login_grace"}, "login_grace"},
	}
	for _, tt := range tests {
		if got := Suggest(tt.word, tt.candidates); got != tt.want {
			t.Errorf("Suggest(%q, %q) = %q, want %q", tt.word, tt.candidates, got, tt.want)
		}
	}
}

func FuzzStrictYAML(f *testing.F) {
	for _, s := range []string{
		"", "a: 1", "a: [1, 2, {b: c}]", "- x\n- y\n", "a: &x 1\nb: *x\n", "? [a]\n: b\n", "<<: {a: 1}\n", "a: !!str 022\n", "a: ! 1\n",
		"a:\n\tb: 1\n", "--- a\n--- b\n", "%YAML 1.1\n---\na: 1\n", "a: |\n  text\n  more\n", "a: \"\\u202e\"\n", "\ufeffa: b", "a: *nobody",
		"a: 007", "[[[[[[", "{a: {b: {c: {", "a: 'x", "- - - - -", "a: b: c", "\x00", "\xff", "? a\n? b\n", "a: 1\na: 2\n", "...\n", "#\n", "!\n", "a: @b",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		root, ps := Parse(strings.NewReader(string(text)), "f")
		if root == nil {
			if ps.Err() == nil {
				t.Fatal("no root and no error")
			}
		} else {
			walk(root)
			ps = root.Problems()
		}
		lines := strings.Count(string(text), "\n") + 1
		for _, p := range ps {
			if p.Line < 1 && root != nil || p.Line > lines+1 || p.Line > 0 && p.Column < 1 {
				t.Fatalf("a problem without a place: %s", p.Error())
			}
			for _, r := range p.Error() {
				if hidden(r) || r == '\n' || r == '\t' {
					t.Fatalf("unsafe text: %q", p.Error())
				}
			}
		}
	})
}

// walk calls every reader on every node.
func walk(n *Node) {
	var (
		s  string
		l  []string
		i  int
		b  bool
		i6 int64
	)
	n.String(&s)
	n.StringOrInt(&s)
	n.OneOf(&s, "a", "b")
	n.StringList(&l)
	n.Int(&i, 0, 10)
	n.Bool(&b)
	n.Size(&i6)
	n.Map("a", "b").Require("c")
	for _, item := range n.items {
		walk(item)
	}
	n.Items()
}
