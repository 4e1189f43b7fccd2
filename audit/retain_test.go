package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// readLeft are the records that retention has left, without a gap.
func readLeft(t testing.TB, dir string) []Record {
	t.Helper()
	var all []Record
	err := Read(dir, func(r Record) error {
		if len(all) > 0 && r.Seq != all[len(all)-1].Seq+1 {
			t.Errorf("record %d after %d", r.Seq, all[len(all)-1].Seq)
		}
		all = append(all, r)
		return nil
	})
	try(t, err)
	return all
}

// aged are options under which all that is packed goes.
func aged(opts Options) Options {
	opts.RetainAge = time.Hour
	opts.now = func() time.Time { return at.Add(48 * time.Hour) }
	return opts
}

// oldLog is a log of runs whose records are of another day.
func oldLog(t *testing.T, opts Options, runs ...string) (dir string, leaves [][]byte) {
	t.Helper()
	dir = t.TempDir()
	opts.now = func() time.Time { return at }
	for _, s := range runs {
		l := open(t, dir, opts)
		mustNote(t, l, s)
		try(t, l.Close())
	}
	return dir, plainLeaves(t, dir)
}

// proves that the root over everything, of which old is what was pruned or is
// still there, is what was said of it, and by the newest head.
func proves(t *testing.T, dir string, opts Options, old [][]byte) {
	t.Helper()
	gone, err := readPruned(dir)
	try(t, err)
	root := must2(gone.Root())
	same(t, [32]byte(root), rfcRoot(old[:gone.Next()]))
	whole, leaves := gone.Clone(), slices.Clone(old[:gone.Next()])
	for _, s := range must2(Segments(dir)) {
		if s.First() < gone.Next() {
			t.Fatalf("%s is listed, and %d records are pruned", s.Path(), gone.Next())
		}
	}
	for _, line := range plainLeaves(t, dir) {
		whole.Append(tree.Leaf(line))
		leaves = append(leaves, line)
	}
	for i, line := range old {
		same(t, string(leaves[i]), string(line))
	}
	same(t, [32]byte(must2(whole.Root())), rfcRoot(leaves))
	if opts.Verifier != nil {
		if text, h, foreign, err := newestHead(dir, opts.Verifier); err != nil || foreign != nil || text == nil {
			t.Errorf("%v, %v, %v", h, foreign, err)
		} else if h.Size >= gone.Next() {
			same(t, [32]byte(h.Root), rfcRoot(leaves[:h.Size]))
		}
	}
}

// taken is how many records retention took away.
func taken(t testing.TB, dir string) uint64 {
	t.Helper()
	gone, err := readPruned(dir)
	try(t, err)
	return gone.Next()
}

