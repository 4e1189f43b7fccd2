package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// behind appends a record that nobody has signed, and returns its number.
func behind(t testing.TB, dir string, rec Record) uint64 {
	t.Helper()
	pieces := must2(list(dir))
	last, dated := pieces[len(pieces)-1], !rec.Time.IsZero()
	_, err := last.scan(func(_ []byte, r Record) error {
		rec.V, rec.Seq, rec.Bastion, rec.Run = r.V, r.Seq+1, r.Bastion, r.Run
		if !dated {
			rec.Time = r.Time
		}
		return nil
	})
	try(t, err)
	tear(t, dir, filepath.Base(last.path), string(rec.AppendJSON(nil))+"\n")
	return rec.Seq
}

// newest is the newest head beside the log.
func newest(t testing.TB, dir string, key note.Verifier) tree.Head {
	t.Helper()
	text, h, _, err := newestHead(dir, key)
	try(t, err)
	if text == nil {
		t.Fatal("there is no head")
	}
	return h
}

// Somebody without the key removes segments and says that retention did.
func TestVerifyBelievesOnlyASignedPrune(t *testing.T) {
	for _, tt := range []struct {
		name    string
		age     time.Duration // of the record
		running bool
		other   bool // something else is wrong
		good    bool
	}{
		{name: "nobody writes the log"},
		{name: "the log is written, and the record is old", age: 2 * time.Minute, running: true},
		{name: "the log is written, and the record is of another day to come", age: -2 * time.Minute, running: true},
		{name: "the log is written, and something else is wrong", running: true, other: true},
		{name: "the log is written, and the record is new", running: true, good: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, opts := t.TempDir(), withKey(t)
			lines, _ := history(t, dir, opts)
			kept := newest(t, dir, opts.Verifier)
			n := prune(t, dir, lines, 3)
			now := time.Now().Add(time.Second)
			behind(t, dir, Record{Type: LogPrune, Time: now.UTC().Truncate(time.Microsecond), Head: TreeHead{n, rfcRoot(lines[:n])}, Reason: "age"})
			if tt.other {
				behind(t, dir, Record{Type: ForwardOpen, Forward: "f1"})
				behind(t, dir, Record{Type: ForwardOpen, Forward: "f1"})
			}
			if tt.running {
				lock := must2(lockDir(dir))
				defer lock.Close()
			}
			for _, since := range [][]tree.Head{nil, {kept}} {
				v := verify(t, dir, VerifyOptions{Keys: []note.Verifier{opts.Verifier}, Since: since, now: func() time.Time { return now.Add(tt.age) }})
				if v.Full() || v.Good() != tt.good || !tt.good && !slices.ContainsFunc(v.Harms, func(h Harm) bool { return h.Kind == KindMissing }) {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}

// Retention takes a segment away between the steps in which the list is made.
func TestVerifyListsBeforeItAsksWhatIsGone(t *testing.T) {
	dir, opts := t.TempDir(), withKey(t)
	lines, _ := history(t, dir, opts)
	pieces := must2(list(dir))
	v := &verification{ctx: t.Context(), dir: dir, opts: VerifyOptions{Keys: []note.Verifier{opts.Verifier}}}
	try(t, v.look())
	same(t, len(v.pieces), len(pieces))
	prune(t, dir, lines, 2)
	v = &verification{ctx: t.Context(), dir: dir, opts: v.opts}
	try(t, v.look())
	same(t, v.gone.Next(), pieces[2].first)
	// What is listed and gone is passed over.
	v.pieces = slices.Clone(pieces)
	v.at = mark{tree: v.gone.Clone(), order: newOrder(v.gone.Next())}
	v.at.key.nth = -1
	p, f, err := v.nextPiece()
	try(t, err, f.Close())
	same(t, p.first, pieces[2].first)
}

// What has no head over it is told of, unless a server may be about to sign one.
func TestVerifyOfRecordsAboveTheNewestHead(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	log := func(t *testing.T, stop bool) string {
		dir := t.TempDir()
		l := open(t, dir, opts)
		mustNote(t, l, "a", "mallory", "c")
		if stop {
			must(t, l, Record{Type: ServerStop, Reason: "stopped"})
		}
		try(t, l.Close())
		return dir
	}
	unsigned := func(t *testing.T, dir string) { // the newest heads are taken away
		path := filepath.Join(dir, stem(0, 0)+headsEnd)
		head := headOf(t, leavesOf(t, dir)[:2], opts.Signer)
		try(t, os.WriteFile(path, append(head, '\n'), 0o600))
	}
	note := func(age time.Duration) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			behind(t, dir, Record{Type: PolicyLoad, Time: time.Now().Add(time.Second - age).UTC().Truncate(time.Microsecond)})
		}
	}
	for _, tt := range []struct {
		name    string
		stop    bool
		running bool
		do      func(t *testing.T, dir string)
		now     time.Duration // the clock of the reader, after that of the writer
		gap     string
		harm    Kind
	}{
		{name: "nothing is done to a log that was closed", stop: true, do: func(*testing.T, string) {}},
		{name: "nothing is done to a log whose server does not say that it stops", do: func(*testing.T, string) {}},
		{name: "the newest heads of a log that was closed are removed", stop: true, do: unsigned, gap: "though the log was closed in order"},
		{name: "the newest heads of a log that nobody writes are removed", do: unsigned, gap: "though nobody writes the log: a crash"},
		{name: "a log is written", running: true, do: note(0)},
		{name: "a log is written and the newest heads are old", running: true, do: unsigned, now: 20 * time.Second, gap: "though the log signs every second"},
		{name: "a log is written and closed just now", stop: true, running: true, do: unsigned},
		{name: "a log was closed, and another process holds the lock", stop: true, running: true, do: unsigned, now: 20 * time.Second, gap: "though the log was closed in order"},
		{name: "a record is put behind the newest head", do: note(0), gap: "though nobody writes the log: a crash"},
		{name: "a record is put behind the stop", stop: true, do: note(0), harm: KindInserted},
		{name: "a record is put behind the stop, and the server runs again", stop: true, do: func(t *testing.T, dir string) {
			note(0)(t, dir)
			l := open(t, dir, opts)
			mustNote(t, l, "d")
			try(t, l.Close())
		}, harm: KindInserted},
		{name: "a log.prune of a log that takes nothing away is put behind the newest head", do: func(t *testing.T, dir string) {
			behind(t, dir, Record{Type: LogPrune, Head: TreeHead{1, rfcRoot(leavesOf(t, dir)[:1])}, Reason: "age"})
		}, gap: "though nobody writes the log: a crash"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := log(t, tt.stop)
			tt.do(t, dir)
			if tt.running {
				lock := must2(lockDir(dir))
				defer lock.Close()
			}
			o := key
			o.now = func() time.Time { return time.Now().Add(tt.now) }
			v := verify(t, dir, o)
			switch {
			case tt.harm != "" && (len(v.Harms) != 1 || v.Harms[0].Kind != tt.harm || v.Harms[0].Line != 6),
				tt.gap != "" && (!v.Good() || len(v.Gaps) != 1 || !strings.Contains(v.Gaps[0], tt.gap)),
				tt.harm == "" && tt.gap == "" && !v.Full():
				t.Errorf("%+v", v)
			}
		})
	}
}

// A version before this one began runs without a head.
func TestVerifyOfALogThatBeganWithoutHeads(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	starts := func(f *forgery) (all []int) {
		for i, s := range f.segments {
			if i > 0 && strings.Contains(s.lines[0], `"server.start"`) {
				all = append(all, i)
			}
		}
		return all
	}
	without := func(f *forgery, i int) {
		s := f.segments[i]
		s.lines[0] = strings.Replace(headField.ReplaceAllString(s.lines[0], ""), ",}", "}", 1)
	}
	wrong := func(f *forgery, i int) { f.edit(i, 0, `"size":`, `"size":1`) }
	for _, tt := range []struct {
		name  string
		do    func(f *forgery)
		heads func(f *forgery) // after all is signed
		kind  Kind
		bare  Kind // without a key
	}{
		{"the second run has none and the third has", func(f *forgery) { without(f, starts(f)[0]) }, nil, "", ""},
		{"none has", func(f *forgery) { without(f, starts(f)[0]); without(f, starts(f)[1]) }, nil, "", ""},
		{"the second has and the third has none, which a head proves", func(f *forgery) { without(f, starts(f)[1]) }, nil, "", KindChanged},
		{"the third has none, and no head is over it", func(f *forgery) { without(f, starts(f)[1]) }, func(f *forgery) {
			for _, s := range f.segments[starts(f)[1]:] {
				s.heads = nil
			}
		}, KindChanged, KindChanged},
		{"the second has a wrong one", func(f *forgery) { wrong(f, starts(f)[0]) }, nil, KindChanged, KindChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := honest(t, opts.Signer)
			tt.do(f)
			n := 0
			for _, s := range f.segments { // the heads within records, as they were
				for i := range s.lines {
					if root := f.root(n); n > 0 && tt.kind == "" {
						s.lines[i] = headField.ReplaceAllString(s.lines[i], fmt.Sprintf(`"head":{"size":%d,"root":"%s"}`, n, base64.StdEncoding.EncodeToString(root[:])))
					}
					n++
				}
			}
			f.sign(t, opts.Signer)
			if tt.heads != nil {
				tt.heads(f)
			}
			dir := f.save(t, false)
			v := verify(t, dir, key)
			if tt.kind == "" && (!v.Full() || !slices.ContainsFunc(v.Notes, func(s string) bool { return strings.Contains(s, "were written without a tree") })) || tt.kind != "" && (v.Good() || v.Harms[0].Kind != tt.kind) {
				t.Errorf("%+v", v)
			}
			if v := verify(t, dir, VerifyOptions{}); v.Good() != (tt.bare == "") || !v.Good() && v.Harms[0].Kind != tt.bare {
				t.Errorf("without a key: %+v", v)
			}
		})
	}
}

