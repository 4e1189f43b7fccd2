package bastion

import (
	"net"
	"sync"
	"syscall"
)

// A forward holds a buffer only while bytes are there to put into it. Most
// forwards are idle most of the time: with two buffers of 32 KiB each, they
// were half of what a connection with one forward takes.

var (
	buffers      = sync.Pool{New: func() any { return new([relayBuffer]byte) }}
	shortBuffers = sync.Pool{New: func() any { return new([shortBuffer]byte) }}
)

// lent is a buffer of the pool, or none.
type lent struct{ buf *[relayBuffer]byte }

func (l *lent) take() []byte {
	if l.buf == nil {
		l.buf = buffers.Get().(*[relayBuffer]byte)
	}
	return l.buf[:]
}

func (l *lent) giveBack() {
	if l.buf != nil {
		buffers.Put(l.buf)
		l.buf = nil
	}
}

// A readyStream is a Stream that tells whether a Read would return at once. It
// may say so before one that waits, never the other way round for long.
type readyStream interface{ Ready() bool }

// clientReader reads what a client sends. Where the Stream is no readyStream it
// holds a buffer for as long as it reads.
type clientReader struct {
	Stream
	ready readyStream // nil: it cannot tell
	lent  lent
	first [firstBytes]byte
}

// next returns what came, until it is called again, as Read does. All packets
// that are there come in one piece, as far as a buffer holds them: each costs
// its target one system call.
func (c *clientReader) next() ([]byte, error) {
	if c.ready == nil || c.lent.buf != nil && c.ready.Ready() {
		p := c.lent.take()
		n, err := c.Read(p)
		return p[:n], err
	}
	c.lent.giveBack()
	n, err := c.Read(c.first[:])
	if n < len(c.first) || err != nil || !c.ready.Ready() {
		return c.first[:n], err
	}
	p := c.lent.take()
	copy(p, c.first[:])
	more, err := c.Read(p[n:])
	return p[:n+more], err
}

// targetReader reads what a target sends. Where that is no socket it holds a
// short buffer for as long as it reads.
type targetReader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil: it is no socket
	try   func(fd uintptr) bool
	lent  lent
	short *[shortBuffer]byte // what p is in, where it is not in lent

	p   []byte // what try has read
	err error
}

func newTargetReader(conn net.Conn) *targetReader {
	t := &targetReader{conn: conn}
	if socket, ok := conn.(*net.TCPConn); ok && readsSockets {
		if raw, err := socket.SyscallConn(); err == nil {
			t.raw, t.try = raw, t.read
		}
	}
	return t
}

// next returns what came, until it is called again, as Read does.
func (t *targetReader) next() ([]byte, error) {
	t.giveShort()
	if t.raw == nil {
		t.takeShort()
		n, err := t.conn.Read(t.short[:])
		return t.short[:n], err
	}
	t.p, t.err = nil, nil
	if err := t.raw.Read(t.try); err != nil {
		return nil, err // closed, or past a deadline
	}
	return t.p, t.err
}

// giveBack ends the use of what next returned.
func (t *targetReader) giveBack() {
	t.lent.giveBack()
	t.giveShort()
}

func (t *targetReader) takeShort() { t.short = shortBuffers.Get().(*[shortBuffer]byte) }

func (t *targetReader) giveShort() {
	if t.short != nil {
		shortBuffers.Put(t.short)
		t.short = nil
	}
}
