package policyedit

import (
	"strings"

	"sekisho/authz/strictyaml"
)

// add puts an entry at the end of the list that a key of the file has.
func (p *policy) add(key string, entry value) ([]byte, error) {
	list := child(p.root, key)
	var edits []edit
	var err error
	switch {
	case list == nil:
		edits, err = p.addList(key, entry)
	case p.isFlow(list) && len(list.Children()) == 0:
		edits = p.addFirst(list, entry)
	case p.isFlow(list):
		edits, err = p.addFlow(list, entry)
	default:
		edits, err = p.addBlock(list, entry)
	}
	if err != nil {
		return nil, err
	}
	want := valueOf(p.root)
	if list == nil {
		want.add(key, value{kind: strictyaml.List})
	}
	for i := range want.keys {
		if want.keys[i] == key {
			want.items[i].items = append(want.items[i].items, entry)
		}
	}
	return p.checked(key, want, edits)
}

// checked returns the edited text if it says what is wanted, and nothing else.
func (p *policy) checked(key string, want value, edits []edit) ([]byte, error) {
	out := p.apply(edits...)
	root, problems := strictyaml.Parse(strings.NewReader(string(out)), p.name)
	if root != nil && problems.Err() == nil && valueOf(root).equal(want) {
		return out, nil
	}
	at := p.root
	if list := child(p.root, key); list != nil {
		at = list.Key()
	}
	return nil, p.problemAt(at, key+" is written in a way that cannot be edited in place", "edit it by hand")
}

// addList adds a key with its list at the end of the file.
func (p *policy) addList(key string, entry value) ([]edit, error) {
	if p.isFlow(p.root) {
		return nil, p.problemAt(p.root, "the file is in braces, and has no "+key, `add "`+key+`": [] by hand`)
	}
	last := len(p.lines) - 1
	lines := []string{strings.Repeat(" ", p.root.Column-1) + key + ":"}
	if p.lines[last].onlyComment() || !p.lines[last].blank() && p.keysStandApart() {
		lines = append([]string{""}, lines...)
	}
	lines = append(lines, p.blockLines(p.listColumn(), p.styleOf(nil), entry)...)
	return []edit{p.insertLines(last, lines)}, nil
}

// addFirst adds an entry to a list that is written as [].
func (p *policy) addFirst(list *strictyaml.Node, entry value) []edit {
	style := p.styleOf(list)
	at := p.start(list)
	end, ok := p.behindColon(list.Key())
	if !ok || p.isFlow(p.root) || p.text[end:min(end+3, len(p.text))] != " []" || !blankNext(p.text[end+3:]) || !p.restIsEmpty(end+3) {
		return []edit{{at + 1, at + 1, style.flowEntry(entry)}}
	}
	// What removeOnly makes of the list when the entry is removed again.
	column := p.listColumn()
	last := p.withDeeper(p.lineAt(at), column, p.limit(list), true)
	insert := p.insertLines(last, p.blockLines(column, style, entry))
	return []edit{{end, end + 3, ""}, insert}
}

// blankNext reports whether what follows parts tokens.
func blankNext(s string) bool { return s == "" || strings.ContainsRune(" \t\r\n", rune(s[0])) }

// addFlow adds an entry to a list in brackets.
func (p *policy) addFlow(list *strictyaml.Node, entry value) ([]edit, error) {
	items, err := p.flowItems(list)
	if err != nil {
		return nil, err
	}
	style := p.styleOf(list)
	last := items[len(items)-1]
	text := style.flowEntry(entry)
	indent := ""
	if p.startsLine(last.start) {
		l := p.lines[p.lineAt(last.start)]
		indent = p.text[l.start:last.start]
	}
	switch {
	case last.ownLines && last.comma >= 0:
		return []edit{p.insertLines(p.lineAt(last.comma), []string{indent + text + ","})}, nil
	case last.ownLines:
		return []edit{{last.end, last.end, ","}, p.insertLines(p.lineAt(last.end), []string{indent + text})}, nil
	}
	between := " "
	if p.startsLine(last.start) && !p.restIsEmpty(max(last.end, last.comma+1)) { // the list's bracket follows
		between = p.lineBreak(p.lineAt(last.start)) + indent
	}
	if last.comma >= 0 {
		return []edit{{last.comma + 1, last.comma + 1, between + text + ","}}, nil
	}
	return []edit{{last.end, last.end, "," + between + text}}, nil
}

// addBlock adds an entry to a list in block style.
func (p *policy) addBlock(list *strictyaml.Node, entry value) ([]edit, error) {
	dashes, err := p.dashes(list)
	if err != nil {
		return nil, err
	}
	limit := p.limit(list)
	last := p.lastContent(dashes[len(dashes)-1], limit)
	last = p.withDeeper(last, list.Column, limit, true)
	lines := p.blockLines(list.Column, p.styleOf(list), entry)
	if p.entriesStandApart(dashes) {
		lines = append([]string{""}, lines...)
	}
	return []edit{p.insertLines(last, lines)}, nil
}

// entriesStandApart reports whether a blank line is above each entry but the
// first.
func (p *policy) entriesStandApart(dashes []int) bool {
	for _, i := range dashes[1:] {
		if !p.lines[p.withComments(i)-1].blank() {
			return false
		}
	}
	return len(dashes) > 1
}

// blockLines returns the lines of an entry whose dash is in a column.
func (p *policy) blockLines(column int, s style, entry value) []string {
	lines := []string{"- " + s.flowEntry(entry)}
	if !s.flow {
		lines = s.blockEntry(entry)
	}
	for i := range lines {
		lines[i] = strings.Repeat(" ", column-1) + lines[i]
	}
	return lines
}

// insertLines inserts lines behind a line. If that one ends the file without a
// line break, then so does what is inserted.
func (p *policy) insertLines(behind int, lines []string) edit {
	l, br := p.lines[behind], p.lineBreak(behind)
	text := strings.Join(lines, br)
	if l.end == l.next {
		return edit{l.next, l.next, br + text}
	}
	return edit{l.next, l.next, text + br}
}

// keysStandApart reports whether blank lines part the keys of the file.
func (p *policy) keysStandApart() bool {
	for i, v := range p.root.Children() {
		above := v.Key().Line - 2
		for above >= 0 && p.lines[above].onlyComment() {
			above--
		}
		if i > 0 && above >= 0 && p.lines[above].blank() {
			return true
		}
	}
	return false
}

// listColumn returns the column of the dashes of a new list: as the file's
// other lists have it, or two to the right of their keys.
func (p *policy) listColumn() int {
	for _, list := range p.root.Children() {
		if list.Kind == strictyaml.List && !p.isFlow(list) {
			return list.Column
		}
	}
	return p.root.Column + 2
}

// child returns the value of a key, or nil.
func child(mapping *strictyaml.Node, key string) *strictyaml.Node {
	if mapping == nil || mapping.Kind != strictyaml.Mapping {
		return nil
	}
	for _, v := range mapping.Children() {
		if v.Key().Text() == key {
			return v
		}
	}
	return nil
}
