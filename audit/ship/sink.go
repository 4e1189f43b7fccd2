package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sekisho/audit"
)

// What is waited for, and how long. Variables so that tests need not wait.
var (
	dialTime    = 10 * time.Second // to connect, with the TLS handshake
	writeTime   = 30 * time.Second // for the kernel to take what is written at once
	ackTime     = 30 * time.Second // for the other side's TCP to acknowledge it
	settleTime  = 5 * time.Second  // from then on until it counts as arrived
	finishTime  = 2 * time.Second  // for the other side to close its half at the end
	leastDelay  = time.Second      // between two attempts to connect, and
	mostDelay   = 30 * time.Second // after many that failed
	troubleTime = 10 * time.Second // until a log that cannot be read is read again
	remindTime  = 10 * time.Minute // between two events that say that it still is so
	tickTime    = 200 * time.Millisecond
)

// batchBytes is what is written at once, about.
const batchBytes = 32 << 10

// Options say what is sent where.
type Options struct {
	Dir      string        // of the log
	Durable  func() uint64 // of its writer, see audit.FollowOptions
	Address  Address
	TLS      TLS
	Facility int         // of RFC 5424 section 6.2.1; 13 is log audit
	Cursor   string      // the file; "" means cursor.syslog in Dir
	Tell     func(Event) // is told what happens, and must be quick; may be nil
}

// What is it that an Event tells.
type What int

const (
	Connected  What = iota // the receiver is there; records from Next on follow
	CaughtUp               // after a loss it has been sent all there is
	Lost                   // the connection could not be made or broke: Err
	StillLost              // and that has been so for a while
	Missed                 // Count records were never sent and will not be: Err
	Shortened              // the record Next was too long and is sent without most of it
	OtherLog               // the cursor is not of this log, which is sent from its beginning: Err
	Unreadable             // the log cannot be read at Next: Err
	NoCursor               // the cursor cannot be written: Err
)

// An Event is for the operational log.
type Event struct {
	What   What
	Err    error
	Next   uint64    // the next record to be sent
	Behind uint64    // how many there are from it on
	Oldest time.Time // when it was made; zero if not known
	Count  uint64
}

// Stats are how far a Sink has come.
type Stats struct {
	Next      uint64    // the next record to be sent
	Arrived   uint64    // the first record that would be sent again after a loss
	Behind    uint64    // how many are to be sent
	Oldest    time.Time // when the first of them was made; zero if there is none, or not known
	Connected time.Time // since when; zero: it is not
	Err       error     // of the last loss, which may be made up for; nil: there was none
	Missed    uint64    // records that were gone before they could be sent, in this run
	Shortened uint64    // records that were too long to be sent whole, in this run
}

// A Sink sends a log to a receiver.
type Sink struct {
	opts     Options
	stopping chan struct{}
	done     chan struct{}
	cancel   context.CancelFunc
	stop     func()

	mu       sync.Mutex
	stats    Stats     // but for Behind
	cursor   cursor    // as far as what was sent has arrived
	marks    []mark    // how far beyond that it may have
	blocked  time.Time // since when a write waits; zero: none does
	arrived  int64     // bytes of the connection, at the last look
	moved    time.Time // when they were more, or all, for the last time
	oldest   uint64    // the record that stats.Oldest is of
	missedTo uint64    // records before this one have been counted

	// Of the goroutine that reads the log:
	buf   []byte
	taken mark // of what is in buf
	lost  time.Time
	told  time.Time
	late  bool // it was lost, and has not caught up
	saved cursor

	unsaved time.Time // when it was told last that the cursor cannot be written
}

// A mark is a place in what was written to a connection.
type mark struct {
	bytes   int64 // of the connection up to here
	at      cursor
	arrived time.Time // zero: not yet
}

