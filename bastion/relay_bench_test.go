package bastion_test

import (
	"io"
	"net"
	"testing"

	"sekisho/bastion/bastiontest"
)

// Client, server and target are one process in these, so that they tell what
// becomes better or worse, and not how much of it is the server's.

func BenchmarkRelayDown(b *testing.B) {
	server := bastiontest.Start(b, bastiontest.Options{})
	conn, err := server.Dial().Dial("tcp", target(bastiontest.Target(b, pour)))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(conn, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRelayUp(b *testing.B) {
	server := bastiontest.Start(b, bastiontest.Options{})
	conn, err := server.Dial().Dial("tcp", target(bastiontest.Target(b, func(c *net.TCPConn) { io.Copy(io.Discard, c) })))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkForward opens a forward, has a byte echoed, and closes it.
func BenchmarkForward(b *testing.B) {
	server := bastiontest.Start(b, bastiontest.Options{})
	client, port := server.Dial(), bastiontest.Target(b, bastiontest.Echo)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := client.Dial("tcp", target(port))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

// BenchmarkLogin connects, logs in, and leaves.
func BenchmarkLogin(b *testing.B) {
	server := bastiontest.Start(b, bastiontest.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if err := dial(server, server.ClientConfig("alice", server.Alice)); err != nil {
			b.Fatal(err)
		}
	}
}
