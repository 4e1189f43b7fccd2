package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A testDisk counts, and fails when told to.
type testDisk struct {
	osDisk
	writes, syncs atomic.Int64
	fail          atomic.Pointer[func(op, name string) error]
}

// failing sets what comes before every operation: "open", "write" (half of it
// is done), "sync", "truncate", "remove", "rename" (by the new
// name), "symlink", "syncdir".
func (d *testDisk) failing(f func(op, name string) error) { d.fail.Store(&f) }

func (d *testDisk) check(op, name string) error {
	if f := d.fail.Load(); f != nil && *f != nil {
		if err := (*f)(op, filepath.Base(name)); err != nil {
			return &os.PathError{Op: op, Path: name, Err: err}
		}
	}
	return nil
}

func (d *testDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	if err := d.check("open", name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &testFile{f, d}, nil
}

func (d *testDisk) Remove(name string) error {
	if err := d.check("remove", name); err != nil {
		return err
	}
	return os.Remove(name)
}

func (d *testDisk) Rename(from, to string) error {
	if err := d.check("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (d *testDisk) Symlink(to, name string) error {
	if err := d.check("symlink", name); err != nil {
		return err
	}
	return os.Symlink(to, name)
}

func (d *testDisk) SyncDir(name string) error {
	if err := d.check("syncdir", name); err != nil {
		return err
	}
	return d.osDisk.SyncDir(name)
}

type testFile struct {
	*os.File
	d *testDisk
}

func (f *testFile) Write(b []byte) (int, error) {
	f.d.writes.Add(1)
	if err := f.d.check("write", f.Name()); err != nil {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, err
	}
	return f.File.Write(b)
}

func (f *testFile) Sync() error {
	f.d.syncs.Add(1)
	if err := f.d.check("sync", f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *testFile) Truncate(n int64) error {
	if err := f.d.check("truncate", f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(n)
}

func open(t testing.TB, dir string, opts Options) *Log {
	t.Helper()
	opts.Bastion, opts.still = "b", true
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func jot(l *Log, detail string) error {
	return l.Append(context.Background(), Record{Type: PolicyLoad, Detail: detail})
}

func mustNote(t testing.TB, l *Log, details ...string) {
	t.Helper()
	for _, s := range details {
		if err := jot(l, s); err != nil {
			t.Fatal(err)
		}
	}
}

// read also proves that seq has no gap.
func read(t testing.TB, dir string) []Record {
	t.Helper()
	var all []Record
	err := Read(dir, func(r Record) error {
		if r.Seq != uint64(len(all)) {
			t.Errorf("record %d has seq %d", len(all), r.Seq)
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// notes are the details of the records of note.
func notes(t testing.TB, dir string) []string {
	t.Helper()
	var s []string
	for _, r := range read(t, dir) {
		if r.Type == PolicyLoad {
			s = append(s, r.Detail)
		}
	}
	return s
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	all, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range all {
		names = append(names, filepath.Base(p.path))
	}
	return names
}

func same[T any](t testing.TB, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestAppendFillsInWhatTheLogKnows(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, dir, Options{})
	rec := opened("f1")
	if err := l.Append(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	all := read(t, dir)
	if len(all) != 2 || all[0].Type != ServerStart {
		t.Fatalf("got %v", all)
	}
	got := all[1]
	if got.Seq != 1 || got.Run != l.Run() || got.Bastion != "b" || time.Since(got.Time) > time.Minute {
		t.Errorf("got %+v", got)
	}
	rec.Seq, rec.Run, rec.Bastion, rec.Time = got.Seq, got.Run, got.Bastion, got.Time
	same(t, got, rec)

	for name, mode := range map[string]os.FileMode{".": 0o700, "lock": 0o600, pieceName(0, 0): 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestAThousandAtOnceShareFsyncs(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{disk: d})
	const n = 1000
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := jot(l, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := notes(t, dir)
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != n {
		t.Errorf("%d of %d are in the log", len(got), n)
	}
	if s := d.syncs.Load(); s >= n/2 || s != d.writes.Load() {
		t.Errorf("%d fsyncs and %d writes for %d records", s, d.writes.Load(), n)
	}
}

func TestOneGoroutineKeepsItsOrder(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				mustNote(t, l, fmt.Sprintf("%d %02d", g, i))
			}
		})
	}
	wg.Wait()
	last := map[string]string{}
	for _, s := range notes(t, dir) {
		g, _, _ := strings.Cut(s, " ")
		if s <= last[g] {
			t.Errorf("%q after %q", s, last[g])
		}
		last[g] = s
	}
}

func TestTheQueueIsFIFO(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{disk: d})
	let := block(t, d)
	var wg sync.WaitGroup
	var want []string
	for i := range 50 {
		wg.Go(func() { mustNote(t, l, fmt.Sprint(i)) })
		want = append(want, fmt.Sprint(i))
		until(t, func() bool { return d.syncs.Load() == 2 && len(l.queue) == i })
	}
	let()
	wg.Wait()
	same(t, notes(t, dir), want)
	if n := d.syncs.Load(); n != 3 {
		t.Errorf("%d fsyncs for the start, one record and 49 that waited", n)
	}
}

func TestARecordThatIsStartedIsWaitedForBySomebodyElse(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{disk: d})
	rec := func(detail string) Record { return Record{Type: PolicyLoad, Detail: detail} }

	p := l.Start(rec("soon"))
	if done, err := p.WaitFor(time.Minute); !done || err != nil {
		t.Fatalf("%v, %v", done, err)
	}
	let := block(t, d)
	late := l.Start(rec("late"))
	until(t, func() bool { return d.syncs.Load() == 3 })
	withdrawn := l.Start(rec("withdrawn"))
	for range 2 {
		if done, err := late.WaitFor(time.Millisecond); done || err != nil {
			t.Fatalf("%v, %v", done, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := withdrawn.Wait(ctx); err == nil || errors.Is(err, ErrInFlight) {
		t.Errorf("withdrawn: %v", err)
	}
	for range maxQueue {
		if l.Start(rec("more")) == nil {
			break
		}
	}
	if l.Start(rec("too many")) != nil {
		t.Error("a full queue takes a record")
	}
	let()
	if err := late.Wait(context.Background()); err != nil {
		t.Error(err)
	}
	try(t, l.Close())
	if l.Start(rec("after the end")) != nil {
		t.Error("a closed log takes a record")
	}
	got := notes(t, dir)
	if len(got) < 2 || got[0] != "soon" || got[1] != "late" || slices.Contains(got, "withdrawn") {
		t.Errorf("%d records, the first %q", len(got), got[:min(len(got), 2)])
	}
}

func TestTheEndOfAForwardWaitsForCompany(t *testing.T) {
	end := Record{Type: ForwardClose, Forward: "f1"}
	for name, c := range map[string]struct {
		then  func(l *Log) error // what comes after the end was handed in
		waits time.Duration
	}{
		"nobody comes":       {func(*Log) error { return nil }, company},
		"somebody who waits": {func(l *Log) error { return jot(l, "open") }, 0},
		"as many as there is room for": {func(l *Log) error {
			for range maxCompany - 1 {
				l.Start(end)
			}
			return nil
		}, 0},
		"the log is closed": {func(l *Log) error { return l.Close() }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), &testDisk{}
			synctest.Test(t, func(t *testing.T) {
				l := open(t, dir, Options{disk: d})
				before, began := d.syncs.Load(), time.Now()
				p := l.Start(end)
				synctest.Wait() // until the writer has it
				if n := l.Stats().Waiting; n != 1 {
					t.Errorf("%d records wait", n)
				}
				try(t, c.then(l))
				if err := p.Wait(context.Background()); err != nil {
					t.Error(err)
				}
				if n := d.syncs.Load() - before; n != 1 {
					t.Errorf("%d fsyncs for all", n)
				}
				if waited := time.Since(began); waited != c.waits {
					t.Errorf("it waited for %v, want %v", waited, c.waits)
				}
				l.Close()
			})
		})
	}
}

func TestWhatBecomesOfARecordThatWaitsForCompany(t *testing.T) {
	in := func(name string, f func(t *testing.T, l *Log, d *testDisk, p *Pending)) {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), &testDisk{}
			synctest.Test(t, func(t *testing.T) {
				l := open(t, dir, Options{disk: d})
				p := l.Start(Record{Type: ConnClose, Conn: "c1", Detail: "the end"})
				synctest.Wait() // until the writer has it
				f(t, l, d, p)
				l.Close()
			})
		})
	}
	in("the end of a connection waits, too", func(t *testing.T, l *Log, _ *testDisk, p *Pending) {
		began := time.Now()
		if err := p.Wait(t.Context()); err != nil || time.Since(began) != company {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	in("one that is withdrawn meanwhile is not written", func(t *testing.T, l *Log, d *testDisk, p *Pending) {
		writes := d.writes.Load()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Wait(ctx); err == nil || errors.Is(err, ErrInFlight) {
			t.Errorf("withdrawn: %v", err)
		}
		time.Sleep(2 * company)
		if n, w := l.Stats().Waiting, d.writes.Load()-writes; n != 0 || w != 0 {
			t.Errorf("%d records wait, %d writes", n, w)
		}
		try(t, jot(l, "the next"))
	})
	in("one whose disk fails is told so", func(t *testing.T, l *Log, d *testDisk, p *Pending) {
		d.failing(func(op, _ string) error {
			if op == "sync" {
				return syscall.EIO
			}
			return nil
		})
		if err := p.Wait(t.Context()); !errors.Is(err, syscall.EIO) {
			t.Error(err)
		}
		if err := jot(l, "company"); err == nil {
			t.Error("a record is written to a disk that fails")
		}
		d.failing(nil)
	})
}

// block lets every fsync wait until let is called.
func block(t testing.TB, d *testDisk) (let func()) {
	open := make(chan struct{})
	let = sync.OnceFunc(func() { close(open) })
	t.Cleanup(let) // before Close, which waits for the disk
	d.failing(func(op, _ string) error {
		if op == "sync" {
			<-open
		}
		return nil
	})
	return let
}

func until(t testing.TB, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not come to that")
}

func TestSegmentsRotate(t *testing.T) {
	t.Run("when the next batch would pass the size", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1000})
		for i := range 20 {
			mustNote(t, l, fmt.Sprint(i))
		}
		names := segments(t, dir)
		if len(names) < 3 {
			t.Fatalf("only %v", names)
		}
		for _, name := range names {
			if info, _ := os.Stat(filepath.Join(dir, name)); info.Size() > 1000 {
				t.Errorf("%s has %d bytes", name, info.Size())
			}
		}
		same(t, len(notes(t, dir)), 20)
	})
	t.Run("a record larger than a segment still finds a place", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a", "b")
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0), pieceName(2, 0)})
		same(t, notes(t, dir), []string{"a", "b"})
	})
	t.Run("when a day has passed", func(t *testing.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			l := open(t, dir, Options{})
			time.Sleep(23 * time.Hour)
			mustNote(t, l, "a")
			time.Sleep(time.Hour)
			mustNote(t, l, "b", "c")
			l.Close()
		})
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
		same(t, notes(t, dir), []string{"a", "b", "c"})
	})
	t.Run("the old one serves on while no new one can be made", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{SegmentSize: 1, disk: d})
		d.failing(func(op, _ string) error {
			if op == "open" {
				return syscall.EMFILE
			}
			return nil
		})
		mustNote(t, l, "a", "b")
		d.failing(nil)
		mustNote(t, l, "c")
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(3, 0)})
		same(t, notes(t, dir), []string{"a", "b", "c"})
	})
	t.Run("but not behind a new one that may be there", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{SegmentSize: 1, disk: d})
		failed := false
		d.failing(func(op, _ string) error {
			if op == "syncdir" && !failed || op == "remove" {
				failed = true
				return syscall.EIO
			}
			return nil
		})
		mustNote(t, l, "a")
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0), pieceName(1, 1)})
		same(t, notes(t, dir), []string{"a"})
	})
}

func TestTimeNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	now := at
	set := func(t time.Time) { mu.Lock(); now = t; mu.Unlock() }
	opts := Options{now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}
	l := open(t, dir, opts)
	set(at.Add(-time.Hour))
	mustNote(t, l, "a")
	set(at.Add(time.Hour))
	mustNote(t, l, "b")
	l.Close()
	set(at)
	l = open(t, dir, opts)
	mustNote(t, l, "c")
	var got []time.Duration
	for _, r := range read(t, dir) {
		got = append(got, r.Time.Sub(at))
	}
	same(t, got, []time.Duration{0, 0, time.Hour, time.Hour, time.Hour})
}

func TestClose(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{disk: d})
	let := block(t, d)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { mustNote(t, l, "a") })
		until(t, func() bool { return d.syncs.Load() == 2 && len(l.queue) == i })
	}
	wg.Go(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	<-l.closing
	if err := jot(l, "late"); err != ErrClosed {
		t.Errorf("while closing: %v", err)
	}
	let()
	wg.Wait()
	if err := jot(l, "late"); err != ErrClosed {
		t.Errorf("after closing: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	same(t, len(notes(t, dir)), 10)
	open(t, dir, Options{})
}

func TestCloseAnswersEveryAppend(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		var wg sync.WaitGroup
		var done atomic.Int64
		for range 50 {
			wg.Go(func() {
				for {
					if err := jot(l, "a"); err == ErrClosed {
						return
					} else if err != nil {
						t.Error(err)
					}
					done.Add(1)
				}
			})
		}
		until(t, func() bool { return done.Load() > 50 })
		l.Close()
		wg.Wait()
		same(t, int64(len(notes(t, dir))), done.Load())
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("the second Open: %v", err)
	}
	l.Close()

	// Another process has it, and dies with it.
	cmd, out := child(t, dir)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", cmd.Process.Pid)) {
		t.Errorf("Open while another process writes: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	open(t, dir, Options{})
}

var errNoMore = errors.New("the client has gone")

func TestContext(t *testing.T) {
	t.Run("one that has ended is told before anything is done", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Append(ctx, Record{Type: PolicyLoad}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrInFlight) {
			t.Error(err)
		}
		same(t, len(notes(t, dir)), 0)
	})
	t.Run("a record that waits is withdrawn, one that is written is in flight", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		let := block(t, d)
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error)
		go func() { errs <- l.Append(ctx, Record{Type: PolicyLoad, Detail: "in flight"}) }()
		until(t, func() bool { return d.syncs.Load() == 2 })
		cancel(errNoMore)
		err := <-errs
		if !errors.Is(err, ErrInFlight) || !errors.Is(err, errNoMore) || !errors.Is(err, context.Canceled) {
			t.Errorf("in flight: %v", err)
		}

		short, cancel2 := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel2()
		err = l.Append(short, Record{Type: PolicyLoad, Detail: "withdrawn"})
		if errors.Is(err, ErrInFlight) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("withdrawn: %v", err)
		}
		let()
		mustNote(t, l, "after")
		same(t, notes(t, dir), []string{"in flight", "after"})
	})
	t.Run("waiting for room ends too", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		let := block(t, d)
		var wg sync.WaitGroup
		wg.Go(func() { mustNote(t, l, "a") })
		until(t, func() bool { return d.syncs.Load() == 2 })
		for range maxQueue {
			wg.Go(func() { mustNote(t, l, "a") })
		}
		until(t, func() bool { return len(l.queue) == maxQueue })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if err := l.Append(ctx, Record{Type: PolicyLoad, Detail: "b"}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrInFlight) {
			t.Error(err)
		}
		let()
		wg.Wait()
		same(t, len(notes(t, dir)), maxQueue+1)
	})
}

