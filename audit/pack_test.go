package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sekisho/audit/tree"
)

// keeperOf is a keeper that works when it is told to.
func keeperOf(l *Log) *keeper {
	k := newKeeper(l, l.life)
	k.hurry = true
	return k
}

// keepNow lets a keeper do all that is to be done.
func keepNow(t testing.TB, l *Log) {
	t.Helper()
	k := keeperOf(l)
	k.clean()
	for {
		try(t, k.round())
		if !k.waits {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// plainLeaves are the lines of the log, packed or not.
func plainLeaves(t testing.TB, dir string) [][]byte {
	t.Helper()
	var leaves [][]byte
	for _, s := range must2(Segments(dir)) {
		r := must2(s.Open())
		text := must2(io.ReadAll(r))
		r.Close()
		for i, line := range bytes.SplitAfter(text, []byte("\n")) {
			if len(line) > 0 && s.First()+uint64(i) < s.Limit() {
				leaves = append(leaves, bytes.TrimSuffix(line, []byte("\n")))
			}
		}
	}
	return leaves
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(folder(t, dir)))
}

func TestClosedSegmentsArePacked(t *testing.T) {
	t.Run("of this run and of those before it, but not the one that is written", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		l := open(t, dir, opts)
		mustNote(t, l, "a")
		try(t, l.Close())
		opts.SegmentSize = 1
		l = open(t, dir, opts)
		mustNote(t, l, "b", "c")
		before := plainLeaves(t, dir)
		keepNow(t, l)
		same(t, segments(t, dir), []string{stem(0, 0) + packedEnd, stem(2, 0) + packedEnd, stem(3, 0) + packedEnd, stem(4, 0) + plainEnd})
		same(t, plainLeaves(t, dir), before)
		mustNote(t, l, "d")
		same(t, notes(t, dir), []string{"a", "b", "c", "d"})
		for _, s := range must2(Segments(dir))[:3] {
			x, err := s.Index(opts.Verifier)
			try(t, err)
			if x == nil || x.First() != s.First() || x.Next() != s.Limit() || !x.May("type", "policy.load") && s.First() != 2 {
				t.Errorf("%s: %+v", s.Path(), x)
			}
			if info := must2(os.Stat(s.Path())); info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", s.Path(), info.Mode())
			}
		}
		// There is nothing more to do.
		have := folder(t, dir)
		delete(have, stem(5, 0)+headsEnd)
		keepNow(t, l)
		l.Close()
		l = open(t, dir, opts)
		mustNote(t, l, "e")
		same(t, notes(t, dir), []string{"a", "b", "c", "d", "e"})
	})
	t.Run("without a key too, and have no index then", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a")
		keepNow(t, l)
		same(t, names(t, dir), []string{stem(0, 0) + packedEnd, stem(1, 0) + plainEnd, currentFile})
	})
	t.Run("with the records that count only", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a")
		void := opened("void")
		void.V, void.Seq, void.Run, void.Time = 1, 1, l.Run(), at
		tear(t, dir, pieceName(0, 0), string(void.AppendJSON(nil))+"\nand more")
		keepNow(t, l)
		same(t, len(plainLeaves(t, dir)), 2)
		same(t, segments(t, dir), []string{stem(0, 0) + packedEnd, stem(1, 0) + plainEnd})
	})
	t.Run("unless they are damaged, which is told and leaves them as they are", func(t *testing.T) {
		dir := t.TempDir()
		told := ""
		l := open(t, dir, Options{SegmentSize: 1, Warn: func(text string, fields map[string]any) {
			told += fmt.Sprintln(text, fields)
		}})
		mustNote(t, l, "a", "b")
		path := filepath.Join(dir, pieceName(1, 0))
		text := must2(os.ReadFile(path))
		text[5] = 'x'
		try(t, os.WriteFile(path, text, 0o600))
		k := keeperOf(l)
		try(t, k.round(), k.round())
		same(t, segments(t, dir), []string{stem(0, 0) + packedEnd, pieceName(1, 0), pieceName(2, 0)})
		same(t, must2(os.ReadFile(path)), text)
		if strings.Count(told, "a segment of the audit log is damaged") != 1 || !strings.Contains(told, pieceName(1, 0)) {
			t.Errorf("told: %s", told)
		}
	})
	t.Run("and empty ones of no use removed, but not those in which something is", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		tear(t, dir, pieceName(1, 0), "")
		tear(t, dir, pieceName(1, 1), "something")
		mustNote(t, l, "a")
		keepNow(t, l)
		same(t, segments(t, dir), []string{stem(0, 0) + packedEnd, pieceName(1, 1), pieceName(1, 2)})
		same(t, notes(t, dir), []string{"a"})
	})
	t.Run("but not what the writer may still go on with", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{SegmentSize: 1, disk: d})
		// The new file is in the folder, and cannot be made durable: it is
		// removed again. In between the keeper works.
		once := false
		d.failing(func(op, name string) error {
			if op == "syncdir" && !once {
				once = true
				same(t, len(segments(t, dir)), 2)
				keepNow(t, l)
				return syscall.EIO
			}
			return nil
		})
		mustNote(t, l, "a")
		d.failing(nil)
		same(t, segments(t, dir), []string{pieceName(0, 0)})
		same(t, notes(t, dir), []string{"a"})
	})
	t.Run("once a head is signed that counts more", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		opts.SegmentSize = 1
		l := open(t, dir, opts)
		l.signing.Store(&headState{size: 1})
		mustNote(t, l, "a")
		k := keeperOf(l)
		k.round()
		if s := l.signing.Load(); s.size <= 1 && (!k.waits || len(must2(filepath.Glob(filepath.Join(dir, "*"+packedEnd)))) > 0) {
			t.Error("it is packed, though the file of heads may be written to")
		}
	})
	t.Run("by the goroutine that Open starts, and current.jsonl points to the newest", func(t *testing.T) {
		dir, opts := t.TempDir(), withKey(t)
		opts.SegmentSize, opts.Bastion = 1, "b"
		l := must2(Open(dir, opts))
		defer l.Close()
		same(t, must2(os.Readlink(filepath.Join(dir, currentFile))), pieceName(0, 0))
		mustNote(t, l, "a", "b")
		until(t, func() bool {
			return slices.Equal(segments(t, dir), []string{stem(0, 0) + packedEnd, stem(1, 0) + packedEnd, stem(2, 0) + plainEnd})
		})
		until(t, func() bool { return must2(os.Readlink(filepath.Join(dir, currentFile))) == pieceName(2, 0) })
		same(t, notes(t, dir), []string{"a", "b"})
	})
}

