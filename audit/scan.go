package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// An extent is what a scan found of a piece.
type extent struct {
	next uint64 // seq after the last record
	end  int64  // offset after it
	size int64  // of the file
	bad  error  // what is wrong with the line at end; nil if there is none, or a void one
	part bool   // that line has no newline: it may still be being written
	odd  bool   // that line is a record, but not one that belongs there
}

// A damage is what is wrong with the log, as far as one look can tell.
type damage struct{ error }

func (d *damage) Unwrap() error { return d.error }

// A reader's buffer holds the longest line, and costs more than a short scan.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxLine) }}

func lineReader(r io.Reader) *bufio.Reader {
	lines := readers.Get().(*bufio.Reader)
	lines.Reset(r)
	return lines
}

// scan calls fn with the records of the piece below its limit, in order, until
// the first line that is none or that cannot stand where it stands. A line is
// without its newline, and overwritten after the call.
func (p piece) scan(fn func(line []byte, r Record) error) (extent, error) {
	e := extent{next: p.first}
	f, err := p.open()
	if err != nil {
		return e, err
	}
	defer f.Close()

	lines := lineReader(f)
	defer readers.Put(lines)
	run := ""
	for n := 1; e.next < p.limit; n++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, errPacked) {
			e.bad = err
			break
		}
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
		text := line[:len(line)-1]
		rec, err := ParseRecord(text)
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
		if err := fn(text, rec); err != nil {
			return e, err
		}
		e.next++
		e.end += int64(len(line))
	}

	if f.zstd != nil {
		if e.next == p.first && e.bad == nil {
			e.bad = fmt.Errorf("%s: no record is in it", p.path)
		}
		e.size, e.odd = e.end, e.bad != nil // no crash leaves part of it
		return e, nil
	}
	info, err := f.file.Stat()
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
	f, err := openFile(p.path)
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
