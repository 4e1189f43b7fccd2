package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// refused proves that nothing is taken, and that the error names the lock.
func refused(t testing.TB, l *Log, dir string) {
	t.Helper()
	for range 2 {
		err := jot(l, "refused")
		if err == nil || errors.Is(err, ErrInFlight) || !strings.Contains(err.Error(), filepath.Join(dir, "lock")+" is gone or another's") {
			t.Fatalf("Append: %v", err)
		}
	}
}

func try(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestTheFolderIsGone(t *testing.T) {
	t.Run("removed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "log")
		l := open(t, dir, Options{})
		mustNote(t, l, "a")
		try(t, os.RemoveAll(dir))
		refused(t, l, dir)
		// Making it again does not help.
		try(t, os.Mkdir(dir, 0o700))
		refused(t, l, dir)
		try(t, os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600))
		refused(t, l, dir)
		same(t, folder(t, dir), map[string]string{})
		try(t, l.Close())
	})

	t.Run("renamed, with another log in its place, and back", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "log")
		l := open(t, dir, Options{SegmentSize: 1})
		mustNote(t, l, "a")
		try(t, os.Rename(dir, dir+".old"))
		refused(t, l, dir)
		old := folder(t, dir+".old")
		l2 := open(t, dir, Options{})
		mustNote(t, l2, "x")
		refused(t, l, dir)
		mustNote(t, l2, "y")
		same(t, notes(t, dir), []string{"x", "y"})
		same(t, segments(t, dir), []string{pieceName(0, 0)})
		same(t, folder(t, dir+".old"), old)

		try(t, os.Rename(dir, dir+".new"), os.Rename(dir+".old", dir))
		mustNote(t, l, "b")
		same(t, notes(t, dir), []string{"a", "b"})
		refused(t, l2, dir)
	})
}

func TestTheLockIsGone(t *testing.T) {
	dir := t.TempDir()
	lock := filepath.Join(dir, "lock")
	l := open(t, dir, Options{SegmentSize: 1})
	mustNote(t, l, "a")
	try(t, os.Rename(lock, lock+".mine"))
	refused(t, l, dir)
	try(t, os.Rename(lock+".mine", lock))
	mustNote(t, l, "b")

	try(t, os.Rename(lock, lock+".mine"))
	l2 := open(t, dir, Options{})
	refused(t, l, dir)
	mustNote(t, l2, "c")
	l2.Close()
	refused(t, l, dir)
	// The same file is back, but another has written.
	try(t, os.Rename(lock+".mine", lock))
	if err := jot(l, "refused"); err == nil || errors.Is(err, ErrInFlight) || !strings.Contains(err.Error(), "another writer") {
		t.Errorf("%v", err)
	}
	same(t, notes(t, dir), []string{"a", "b", "c"})
}

func TestTheSegmentIsGone(t *testing.T) {
	for name, f := range map[string]func(path string) error{
		"removed": os.Remove,
		"renamed": func(path string) error { return os.Rename(path, path+".old") },
		"another in its place": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, []byte("another\n"), 0o600))
		},
		"moved away, and a link to it in its place": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, Options{})
			mustNote(t, l, "a")
			path := filepath.Join(dir, pieceName(0, 0))
			try(t, f(path))
			before := folder(t, dir)
			mustNote(t, l, "b", "c")
			until(t, func() bool { return l.Durable() == 5 }) // the log says so itself
			if s := l.Stats().Removed; !strings.Contains(s, pieceName(0, 0)+" was removed or replaced") {
				t.Errorf("Stats: %q", s)
			}
			after := folder(t, dir)
			// Numbers go on after the records that are lost.
			p := piece{path: filepath.Join(dir, pieceName(2, 0)), first: 2, limit: noLimit}
			var got, mended []string
			_, err := p.scan(func(_ []byte, r Record) error {
				if r.Type == LogMend {
					mended = append(mended, r.Reason)
				} else {
					got = append(got, r.Detail)
				}
				return nil
			})
			try(t, err)
			same(t, got, []string{"b", "c"})
			same(t, mended, []string{"gone"})
			delete(after, pieceName(2, 0))
			same(t, after, before)
		})
	}

	t.Run("before its first record", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d, SegmentSize: 1})
		mustNote(t, l, "a")
		path := filepath.Join(dir, pieceName(2, 0))
		// Its place is taken while it is synced, and the fsync fails: the other
		// file is nobody's to remove.
		during(d, "sync", pieceName(2, 0), func() error {
			try(t, os.Remove(path), os.WriteFile(path, nil, 0o600))
			return syscall.EIO
		})
		mustNote(t, l, "b")
		same(t, notes(t, dir), []string{"a", "b"})
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0), pieceName(2, 0), pieceName(2, 1)})
	})
}

