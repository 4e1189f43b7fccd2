package audit

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// behind appends a record that nobody has signed, and returns its number.
func behind(t testing.TB, dir string, rec Record) uint64 {
	t.Helper()
	pieces := must2(list(dir))
	last := pieces[len(pieces)-1]
	_, err := last.scan(func(_ []byte, r Record) error {
		rec.V, rec.Seq, rec.Bastion, rec.Run = r.V, r.Seq+1, r.Bastion, r.Run
		if rec.Time.IsZero() {
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
