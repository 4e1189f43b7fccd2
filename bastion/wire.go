package bastion

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// wire is the TCP connection beneath an SSH connection. It notes when the
// client was last heard and how its bytes ended, which x/crypto/ssh does not
// tell: there a lost connection reads as a plain io.EOF.
type wire struct {
	net.Conn
	heard atomic.Int64 // when the last byte was read: see clock
	// lost is called once, with the first error of a Read or Write that is
	// not due to our own Close.
	lost     func(error)
	took     func(n int) // is told of the bytes that were read; by whoever reads
	lostOnce atomic.Bool

	moved atomic.Int64 // bytes, both ways, since the keys were made

	before beforeLogin

	more   *readAhead // after the login; nil: the socket is read as it is
	merger *merger    // nil: packets are written as the library does
	out    *outgoing

	left   int           // bytes that may be read before begun; negative: any. The reader's, see pace
	begun  chan struct{} // closed when a login begins
	closed chan struct{}
	once   sync.Once // closes closed
}

func newWire(c net.Conn, seat *seat, lost func(error), took func(n int)) *wire {
	w := &wire{Conn: c, lost: lost, took: took, left: -1, begun: make(chan struct{}), closed: make(chan struct{})}
	w.before.seat = seat
	w.more = newReadAhead(c)
	w.out = newOutgoing(c, w.broken)
	w.heard.Store(clock())
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	if !w.before.over.Load() || len(w.before.ahead) > 0 {
		return w.readBeforeLogin(p)
	}
	if w.more == nil {
		return w.read(p)
	}
	n, came, err := w.more.Read(p)
	w.came(came, err)
	return n, err
}

func (w *wire) read(p []byte) (int, error) {
	if w.left == 0 {
		select {
		case <-w.begun:
			w.left = -1
		case <-w.closed:
			return 0, net.ErrClosed
		}
	}
	if w.left > 0 {
		p = p[:min(len(p), w.left)]
	}
	n, err := w.Conn.Read(p)
	if w.left > 0 {
		w.left -= n
	}
	w.came(n, err)
	return n, err
}

// came notes what came of a read from the socket.
func (w *wire) came(n int, err error) {
	if n > 0 {
		w.heard.Store(clock())
		w.moved.Add(int64(n))
		w.took(n)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // that is the end of greetingWait only
		w.failed(err)
	}
}

// Write ends the connection when it fails, at once or later: nothing can be
// answered any more.
func (w *wire) Write(p []byte) (int, error) {
	if !w.before.over.Load() {
		if w.before.line != "" {
			return w.sayAgain(p)
		}
		w.before.writes.Add(1)
	}
	var err error
	if w.merger != nil {
		err = w.merger.write(w.out, p)
	} else {
		err = w.out.write(p, nil)
	}
	if err != nil {
		return 0, err
	}
	w.moved.Add(int64(len(p)))
	return len(p), nil
}

// broken is told that nothing can be written any more.
func (w *wire) broken(err error) {
	w.failed(err)
	w.Close()
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	w.out.close()
	return w.Conn.Close()
}

// abort is Close for a client that will take nothing of what is still to be
// sent to it.
func (w *wire) abort() {
	w.once.Do(func() { close(w.closed) })
	abort(w.Conn)
}

// mostBeforeLogin is how many bytes a client may send from its key to the
// server's answer to its service request: NEWKEYS and that request take less
// than 200, and 17 of the smallest encrypted packets, of 28 bytes, more.
const mostBeforeLogin = 440

// pace lets a client send no more than mostBeforeLogin bytes until a login
// begins; what comes too soon waits. It is called by the reader, when the
// client's key has come. Until the login begins nothing leads to the queue of
// packets that discardPackets empties, so it must not be filled.
func (w *wire) pace() { w.left = mostBeforeLogin }

func (w *wire) failed(err error) {
	if !errors.Is(err, net.ErrClosed) && w.lostOnce.CompareAndSwap(false, true) {
		w.lost(err)
	}
}

// SetDeadline does nothing: gliderlabs/ssh clears the deadlines on every read
// and write, which costs and would undo any limit set here. The limits of a
// connection are timers that close it.
func (w *wire) SetDeadline(time.Time) error { return nil }

// silence is how long the client has not been heard.
func (w *wire) silence() time.Duration { return time.Duration(clock() - w.heard.Load()) }

// lostCause tells how a client's bytes ended.
func lostCause(err error) *endCause {
	if err == io.EOF {
		return &endCause{reasonClientGone, "the client closed the connection"}
	}
	return &endCause{reasonClientLost, "the connection to the client was lost: " + err.Error()}
}
