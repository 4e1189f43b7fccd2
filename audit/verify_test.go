package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

func verify(t testing.TB, dir string, opts VerifyOptions) *Verdict {
	t.Helper()
	v, err := Verify(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var zipper = must2(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20)))

func zip(text []byte) []byte { return zipper.EncodeAll(text, nil) }

// A forgery is a log as an attacker has it before him: texts that he can
// change as he likes.
type forgery struct {
	segments []*forgedSegment
	pruned   string
}

type forgedSegment struct {
	first uint64 // in the name of the file
	lines []string
	heads []string // nil: there is no such file
	raw   []byte   // in place of what the packed lines would be

	index []byte // stands beside it when it is packed; nil: there is none
}

// honest is a log of three runs and five segments, with a head after every
// third record.
func honest(t testing.TB, key note.Signer) *forgery {
	t.Helper()
	dir := t.TempDir()
	f := &forgery{}
	now := ticking()
	for run := range 3 {
		l := open(t, dir, Options{SegmentSize: 1500, now: now})
		for i := range 4 {
			id := fmt.Sprint("f", run, i)
			must(t, l, opened(id))
			mustNote(t, l, fmt.Sprint("note ", run, i))
			must(t, l, Record{Type: ForwardClose, Forward: id})
		}
		try(t, l.Close())
	}
	pieces, err := list(dir)
	try(t, err)
	for _, p := range pieces {
		text, err := os.ReadFile(p.path)
		try(t, err)
		f.segments = append(f.segments, &forgedSegment{first: p.first, lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")})
	}
	f.sign(t, key)
	return f
}

func (f *forgery) lines() []string {
	var all []string
	for _, s := range f.segments {
		all = append(all, s.lines...)
	}
	return all
}

// root is that of the first n lines, by nothing of this package.
func (f *forgery) root(n int) [32]byte {
	var leaves [][]byte
	for _, line := range f.lines()[:n] {
		leaves = append(leaves, []byte(line))
	}
	return rfcRoot(leaves)
}

// head is what somebody keeps elsewhere.
func (f *forgery) head(n int) *tree.Head {
	return &tree.Head{Origin: "bastion-1", Size: uint64(n), Root: f.root(n), Time: at}
}

// sign makes all heads and indexes anew.
func (f *forgery) sign(t testing.TB, key note.Signer) {
	t.Helper()
	n := 0
	for _, s := range f.segments {
		var err error
		s.heads = nil
		for i := range s.lines {
			if n++; n%3 == 0 || i == len(s.lines)-1 {
				text, err := f.head(n).Sign(key)
				try(t, err)
				s.heads = append(s.heads, string(text))
			}
		}
		in := newIndexer(s.first)
		for _, line := range s.lines {
			rec, err := ParseRecord([]byte(line))
			if err != nil { // no keeper does that, but somebody with the key can
				rec = Record{Time: at, Run: "R"}
			}
			in.add([]byte(line), rec)
		}
		s.index, err = in.done().sign(key)
		try(t, err)
	}
}

var seqField = regexp.MustCompile(`"seq":\d+`)
var headField = regexp.MustCompile(`"head":\{"size":\d+,"root":"[^"]*"\}`)

// renumber puts the numbers right, in records and names, and the heads within
// them, which needs no key.
func (f *forgery) renumber() {
	n := 0
	for _, s := range f.segments {
		s.first = uint64(n)
		for i := range s.lines {
			s.lines[i] = seqField.ReplaceAllString(s.lines[i], fmt.Sprintf(`"seq":%d`, n))
			root := f.root(n)
			s.lines[i] = headField.ReplaceAllString(s.lines[i], fmt.Sprintf(`"head":{"size":%d,"root":"%s"}`, n, base64.StdEncoding.EncodeToString(root[:])))
			n++
		}
	}
}

// save writes the log into a new folder.
func (f *forgery) save(t testing.TB, zst bool) string {
	t.Helper()
	dir := t.TempDir()
	for i, s := range f.segments {
		text := []byte(strings.Join(s.lines, "\n") + "\n")
		if len(s.lines) == 0 {
			text = nil
		}
		end := plainEnd
		if zst && (i < len(f.segments)-1 || s.raw != nil) {
			end = packedEnd
			text = zip(text)
			if s.raw != nil {
				text = s.raw
			}
		}
		path := filepath.Join(dir, stem(s.first, 0)+end)
		try(t, os.WriteFile(path, text, 0o600))
		if end == packedEnd && s.index != nil {
			try(t, os.WriteFile(strings.TrimSuffix(path, packedEnd)+indexEnd, s.index, 0o600))
		}
		if s.heads != nil {
			try(t, os.WriteFile(filepath.Join(dir, stem(s.first, 0)+headsEnd), []byte("\n"+strings.Join(s.heads, "\n")+"\n"), 0o600))
		}
	}
	if f.pruned != "" {
		try(t, os.WriteFile(filepath.Join(dir, prunedFile), []byte(f.pruned+"\n"), 0o600))
	}
	return dir
}

func (f *forgery) edit(seg, line int, from, to string) {
	s := f.segments[seg]
	edited := strings.Replace(s.lines[line], from, to, 1)
	if edited == s.lines[line] {
		panic("nothing to edit in " + s.lines[line])
	}
	s.lines[line] = edited
}

// numbered is a line as it stands there with the number of another.
func numbered(line string, seq uint64) string {
	return seqField.ReplaceAllString(line, `"seq":`+strconv.FormatUint(seq, 10))
}

// TestTampering edits the files as attackers would. The harm is done to the
// fourth record of the second segment, unless the name says something else.
func TestTampering(t *testing.T) {
	t.Parallel()
	opts, thief := withKey(t), withKey(t)
	base := honest(t, opts.Signer)
	var firsts []uint64
	for _, s := range base.segments {
		firsts = append(firsts, s.first)
	}
	const seg, line = 1, 3
	bad := firsts[seg] + line
	total := uint64(len(base.lines()))
	if len(firsts) < 5 {
		t.Fatal(firsts)
	}
	last := len(firsts) - 1
	starts := 1 + slices.IndexFunc(base.segments[1:], func(s *forgedSegment) bool { return strings.Contains(s.lines[0], `"server.start"`) })
	file := func(i int) string { return stem(firsts[i], 0) }

	tests := []struct {
		name string
		do   func(f *forgery)

		// What is found of somebody without the log key, who may have put the
		// numbers right: nothing without a kept head if it is empty.
		kind Kind
		from uint64 // a record that the harm is in
		file string // and its place, if that is known exactly
		line int

		kept    Kind // with a kept head, if that is not kind
		keyless Kind // without any key and without a kept head

		// With the log key nothing is found but this, and with a kept head that.
		withKey, withKeyKept Kind
	}{
		{name: "a letter of a record", do: func(f *forgery) { f.edit(seg, line, `"type":"`, `"type":"x`) },
			kind: KindChanged, from: bad, keyless: KindChanged, withKeyKept: KindRewritten},
		{name: "a record that is none any more", do: func(f *forgery) { f.edit(seg, line, `"type"`, `"tyqe"`) },
			kind: KindEdited, from: bad, file: file(seg), line: line + 1, keyless: KindEdited, withKey: KindEdited, withKeyKept: KindEdited},
		{name: "the time of a record, back", do: func(f *forgery) { f.edit(seg, line, `"time":"2`, `"time":"1`) },
			kind: KindEdited, from: bad, file: file(seg), line: line + 1, keyless: KindEdited, withKey: KindEdited, withKeyKept: KindEdited},
		{name: "a record taken out", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines = slices.Delete(s.lines, line, line+1)
		}, kind: KindRemoved, from: bad, file: file(seg), line: line + 1, keyless: KindRemoved, withKey: KindRemoved, withKeyKept: KindRemoved},
		{name: "a record taken out, and numbers put right", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines = slices.Delete(s.lines, line, line+1)
			f.renumber()
		}, kind: KindChanged, from: bad, keyless: KindChanged, withKeyKept: KindRollback},
		{name: "a record taken out, and numbers put right in the segment", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines = slices.Delete(s.lines, line, line+1)
			for i := range s.lines {
				s.lines[i] = numbered(s.lines[i], s.first+uint64(i))
			}
		}, kind: KindChanged, from: bad, keyless: KindChanged, withKey: KindMissing, withKeyKept: KindMissing},
		{name: "a record there twice", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines = slices.Insert(s.lines, line, s.lines[line-1])
		}, kind: KindInserted, from: bad, file: file(seg), line: line + 1, keyless: KindInserted, withKey: KindInserted, withKeyKept: KindInserted},
		{name: "a record of another run put in", do: func(f *forgery) {
			f.segments[seg].lines[line] = numbered(f.segments[last].lines[1], bad)
		}, kind: KindInserted, from: bad, file: file(seg), line: line + 1, keyless: KindInserted, withKey: KindInserted, withKeyKept: KindInserted},
		{name: "a record put in, and numbers put right", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines = slices.Insert(s.lines, line, s.lines[line])
			f.renumber()
		}, kind: KindChanged, from: bad + 1, keyless: KindChanged, withKeyKept: KindRewritten},
		{name: "records in another order", do: func(f *forgery) {
			s := f.segments[seg]
			s.lines[line], s.lines[line+1] = s.lines[line+1], s.lines[line]
		}, kind: KindReordered, from: bad, file: file(seg), line: line + 1, keyless: KindReordered, withKey: KindReordered, withKeyKept: KindReordered},
		{name: "records in another order, and their numbers put right", do: func(f *forgery) {
			s := f.segments[seg]
			a, b := s.lines[line], s.lines[line+1]
			times := regexp.MustCompile(`"time":"[^"]*"`)
			s.lines[line] = times.ReplaceAllString(numbered(b, bad), times.FindString(a))
			s.lines[line+1] = times.ReplaceAllString(numbered(a, bad+1), times.FindString(b))
		}, kind: KindChanged, from: bad, keyless: KindChanged, withKeyKept: KindRewritten},
		{name: "the end cut off", do: func(f *forgery) {
			s := f.segments[last]
			s.lines = s.lines[:len(s.lines)-1]
		}, kind: KindTruncated, from: total - 1, keyless: KindTruncated, withKeyKept: KindRollback},
		{name: "the end cut off, with its heads", do: func(f *forgery) {
			s := f.segments[last]
			s.lines, s.heads = s.lines[:1], nil
		}, from: firsts[last] + 1, kept: KindRollback, withKeyKept: KindRollback},
		{name: "the newest segment removed, but not its heads", do: func(f *forgery) { f.segments[last].lines = []string{} },
			kind: KindTruncated, from: firsts[last], keyless: KindTruncated, withKeyKept: KindRollback},
		{name: "the newest segment removed, with its heads", do: func(f *forgery) { f.segments = f.segments[:last] },
			from: firsts[last], kept: KindRollback, withKeyKept: KindRollback},
		{name: "a segment removed, with its heads", do: func(f *forgery) { f.segments = slices.Delete(f.segments, seg, seg+1) },
			kind: KindMissing, from: firsts[seg], keyless: KindMissing, withKey: KindMissing, withKeyKept: KindMissing},
		{name: "the first segment removed", do: func(f *forgery) { f.segments = f.segments[1:] },
			kind: KindMissing, from: 0, keyless: KindMissing, withKey: KindMissing, withKeyKept: KindMissing},
		{name: "all heads signed with a key of his own", do: func(f *forgery) {
			f.edit(seg, line, `"type":"`, `"type":"x`)
			f.renumber()
			f.sign(t, thief.Signer)
		}, kind: KindForeign, from: 0, withKeyKept: KindRewritten, keyless: "-"},
		{name: "heads that he made up", do: func(f *forgery) {
			f.edit(seg, line, `"type":"`, `"type":"x`)
			f.renumber()
			good := slices.Clone(f.segments)
			f.sign(t, thief.Signer)
			for _, s := range good {
				for i, h := range s.heads {
					sig := strings.Index(h, "— ")
					b, err := base64.StdEncoding.DecodeString(strings.Fields(h[sig:])[2])
					try(t, err)
					b = append([]byte{byte(opts.Verifier.KeyHash() >> 24), byte(opts.Verifier.KeyHash() >> 16), byte(opts.Verifier.KeyHash() >> 8), byte(opts.Verifier.KeyHash())}, b[4:]...)
					s.heads[i] = h[:sig] + "— bastion-1 " + base64.StdEncoding.EncodeToString(b) + "\n"
				}
			}
		}, kind: KindSignature, from: 0, withKeyKept: KindRewritten, keyless: "-"},
		{name: "heads removed", do: func(f *forgery) {
			f.edit(seg, line, `"type":"`, `"type":"x`)
			f.renumber()
			for _, s := range f.segments {
				s.heads, s.index = nil, nil
			}
		}, from: bad, kept: KindChanged, withKeyKept: KindRewritten},
		{name: "a segment replaced", do: func(f *forgery) {
			s := f.segments[seg]
			for i := 1; i < len(s.lines); i++ {
				s.lines[i] = numbered(s.lines[0], s.first+uint64(i))
			}
		}, kind: KindChanged, from: firsts[seg] + 1, keyless: KindChanged, withKeyKept: KindRewritten},
		{name: "a run that does not begin", do: func(f *forgery) {
			f.edit(starts, 0, `"server.start"`, `"server.stop"`)
		}, kind: KindSegment, from: firsts[starts], keyless: KindSegment, withKey: KindSegment, withKeyKept: KindSegment},
		{name: "an older copy of the whole folder", do: func(f *forgery) { f.segments = f.segments[:2] },
			from: firsts[2], kept: KindRollback, withKeyKept: KindRollback},
	}
	for _, zst := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(fmt.Sprint(tt.name, ", packed ", zst), func(t *testing.T) {
				for _, resign := range []bool{false, true} {
					for _, keep := range []bool{false, true} {
						for _, key := range []bool{true, false} {
							f := copied(base)
							tt.do(f)
							want := tt.kind
							if resign {
								f.resign(t, opts.Signer)
								want = tt.withKey
							}
							if keep {
								switch {
								case resign:
									want = tt.withKeyKept
								case tt.kept != "":
									want = tt.kept
								}
							}
							o := VerifyOptions{}
							if key {
								o.Keys = []note.Verifier{opts.Verifier}
							}
							if keep {
								o.Since = []tree.Head{*base.head(int(total))}
							}
							if !key && !resign && !keep && tt.keyless != "-" {
								want = tt.keyless
							} else if !key {
								// Heads that nobody has signed may tell, or not.
								if v := verify(t, f.save(t, zst), o); keep && v.Good() {
									t.Errorf("without a key, resigned %v: nothing is found", resign)
								}
								continue
							}
							v := verify(t, f.save(t, zst), o)
							what := fmt.Sprintf("resigned %v, kept head %v, key %v", resign, keep, key)
							if want == "" {
								if !v.Good() || len(v.Notes) == 0 {
									t.Errorf("%s: %+v", what, v.Harms)
								}
								continue
							}
							i := slices.IndexFunc(v.Harms, func(h Harm) bool { return h.Kind == want })
							if i < 0 {
								t.Errorf("%s: no %s in %+v", what, want, v.Harms)
								continue
							}
							h := v.Harms[i]
							if !resign && (h.From > tt.from || h.To <= tt.from) {
								t.Errorf("%s: record %d is not in %+v", what, tt.from, h)
							}
							if want == tt.kind && tt.file != "" && (!strings.HasPrefix(filepath.Base(h.File), tt.file+".") || h.Line != tt.line) {
								t.Errorf("%s: %s:%d is not where %+v is", what, tt.file, tt.line, h)
							}
							if want == KindChanged && !keep && !resign && h.To-h.From > 3 {
								t.Errorf("%s: heads stand after every third record, and this is not near enough: %+v", what, h)
							}
						}
					}
				}
			})
		}
	}
}

