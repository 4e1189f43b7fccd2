package strictyaml

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReadersFillTheirVariables(t *testing.T) {
	const text = `
name: bastion-1
quoted: "022"
date: 2027-03-31
listen: [":2222", "x"]
none: []
max: 20
watch: true
grace: 1h30m
size: 256MiB
nothing: 0
port: 22
mode: keep
limits: {depth: 3}
`
	root, _ := Parse(strings.NewReader(text), "f")
	var (
		name, quoted, date, port, mode string
		listen, none                   []string
		max, depth                     int
		watch                          bool
		grace                          time.Duration
		size, nothing                  int64 = 0, 1
	)
	absent := "default"
	m := root.Map("name", "quoted", "date", "listen", "none", "max", "watch", "grace", "size", "nothing", "port", "mode", "limits", "absent")
	got := []bool{
		m.Require("name").String(&name), m.Get("quoted").String(&quoted), m.Get("date").String(&date), m.Get("listen").StringList(&listen),
		m.Get("none").StringList(&none), m.Get("max").Int(&max, 1, 100), m.Get("watch").Bool(&watch), m.Get("grace").Duration(&grace),
		m.Get("size").Size(&size), m.Get("nothing").Size(&nothing), m.Get("port").StringOrInt(&port), m.Get("mode").OneOf(&mode, "keep", "close"),
		m.Get("limits").Map("depth").Get("depth").Int(&depth, 0, math.MaxInt),
	}
	for i, ok := range got {
		if !ok {
			t.Errorf("reader %d: false", i)
		}
	}
	if ps := root.Problems(); ps != nil {
		t.Errorf("problems: %v", ps)
	}
	if name != "bastion-1" || quoted != "022" || date != "2027-03-31" || max != 20 || !watch || grace != 90*time.Minute ||
		size != 256<<20 || nothing != 0 || port != "22" || mode != "keep" || depth != 3 {
		t.Error("wrong values:", name, quoted, date, max, watch, grace, size, nothing, port, mode, depth)
	}
	if !reflect.DeepEqual(listen, []string{":2222", "x"}) || none == nil || len(none) != 0 {
		t.Errorf("wrong lists: %q %q", listen, none)
	}
	if m.Get("absent").String(&absent) || absent != "default" {
		t.Error("an absent key must leave the default alone")
	}
	if m.Get("absent").Map("x").Lacks("x") || m.Get("absent").Items() != nil || m.Get("absent").Problems() != nil {
		t.Error("an absent node has something in it")
	}
	if m.Get("absent").Map("x").Require("x") != nil || root.Problems() != nil {
		t.Error("what an absent mapping lacks is no problem")
	}
}