// Start begins to send. An error is that the cursor cannot be read: without it
// all would be sent again.
func Start(opts Options) (*Sink, error) {
	if opts.Cursor == "" {
		opts.Cursor = filepath.Join(opts.Dir, "cursor.syslog")
	}
	c, err := readCursor(opts.Cursor)
	if err != nil {
		return nil, fmt.Errorf("ship: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sink{opts: opts, cursor: c, saved: c, stopping: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	s.stats.Next = c.Next
	go s.run(ctx)
	return s, nil
}

// Close sends what is still to be sent, until ctx ends. The log should be
// closed before, so that there is an end. An error tells how much is left,
// which the next Start goes on with.
func (s *Sink) Close(ctx context.Context) error {
	s.stop()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(time.Second): // a disk may hang
	}
	if n := s.Stats().Behind; n > 0 {
		return fmt.Errorf("ship: %d records are not sent yet, and are when the server runs again", n)
	}
	return nil
}

// Stats returns how far it has come.
func (s *Sink) Stats() Stats {
	durable := s.opts.Durable()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Arrived = s.cursor.Next
	if durable > st.Next {
		st.Behind = durable - st.Next
	}
	if st.Behind == 0 || s.oldest != st.Next {
		st.Oldest = time.Time{}
	}
	return st
}

func (s *Sink) tell(e Event) {
	if s.opts.Tell == nil {
		return
	}
	st := s.Stats()
	e.Next, e.Behind, e.Oldest = st.Next, st.Behind, st.Oldest
	s.opts.Tell(e)
}

// run connects again and again.
func (s *Sink) run(ctx context.Context) {
	defer close(s.done)
	defer s.save()
	s.recognise(ctx)
	for delay := time.Duration(0); ; {
		before, begun := s.Stats().Arrived, time.Now()
		c, err := dial(ctx, s.opts.Address, s.opts.TLS)
		if err == nil {
			s.begin()
			err = s.converse(ctx, c)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		s.lose(ctx, err)
		if s.Stats().Arrived > before || time.Since(begun) > time.Minute {
			delay = 0
		}
		delay = min(max(2*delay, leastDelay), mostDelay)
		wait := delay/2 + rand.N(delay/2)
		select {
		case <-s.stopping:
			if st := s.Stats(); st.Behind == 0 {
				return
			}
			wait = min(wait, leastDelay/2)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		default:
			select {
			case <-s.stopping: // one more attempt, at once
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	}
}

// begin is called when a connection stands.
func (s *Sink) begin() {
	s.mu.Lock()
	s.stats.Next = s.cursor.Next
	s.stats.Connected = time.Now()
	s.marks, s.blocked = nil, time.Time{}
	s.arrived, s.moved = 0, time.Now()
	s.mu.Unlock()
	s.buf = s.buf[:0]
	s.lost = time.Time{}
	s.tell(Event{What: Connected})
}

// lose is called when one does not.
func (s *Sink) lose(ctx context.Context, err error) {
	s.mu.Lock()
	s.stats.Connected, s.stats.Err = time.Time{}, err
	s.stats.Next = s.cursor.Next
	s.marks = nil
	s.mu.Unlock()
	s.peek(ctx)
	now := time.Now()
	switch {
	case s.lost.IsZero():
		s.lost, s.told, s.late = now, now, true
		s.tell(Event{What: Lost, Err: err})
	case now.Sub(s.told) >= remindTime:
		s.told = now
		s.tell(Event{What: StillLost, Err: err})
	}
}

var errEnough = errors.New("enough")

// one reads one record of the log.
func (s *Sink) one(ctx context.Context, seq uint64, fn func(line []byte, rec audit.Record)) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	err := audit.Follow(ctx, s.opts.Dir, seq, audit.FollowOptions{Durable: s.opts.Durable}, func(line []byte, rec audit.Record) error {
		fn(line, rec)
		return errEnough
	})
	if err == errEnough {
		return nil
	}
	return err
}

// peek finds how old the oldest record is that is not sent.
func (s *Sink) peek(ctx context.Context) {
	st := s.Stats()
	if st.Behind == 0 || !st.Oldest.IsZero() {
		return
	}
	s.one(ctx, st.Next, func(_ []byte, rec audit.Record) { s.waits(rec) })
}

// waits notes the oldest record that is to be sent.
func (s *Sink) waits(rec audit.Record) {
	s.mu.Lock()
	s.oldest, s.stats.Oldest = rec.Seq, rec.Time
	s.mu.Unlock()
}

// recognise makes sure that the cursor is of this log: another may have come
// into its place, or an older state of it. Then all of it is sent, some perhaps
// for the second time.
func (s *Sink) recognise(ctx context.Context) {
	c := s.cursor
	var err error
	switch durable := s.opts.Durable(); {
	case c.Next > durable:
		err = fmt.Errorf("the cursor stands before record %d, and the log ends with %d records", c.Next, durable)
	case c.Next > 0 && c.Last != "":
		s.one(ctx, c.Next-1, func(line []byte, rec audit.Record) {
			if rec.Seq == c.Next-1 && hash(line) != c.Last {
				err = fmt.Errorf("record %d is not the one that was sent", rec.Seq)
			}
		})
	}
	if err == nil && c.Next > 0 {
		return
	}
	first := cursor{}
	if all, err := audit.Segments(s.opts.Dir); err == nil && len(all) > 0 {
		first.Next = all[0].First()
	}
	s.mu.Lock()
	s.cursor, s.stats.Next = first, first.Next
	s.mu.Unlock()
	if err != nil {
		s.tell(Event{What: OtherLog, Err: err})
	}
}

var errStopped = errors.New("all is sent")

// A sendError is one of the connection.
type sendError struct{ error }

func (e sendError) Unwrap() error { return e.error }

// converse sends over one connection until that breaks or, after Close, all is
// sent, which is no error.
func (s *Sink) converse(outer context.Context, c *conn) error {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	var helpers sync.WaitGroup
	closed := make(chan error, 1)
	helpers.Go(func() {
		err := c.watch()
		closed <- err
		if err == io.EOF {
			err = errors.New("the receiver closed the connection")
		}
		cancel(err)
	})
	helpers.Go(func() { s.settle(ctx, cancel, c) })
	context.AfterFunc(ctx, func() {
		if context.Cause(ctx) != errStopped {
			c.raw.Conn.Close() // whoever writes or reads now is freed
		}
	})

	err := s.feed(ctx, c)
	cause := context.Cause(ctx)
	if cause == errStopped {
		s.finish(outer, c, closed)
	} else if cause != nil {
		err = cause
	}
	cancel(err)
	c.raw.Conn.Close()
	helpers.Wait()
	s.save()
	if cause == errStopped {
		return nil
	}
	return err
}

// feed writes the records. A log that cannot be read is read again; if it is
// damaged that does not help, but a new segment may begin behind the damage.
func (s *Sink) feed(ctx context.Context, c *conn) error {
	for failures, at := 0, uint64(0); ; {
		next := s.Stats().Next
		if next != at {
			failures, at = 0, next
		}
		s.buf = s.buf[:0]
		err := audit.Follow(ctx, s.opts.Dir, next, audit.FollowOptions{Durable: s.opts.Durable}, func(line []byte, rec audit.Record) error {
			return s.take(c, line, rec)
		})
		var broken sendError
		if errors.As(err, &broken) || ctx.Err() != nil {
			return err
		}
		if err := s.flush(c); err != nil {
			return err
		}
		var gone *audit.GoneError
		if errors.As(err, &gone) {
			s.miss(c, gone.First, err)
			continue
		}
		if next = s.Stats().Next; next != at {
			failures, at = 0, next
		}
		if failures++; failures == 1 || failures%60 == 0 {
			s.tell(Event{What: Unreadable, Err: err})
		}
		if failures >= 3 && errors.Is(err, audit.ErrDamaged) {
			if first, ok := s.after(next); ok {
				s.miss(c, first, err)
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(troubleTime):
		}
	}
}

// after returns where the first segment begins that is behind the record.
func (s *Sink) after(seq uint64) (uint64, bool) {
	all, err := audit.Segments(s.opts.Dir)
	for _, segment := range all {
		if err == nil && segment.First() > seq {
			return segment.First(), true
		}
	}
	return 0, false
}

// miss goes on with the record first.
func (s *Sink) miss(c *conn, first uint64, why error) {
	s.mu.Lock()
	n := uint64(0)
	if from := max(s.stats.Next, s.missedTo); first > from {
		n = first - from
		s.missedTo = first
	}
	s.stats.Missed += n
	s.stats.Next = first
	s.marks = append(s.marks, mark{bytes: c.raw.taken.Load(), at: cursor{Next: first}})
	s.mu.Unlock()
	if n > 0 {
		s.tell(Event{What: Missed, Err: why, Count: n})
	}
}

// take puts a record among what is to be written.
func (s *Sink) take(c *conn, line []byte, rec audit.Record) error {
	if len(s.buf) == 0 {
		s.waits(rec)
	}
	s.taken.at = cursor{Next: rec.Seq + 1, Last: hash(line)}
	whole := line
	if len(line) > mostBytes-1024 { // the rest of the message is far shorter
		line = s.short(line, rec)
	}
	s.buf = c.format.appendMessage(s.buf, s.opts.Facility, line, rec)
	switch {
	case c.format == local:
		err := s.flush(c)
		if errors.Is(err, syscall.EMSGSIZE) {
			s.buf = c.format.appendMessage(s.buf[:0], s.opts.Facility, s.short(whole, rec), rec)
			err = s.flush(c)
		}
		if errors.Is(err, syscall.EMSGSIZE) { // nothing that this socket takes can be made of it
			s.buf = s.buf[:0]
			s.miss(c, rec.Seq+1, err)
			return nil
		}
		return err
	case len(s.buf) >= batchBytes, rec.Seq+1 >= s.opts.Durable():
		return s.flush(c)
	}
	return nil
}

func (s *Sink) short(line []byte, rec audit.Record) []byte {
	s.mu.Lock()
	s.stats.Shortened++
	s.mu.Unlock()
	s.tell(Event{What: Shortened})
	return shorten(line, rec)
}

// flush writes.
func (s *Sink) flush(c *conn) error {
	if len(s.buf) == 0 {
		return nil
	}
	now := time.Now()
	s.mu.Lock()
	s.blocked = now
	s.mu.Unlock()
	c.SetWriteDeadline(now.Add(writeTime))
	_, err := c.Write(s.buf)
	s.mu.Lock()
	s.blocked = time.Time{}
	if err == nil {
		s.taken.bytes = c.raw.taken.Load()
		s.marks = append(s.marks, s.taken)
		s.stats.Next = s.taken.at.Next
		s.buf = s.buf[:0]
	}
	s.mu.Unlock()
	if err != nil {
		return sendError{err}
	}
	if s.late && s.stats.Next >= s.opts.Durable() {
		s.late = false
		s.tell(Event{What: CaughtUp})
	}
	return nil
}

// settle moves the cursor behind what has arrived, and ends the connection when
// nothing does, or when all is sent that is to be.
func (s *Sink) settle(ctx context.Context, cancel context.CancelCauseFunc, c *conn) {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	stopping := s.stopping
	var saved time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-stopping:
			stopping = nil
			tick.Reset(tickTime / 10)
		}
		now := time.Now()
		if err := s.advance(c, now); err != nil {
			cancel(err)
			return
		}
		if now.Sub(saved) >= time.Second {
			saved = now
			s.save()
		}
		if stopping == nil && s.Stats().Behind == 0 {
			cancel(errStopped)
			return
		}
	}
}

// advance moves the cursor. While a write waits, the receiver takes less than
// it is sent, and what is on the way to it may be much: then the cursor stays.
func (s *Sink) advance(c *conn, now time.Time) error {
	arrived := c.arrived()
	s.mu.Lock()
	defer s.mu.Unlock()
	if arrived > s.arrived || arrived >= c.raw.taken.Load() {
		s.arrived, s.moved = arrived, now
	} else if now.Sub(s.moved) > ackTime {
		return fmt.Errorf("the receiver has acknowledged nothing for %v", ackTime)
	}
	for i := range s.marks {
		if m := &s.marks[i]; m.bytes > arrived {
			break
		} else if m.arrived.IsZero() {
			m.arrived = now
		}
	}
	if !s.blocked.IsZero() && now.Sub(s.blocked) > time.Second {
		return nil
	}
	for len(s.marks) > 0 && !s.marks[0].arrived.IsZero() && now.Sub(s.marks[0].arrived) >= settleTime {
		s.cursor = s.marks[0].at
		s.marks = s.marks[1:]
	}
	return nil
}

// save writes the cursor if it has moved.
func (s *Sink) save() {
	s.mu.Lock()
	c := s.cursor
	s.mu.Unlock()
	if c == s.saved {
		return
	}
	if err := c.write(s.opts.Cursor); err != nil {
		if time.Since(s.unsaved) >= remindTime {
			s.unsaved = time.Now()
			s.tell(Event{What: NoCursor, Err: err})
		}
		return
	}
	s.saved = c
}

// finish ends the connection in order. If the receiver does so, too, it has
// read all, and nothing needs to be sent again.
func (s *Sink) finish(ctx context.Context, c *conn, closed <-chan error) {
	c.SetWriteDeadline(time.Now().Add(finishTime))
	c.closeWrite()
	limit := time.After(finishTime)
	tick := time.NewTicker(tickTime / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-limit:
			return
		case err := <-closed:
			if err == io.EOF {
				s.arrive()
			}
			return
		case <-tick.C:
			if c.format == local && c.arrived() >= c.raw.taken.Load() {
				s.arrive()
				return
			}
		}
	}
}

// arrive moves the cursor behind all that was sent.
func (s *Sink) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.marks); n > 0 {
		s.cursor, s.marks = s.marks[n-1].at, nil
	}
}
