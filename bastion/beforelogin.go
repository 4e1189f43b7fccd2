package bastion

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// beforeLogin is what a wire does until its client has logged in: between two
// reads the handshake has a turn, and it is noted how far the client came.
type beforeLogin struct {
	seat   *seat
	over   atomic.Bool
	spoke  atomic.Bool  // the client has sent something
	writes atomic.Int32 // to the client

	greeting greeting
	line     string // our version line, which the library is about to write too

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
	b.line = line
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
	if string(line) != w.before.line {
		w.Close()
		return 0, errors.New("the SSH library began with something else than its version")
	}
	w.before.line = ""
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
