package policyedit

import (
	"slices"
	"strings"
	"testing"

	"sekisho/authz/strictyaml"
)

func TestTextsAreSetInTheirPlace(t *testing.T) {
	for _, test := range []struct {
		name, before string
		texts        string
		want         string // or the error
	}{
		{"one more in brackets", "a: 1\nkeys: [x, u]  # mine\nb: 2\n", "x z u", "a: 1\nkeys: [x, z, u]  # mine\nb: 2\n"},
		{"in quotes, as the others are", `keys: ["x"]`, "x z", `keys: ["x", "z"]`},
		{"brackets over several lines", "keys: [x,\n  u\n]\nb: 2\n", "u x", "keys: [u, x]\nb: 2\n"},
		{"lines change places with their comments", "keys:  # which\n  - x  # first\n  # between\n  - y # second\nb: 2\n", "y x", "keys:  # which\n  - y # second\n  # between\n  - x  # first\nb: 2\n"},
		{"a line more", "keys:\n- x\n- y # why\n\n# next\nb: 2\n", "x z y", "keys:\n- x\n- z\n- y # why\n\n# next\nb: 2\n"},
		{"a line more, without a line break at the end", "keys:\n- x", "x z", "keys:\n- x\n- z"},
		{"a line less", "keys:\n  - x\n  # about y\n  - y\n  - z\nb: 2\n", "z y", "keys:\n  - z\n  # about y\n  - y\nb: 2\n"},
		{"no key yet", "a: 1\n", "x d/z", "a: 1\nkeys: [x, d/z]\n"},
		{"what YAML reads otherwise", "keys: [x]\n", "x true 017", "keys: [x, \"true\", \"017\"]\n"},
		{"Windows' line breaks", "keys:\r\n- x\r\nb: 2\r\n", "z x", "keys:\r\n- z\r\n- x\r\nb: 2\r\n"},
		{"a comment in brackets", "keys: [x,  # first\n  y]\n", "y x", `f:1:7: a list in brackets with a comment in it is not edited in place: edit it by hand`},
		{"not a list", "keys: x\n", "y", "f:1:7: keys wants a list"},
		{"braces without the key", "{a: 1}\n", "x", `f:1:1: the file is in braces, and has no keys`},
		{"a text over two lines", "keys:\n- \"x\n  y\"\n- z\n", "z w", "f:1:1: keys is written in a way that cannot be edited in place"},
		{"no file at all", "", "x", "f:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := SetTexts([]byte(test.before), "f", "keys", strings.Fields(test.texts))
			if err != nil {
				if !strings.HasPrefix(err.Error(), test.want[:min(len(test.want), 12)]) || strings.HasSuffix(test.want, "\n") {
					t.Errorf("%v, want %s", err, test.want)
				}
				return
			}
			if string(got) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// FuzzSetTexts: what comes out says what was wanted, and all else as before.
func FuzzSetTexts(f *testing.F) {
	f.Add("a: 1\nkeys: [x, y]\n", "y x")
	f.Add("keys:\n  - x # c\n  - 'y'\nb: {}\n", "z y x")
	f.Add("b: [1]\n", "x")
	f.Fuzz(func(t *testing.T, content, words string) {
		texts := strings.Fields(words)
		if slices.ContainsFunc(texts, func(s string) bool { return !plainForm.MatchString(s) }) {
			return
		}
		got, err := SetTexts([]byte(content), "f", "keys", texts)
		if err != nil {
			return
		}
		before, _ := strictyaml.Parse(strings.NewReader(content), "f")
		after, problems := strictyaml.Parse(strings.NewReader(string(got)), "f")
		if problems.Err() != nil {
			t.Fatalf("%q becomes %q: %v", content, got, problems)
		}
		for _, v := range before.Children() {
			if key := v.Key().Text(); key != "keys" && !valueOf(child(after, key)).equal(valueOf(v)) {
				t.Errorf("%q becomes %q", content, got)
			}
		}
		if !valueOf(child(after, "keys")).equal(listValue(texts)) {
			t.Errorf("%q becomes %q", content, got)
		}
	})
}