// TestWithdrawing lets records be withdrawn at every moment, and proves that no
// answer is that of another record.
func TestWithdrawing(t *testing.T) {
	dir, d := t.TempDir(), &testDisk{}
	l := open(t, dir, Options{disk: d})
	var n atomic.Uint64
	d.failing(func(op, name string) error {
		if op != "sync" {
			return nil
		}
		time.Sleep(time.Millisecond)
		if n.Add(1)%7 == 0 && !strings.HasSuffix(name, headsEnd) {
			return syscall.EIO
		}
		return nil
	})
	answers := make([]map[string]error, 16)
	var wg sync.WaitGroup
	for g := range answers {
		answers[g] = map[string]error{}
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((g*200+i)*7919%3000)*time.Microsecond)
				s := fmt.Sprint(g, ".", i)
				answers[g][s] = l.Append(ctx, Record{Type: PolicyLoad, Detail: s})
				cancel()
			}
		})
	}
	wg.Wait()
	try(t, l.Close())
	times := map[string]int{}
	for _, s := range notes(t, dir) {
		times[s]++
	}
	yes, no, open := 0, 0, 0
	for _, of := range answers {
		for s, err := range of {
			switch {
			case err == nil:
				yes++
				same(t, times[s], 1)
			case errors.Is(err, ErrInFlight):
				open++
				if times[s] > 1 {
					t.Errorf("%s is %d times in the log", s, times[s])
				}
			default:
				no++
				same(t, times[s], 0)
			}
		}
	}
	if yes == 0 || no == 0 || open == 0 {
		t.Errorf("%d acknowledged, %d withdrawn, %d in flight: not all of it was tried", yes, no, open)
	}
}

