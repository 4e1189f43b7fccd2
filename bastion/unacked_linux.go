package bastion

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unacked is how many bytes written to c its peer has not yet acknowledged,
// the end of the stream counting as one (tcp(7), SIOCOUTQ). It is 0 where that
// cannot be told.
func unacked(c net.Conn) int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil {
		return 0
	}
	return n
}
