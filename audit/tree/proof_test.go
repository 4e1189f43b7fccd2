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

// theRecords returns those of d with the numbers.
func theRecords(d []string, seqs ...int) []Proven {
	var out []Proven
	for _, i := range seqs {
		out = append(out, Proven{uint64(i), []byte(d[i])})
	}
	return out
}

// formatProof writes a proof straight from the RFC, of whatever it is given.
func formatProof(head []byte, d []string, recs ...Proven) string {
	b := "sekisho audit proof v1\n"
	for _, r := range recs {
		b += fmt.Sprintf("record %d\n%s\n", r.Seq, r.Line)
		if r.Seq < uint64(len(d)) {
			for _, h := range path(int(r.Seq), d) {
				b += h.String() + "\n"
			}
		}
	}
	return b + "head\n" + string(head)
}

func TestProofsAreThoseOfTheRFC(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	sizes := []int{127, 128, 129, 1000}
	for n := 1; n <= 70; n++ {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		d := records(n)
		head := signHead(t, s, d)
		for i := 0; i < n; i += 1 + n/100*37 {
			want := theRecords(d, i)
			if last := n - 1; last != i {
				want = theRecords(d, i, last)
			}
			text, err := FormatProof(head, want, reader(d))
			if err != nil || string(text) != formatProof(head, d, want...) {
				t.Fatalf("record %d of %d: %v\n%s", i, n, err, text)
			}
			h, got, err := CheckProof(text, v)
			if err != nil || h.Size != uint64(n) || !slices.EqualFunc(got, want, same) {
				t.Fatalf("record %d of %d: %v, %v, %v", i, n, h, got, err)
			}
		}
	}
}

func same(a, b Proven) bool { return a.Seq == b.Seq && bytes.Equal(a.Line, b.Line) }

