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
	info := tcpInfo(c)
	if info == nil {
		return false
	}
	const again = 2 // times in a row that it did not answer
	unanswered := max(info.Retransmits, info.Probes) >= again
	return unanswered && time.Duration(info.Last_ack_recv)*time.Millisecond >= after
}

// tcpPath is the shortest time that the peer of c took of late to acknowledge
// what it was sent, and the bytes a second that last reached it (tcp_info:
// tcpi_min_rtt, tcpi_delivery_rate); 0 where that cannot be told.
func tcpPath(c net.Conn) (roundTrip time.Duration, rate float64) {
	info := tcpInfo(c)
	if info == nil {
		return 0, 0
	}
	return time.Duration(info.Min_rtt) * time.Microsecond, float64(info.Delivery_rate)
}

// tcpInfo is what the kernel knows of c (tcp(7), TCP_INFO); nil where that
// cannot be told.
func tcpInfo(c net.Conn) *unix.TCPInfo {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var info *unix.TCPInfo
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil {
		return nil
	}
	return info
}
