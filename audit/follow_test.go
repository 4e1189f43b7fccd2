package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A followed is a log that is being followed, and what came of it.
type followed struct {
	sync.Mutex
	lines map[uint64]string // the last that was given of each number
	order []uint64
	err   error
	stop  func()
}

func follow(t testing.TB, dir string, from uint64, opts FollowOptions) *followed {
	t.Helper()
	if opts.Poll == 0 {
		opts.Poll = time.Millisecond
	}
	f := &followed{lines: map[uint64]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := Follow(ctx, dir, from, opts, func(line []byte, rec Record) error {
			f.Lock()
			defer f.Unlock()
			f.lines[rec.Seq] = string(line)
			f.order = append(f.order, rec.Seq)
			return nil
		})
		f.Lock()
		f.err = err
		f.Unlock()
	}()
	f.stop = func() { cancel(); <-done }
	t.Cleanup(f.stop)
	return f
}

func (f *followed) ended() error {
	f.Lock()
	defer f.Unlock()
	return f.err
}

func (f *followed) seen() []uint64 {
	f.Lock()
	defer f.Unlock()
	return slices.Clone(f.order)
}

// comesTo waits until the last record given is that before next.
func (f *followed) comesTo(t testing.TB, next uint64) {
	t.Helper()
	for range 5000 {
		if seen := f.seen(); len(seen) > 0 && seen[len(seen)-1] == next-1 {
			return
		}
		if err := f.ended(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("it came to %v and not to %d", f.seen(), next)
}

func upTo(from, next uint64) (all []uint64) {
	for ; from < next; from++ {
		all = append(all, from)
	}
	return all
}

// texts are the lines of the log by number.
func texts(t testing.TB, dir string) map[uint64]string {
	t.Helper()
	lines := map[uint64]string{}
	all, err := Segments(dir)
	try(t, err)
	for _, s := range all {
		r, err := s.Open()
		try(t, err)
		in := bufio.NewScanner(r)
		in.Buffer(nil, maxLine)
		for in.Scan() {
			if rec, err := ParseRecord(in.Bytes()); err == nil && rec.Seq < s.Limit() {
				lines[rec.Seq] = in.Text()
			}
		}
		try(t, in.Err(), r.Close())
	}
	return lines
}

func TestFollow(t *testing.T) {
	// Each case is followed by a process that shares the writer's memory and by
	// one that does not.
	both := func(t *testing.T, l func() *Log, dir string, from uint64, check func(t *testing.T, f *followed)) {
		check(t, follow(t, dir, from, FollowOptions{Durable: func() uint64 { return l().Durable() }}))
		check(t, follow(t, dir, from, FollowOptions{}))
	}
	t.Run("gives what is there, and then what comes", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a", "b")
		both(t, func() *Log { return l }, dir, 0, func(t *testing.T, f *followed) {
			f.comesTo(t, l.Durable())
			mustNote(t, l, "c")
			f.comesTo(t, l.Durable())
			f.stop()
			same(t, f.seen(), upTo(0, l.Durable()))
			same(t, f.lines, texts(t, dir))
			same(t, f.ended(), context.Canceled)
		})
	})
	t.Run("begins in the middle of a segment, and at one that has not come", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a", "b", "c")
		for _, from := range []uint64{2, 4, 6} {
			both(t, func() *Log { return l }, dir, from, func(t *testing.T, f *followed) {
				mustNote(t, l, "d", "e", "f")
				f.comesTo(t, l.Durable())
				same(t, f.seen(), upTo(from, l.Durable()))
			})
		}
	})
	t.Run("goes on over segments and runs", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 300})
		var now atomic.Pointer[Log]
		now.Store(l)
		both(t, now.Load, dir, 0, func(t *testing.T, f *followed) {
			for range 3 {
				mustNote(t, now.Load(), "a", "b", "c")
				f.comesTo(t, now.Load().Durable())
				try(t, now.Load().Close())
				now.Store(open(t, dir, Options{SegmentSize: 300}))
			}
			f.comesTo(t, now.Load().Durable())
			same(t, f.seen(), upTo(0, now.Load().Durable()))
			same(t, f.lines, texts(t, dir))
		})
	})
	t.Run("reads segments that are packed, before and while it reads them", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a", "b", "c")
		packed(t, filepath.Join(dir, pieceName(1, 0)))
		both(t, func() *Log { return l }, dir, 0, func(t *testing.T, f *followed) {
			f.comesTo(t, l.Durable())
			newest := l.Durable() - 1
			mustNote(t, l, "d", "e")
			packed(t, filepath.Join(dir, pieceName(newest, 0)))
			packed(t, filepath.Join(dir, pieceName(newest+1, 0)))
			f.comesTo(t, l.Durable())
			same(t, f.seen(), upTo(0, l.Durable()))
			same(t, f.lines, texts(t, dir))
		})
	})
	t.Run("tells where the log begins when retention was quicker", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a", "b", "c")
		try(t, os.Remove(filepath.Join(dir, pieceName(0, 0))), os.Remove(filepath.Join(dir, pieceName(1, 0))))
		both(t, func() *Log { return l }, dir, 1, func(t *testing.T, f *followed) {
			until(t, func() bool { return f.ended() != nil })
			var gone *GoneError
			if err := f.ended(); !errors.As(err, &gone) || *gone != (GoneError{From: 1, First: 2}) ||
				err.Error() != "audit: records 1 to 1 are gone: the log begins with record 2" {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("is not hurt when retention takes what it has read", func(t *testing.T) {
		for _, durable := range []bool{true, false} {
			dir := t.TempDir()
			l := open(t, dir, Options{SegmentSize: 1})
			opts := FollowOptions{Durable: l.Durable}
			if !durable {
				opts.Durable = nil
			}
			f := follow(t, dir, 0, opts)
			for range 3 {
				mustNote(t, l, "a", "b", "c")
				f.comesTo(t, l.Durable())
				for _, name := range segments(t, dir) {
					if name != pieceName(l.Durable()-1, 0) {
						try(t, os.Remove(filepath.Join(dir, name)))
					}
				}
			}
			same(t, f.seen(), upTo(0, l.Durable()))
		}
	})
	t.Run("waits for a line that is not finished", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		try(t, l.Close())
		f := follow(t, dir, 0, FollowOptions{})
		f.comesTo(t, 2)
		line := Record{V: Version, Seq: 2, Time: stamp(time.Now()), Bastion: "b", Run: l.Run(), Type: PolicyLoad}.AppendJSON(nil)
		out, err := os.OpenFile(filepath.Join(dir, pieceName(0, 0)), os.O_APPEND|os.O_WRONLY, 0)
		try(t, err)
		for _, b := range append(line, '\n') {
			_, err := out.Write([]byte{b})
			try(t, err)
			time.Sleep(100 * time.Microsecond)
		}
		f.comesTo(t, 3)
		same(t, f.seen(), upTo(0, 3))
		try(t, out.Close())
	})
	t.Run("passes over what a crash left", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		try(t, l.Close())
		out, err := os.OpenFile(filepath.Join(dir, pieceName(0, 0)), os.O_APPEND|os.O_WRONLY, 0)
		try(t, err)
		_, err = out.WriteString(`{"v":1,"seq":2,"time":`)
		try(t, err, out.Close())
		f := follow(t, dir, 0, FollowOptions{})
		f.comesTo(t, 2)
		l = open(t, dir, Options{})
		f.comesTo(t, l.Durable())
		same(t, f.seen(), upTo(0, 4))
	})
	t.Run("never gives what is only written, with Durable", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		f := follow(t, dir, 0, FollowOptions{Durable: l.Durable})
		f.comesTo(t, 1)
		let := block(t, d)
		done := make(chan error, 1)
		go func() { done <- jot(l, "a") }()
		until(t, func() bool { return len(texts(t, dir)) == 2 })
		time.Sleep(20 * time.Millisecond)
		same(t, f.seen(), upTo(0, 1))
		let()
		try(t, <-done)
		f.comesTo(t, 2)
	})
	t.Run("gives the same record once though it moved to another segment", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		mustNote(t, l, "a")
		f := follow(t, dir, 0, FollowOptions{})
		d.failing(func(op, name string) error {
			if op == "sync" && name == pieceName(0, 0) {
				f.comesTo(t, 3)
				return syscall.EIO
			}
			return nil
		})
		mustNote(t, l, "b", "c")
		f.comesTo(t, 4)
		same(t, f.seen(), upTo(0, 4))
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
	})
	t.Run("gives another record under a number that did not count", func(t *testing.T) {
		for _, first := range []bool{false, true} {
			dir, d := t.TempDir(), &testDisk{}
			size := int64(0)
			if first {
				size = 1 // so that what fails is the first batch of its segment, which is removed
			}
			l := open(t, dir, Options{disk: d, SegmentSize: size})
			mustNote(t, l, "a")
			f := follow(t, dir, 0, FollowOptions{})
			d.failing(func(op, name string) error {
				if op == "sync" {
					f.comesTo(t, 3)
					return syscall.EIO
				}
				return nil
			})
			if err := jot(l, "b"); err == nil {
				t.Fatal("no error")
			}
			d.failing(nil)
			until(t, func() bool { return jot(l, "c") == nil })
			f.comesTo(t, 3)
			until(t, func() bool { f.Lock(); defer f.Unlock(); return strings.Contains(f.lines[2], `"c"`) })
			same(t, f.seen(), []uint64{0, 1, 2, 2})
			same(t, f.lines, texts(t, dir))
		}
	})
	t.Run("ends with the folder, and with what fn returns", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		l := open(t, dir, Options{})
		f := follow(t, dir, 0, FollowOptions{})
		f.comesTo(t, 1)
		try(t, os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700))
		until(t, func() bool { return f.ended() != nil })
		if err := f.ended(); !strings.Contains(err.Error(), "is another folder now") && !errors.Is(err, os.ErrNotExist) { // which it is for a moment
			t.Error(err)
		}
		stop := errors.New("enough")
		err := Follow(t.Context(), dir+".old", 0, FollowOptions{Durable: l.Durable}, func([]byte, Record) error { return stop })
		same(t, err, stop)
		if err := Follow(t.Context(), dir+".none", 0, FollowOptions{}, nil); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("looks at once when it is woken", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		wake := make(chan struct{})
		f := follow(t, dir, 0, FollowOptions{Durable: l.Durable, Poll: time.Hour, Wake: wake})
		f.comesTo(t, 1)
		mustNote(t, l, "a")
		wake <- struct{}{}
		f.comesTo(t, 2)
	})
}

