package bastion

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// wire is the TCP connection beneath an SSH connection. It notes when the
// client was last heard and how its bytes ended, which x/crypto/ssh does not
// tell: there a lost connection reads as a plain io.EOF.
type wire struct {
	net.Conn
	heard atomic.Int64 // when the last byte was read: see clock
	// lost is called once, with the first error of a Read or Write that is
	// not due to our own Close.
	lost     func(error)
	took     func(n int) // is told of the bytes that were read; by whoever reads
	lostOnce atomic.Bool

	moved atomic.Int64 // bytes, both ways, since the keys were made

	before beforeLogin

	more   *readAhead // after the login; nil: the socket is read as it is
	merger *merger    // nil: packets are written as the library does

	left   int           // bytes that may be read before begun; negative: any. The reader's, see pace
	begun  chan struct{} // closed when a login begins
	closed chan struct{}
	once   sync.Once // closes closed
}

func newWire(c net.Conn, seat *seat, lost func(error), took func(n int)) *wire {
	w := &wire{Conn: c, lost: lost, took: took, left: -1, begun: make(chan struct{}), closed: make(chan struct{})}
	w.before.seat = seat
	w.more = newReadAhead(c)
	w.heard.Store(clock())
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	if !w.before.over.Load() || len(w.before.ahead) > 0 {
		return w.readBeforeLogin(p)
	}
	if w.more == nil {
		return w.read(p)
	}
	n, came, err := w.more.Read(p)
	w.came(came, err)
	return n, err
}

func (w *wire) read(p []byte) (int, error) {
	if w.left == 0 {
		select {
		case <-w.begun:
			w.left = -1
		case <-w.closed:
			return 0, net.ErrClosed
		}
	}
	if w.left > 0 {
		p = p[:min(len(p), w.left)]
	}
	n, err := w.Conn.Read(p)
	if w.left > 0 {
		w.left -= n
	}
	w.came(n, err)
	return n, err
}

// came notes what came of a read from the socket.
func (w *wire) came(n int, err error) {
	if n > 0 {
		w.heard.Store(clock())
		w.moved.Add(int64(n))
		w.took(n)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // that is the end of greetingWait only
		w.failed(err)
	}
}

// Write ends the connection when it fails: nothing can be answered any more.
func (w *wire) Write(p []byte) (int, error) {
	if !w.before.over.Load() {
		if w.before.said != "" {
			return w.sayAgain(p)
		}
		w.before.writes.Add(1)
	}
	n, sent, err := w.write(p)
	w.moved.Add(int64(sent))
	if err != nil {
		w.failed(err)
		w.Close()
	}
	return n, err
}