func copied(base *forgery) *forgery {
	f := &forgery{pruned: base.pruned}
	for _, s := range base.segments {
		f.segments = append(f.segments, &forgedSegment{first: s.first, lines: slices.Clone(s.lines), heads: slices.Clone(s.heads), index: s.index})
	}
	return f
}

// resign makes with the key what an attacker who has it would make.
func (f *forgery) resign(t testing.TB, key note.Signer) {
	t.Helper()
	contiguous := true
	for i, s := range f.segments {
		if i > 0 && s.first != f.segments[i-1].first+uint64(len(f.segments[i-1].lines)) || i == 0 && s.first != 0 {
			contiguous = false
		}
	}
	n := 0
	for _, s := range f.segments {
		for i := range s.lines {
			if root := f.root(n); contiguous && n > 0 {
				s.lines[i] = headField.ReplaceAllString(s.lines[i], fmt.Sprintf(`"head":{"size":%d,"root":"%s"}`, n, base64.StdEncoding.EncodeToString(root[:])))
			}
			n++
		}
	}
	f.sign(t, key)
}

func TestVerifyOfAnHonestLog(t *testing.T) {
	t.Parallel()
	opts, old := withKey(t), withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	for _, zst := range []bool{false, true} {
		f := honest(t, opts.Signer)
		n := len(f.lines())
		v := verify(t, f.save(t, zst), key)
		if !v.Full() || v.Next != uint64(n) || v.Protected != uint64(n) || v.Segments != len(f.segments) || v.Open != 0 {
			t.Errorf("%+v", v)
		}
		for size := 0; size <= n; size++ {
			o := key
			o.Since = []tree.Head{*f.head(size)}
			if v := verify(t, f.save(t, zst), o); !v.Full() || v.SinceSays != SinceFits {
				t.Errorf("%d: %+v", size, v)
			}
			o.Since[0].Root[3] ^= 1
			if v := verify(t, f.save(t, zst), o); v.Good() || v.SinceSays != SinceDiffers {
				t.Errorf("%d: %+v", size, v)
			}
		}
		// Older heads of another key count if it is given.
		f.segments[0].heads = func() []string { g := copied(f); g.sign(t, old.Signer); return g.segments[0].heads }()
		if v := verify(t, f.save(t, zst), key); len(v.Harms) != 1 || v.Harms[0].Kind != KindForeign {
			t.Errorf("%+v", v)
		}
		if v := verify(t, f.save(t, zst), VerifyOptions{Keys: []note.Verifier{opts.Verifier, old.Verifier}}); !v.Full() {
			t.Errorf("%+v", v)
		}
		if v := verify(t, f.save(t, zst), VerifyOptions{}); !v.Good() || v.Full() {
			t.Errorf("%+v", v)
		}
	}
}

