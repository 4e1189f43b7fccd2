package bastion

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long bytes that were written to c may go
// unacknowledged before the kernel ends it (RFC 5482; tcp(7),
// TCP_USER_TIMEOUT), also once it is closed.
func setUserTimeout(c syscall.Conn, d time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// vanished reports whether the peer of c has acknowledged nothing for so long
// of what was sent to it more than once. A peer that has no room for more
// answers each time that it is asked, and has not vanished.
func vanished(c net.Conn, after time.Duration) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var info *unix.TCPInfo
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil || info == nil {
		return false
	}
	const again = 2 // times in a row that it did not answer
	unanswered := max(info.Retransmits, info.Probes) >= again
	return unanswered && time.Duration(info.Last_ack_recv)*time.Millisecond >= after
}
