package bastion

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestReadingAheadGivesEveryByteAndHoldsNothing(t *testing.T) {
	client, server := pairBy(t, func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) })
	r := newReadAhead(server)
	sent := bytes.Repeat([]byte("0123456789abcde"), 100<<10) // 1.5 MiB
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)/7)
			client.Write(rest[:n])
			rest = rest[n:]
		}
	}()
	var got []byte
	came := 0
	for size := 1; len(got) < len(sent); size = size*3%9973 + 1 {
		p := make([]byte, size)
		n, c, err := r.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		got, came = append(got, p[:n]...), came+c
		if came < len(got) {
			t.Fatalf("%d bytes are given, and %d came", len(got), came)
		}
	}
	if !bytes.Equal(got, sent) || came != len(sent) {
		t.Errorf("%d bytes came, and are others", came)
	}
	// While it waits it has no buffer.
	waits := make(chan error, 1)
	go func() {
		_, _, err := r.Read(make([]byte, 10))
		waits <- err
	}()
	time.Sleep(10 * time.Millisecond)
	server.Close()
	if err := <-waits; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while it waits: %v", err)
	}
	if r.buf != nil || r.left != nil || r.asked != nil {
		t.Error("a buffer is held")
	}
}

func TestReadingAheadTellsHowTheBytesEnded(t *testing.T) {
	client, server := pairBy(t, func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) })
	client.Write([]byte("x"))
	client.(*net.TCPConn).CloseWrite()
	r := newReadAhead(server)
	p := make([]byte, 10)
	if n, _, err := r.Read(p); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, _, err := r.Read(p); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}

	client, server = pairBy(t, func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) })
	r = newReadAhead(server)
	abort(client)
	_, _, err := r.Read(p)
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Errorf("%v", err)
	}
	_, plain := net.Pipe()
	if newReadAhead(plain) != nil {
		t.Error("a pipe is read ahead")
	}
}