// Of all heads that a witness has kept, it is told between which two the log
// was changed.
func TestVerifyWithAHistory(t *testing.T) {
	opts := withKey(t)
	base := honest(t, opts.Signer)
	total := uint64(len(base.lines()))
	first := base.segments[1].first
	other := copied(base)
	other.edit(2, 1, `"type":"`, `"type":"x`)
	var history []tree.Head // newest first: the order does not matter
	for n := int(total); n > 0; n -= 2 {
		history = append(history, *base.head(n))
	}
	oldest := history[len(history)-1].Size
	fits := func(below uint64) uint64 { return below - (below-oldest)%2 }
	bad := first + 3

	tests := []struct {
		name        string
		do          func(f *forgery)
		history     []tree.Head
		says        SinceSays
		fit, misfit uint64 // 0: none
		kind        Kind
		from, to    uint64
	}{
		{"nothing is changed", func(f *forgery) {}, history, SinceFits, total, 0, "", 0, 0},
		{"the same head twice", func(f *forgery) {}, append(slices.Clone(history), history...), SinceFits, total, 0, "", 0, 0},
		{"a record is edited and all is signed again", func(f *forgery) {
			f.edit(1, 3, `"type":"`, `"type":"x`)
			f.resign(t, opts.Signer)
		}, history, SinceDiffers, fits(bad), fits(bad) + 2, KindRewritten, fits(bad), fits(bad) + 2},
		{"a record is edited and there are no heads", func(f *forgery) {
			f.edit(1, 3, `"type":"`, `"type":"x`)
			f.renumber()
			for _, s := range f.segments {
				s.heads = nil
			}
		}, history, SinceDiffers, fits(bad), fits(bad) + 2, KindChanged, fits(bad), fits(bad) + 2},
		{"the end is cut off", func(f *forgery) { f.segments = f.segments[:1] }, history, SinceAhead, fits(first), fits(first) + 2, KindRollback, first, total},
		{"a later head is of the log and one before is not", func(f *forgery) {}, append([]tree.Head{*other.head(int(total - 1))}, history...),
			SinceDiffers, fits(total - 2), total - 1, KindRewritten, fits(total - 2), total - 1},
		{"a record is missing before all of them", func(f *forgery) { f.segments[0].lines = slices.Delete(f.segments[0].lines, 0, 1) }, history,
			SinceNotAsked, 0, 0, KindRemoved, 0, 1},
	}
	size := func(h *SignedFor) uint64 {
		if h == nil {
			return 0
		}
		return h.Size
	}
	for _, zst := range []bool{false, true} {
		for _, tt := range tests {
			f := copied(base)
			tt.do(f)
			v := verify(t, f.save(t, zst), VerifyOptions{Keys: []note.Verifier{opts.Verifier}, Since: tt.history})
			if v.SinceSays != tt.says || size(v.NewestFit) != tt.fit || size(v.OldestMisfit) != tt.misfit || v.Kept != len(tt.history) || size(v.Since) != total {
				t.Errorf("%s: %+v", tt.name, v)
			}
			if tt.kind == "" {
				if !v.Full() {
					t.Errorf("%s: %+v", tt.name, v)
				}
				continue
			}
			if i := slices.IndexFunc(v.Harms, func(h Harm) bool { return h.Kind == tt.kind }); i < 0 || v.Harms[i].From != tt.from || v.Harms[i].To != tt.to {
				t.Errorf("%s: %+v", tt.name, v.Harms)
			}
			if v.Complete != (tt.says != SinceNotAsked) {
				t.Errorf("%s: complete %v", tt.name, v.Complete)
			}
		}
	}
}

