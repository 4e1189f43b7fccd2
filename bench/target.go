package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// target is the private host behind the servers. At one port a client first says
// what it wants, in nine bytes: a word and a number. At the other the target
// speaks first, as those of SSH, SMTP and MySQL do: it sends one byte.
type target struct {
	listeners [2]net.Listener
	addr      string
	greeter   string       // the address of the other port
	taken     atomic.Int64 // bytes, since it was made
	flows     sync.Map     // of *flow, by their number
	lastFlow  atomic.Int64
}

// What a target can be asked for.
const (
	echoes byte = 'E' // what comes is sent back
	sends  byte = 'D' // that many bytes
	takes  byte = 'U' // that many bytes are read, and then one is sent
	serves byte = 'R' // for each that many bytes as many are sent

	sendsFlow byte = 'd' // bytes, as the flow of that number allows
	takesFlow byte = 'u' // bytes are read, as the flow of that number allows
)

// ask is the request of a client.
func ask(what byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{what}, uint64(n))
}

func newTarget() (*target, error) {
	t := &target{}
	for i, serve := range []func(net.Conn){t.serve, greet} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.close()
			return nil, err
		}
		t.listeners[i] = l
		go acceptAll(l, serve)
	}
	t.addr, t.greeter = t.listeners[0].Addr().String(), t.listeners[1].Addr().String()
	return t, nil
}

func (t *target) close() {
	for _, l := range t.listeners {
		if l != nil {
			l.Close()
		}
	}
}

func acceptAll(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		go serve(conn)
	}
}

func greet(conn net.Conn) {
	defer conn.Close()
	if _, err := conn.Write([]byte{'!'}); err == nil {
		io.Copy(io.Discard, conn)
	}
}

func (t *target) serve(conn net.Conn) {
	defer conn.Close()
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return
	}
	n := int64(binary.BigEndian.Uint64(head[1:]))
	switch head[0] {
	case echoes:
		buf := make([]byte, 4<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	case sends:
		buf := make([]byte, 256<<10)
		for n > 0 {
			m, err := conn.Write(buf[:min(n, int64(len(buf)))])
			if err != nil {
				return
			}
			n -= int64(m)
		}
	case takes:
		buf := make([]byte, 256<<10)
		for n > 0 {
			m, err := conn.Read(buf[:min(n, int64(len(buf)))])
			if err != nil {
				return
			}
			n -= int64(m)
			t.taken.Add(int64(m))
		}
		conn.Write([]byte{1})
		io.Copy(io.Discard, conn)
	case sendsFlow:
		if f, ok := t.flows.Load(n); ok {
			f.(*flow).send(conn)
		}
	case takesFlow:
		if f, ok := t.flows.Load(n); ok {
			f.(*flow).take(conn, &t.taken)
		}
	case serves:
		if n > 1<<20 {
			return
		}
		buf := make([]byte, n)
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}
}
