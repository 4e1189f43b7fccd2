package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sekisho/audit"
)

// ErrDamaged is wrapped by the error of a search that met something in the log
// that is no record, or not in its place. All that it could find is found.
var ErrDamaged = errors.New("the log is damaged")

// ErrUnread is wrapped by the error of a search of which a part of the log could
// not be read, as for want of a permission. All else is found.
var ErrUnread = errors.New("not all of the log could be read")

// Partial reports whether a search with this error has found all that it could.
func Partial(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrUnread) }

// MostLast is the largest number of last records that can be asked for.
const MostLast = 100_000

// mostKept bounds what is held back until it can be handed over in order.
const mostKept = 24 << 20

// Search calls fn with the records of the log in dir that fit, oldest first,
// until it returns an error, which Search returns. The line is good only until
// fn returns.
//
// The log may be written, packed and pruned meanwhile: what is searched is what
// was there at the start, but for what retention has taken away.
func Search(ctx context.Context, dir string, q Query, opts Options, fn func(line []byte, rec audit.Record) error) error {
	s, err := newSearch(ctx, dir, q, opts)
	if err != nil {
		return err
	}
	if opts.Last == 0 {
		err = s.forward(fn)
	} else {
		err = s.last(opts.Last, fn)
	}
	return s.result(err)
}

// A search is one that is under way.
type search struct {
	ctx      context.Context
	dir      string
	plan     *plan
	opts     Options
	segments []audit.Segment
	sizes    []int64
	all      int64
	done     int64
	buf      []byte
	damages  int
	unread   int
}

func newSearch(ctx context.Context, dir string, q Query, opts Options) (*search, error) {
	p, err := q.compile()
	if err != nil {
		return nil, err
	}
	if opts.Last < 0 || opts.Last > MostLast {
		return nil, fmt.Errorf("the number of last records is 1 to %d, not %d", MostLast, opts.Last)
	}
	s := &search{ctx: ctx, dir: dir, plan: p, opts: opts, buf: make([]byte, longestLine+blockSize)}
	if s.segments, err = audit.Segments(dir); err != nil {
		return nil, err
	}
	s.narrow()
	s.sizes = make([]int64, len(s.segments))
	for i, seg := range s.segments {
		if info, err := os.Stat(seg.Path()); err == nil {
			s.sizes[i] = info.Size()
			s.all += info.Size()
		}
	}
	s.progress(0)
	return s, nil
}

// narrow leaves out segments before and after the time that is wanted. Time
// goes forward in the log, so that a segment has no record that is later than
// the first one of the next.
func (s *search) narrow() {
	if s.plan.from != nil {
		for i := len(s.segments) - 1; i > 0; i-- {
			if h, ok := s.first(s.segments[i]); ok && s.plan.early(h) {
				s.segments = s.segments[i:]
				break
			}
		}
	}
	if s.plan.to != nil {
		for i, seg := range s.segments {
			if h, ok := s.first(seg); ok && s.plan.late(h) {
				s.segments = s.segments[:i]
				break
			}
		}
	}
}

// first reads what the first line of a segment begins with.
func (s *search) first(seg audit.Segment) (head, bool) {
	_, f, err := s.open(seg)
	if err != nil {
		return head{}, false // it is said when the segment itself is read
	}
	defer f.Close()
	b := make([]byte, 128) // a head is shorter
	n, _ := io.ReadFull(f, b)
	h, ok := readHead(b[:n])
	return h, ok && h.seq == seg.First()
}

// useless reports whether an index says that the segment has nothing of it.
func (s *search) useless(seg audit.Segment) bool {
	if s.opts.Index == nil {
		return false
	}
	x := s.opts.Index(seg)
	return x != nil && !s.plan.helps(x)
}

// errGone is that a segment is no longer there, as retention has taken it.
var errGone = errors.New("the segment is gone")

// open opens a segment. One that is not there any more may have been packed, or
// been taken away because it was the oldest.
func (s *search) open(seg audit.Segment) (audit.Segment, io.ReadCloser, error) {
	for range 3 {
		f, err := openText(seg)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return seg, f, err
		}
		now, err := audit.Segments(s.dir)
		if err != nil {
			return seg, nil, err
		}
		i := slices.IndexFunc(now, func(n audit.Segment) bool { return stem(n) == stem(seg) })
		switch {
		case i >= 0:
			seg = now[i]
		case len(now) > 0 && now[0].First() > seg.First():
			return seg, nil, errGone
		default:
			return seg, nil, fmt.Errorf("%s is missing, and others of the log before and after it are not", seg.Path())
		}
	}
	return seg, nil, fmt.Errorf("%s comes and goes", seg.Path())
}

// openText opens a plain segment as the file that it is: it can be read from
// its end.
func openText(seg audit.Segment) (io.ReadCloser, error) {
	if seg.Packed() {
		return seg.Open()
	}
	return audit.OpenFile(seg.Path(), os.O_RDONLY, 0)
}

// stem is the name of a segment in both of its forms.
func stem(seg audit.Segment) string {
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(seg.Path()), ".zst"), ".jsonl")
}

