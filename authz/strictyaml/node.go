package strictyaml

import (
	"iter"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Kind is what a node is.
type Kind uint8

const (
	Invalid Kind = iota
	Null         // nothing, "~" or "null"
	Bool
	Int
	Float
	String // text: quoted, or plain and none of the above
	List
	Mapping
)

// String returns the kind with its article, as messages name it.
func (k Kind) String() string {
	switch k {
	case Null:
		return "nothing"
	case Bool:
		return "true or false"
	case Int, Float:
		return "a number"
	case String:
		return "text"
	case List:
		return "a list"
	case Mapping:
		return "a mapping"
	}
	return "invalid"
}

// A Node is a value in the file. Its readers may be called on nil, which is a
// value that is absent.
type Node struct {
	Kind   Kind
	quoted bool  // a scalar that cannot be read as another kind
	bad    bool  // a problem of it is noted already: readers are silent
	what   int32 // the key that messages name it by, one of doc.names
	Line   int
	Column int

	// Where the key is that it is the value of; 0 for items and keys. A node
	// of its own for each key would nearly double a large tree.
	keyLine, keyColumn int32

	doc   *document
	value string  // of a scalar
	items []*Node // of a list; the values of a mapping
}

// name returns the key that messages name the node by.
func (n *Node) name() string { return n.doc.names[n.what] }

// Problems returns everything found in the file until now, by Parse, by the
// readers, and by Errorf and Warnf.
func (n *Node) Problems() Problems {
	if n == nil {
		return nil
	}
	return n.doc.sorted()
}

// Errorf notes a problem at the node's place, which makes the file bad. A
// hint may be put into what it returns. The node must not be nil.
func (n *Node) Errorf(format string, args ...any) *Problem {
	return n.doc.add(n.Line, n.Column, format, args...)
}

// Warnf notes a warning at the node's place. A hint may be put into what it
// returns. The node must not be nil.
func (n *Node) Warnf(format string, args ...any) *Problem {
	p := n.Errorf(format, args...)
	p.Warning = true
	return p
}

// Key returns the key that n is the value of, to place a problem there. It
// returns n itself if there is none.
func (n *Node) Key() *Node {
	if n == nil || n.keyLine == 0 {
		return n
	}
	return &Node{Kind: String, Line: int(n.keyLine), Column: int(n.keyColumn), doc: n.doc, value: n.name()}
}

// Children returns the items of a list, or the values of a mapping, as the text
// runs; a value's key is its Key. Unlike Items and Map it notes no problem: it
// is for whoever looks at the tree as such, and not at what it says.
func (n *Node) Children() []*Node {
	if n == nil {
		return nil
	}
	return n.items
}

// Text returns what a scalar says, of whatever kind it is, without its quotes.
// Like Children it notes no problem.
func (n *Node) Text() string {
	if n == nil {
		return ""
	}
	return n.value
}

// wants notes that n is not what is wanted. The hint may be empty.
func (n *Node) wants(what, hint string) {
	if n.bad {
		return
	}
	subject := n.name()
	if subject == "" {
		subject = "this"
	}
	got := n.Kind.String()
	switch n.Kind {
	case Bool, Int, Float, String:
		got = brief(n.value)
		if n.Kind == String {
			got = `"` + got + `"`
		}
	}
	n.Errorf("%s wants %s, not %s", brief(subject), what, got).Hint = hint
}

// brief makes a value of the file fit for a message.
func brief(s string) string {
	const most = 60
	if len(s) > most {
		return safe(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return safe(s)
}

// A Map is a mapping with the keys that are known in its place.
type Map struct {
	node     *Node    // nil: it is absent, or no mapping
	misspelt []string // the known keys that an unknown one was meant for
}

// Map reads a mapping. Keys other than the known ones are problems, with the
// nearest known key as the hint.
func (n *Node) Map(known ...string) Map {
	if n == nil {
		return Map{}
	}
	if n.Kind != Mapping {
		n.wants("a mapping (key: value)", "")
		return Map{}
	}
	m := Map{node: n}
	for _, v := range n.items {
		name := v.name()
		if slices.Contains(known, name) {
			continue
		}
		p := v.Key().Errorf("unknown key %q", name)
		meant := Suggest(name, known)
		if meant == "" {
			p.Hint = "known here: " + strings.Join(known, ", ")
			continue
		}
		p.Hint = `did you mean "` + meant + `"?`
		m.misspelt = append(m.misspelt, meant)
	}
	return m
}

// Get returns the value of a known key, or nil if it is absent.
func (m Map) Get(key string) *Node {
	if m.node == nil {
		return nil
	}
	for _, v := range m.node.items {
		if v.name() == key {
			return v
		}
	}
	return nil
}

// Require returns the value of a known key; its absence is a problem.
func (m Map) Require(key string) *Node {
	if m.Lacks(key) {
		m.node.Errorf("%q is missing here", key)
	}
	return m.Get(key)
}

// Lacks reports whether the mapping is there and has none of these keys, not
// even misspelt.
func (m Map) Lacks(keys ...string) bool {
	if m.node == nil || m.node.bad {
		return false
	}
	for _, k := range keys {
		if m.Get(k) != nil || slices.Contains(m.misspelt, k) {
			return false
		}
	}
	return true
}

// Items returns the nodes of a list. Anything else is a problem.
func (n *Node) Items() []*Node {
	switch {
	case n == nil:
		return nil
	case n.Kind == Null:
		n.wants("a list", "write [] for none")
		return nil
	case n.Kind != List:
		hint := ""
		switch n.Kind {
		case Bool, Int, Float, String:
			hint = "put it in brackets: [" + n.source() + "]"
		}
		n.wants("a list", hint)
		return nil
	}
	return n.items
}

// Drain is Items for the reader of a large list who needs each item once: it
// lets go of them on the way, so that the tree shrinks as what is made of it
// grows.
func (n *Node) Drain() iter.Seq[*Node] {
	items := n.Items()
	return func(yield func(*Node) bool) {
		for i, item := range items {
			items[i] = nil
			if !yield(item) {
				return
			}
		}
	}
}

// source returns a scalar about as it stands in the text.
func (n *Node) source() string {
	if n.quoted {
		return `"` + brief(n.value) + `"`
	}
	return brief(n.value)
}

// String reads text into dst. What YAML reads as something else, such as 22,
// true or null, or as a truth value in some of its versions, such as yes and
// off, is a problem: it must be quoted.
func (n *Node) String(dst *string) bool {
	switch {
	case n == nil || n.bad:
		return false
	case n.Kind == Null:
		n.wants("text", `write "" if it is to be empty`)
		return false
	case n.Kind == Bool || n.Kind == Int || n.Kind == Float || n.Kind == String && !n.quoted && oldBool(n.value):
		n.wants("text", `quote it: "`+brief(n.value)+`"`)
		return false
	case n.Kind != String:
		n.wants("text", "")
		return false
	}
	*dst = n.value
	return true
}

// oldBool reports whether YAML 1.1 reads s as a truth value.
func oldBool(s string) bool {
	switch strings.ToLower(s) {
	case "yes", "no", "on", "off":
		return true
	}
	return false
}

// StringOrInt reads text as String does, or a plain decimal number as the
// text that it is written as.
func (n *Node) StringOrInt(dst *string) bool {
	if n == nil || n.bad || n.Kind != Int && n.Kind != Float {
		return n.String(dst)
	}
	if !decimal.MatchString(n.value) {
		n.wants("text or a whole number", "")
		return false
	}
	*dst = n.value
	return true
}

// OneOf reads text that must be one of the given words.
func (n *Node) OneOf(dst *string, words ...string) bool {
	var s string
	if !n.String(&s) {
		return false
	}
	if !slices.Contains(words, s) {
		n.wants("one of "+strings.Join(words, ", "), DidYouMean(s, words))
		return false
	}
	*dst = s
	return true
}

// StringList reads a list of texts into dst. It is set only if every item is
// good.
func (n *Node) StringList(dst *[]string) bool {
	if n == nil {
		return false
	}
	items := n.Items()
	if n.Kind != List || n.bad {
		return false
	}
	list, ok := make([]string, len(items)), true
	for i, item := range items {
		ok = item.String(&list[i]) && ok
	}
	if ok {
		*dst = list
	}
	return ok
}

var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// Int reads a plain decimal number from low to high.
func (n *Node) Int(dst *int, low, high int) bool {
	if n == nil || n.bad {
		return false
	}
	if n.Kind == Int {
		if i, err := strconv.Atoi(n.value); err == nil && decimal.MatchString(n.value) && low <= i && i <= high {
			*dst = i
			return true
		}
	}
	hint := ""
	if n.Kind == String && decimal.MatchString(n.value) {
		hint = "write it without quotes"
	}
	what := "a whole number"
	switch {
	case high == math.MaxInt && low == math.MinInt:
	case high == math.MaxInt:
		what += " of at least " + strconv.Itoa(low)
	default:
		what += " from " + strconv.Itoa(low) + " to " + strconv.Itoa(high)
	}
	n.wants(what, hint)
	return false
}

// Bool reads true or false, spelt so.
func (n *Node) Bool(dst *bool) bool {
	if n == nil || n.bad {
		return false
	}
	if n.Kind == Bool && (n.value == "true" || n.value == "false") {
		*dst = n.value == "true"
		return true
	}
	n.wants("true or false", "")
	return false
}

var days = regexp.MustCompile(`^([0-9]{1,5})d$`)

// Duration reads a duration of zero or more with a unit, such as 30s or 1h30m.
func (n *Node) Duration(dst *time.Duration) bool {
	if n == nil || n.bad {
		return false
	}
	const what = "a duration with a unit, such as 30s, 5m or 1h30m"
	if n.Kind == Int {
		n.wants(what, "write "+n.value+"s")
		return false
	}
	if n.Kind != String {
		n.wants(what, "")
		return false
	}
	d, err := time.ParseDuration(n.value)
	switch {
	case decimal.MatchString(n.value):
		n.wants(what, "write "+n.value+"s")
		return false
	case err != nil:
		hint := ""
		if m := days.FindStringSubmatch(n.value); m != nil {
			h, _ := strconv.Atoi(m[1])
			hint = "write " + strconv.Itoa(24*h) + "h"
		}
		n.wants(what, hint)
		return false
	case strings.HasPrefix(n.value, "-"):
		n.wants("a duration that is not negative", "")
		return false
	}
	*dst = d
	return true
}

var (
	size  = regexp.MustCompile(`^(0|[1-9][0-9]*)(B|KiB|MiB|GiB|TiB)$`)
	shift = map[string]uint{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
	loose = regexp.MustCompile(`^([1-9][0-9]*) ?([kKmMgGtT])[iI]?[bB]?$`)
)

// Size reads a number of bytes with a unit, such as 256MiB, or 0.
func (n *Node) Size(dst *int64) bool {
	if n == nil || n.bad {
		return false
	}
	const what = "a size with a unit (B, KiB, MiB, GiB, TiB), such as 256MiB"
	if n.Kind == Int && n.value == "0" {
		*dst = 0
		return true
	}
	if n.Kind == Int && decimal.MatchString(n.value) {
		n.wants(what, "write "+n.value+"B")
		return false
	}
	if n.Kind != String {
		n.wants(what, "")
		return false
	}
	m := size.FindStringSubmatch(n.value)
	if m == nil {
		hint := ""
		if l := loose.FindStringSubmatch(n.value); l != nil {
			hint = "write " + l[1] + strings.ToUpper(l[2]) + "iB"
		}
		n.wants(what, hint)
		return false
	}
	i, err := strconv.ParseInt(m[1], 10, 64)
	if s := shift[m[2]]; err != nil || i > math.MaxInt64>>s {
		n.wants("a size below 8388608TiB", "")
		return false
	} else {
		*dst = i << s
	}
	return true
}
