package bastion

import (
	"errors"
	"io"
	"net"
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
	lostOnce atomic.Bool
}

func newWire(c net.Conn, lost func(error)) *wire {
	w := &wire{Conn: c, lost: lost}
	w.heard.Store(clock())
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.heard.Store(clock())
	}
	if err != nil {
		w.failed(err)
	}
	return n, err
}

// Write ends the connection when it fails: nothing can be answered any more.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.failed(err)
		w.Conn.Close()
	}
	return n, err
}

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
