package tree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// formatAnswer writes an answer straight from the RFC.
func formatAnswer(head []byte, from int, d []string) string {
	b := fmt.Sprintf("sekisho audit head v1\nfrom %d\n", from)
	if 0 < from && from < len(d) {
		for _, h := range proof(from, d) {
			b += h.String() + "\n"
		}
	}
	return b + "head\n" + string(head)
}

func TestAnswersAreThoseOfTheRFC(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	for _, n := range append(slices.Collect(upTo(70)), 127, 128, 129, 1000) {
		d := records(n)
		head := signHead(t, s, d)
		for from := 0; from <= n; from += 1 + n/100*37 {
			old := &Head{Size: uint64(from), Root: mth(d[:from])}
			if from == 0 {
				old = nil
			}
			text, err := FormatAnswer(head, uint64(from), reader(d))
			if err != nil || string(text) != formatAnswer(head, from, d) {
				t.Fatalf("%d from %d: %v\n%s", n, from, err, text)
			}
			h, raw, err := CheckAnswer(text, []note.Verifier{v}, old)
			if err != nil || h.Size != uint64(n) || !bytes.Equal(raw, head) {
				t.Fatalf("%d from %d: %v, %s, %v", n, from, h, raw, err)
			}
			if old == nil || n > 70 {
				continue
			}
			// No other log has a proof that leads there.
			old.Root = mth(append([]string{"other"}, d[1:from]...))
			if _, _, err := CheckAnswer(text, []note.Verifier{v}, old); !errors.Is(err, ErrInconsistent) {
				t.Fatalf("%d from %d of another log: %v", n, from, err)
			}
		}
	}
}

func upTo(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := 0; i <= n && yield(i); i++ {
		}
	}
}

func TestAnswerThatWouldNotHoldIsNotMade(t *testing.T) {
	s, _ := newKey(t, "bastion-1")
	d := records(9)
	head := signHead(t, s, d)
	broken := tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) { return make([]Hash, len(indexes)), nil })
	other := slices.Clone(d)
	other[0] = "other"
	for name, r := range map[string]tlog.HashReader{"wrong hashes": broken, "no hashes": reader(nil), "hashes of another log": reader(other)} {
		if text, err := FormatAnswer(head, 4, r); err == nil || errors.Is(err, ErrUnprovable) != (name != "no hashes") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	for _, from := range []uint64{0, 9, 10} {
		if text, err := FormatUnprovable(head, from); err == nil {
			t.Errorf("nothing was to be proven: %s", text)
		}
	}
	if text, err := FormatPruned(head, 5, 5); err == nil {
		t.Errorf("an excuse without need: %s", text)
	}
}

