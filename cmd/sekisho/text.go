package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// brief writes a duration as a person does: 10m, not 10m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// many writes a number of things: 1 user, 2 users.
func many(n int, thing string) string {
	if n != 1 {
		thing += "s"
		if root, ok := strings.CutSuffix(thing, "ys"); ok && !strings.HasSuffix(thing, "eys") {
			thing = root + "ies"
		}
	}
	return strconv.Itoa(n) + " " + thing
}

// and joins words as a sentence does.
func and(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// or joins words as a sentence of a choice does.
func or(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// printable makes text of unknown origin fit for one line of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// shellWord quotes a word for a POSIX shell where it needs that.
func shellWord(s string) string {
	safe := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_./:@%+=,", r))
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// mode writes permission bits as chmod takes them.
func mode(perm uint32) string { return fmt.Sprintf("%04o", perm) }