// during calls f in the first operation of that kind on the file.
func during(d *testDisk, op, name string, f func() error) {
	var done atomic.Bool
	d.failing(func(o, n string) error {
		if o == op && n == name && done.CompareAndSwap(false, true) {
			return f()
		}
		return nil
	})
}

// TestGoneWhileABatchIsWritten removes before the look after the write.
func TestGoneWhileABatchIsWritten(t *testing.T) {
	t.Run("the segment", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d})
		mustNote(t, l, "a")
		path := filepath.Join(dir, pieceName(0, 0))
		during(d, "sync", pieceName(0, 0), func() error { return os.Rename(path, path+".old") })
		mustNote(t, l, "b")
		try(t, os.Rename(path+".old", path))
		same(t, notes(t, dir), []string{"a", "b"})
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(2, 0)})
	})

	t.Run("the folder", func(t *testing.T) {
		dir, d := filepath.Join(t.TempDir(), "log"), &testDisk{}
		l := open(t, dir, Options{disk: d})
		mustNote(t, l, "a")
		during(d, "sync", pieceName(0, 0), func() error { return os.RemoveAll(dir) })
		if err := jot(l, "in flight"); !errors.Is(err, ErrInFlight) {
			t.Errorf("%v", err)
		}
		refused(t, l, dir)
	})

	// What the other writer has read is not taken back, whether the fsync
	// succeeds or not.
	for _, fails := range []error{nil, syscall.EIO} {
		t.Run("the lock", func(t *testing.T) {
			dir, d := t.TempDir(), &testDisk{}
			l := open(t, dir, Options{disk: d})
			mustNote(t, l, "a")
			var l2 *Log
			during(d, "sync", pieceName(0, 0), func() error {
				try(t, os.Remove(filepath.Join(dir, "lock")))
				l2 = open(t, dir, Options{})
				return fails
			})
			if err := jot(l, "in flight"); !errors.Is(err, ErrInFlight) || !strings.Contains(err.Error(), "lock is gone") {
				t.Errorf("%v", err)
			}
			refused(t, l, dir)
			mustNote(t, l2, "b")
			same(t, notes(t, dir), []string{"a", "in flight", "b"})
		})
	}

	t.Run("the lock, while a segment is made", func(t *testing.T) {
		dir, d := t.TempDir(), &testDisk{}
		l := open(t, dir, Options{disk: d, SegmentSize: 1})
		mustNote(t, l, "a")
		during(d, "syncdir", filepath.Base(dir), func() error { return os.Remove(filepath.Join(dir, "lock")) })
		if err := jot(l, "not taken"); err == nil || errors.Is(err, ErrInFlight) {
			t.Errorf("%v", err)
		}
		refused(t, l, dir)
		same(t, segments(t, dir), []string{pieceName(0, 0), pieceName(1, 0)})
		same(t, notes(t, dir), []string{"a"})
	})
}

// What is in a segment that is ended is not looked at again by the writer.
func TestGoneBeforeTheNextSegmentBegins(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentSize: 1})
	mustNote(t, l, "a")
	try(t, os.Remove(filepath.Join(dir, pieceName(1, 0))))
	mustNote(t, l, "b")
	if removed := l.Stats().Removed; !strings.Contains(removed, pieceName(1, 0)) {
		t.Errorf("%q is told to be removed, want %s", removed, pieceName(1, 0))
	}
}
