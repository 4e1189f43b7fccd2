package authkeys

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

// Bounds of a file. They are beyond what one person needs, and keep a wrong
// file from filling the memory.
const (
	maxFile     = 1 << 20 // bytes
	maxLine     = 8 << 10 // bytes, without the line's end; what sshd(8) promises
	maxEntries  = 1000
	maxProblems = 1000
)

// An Entry is one key that can be used.
type Entry struct {
	Line    int
	Key     ssh.PublicKey
	Comment string // valid UTF-8 without control characters, and otherwise as somebody wrote it
	Options Options
}

// A Refusal is a key that cannot be used by its line. Where the key is known
// by another file, too, it must not be worth more there than here.
type Refusal struct {
	Line int
	Key  ssh.PublicKey
	Why  string
}

// A File is what an authorized_keys file says.
type File struct {
	Keys    []Entry // that can be used, in file order
	Refused []Refusal

	// Unusable says why the file is not known to its end; "": it is. What the
	// rest would narrow is not known then, either.
	Unusable string
}

// Parse reads a file. There is a problem for every line that gives no key or of
// which something is ignored. A bad line never spoils the others. The filename
// is only for the problems; a nil zone is UTC.
//
// Problems are warnings, but for one: a file that cannot be read to its end
// has no meaning, gives no keys, and is an error.
func Parse(r io.Reader, filename string, zone *time.Location) (File, strictyaml.Problems) {
	if zone == nil {
		zone = time.UTC
	}
	p := &parser{file: filename, zone: zone, seen: make(map[identity]int)}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return File{Unusable: "cannot be read"}, strictyaml.Problems{{File: filename, Message: "cannot be read: " + err.Error()}}
	case len(text) > maxFile:
		why := fmt.Sprintf("is larger than %d MiB", maxFile>>20)
		return File{Unusable: why}, strictyaml.Problems{{File: filename, Message: "all keys are refused: the file " + why, Warning: true}}
	}
	rest := strings.TrimPrefix(string(text), "\ufeff") // some editors leave this mark
	for rest != "" && !p.stopped {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		p.line++
		p.parseLine(strings.TrimSuffix(line, "\r"))
	}
	p.problems.Sort()
	file := File{Keys: p.entries, Refused: p.refusals}
	if p.stopped {
		file.Unusable = "is not read to its end: it has too many keys or problems"
	}
	return file, p.problems
}

// A parser goes through one file.
type parser struct {
	file     string
	zone     *time.Location
	line     int
	text     string // of the line
	refused  bool   // the line gives no key
	why      string // the first reason
	refusals []Refusal
	entries  []Entry
	seen     map[identity]int // the line of each
	problems strictyaml.Problems
	stopped  bool // a bound was passed: the rest is not looked at
}

// An identity is what a line is about. One key may prove a user himself and,
// on another line, vouch for certificates: sshd never takes one line for both.
type identity struct {
	key       string
	authority bool
}

func (p *parser) parseLine(text string) {
	p.text, p.refused, p.why = text, false, ""
	at := blanks(text, 0)
	if at == len(text) || text[at] == '#' {
		return
	}
	if len(text) > maxLine {
		p.noKey(at, fmt.Sprintf("it is longer than %d bytes", maxLine), "")
		return
	}
	if i := strings.IndexFunc(text, isControl); i >= 0 {
		c, _ := utf8.DecodeRuneInString(text[i:])
		p.noKey(i, fmt.Sprintf("it has the control character %U", c), "")
		return
	}
	typ, ok := p.typeField(at)
	if !ok {
		return
	}
	blob := field{at: blanks(text, typ.end())}
	blob.text = word(text[blob.at:])
	key, message, hint := parseKey(typ.text, blob.text)
	if message != "" {
		p.refuse(typ.at, message, hint)
	}
	options := p.parseOptions(at, strings.TrimRight(text[at:typ.at], " \t"))
	if p.refused {
		if key != nil && len(p.refusals) < maxEntries {
			p.refusals = append(p.refusals, Refusal{p.line, key, p.why})
		}
		return
	}
	id := identity{string(key.Marshal()), options.CertAuthority}
	if first, ok := p.seen[id]; ok {
		p.warn(at, fmt.Sprintf("the line is ignored: line %d has the same key, and the first counts", first), "")
		return
	}
	if len(p.entries) == maxEntries {
		p.warn(at, fmt.Sprintf("keys from here on are refused: more than %d, and the rest is not looked at", maxEntries), "")
		p.stopped = true
		return
	}
	p.seen[id] = p.line
	comment := strings.ToValidUTF8(strings.Trim(text[blob.end():], " \t"), "\ufffd")
	p.entries = append(p.entries, Entry{p.line, key, strings.Clone(comment), options}) // not to keep the whole file
}

