package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
)

// target is the private host behind the servers. A client first says what it
// wants, in nine bytes: a word and a number.
type target struct {
	listener net.Listener
	addr     string
}

// What a target can be asked for.
const (
	echoes byte = 'E' // what comes is sent back
	sends  byte = 'D' // that many bytes
	takes  byte = 'U' // that many bytes are read, and then one is sent
	serves byte = 'R' // for each that many bytes as many are sent
)

// ask is the request of a client.
func ask(what byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{what}, uint64(n))
}

func newTarget() (*target, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &target{l, l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ECONNABORTED) {
				continue
			}
			if err != nil {
				return
			}
			go serveTarget(conn)
		}
	}()
	return t, nil
}

func serveTarget(conn net.Conn) {
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
		}
		conn.Write([]byte{1})
		io.Copy(io.Discard, conn)
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
