package tree

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

func TestHeadIsReadAsItWasSigned(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	h := Head{Origin: "ignored", Size: 3, Root: mth(records(3)), Time: noon.Add(300 * time.Millisecond).In(time.FixedZone("", 9*3600))}
	text, err := h.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	want := Head{"bastion-1", 3, mth(records(3)), noon}
	for name, open := range map[string]func() (Head, error){
		"opened": func() (Head, error) { return OpenHead(text, v) },
		"peeked": func() (Head, error) { return PeekHead(text) },
	} {
		if got, err := open(); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if !strings.HasPrefix(string(text), "bastion-1\n3\n"+want.Root.String()+"\ntime 2026-11-22T12:00:00Z\n\n— bastion-1 ") {
		t.Errorf("%s", text)
	}
}

// The key and the head are written out, so that no version of this package
// can come to sign something else.
func TestHeadKnownAnswer(t *testing.T) {
	const skey = "PRIVATE+KEY+bastion-1+91243620+AWJhc3Rpb24tMSBiYXN0aW9uLTEgYmFzdGlvbi0xIGJh"
	const want = `bastion-1
5
MVdoZ3Pbfrjoau5k/YvoNcLCa1OQhawMqgDWKRhgoIA=
time 2026-11-22T12:00:00Z

— bastion-1 kSQ2IH22uNQgyyXcob7ZWT/BT2dKbg6P89pCmD72WwqjVlVXrFDLYJ+/ChXEOM8a/iTKbBOrIyNM2J1EB9fK7KyZegk=
`
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	if got := signHead(t, s, records(5)); string(got) != want {
		t.Errorf("got:\n%s", got)
	}
}

func TestHeadThatCannotBeReadIsNotSigned(t *testing.T) {
	s, _ := newKey(t, "bastion-1")
	bidi, _ := newKey(t, "bastion\u202e1")
	for name, sign := range map[string]func() ([]byte, error){
		"a year of five digits":    func() ([]byte, error) { return Head{Time: noon.AddDate(9000, 0, 0)}.Sign(s) },
		"more records than can be": func() ([]byte, error) { return Head{Size: MaxSize + 1, Time: noon}.Sign(s) },
		"a name that misleads":     func() ([]byte, error) { return Head{Time: noon}.Sign(bidi) },
	} {
		if text, err := sign(); err == nil {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestWhyAHeadIsRefused(t *testing.T) {
	s, v := newKey(t, "bastion-1")
	other, otherV := newKey(t, "bastion-2")
	good := string(signHead(t, s, records(5)))
	signed := func(text string, by ...note.Signer) string {
		b, err := note.Sign(&note.Note{Text: text}, by...)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	root := mth(records(5)).String()
	for name, c := range map[string]struct {
		text string
		keys []note.Verifier
		want error
	}{
		"the key":                      {good, []note.Verifier{v}, nil},
		"one of two keys":              {good, []note.Verifier{otherV, v}, nil},
		"the key twice":                {good, []note.Verifier{v, otherV, v}, nil},
		"another key twice":            {good, []note.Verifier{otherV, otherV}, ErrForeignKey},
		"another key":                  {good, []note.Verifier{otherV}, ErrForeignKey},
		"no key":                       {good, nil, ErrForeignKey},
		"a changed size":               {strings.Replace(good, "\n5\n", "\n6\n", 1), []note.Verifier{v}, ErrSignature},
		"a changed time":               {strings.Replace(good, "T12", "T13", 1), []note.Verifier{v}, ErrSignature},
		"another origin":               {strings.Replace(good, "bastion-1\n", "bastion-2\n", 1), []note.Verifier{v}, ErrMalformed},
		"another origin, signed":       {signed("bastion-2\n5\n"+root+"\ntime 2026-11-22T12:00:00Z\n", s), []note.Verifier{v}, ErrMalformed},
		"another origin of both":       {strings.ReplaceAll(good, "bastion-1", "bastion-3"), []note.Verifier{v}, ErrForeignKey},
		"two signatures":               {signed("bastion-1\n5\n"+root+"\ntime 2026-11-22T12:00:00Z\n", s, other), []note.Verifier{v}, ErrMalformed},
		"the same signature twice":     {good + good[strings.Index(good, "— "):], []note.Verifier{v}, ErrMalformed},
		"no time":                      {signed("bastion-1\n5\n"+root+"\n", s), []note.Verifier{v}, ErrMalformed},
		"a time in another zone":       {signed("bastion-1\n5\n"+root+"\ntime 2026-11-22T12:00:00+00:00\n", s), []note.Verifier{v}, ErrMalformed},
		"a time with a fraction":       {signed("bastion-1\n5\n"+root+"\ntime 2026-11-22T12:00:00.5Z\n", s), []note.Verifier{v}, ErrMalformed},
		"a further line":               {signed("bastion-1\n5\n"+root+"\ntime 2026-11-22T12:00:00Z\nmore\n", s), []note.Verifier{v}, ErrMalformed},
		"a size with a zero before it": {signed("bastion-1\n05\n"+root+"\ntime 2026-11-22T12:00:00Z\n", s), []note.Verifier{v}, ErrMalformed},
		"a size beyond all":            {signed("bastion-1\n9223372036854775807\n"+root+"\ntime 2026-11-22T12:00:00Z\n", s), []note.Verifier{v}, ErrMalformed},
		"a short root":                 {signed("bastion-1\n5\n"+root[4:]+"\ntime 2026-11-22T12:00:00Z\n", s), []note.Verifier{v}, ErrMalformed},
		"text after the end":           {good + "more\n", []note.Verifier{v}, ErrMalformed},
		"text before the beginning":    {"\n" + good, []note.Verifier{v}, ErrMalformed},
		"cut off":                      {good[:len(good)-1], []note.Verifier{v}, ErrMalformed},
		"nothing":                      {"", []note.Verifier{v}, ErrMalformed},
		"too long":                     {strings.Repeat("x", MaxHead) + "\n" + good, []note.Verifier{v}, ErrMalformed},
	} {
		h, err := OpenHead([]byte(c.text), c.keys...)
		if !errors.Is(err, c.want) || err != nil && h != (Head{}) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want == ErrForeignKey && !strings.Contains(err.Error(), "bastion-1+"+keyHash(v)) && !strings.Contains(err.Error(), "bastion-3+"+keyHash(v)) {
			t.Errorf("%s: %v does not name the key", name, err)
		}
	}
}

func keyHash(v note.Verifier) string { return strings.Split(keyList([]note.Verifier{v}), "+")[1] }

func FuzzOpenHead(f *testing.F) {
	s, v := newKey(f, "bastion-1")
	good := signHead(f, s, records(5))
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("5"), []byte("1152921504606846976"), 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := PeekHead(in)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("%q: %v", in, err)
		}
		opened, openErr := OpenHead(in, v)
		if openErr == nil && (err != nil || opened != h || !bytes.Equal(in, good)) {
			t.Fatalf("%q is taken for a signed head: %v", in, opened)
		}
	})
}