func TestAfterAFailure(t *testing.T) {
	// once fails the first operation of that kind on a file that is no folder.
	once := func(d *testDisk, op string, err error, also ...string) {
		var done atomic.Bool
		d.failing(func(o, name string) error {
			if o == op && done.CompareAndSwap(false, true) || done.Load() && slices.Contains(also, o) {
				return err
			}
			return nil
		})
	}
	for _, tt := range []struct {
		name string
		op   string
		also []string
	}{
		{"of an fsync the records go to a new segment", "sync", nil},
		{"of a write the records go to a new segment", "write", nil},
		{"of an fsync that cannot be taken back what is left is void", "sync", []string{"truncate"}},
		{"of a write that cannot be taken back what is left is void", "write", []string{"truncate", "remove"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, d := t.TempDir(), &testDisk{}
			l := open(t, dir, Options{disk: d})
			mustNote(t, l, "a")
			broken := l.seg
			once(d, tt.op, syscall.EIO, tt.also...)
			mustNote(t, l, "b", "c")
			same(t, notes(t, dir), []string{"a", "b", "c"})
			same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
			if err := broken.Sync(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the descriptor is still open: %v", err)
			}
			old, err := os.ReadFile(filepath.Join(dir, pieceName(0, 0)))
			if err != nil {
				t.Fatal(err)
			}
			// What is void is cut by the next Open.
			if left := strings.Contains(string(old), `"seq":2`); left != (tt.also != nil) {
				t.Errorf("the broken segment holds\n%s", old)
			}
			l.Close()
			d.failing(nil)
			l = open(t, dir, Options{disk: d})
			if got := l.Recovered(); got.Cut > 0 != (tt.also != nil) || got.Lost > 0 {
				t.Errorf("recovered %+v", got)
			}
			mustNote(t, l, "d")
			same(t, notes(t, dir), []string{"a", "b", "c", "d"})
		})
	}

	t.Run("of the first batch of a segment that cannot be removed, a higher suffix wins", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d, SegmentSize: 1})
		once(d, "sync", syscall.EIO, "truncate", "remove")
		mustNote(t, l, "a", "b")
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0), pieceName(1, 1), pieceName(2, 0)})
		same(t, notes(t, dir), []string{"a", "b"})
		l.Close()
		d.failing(nil)
		mustNote(t, open(t, dir, Options{}), "c")
		same(t, notes(t, dir), []string{"a", "b", "c"})
	})

	t.Run("a full disk refuses, says so, and is recovered from without a hand", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		mustNote(t, l, "a")
		d.failing(func(op, _ string) error {
			if op == "write" {
				return syscall.ENOSPC
			}
			return nil
		})
		err := jot(l, "refused")
		for _, want := range []string{"write", pieceName(0, 0), pieceName(2, 0), syscall.ENOSPC.Error()} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrInFlight) {
			t.Errorf("%v", err)
		}
		writes := d.writes.Load()
		for range 10 {
			if err := jot(l, "refused"); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrInFlight) {
				t.Errorf("%v", err)
			}
		}
		if n := d.writes.Load() - writes; n > 1 {
			t.Errorf("%d writes in no time", n)
		}
		time.Sleep(retryPause + 10*time.Millisecond)
		if err := jot(l, "refused"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
		d.failing(nil)
		until(t, func() bool { return jot(l, "b") == nil })
		same(t, notes(t, dir), []string{"a", "b"})
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
	})

	t.Run("that cannot be taken back, the record is in flight", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		mustNote(t, l, "a")
		d.failing(func(op, _ string) error { return syscall.EIO })
		if err := jot(l, "in flight"); !errors.Is(err, ErrInFlight) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%v", err)
		}
		if err := jot(l, "refused"); errors.Is(err, ErrInFlight) || !errors.Is(err, syscall.EIO) {
			t.Errorf("the next, which was not written: %v", err)
		}
		l.Close()
	})

	t.Run("of the start, Open fails and leaves nothing behind", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		mustNote(t, open(t, dir, Options{}), "a")
		tear(t, dir, pieceName(0, 0), "{")
		dir = crash(t, dir)
		before := folder(t, dir)
		d.failing(func(op, name string) error {
			if op == "write" && strings.HasSuffix(name, ".jsonl") {
				return syscall.ENOSPC
			}
			return nil
		})
		if _, err := Open(dir, Options{disk: d}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
		same(t, folder(t, dir), before)
		d.failing(nil)
		same(t, open(t, dir, Options{}).Recovered().Cut, 1)
	})
}