func signedAll(t testing.TB, l *Log) {
	t.Helper()
	if l.opts.Signer != nil {
		until(t, func() bool { s := l.signing.Load(); return s != nil && s.size == l.next })
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	t.Run("by age takes all that is older, but never the newest", func(t *testing.T) {
		for _, opts := range []Options{withKey(t), {}} {
			dir, old := oldLog(t, opts, "a", "b", "c")
			tear(t, dir, pieceName(0, 0)+".torn-01R", "evidence")
			l := open(t, dir, aged(opts))
			mustNote(t, l, "d")
			signedAll(t, l)
			keepNow(t, l)
			all := readLeft(t, dir)
			same(t, []Type{all[0].Type, all[1].Type, all[2].Type}, []Type{ServerStart, PolicyLoad, LogPrune})
			p := all[2]
			same(t, p.Head, TreeHead{6, rfcRoot(old)})
			same(t, p.Reason, "age")
			for _, want := range []string{"6 records in 3 segments", "from 2026-11-22T01:02:03Z to 2026-11-22T01:02:03Z", "older than 1h0m0s"} {
				if !strings.Contains(p.Detail, want) {
					t.Errorf("%q does not say %q", p.Detail, want)
				}
			}
			same(t, len(all), 3)
			for _, name := range names(t, dir) {
				if first, _, ok := ofSegment(name); ok && first < 6 {
					t.Errorf("%s is left", name)
				}
			}
			proves(t, dir, opts, old)
			// It goes on, and nothing more is done.
			keepNow(t, l)
			same(t, len(readLeft(t, dir)), 3)
			mustNote(t, l, "e")
			try(t, l.Close())
			l = open(t, dir, opts)
			mustNote(t, l, "f")
			try(t, l.Close())
			proves(t, dir, opts, old)
			same(t, len(readLeft(t, dir)), 6)
		}
	})
	t.Run("twice goes on where it was", func(t *testing.T) {
		opts := withKey(t)
		dir, old := oldLog(t, opts, "a", "b")
		for range 3 {
			l := open(t, dir, aged(opts))
			mustNote(t, l, "c")
			signedAll(t, l)
			keepNow(t, l)
			proves(t, dir, opts, old)
			try(t, l.Close())
			old = append(old[:taken(t, dir):taken(t, dir)], plainLeaves(t, dir)...)
		}
	})
	t.Run("leaves what whoever keeps an older head needs, if that counts what is left", func(t *testing.T) {
		opts := withKey(t)
		dir, old := oldLog(t, opts, "a", "b")
		l := open(t, dir, aged(opts))
		mustNote(t, l, "c")
		signedAll(t, l)
		head := func(lines [][]byte) *tree.Head {
			return &tree.Head{Size: uint64(len(lines)), Root: rfcRoot(lines)}
		}
		lines := plainLeaves(t, dir)
		keepNow(t, l)
		ask := func(was *tree.Head) error {
			answer, err := Answer(dir, must2(l.Head()), was.Size, opts.Verifier)
			try(t, err)
			_, _, err = tree.CheckAnswer(answer, []note.Verifier{opts.Verifier}, was)
			return err
		}
		try(t, ask(head(old)), ask(head(lines)))
		if err := ask(head(old[:3])); !errors.Is(err, tree.ErrPruned) {
			t.Error(err)
		}
	})
	t.Run("leaves what is not old enough", func(t *testing.T) {
		dir, _ := oldLog(t, Options{}, "a", "b")
		opts := aged(Options{})
		opts.RetainAge = 72 * time.Hour
		l := open(t, dir, opts)
		keepNow(t, l)
		same(t, types(t, dir), "server.start policy.load server.start policy.load server.start")
	})
	t.Run("by size takes the oldest until what is left fits", func(t *testing.T) {
		dir, old := oldLog(t, Options{}, "a", "b", "c", "d")
		l := open(t, dir, Options{})
		keepNow(t, l)
		// Room for the last two and half a one, beside the one that is written.
		size := must2(os.Stat(filepath.Join(dir, stem(4, 0)+packedEnd))).Size() + must2(os.Stat(filepath.Join(dir, stem(6, 0)+packedEnd))).Size()
		l.opts.SegmentSize = size
		l.opts.RetainSize = l.opts.SegmentSize + size + size/4
		keepNow(t, l)
		all := readLeft(t, dir)
		same(t, all[0].Seq, uint64(4))
		p := all[len(all)-1]
		same(t, [2]string{string(p.Type), p.Reason}, [2]string{"log.prune", "size"})
		proves(t, dir, Options{}, old)
	})
	t.Run("by size does not count failed logins", func(t *testing.T) {
		dir := t.TempDir()
		for range 3 {
			l := open(t, dir, Options{})
			for i := range 50 {
				must(t, l, Record{Type: AuthFail, Login: NewID("x") + fmt.Sprint(i), Source: netip.MustParseAddrPort("192.0.2.1:5")})
			}
			mustNote(t, l, "a")
			try(t, l.Close())
		}
		l := open(t, dir, Options{})
		keepNow(t, l)
		size := must2(os.Stat(filepath.Join(dir, stem(0, 0)+packedEnd))).Size()
		l.opts.SegmentSize, l.opts.RetainSize = size, 2*size
		keepNow(t, l)
		same(t, readLeft(t, dir)[0].Seq, 0)
		l.opts.SegmentSize, l.opts.RetainSize = size/40, size/20
		keepNow(t, l)
		if first := readLeft(t, dir)[0].Seq; first == 0 {
			t.Error("what is not about failed logins does not count")
		}
	})
	t.Run("by size counts the same however badly failed logins compress", func(t *testing.T) {
		var sizes []int64
		for _, failures := range []int{0, 2000} {
			dir := t.TempDir()
			write(t, dir, failures)
			l := open(t, dir, Options{})
			k := keeperOf(l)
			try(t, k.round())
			sizes = append(sizes, must2(k.counted(must2(list(dir))[0])))
		}
		if without, with := sizes[0], sizes[1]; without < 1000 || with > without+without/5 || with < without-without/5 {
			t.Errorf("%d bytes count without failures, and %d with them", without, with)
		}
	})
	t.Run("by age waits for a day once the clock was set, and by size does not", func(t *testing.T) {
		dir, _ := oldLog(t, Options{}, "a", "b")
		now, ran := at.Add(time.Minute), time.Duration(0)
		told := 0
		opts := Options{RetainAge: 365 * 24 * time.Hour, now: func() time.Time { return now }, Warn: func(text string, _ map[string]any) {
			if strings.Contains(text, "the clock was set") {
				told++
			}
		}}
		l := open(t, dir, opts)
		k := keeperOf(l)
		k.ran = func() time.Duration { return ran }
		pass := func(d time.Duration) { now, ran = now.Add(d), ran+d }
		took := func(n uint64) {
			t.Helper()
			try(t, k.round())
			same(t, taken(t, dir), n)
		}
		took(0)
		now = now.AddDate(10, 0, 0)
		took(0)
		pass(time.Hour)
		took(0)
		same(t, told, 1)
		now = now.AddDate(-10, 0, 0) // back as it was
		took(0)
		now = now.AddDate(10, 0, 0) // and for good
		took(0)
		same(t, told, 3)
		pass(23 * time.Hour)
		now = now.Add(59 * time.Minute) // not a jump
		took(0)
		pass(time.Hour)
		took(4)
	})
	t.Run("by size goes on while the clock is not believed", func(t *testing.T) {
		dir, _ := oldLog(t, Options{}, "a", "b")
		l := open(t, dir, Options{SegmentSize: 1, RetainSize: 2, RetainAge: time.Hour})
		k := keeperOf(l)
		k.wall = k.wall.AddDate(-10, 0, 0)
		try(t, k.round())
		same(t, taken(t, dir), 4)
	})
	t.Run("reads what is not packed, to tell that what goes is of the log", func(t *testing.T) {
		for _, sound := range []bool{true, false} {
			dir, _ := oldLog(t, Options{}, "a", "b")
			d := &testDisk{}
			opts := aged(Options{disk: d})
			l := open(t, dir, opts)
			k := keeperOf(l)
			d.failing(func(op, name string) error {
				if op == "open" && name == stem(2, 0)+packedEnd+tmpEnd {
					return syscall.EIO
				}
				return nil
			})
			if !sound { // both go unnoticed otherwise
				path := filepath.Join(dir, pieceName(2, 0))
				try(t, os.WriteFile(path, bytes.ReplaceAll(must2(os.ReadFile(path)), []byte(`"b"`), []byte(`"X"`)), 0o600))
			}
			err := k.round()
			if sound {
				same(t, taken(t, dir), 2)
			} else if same(t, taken(t, dir), 0); !strings.Contains(err.Error(), "does not come to the tree") {
				t.Error(err)
			}
			d.failing(nil)
		}
	})
	t.Run("leaves everything if one that stays is damaged, and not packed", func(t *testing.T) {
		dir, _ := oldLog(t, Options{}, "a", "b", "c")
		l := open(t, dir, aged(Options{}))
		path := filepath.Join(dir, pieceName(2, 0))
		text := must2(os.ReadFile(path))
		text[5] = 'x'
		try(t, os.WriteFile(path, text, 0o600))
		k := keeperOf(l)
		if err := errors.Join(k.round(), k.round()); err == nil || !strings.Contains(err.Error(), "what stays cannot be read") {
			t.Error(err)
		}
		same(t, segments(t, dir), []string{stem(0, 0) + packedEnd, pieceName(2, 0), stem(4, 0) + packedEnd, pieceName(6, 0)})
	})
	t.Run("does not take the records away that tell of forwards that run", func(t *testing.T) {
		dir := t.TempDir()
		opts := withKey(t)
		var hours atomic.Int64
		opts.now = func() time.Time { return at.Add(time.Duration(hours.Load()) * time.Hour) }
		opts.SegmentSize = 1 // one record each
		l := open(t, dir, opts)
		must(t, l, opened("f1"), opened("f2"), Record{Type: ForwardClose, Forward: "f1"})
		signedAll(t, l)
		old := plainLeaves(t, dir)
		l.opts.RetainAge = time.Hour
		hours.Store(2)
		keepNow(t, l)
		same(t, readLeft(t, dir)[0].Seq, 2)
		proves(t, dir, opts, old)

		// A progress tells as much, so that the open may go.
		progress := opened("f2")
		progress.Type, progress.BytesUp = ForwardProgress, 7
		must(t, l, progress)
		mustNote(t, l, "a")
		hours.Store(4)
		signedAll(t, l)
		keepNow(t, l)
		all := readLeft(t, dir)
		same(t, [2]string{string(all[0].Type), all[0].Forward}, [2]string{"forward.progress", "f2"})

		// After a crash it is lost, once, and told by what is left.
		l2 := open(t, crash(t, dir), opts)
		same(t, l2.Recovered().Lost, 1)
		left := readLeft(t, l2.dir)
		lost := left[len(left)-1]
		same(t, [2]string{lost.Forward, lost.User}, [2]string{"f2", opened("").User})
		same(t, lost.BytesUp, 7)
		if !strings.Contains(lost.Detail, "before the oldest record left") {
			t.Error(lost.Detail)
		}

		// An end that cannot be written holds nothing up.
		same(t, l.oldestNamed() == math.MaxUint64, false)
		try(t, l.Close())
		if err := l.Append(t.Context(), Record{Type: ForwardClose, Forward: "f2"}); err != ErrClosed {
			t.Error(err)
		}
		same(t, l.oldestNamed(), math.MaxUint64)
	})
	t.Run("is not done where the indexes do not come to the tree", func(t *testing.T) {
		opts := withKey(t)
		dir, old := oldLog(t, opts, "a", "b")
		l := open(t, dir, aged(opts))
		l.opts.RetainAge = 0
		signedAll(t, l)
		keepNow(t, l)
		lie := indexOf(0, opened("f1"), opened("f2"))
		try(t, os.WriteFile(filepath.Join(dir, stem(0, 0)+indexEnd), must2(lie.sign(opts.Signer)), 0o600))
		d := &pruning{next: 2, segments: 1, tree: lie.tree}
		k := keeperOf(l)
		try(t, k.round())
		if err := k.prune(d, tree.NewRange(0), must2(k.closed())); err == nil || !strings.Contains(err.Error(), "no records are taken away") {
			t.Error(err)
		}
		l.opts.RetainAge = time.Hour
		try(t, k.round()) // which finds out before
		same(t, k.bad[stem(0, 0)], true)
		same(t, len(readLeft(t, dir)), len(old)+1)
	})
	t.Run("removes nothing on the word of a file that no record confirms", func(t *testing.T) {
		dir, old := oldLog(t, Options{}, "a", "b", "c")
		l := open(t, dir, Options{})
		r := tree.NewRange(0)
		for _, line := range old[:4] {
			r.Append(tree.Leaf(line))
		}
		text := must2(r.MarshalText())
		try(t, os.WriteFile(filepath.Join(dir, prunedFile), append(text, '\n'), 0o600))
		before := segments(t, dir)
		if err := keeperOf(l).retain(); err == nil || !strings.Contains(err.Error(), "no record says so") {
			t.Error(err)
		}
		same(t, segments(t, dir), before)
	})
}

func TestNoFaultOfRetentionLosesMoreThanItShould(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{withKey(t), {}} {
		start, old := oldLog(t, opts, "a", "b")
		if opts.Signer == nil {
			tear(t, start, stem(0, 0)+packedEnd, "half")
		}
		opts = aged(opts)
		faults(t, opts, func(t *testing.T) string { return start }, func(t *testing.T, dir string) {
			t.Helper()
			proves(t, dir, opts, old)
			all := readLeft(t, dir)
			gone := taken(t, dir)
			same(t, all[0].Seq, gone)
			if gone == 0 {
				return
			}
			said := false
			for _, r := range all {
				said = said || r.Type == LogPrune && r.Head.Size == gone && r.Head.Root == rfcRoot(old[:gone])
			}
			if !said {
				t.Errorf("no record says that %d records have gone", gone)
			}
		})
	}
}

// A fault while files are removed leaves some behind, which nobody looks at and
// the next start removes.
func TestWhatRetentionLeftIsRemovedLater(t *testing.T) {
	opts := aged(withKey(t))
	dir, _ := oldLog(t, opts, "a", "b")
	d := &testDisk{}
	opts.disk = d
	l := open(t, dir, opts)
	signedAll(t, l)
	d.failing(func(op, name string) error {
		if op == "remove" && name == stem(2, 0)+packedEnd {
			return syscall.EIO
		}
		return nil
	})
	k := keeperOf(l)
	if err := k.round(); err == nil {
		t.Error("no error")
	}
	same(t, readLeft(t, dir)[0].Seq, 4)
	try(t, l.Close())
	d.failing(nil)
	l = open(t, dir, opts)
	same(t, must2(os.Stat(filepath.Join(dir, stem(2, 0)+packedEnd))) != nil, true)
	signedAll(t, l)
	keepNow(t, l)
	for _, name := range names(t, dir) {
		if first, _, ok := ofSegment(name); ok && first < 4 {
			t.Errorf("%s is left", name)
		}
	}
}

// alter changes a packed segment, and its index knows nothing of it.
func alter(t *testing.T, path, from, to string) {
	t.Helper()
	p, ok := parsePieceName(filepath.Base(path))
	if p.path = path; !ok || !p.packed {
		t.Fatal(path)
	}
	s := must2(p.open())
	defer s.Close()
	text := must2(io.ReadAll(s))
	if !strings.Contains(string(text), from) {
		t.Fatalf("%q is not in %s", from, text)
	}
	try(t, os.WriteFile(path, zip([]byte(strings.ReplaceAll(string(text), from, to))), 0o600))
}

func TestRetentionLeavesEvidence(t *testing.T) {
	opts := withKey(t)
	for name, tt := range map[string]struct {
		harm func(t *testing.T, dir string)
		left uint64 // seq of the first record that stays
		want string
	}{
		"of an edit": {func(t *testing.T, dir string) {
			alter(t, filepath.Join(dir, stem(2, 0)+packedEnd), `"b"`, `"X"`)
		}, 2, "are not those that it was packed with"},
		"of an emptied file": {func(t *testing.T, dir string) {
			try(t, os.Truncate(filepath.Join(dir, stem(2, 0)+packedEnd), 0))
		}, 2, "is empty"},
		"of a file that is missing": {func(t *testing.T, dir string) {
			try(t, os.Remove(filepath.Join(dir, stem(2, 0)+packedEnd)))
		}, 0, "records 2 to 3 are missing after it"},
		"of a file that is missing at the beginning": {func(t *testing.T, dir string) {
			try(t, os.Remove(filepath.Join(dir, stem(0, 0)+packedEnd)))
		}, 2, "records 0 to 1 are missing before"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := oldLog(t, opts, "a", "b", "c")
			var told strings.Builder
			o := opts
			o.Warn = func(text string, fields map[string]any) { fmt.Fprintln(&told, text, fields) }
			o.now = aged(o).now
			l := open(t, dir, o)
			mustNote(t, l, "d")
			signedAll(t, l)
			keepNow(t, l)
			k := keeperOf(l)
			try(t, k.round()) // it knows them as they were
			tt.harm(t, dir)
			l.opts.RetainAge = time.Hour
			if err := k.round(); err != nil {
				fmt.Fprintln(&told, err)
			}
			k.round()
			if _, all, err := survey(dir); err != nil || all[0].first != tt.left {
				t.Errorf("the first that is left is %d: %v", all[0].first, err)
			}
			if strings.Count(told.String(), tt.want) != 1 {
				t.Errorf("told: %s", told.String())
			}
		})
	}
}

