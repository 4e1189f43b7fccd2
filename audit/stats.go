package audit

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Stats are how the writing of a log goes. They cost a reader nothing and wait
// for nothing, also while the disk hangs.
type Stats struct {
	Next    uint64    // seq of the next record
	Durable time.Time // when a record last came to be on stable storage

	// Failed is why the last batch could not be written, and Since when the
	// first of those that failed in a row was tried. Empty and zero while the
	// log can be written, as far as the last batch has told.
	Failed string
	Since  time.Time
	// Outages is how often that began. LastOutage tells of the last one that
	// is over.
	Outages    uint64
	LastOutage Outage

	// Writing is since when the batch at hand is being written; zero if there
	// is none. A disk that hangs shows here, and as no failure.
	Writing time.Time
	// Waiting is how many records are handed in and not yet written, those of
	// the batch at hand among them.
	Waiting int

	Fsync     Timing        // of a write with its fsync
	LastFsync time.Duration // of the last one

	// Signed is how many records the newest signed head is of, and NotSigned
	// why the last attempt to sign one failed; 0 and empty without a log key.
	Signed    uint64
	NotSigned string

	// Removed tells of a segment that somebody removed while it was written.
	Removed string
}

// An Outage is a time in which the log could not be written.
type Outage struct {
	From, To time.Time
	Why      string
}

// stuck is how long a batch may be written before a log counts as one that
// cannot be written.
const stuck = 5 * time.Second

// Trouble says why the log cannot be written, and since when. It is empty
// while it can.
func (s Stats) Trouble(now time.Time) (why string, since time.Time) {
	switch {
	case s.Failed != "":
		return s.Failed, s.Since
	case !s.Writing.IsZero() && now.Sub(s.Writing) >= stuck:
		return "the disk does not answer", s.Writing
	}
	return "", time.Time{}
}

// Lag is for how long the oldest record that is not yet written has waited:
// zero if none waits.
func (s Stats) Lag(now time.Time) time.Duration {
	if s.Writing.IsZero() {
		return 0
	}
	return max(now.Sub(s.Writing), 0)
}

// TimingBounds are the bounds of a Timing's counts.
var TimingBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// A Timing is how often something took how long.
type Timing struct {
	Counts [len(TimingBounds) + 1]uint64 // as long as the bound or shorter, and longer than the one before; longer than all
	Sum    time.Duration
}

// Count is how often it was.
func (t *Timing) Count() (n uint64) {
	for _, c := range t.Counts {
		n += c
	}
	return n
}

// Mean is how long it took on average; zero if it never was.
func (t *Timing) Mean() time.Duration {
	n := t.Count()
	if n == 0 {
		return 0
	}
	return t.Sum / time.Duration(n)
}

// Add counts one that took d.
func (t *Timing) Add(d time.Duration) {
	i := 0
	for i < len(TimingBounds) && d > TimingBounds[i] {
		i++
	}
	t.Counts[i]++
	t.Sum += d
}

// Stats returns how the writing goes.
func (l *Log) Stats() Stats {
	s := *l.stats.shown.Load()
	if at := l.stats.writing.Load(); at != 0 {
		s.Writing = time.Unix(0, at)
	}
	s.Waiting = len(l.queue) + int(l.stats.batch.Load())
	if text := l.removed.Load(); text != nil {
		s.Removed = *text
	}
	if h := l.signing.Load(); h != nil {
		if s.Signed = h.size; h.err != nil {
			s.NotSigned = h.err.Error()
		}
	}
	return s
}

// stats is the writer's: it changes its own and shows a copy.
type stats struct {
	own     Stats
	shown   atomic.Pointer[Stats]
	writing atomic.Int64 // since when, as of time.Time.UnixNano; 0: nothing is
	batch   atomic.Int64 // how many records are being written, or wait for company
}

func (s *stats) show() {
	shown := s.own
	s.shown.Store(&shown)
}

// measured is commit, and notes what becomes of it.
func (l *Log) measured(n int) error {
	s := &l.stats
	if n == 0 {
		s.batch.Store(0) // of those that were withdrawn while they waited for company
		return l.commit(0)
	}
	began := time.Now().UTC()
	s.batch.Store(int64(n))
	s.writing.Store(began.UnixNano())
	err := l.commit(n)
	s.writing.Store(0)
	s.batch.Store(0)
	ended := time.Now().UTC()
	switch {
	case err == nil:
		s.own.Next, s.own.Durable = l.next, ended
		if s.own.Failed != "" {
			s.own.LastOutage = Outage{s.own.Since, ended, s.own.Failed}
			s.own.Failed, s.own.Since = "", time.Time{}
		}
	case s.own.Failed == "":
		s.own.Since = began
		s.own.Outages++
		fallthrough
	default:
		s.own.Failed = err.Error()
	}
	s.show()
	return err
}

// timed writes the batch into the segment.
func (l *Log) timed() error {
	began := time.Now()
	err := l.seg.put(l.buf)
	if err == nil {
		took := time.Since(began)
		l.stats.own.LastFsync = took
		l.stats.own.Fsync.Add(took)
	}
	return err
}

// OnDisk counts the segments in the folder of the log, and the bytes of all
// that is in it. It asks the disk.
func (l *Log) OnDisk() (segments int, bytes int64, err error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return 0, 0, fmt.Errorf("audit: list the segments: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone meanwhile; current.jsonl
		}
		bytes += info.Size()
		if _, ok := parsePieceName(e.Name()); ok {
			segments++
		}
	}
	return segments, bytes, nil
}