func TestReadersRefuseWhatTheyMayMisunderstand(t *testing.T) {
	const (
		duration = "v wants a duration with a unit, such as 30s, 5m or 1h30m, not "
		size     = "v wants a size with a unit (B, KiB, MiB, GiB, TiB), such as 256MiB, not "
	)
	str := func(n *Node) { n.String(new(string)) }
	strs := func(n *Node) { n.StringList(new([]string)) }
	dur := func(n *Node) { n.Duration(new(time.Duration)) }
	siz := func(n *Node) { n.Size(new(int64)) }
	boolean := func(n *Node) { n.Bool(new(bool)) }
	number := func(n *Node) { n.Int(new(int), 1, 100) }
	word := func(n *Node) { n.OneOf(new(string), "keep", "close") }
	mapping := func(n *Node) { n.Map("dept", "size") }
	tests := []struct {
		value string
		read  func(*Node)
		want  string
	}{
		{"22", str, `f:1:4: v wants text, not 22; quote it: "22"`},
		{"1.5", str, `f:1:4: v wants text, not 1.5; quote it: "1.5"`},
		{"true", str, `f:1:4: v wants text, not true; quote it: "true"`},
		{"null", str, `f:1:4: v wants text, not nothing; write "" if it is to be empty`},
		{"", str, `f:1:3: v wants text, not nothing; write "" if it is to be empty`},
		{"~", str, `f:1:4: v wants text, not nothing; write "" if it is to be empty`},
		{"no", str, `f:1:4: v wants text, not "no"; quote it: "no"`},
		{"On", str, `f:1:4: v wants text, not "On"; quote it: "On"`},
		{"[a]", str, `f:1:4: v wants text, not a list`},
		{"{a: b}", str, `f:1:4: v wants text, not a mapping`},
		{"x", strs, `f:1:4: v wants a list, not "x"; put it in brackets: [x]`},
		{`"x"`, strs, `f:1:4: v wants a list, not "x"; put it in brackets: ["x"]`},
		{"", strs, `f:1:3: v wants a list, not nothing; write [] for none`},
		{"[a, 1, no]", strs, "f:1:8: v wants text, not 1; quote it: \"1\"\nf:1:11: v wants text, not \"no\"; quote it: \"no\""},
		{"30", dur, "f:1:4: " + duration + "30; write 30s"},
		{`"30"`, dur, "f:1:4: " + duration + "\"30\"; write 30s"},
		{"0", dur, "f:1:4: " + duration + "0; write 0s"},
		{`"0"`, dur, "f:1:4: " + duration + "\"0\"; write 0s"},
		{"7d", dur, "f:1:4: " + duration + "\"7d\"; write 168h"},
		{"1.5", dur, "f:1:4: " + duration + "1.5"},
		{"soon", dur, "f:1:4: " + duration + `"soon"`},
		{"-5s", dur, `f:1:4: v wants a duration that is not negative, not "-5s"`},
		{"1024", siz, "f:1:4: " + size + "1024; write 1024B"},
		{"256MB", siz, "f:1:4: " + size + `"256MB"; write 256MiB`},
		{"1g", siz, "f:1:4: " + size + `"1g"; write 1GiB`},
		{"-1MiB", siz, "f:1:4: " + size + `"-1MiB"`},
		{"99999999TiB", siz, `f:1:4: v wants a size below 8388608TiB, not "99999999TiB"`},
		{"yes", boolean, `f:1:4: v wants true or false, not "yes"`},
		{"True", boolean, `f:1:4: v wants true or false, not True`},
		{"1", boolean, `f:1:4: v wants true or false, not 1`},
		{"0", number, `f:1:4: v wants a whole number from 1 to 100, not 0`},
		{"101", number, `f:1:4: v wants a whole number from 1 to 100, not 101`},
		{"0x10", number, `f:1:4: v wants a whole number from 1 to 100, not 0x10`},
		{"0o7", number, `f:1:4: v wants a whole number from 1 to 100, not 0o7`},
		{"1_0", number, `f:1:4: v wants a whole number from 1 to 100, not 1_0`},
		{"+5", number, `f:1:4: v wants a whole number from 1 to 100, not +5`},
		{"1e1", number, `f:1:4: v wants a whole number from 1 to 100, not 1e1`},
		{"99999999999999999999", number, `f:1:4: v wants a whole number from 1 to 100, not 99999999999999999999`},
		{`"5"`, number, `f:1:4: v wants a whole number from 1 to 100, not "5"; write it without quotes`},
		{"keeep", word, `f:1:4: v wants one of keep, close, not "keeep"; did you mean "keep"?`},
		{"0x16", func(n *Node) { n.StringOrInt(new(string)) }, `f:1:4: v wants text or a whole number, not 0x16`},
		{"x", mapping, `f:1:4: v wants a mapping (key: value), not "x"`},
		{"{depht: 1}", mapping, `f:1:5: unknown key "depht"; did you mean "dept"?`},
		{`{"\u001b[31m": 1}`, mapping, `f:1:5: unknown key "\x1b[31m"; known here: dept, size`},
		{"007", str, `f:1:4: the number 007 has leading zeros; some programs would read it as octal; leave them out, or quote what is text`},
		{"!!str 1", number, `f:1:4: tags are not allowed; quote what is text`},
		{`"` + strings.Repeat("x", 100) + `"`, number, `f:1:4: v wants a whole number from 1 to 100, not "` + strings.Repeat("x", 60) + `…"`},
	}
	for _, tt := range tests {
		root, _ := Parse(strings.NewReader("v: "+tt.value), "f")
		tt.read(root.Map("v").Get("v"))
		if got := texts(root.Problems()); got != tt.want {
			t.Errorf("v: %s\n got: %s\nwant: %s", tt.value, got, tt.want)
		}
	}
}

func TestMissingKeysAndOwnProblems(t *testing.T) {
	root, _ := Parse(strings.NewReader("list:\n  - {alpha: 1}\n  - {b: 2}\n  - {alpah: 3}\n  - a\n"), "f")
	for _, item := range root.Map("list").Get("list").Items() {
		m := item.Map("alpha", "b")
		m.Require("alpha")
		if b := m.Get("b"); b != nil {
			b.Key().Warnf("b is old").Hint = "use a"
			b.Errorf("b is %d", 2)
		}
	}
	const want = "f:3:5: \"alpha\" is missing here\nwarning: f:3:6: b is old; use a\nf:3:9: b is 2\nf:4:6: unknown key \"alpah\"; did you mean \"alpha\"?\nf:5:5: list wants a mapping (key: value), not \"a\""
	if got := texts(root.Problems()); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestATreeCanBeLookedAtAsSuch(t *testing.T) {
	root, _ := Parse(strings.NewReader("b: [x, 1, ~]\na: {c: \"y\"}\n"), "f")
	var got []string
	for _, v := range root.Children() {
		got = append(got, v.Key().Text()+":")
		for _, c := range v.Children() {
			got = append(got, c.Kind.String(), c.Text())
		}
	}
	want := []string{"b:", "text", "x", "a number", "1", "nothing", "~", "a:", "text", "y"}
	if !reflect.DeepEqual(got, want) || root.Problems() != nil {
		t.Errorf("got %q, want %q, problems %v", got, want, root.Problems())
	}
	var absent *Node
	if absent.Children() != nil || absent.Text() != "" {
		t.Error("what is absent has something in it")
	}
}
