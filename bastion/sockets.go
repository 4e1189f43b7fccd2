package bastion

import (
	"net"
	"time"
)

// silence is how long nothing may be heard of a client before its connection
// is ended: by default 95 s, and the check for it runs four times a second. 0:
// for as long as it likes.
//
// The network of a client can vanish without a packet that says so, a laptop
// that is closed or an address translation that forgets. Three things look
// after that, all of them derived from here, so that by default such a
// connection, the forwards on it and every socket of theirs are gone within
// 100 s:
//
//	no byte heard, pings unanswered     connection.tend     silence
//	bytes sent and not acknowledged     TCP_USER_TIMEOUT    silence and unheard
//	nothing to send and nothing heard   TCP keepalive       about silence
//
// The first one knows most and so acts first. The second is for the sockets of
// connections that were ended while their peer could not be reached: the
// kernel would go on sending what is left in them for many minutes.
func (l *Limits) silence() time.Duration {
	if l.KeepaliveInterval <= 0 {
		return 0
	}
	return l.KeepaliveInterval*time.Duration(l.KeepaliveMaxMissed) + min(l.KeepaliveInterval/3, 5*time.Second)
}

// unheard is by how much the kernel's limit on a client is longer than ours.
const unheard = 2 * time.Second

// tune sets the limits of a client's socket, where it is one.
func tune(c net.Conn, limits *Limits) {
	tcp, ok := c.(*net.TCPConn)
	if !ok || limits.silence() == 0 {
		return
	}
	// That a socket has gone already, its next read tells.
	tcp.SetKeepAliveConfig(keepalive(limits))
	setUserTimeout(tcp, limits.silence()+unheard)
}

// keepalive is how the kernel asks a peer for a sign of life to which nothing
// is sent and of which nothing is heard: 30 s, then three times in 10 s, by
// default.
func keepalive(limits *Limits) net.KeepAliveConfig {
	interval, missed := limits.KeepaliveInterval, max(limits.KeepaliveMaxMissed, 1)
	if interval <= 0 { // keepalives are off, for clients; a target that is gone still is one
		interval, missed = 30*time.Second, 3
	}
	return net.KeepAliveConfig{Enable: true, Idle: interval, Interval: max(interval/3, time.Second), Count: missed}
}

// NewDialer returns the Dialer for targets on the server's own network.
//
// It sets no TCP_USER_TIMEOUT: Linux counts that, too, against a peer that
// acknowledges everything and only has no room for more, and a database may
// well read nothing for minutes. See vanished. Nor does it turn the TCP
// keepalive on: see tuneTarget.
func NewDialer() Dialer { return &net.Dialer{KeepAlive: -1} }

// tuneTarget sets the TCP keepalive of a target's socket, where it is one: it
// finds targets that vanished while nothing is sent. It takes four system
// calls, 3.5 % of what a short forward costs, and can do nothing within the
// first second. So it is left to tend, a quarter of a second after the dial.
func tuneTarget(c net.Conn, limits *Limits) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepalive(limits))
	}
}
