package bastion_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"sekisho/bastion/bastiontest"
)

// deafener accepts connections whose clients can be made deaf: nothing that is
// written to one goes through until the connection is closed. It is what a
// client comes to that reads nothing, but at once; with a real socket the time
// until it is full depends on the machine, and a full one may keep the kernel
// from taking what the client sends.
type deafener struct {
	net.Listener

	mu    sync.Mutex
	conns map[string]*deafConn // by the client's address
}

func newDeafener(t *testing.T) *deafener {
	return &deafener{Listener: loopback(t), conns: map[string]*deafConn{}}
}

func (d *deafener) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &deafConn{Conn: c, closed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[c.RemoteAddr().String()] = conn
	return conn, nil
}

func (d *deafener) deafen(r *bastiontest.Raw) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[r.Conn.LocalAddr().String()].deaf.Store(true)
}

type deafConn struct {
	net.Conn
	deaf   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (c *deafConn) Write(p []byte) (int, error) {
	if c.deaf.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