// A field is a part of a line between blanks.
type field struct {
	at   int // where it begins in the line
	text string
}

func (f field) end() int { return f.at + len(f.text) }

// typeField finds the type of the key in a line that begins at a place:
// there, or after the options.
//
// What may be no key at all is not shown in a problem: somebody may have
// pasted a private one.
func (p *parser) typeField(at int) (field, bool) {
	first := field{at, word(p.text[at:])}
	if isKeyType(first.text) {
		return first, true
	}
	if strings.HasPrefix(p.text[at:], "-----BEGIN") {
		if strings.Contains(p.text, "PRIVATE KEY-----") {
			p.noKey(at, "this is a private key", "write the line of its .pub file, and treat the private key as known to others")
		} else {
			p.noKey(at, "this is PEM, not a key in OpenSSH's format", keyHint)
		}
		return field{}, false
	}
	n, closed := scan(p.text[at:], " \t")
	if !closed {
		p.noKey(at, "a quote in its options is not closed", `write \" for a quote within quotes`)
		return field{}, false
	}
	typ := field{at: blanks(p.text, at+n)}
	typ.text = word(p.text[typ.at:])
	after := word(p.text[blanks(p.text, typ.end()):])
	switch {
	case isKeyType(typ.text):
		return typ, true
	case typ.text == "":
		p.noKey(at, "there is no key in it", keyHint)
	case isBlob(typ.text):
		p.refuse(at, "keys of the type "+quote(first.text)+" are not supported", typeHint(first.text))
	case isBlob(after):
		p.refuse(typ.at, "keys of the type "+quote(typ.text)+" are not supported", typeHint(typ.text))
	default:
		p.noKey(typ.at, "the type of a key is expected here", "options have no blanks, but within double quotes")
	}
	return field{}, false
}

// scan returns where in s the first of the stops is that is not within quotes,
// or the length of s, and whether no quote is open at the end.
func scan(s, stops string) (end int, closed bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\"`):
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(stops, s[i]) >= 0:
			return i, true
		}
	}
	return len(s), !quoted
}

// blanks returns the first place from at on where s has no blank.
func blanks(s string, at int) int {
	return len(s) - len(strings.TrimLeft(s[at:], " \t"))
}

// word returns s up to its first blank.
func word(s string) string {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i]
	}
	return s
}

func isControl(r rune) bool { return r != '\t' && unicode.IsControl(r) }

// refuse notes why the key of the line cannot be used.
func (p *parser) refuse(at int, why, hint string) {
	p.refused, p.why = true, cmp.Or(p.why, why)
	p.warn(at, "the key is refused: "+why, hint)
}

// noKey notes why the line has no key that could be used.
func (p *parser) noKey(at int, why, hint string) {
	p.refused = true
	p.warn(at, "the line gives no key: "+why, hint)
}

// warn notes a problem at a place in the line.
func (p *parser) warn(at int, message, hint string) {
	switch {
	case len(p.problems) > maxProblems:
		return
	case len(p.problems) == maxProblems:
		message, hint = fmt.Sprintf("keys from the next line on are refused: more than %d problems, and the rest is not looked at", maxProblems), ""
		p.stopped = true
	}
	p.problems = append(p.problems, strictyaml.Problem{
		File: p.file, Line: p.line, Column: utf8.RuneCountInString(p.text[:at]) + 1,
		Message: message, Hint: hint, Warning: true,
	})
}

// quote makes text of unknown origin short and safe to print.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
