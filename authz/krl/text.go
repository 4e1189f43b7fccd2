package krl

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// maxProblems are told of a text; a file of another kind has one in each line.
const maxProblems = 20

// parseText reads public keys, one a line, as in .pub files.
func parseText(data []byte) (*List, []Problem) {
	l := newList()
	l.text = true
	var problems []Problem
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		column, key, p := parseLine(line)
		switch {
		case p.Message != "":
			p.Line, p.Column = n, column
			if len(problems) == maxProblems {
				p.Message, p.Hint = fmt.Sprintf("more than %d problems: the rest is not looked at", maxProblems), ""
				return nil, append(problems, p)
			}
			problems = append(problems, p)
		case key != nil:
			l.keys[string(key.Marshal())] = struct{}{}
		}
	}
	return l, problems
}

// parseLine returns the plain key of a line, nil if there is none, and the
// column of the key or the problem.
func parseLine(line string) (column int, key ssh.PublicKey, p Problem) {
	const pub = "write one line as in a .pub file: ssh-ed25519 AAAA… comment"
	text := strings.TrimLeft(line, " \t")
	column = len(line) - len(text) + 1
	if i := strings.IndexFunc(line, isControl); i >= 0 {
		r, _ := utf8.DecodeRuneInString(line[i:])
		p.Message = fmt.Sprintf("control character %q", r)
		if strings.HasPrefix(text, "SSHKRL") {
			p.Hint = "the list is damaged, perhaps by a copy that took it for text"
		}
		return i + 1, nil, p
	}
	if text == "" || text[0] == '#' {
		return column, nil, p
	}
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	word, _, isSpec := strings.Cut(fields[0], ":")
	switch {
	case isSpec && isSpecWord(word):
		p.Message = "this is not a key but a line for ssh-keygen -k"
		p.Hint = "make a list of it: ssh-keygen -k -f revoked.krl -s ca.pub FILE"
		return column, nil, p
	case strings.HasPrefix(text, "-----BEGIN") && strings.Contains(text, "PRIVATE KEY-----"):
		p.Message = "this is a private key"
		p.Hint = "write the line of its .pub file"
		return column, nil, p
	case len(fields) == 1:
		p.Message, p.Hint = "this is not a public key", pub
		return column, nil, p
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err == nil {
		key, err = ssh.ParsePublicKey(blob)
	}
	// An RSA key has one type, but several names for its signatures.
	if err != nil || key.Type() != fields[0] {
		p.Message, p.Hint = fmt.Sprintf("what follows %s is not such a key", quote(fields[0])), pub
		return column, nil, p
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return column, key, p
}

// isSpecWord reports whether a line that begins so is for ssh-keygen -k, which
// does not tell upper case from lower.
func isSpecWord(word string) bool {
	switch strings.ToLower(word) {
	case "serial", "id", "key", "sha1", "sha256", "hash":
		return true
	}
	return false
}

func isControl(r rune) bool { return r != '\t' && unicode.IsControl(r) }
