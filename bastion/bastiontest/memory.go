package bastiontest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Network is a listener whose connections are in memory: no sockets, so
// that it works inside a testing/synctest bubble, and a client may come from
// whatever address it says.
type Network struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewNetwork makes a Network for Options.Listener.
func NewNetwork() *Network {
	return &Network{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects from source.
func (n *Network) Dial(source netip.AddrPort) (net.Conn, error) {
	ours, theirs := Pipe(source, netip.MustParseAddrPort("192.0.2.1:22"))
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *Network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *Network) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 22} }

// Pipe returns the two ends of a connection in memory. Unlike those of
// net.Pipe they hold what is written until it is read, as sockets do: both
// sides of SSH begin by writing.
func Pipe(a, b netip.AddrPort) (net.Conn, net.Conn) {
	up, down := newQueue(), newQueue()
	addrA, addrB := net.TCPAddrFromAddrPort(a), net.TCPAddrFromAddrPort(b)
	return &pipe{down, up, addrA, addrB}, &pipe{up, down, addrB, addrA}
}

type pipe struct {
	in, out *queue
	local   net.Addr
	remote  net.Addr
}

func (p *pipe) Read(b []byte) (int, error)  { return p.in.read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.out.write(b) }
func (p *pipe) CloseWrite() error           { p.out.end(io.EOF); return nil }

// Close ends both directions: here, and at the other end once it has read
// what is on its way.
func (p *pipe) Close() error {
	p.out.end(io.EOF)
	p.in.drop()
	return nil
}

func (p *pipe) LocalAddr() net.Addr              { return p.local }
func (p *pipe) RemoteAddr() net.Addr             { return p.remote }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// queue is one direction of a pipe.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   []byte
	over    error // what a read gives once all bytes are read
	dropped bool  // nobody reads any more
}

func newQueue() *queue {
	q := new(queue)
	q.changed = sync.NewCond(&q.mu)
	return q
}

var errReset = errors.New("connection reset by peer")

func (q *queue) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.bytes) == 0 && q.over == nil && !q.dropped {
		q.changed.Wait()
	}
	switch {
	case q.dropped:
		return 0, net.ErrClosed
	case len(q.bytes) == 0:
		return 0, q.over
	}
	n := copy(b, q.bytes)
	q.bytes = q.bytes[n:]
	return n, nil
}

func (q *queue) write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.over != nil:
		return 0, net.ErrClosed
	case q.dropped:
		return 0, errReset
	}
	q.bytes = append(q.bytes, b...)
	q.changed.Broadcast()
	return len(b), nil
}

func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over == nil {
		q.over = err
	}
	q.changed.Broadcast()
}

func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped, q.bytes = true, nil
	q.changed.Broadcast()
}
