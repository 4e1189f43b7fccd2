package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// history makes a log of several runs and segments and returns its lines and a
// head of each size.
func history(t *testing.T, dir string, opts Options) (lines [][]byte, heads [][]byte) {
	t.Helper()
	opts.SegmentSize = 700 // some four records
	for run := range 3 {
		l := open(t, dir, opts)
		for i := range 5 + run {
			mustNote(t, l, fmt.Sprint(run, "/", i))
		}
		try(t, l.Close())
	}
	lines = leavesOf(t, dir)
	for size := range len(lines) + 1 {
		heads = append(heads, headOf(t, lines[:size], opts.Signer))
	}
	return lines, heads
}

func headOf(t *testing.T, lines [][]byte, signer note.Signer) []byte {
	t.Helper()
	text, err := tree.Head{Size: uint64(len(lines)), Root: rfcRoot(lines), Time: at}.Sign(signer)
	try(t, err)
	return text
}

// prune takes away the segments before the nth as retention does, or as
// somebody would who has no key.
func prune(t *testing.T, dir string, lines [][]byte, n int, key ...note.Signer) uint64 {
	t.Helper()
	pieces, err := list(dir)
	try(t, err)
	gone := tree.NewRange(0)
	for _, line := range lines[:pieces[n].first] {
		gone.Append(tree.Leaf(line))
	}
	text, err := sealPruned(gone, append(key, nil)[0])
	try(t, err, os.WriteFile(filepath.Join(dir, prunedFile), text, 0o600))
	for _, p := range pieces[:n] {
		try(t, os.Remove(p.path))
		os.Remove(p.beside(headsEnd))
	}
	return gone.Next()
}

func TestProofs(t *testing.T) {
	t.Parallel()
	t.Run("out of the records", func(t *testing.T) { testProofs(t, false) })
	t.Run("with indexes", func(t *testing.T) { testProofs(t, true) })
}

func testProofs(t *testing.T, indexed bool) {
	dir, opts := t.TempDir(), withKey(t)
	lines, heads := history(t, dir, opts)
	pieces, err := list(dir)
	try(t, err)
	for i, p := range pieces[:len(pieces)-1] {
		if indexed && i%3 != 0 {
			x := newIndexer(p.first)
			must2(p.scan(func(line []byte, r Record) error { x.add(line, r); return nil }))
			try(t, os.WriteFile(p.beside(indexEnd), must2(x.done().sign(opts.Signer)), 0o600))
		}
		if i%2 == 0 {
			packed(t, p.path)
		}
	}
	check := func(t *testing.T, from int) {
		for size := from + 1; size <= len(lines); size++ {
			var all []tree.Proven
			for seq := from; seq < size; seq++ {
				all = append(all, tree.Proven{Seq: uint64(seq), Line: lines[seq]})
			}
			text, err := Prove(dir, heads[size], all, opts.Verifier)
			try(t, err)
			_, proven, err := tree.CheckProof(text, opts.Verifier)
			try(t, err)
			same(t, proven, all)
		}
		for old := range len(lines) + 1 {
			for size := max(old, from); size <= len(lines); size++ {
				if size == 0 || (size+3*old)%7 != 0 && size != len(lines) && old != from {
					continue // enough of them
				}
				text, err := Answer(dir, heads[size], uint64(old), opts.Verifier)
				try(t, err)
				var kept *tree.Head
				if old > 0 {
					h, err := tree.PeekHead(heads[old])
					try(t, err)
					kept = &h
				}
				_, raw, err := tree.CheckAnswer(text, []note.Verifier{opts.Verifier}, kept)
				switch {
				case errors.Is(err, tree.ErrPruned) && 0 < old && old < from:
				case err != nil:
					t.Fatalf("from %d to %d: %v", old, size, err)
				case string(raw) != string(heads[size]):
					t.Fatalf("the answer has the head %q", raw)
				}
			}
		}
	}
	t.Run("of every record to every head, and between all heads", func(t *testing.T) { check(t, 0) })

	gone := int(prune(t, dir, lines, 1, opts.Signer))
	t.Run("go on when retention has taken the first segment", func(t *testing.T) { check(t, gone) })
	pieces, err = list(dir)
	try(t, err)
	gone = int(prune(t, dir, lines, len(pieces)/2, opts.Signer))
	t.Run("go on when retention has taken half of all", func(t *testing.T) { check(t, gone) })

	t.Run("are none of records that are gone", func(t *testing.T) {
		_, err := Prove(dir, heads[len(lines)], []tree.Proven{{Seq: 1, Line: lines[1]}})
		if !errors.Is(err, ErrPruned) {
			t.Error(err)
		}
	})
	t.Run("are none of a line that is not in the log", func(t *testing.T) {
		_, err := Prove(dir, heads[len(lines)], []tree.Proven{{Seq: uint64(gone), Line: []byte(fmt.Sprintf(`{"v":1,"seq":%d}`, gone))}})
		if !errors.Is(err, tree.ErrNotProven) {
			t.Error(err)
		}
	})
	t.Run("are none of a log that has been changed", func(t *testing.T) {
		l := open(t, dir, opts)
		try(t, l.Close())
		pieces, err := list(dir)
		try(t, err)
		path := pieces[len(pieces)-2].path
		text, err := os.ReadFile(path)
		try(t, err)
		text[len(text)-10] ^= 1
		try(t, os.WriteFile(path, text, 0o600))
		if _, err := Prove(dir, heads[len(lines)], []tree.Proven{{Seq: uint64(gone), Line: lines[gone]}}); !errors.Is(err, tree.ErrNotProven) {
			t.Error(err)
		}
		wantUnprovable(t, dir, heads, gone, opts)
	})
}

