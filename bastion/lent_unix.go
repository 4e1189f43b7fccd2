//go:build unix

package bastion

import (
	"io"
	"net"
	"os"
	"syscall"
)

const readsSockets = true

// read reads from the socket fd, which does not block, and reports whether that
// needs no wait. A wait holds no buffer, and a short answer a short one.
func (t *targetReader) read(fd uintptr) bool {
	if t.lent.buf != nil {
		n, err := t.readInto(fd, t.lent.buf[:])
		if err != syscall.EAGAIN {
			t.p, t.err = t.lent.buf[:n], err
			return true
		}
		t.lent.giveBack()
		return false
	}
	t.takeShort()
	n, err := t.readInto(fd, t.short[:])
	if err == syscall.EAGAIN {
		t.giveShort()
		return false
	}
	t.p, t.err = t.short[:n], err
	if n < len(t.short) {
		return true
	}
	p := t.lent.take()
	copy(p, t.short[:])
	t.giveShort()
	more, err := t.readInto(fd, p[n:])
	if err != syscall.EAGAIN { // the kernel tells an error once
		t.err = err
	}
	t.p = p[:n+more]
	return true
}

// readInto returns io.EOF at the end, and syscall.EAGAIN where it would wait.
func (t *targetReader) readInto(fd uintptr, p []byte) (int, error) {
	n, err := syscall.Read(int(fd), p)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), p)
	}
	switch {
	case err == syscall.EAGAIN:
		return 0, err
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: t.conn.LocalAddr(), Addr: t.conn.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
