package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A disk is where segments are written. Tests put one in that fails.
type disk interface {
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	Remove(name string) error
	SyncDir(dir string) error
}

type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
}

type osDisk struct{}

func (osDisk) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osDisk) Remove(name string) error { return os.Remove(name) }

// SyncDir makes the names in dir durable: a file that was synced is still lost
// with its name.
func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// inPlace returns an error unless the file is the one at the path. What is
// written to it is nowhere otherwise, though every fsync succeeds. While the
// file is open, no other can be taken for it.
func inPlace(file os.FileInfo, path string) error {
	info, err := os.Stat(path)
	if err == nil && !os.SameFile(file, info) {
		err = fmt.Errorf("%s is another file now", path)
	}
	return err
}

// noLimit is the limit of the newest segment.
const noLimit = math.MaxUint64

// A piece is a segment as it is found in the folder.
type piece struct {
	path  string
	first uint64 // seq of its first record
	nth   int    // 0, or more if others before it began at the same seq and failed
	limit uint64 // first of the piece after it; records from here on are void
}

// void reports whether all of the piece is superseded by the one after it.
func (p piece) void() bool { return p.first >= p.limit }

func pieceName(first uint64, nth int) string {
	if nth == 0 {
		return fmt.Sprintf("%020d.jsonl", first)
	}
	return fmt.Sprintf("%020d.%d.jsonl", first, nth)
}

func parsePieceName(name string) (first uint64, nth int, ok bool) {
	digits, rest, _ := strings.Cut(name, ".")
	first, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if n, more := strings.CutSuffix(rest, ".jsonl"); more {
		nth, _ = strconv.Atoi(n)
	}
	return first, nth, pieceName(first, nth) == name
}

// list returns the pieces of the log in the order in which they are read.
func list(dir string) ([]piece, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: list the segments: %w", err)
	}
	var all []piece
	for _, e := range entries {
		if first, nth, ok := parsePieceName(e.Name()); ok {
			all = append(all, piece{filepath.Join(dir, e.Name()), first, nth, noLimit})
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.nth, b.nth))
	})
	for i := range all[:max(len(all)-1, 0)] {
		all[i].limit = all[i+1].first
	}
	return all, nil
}

// An extent is what a scan found of a piece.
type extent struct {
	next uint64 // seq after the last record
	end  int64  // offset after it
	size int64  // of the file
	bad  error  // what is wrong with the line at end; nil if there is none, or a void one
	part bool   // that line has no newline: it may still be being written
	odd  bool   // that line is a record, but not one that belongs there
}

// A reader's buffer holds the longest line, and costs more than a short scan.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxLine) }}

func lineReader(r io.Reader) *bufio.Reader {
	lines := readers.Get().(*bufio.Reader)
	lines.Reset(r)
	return lines
}

// scan calls fn with the records of the piece below its limit, in order, until
// the first line that is none or that cannot stand where it stands.
func (p piece) scan(fn func(Record) error) (extent, error) {
	e := extent{next: p.first}
	f, err := os.Open(p.path)
	if err != nil {
		return e, fmt.Errorf("audit: read a segment: %w", err)
	}
	defer f.Close()

	lines := lineReader(f)
	defer readers.Put(lines)
	run := ""
	for n := 1; e.next < p.limit; n++ {
		line, err := lines.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return e, fmt.Errorf("audit: read a segment: %w", err)
		}
		if err != nil {
			if len(line) > 0 {
				e.bad = fmt.Errorf("%s:%d: the line does not end", p.path, n)
				e.part = err == io.EOF
			}
			break
		}
		rec, err := ParseRecord(line[:len(line)-1])
		if err != nil {
			e.bad = fmt.Errorf("%s:%d: %w", p.path, n, err)
			break
		}
		if rec.Seq != e.next {
			e.bad, e.odd = fmt.Errorf("%s:%d: record %d stands where record %d should", p.path, n, rec.Seq, e.next), true
			break
		}
		if n > 1 && rec.Run != run {
			e.bad, e.odd = fmt.Errorf("%s:%d: a record of run %q in a segment of run %q", p.path, n, rec.Run, run), true
			break
		}
		run = rec.Run
		if err := fn(rec); err != nil {
			return e, err
		}
		e.next++
		e.end += int64(len(line))
	}

	info, err := f.Stat()
	if err != nil {
		return e, fmt.Errorf("audit: read a segment: %w", err)
	}
	e.size = max(info.Size(), e.end)
	return e, nil
}

