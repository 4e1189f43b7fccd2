package bastion_test

import (
	"context"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A watchedDialer hands on what it has dialled.
type watchedDialer struct {
	bastion.Dialer
	dialled chan *net.TCPConn
}

func (d watchedDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, addr)
	if err == nil {
		d.dialled <- conn.(*net.TCPConn)
	}
	return conn, err
}

func TestTheSocketOfATargetGetsItsKeepaliveWhileItsForwardRuns(t *testing.T) {
	dialer := watchedDialer{bastion.NewDialer(), make(chan *net.TCPConn, 1)}
	server := bastiontest.Start(t, bastiontest.Options{Dialer: dialer})
	conn, err := server.Dial().Dial("tcp", target(bastiontest.Target(t, bastiontest.Echo)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := (<-dialer.dialled).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (n int) {
		raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, name) })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	bastiontest.Eventually(t, "a target's socket has a TCP keepalive", func() bool { return option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0 })
	bastiontest.Eventually(t, "it begins after 30 s", func() bool { return option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) == 30 })
}
