package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"math"
	"os"
	"time"
)

// FollowOptions say how a log is followed. Their zero value follows one that
// another process writes.
type FollowOptions struct {
	// Durable is asked for the seq after the last record that may be given,
	// which is [Log.Durable] of the log's writer. If it is nil, all that can be
	// read is given; see [Follow].
	Durable func() uint64

	Poll time.Duration   // how often to look for more; 0 means 200 ms
	Wake <-chan struct{} // what is received here makes it look at once; may be nil
}

// ErrDamaged is wrapped by an error of Follow when what is in the folder is not
// a log, or not all of one, and reading it again will not help.
var ErrDamaged = errors.New("the log is damaged")

// A GoneError tells that records are asked for that retention has taken away.
type GoneError struct {
	From  uint64 // what was asked for
	First uint64 // the first record that is there, from which one may go on
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("audit: records %d to %d are gone: the log begins with record %d", e.From, e.First-1, e.First)
}

// Follow calls fn with the records of the log in dir from seq from on, in
// order, each once, and then with those that come, until ctx ends, whose error
// it returns, or fn returns an error. The line is that of the record without
// its newline, and is good until fn returns.
//
// A record that was written counts once it is on stable storage. Only its
// writer knows when that is: with its Durable exactly the records that count
// are given. Without, a record is given as soon as it can be read. It does not
// count in the end if storage fails before the writer was told that the record
// is safe; what then is in the log under its number is given as well, unless it
// is the same, as it mostly is. So a number may come twice, and go back, by one
// batch at most.
//
// Follow goes on over new segments and runs, and segments that are packed
// meanwhile. If records are not there any more that retention has taken away,
// the error is a [*GoneError]. A folder that goes away or is replaced ends it,
// as does damage, an error that wraps [ErrDamaged]: a line that is no record or
// not the next one, if it is still there at the look after. A last line that is not finished is waited for.
func Follow(ctx context.Context, dir string, from uint64, opts FollowOptions, fn func(line []byte, rec Record) error) error {
	if opts.Poll <= 0 {
		opts.Poll = 200 * time.Millisecond
	}
	f := &follower{dir: dir, opts: opts, fn: fn, next: from}
	if opts.Durable == nil {
		f.given = &given{seed: maphash.MakeSeed()}
	}
	defer f.leave()

	tick := time.NewTicker(opts.Poll)
	defer tick.Stop()
	for {
		if err := f.round(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-opts.Wake:
		}
	}
}

// A follower stands before the record next, in the segment at if that is open.
type follower struct {
	dir  string
	opts FollowOptions
	fn   func([]byte, Record) error
	next uint64

	pieces []piece     // as they were at the last look
	folder os.FileInfo // the folder then
	fresh  bool        // pieces hold until the folder changes

	at    *place
	given *given // nil with Durable
	doubt error  // what was wrong at the last look
}

// round gives all that is there. What is wrong may be so for a moment only, as
// when a segment is removed between being listed and being opened: it is an
// error if the next round finds it, too.
func (f *follower) round(ctx context.Context) error {
	for {
		most := uint64(math.MaxUint64)
		if f.opts.Durable != nil {
			// Asked before the segments are listed: any that is made later
			// begins at this record or a later one, so that it makes nothing
			// void of what is given now.
			if most = f.opts.Durable(); most <= f.next {
				return ctx.Err()
			}
		}
		before := f.next
		err := f.look()
		if err == nil {
			err = f.step(ctx, most)
		}
		var d *damage
		switch {
		case errors.As(err, &d) && f.doubt != nil && f.next == before:
			return fmt.Errorf("audit: %w: %w", ErrDamaged, d.error)
		case errors.As(err, &d):
			f.doubt, f.fresh = d.error, false
			f.leave()
			return nil
		case err != nil:
			return err
		case f.next == before:
			f.doubt = nil
			return nil
		}
		f.doubt = nil
	}
}

// racy is how old the last change of a folder has to be for the next one to be
// sure to show in its time, whatever the clock of the file system is worth.
const racy = 3 * time.Second

// look lists the segments, unless the folder is as it was.
func (f *follower) look() error {
	info, err := os.Stat(f.dir)
	if err != nil {
		return fmt.Errorf("audit: follow the log: %w", err)
	}
	if f.folder != nil && !os.SameFile(info, f.folder) {
		return fmt.Errorf("audit: follow the log: %s is another folder now", f.dir)
	}
	if f.fresh && info.ModTime().Equal(f.folder.ModTime()) {
		return nil
	}
	now := time.Now()
	if f.pieces, err = list(f.dir); err != nil {
		return err
	}
	f.folder, f.fresh = info, now.Sub(info.ModTime()) > racy
	f.goBack()
	return nil
}

// goBack returns to what took the place of records that were given and do not
// count. Those can only be of the segment that was the newest.
func (f *follower) goBack() {
	if f.given == nil || f.at == nil {
		return
	}
	for _, p := range f.pieces {
		if p.stem() == f.at.stem() && (p.packed || f.at.is(p.path)) {
			f.next = min(f.next, p.limit)
			return
		}
	}
	// The file is gone. Either all in it failed, which was one batch, or
	// retention was quick.
	if f.at.newest && f.next-f.at.first <= maxBatch {
		f.next = f.at.first
	}
	f.leave()
}