func TestEachPackedSegmentIsReadOnceInARun(t *testing.T) {
	for _, opts := range []Options{withKey(t), {}} {
		dir, _ := oldLog(t, opts, "a", "b", "c")
		var told strings.Builder
		opts.Warn = func(text string, fields map[string]any) { fmt.Fprintln(&told, text, fields) }
		l := open(t, dir, opts)
		mustNote(t, l, "d")
		signedAll(t, l)
		keepNow(t, l)
		k := keeperOf(l)
		try(t, k.round())
		if opts.Signer == nil { // only what it has seen itself
			for _, p := range must2(k.closed()) {
				must2(k.summary(p))
			}
		}
		alter(t, filepath.Join(dir, stem(4, 0)+packedEnd), `"c"`, `"X"`)
		n := 0
		for k.check() {
			n++
		}
		same(t, n, 3)
		if strings.Count(told.String(), "are not those that it was packed with") != 1 || !strings.Contains(told.String(), stem(4, 0)) {
			t.Errorf("told: %s", told.String())
		}
	}
}

// write makes a segment of the same 1000 records about forwards, and of as many
// failed logins of random text as are asked for.
func write(t *testing.T, dir string, failures int) {
	t.Helper()
	l := open(t, dir, Options{now: func() time.Time { return at }})
	r := rand.New(rand.NewPCG(1, 2))
	var all sync.WaitGroup
	for range failures {
		var b [512]byte
		for i := range b {
			b[i] = byte('!' + r.IntN(90))
		}
		all.Go(func() {
			l.Append(t.Context(), Record{Type: AuthFail, Login: string(b[:256]), Client: string(b[256:]), Reason: "unknown_key"})
		})
	}
	all.Wait()
	for i := range 500 {
		f := fmt.Sprint("f", i)
		all.Go(func() {
			l.Append(t.Context(), opened(f))
			l.Append(t.Context(), Record{Type: ForwardClose, Forward: f, User: "bob", Reason: "closed"})
		})
	}
	all.Wait()
	try(t, l.Close())
}