// TestRandomFailures lets one operation in some fail, and proves what Append
// promises: what it acknowledged is in the log, what it refused is not.
func TestRandomFailures(t *testing.T) {
	for seed := range uint64(8) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d, SegmentSize: 2000, now: ticking()})
		var n atomic.Uint64
		n.Store(seed)
		d.failing(func(op, _ string) error {
			if n.Add(1)*2654435761%(1<<32) < 1<<32/6 {
				return syscall.EIO
			}
			return nil
		})
		var mu sync.Mutex
		var yes, no []string
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 30 {
					s := fmt.Sprint(g, ".", i)
					err := jot(l, s)
					mu.Lock()
					if err == nil {
						yes = append(yes, s)
					} else if !errors.Is(err, ErrInFlight) {
						no = append(no, s)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for range 2 {
			got := notes(t, dir)
			for _, s := range yes {
				if i := slices.Index(got, s); i < 0 || slices.Contains(got[i+1:], s) {
					t.Fatalf("seed %d: %s was acknowledged and is not once in the log", seed, s)
				}
			}
			for _, s := range no {
				if slices.Contains(got, s) {
					t.Fatalf("seed %d: %s was refused and is in the log", seed, s)
				}
			}
			l.Close()
			d.failing(nil)
			l = open(t, dir, Options{disk: d})
		}
	}
}

// ticking is a clock on which no pause is long.
func ticking() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return at.Add(time.Duration(n.Add(1)) * time.Second) }
}

// tear appends to a file of the log what a crash may leave.
func tear(t testing.TB, dir, name, tail string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(tail); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// crash returns a copy of the log as it is on disk now, with no writer.
func crash(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// folder is what dir holds, the lock aside.
func folder(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "lock" {
			all[e.Name()] = string(b)
		}
	}
	return all
}

func pieceName(first uint64, nth int) string { return stem(first, nth) + plainEnd }
