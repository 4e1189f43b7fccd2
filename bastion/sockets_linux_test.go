package bastion

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// option asks the kernel for an option of a TCP socket.
func option(t *testing.T, c net.Conn, level, name int) (n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, name) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pairBy is a connection on loopback, made by dial.
func pairBy(t *testing.T, dial func(addr string) (net.Conn, error)) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = dial(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

func TestASocketWhosePeerHasVanishedLivesFor100SecondsAtMost(t *testing.T) {
	const most = 100 * time.Second
	limits := DefaultLimits()
	dialled, accepted := pairBy(t, func(addr string) (net.Conn, error) {
		return NewDialer().DialContext(context.Background(), "tcp", addr)
	})
	tune(accepted, &limits)
	tuneTarget(dialled, &limits)

	// By our own keepalive first, which knows the reason; then by the kernel.
	tick := tendEvery(limits.KeepaliveInterval)
	silence := limits.silence()
	if silence < limits.KeepaliveInterval*time.Duration(limits.KeepaliveMaxMissed) || silence+2*tick > most {
		t.Errorf("a silent client is kept for %v", silence)
	}
	timeout := time.Duration(option(t, accepted, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)) * time.Millisecond
	if timeout < silence+2*tick || timeout > most {
		t.Errorf("TCP_USER_TIMEOUT of a client is %v, want more than %v and at most %v", timeout, silence+2*tick, most)
	}
	for name, c := range map[string]net.Conn{"a client": accepted, "a target": dialled} {
		idle := option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		each, count := option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if on := option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on == 0 {
			t.Errorf("%s has no TCP keepalive", name)
		}
		if total := time.Duration(idle+each*count) * time.Second; total > most {
			t.Errorf("the TCP keepalive of %s takes %v (%d s and %d times %d s), want at most %v", name, total, idle, count, each, most)
		}
	}
	// Linux counts it against targets that merely have no room: see NewDialer.
	if n := option(t, dialled, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); n != 0 {
		t.Errorf("TCP_USER_TIMEOUT of a target is %d ms", n)
	}
}

func TestKeepalivesThatAreOffLeaveAClientsSocketAlone(t *testing.T) {
	limits := DefaultLimits()
	limits.KeepaliveInterval = 0
	dialled, accepted := pairBy(t, func(addr string) (net.Conn, error) {
		return NewDialer().DialContext(context.Background(), "tcp", addr)
	})
	tune(accepted, &limits)
	tuneTarget(dialled, &limits)
	if n := option(t, accepted, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); n != 0 {
		t.Errorf("TCP_USER_TIMEOUT of a client is %d ms", n)
	}
	if n := option(t, dialled, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); n != 30 {
		t.Errorf("the TCP keepalive of a target begins after %d s, want 30", n)
	}
}

// TestATargetThatHasNoRoomHasNotVanished fills the buffers of a peer that
// reads nothing, and answers each time that it is asked for room.
func TestATargetThatHasNoRoomHasNotVanished(t *testing.T) {
	dialled, accepted := pairBy(t, func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) })
	dialled.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := dialled.Write(make([]byte, 64<<20)); err == nil {
		t.Fatal("64 MiB fit into the buffers")
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if vanished(dialled, 500*time.Millisecond) {
			t.Fatal("a peer without room counts as one that has vanished")
		}
	}
	accepted.Close()
}