// Heads are thinned while they are read.
func TestVerifyWhileHeadsAreThinned(t *testing.T) {
	dir, opts := t.TempDir(), withKey(t)
	l := open(t, dir, opts)
	var all [][]byte
	for range 450 {
		mustNote(t, l, "a")
		all = append(all, must2(l.Head()))
	}
	try(t, l.Close())
	l = open(t, dir, opts)
	mustNote(t, l, "b")
	try(t, l.Close())
	path := filepath.Join(dir, stem(0, 0)+headsEnd)
	text := func(heads [][]byte) []byte {
		b := []byte("\n")
		for _, h := range heads {
			b = append(append(b, h...), '\n')
		}
		return b
	}
	full := text(all)
	var few [][]byte
	for i, h := range all {
		if i%8 != 3 || i == len(all)-1 {
			few = append(few, h)
		}
	}
	thin := text(few)
	for pad := 0; pad < 193; pad++ { // where the end of what is read at once falls
		try(t, os.WriteFile(path, append(bytes.Repeat([]byte("\n"), pad), full...), 0o600))
		v := &verification{ctx: t.Context(), dir: dir, opts: VerifyOptions{Keys: []note.Verifier{opts.Verifier}, now: time.Now}}
		try(t, v.look())
		v.claims = append(v.claims, claim(opts.Verifier))
		v.at = mark{tree: v.gone.Clone(), order: newOrder(0)}
		v.at.key.nth = -1
		v.anchor = v.at.clone()
		trust := must2(v.lastHead())
		v.at.heads.peek(v.files) // reads the beginning
		try(t, writeFile(osDisk{}, path, thin))
		harm, err := v.walk(trust)
		if err != nil || harm != nil || len(v.at.harms) > 0 || v.at.proven != v.at.tree.Next() {
			t.Fatalf("%d: %v, %+v, %+v", pad, err, harm, v.at.harms)
		}
	}
}

