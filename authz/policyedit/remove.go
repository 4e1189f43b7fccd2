package policyedit

import (
	"slices"
	"strings"

	"sekisho/authz/strictyaml"
)

// remove takes the entry out that is the index-th of its list.
func (p *policy) remove(list *strictyaml.Node, index int) ([]byte, error) {
	var edits []edit
	var err error
	if p.isFlow(list) {
		edits, err = p.removeFlow(list, index)
	} else {
		edits, err = p.removeBlock(list, index)
	}
	if err != nil {
		return nil, err
	}
	key := list.Key().Text()
	want := valueOf(p.root)
	for i := range want.keys {
		if want.keys[i] == key {
			want.items[i].items = slices.Delete(want.items[i].items, index, index+1)
		}
	}
	return p.checked(key, want, edits)
}

// removeBlock removes an entry of a list in block style: its lines, and the
// comments that belong to it.
func (p *policy) removeBlock(list *strictyaml.Node, index int) ([]edit, error) {
	dashes, err := p.dashes(list)
	if err != nil {
		return nil, err
	}
	limit := p.limit(list)
	if index+1 < len(dashes) {
		limit = dashes[index+1]
	}
	first := p.withComments(dashes[index])
	last := p.withDeeper(p.lastContent(dashes[index], limit), list.Column, limit, false)
	above := p.lines[first-1].blank()
	below := last+1 < len(p.lines) && p.lines[last+1].blank()
	switch { // of the blank lines that stood around the entry, one is enough
	case index > 0 && above && (below || index == len(dashes)-1):
		first--
	case index == 0 && len(dashes) > 1 && below:
		last++
	}
	edits := []edit{p.deleteLines(first, last)}
	if len(dashes) == 1 { // nothing would be null, and not an empty list
		end, ok := p.behindColon(list.Key())
		if !ok {
			return nil, p.problemAt(list.Key(), "the list cannot be emptied in place", "edit it by hand")
		}
		edits = append(edits, edit{end, end, " []"})
	}
	return edits, nil
}

// removeFlow removes an entry of a list in brackets, with its comma.
func (p *policy) removeFlow(list *strictyaml.Node, index int) ([]edit, error) {
	items, err := p.flowItems(list)
	if err != nil {
		return nil, err
	}
	item := items[index]
	last := index == len(items)-1
	if item.ownLines && (last || item.comma >= 0) {
		end := max(item.end, item.comma)
		edits := []edit{p.deleteLines(p.withComments(p.lineAt(item.start)), p.lineAt(end))}
		if last && index > 0 && item.comma < 0 {
			before := items[index-1].comma
			edits = append(edits, edit{before, before + 1, ""})
		}
		return edits, nil
	}
	cut := edit{start: item.start, end: item.end}
	switch {
	case !last:
		cut.end = items[index+1].start
	case item.comma >= 0:
		cut.end = item.comma + 1
	}
	if last && index > 0 {
		cut.start = items[index-1].end
		if item.comma >= 0 {
			cut.start = items[index-1].comma + 1
		}
	}
	behind := item.end
	if !last { // what is in the same line is about the entry
		behind = p.lines[p.lineAt(max(item.end, item.comma))].end
	}
	if p.hasComment(cut.start, item.start) || p.hasComment(behind, cut.end) {
		return nil, p.problemAt(list.Children()[index], "between this entry and its neighbour is a comment that may belong to either", "remove the entry by hand")
	}
	return []edit{cut}, nil
}

// A flowItem is an entry of a list in brackets, by offsets.
type flowItem struct {
	start, end int
	comma      int  // behind it, or -1
	ownLines   bool // its lines have nothing else but its comma and comments
}

func (p *policy) flowItems(list *strictyaml.Node) ([]flowItem, error) {
	var items []flowItem
	for _, n := range list.Children() {
		end, ok := p.flowEnd(n)
		if !ok {
			return nil, p.problemAt(n, "an entry without braces in a list in brackets is not edited in place", "put braces around it: {name: …}")
		}
		item := flowItem{start: p.start(n), end: end, comma: p.comma(end)}
		behind := end
		if item.comma >= 0 && p.lineAt(item.comma) == p.lineAt(end) {
			behind = item.comma + 1
		}
		item.ownLines = p.startsLine(item.start) && p.restIsEmpty(behind) && (item.comma < 0 || behind > item.comma)
		items = append(items, item)
	}
	return items, nil
}