func TestClosingBreaksPackingOff(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{SegmentSize: 1})
	mustNote(t, l, "a")
	try(t, l.Close())
	reached := make(chan struct{})
	var l2 *Log
	d.failing(func(op, name string) error {
		if op == "write" && strings.HasSuffix(name, tmpEnd) {
			close(reached)
			<-l2.life.Done()
		}
		return nil
	})
	l2 = must2(Open(dir, Options{Bastion: "b", disk: d, still: true}))
	l2.kept = make(chan struct{})
	go keeperOf(l2).run()
	<-reached
	try(t, l2.Close())
	for _, name := range names(t, dir) {
		if strings.HasSuffix(name, tmpEnd) || strings.HasSuffix(name, packedEnd) {
			t.Errorf("%s is left", name)
		}
	}
	same(t, notes(t, dir), []string{"a"})
}

func TestAKeeperThatDoesNotStopKeepsTheLock(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		return
	}
	dir := t.TempDir()
	l := must2(Open(dir, Options{Bastion: "b", still: true}))
	l.kept = make(chan struct{})
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "did not stop") {
		t.Error(err)
	}
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("the folder was let go of")
	}
	l.lock.Close()
}

func TestHeadsAreThinned(t *testing.T) {
	opts := withKey(t)
	var text []byte
	var all [][]byte
	for i := range 200 {
		head := must2(tree.Head{Size: uint64(i + 1), Time: at.Add(time.Duration(i) * time.Second)}.Sign(opts.Signer))
		all = append(all, head)
		text = append(append(text, head...), '\n')
		if i == 70 {
			text = append(text, head[:40]...) // half a one
		}
	}
	dir := t.TempDir()
	l := open(t, dir, opts)
	mustNote(t, l, "a")
	try(t, l.Close())
	l = open(t, dir, opts)
	path := filepath.Join(dir, stem(0, 0)+headsEnd)
	try(t, os.WriteFile(path, text, 0o600))
	until(t, func() bool { s := l.signing.Load(); return s != nil && s.size > 2 })
	keepNow(t, l)
	var sizes []uint64
	for _, text := range must2(headsOf(path)) {
		sizes = append(sizes, must2(tree.OpenHead(text, opts.Verifier)).Size)
	}
	same(t, sizes, []uint64{57, 117, 177, 200}) // at 01:02:59, 01:03:59, …
	same(t, len(thinned(all[:1])), 1)
	same(t, len(thinned(nil)), 0)
}