func TestWhatWasPrunedIsConfirmedByASignedHead(t *testing.T) {
	opts := withKey(t)
	dir, old := oldLog(t, opts, "a", "b", "c")
	gone := tree.NewRange(0)
	for _, line := range old[:4] {
		gone.Append(tree.Leaf(line))
	}
	text := append(must2(gone.MarshalText()), '\n')
	said := Record{Type: LogPrune, Head: TreeHead{4, rfcRoot(old[:4])}, Reason: "age"}
	left := func(t *testing.T, dir string) bool {
		_, err := os.Stat(filepath.Join(dir, pieceName(0, 0)))
		return err == nil
	}
	refuses := func(t *testing.T, k *keeper) {
		t.Helper()
		if err := k.retain(); err == nil || !strings.Contains(err.Error(), "no record says so") || !left(t, k.log.dir) {
			t.Error(err)
		}
	}
	t.Run("and not by a record that was put at the end of the log", func(t *testing.T) {
		dir := copyOf(t, dir)
		var run string
		try(t, Read(dir, func(r Record) error { run = r.Run; return nil }))
		forged := said
		forged.V, forged.Seq, forged.Time, forged.Bastion, forged.Run = 1, 6, at, "b", run
		tear(t, dir, pieceName(4, 0), string(forged.AppendJSON(nil))+"\n")
		// The run signs it.
		l, err := Open(dir, Options{Bastion: "b", still: true, Signer: opts.Signer, Verifier: opts.Verifier, headPause: opts.headPause})
		if err != nil {
			return // even better
		}
		defer l.Close()
		signedAll(t, l)
		try(t, os.WriteFile(filepath.Join(dir, prunedFile), text, 0o600))
		refuses(t, keeperOf(l))
	})
	t.Run("nor by one of the same run", func(t *testing.T) {
		l := open(t, copyOf(t, dir), opts)
		must(t, l, said)
		signedAll(t, l)
		try(t, os.WriteFile(filepath.Join(l.dir, prunedFile), text, 0o600))
		refuses(t, keeperOf(l))
	})
	t.Run("but by one that an earlier run signed, which goes for that content only", func(t *testing.T) {
		dir := copyOf(t, dir)
		l := open(t, dir, opts)
		must(t, l, said)
		try(t, l.Close())
		l = open(t, dir, opts)
		first := must2(os.ReadFile(filepath.Join(dir, pieceName(0, 0))))
		try(t, os.WriteFile(filepath.Join(dir, prunedFile), text, 0o600))
		k := keeperOf(l)
		try(t, k.retain())
		same(t, left(t, dir), false)

		more := gone.Clone()
		more.Append(tree.Leaf(old[4]))
		try(t, os.WriteFile(filepath.Join(dir, pieceName(0, 0)), first, 0o600),
			os.WriteFile(filepath.Join(dir, prunedFile), append(must2(more.MarshalText()), '\n'), 0o600))
		refuses(t, k)
	})
}