// The log key was changed: heads of the old one count up to the first of the new
// one, and nothing that somebody makes with it later.
func TestVerifyAfterAChangeOfTheKey(t *testing.T) {
	old, now := withKey(t), withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{now.Verifier}, Old: []note.Verifier{old.Verifier}}
	rekeyed := func(t *testing.T) *forgery {
		f := honest(t, now.Signer)
		g := copied(f)
		g.sign(t, old.Signer)
		for i := range 3 {
			f.segments[i].heads, f.segments[i].index = g.segments[i].heads, g.segments[i].index
		}
		return f
	}
	tests := []struct {
		name string
		do   func(f *forgery)
		keys VerifyOptions
		kind Kind // "": it is good
		gap  string
	}{
		{"an honest log", func(f *forgery) {}, key, "", ""},
		{"an honest log, and the old key is not known", func(f *forgery) {}, VerifyOptions{Keys: key.Keys}, KindForeign, ""},
		{"both are given as keys", func(f *forgery) {}, VerifyOptions{Keys: append(slices.Clone(key.Old), key.Keys...)}, "", ""},
		{"a record before the change is edited", func(f *forgery) { f.edit(1, 3, `"type":"`, `"type":"x`) }, key, KindChanged, ""},
		{"a record before the change is edited, and its heads are signed with the old key", func(f *forgery) {
			f.edit(1, 3, `"type":"`, `"type":"x`)
			f.renumber()
			g := copied(f)
			g.sign(t, old.Signer)
			for i := range 3 {
				f.segments[i].heads, f.segments[i].index = g.segments[i].heads, g.segments[i].index
			}
		}, key, KindChanged, ""},
		{"the end is signed with the old key", func(f *forgery) {
			g := copied(f)
			g.sign(t, old.Signer)
			f.segments[4].heads = g.segments[4].heads
		}, key, KindForeign, ""},
		{"all is signed with the old key", func(f *forgery) { f.sign(t, old.Signer) }, key, "", "No head is signed with the log key, but only with one before it"},
	}
	for _, zst := range []bool{false, true} {
		for _, tt := range tests {
			f := rekeyed(t)
			tt.do(f)
			v := verify(t, f.save(t, zst), tt.keys)
			if tt.kind == "" && v.Good() && (tt.gap == "" && v.Full() && v.Protected == v.Next || tt.gap != "" && len(v.Gaps) == 1 && strings.HasPrefix(v.Gaps[0], tt.gap)) {
				continue
			}
			if !slices.ContainsFunc(v.Harms, func(h Harm) bool { return h.Kind == tt.kind }) {
				t.Errorf("%s, packed %v: %+v", tt.name, zst, v)
			}
		}
	}
}

