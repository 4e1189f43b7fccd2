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
	heard atomic.Int64 // Unix ns of the last byte read
	// lost is called once, with the first error of a Read that is not due to
	// our own Close.
	lost     func(error)
	lostOnce atomic.Bool
}

func newWire(c net.Conn, lost func(error)) *wire {
	w := &wire{Conn: c, lost: lost}
	w.heard.Store(time.Now().UnixNano())
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.heard.Store(time.Now().UnixNano())
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && w.lostOnce.CompareAndSwap(false, true) {
		w.lost(err)
	}
	return n, err
}

// SetDeadline does nothing: gliderlabs/ssh clears the deadlines on every read
// and write, which costs and would undo any limit set here. The limits of a
// connection are timers that close it.
func (w *wire) SetDeadline(time.Time) error { return nil }

// silence is how long the client has not been heard.
func (w *wire) silence(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, w.heard.Load()))
}

// lostCause tells how a client's bytes ended.
func lostCause(err error) *endCause {
	if err == io.EOF {
		return &endCause{reasonClientGone, "the client closed the connection"}
	}
	return &endCause{reasonClientLost, "the connection to the client was lost: " + err.Error()}
}
