package bastion

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gatherSize is how many bytes are gathered at most, and gatherBelow what is
	// small enough: to copy larger packets costs what a system call does.
	gatherSize  = 64 << 10
	gatherBelow = 16 << 10

	// crowdedFor is for how long it is taken for likely that other forwards write
	// too, once they have.
	crowdedFor = time.Millisecond

	// drainMost is how long a close may take for what was handed over before. Who
	// reads has it by then; who does not must not hold up what ends him.
	drainMost = 100 * time.Millisecond
)

var gatherers = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// An outgoing writes to a client's socket. While several forwards write by turns,
// their small packets are gathered, and written by one goroutine that comes after
// those which can run already: for 20 forwards of a connection with requests of
// 4 KiB a request costs a quarter less CPU time so, with one processor and with
// two. What comes alone is written at once.
//
// The library writes one packet at a time, so there are two goroutines here at
// most, and those that close. What is gathered is always about to be written:
// nothing else has to happen for that. What the socket does not take holds a write
// when gatherSize is full.
type outgoing struct {
	socket *socketWriter
	drain  time.Duration // drainMost
	mixed  atomic.Int64  // when it last changed which forward writes: see clock; 0: never
	broken func(error)   // is told, once, that a write has failed; not by a close

	mu       sync.Mutex
	idle     sync.Cond // writing or draining has ended
	writing  bool      // the socket is being written
	flushing bool      // a goroutine is about to write what is gathered
	draining bool      // a close is
	buf      *[gatherSize]byte
	n        int   // bytes gathered in buf
	err      error // of all writes from now on
}

func newOutgoing(conn net.Conn, broken func(error)) *outgoing {
	o := &outgoing{socket: newSocketWriter(conn), drain: drainMost, broken: broken}
	o.idle.L = &o.mu
	return o
}

// write writes a, then b, or gathers them: whether that came to an error is told by
// the next write at the latest.
func (o *outgoing) write(a, b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil:
	case o.gathers(len(a) + len(b)):
		o.gather(a)
		o.gather(b)
		if !o.flushing {
			o.flushing = true
			o.flushLast()
		}
	default:
		for o.writing {
			o.idle.Wait()
		}
		if o.err == nil {
			return o.writeOut(a, b)
		}
	}
	return o.err
}

// gathers reports whether n bytes are to wait for others. o.mu must be held.
func (o *outgoing) gathers(n int) bool {
	if n > gatherBelow || o.n+n > gatherSize || o.socket.raw == nil {
		return false
	}
	if o.n > 0 || o.writing {
		return true
	}
	mixed := o.mixed.Load()
	return mixed != 0 && clock()-mixed < int64(crowdedFor)
}

func (o *outgoing) gather(p []byte) {
	if o.buf == nil {
		o.buf = gatherers.Get().(*[gatherSize]byte)
	}
	o.n += copy(o.buf[o.n:], p)
}

// flushLast has what is gathered written by a goroutine that waits its turn. A new
// one would be the next to run, before those that have packets too; but if another
// is started behind it, it goes to the end of the processor's queue. (Gosched puts
// it into the queue of all processors, which a busy one looks at much later.)
func (o *outgoing) flushLast() {
	go o.flush()
	go func() {}()
}

func (o *outgoing) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.writing {
		o.idle.Wait()
	}
	o.flushing = false
	if o.n > 0 && o.err == nil {
		o.writeOut(nil, nil)
	}
}

// writeOut writes what is gathered, a, and b. o.mu must be held, and nobody else
// be writing; it is not held while the socket is written.
func (o *outgoing) writeOut(a, b []byte) error {
	var gathered []byte
	buf := o.buf
	if buf != nil {
		gathered = buf[:o.n]
	}
	o.buf, o.n, o.writing = nil, 0, true
	o.mu.Unlock()
	_, err := o.socket.writeAll(gathered, a, b)
	if buf != nil {
		gatherers.Put(buf)
	}
	o.mu.Lock()
	o.writing = false
	o.idle.Broadcast()
	switch {
	case err == nil:
		return nil
	case o.err == nil:
		o.err = err
		o.mu.Unlock()
		o.broken(err)
		o.mu.Lock()
	}
	return o.err
}

// close ends all writing. What is gathered, or being written, is still given to the
// socket, as far as it takes that within drain; when close returns, the socket may
// be closed.
func (o *outgoing) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.draining {
		o.idle.Wait()
	}
	if o.err != nil {
		return
	}
	o.err = net.ErrClosed
	if o.n == 0 && !o.writing || o.socket.raw == nil { // a deadline may mean nothing to what is no socket
		return
	}
	o.draining = true
	o.socket.conn.SetWriteDeadline(time.Now().Add(o.drain))
	for o.writing {
		o.idle.Wait()
	}
	if o.n > 0 {
		o.writeOut(nil, nil)
	}
	o.draining = false
	o.idle.Broadcast()
}
