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
// needs no wait. A wait holds no buffer.
func (t *targetReader) read(fd uintptr) bool {
	n, err := syscall.Read(int(fd), t.lent.take())
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), t.lent.take())
	}
	switch {
	case err == syscall.EAGAIN:
		t.lent.giveBack()
		return false
	case err != nil:
		t.err = &net.OpError{Op: "read", Net: "tcp", Source: t.conn.LocalAddr(), Addr: t.conn.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	case n == 0:
		t.err = io.EOF
	}
	t.n = max(n, 0)
	return true
}