// faults runs the keeper again and again, of which each time one operation more
// succeeds before all fail, as in a crash; and once with only that operation
// failing. Each time the log reads the same, and after it is opened again and
// the keeper has come to an end, too.
func faults(t *testing.T, opts Options, make func(t *testing.T) string, check func(t *testing.T, dir string)) {
	t.Helper()
	opts.headPause = time.Millisecond
	start := make(t)
	for _, crashing := range []bool{false, true} {
		if crashing && opts.Signer == nil {
			break // what is done without a key is a part of what is done with one
		}
		first := 0
		if crashing {
			first = 1
		}
		for n := first; ; n += 2 { // of two operations in a row, one fails alone and one with all after it
			dir := filepath.Join(t.TempDir(), "log")
			try(t, os.CopyFS(dir, os.DirFS(start)))
			d := &testDisk{}
			o := opts
			o.disk = d
			l := open(t, dir, o)
			mustNote(t, l, "on")
			if opts.Signer != nil {
				until(t, func() bool { s := l.signing.Load(); return s != nil && s.size == l.next })
			}
			count := 0
			d.failing(func(op, name string) error {
				if isWriter(name, l) {
					return nil
				}
				if count++; count == n+1 || crashing && count > n {
					return syscall.EIO
				}
				return nil
			})
			k := keeperOf(l)
			k.clean()
			k.round()
			reached := count > n
			if crashing {
				dir = crash(t, dir)
			} else {
				d.failing(nil)
				try(t, k.round())
			}
			check(t, dir)
			l.Close()
			l = open(t, dir, opts)
			check(t, dir)
			if opts.Signer != nil {
				until(t, func() bool { s := l.signing.Load(); return s != nil && s.size == l.next })
			}
			keepNow(t, l)
			check(t, dir)
			for _, name := range names(t, dir) {
				if strings.HasSuffix(name, tmpEnd) {
					t.Errorf("%d: %s is left", n, name)
				}
			}
			l.Close()
			if !reached {
				if n < 10 {
					t.Errorf("only %d operations", n)
				}
				break
			}
			if t.Failed() {
				t.Fatalf("operation %d, crashing %v", n, crashing)
			}
		}
	}
}

// isWriter tells the files of the writer, which has its own tests.
func isWriter(name string, l *Log) bool {
	return name == l.newest()+plainEnd || name == l.newest()+headsEnd
}

func TestNoFaultOfPackingLosesARecord(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{{}, withKey(t)} {
		faults(t, opts, func(t *testing.T) string {
			dir := t.TempDir()
			for _, s := range []string{"a", "b"} {
				l := open(t, dir, opts)
				mustNote(t, l, s)
				try(t, l.Close())
			}
			tear(t, dir, stem(0, 0)+packedEnd+tmpEnd, "half")
			tear(t, dir, stem(0, 0)+indexEnd+tmpEnd, "half")
			tear(t, dir, stem(0, 0)+packedEnd, "half")
			return dir
		}, func(t *testing.T, dir string) {
			t.Helper()
			same(t, notes(t, dir), []string{"a", "b", "on"})
		})
	}
}

func TestAFullDiskPutsPackingOff(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	var told []string
	l := open(t, dir, Options{SegmentSize: 1, disk: d, Warn: func(text string, fields map[string]any) { told = append(told, fmt.Sprint(fields["error"])) }})
	mustNote(t, l, "a", "b")
	tries := 0
	d.failing(func(op, name string) error {
		if op == "write" && strings.HasSuffix(name, tmpEnd) {
			tries++
			return syscall.ENOSPC
		}
		return nil
	})
	k := keeperOf(l)
	if err := k.round(); err == nil || tries != 1 {
		t.Errorf("%d tries: %v", tries, err)
	}
	same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0), pieceName(2, 0)})
	same(t, len(must2(filepath.Glob(filepath.Join(dir, "*"+tmpEnd)))), 0)
	mustNote(t, l, "c")
	d.failing(nil)
	try(t, k.round())
	same(t, notes(t, dir), []string{"a", "b", "c"})
	same(t, len(must2(filepath.Glob(filepath.Join(dir, "*"+packedEnd)))), 3)
}

// What was listed as plain may be packed when it comes to be read.
func TestASegmentIsPackedWhileItIsRead(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentSize: 1})
	mustNote(t, l, "a", "b")
	listed := must2(Segments(dir))
	keepNow(t, l)
	n := 0
	for _, s := range listed {
		r := must2(s.Open())
		n += strings.Count(string(must2(io.ReadAll(r))), "\n")
		r.Close()
	}
	same(t, n, 3)
	all := must2(list(dir))
	all[0].path, all[0].packed = strings.TrimSuffix(all[0].path, packedEnd)+plainEnd, false
	e, err := all[0].scan(func([]byte, Record) error { return nil })
	try(t, err)
	same(t, e.next, 1)
}

func BenchmarkPack(b *testing.B) {
	dir, opts := b.TempDir(), Options{}
	l := must2(Open(dir, Options{Bastion: "b", still: true}))
	for i := range 20_000 {
		r := opened(fmt.Sprint("f", i))
		l.begin()
		l.add(0, r.appendBody(nil))
		if i%1000 != 0 {
			// as the writer does, but without an fsync
			must2(l.seg.Write(l.buf))
			l.grow(l.seg.stem)
			l.next++
			continue
		}
		if err := l.commit(1); err != nil {
			b.Fatal(err)
		}
	}
	l.Close()
	path := filepath.Join(dir, pieceName(0, 0))
	text := must2(os.ReadFile(path))
	_ = opts
	k := &keeper{log: newLog(dir, Options{}, l.lock), ctx: context.Background(), hurry: true, pieces: map[string]*Index{}}
	p := piece{path: path, limit: l.next}
	tmp := filepath.Join(dir, "tmp")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		x, err := k.compress(p, tmp)
		if err == nil {
			err = k.compare(p, tmp, x)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(text))/float64(must2(os.Stat(tmp)).Size()), "times-smaller")
}
