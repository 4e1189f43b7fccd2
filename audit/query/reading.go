package query

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"sekisho/audit"
)

const (
	// longestLine is that of a record: the encoder writes no longer one.
	longestLine = 1 << 20

	// blockSize is how much is read at once: it stays in the processor's cache
	// while it is searched.
	blockSize = 256 << 10

	// mostDamage is told of one segment. If there is more, it is verification
	// that helps.
	mostDamage = 10
)

// A reading is that of one segment.
type reading struct {
	*search
	path   string
	first  uint64
	limit  uint64
	packed bool
	lines  uint64 // how many lines are behind, going forward
	shift  uint64 // by how much the numbers of records differ from those of lines, after damage that is told
	told   int    // damages
	over   bool   // nothing that counts follows

	before uint64 // number of the first record after what is left to read, going backward
	order  bool   // whether before is known, and records have stood in their places

	next []int // where each needle stands next in the block
}

// Places of a needle that are none.
const (
	nowhere = -1
	unknown = -2
)

// wrong tells of damage.
func (r *reading) wrong(format string, args ...any) {
	r.told++
	switch {
	case r.told < mostDamage:
		r.damaged(fmt.Errorf(format, args...))
	case r.told == mostDamage:
		r.damaged(fmt.Errorf("%s: there is more that is wrong with it", r.path))
	}
}

// forward reads the text of the segment and calls fn with the records that fit.
func (r *reading) forward(text io.Reader, fn func(line []byte, rec audit.Record) error) error {
	n := 0            // bytes in the buffer: what a line has begun with
	skipping := false // a line that is too long
	for !r.over {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		m, err := readBlock(text, r.buf[n:min(n+blockSize, len(r.buf))])
		n += m
		if !r.packed {
			r.progress(int64(m))
		}
		b := r.buf[:n]
		if skipping {
			i := bytes.IndexByte(b, '\n')
			skipping = i < 0
			if b = b[i+1:]; skipping {
				b = nil
			} else {
				r.lines++
			}
		}
		whole := bytes.LastIndexByte(b, '\n') + 1
		if err := r.block(b[:whole], fn); err != nil {
			return err
		}
		n = copy(r.buf, b[whole:])
		switch {
		case r.over:
			return nil
		case err == io.EOF:
			r.end(r.buf[:n], skipping)
			return nil
		case err != nil:
			if r.expected(r.lines) < r.limit {
				r.wrong("%s:%d: %w", r.path, r.lines+1, err)
			}
			return nil
		case n >= longestLine:
			if r.expected(r.lines) >= r.limit {
				return nil
			}
			r.wrong("%s:%d: the line is longer than any record", r.path, r.lines+1)
			n, skipping = 0, true
		}
	}
	return nil
}

