package tree

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// ErrMalformed is that of a text which is not what it should be.
var ErrMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

const hashText = 44 // bytes of a Hash in base64

// parseSize reads a size or an index as strconv.FormatUint writes it.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > MaxSize || strconv.FormatUint(n, 10) != s {
		return 0, malformed("%.40q is not a number of records", s)
	}
	return n, nil
}

// parseHash reads a hash as Hash.String writes it.
func parseHash(s string) (h Hash, err error) {
	var b [hashText]byte
	if len(s) == hashText {
		n, err := base64.StdEncoding.Strict().Decode(b[:], []byte(s))
		if err == nil && n == len(h) && Hash(b[:n]).String() == s {
			return Hash(b[:n]), nil
		}
	}
	return Hash{}, malformed("%.60q is not a hash in base64", s)
}

// printable reports whether text does nothing to a terminal but show, and
// shows in the order in which it stands. It does not ask whether a character
// is one that this version of Unicode knows: the writer's may be newer.
func printable(text []byte) bool {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) {
			return false
		}
		text = text[n:]
	}
	return true
}

// lines takes a text apart, line by line.
type lines struct {
	rest []byte
	n    int // of the line last taken, from 1
}

// next returns the next line without its newline.
func (l *lines) next() (string, error) {
	line, rest, found := bytes.Cut(l.rest, []byte("\n"))
	if !found {
		return "", l.malformed("the text is cut off")
	}
	l.rest = rest
	l.n++
	return string(line), nil
}

// want takes a line that is known.
func (l *lines) want(line string) error {
	got, err := l.next()
	if err == nil && got != line {
		err = l.malformed("%.60q where %q should be", got, line)
	}
	return err
}

// hashes takes the hashes that stand one a line up to any other line.
func (l *lines) hashes() ([]Hash, error) {
	var path []Hash
	for {
		line, _, found := bytes.Cut(l.rest, []byte("\n"))
		h, err := parseHash(string(line[:min(len(line), hashText+1)]))
		if !found || err != nil {
			return path, nil
		}
		if len(path) == maxPath {
			return nil, l.malformed("a path of more than %d hashes", maxPath)
		}
		path = append(path, h)
		l.next()
	}
}

func (l *lines) malformed(format string, args ...any) error {
	return malformed("line %d: %s", l.n, fmt.Sprintf(format, args...))
}

// maxPath bounds a path: one hash a level for a record, and one more for the
// consistency of two trees.
const maxPath = 61 + 1

func appendHashes(b []byte, path []Hash) []byte {
	for _, h := range path {
		b = append(append(b, h.String()...), '\n')
	}
	return b
}
