package authkeys

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// parse parses text in UTC and gives the problems as text.
func parse(text string) ([]Entry, []string) {
	file, problems := Parse(strings.NewReader(text), "f", nil)
	entries := file.Keys
	var ps []string
	for _, p := range problems {
		ps = append(ps, p.Error())
	}
	return entries, ps
}

func TestAFileOfManyLines(t *testing.T) {
	k := func(n byte) string { return keyLine(testKey(n)) }
	text := "\ufeff# keys of alice\r\n" +
		k(1) + " alice@laptop\r\n" +
		"\r\n" +
		" \t \n" +
		"  # " + k(2) + "\n" +
		"bogus " + k(3) + "\n" +
		"cert-authority,environment=\"A=b\" " + k(1) + " the same key vouches too\n" +
		"restrict " + k(1) + "\n" +
		"cert-authority " + k(1) + "\n" +
		k(3) + "\n" +
		k(4) // the last line needs no end
	entries, ps := parse(text)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%d %v %q", e.Line, e.Options.CertAuthority, e.Comment))
	}
	if want := `2 false "alice@laptop"|7 true "the same key vouches too"|10 false ""|11 false ""`; strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
	if want := []string{
		`f:6:1: the key is refused: unknown option "bogus"`,
		`f:7:16: environment is ignored: nothing is run here that could have one`,
		`f:8:1: the line is ignored: line 2 has the same key, and the first counts`,
		`f:9:1: the line is ignored: line 7 has the same key, and the first counts`,
	}; strings.Join(ps, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %s", strings.Join(ps, "\n"))
	}
}

func TestAFileWithoutLines(t *testing.T) {
	for _, text := range []string{"", "\n", "\ufeff", "# nothing", "\r\n\r\n"} {
		if entries, ps := parse(text); entries != nil || ps != nil {
			t.Errorf("%q: %v %q", text, entries, ps)
		}
	}
}

func TestBoundsOfAFile(t *testing.T) {
	many := func(n int, line func(int) string) io.Reader {
		var b strings.Builder
		for i := range n {
			b.WriteString(line(i) + "\n")
		}
		return strings.NewReader(b.String())
	}
	key := keyLine(testKey(1))
	ca := func(i int) string {
		k := testKey(byte(i))
		raw := k.Marshal()
		raw[len(raw)-1], raw[len(raw)-2] = byte(i), byte(i>>8)
		return keyLine(wireKey(raw))
	}
	exactly := key + "\n#" + strings.Repeat("x", maxFile-len(key)-2)
	for _, tt := range []struct {
		name              string
		r                 io.Reader
		entries, problems int
		last              string
		bad               bool
	}{
		{"as many keys as a file may have", many(maxEntries, ca), maxEntries, 0, "", false},
		{"more keys than a file may have", many(maxEntries+5, ca), maxEntries, 1, "f:1001:1: keys from here on are refused: more than 1000, and the rest is not looked at", false},
		{"many problems", many(maxProblems+5, func(int) string { return "x" }), 0, maxProblems + 1, "f:1001:1: keys from the next line on are refused: more than 1000 problems, and the rest is not looked at", false},
		{"many problems in one line", strings.NewReader(strings.Repeat("x,", 2000) + " " + key + "\n" + key), 0, maxProblems + 1, "f:1:2001: keys from the next line on are refused: more than 1000 problems, and the rest is not looked at", false},
		{"a file as large as it may be", strings.NewReader(exactly), 1, 0, "", false},
		{"a file too large", strings.NewReader(exactly + "x"), 0, 1, "f: all keys are refused: the file is larger than 1 MiB", false},
		{"a file without end", many(1<<15, func(int) string { return strings.Repeat("x", 1<<10) }), 0, 1, "f: all keys are refused: the file is larger than 1 MiB", false},
		{"a file that cannot be read to its end", io.MultiReader(strings.NewReader(key+"\n"), iotest.ErrReader(errors.New("disk on fire"))), 0, 1, "f: cannot be read: disk on fire", true},
	} {
		file, ps := Parse(tt.r, "f", time.UTC)
		if len(file.Keys) != tt.entries || len(ps) != tt.problems || (ps.Err() != nil) != tt.bad {
			t.Errorf("%s: %d entries, %d problems, %v", tt.name, len(file.Keys), len(ps), ps.Err())
		} else if len(ps) > 0 && ps[len(ps)-1].Error() != tt.last {
			t.Errorf("%s: %s", tt.name, ps[len(ps)-1])
		}
		if whole := tt.problems == 0; whole != (file.Unusable == "") {
			t.Errorf("%s: unusable for %q", tt.name, file.Unusable)
		}
	}
}

func TestRefusedKeysAreTold(t *testing.T) {
	text := "frobnicate " + keyLine(testKey(1)) + "\nverify-required,nonsense " + keyLine(testKey(2)) + "\nno key at all\n" + keyLine(testKey(3)) + "\n"
	file, _ := Parse(strings.NewReader(text), "f", nil)
	if len(file.Keys) != 1 || len(file.Refused) != 2 {
		t.Fatalf("%+v", file)
	}
	for i, r := range file.Refused {
		if r.Line != i+1 || string(r.Key.Marshal()) != string(testKey(byte(i+1)).Marshal()) || r.Why == "" {
			t.Errorf("%d: %+v", i, r)
		}
	}
}