// What could not be verified is not counted as verified.
func TestSignaturesThatFailAreNotCounted(t *testing.T) {
	opts, thief := withKey(t), withKey(t)
	v := verify(t, honest(t, thief.Signer).save(t, false), VerifyOptions{Keys: []note.Verifier{opts.Verifier}})
	if v.Good() || v.Signatures != 0 || !v.Complete {
		t.Errorf("%+v", v)
	}
}

// prune takes the first segments away as retention does.
func (f *forgery) prune(n int) {
	r := tree.NewRange(0)
	for _, s := range f.segments[:n] {
		for _, line := range s.lines {
			r.Append(tree.Leaf([]byte(line)))
		}
	}
	text, _ := r.MarshalText()
	f.pruned = string(text)
	f.segments = f.segments[n:]
}

func TestVerifyOfAPrunedLog(t *testing.T) {
	t.Parallel()
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	// whole has a log.prune at its end that tells of its first two segments.
	whole := honest(t, opts.Signer)
	other := honest(t, opts.Signer)
	cut := len(whole.segments[0].lines) + len(whole.segments[1].lines)
	end := whole.segments[len(whole.segments)-1]
	rec, err := ParseRecord([]byte(end.lines[len(end.lines)-1]))
	try(t, err)
	rec = Record{V: Version, Seq: rec.Seq + 1, Time: rec.Time, Bastion: rec.Bastion, Run: rec.Run, Type: LogPrune, Head: TreeHead{uint64(cut), whole.root(cut)}}
	told := copied(whole)
	s := told.segments[len(told.segments)-1]
	s.lines = append(s.lines, string(rec.AppendJSON(nil)))
	told.sign(t, opts.Signer)
	heads := map[int]*tree.Head{}
	for n := range len(told.lines()) + 1 {
		heads[n] = told.head(n)
	}

	pruned := copied(told)
	pruned.prune(2)
	for _, zst := range []bool{false, true} {
		v := verify(t, pruned.save(t, zst), key)
		if !v.Full() || v.First != uint64(cut) {
			t.Errorf("%+v", v)
		}
		for n, h := range heads {
			o := key
			o.Since = []tree.Head{*h}
			v := verify(t, pruned.save(t, zst), o)
			want := SinceFits
			if n < cut {
				want = SincePruned
			}
			if v.SinceSays != want || v.Full() != (n >= cut) || !v.Good() {
				t.Errorf("%d: %+v", n, v)
			}
			o.Since = []tree.Head{{Size: h.Size, Root: tree.Hash{1}, Time: at}}
			if v := verify(t, pruned.save(t, zst), o); n >= cut && v.Good() {
				t.Errorf("%d: %+v", n, v)
			}
		}
	}
	tests := []struct {
		name string
		make func() *forgery
		want Kind
	}{
		{"nobody told of it", func() *forgery { f := copied(whole); f.prune(2); return f }, KindMissing},
		{"more is gone than was told", func() *forgery { f := copied(told); f.prune(3); return f }, KindMissing},
		{"there is no file pruned", func() *forgery { f := copied(pruned); f.pruned = ""; return f }, KindMissing},
		{"the hashes are those of another log", func() *forgery {
			f, g := copied(pruned), copied(other)
			g.prune(2)
			f.pruned = g.pruned
			return f
		}, KindPruned},
		{"it ends within a segment", func() *forgery {
			f := copied(pruned)
			f.segments = append([]*forgedSegment{told.segments[1]}, f.segments...)
			r := tree.NewRange(0)
			for _, line := range told.lines()[:cut-1] {
				r.Append(tree.Leaf([]byte(line)))
			}
			text, _ := r.MarshalText()
			f.pruned = string(text)
			return f
		}, KindPruned},
		{"it is no range", func() *forgery { f := copied(pruned); f.pruned = "0 7 x"; return f }, KindPruned},
		{"a record after it is edited", func() *forgery {
			f := copied(pruned)
			f.edit(0, 2, `"type":"`, `"type":"x`)
			return f
		}, KindChanged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, zst := range []bool{false, true} {
				v := verify(t, tt.make().save(t, zst), key)
				if len(v.Harms) == 0 || v.Harms[0].Kind != tt.want {
					t.Errorf("%+v", v.Harms)
				}
			}
		})
	}
}