// step gives what one segment has below most.
func (f *follower) step(ctx context.Context, most uint64) error {
	if len(f.pieces) == 0 {
		if most != math.MaxUint64 {
			return &damage{fmt.Errorf("%s has no segment, and record %d should be there", f.dir, f.next)}
		}
		return ctx.Err()
	}
	if first := f.pieces[0].first; first > f.next {
		return &GoneError{From: f.next, First: first}
	}
	p := f.pieces[0]
	for _, q := range f.pieces {
		if q.first <= f.next {
			p = q
		}
	}
	if err := f.enter(p); err != nil {
		return err
	}
	for f.next < min(p.limit, most) {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := f.at.line()
		if err != nil {
			return err
		}
		if line == nil {
			if p.limit != noLimit || most != math.MaxUint64 {
				return &damage{fmt.Errorf("%s: record %d is missing", p.path, f.at.next)}
			}
			return nil
		}
		if f.at.next < f.next {
			if err := f.at.skip(line); err != nil {
				return err
			}
			continue
		}
		rec, err := f.at.record(line)
		if err != nil {
			return err
		}
		if f.given.again(rec.Seq, line) {
			f.next++
			continue
		}
		if err := f.fn(line, rec); err != nil {
			return err
		}
		f.next++
	}
	return nil
}

// enter opens p, unless that is where the follower is and can go on.
func (f *follower) enter(p piece) error {
	if f.at != nil && f.at.stem() == p.stem() && f.at.next <= f.next && (p.packed || f.at.is(p.path)) {
		f.at.newest = p.limit == noLimit
		return nil
	}
	f.leave()
	s, err := p.open()
	if errors.Is(err, fs.ErrNotExist) {
		return &damage{err}
	}
	if err != nil {
		return err
	}
	at := &place{piece: p, stream: s, lines: lineReader(s), next: p.first, newest: p.limit == noLimit}
	if at.info, err = s.file.Stat(); err != nil {
		s.Close()
		return fmt.Errorf("audit: read a segment: %w", err)
	}
	f.at = at
	return nil
}

func (f *follower) leave() {
	if f.at != nil {
		readers.Put(f.at.lines)
		f.at.stream.Close()
		f.at = nil
	}
}

// A place is in a segment that is open, before its record next.
type place struct {
	piece
	stream *stream
	info   os.FileInfo
	lines  *bufio.Reader
	next   uint64
	end    int64 // offset of it
	run    string
	newest bool // no other began after it at the last look
}

// is reports whether the file at path is the one that is open.
func (a *place) is(path string) bool {
	info, err := os.Stat(path)
	return err == nil && os.SameFile(info, a.info)
}

// line returns the next line without its newline, or nil if none is finished.
func (a *place) line() ([]byte, error) {
	line, err := a.lines.ReadSlice('\n')
	switch {
	case err == nil:
		a.end += int64(len(line))
		return line[:len(line)-1], nil
	case errors.Is(err, errPacked):
		return nil, &damage{err}
	case err == io.EOF && len(line) == 0:
		return nil, nil
	case err == io.EOF && !a.packed:
		// The rest of it may come, and then it is read from its beginning.
		if _, err := a.stream.file.Seek(a.end, io.SeekStart); err != nil {
			return nil, fmt.Errorf("audit: read a segment: %w", err)
		}
		a.lines.Reset(a.stream)
		return nil, nil
	case err == io.EOF:
		return nil, &damage{fmt.Errorf("%s: the last line does not end", a.path)}
	}
	if err == bufio.ErrBufferFull {
		return nil, a.bad(errors.New("the line is longer than any record"))
	}
	return nil, fmt.Errorf("audit: read a segment: %w", err)
}

// bad tells which record is not there.
func (a *place) bad(err error) error {
	return &damage{fmt.Errorf("%s: at byte %d, where record %d should be: %w", a.path, a.end, a.next, err)}
}

// skip passes over a record that is not wanted. Of the first it keeps the run,
// which is that of all of the segment.
func (a *place) skip(line []byte) error {
	if a.run == "" {
		_, err := a.record(line)
		return err
	}
	p := parser{in: line}
	p.want(`{"v":1,"seq":`)
	seq := p.uint(math.MaxUint64)
	if p.err == nil && seq != a.next {
		p.err = fmt.Errorf("it is record %d", seq)
	}
	if p.err != nil {
		return a.bad(p.err)
	}
	a.next++
	return nil
}

// record reads the line as the next record.
func (a *place) record(line []byte) (Record, error) {
	rec, err := ParseRecord(line)
	switch {
	case err != nil:
	case rec.Seq != a.next:
		err = fmt.Errorf("it is record %d", rec.Seq)
	case a.run != "" && rec.Run != a.run:
		err = fmt.Errorf("it is of run %q in a segment of run %q", rec.Run, a.run)
	}
	if err != nil {
		return Record{}, a.bad(err)
	}
	a.run = rec.Run
	a.next++
	return rec, nil
}

// given remembers the lines that were given last, as many as may turn out not
// to count.
type given struct {
	seed maphash.Seed
	last [maxBatch]struct{ seq, sum uint64 }
}

// again reports whether the line was given as record seq already, and
// remembers it.
func (g *given) again(seq uint64, line []byte) bool {
	if g == nil {
		return false
	}
	sum := maphash.Bytes(g.seed, line) | 1 // never 0, which is none
	l := &g.last[seq%maxBatch]
	was := l.seq == seq && l.sum == sum
	l.seq, l.sum = seq, sum
	return was
}