func TestWhyAnAnswerIsRefused(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	_, otherV := newKey(t, "bastion-2")
	d := records(20)
	head := signHead(t, s, d)
	old := &Head{Origin: "bastion-1", Size: 13, Root: mth(d[:13]), Time: noon}
	good := formatAnswer(head, 13, d)
	hash := proof(13, d)[0].String()
	pruned, err := FormatPruned(head, 13, 15)
	if err != nil {
		t.Fatal(err)
	}
	unprovable, err := FormatUnprovable(head, 13)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text     string
		key      note.Verifier
		old      *Head
		want     error
		evidence bool
	}{
		"good":                            {good, v, old, nil, true},
		"the first head":                  {formatAnswer(head, 0, d), v, nil, nil, true},
		"of an empty log to one of 20":    {formatAnswer(head, 0, d), v, &Head{}, nil, true},
		"nothing new":                     {formatAnswer(head, 20, d), v, &Head{Size: 20, Root: mth(d)}, nil, true},
		"as many records, but others":     {formatAnswer(head, 20, d), v, &Head{Size: 20, Root: mth(d[1:])}, ErrInconsistent, true},
		"fewer records":                   {formatAnswer(head, 21, d), v, &Head{Size: 21}, ErrRollback, true},
		"a log that was changed":          {good, v, &Head{Size: 13, Root: mth(d[1:14])}, ErrInconsistent, true},
		"a changed hash":                  {strings.Replace(good, hash, Hash{}.String(), 1), v, old, ErrInconsistent, true},
		"a hash too few":                  {strings.Replace(good, hash+"\n", "", 1), v, old, ErrInconsistent, true},
		"a hash too many":                 {strings.Replace(good, hash, hash+"\n"+hash, 1), v, old, ErrInconsistent, true},
		"retention took it":               {string(pruned), v, old, ErrPruned, true},
		"retention of more than there is": {strings.Replace(string(pruned), "pruned 15", "pruned 99", 1), v, old, ErrPruned, true},
		"retention of what is not asked":  {strings.Replace(string(pruned), "pruned 15", "pruned 13", 1), v, old, ErrMalformed, false},
		"retention, asked from none":      {strings.Replace(string(pruned), "from 13", "from 0", 1), v, nil, ErrMalformed, false},
		"it cannot be proven":             {string(unprovable), v, old, ErrUnprovable, true},
		"unprovable, of a shorter log":    {strings.Replace(formatAnswer(head, 21, d), "from 21\n", "from 21\nunprovable\n", 1), v, &Head{Size: 21}, ErrRollback, true},
		"unprovable, and of another key":  {string(unprovable), otherV, old, ErrForeignKey, false},
		"unprovable, and a path":          {strings.Replace(good, "head\nbastion", "unprovable\nhead\nbastion", 1), v, old, ErrMalformed, false},
		"unprovable, then a path":         {strings.Replace(good, "from 13\n", "from 13\nunprovable\n", 1), v, old, ErrMalformed, false},
		"unprovable, and retention":       {strings.Replace(string(pruned), "pruned 15\n", "unprovable\npruned 15\n", 1), v, old, ErrMalformed, false},
		"retention, and unprovable":       {strings.Replace(string(pruned), "pruned 15\n", "pruned 15\nunprovable\n", 1), v, old, ErrMalformed, false},
		"unprovable twice":                {strings.Replace(string(unprovable), "unprovable\n", "unprovable\nunprovable\n", 1), v, old, ErrMalformed, false},
		"unprovable with more words":      {strings.Replace(string(unprovable), "unprovable", "unprovable 13", 1), v, old, ErrMalformed, false},
		"unprovable, asked from none":     {strings.Replace(string(unprovable), "from 13", "from 0", 1), v, nil, ErrMalformed, false},
		"another key":                     {good, otherV, old, ErrForeignKey, false},
		"a head that is not signed":       {strings.Replace(good, "\n20\n", "\n21\n", 1), v, old, ErrSignature, false},
		"an answer to somebody else":      {formatAnswer(head, 12, d), v, old, ErrMalformed, false},
		"an answer to one who has none":   {formatAnswer(head, 0, d), v, old, ErrMalformed, false},
		"an answer to one who has a head": {good, v, nil, ErrMalformed, false},
		"a proof from none":               {strings.Replace(formatAnswer(head, 0, d), "from 0\n", "from 0\n"+hash+"\n", 1), v, nil, ErrMalformed, false},
		"a path too long":                 {strings.Replace(good, hash, strings.Repeat(hash+"\n", 62)+hash, 1), v, old, ErrMalformed, false},
		"another title":                   {strings.Replace(good, "v1", "v2", 1), v, old, ErrMalformed, false},
		"a number with a zero before it":  {strings.Replace(good, "from 13", "from 013", 1), v, old, ErrMalformed, false},
		"text after the end":              {good + "\n", v, old, ErrMalformed, false},
		"what ssh might print":            {"Permission denied (publickey).\n", v, old, ErrMalformed, false},
		"cut off":                         {good[:100], v, old, ErrMalformed, false},
		"nothing":                         {"", v, old, ErrMalformed, false},
		"endless":                         {strings.Repeat("x", MaxAnswer+1), v, old, ErrMalformed, false},
	} {
		h, raw, err := CheckAnswer([]byte(c.text), []note.Verifier{c.key}, c.old)
		if !errors.Is(err, c.want) || (raw != nil) != c.evidence || (h != Head{}) != c.evidence {
			t.Errorf("%s: %v with %q, want %v", name, err, raw, c.want)
		}
	}
}

func FuzzCheckAnswer(f *testing.F) {
	s, v := newKey(f, "bastion-1")
	d := records(20)
	head := signHead(f, s, d)
	old := &Head{Size: 13, Root: mth(d[:13])}
	pruned, err := FormatPruned(head, 13, 15)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(formatAnswer(head, 13, d))
	f.Add(formatAnswer(head, 0, d))
	f.Add(string(pruned))
	unprovable, err := FormatUnprovable(head, 13)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(unprovable))
	f.Fuzz(func(t *testing.T, in string) {
		for _, old := range []*Head{old, nil} {
			from := 0
			if old != nil {
				from = int(old.Size)
			}
			_, raw, err := CheckAnswer([]byte(in), []note.Verifier{v}, old)
			if raw != nil && !bytes.Equal(raw, head) || err == nil && in != formatAnswer(head, from, d) {
				t.Fatalf("%q is an answer to %d: %s", in, from, raw)
			}
		}
	})
}
