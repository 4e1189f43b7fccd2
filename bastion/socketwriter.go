package bastion

import (
	"net"
	"os"
	"strings"
	"syscall"
)

// A socketWriter writes to a connection, directly where that is a socket: see
// writeDirect. It is for one goroutine at a time.
type socketWriter struct {
	conn net.Conn
	raw  syscall.RawConn // nil: it cannot be written directly
	try  func(fd uintptr) bool

	// Of a write that is under way.
	left [3][]byte
	n    int
	err  error
}

func newSocketWriter(conn net.Conn) *socketWriter {
	w := &socketWriter{conn: conn, raw: rawSocket(conn)}
	if w.raw != nil {
		w.try = w.write // made once, for it escapes
	}
	return w
}

// Write writes p, as net.Conn says.
func (w *socketWriter) Write(p []byte) (int, error) { return w.writeAll(p, nil, nil) }

// writeAll writes what it is given, one part behind the other, and returns how many
// bytes were written.
func (w *socketWriter) writeAll(a, b, c []byte) (int, error) {
	w.left, w.n, w.err = [3][]byte{a, b, c}, 0, nil
	if w.raw == nil {
		w.writeEach()
	} else if err := w.raw.Write(w.try); err != nil { // closed, or past a deadline
		w.err = plainError(err)
	}
	w.left = [3][]byte{}
	return w.n, w.err
}

func (w *socketWriter) writeEach() {
	for _, p := range w.left {
		if len(p) > 0 && w.err == nil {
			var n int
			n, w.err = w.conn.Write(p)
			w.n += n
		}
	}
}

// write is called when the socket may take something; false: it does not.
func (w *socketWriter) write(fd uintptr) bool {
	for {
		n, err := writeDirect(fd, &w.left)
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			w.err = socketError(w.conn, "write", err)
			return true
		}
		w.n += n
		left := 0
		for i := range w.left {
			p := &w.left[i]
			done := min(n, len(*p))
			*p, n = (*p)[done:], n-done
			left += len(*p)
		}
		if left == 0 {
			return true
		}
	}
}

// rawSocket is how to reach the socket of conn; nil if it is no TCP connection, or
// if sockets are not used directly here.
func rawSocket(conn net.Conn) syscall.RawConn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !direct {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// socketError is err as package net tells it.
func socketError(conn net.Conn, op string, err error) error {
	return &net.OpError{Op: op, Net: conn.LocalAddr().Network(), Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

// plainError takes out of an error how the socket was reached.
func plainError(err error) error {
	if op, ok := err.(*net.OpError); ok {
		op.Op = strings.TrimPrefix(op.Op, "raw-")
	}
	return err
}