func TestFollowTellsDamage(t *testing.T) {
	for name, harm := range map[string]func(lines []string) []string{
		"a line that is no record":       func(l []string) []string { return append(l[:1], "no", l[2]) },
		"a line that is missing":         func(l []string) []string { return append(l[:1], l[2]) },
		"a record of another run":        func(l []string) []string { return append(l[:2], strings.Replace(l[2], `"run":"0`, `"run":"1`, 1)) },
		"records that are cut off":       func(l []string) []string { return l[:1] },
		"a line longer than they can be": func(l []string) []string { return append(l[:1], strings.Repeat("x", 2*maxLine)) },
	} {
		for _, from := range []uint64{0, 2} {
			t.Run(fmt.Sprintf("%s, from %d", name, from), func(t *testing.T) {
				dir := t.TempDir()
				l := open(t, dir, Options{})
				mustNote(t, l, "a", "b")
				path := filepath.Join(dir, pieceName(0, 0))
				b, err := os.ReadFile(path)
				try(t, err, l.Close())
				lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
				try(t, os.WriteFile(path, []byte(strings.Join(harm(lines), "\n")+"\n"), 0o600))
				f := follow(t, dir, from, FollowOptions{Durable: func() uint64 { return 3 }})
				until(t, func() bool { return f.ended() != nil })
				if err := f.ended(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "record ") {
					t.Error(err)
				}
			})
		}
	}
}