func (w *wire) write(p []byte) (n, sent int, err error) {
	if w.merger != nil {
		return w.merger.write(w.Conn, p)
	}
	n, err = w.Conn.Write(p)
	return n, n, err
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// abort is Close for a client that will take nothing of what is still to be
// sent to it.
func (w *wire) abort() {
	w.once.Do(func() { close(w.closed) })
	abort(w.Conn)
}

// mostBeforeLogin is how many bytes a client may send from its key to the
// server's answer to its service request: NEWKEYS and that request take less
// than 200, and 17 of the smallest encrypted packets, of 28 bytes, more.
const mostBeforeLogin = 440

// pace lets a client send no more than mostBeforeLogin bytes until a login
// begins; what comes too soon waits. It is called by the reader, when the
// client's key has come. Until the login begins nothing leads to the queue of
// packets that discardPackets empties, so it must not be filled.
func (w *wire) pace() { w.left = mostBeforeLogin }

// beforeLogin is what a wire does until its client has logged in: between two
// reads the handshake has a turn, and it is noted how far the client came.
type beforeLogin struct {
	seat   *seat
	over   atomic.Bool
	spoke  atomic.Bool  // the client has sent something
	writes atomic.Int32 // to the client

	greeting greeting
	said     string // our version line, which the library is about to write too

	// The following are of whoever reads.
	greeted bool   // the greeting wants to see no more
	seen    []byte // all that came, until then
	ahead   []byte // read and not yet asked for
}

const (
	// greetingWait is how long a client may take from its version to the end of
	// its KEXINIT to have its cipher chosen by what it offers. All clients that
	// are known send it without waiting for ours; one that does wait is slow to
	// log in, and no more.
	greetingWait = 2 * time.Second

	// usualKexInit is enough room for what usual clients send, 1,000 to 1,800
	// bytes.
	usualKexInit = 2 << 10

	// aheadSize is how much is read at a time where less is asked for, or
	// nothing has come yet.
	aheadSize = 64
)

// greet is what comes before the library: it writes line, which is our version,
// and reads the client's and, unless wait is 0, its KEXINIT. The library is to
// write the same line, which then goes nowhere, and reads the same bytes. No
// turn is needed, for none of this is work. What goes wrong here, the library
// meets again.
func (w *wire) greet(line string, wait time.Duration) {
	b := &w.before
	if _, err := w.Write([]byte(line)); err != nil {
		return
	}
	b.said = line
	room, limited := aheadSize, false
	for !b.greeted {
		if version, _ := b.greeting.said(); version != "" && !limited {
			if wait == 0 {
				break
			}
			room, limited = usualKexInit, true
			w.Conn.SetReadDeadline(time.Now().Add(wait)) // our own SetDeadline does nothing
			defer w.Conn.SetReadDeadline(time.Time{})
		}
		seen := slices.Grow(b.seen, room)
		n, err := w.read(seen[len(seen):cap(seen)])
		w.note(seen[:len(seen)+n])
		b.ahead = seen[:len(seen)+n]
		if err != nil {
			break
		}
	}
}

// note shows all that has come to the greeting.
func (w *wire) note(all []byte) {
	b := &w.before
	if len(all) > 0 {
		b.spoke.Store(true)
	}
	if b.greeted = b.greeting.look(all); b.greeted {
		all = nil
	}
	b.seen = all
}

// sayAgain takes the version line from the library; the client has it already.
// Anything else would come from a library that is not the one known here.
func (w *wire) sayAgain(line []byte) (int, error) {
	if string(line) != w.before.said {
		w.Close()
		return 0, errors.New("the SSH library began with something else than its version")
	}
	w.before.said = ""
	return len(line), nil
}

// readBeforeLogin gives the handshake's turn back, and takes another once there
// is something to work on. For less than aheadSize none is needed: so the
// library reads the client's version and what stands before it.
func (w *wire) readBeforeLogin(p []byte) (n int, err error) {
	b := &w.before
	works := len(p) >= aheadSize
	switch {
	case len(b.ahead) > 0:
		n = b.take(p)
	case works:
		b.seat.give()
		n, err = w.readNoting(p)
	default:
		b.seat.give()
		ahead := make([]byte, aheadSize)
		n, err = w.readNoting(ahead)
		b.ahead = ahead[:n]
		n = b.take(p)
	}
	if n == 0 {
		return 0, err
	}
	if works && !b.seat.take(b.queue()) {
		return 0, net.ErrClosed
	}
	return n, nil // an error comes again
}

// take gives of what was read ahead.
func (b *beforeLogin) take(p []byte) int {
	n := copy(p, b.ahead)
	if b.ahead = b.ahead[n:]; len(b.ahead) == 0 {
		b.ahead = nil // it may be the end of something large
	}
	return n
}

func (w *wire) readNoting(p []byte) (int, error) {
	n, err := w.read(p)
	if n > 0 && !w.before.greeted {
		w.note(append(w.before.seen, p[:n]...))
	}
	return n, err
}

// queue is the one in which the handshake waits for its turn.
func (b *beforeLogin) queue() int {
	if b.shownHostKey() {
		return 1
	}
	return 0
}

// loggedIn ends what is only done before the login.
func (w *wire) loggedIn() {
	w.before.over.Store(true)
	w.before.seat.leave()
}

// shownHostKey reports whether the key exchange came as far as our answer, with
// the host key and its signature in it. Before it, only our version and our
// algorithms are written.
func (b *beforeLogin) shownHostKey() bool { return b.writes.Load() > 2 }

func (w *wire) failed(err error) {
	if !errors.Is(err, net.ErrClosed) && w.lostOnce.CompareAndSwap(false, true) {
		w.lost(err)
	}
}

// SetDeadline does nothing: gliderlabs/ssh clears the deadlines on every read
// and write, which costs and would undo any limit set here. The limits of a
// connection are timers that close it.
func (w *wire) SetDeadline(time.Time) error { return nil }

// silence is how long the client has not been heard.
func (w *wire) silence() time.Duration { return time.Duration(clock() - w.heard.Load()) }

// lostCause tells how a client's bytes ended.
func lostCause(err error) *endCause {
	if err == io.EOF {
		return &endCause{reasonClientGone, "the client closed the connection"}
	}
	return &endCause{reasonClientLost, "the connection to the client was lost: " + err.Error()}
}