func TestVerifyOtherHarm(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	t.Run("a packed segment that does not unpack", func(t *testing.T) {
		for _, harm := range []func([]byte) []byte{
			func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, // its checksum
			func(b []byte) []byte { return b[:len(b)-5] },
			func(b []byte) []byte { return []byte{} },
		} {
			for _, seg := range []int{1, 4} {
				f := honest(t, opts.Signer)
				f.segments[seg].raw = harm(zip([]byte(strings.Join(f.segments[seg].lines, "\n") + "\n")))
				v := verify(t, f.save(t, true), key)
				if len(v.Harms) == 0 || v.Harms[0].Kind != KindUnpack && v.Harms[0].Kind != KindMissing || !strings.HasPrefix(filepath.Base(v.Harms[0].File), stem(f.segments[seg].first, 0)) {
					t.Errorf("%+v", v.Harms)
				}
			}
		}
	})
	t.Run("forwards with two ends or none", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		must(t, l, opened("f1"), Record{Type: ForwardClose, Forward: "f1"}, Record{Type: ForwardFail, Forward: "f1"}, opened("f2"), opened("f2"), opened("f3"))
		v := verify(t, dir, VerifyOptions{})
		if v.Open != 2 || len(v.Harms) != 1 || v.Harms[0].Kind != KindForwards || v.Harms[0].Line != 4 || v.Harms[0].More != 1 {
			t.Errorf("%+v", v)
		}
	})
	t.Run("an index that nobody signed, or that is of other records", func(t *testing.T) {
		f := honest(t, opts.Signer)
		dir := f.save(t, false)
		pieces := must2(list(dir))
		p := pieces[0]
		write := func(as piece, change func([]byte) []byte) {
			i := newIndexer(as.first)
			n := as.first
			must2(as.scan(func(line []byte, r Record) error { i.add(change(line), r); n++; return nil }))
			text := must2(i.done().sign(opts.Signer))
			try(t, os.WriteFile(p.beside(indexEnd), text, 0o600))
		}
		as := func(b []byte) []byte { return b }
		write(p, as)
		if v := verify(t, dir, key); !v.Full() {
			t.Errorf("%+v", v)
		}
		harmed := func() {
			t.Helper()
			if v := verify(t, dir, key); len(v.Harms) != 1 || v.Harms[0].Kind != KindIndex || v.Harms[0].File != p.beside(indexEnd) {
				t.Errorf("%+v", v)
			}
		}
		text := must2(os.ReadFile(p.beside(indexEnd)))
		try(t, os.WriteFile(p.beside(indexEnd), bytes.Replace(text, []byte("\nrun "), []byte("\nrun 0"), 1), 0o600))
		harmed()
		write(p, func(b []byte) []byte { return append([]byte(" "), b...) }) // of another log with the same numbers
		harmed()
		write(pieces[1], as)
		harmed()
	})
	t.Run("heads in the place of others", func(t *testing.T) {
		f := honest(t, opts.Signer)
		f.segments[1].heads, f.segments[2].heads = f.segments[2].heads, f.segments[1].heads
		if v := verify(t, f.save(t, false), key); len(v.Harms) != 1 || v.Harms[0].Kind != KindHeads {
			t.Errorf("%+v", v)
		}
	})
	t.Run("heads that were removed at the end are told of", func(t *testing.T) {
		f := honest(t, opts.Signer)
		for _, s := range f.segments[1:] {
			s.heads = nil
		}
		if v := verify(t, f.save(t, false), key); !v.Good() || v.Full() != (v.End.Sub(v.Begin) < bareFor) {
			t.Errorf("%+v", v)
		}
	})
}

