package policyedit

import (
	"regexp"
	"strconv"
	"strings"

	"sekisho/authz/strictyaml"
)

// A value is a part of a policy without its place and style, to be compared
// with another or to be written.
type value struct {
	kind   strictyaml.Kind
	text   string // of a scalar
	quoted bool   // it is always written in quotes
	keys   []string
	items  []value // of a list, or for each of the keys
}

func textValue(s string) value { return value{kind: strictyaml.String, text: s} }

func listValue(texts []string) value {
	v := value{kind: strictyaml.List}
	for _, s := range texts {
		v.items = append(v.items, textValue(s))
	}
	return v
}

func mapValue() value { return value{kind: strictyaml.Mapping} }

func (v *value) add(key string, item value) {
	v.keys, v.items = append(v.keys, key), append(v.items, item)
}

// addList adds a list unless it is empty.
func (v *value) addList(key string, texts []string) {
	if len(texts) > 0 {
		v.add(key, listValue(texts))
	}
}

// addText adds a text unless it is empty.
func (v *value) addText(key, s string) {
	if s != "" {
		v.add(key, textValue(s))
	}
}

// valueOf returns what a node says.
func valueOf(n *strictyaml.Node) value {
	v := value{kind: n.Kind}
	switch n.Kind {
	case strictyaml.List, strictyaml.Mapping:
		for _, c := range n.Children() {
			if n.Kind == strictyaml.Mapping {
				v.keys = append(v.keys, c.Key().Text())
			}
			v.items = append(v.items, valueOf(c))
		}
	default:
		v.text = n.Text()
	}
	return v
}

func (v value) equal(o value) bool {
	if v.kind != o.kind || v.text != o.text || len(v.keys) != len(o.keys) || len(v.items) != len(o.items) {
		return false
	}
	for i := range v.keys {
		if v.keys[i] != o.keys[i] {
			return false
		}
	}
	for i := range v.items {
		if !v.items[i].equal(o.items[i]) {
			return false
		}
	}
	return true
}

// A style is how entries of a list look.
type style struct {
	flow   bool           // in braces, on one line
	quote  bool           // every text and key in quotes, as in JSON
	pad    string         // behind { and before }
	gap    int            // in block style: from the dash to the first key
	blocks map[string]int // how far in a key's value begins in block style; -1: it is in flow style
}

// block returns how far the value of a key is indented, if it is not to be in
// flow style.
func (s style) block(key string, v value) (int, bool) {
	if v.kind != strictyaml.List && v.kind != strictyaml.Mapping || len(v.items) == 0 {
		return 0, false
	}
	in, seen := s.blocks[key]
	if !seen && key == "keys" {
		return 2, true // they are long
	}
	return in, seen && in >= 0
}

// blockEntry returns an entry in block style, one string a line, as they follow
// the list's indentation.
func (s style) blockEntry(entry value) []string {
	lines := s.blockLines(entry)
	for i := range lines {
		if i == 0 {
			lines[i] = "-" + strings.Repeat(" ", s.gap-1) + lines[i]
		} else {
			lines[i] = strings.Repeat(" ", s.gap) + lines[i]
		}
	}
	return lines
}

// blockLines returns a list or mapping in block style.
func (s style) blockLines(v value) (lines []string) {
	if v.kind == strictyaml.List {
		for _, item := range v.items {
			lines = append(lines, "- "+s.inline(item))
		}
		return lines
	}
	for i, key := range v.keys {
		item := v.items[i]
		in, block := s.block(key, item)
		if !block {
			lines = append(lines, s.key(key)+": "+s.inline(item))
			continue
		}
		lines = append(lines, s.key(key)+":")
		for _, l := range s.blockLines(item) {
			lines = append(lines, strings.Repeat(" ", in)+l)
		}
	}
	return lines
}

// flowEntry returns an entry on one line.
func (s style) flowEntry(entry value) string {
	text := s.inline(entry)
	return "{" + s.pad + text[1:len(text)-1] + s.pad + "}"
}

// inline returns a value on one line, in flow style.
func (s style) inline(v value) string {
	switch v.kind {
	case strictyaml.List:
		parts := make([]string, len(v.items))
		for i, item := range v.items {
			parts[i] = s.inline(item)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case strictyaml.Mapping:
		parts := make([]string, len(v.items))
		for i, item := range v.items {
			parts[i] = s.key(v.keys[i]) + ": " + s.inline(item)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case strictyaml.String:
		if s.quote || v.quoted || !plain(v.text) {
			return strconv.Quote(v.text) // all its escapes mean the same in YAML, as long as the text is UTF-8
		}
	}
	return v.text
}

func (s style) key(key string) string {
	if s.quote {
		return strconv.Quote(key)
	}
	return key
}

// plainForm has no character that means anything to YAML. A ':' would be
// allowed within a text, but not everywhere.
var plainForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+/-]*$`)

// plain reports whether a text without quotes is read as that text, by this
// program and by those that follow other versions of YAML.
func plain(s string) bool {
	if !plainForm.MatchString(s) {
		return false
	}
	switch strings.ToLower(s) {
	case "y", "n":
		return false
	}
	root, problems := strictyaml.Parse(strings.NewReader(s), "")
	var read string
	return problems.Err() == nil && root.String(&read) && read == s
}

// styleOf returns the style for a new entry of a list. The list may be nil,
// which is one to be made.
func (p *policy) styleOf(list *strictyaml.Node) style {
	s := style{gap: 2, blocks: map[string]int{}}
	items := list.Children()
	switch {
	case len(items) == 0:
		s.flow = p.mostAreFlow()
		s.quote = p.isFlow(p.root) && p.isQuoted(list.Key())
	default:
		last := items[len(items)-1]
		s.flow = p.isFlow(last)
		if s.flow && strings.HasPrefix(p.text[p.start(last)+1:], " ") {
			s.pad = " "
		}
		if fields := last.Children(); len(fields) > 0 {
			s.quote = p.isQuoted(fields[0].Key())
			if first := fields[0].Key(); !s.flow && p.hasDash(list, first.Line-1) {
				s.gap = first.Column - list.Column
			}
		}
	}
	if list != nil && p.isFlow(list) {
		s.flow = true
	}
	for i := len(items) - 1; i >= 0; i-- {
		if !p.isFlow(items[i]) {
			p.noteBlocks(items[i], s.blocks)
		}
	}
	return s
}

// noteBlocks notes of each key in a block mapping how its value is written.
func (p *policy) noteBlocks(mapping *strictyaml.Node, blocks map[string]int) {
	for _, v := range mapping.Children() {
		key := v.Key()
		if v.Kind != strictyaml.List && v.Kind != strictyaml.Mapping || len(v.Children()) == 0 {
			continue
		}
		in := -1
		if !p.isFlow(v) {
			in = v.Column - key.Column
			p.noteBlocks(v, blocks)
		}
		if _, seen := blocks[key.Text()]; !seen {
			blocks[key.Text()] = in
		}
	}
}

// mostAreFlow reports whether most entries of the file are in flow style.
func (p *policy) mostAreFlow() bool {
	flow, all := 0, 0
	for _, list := range p.root.Children() {
		if list.Kind != strictyaml.List {
			continue
		}
		for _, item := range list.Children() {
			if all++; p.isFlow(item) {
				flow++
			}
		}
	}
	return flow > all-flow
}

func (p *policy) isQuoted(n *strictyaml.Node) bool {
	at := p.start(n)
	return at >= 0 && p.text[at] == '"'
}