func TestProofThatWouldNotHoldIsNotMade(t *testing.T) {
	s, _ := newKey(t, "bastion-1")
	d := records(9)
	head := signHead(t, s, d)
	broken := tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) { return make([]Hash, len(indexes)), nil })
	for name, c := range map[string]struct {
		recs []Proven
		r    tlog.HashReader
	}{
		"no records":              {nil, reader(d)},
		"a record after the head": {[]Proven{{9, []byte(`{"v":1,"seq":9}`)}}, reader(d)},
		"another line":            {[]Proven{{1, []byte(d[2])}}, reader(d)},
		"records out of order":    {theRecords(d, 3, 1), reader(d)},
		"a record twice":          {theRecords(d, 3, 3), reader(d)},
		"wrong hashes":            {theRecords(d, 3), broken},
		"no hashes":               {theRecords(d, 3), reader(nil)},
	} {
		if text, err := FormatProof(head, c.recs, c.r); err == nil {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestWhyAProofIsRefused(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	_, otherV := newKey(t, "bastion-2")
	d := records(20)
	head := signHead(t, s, d)
	good := formatProof(head, d, theRecords(d, 3, 12)...)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the proof", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	odd := func(line string) string { // a log that has such a line at 3
		d := slices.Clone(d)
		d[3] = line
		return formatProof(signHead(t, s, d), d, theRecords(d, 3)...)
	}
	hash := path(3, d)[0].String()
	for name, c := range map[string]struct {
		text string
		key  note.Verifier
		want error
	}{
		"good":                              {good, v, nil},
		"good with another key":             {good, otherV, ErrForeignKey},
		"a changed line":                    {replace("forward.open", "forward.deny"), v, ErrNotProven},
		"a changed line with another key":   {strings.Replace(good, "forward.open", "forward.deny", 1), otherV, ErrForeignKey},
		"a changed hash":                    {replace(hash, Hash{}.String()), v, ErrNotProven},
		"a hash too few":                    {replace(hash+"\n", ""), v, ErrNotProven},
		"a hash too many":                   {replace(hash, hash+"\n"+hash), v, ErrNotProven},
		"a head that is not signed":         {replace("\n20\n", "\n21\n"), v, ErrSignature},
		"a root that is not signed":         {formatProof(bytes.Replace(head, []byte("T12"), []byte("T13"), 1), d, theRecords(d, 3)...), v, ErrSignature},
		"the line of another record":        {formatProof(head, d, Proven{3, []byte(d[4])}), v, ErrMalformed},
		"a record after the head":           {formatProof(head, d, Proven{20, []byte(`{"v":1,"seq":20}`)}), v, ErrNotProven},
		"a record far after the head":       {formatProof(head, d, Proven{MaxSize, []byte(`{"v":1,"seq":1152921504606846976}`)}), v, ErrNotProven},
		"a record beyond all":               {formatProof(head, d, Proven{MaxSize + 1, []byte(`{"v":1,"seq":1152921504606846977}`)}), v, ErrMalformed},
		"records out of order":              {formatProof(head, d, theRecords(d, 12, 3)...), v, ErrMalformed},
		"a record twice":                    {formatProof(head, d, theRecords(d, 3, 3)...), v, ErrMalformed},
		"no records":                        {formatProof(head, d), v, ErrMalformed},
		"a path too long":                   {replace(hash, strings.Repeat(hash+"\n", 62)+hash), v, ErrMalformed},
		"another title":                     {replace("v1", "v2"), v, ErrMalformed},
		"a space after the title":           {replace("v1", "v1 "), v, ErrMalformed},
		"a number with a zero before it":    {replace("record 3", "record 03"), v, ErrMalformed},
		"lines that end as elsewhere":       {strings.ReplaceAll(good, "\n", "\r\n"), v, ErrMalformed},
		"an empty line":                     {replace("\nrecord 12", "\n\nrecord 12"), v, ErrMalformed},
		"text after the end":                {good + "\n", v, ErrMalformed},
		"no head":                           {good[:strings.Index(good, "head\n")], v, ErrMalformed},
		"cut off":                           {good[:60], v, ErrMalformed},
		"nothing":                           {"", v, ErrMalformed},
		"a log whose line says another seq": {odd(`{"v":1,"seq":30,"type":"x"}`), v, ErrMalformed},
		"a log whose line says no seq":      {odd(`{"v":1,"type":"x"}`), v, ErrMalformed},
		"a log whose line is not JSON":      {odd(`{"v":1,"seq":3,`), v, ErrMalformed},
		"a log whose line has two values":   {odd(`{"v":1,"seq":3}{"v":1}`), v, ErrMalformed},
		"a log whose line has an escape":    {odd(`{"v":1,"seq":3,"detail":"` + "\x1b[2J" + `"}`), v, ErrMalformed},
		"a log whose line has C1 controls":  {odd(`{"v":1,"seq":3,"detail":"` + "\u009b" + `"}`), v, ErrMalformed},
		"a log whose line turns around":     {odd(`{"v":1,"seq":3,"detail":"` + "\u202e" + `"}`), v, ErrMalformed},
		"a log whose line is not UTF-8":     {odd(`{"v":1,"seq":3,"detail":"` + "\xff" + `"}`), v, ErrMalformed},
		"a log whose line is Japanese":      {odd(`{"v":1,"seq":3,"detail":"関所"}`), v, nil},
		"a log of a later version":          {odd(`{"v":22,"seq":3,"new":{"seq":5}}`), v, nil},
	} {
		h, recs, err := CheckProof([]byte(c.text), c.key)
		if !errors.Is(err, c.want) || err != nil && (recs != nil || h != (Head{})) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzCheckProof(f *testing.F) {
	s, v := newKey(f, "bastion-1")
	d := records(20)
	head := signHead(f, s, d)
	f.Add(formatProof(head, d, theRecords(d, 3, 12)...))
	f.Add(formatProof(head, d, theRecords(d, 0)...))
	f.Fuzz(func(t *testing.T, in string) {
		h, recs, err := CheckProof([]byte(in), v)
		if err != nil {
			return
		}
		// Only what the log has can be proven, and in one spelling.
		var seqs []int
		for _, r := range recs {
			seqs = append(seqs, int(r.Seq))
		}
		if h.Size != 20 || in != formatProof(head, d, theRecords(d, seqs...)...) {
			t.Fatalf("%q proves %v", in, recs)
		}
	})
}