// readBlock fills b, unless the text ends or fails.
func readBlock(text io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(text, b)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// expected is the number of the record in the line after so many others.
func (r *reading) expected(lines uint64) uint64 {
	if r.first > math.MaxUint64-lines {
		return math.MaxUint64
	}
	return r.first + lines + r.shift
}

// end judges how the text ends: with rest, a line that is not finished.
func (r *reading) end(rest []byte, skipping bool) {
	next := r.expected(r.lines)
	switch {
	case next >= r.limit || skipping:
	case len(rest) > 0 && r.limit == noLimit && !r.packed: // it is being written
	case len(rest) > 0:
		r.wrong("%s:%d: the line does not end", r.path, r.lines+1)
	case r.limit != noLimit:
		r.wrong("%s: records %d to %d are missing after it", r.path, next, r.limit-1)
	}
}

const noLimit = math.MaxUint64 // of the newest segment

// block searches whole lines.
func (r *reading) block(b []byte, fn func(line []byte, rec audit.Record) error) error {
	if len(b) == 0 {
		return nil
	}
	if h, ok := readHead(lastLine(b)); ok && r.plan.early(h) && h.seq < r.limit {
		r.lines += uint64(bytes.Count(b, newline))
		return nil
	}
	counted := 0
	err := r.candidates(b, func(start, end int) error {
		r.lines += uint64(bytes.Count(b[counted:start], newline)) + 1
		counted = end + 1
		line := b[start:end]
		rec, j, err := r.judge(line)
		switch j {
		case void:
			r.over = true
			return errStop
		case bad:
			if r.expected(r.lines-1) >= r.limit {
				r.over = true
				return errStop
			}
			r.wrong("%s:%d: %w", r.path, r.lines, err)
			return nil
		case late:
			r.over = true
			return errStop
		case unfit:
			return nil
		}
		if want := r.expected(r.lines - 1); rec.Seq != want {
			r.wrong("%s:%d: record %d stands where record %d should", r.path, r.lines, rec.Seq, want)
			r.shift += rec.Seq - want
		}
		if !r.plan.fits(&rec) {
			return nil
		}
		return fn(line, rec)
	})
	if r.over {
		return nil
	}
	r.lines += uint64(bytes.Count(b[counted:], newline))
	return err
}

var newline = []byte{'\n'}

// lastLine is the last one of whole lines.
func lastLine(b []byte) []byte {
	b = b[:len(b)-1]
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

// A judgement of a line.
type judgement int

const (
	unfit judgement = iota // it is not what is wanted
	maybe                  // it is a record, and is left to be asked for all conditions
	void                   // it is beyond the segment's end
	late                   // it is after all that is wanted
	bad                    // it is no record
)

// judge looks at a line in which a needle is. It is parsed only if nothing that
// is seen in it speaks against it.
func (r *reading) judge(line []byte) (rec audit.Record, j judgement, err error) {
	h, ok := readHead(line)
	switch {
	case !ok || len(line) >= longestLine:
	case h.seq >= r.limit:
		return rec, void, nil
	case r.plan.late(h):
		return rec, late, nil
	case r.plan.early(h) || !r.plan.may(line):
		return rec, unfit, nil
	}
	rec, err = audit.ParseRecord(line)
	if err == nil && len(line) >= longestLine {
		err = errors.New("the line is longer than any record")
	}
	if err != nil {
		return rec, bad, err
	}
	return rec, maybe, nil
}

// candidates calls fn with where lines begin and end in b that have a needle of
// the first filter in them, or with all lines if there is none.
func (r *reading) candidates(b []byte, fn func(start, end int) error) error {
	f := r.plan.needle()
	if f != nil {
		r.next = slices.Grow(r.next[:0], len(f.needles))[:len(f.needles)]
		for i := range r.next {
			r.next[i] = unknown
		}
	}
	for pos := 0; pos < len(b); {
		start := pos
		if f != nil {
			at := r.find(f, b, pos)
			if at < 0 {
				return nil
			}
			start = pos + bytes.LastIndexByte(b[pos:at], '\n') + 1
			pos = at
		}
		end := pos + bytes.IndexByte(b[pos:], '\n')
		if err := fn(start, end); err != nil {
			return err
		}
		pos = end + 1
	}
	return nil
}

// find returns where the first needle from pos on is in b, or -1.
func (r *reading) find(f *filter, b []byte, pos int) int {
	for {
		first, which := -1, 0
		for i, n := range f.needles {
			if r.next[i] != nowhere && r.next[i] < pos {
				r.next[i] = nowhere
				if at := bytes.Index(b[pos:], n); at >= 0 {
					r.next[i] = pos + at
				}
			}
			if at := r.next[i]; at >= 0 && (first < 0 || at < first) {
				first, which = at, i
			}
		}
		if first < 0 {
			return -1
		}
		after := first + len(f.needles[which])
		if f.near == nil || f.near(b[after:]) {
			return first
		}
		pos = after
	}
}

// A hit is where a line stands, and what it says.
type hit struct {
	start, end int
	rec        audit.Record
}

// backward reads a plain segment from its end.
func (r *reading) backward(file *os.File, fn func(line []byte, rec audit.Record) error) error {
	end, err := r.lastRecord(file)
	if err != nil {
		r.wrong("%s: %w", r.path, err)
		return nil
	}
	var hits []hit
	for size := int64(blockSize); end > 0; {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		start := max(0, end-size)
		b := r.buf[:end-start]
		if _, err := file.ReadAt(b, start); err != nil {
			r.wrong("%s: %w", r.path, err)
			return nil
		}
		if start > 0 {
			// The first line began before the block. Unless it is all there is.
			i := bytes.IndexByte(b[:len(b)-1], '\n')
			if i < 0 && size < longestLine {
				size = longestLine
				continue
			}
			if i < 0 {
				r.wrong("%s: the line that ends at byte %d is longer than any record", r.path, end)
				r.before--
				if end, err = lineBefore(file, start, r.buf[:blockSize]); err != nil {
					r.wrong("%s: %w", r.path, err)
					return nil
				}
				continue
			}
			b = b[i+1:]
			start += int64(i + 1)
		}
		size = blockSize
		r.progress(end - start)
		hits = hits[:0]
		r.before -= uint64(bytes.Count(b, newline))
		if h, ok := readHead(b); !ok || !r.plan.late(h) {
			if hits, err = r.hits(file, start, b, hits); err != nil {
				return err
			}
		}
		for _, h := range slices.Backward(hits) {
			if err := fn(b[h.start:h.end], h.rec); err != nil {
				return err
			}
		}
		if h, ok := readHead(b); ok && r.plan.early(h) {
			return errStop // time goes forward: all that is before is earlier still
		}
		end = start
	}
	return nil
}

// hits finds the records that fit in whole lines.
func (r *reading) hits(file *os.File, at int64, b []byte, hits []hit) ([]hit, error) {
	counted, seq := 0, r.before
	err := r.candidates(b, func(start, end int) error {
		seq += uint64(bytes.Count(b[counted:start], newline))
		counted = start
		rec, j, err := r.judge(b[start:end])
		if j == maybe && r.order && rec.Seq != seq {
			r.order = false // told once: the numbers of all lines before it are shifted, too
			r.wrong("%s:%d: record %d stands where record %d should", r.path, lineNumber(file, at+int64(start)), rec.Seq, seq)
		}
		switch {
		case j == bad:
			r.wrong("%s:%d: %w", r.path, lineNumber(file, at+int64(start)), err)
		case j == void:
			r.wrong("%s:%d: a record of the next segment, and records of this one after it", r.path, lineNumber(file, at+int64(start)))
		case j == late:
			return errStop
		case j == maybe && r.plan.fits(&rec):
			hits = append(hits, hit{start, end, rec})
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return hits, err
}

// lineNumber counts the lines before a place. It is for messages only.
func lineNumber(file *os.File, at int64) int {
	n := 1
	b := make([]byte, blockSize)
	for text := io.NewSectionReader(file, 0, at); ; {
		m, err := text.Read(b)
		n += bytes.Count(b[:m], newline)
		if err != nil {
			return n
		}
	}
}

// lineBefore returns where the last line ends that ends before a place.
func lineBefore(file *os.File, at int64, b []byte) (int64, error) {
	for at > 0 {
		start := max(0, at-int64(len(b)))
		n, err := file.ReadAt(b[:at-start], start)
		if err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		at = start
	}
	return 0, nil
}

// lastRecord returns where the last record ends that counts. What is behind it
// may be the beginning of a line that is being written; and in a segment that
// another follows, it is void if the record is the last one before that.
func (r *reading) lastRecord(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	end, err := lineBefore(file, info.Size(), r.buf[:blockSize])
	if err != nil {
		return 0, err
	}
	if r.limit == noLimit {
		return end, r.learnBefore(file, end)
	}
	line := make([]byte, longestLine+1)
	for end > 0 {
		start, err := lineBefore(file, end-1, r.buf[:blockSize])
		if err != nil {
			return 0, err
		}
		if n := end - 1 - start; n < longestLine {
			line := line[:n]
			if _, err := file.ReadAt(line, start); err != nil {
				return 0, err
			}
			if rec, err := audit.ParseRecord(line); err == nil && rec.Seq < r.limit {
				if rec.Seq+1 < r.limit {
					r.wrong("%s: records %d to %d are missing after it", r.path, rec.Seq+1, r.limit-1)
				}
				r.before, r.order = rec.Seq+1, true
				return end, nil
			}
		}
		end = start
	}
	r.wrong("%s: no record is in it", r.path)
	return 0, nil
}

// learnBefore reads the number of the record that ends there.
func (r *reading) learnBefore(file *os.File, end int64) error {
	if end == 0 {
		return nil
	}
	start, err := lineBefore(file, end-1, r.buf[:blockSize])
	if err != nil {
		return err
	}
	b := make([]byte, min(end-start, 128)) // a head is shorter
	if _, err := file.ReadAt(b, start); err != nil {
		return err
	}
	if h, ok := readHead(b); ok {
		r.before, r.order = h.seq+1, true
	}
	return nil
}
