package bastion

import (
	"cmp"
	"net"
	"runtime"
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

	// drainMost is how long a close may wait for a write that others wait behind.
	drainMost = 2 * time.Second
)

var gatherers = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// An outgoing writes to a client's socket. While several forwards write by turns,
// their small packets are gathered, and written by the one goroutine that comes
// after those which can run already: for 20 forwards of a connection with requests
// of 4 KiB a request costs a quarter less CPU time so, with one processor and with
// two. What comes alone is written at once.
//
// The library writes one packet at a time, so there are two goroutines here at
// most, and whoever closes. What is gathered is always about to be written: nothing
// else has to happen for that. What the socket does not take holds a Write when
// gatherSize is full.
type outgoing struct {
	socket *socketWriter
	mixed  atomic.Int64 // when it last changed which forward writes: see clock; 0: never
	broken func(error)  // is told, once, that a write has failed

	mu       sync.Mutex
	idle     sync.Cond // writing has ended
	writing  bool      // the socket is being written
	flushing bool      // a goroutine is about to write what is gathered
	buf      *[gatherSize]byte
	n        int // bytes gathered in buf
	err      error
}

func newOutgoing(conn net.Conn, broken func(error)) *outgoing {
	o := &outgoing{socket: newSocketWriter(conn), broken: broken}
	o.idle.L = &o.mu
	return o
}

// write writes a, then b, or gathers them: whether that came to an error is told by
// the next write at the latest.
func (o *outgoing) write(a, b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	if o.gathers(len(a) + len(b)) {
		o.gather(a)
		o.gather(b)
		if !o.flushing {
			o.flushing = true
			go o.flush()
		}
		return nil
	}
	o.writeOut(a, b)
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

// writeOut writes what is gathered, a, and b. o.mu must be held; it is not while
// the socket is written.
func (o *outgoing) writeOut(a, b []byte) {
	for o.writing {
		o.idle.Wait()
	}
	if o.err != nil {
		return
	}
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
	if err != nil && o.err == nil {
		o.err = err
		o.mu.Unlock()
		o.broken(err)
		o.mu.Lock()
	}
}

// flush writes what is gathered, after the goroutines that can run now.
func (o *outgoing) flush() {
	runtime.Gosched()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushing = false
	if o.n > 0 {
		o.writeOut(nil, nil)
	}
}

// close gives the socket what is gathered, as far as it takes that at once, or
// has taken all that comes before within drainMost. Nothing is written any more.
func (o *outgoing) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	if o.n > 0 && o.writing {
		o.socket.conn.SetWriteDeadline(time.Now().Add(drainMost))
		for o.writing {
			o.idle.Wait()
		}
	}
	if o.n > 0 && o.err == nil {
		o.socket.writeNow(o.buf[:o.n])
	}
	o.err = cmp.Or(o.err, net.ErrClosed)
}