// FuzzFollow lets a writer append, rotate, fail, end and start again, and
// segments be packed, while two follow it.
func FuzzFollow(f *testing.F) {
	for _, seed := range []uint64{1, 2, 3, 4, 66} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		dir, d := t.TempDir(), &testDisk{}
		opts := Options{Bastion: "b", SegmentSize: 200 + rnd.Int64N(2000), disk: d, still: true}
		var now atomic.Pointer[Log]
		start := func() {
			l, err := Open(dir, opts)
			try(t, err)
			now.Store(l)
		}
		start()
		defer func() { now.Load().Close() }()
		exact := follow(t, dir, 0, FollowOptions{Durable: func() uint64 { return now.Load().Durable() }})
		from := follow(t, dir, 3, FollowOptions{Durable: func() uint64 { return now.Load().Durable() }})
		loose := follow(t, dir, 0, FollowOptions{})

		for range 60 {
			switch rnd.IntN(8) {
			case 0: // one operation fails, or a few
				n := atomic.Int64{}
				n.Store(1 + rnd.Int64N(3))
				ops := []string{"write", "sync", "truncate", "open", "syncdir", "remove"}
				one, two := ops[rnd.IntN(len(ops))], ops[rnd.IntN(len(ops))]
				d.failing(func(op, _ string) error {
					if (op == one || op == two) && n.Add(-1) >= 0 {
						return syscall.EIO
					}
					return nil
				})
			case 1:
				d.failing(nil)
				try(t, now.Load().Close())
				start()
			case 2:
				if all := segments(t, dir); len(all) > 2 {
					name := all[rnd.IntN(len(all)-1)]
					if p, _ := parsePieceName(name); !p.packed && p.nth == 0 && whole(t, dir, name) {
						packed(t, filepath.Join(dir, name))
					}
				}
			case 3:
				time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
			default:
				var many sync.WaitGroup
				for range 1 + rnd.IntN(6) {
					text := fmt.Sprint(rnd.Uint64())
					many.Go(func() { jot(now.Load(), text) }) // which may fail
				}
				many.Wait()
			}
		}
		d.failing(nil)
		until(t, func() bool { return jot(now.Load(), "last") == nil })
		end := now.Load().Durable()
		exact.comesTo(t, end)
		from.comesTo(t, end)
		want := texts(t, dir)
		until(t, func() bool { loose.Lock(); defer loose.Unlock(); return loose.lines[end-1] == want[end-1] })
		exact.stop()
		from.stop()
		loose.stop()
		same(t, exact.order, upTo(0, end))
		same(t, exact.lines, want)
		for seq := range loose.lines {
			if seq >= end { // it did not count, and nothing has come in its place yet
				delete(loose.lines, seq)
			}
		}
		same(t, loose.lines, want)
		same(t, from.order, upTo(3, end))
	})
}

// whole reports whether the segment holds its records and nothing else, so
// that it may be packed.
func whole(t testing.TB, dir, name string) bool {
	all, err := list(dir)
	try(t, err)
	for _, p := range all {
		if filepath.Base(p.path) == name && !p.void() && p.limit != noLimit {
			e, err := p.scan(func([]byte, Record) error { return nil })
			return err == nil && e.next == p.limit && e.size == e.end
		}
	}
	return false
}