// A segment goes whenever the reader looks up, and more are read meanwhile.
func TestVerifyGoesOnWhileOldSegmentsGo(t *testing.T) {
	dir, opts := t.TempDir(), withKey(t)
	opts.SegmentSize = 700 << 10 // some 5000 records, so that it looks up in each
	l := open(t, dir, opts)
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			for range 200 {
				jot(l, "x")
			}
		})
	}
	all.Wait()
	signedAll(t, l)
	keepNow(t, l)
	k := keeperOf(l)
	try(t, k.round())
	n := 0
	v, err := Verify(t.Context(), dir, VerifyOptions{Keys: []note.Verifier{opts.Verifier}, Progress: func(uint64, int64) {
		gone, pieces, err := survey(dir)
		try(t, err)
		if len(pieces) < 3 {
			return
		}
		d := &pruning{tree: gone.Clone(), segments: 1, reason: "size", next: pieces[0].limit}
		try(t, d.tree.Join(must2(k.summary(pieces[0])).tree), k.prune(d, gone, must2(k.closed())))
		signedAll(t, l)
		n++
	}})
	try(t, err)
	if !v.Good() || n == 0 {
		t.Errorf("%d went: %+v", n, v)
	}
}

// No honest log is harm, however fast it is written, packed and taken away.
func TestVerifyWhileRetentionIsAtWork(t *testing.T) {
	t.Parallel()
	dir, opts := t.TempDir(), withKey(t)
	opts.SegmentSize, opts.RetainSize, opts.headPause = 2000, 4000, 5*time.Millisecond
	l := open(t, dir, opts)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for { // not faster than the keeper
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
				mustNote(t, l, "a")
			}
		}
	})
	wg.Go(func() {
		k := keeperOf(l)
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			if err := k.round(); err != nil {
				t.Log(err)
			}
		}
	})
	pruned := 0
	for end := time.Now().Add(20 * time.Second); pruned < 15 && time.Now().Before(end); {
		v := verify(t, dir, VerifyOptions{Keys: []note.Verifier{opts.Verifier}})
		if !v.Good() {
			t.Errorf("%+v", v)
			break
		}
		if v.First > 0 {
			pruned++
		}
	}
	close(done)
	wg.Wait()
	if pruned < 3 {
		t.Errorf("only %d times something was gone", pruned)
	}
}