// startsLine reports whether only blanks come before in the line.
func (p *policy) startsLine(at int) bool {
	l := p.lines[p.lineAt(at)]
	return at == l.start+l.indent
}

// dashes returns for each entry of a list in block style the line that its dash
// begins.
func (p *policy) dashes(list *strictyaml.Node) ([]int, error) {
	var lines []int
	above := list.Key().Line - 1
	for _, n := range list.Children() {
		i := n.Line - 1
		for i > above && !p.hasDash(list, i) {
			i--
		}
		if i <= above {
			return nil, p.problemAt(n, "an entry whose dash does not begin a line is not edited in place", "edit it by hand")
		}
		lines, above = append(lines, i), n.Line-1
	}
	return lines, nil
}

// hasDash reports whether a line begins with a dash in the list's column.
func (p *policy) hasDash(list *strictyaml.Node, i int) bool {
	l := p.lines[i]
	return l.indent == list.Column-1 && l.start+l.indent < l.end && p.text[l.start+l.indent] == '-'
}

// limit returns the line of the key that comes after a list's, or the end of
// the file.
func (p *policy) limit(list *strictyaml.Node) int {
	keys := p.root.Children()
	if i := slices.Index(keys, list); i+1 < len(keys) {
		return keys[i+1].Key().Line - 1
	}
	return len(p.lines)
}

// lastContent returns the last line with content from first on and before
// limit.
func (p *policy) lastContent(first, limit int) int {
	last := first
	for i := first; i < limit; i++ {
		if p.lines[i].content {
			last = i
		}
	}
	return last
}

// withDeeper returns the last of the comment lines directly below a line that
// are indented deeper than column, and so belong to what is there. Blank lines
// may be between if apart is set.
func (p *policy) withDeeper(line, column, limit int, apart bool) int {
	last := line
	for i := line + 1; i < limit; i++ {
		l := p.lines[i]
		switch {
		case l.onlyComment() && l.indent >= column:
			last = i
		case apart && l.blank():
		default:
			return last
		}
	}
	return last
}

// withComments returns the first of the comment lines directly above a line
// that have its indentation.
func (p *policy) withComments(line int) int {
	for line > 0 && p.lines[line-1].onlyComment() && p.lines[line-1].indent == p.lines[line].indent {
		line--
	}
	return line
}

// deleteLines deletes lines. If the last one ends the file without a line
// break, then the line before does so afterwards.
func (p *policy) deleteLines(first, last int) edit {
	e := edit{p.lines[first].start, p.lines[last].next, ""}
	if l := p.lines[last]; l.end == l.next && first > 0 {
		e.start = p.lines[first-1].end
	}
	return e
}

// names returns the entries of a list by name.
func names(list *strictyaml.Node) (texts []string, nodes []*strictyaml.Node) {
	for _, item := range list.Children() {
		n := child(item, "name")
		texts, nodes = append(texts, n.Text()), append(nodes, n)
	}
	return texts, nodes
}

// removeNamed removes the entry with a name.
func (p *policy) removeNamed(key, name string) ([]byte, error) {
	what := strings.TrimSuffix(key, "s")
	list, err := p.list(key)
	if err != nil {
		return nil, err
	}
	texts, nodes := names(list)
	index := slices.Index(texts, name)
	if index < 0 || name == "" {
		at := p.root
		if list != nil {
			at = list.Key()
		}
		return nil, p.problemAt(at, "there is no "+what+" "+quote(name), strictyaml.DidYouMean(name, texts))
	}
	if again := slices.Index(texts[index+1:], name); again >= 0 {
		return nil, p.alreadyAt(nodes[index+1+again], what, name, nodes[index].Line)
	}
	return p.remove(list, index)
}