// copyOf is a copy of a log.
func copyOf(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	try(t, os.CopyFS(dir, os.DirFS(from)))
	return dir
}

func TestADiskThatIsFullOfWhatIsToGo(t *testing.T) {
	for _, opts := range []Options{withKey(t), {}} {
		dir, old := oldLog(t, opts, "a", "b")
		d := &testDisk{}
		began := time.Now()
		opts.disk = d
		opts.now = func() time.Time { return at.Add(48*time.Hour + time.Since(began)) }
		l := open(t, dir, opts)
		mustNote(t, l, "c")
		signedAll(t, l)
		keepNow(t, l)
		l.opts.RetainAge = 100 * time.Hour
		k := keeperOf(l)
		try(t, k.round())
		path := filepath.Join(dir, reserveFile)
		info := must2(os.Stat(path))
		same(t, [2]int64{info.Size(), int64(info.Mode())}, [2]int64{reserveSize, 0o600})

		d.failing(func(op, name string) error {
			_, err := os.Stat(path)
			_, err2 := os.Stat(filepath.Join(dir, stem(0, 0)+packedEnd))
			if op == "write" && err == nil && err2 == nil {
				return syscall.ENOSPC
			}
			return nil
		})
		l.opts.RetainAge = time.Hour
		try(t, k.round())
		same(t, taken(t, dir), 4)
		same(t, must2(os.Stat(path)).Size(), reserveSize) // again
		d.failing(nil)
		proves(t, dir, opts, old)
	}
}

func TestASegmentThatCannotBePackedTakesTheRoomOfOlderOnes(t *testing.T) {
	d := &testDisk{}
	dir, _ := oldLog(t, Options{}, "a", "b")
	l := open(t, dir, Options{})
	keepNow(t, l)
	try(t, l.Close())
	l = open(t, dir, Options{})
	for range 50 {
		mustNote(t, l, NewID("x"))
	}
	try(t, l.Close())
	l = open(t, dir, Options{disk: d, SegmentSize: 1, RetainSize: 4000})
	d.failing(func(op, name string) error {
		if op == "write" && strings.HasSuffix(name, packedEnd+tmpEnd) {
			return syscall.ENOSPC
		}
		return nil
	})
	if err := keeperOf(l).round(); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	same(t, taken(t, dir), 4)
	d.failing(nil)
}