// What stands in a file does nothing to the terminal of who verifies it.
func TestVerifyShowsWhatFilesSay(t *testing.T) {
	opts := withKey(t)
	f := honest(t, opts.Signer)
	x, _, err := readIndex(f.segments[0].index)
	try(t, err)
	private, _, err := note.GenerateKey(nil, "x\u009b2J\u202egood")
	try(t, err)
	evil := must2(note.NewSigner(private))
	f.segments[0].index = must2(note.Sign(&note.Note{Text: x.text()}, evil))
	if _, _, err := readIndex(f.segments[0].index); !errors.Is(err, tree.ErrMalformed) {
		t.Errorf("%v", err)
	}
	v := verify(t, f.save(t, true), VerifyOptions{Keys: []note.Verifier{opts.Verifier}})
	if len(v.Harms) != 1 || v.Harms[0].Kind != KindIndex || strings.ContainsAny(v.Harms[0].Detail, "\u009b\u202e") {
		t.Errorf("%+v", v)
	}
	same(t, shown("a\u009b2J\u202e\x1b[m\n\xff\u2028é— 本"), `a\u009b2J\u202e\u001b[m\u000a\xff\u2028é— 本`)
}

// Of a policy that decided, the text is to be there.
func TestVerifyMissesPolicies(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	texts := [][]byte{[]byte("one\n"), []byte("two\n"), []byte("three\n")}
	path := func(dir string, i int) string {
		return filepath.Join(dir, policiesDir, must2(policyName(hashOf(texts[i]))))
	}
	for _, tt := range []struct {
		name string
		do   func(dir string) error
		gap  string
	}{
		{"all are there", func(string) error { return nil }, ""},
		{"one is removed", func(dir string) error { return os.Remove(path(dir, 1)) }, hashOf(texts[1])},
		{"one is changed", func(dir string) error { return os.WriteFile(path(dir, 2), []byte("3\n"), 0o600) }, hashOf(texts[2])},
		{"all are removed", func(dir string) error {
			return errors.Join(os.Remove(path(dir, 0)), os.Remove(path(dir, 1)), os.Remove(path(dir, 2)))
		}, "3 policies"},
		{"the log keeps none", func(dir string) error { return os.RemoveAll(filepath.Join(dir, policiesDir)) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, opts)
			for range 2 {
				for _, text := range texts {
					try(t, l.Keep(hashOf(text), text))
					must(t, l, Record{Type: PolicyLoad, Policy: hashOf(text)})
				}
			}
			try(t, l.Close(), tt.do(dir))
			v := verify(t, dir, key)
			if !v.Good() || v.Full() != (tt.gap == "") || tt.gap != "" && (len(v.Gaps) != 1 || !strings.Contains(v.Gaps[0], tt.gap) || !strings.Contains(v.Gaps[0], "cannot be explained any more")) {
				t.Errorf("%+v", v)
			}
		})
	}
}
