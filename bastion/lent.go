package bastion

import (
	"io"
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

// targetReader reads what a target sends. Where it cannot be read directly it holds a
// short buffer for as long as it reads.
type targetReader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil: it cannot be read directly
	try   func(fd uintptr) bool
	lent  lent
	short *[shortBuffer]byte // what p is in, where it is not in lent

	p   []byte // what try has read
	err error
}

func newTargetReader(conn net.Conn) *targetReader {
	t := &targetReader{conn: conn}
	if t.raw = rawSocket(conn); t.raw != nil {
		t.try = t.read
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
		return nil, plainError(err) // closed, or past a deadline
	}
	return t.p, t.err
}

// read reads from the socket fd, which does not block, and reports whether that
// needs no wait. A wait holds no buffer, and a short answer a short one.
func (t *targetReader) read(fd uintptr) bool {
	if t.lent.buf != nil {
		n, err := t.readInto(fd, t.lent.buf[:])
		if err != syscall.EAGAIN {
			t.p, t.err = t.lent.buf[:n], err
			return true
		}
		t.lent.giveBack()
		return false
	}
	t.takeShort()
	n, err := t.readInto(fd, t.short[:])
	if err == syscall.EAGAIN {
		t.giveShort()
		return false
	}
	t.p, t.err = t.short[:n], err
	if n < len(t.short) {
		return true
	}
	p := t.lent.take()
	copy(p, t.short[:])
	t.giveShort()
	more, err := t.readInto(fd, p[n:])
	if err != syscall.EAGAIN { // the kernel tells an error once
		t.err = err
	}
	t.p = p[:n+more]
	return true
}

// readInto returns io.EOF at the end, and syscall.EAGAIN where it would wait.
func (t *targetReader) readInto(fd uintptr, p []byte) (int, error) {
	n, err := readDirect(fd, p, nil)
	switch {
	case err == syscall.EAGAIN:
		return 0, err
	case err != nil:
		return 0, socketError(t.conn, "read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
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
