package policyedit

import (
	"slices"
	"strings"

	"sekisho/authz/strictyaml"
)

// SetTexts returns the content with other texts in the list of a key at the top
// of the file: in an order of their own, some more, some less. A list with one
// entry a line keeps the lines, with their comments, of the texts that stay; one
// in brackets is written anew between them. The file need not be a policy.
func SetTexts(content []byte, filename, key string, texts []string) ([]byte, error) {
	p, err := read(content, filename)
	if err != nil {
		return nil, err
	}
	list := child(p.root, key)
	var edits []edit
	switch {
	case list == nil:
		edits, err = p.addTexts(key, texts)
	case list.Kind != strictyaml.List:
		list.Items() // says what is wanted
		return nil, p.root.Problems().Err()
	case p.isFlow(list):
		edits, err = p.setFlow(list, texts)
	default:
		edits, err = p.setBlock(list, texts)
	}
	if err != nil {
		return nil, err
	}
	want := valueOf(p.root)
	if list == nil {
		want.add(key, value{})
	}
	want.items[slices.Index(want.keys, key)] = listValue(texts)
	return p.checked(key, want, edits)
}

// addTexts adds the key at the end of the file.
func (p *policy) addTexts(key string, texts []string) ([]edit, error) {
	if p.isFlow(p.root) {
		return nil, p.problemAt(p.root, "the file is in braces, and has no "+key, `add "`+key+`": [] by hand`)
	}
	last := len(p.lines) - 1
	lines := []string{strings.Repeat(" ", p.root.Column-1) + key + ": " + style{}.inline(listValue(texts))}
	if p.lines[last].onlyComment() || !p.lines[last].blank() && p.keysStandApart() {
		lines = append([]string{""}, lines...)
	}
	return []edit{p.insertLines(last, lines)}, nil
}

func (p *policy) setFlow(list *strictyaml.Node, texts []string) ([]edit, error) {
	start := p.start(list)
	end, _ := p.flowEnd(list)
	if p.hasComment(start, end) {
		return nil, p.problemAt(list, "a list in brackets with a comment in it is not edited in place", "edit it by hand")
	}
	items := list.Children()
	s := style{quote: len(items) > 0 && p.isQuoted(items[0])}
	return []edit{{start, end, s.inline(listValue(texts))}}, nil
}

// setBlock gives each line of an entry another content, so that what stands
// between them stays where it is.
func (p *policy) setBlock(list *strictyaml.Node, texts []string) ([]edit, error) {
	dashes, err := p.dashes(list)
	if err != nil {
		return nil, err
	}
	had := map[string]string{} // lines, by their text
	for i, n := range list.Children() {
		l := p.lines[dashes[i]]
		had[n.Text()] = p.text[l.start:l.end]
	}
	var edits []edit
	var more []string
	for i, text := range texts {
		line, ok := had[text]
		if !ok {
			line = strings.Repeat(" ", list.Column-1) + "- " + style{}.inline(textValue(text))
		}
		if i < len(dashes) {
			l := p.lines[dashes[i]]
			edits = append(edits, edit{l.start, l.end, line})
		} else {
			more = append(more, line)
		}
	}
	if len(more) > 0 {
		edits = append(edits, p.insertLines(dashes[len(dashes)-1], more))
	}
	for _, i := range dashes[min(len(texts), len(dashes)):] {
		edits = append(edits, edit{p.lines[i].start, p.lines[i].next, ""})
	}
	return edits, nil
}
