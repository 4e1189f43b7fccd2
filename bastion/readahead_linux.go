package bastion

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// readAheadSize is how much is read from a client's socket at a time. The
// library asks for 4 KiB, then for the rest of a packet.
const readAheadSize = 128 << 10

var readAheads = sync.Pool{New: func() any { return new([readAheadSize]byte) }}

// A readAhead reads from a socket more than is asked for. It has a buffer only
// while something is in it: one is taken when there is something to read.
type readAhead struct {
	conn net.Conn
	raw  syscall.RawConn
	fill func(fd uintptr) bool // made once, for it escapes

	buf  *[readAheadSize]byte // nil: nothing is left
	left []byte               // of buf
	err  error                // of fill
}

// newReadAhead returns nil if conn is no socket.
func newReadAhead(conn net.Conn) *readAhead {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &readAhead{conn: conn, raw: raw}
	r.fill = r.read
	return r
}

// Read returns what is left, or waits for more; then came is how much that was.
func (r *readAhead) Read(p []byte) (n, came int, err error) {
	if r.buf == nil {
		r.err = nil
		if err := r.raw.Read(r.fill); err != nil {
			return 0, 0, err
		}
		if r.err != nil {
			return 0, 0, r.err
		}
		came = len(r.left)
	}
	n = copy(p, r.left)
	if r.left = r.left[n:]; len(r.left) == 0 {
		r.give()
	}
	return n, came, nil
}

// read is called when there may be something to read; false: there is not.
func (r *readAhead) read(fd uintptr) bool {
	r.buf = readAheads.Get().(*[readAheadSize]byte)
	n, err := unix.Read(int(fd), r.buf[:])
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), r.buf[:])
	}
	switch {
	case n > 0:
		r.left = r.buf[:n]
		return true
	case err == nil:
		r.err = io.EOF
	case err != unix.EAGAIN:
		r.err = &net.OpError{Op: "read", Net: r.conn.LocalAddr().Network(), Source: r.conn.LocalAddr(), Addr: r.conn.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	}
	r.give()
	return r.err != nil
}

func (r *readAhead) give() {
	readAheads.Put(r.buf)
	r.buf, r.left = nil, nil
}