func TestATornEndIsNoHarm(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	for _, tail := range []string{`{`, `{"v":1,"seq":41`, "\x00\x00\x00", "x\ny\n", strings.Repeat("\x00", 3*maxLine)} {
		f := honest(t, opts.Signer)
		dir := f.save(t, true)
		tear(t, dir, pieceName(f.segments[len(f.segments)-1].first, 0), tail)
		for _, o := range []VerifyOptions{key, {}} {
			v := verify(t, dir, o)
			if !v.Good() || v.Torn != int64(len(tail)) {
				t.Errorf("%.20q: %+v", tail, v)
			}
		}
	}
	f := honest(t, opts.Signer)
	s := f.segments[len(f.segments)-1]
	s.lines = slices.Insert(s.lines, len(s.lines)-1, "x")
	if v := verify(t, f.save(t, true), key); v.Good() || v.Harms[0].Kind != KindEdited {
		t.Errorf("%+v", v)
	}
}

func TestHeadStream(t *testing.T) {
	opts := withKey(t)
	key := VerifyOptions{Keys: []note.Verifier{opts.Verifier}}
	t.Run("reads every head of files that are longer than what is read at once", func(t *testing.T) {
		dir := t.TempDir()
		var r tree.Range
		var lines, heads []byte
		rec := Record{V: Version, Time: at, Bastion: "b", Run: "R", Type: ServerStart}
		for r.Next() < 3000 {
			rec.Seq = r.Next()
			line := rec.AppendJSON(nil)
			r.Append(tree.Leaf(line))
			root, err := r.Root()
			try(t, err)
			head, err := tree.Head{Size: r.Next(), Root: root, Time: at}.Sign(opts.Signer)
			try(t, err)
			lines = append(append(lines, line...), '\n')
			heads = append(append(heads, head...), '\n')
			rec.Type = PolicyLoad
			if r.Next()%7 == 0 { // what a crash leaves
				heads = append(heads, head[:int(r.Next())%(len(head)-1)]...)
				heads = append(heads, '\n')
			}
		}
		try(t, os.WriteFile(filepath.Join(dir, pieceName(0, 0)), lines, 0o600), os.WriteFile(filepath.Join(dir, stem(0, 0)+headsEnd), heads, 0o600))
		for _, o := range []VerifyOptions{key, {}} {
			if v := verify(t, dir, o); !v.Good() || v.Heads != 3000 || v.Signatures > 1 {
				t.Errorf("%+v", v)
			}
		}
		// A head within has another root: of somebody with the key, who has not
		// thought of it.
		heads = bytes.Replace(heads, []byte("\n1500\n"), []byte("\n1501\n"), 1)
		try(t, os.WriteFile(filepath.Join(dir, stem(0, 0)+headsEnd), heads, 0o600))
		if v := verify(t, dir, key); len(v.Harms) != 1 || v.Harms[0].Kind != KindSignature || v.Harms[0].To != 1501 {
			t.Errorf("%+v", v)
		}
	})
	t.Run("finds nothing in anything else", func(t *testing.T) {
		for _, s := range []string{"", "\n\n— ", "\n\n— \n", "a\n\n— b\n", "\n\n\n\n\n— b\n", "1\n\n— 1\n\n— 1\n", strings.Repeat("x\n", 9000) + "\n— b\n"} {
			if _, end := glimpse([]byte(s)); end > 0 {
				t.Errorf("%.40q", s)
			}
		}
	})
}

func TestNumbersAreCounted(t *testing.T) {
	o := newOrder(0)
	for n := range 12000 {
		same(t, string(o.seq), strconv.Itoa(n))
		o.count()
	}
}