// whole returns an error unless the records of the piece reach the next one.
func (p piece) whole(e extent) error {
	switch {
	case e.next >= p.limit || p.limit == noLimit && e.bad == nil:
		return nil
	case e.bad != nil:
		return e.bad
	}
	return fmt.Errorf("%s: records %d to %d are missing after it", p.path, e.next, p.limit-1)
}

// recordAfter reports whether a record begins anywhere after the offset from,
// where the scan found a line that is none. Inside a record `{"v":` cannot
// occur, for the quotes in its strings are escaped.
func (p piece) recordAfter(from int64) (bool, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return false, fmt.Errorf("audit: read a segment: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return false, fmt.Errorf("audit: read a segment: %w", err)
	}
	lines := lineReader(f)
	defer readers.Put(lines)
	for first := true; ; {
		line, err := lines.ReadSlice('\n')
		text := bytes.TrimSuffix(line, []byte("\n"))
		if i := bytes.LastIndex(text, []byte(`{"v":`)); i > 0 || i == 0 && !first {
			if _, err := ParseRecord(text[i:]); err == nil {
				return true, nil
			}
		}
		switch err {
		case nil:
			first = false
		case bufio.ErrBufferFull: // too long to be a record: go on inside it
		case io.EOF:
			return false, nil
		default:
			return false, fmt.Errorf("audit: read a segment: %w", err)
		}
	}
}

// A segment is the piece that is being written.
type segment struct {
	file
	path string
	info os.FileInfo
	size int64 // up to here it is acknowledged
	born time.Time
}

// create makes the file for the records from first on and makes its name
// durable. If that fails, made tells whether a file of that name may be left.
func create(d disk, dir string, first uint64, now time.Time) (s *segment, made bool, err error) {
	all, err := list(dir)
	if err != nil {
		return nil, false, err
	}
	nth := 0 // after all that began here and failed
	for _, p := range all {
		if p.first == first {
			nth = p.nth + 1
		}
	}
	path := filepath.Join(dir, pieceName(first, nth))
	f, err := d.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, false, err
	}
	s = &segment{file: f, path: path, born: now}
	if s.info, err = f.Stat(); err == nil {
		err = d.SyncDir(dir)
	}
	if err != nil {
		undone := s.remove(d) == nil && d.SyncDir(dir) == nil
		s.Close()
		return nil, !undone, err
	}
	return s, true, nil
}

// remove removes the file, but no other that has come into its place.
func (s *segment) remove(d disk) error {
	if s.info != nil {
		if err := inPlace(s.info, s.path); err != nil {
			return err
		}
	}
	return d.Remove(s.path)
}

// check returns an error unless the segment is still the file at its path.
func (s *segment) check() error {
	if err := inPlace(s.info, s.path); err != nil {
		return fmt.Errorf("the segment is gone: %w", err)
	}
	return nil
}

// put writes b and waits until it is on stable storage. The caller has to check
// that this is still in the folder.
func (s *segment) put(b []byte) error {
	if _, err := s.Write(b); err != nil {
		return err
	}
	return s.Sync()
}

// abandon closes a segment that failed and takes back what was not
// acknowledged. It reports whether that is durably gone.
//
// The descriptor still serves to ask for the truncation: a failed fsync makes
// later ones lie about the data that was lost, not about the size.
func (s *segment) abandon(d disk) bool {
	gone := s.Truncate(s.size) == nil && s.Sync() == nil
	if s.size == 0 {
		s.remove(d) // it would be in nobody's way, but a long outage would leave many
	}
	s.Close()
	return gone
}