// wantUnprovable makes sure that the answer tells whoever has a head of from
// records that the log is not that of its newest head.
func wantUnprovable(t *testing.T, dir string, heads [][]byte, from int, opts Options) {
	t.Helper()
	text, err := Answer(dir, heads[len(heads)-1], uint64(from), opts.Verifier)
	try(t, err)
	kept, err := tree.PeekHead(heads[from])
	try(t, err)
	_, raw, err := tree.CheckAnswer(text, []note.Verifier{opts.Verifier}, &kept)
	if !errors.Is(err, tree.ErrUnprovable) || string(raw) != string(heads[len(heads)-1]) {
		t.Errorf("%v with the head %q", err, raw)
	}
}

func TestAnswerOfALogThatIsNotThatOfItsHead(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string, p piece){
		"a changed record":             func(t *testing.T, dir string, p piece) { edit(t, p.path, `"detail":"0/`, `"detail":"9/`) },
		"a record that is none":        func(t *testing.T, dir string, p piece) { edit(t, p.path, `{"v"`, `{"w"`) },
		"an endless record":            func(t *testing.T, dir string, p piece) { edit(t, p.path, `{"v"`, strings.Repeat("x", maxLine+1)) },
		"a missing record":             func(t *testing.T, dir string, p piece) { edit(t, p.path, "\n", " ") },
		"a missing segment":            func(t *testing.T, dir string, p piece) { try(t, os.Remove(p.path)) },
		"an empty segment":             func(t *testing.T, dir string, p piece) { try(t, os.Truncate(p.path, 0)) },
		"a packed segment cut short":   func(t *testing.T, dir string, p piece) { path := packed(t, p.path); try(t, os.Truncate(path, 60)) },
		"a segment that is not packed": func(t *testing.T, dir string, p piece) { try(t, os.Rename(p.path, p.beside(packedEnd))) },
		"what was pruned is no range": func(t *testing.T, dir string, p piece) {
			try(t, os.WriteFile(filepath.Join(dir, prunedFile), []byte("x\n"), 0o600))
		},
		"more was pruned than there is": func(t *testing.T, dir string, p piece) {
			gone := tree.NewRange(0)
			for range 1000 {
				gone.Append(tree.Leaf(nil))
			}
			try(t, os.WriteFile(filepath.Join(dir, prunedFile), must2(gone.MarshalText()), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, opts := t.TempDir(), withKey(t)
			_, heads := history(t, dir, opts)
			pieces, err := list(dir)
			try(t, err)
			spoil(t, dir, pieces[0])
			wantUnprovable(t, dir, heads, 2, opts)
		})
	}
	t.Run("but a folder that cannot be read is an error", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		_, heads := history(t, dir, opts)
		if text, err := Answer(filepath.Join(dir, "nowhere"), heads[len(heads)-1], 2, opts.Verifier); err == nil {
			t.Errorf("%s", text)
		}
		if text, err := Answer(dir, []byte("no head"), 2, opts.Verifier); err == nil {
			t.Errorf("%s", text)
		}
	})
}

// edit replaces the first of what is in a file.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	try(t, err)
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s has no %s", path, from)
	}
	try(t, os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600))
}
