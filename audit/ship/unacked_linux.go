package ship

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unacked is how many of the bytes written to c have not been acknowledged by
// the other side's TCP, or not been read from a unix socket, for which the
// kernel counts its own overhead in, so that it is rather too many (tcp(7),
// SIOCOUTQ). Package bastion asks the same of its connections; neither may
// import the other.
func unacked(c syscall.Conn) int64 {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil {
		return 0
	}
	return int64(n)
}