// damaged says what is wrong, and counts it.
func (s *search) damaged(err error) {
	var path *fs.PathError
	if errors.As(err, &path) { // it is the machine that says no
		s.unread++
		err = fmt.Errorf("%w: %w", ErrUnread, err)
	} else {
		s.damages++
	}
	if s.opts.Damage != nil {
		s.opts.Damage(err)
	}
}

// result is the error that a search ends with.
func (s *search) result(err error) error {
	if errors.Is(err, errStop) {
		err = nil
	}
	if s.damages > 0 {
		err = errors.Join(err, fmt.Errorf("%w in %s", ErrDamaged, count(s.damages, "place")))
	}
	if s.unread > 0 {
		err = errors.Join(err, ErrUnread)
	}
	return err
}

func (s *search) progress(n int64) {
	s.done += n
	if s.opts.Progress != nil {
		s.opts.Progress(min(s.done, s.all), s.all)
	}
}

// errStop ends a search that has all it wants.
var errStop = errors.New("stop")

// forward reads the segments from the oldest on.
func (s *search) forward(fn func(line []byte, rec audit.Record) error) error {
	for i, seg := range s.segments {
		if err := s.segmentForward(seg, s.sizes[i], fn); err != nil {
			return err
		}
	}
	return nil
}

// segmentForward reads a segment from its begin.
func (s *search) segmentForward(seg audit.Segment, size int64, fn func(line []byte, rec audit.Record) error) error {
	return s.read(seg, size, func(r *reading, text io.Reader) error { return r.forward(text, fn) })
}

// read opens a segment, unless it can have nothing of what is wanted, and reads
// it.
func (s *search) read(seg audit.Segment, size int64, with func(r *reading, text io.Reader) error) error {
	before := s.done
	defer func() { s.progress(before + size - s.done) }()
	if s.useless(seg) {
		return nil
	}
	limit := seg.Limit()
	seg, f, err := s.open(seg)
	switch {
	case errors.Is(err, errGone):
		return nil
	case err != nil:
		s.damaged(err)
		return nil
	}
	defer f.Close()
	return with(&reading{search: s, path: seg.Path(), first: seg.First(), limit: min(limit, seg.Limit()), packed: seg.Packed()}, f)
}

// last finds the last n records that fit, and hands them over in order.
func (s *search) last(n int, fn func(line []byte, rec audit.Record) error) error {
	var found [][]byte // newest first
	size := 0
	err := s.backward(n, func(line []byte, _ audit.Record) error {
		if size += len(line) + 64; size > mostKept {
			return fmt.Errorf("the last %d records that fit take more than %d MiB; ask for fewer", n, mostKept>>20)
		}
		found = append(found, slices.Clone(line))
		if len(found) == n {
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	for _, line := range slices.Backward(found) {
		rec, err := audit.ParseRecord(line)
		if err != nil {
			return err
		}
		if err := fn(line, rec); err != nil {
			return err
		}
	}
	return nil
}

// backward calls fn with the records that fit, newest first. It hands over no
// more than most of them of one packed segment, or all if most is 0: such a
// segment can be read in one direction only.
func (s *search) backward(most int, fn func(line []byte, rec audit.Record) error) error {
	for i, seg := range slices.Backward(s.segments) {
		if err := s.segmentBackward(seg, s.sizes[i], most, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *search) segmentBackward(seg audit.Segment, size int64, most int, fn func(line []byte, rec audit.Record) error) error {
	return s.read(seg, size, func(r *reading, text io.Reader) error {
		if file, ok := text.(*os.File); ok {
			return r.backward(file, fn)
		}
		return r.packedBackward(text, most, fn)
	})
}

// packedBackward reads a text that can be read in one direction only.
func (r *reading) packedBackward(text io.Reader, most int, fn func(line []byte, rec audit.Record) error) error {
	var kept kept
	err := r.forward(text, func(line []byte, _ audit.Record) error { return kept.add(line, most) })
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	for _, line := range slices.Backward(kept.inOrder()) {
		rec, err := audit.ParseRecord(line)
		if err != nil {
			return err
		}
		if err := fn(line, rec); err != nil {
			return err
		}
	}
	return nil
}

// kept holds the last lines that were added.
type kept struct {
	lines [][]byte
	next  int // where the next one goes, once there are as many as are wanted
	size  int
}

func (k *kept) add(line []byte, most int) error {
	k.size += len(line) + 64
	if most == 0 || len(k.lines) < most {
		k.lines = append(k.lines, slices.Clone(line))
	} else {
		k.size -= len(k.lines[k.next]) + 64
		k.lines[k.next] = append(k.lines[k.next][:0], line...)
		k.next = (k.next + 1) % most
	}
	if k.size > mostKept {
		return fmt.Errorf("the records that fit take more than %d MiB; ask for fewer", mostKept>>20)
	}
	return nil
}

func (k *kept) inOrder() [][]byte {
	return append(k.lines[k.next:len(k.lines):len(k.lines)], k.lines[:k.next]...)
}
