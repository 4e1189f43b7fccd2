package bastion

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// descriptors counts the sockets of clients and targets, and refuses those for
// which the process has no descriptor to spare: what is left is for the audit
// log and for commands, so that a server full of clients still writes down
// what they do, and can be asked and told.
//
// They are counted rather than looked up, which would cost more than all else
// that a forward costs, and is too late.
type descriptors struct {
	most int // 0: no bound
	used atomic.Int64
}

// A connection takes one. A forward takes pendingDescriptors until its target
// is connected, since DNS may be asked for IPv4 and IPv6 addresses at once, and
// then one.
const pendingDescriptors = 2

// take takes n and returns nil, or why there are not so many.
func (d *descriptors) take(n int) *endCause {
	if used := d.used.Add(int64(n)); d.most > 0 && used > int64(d.most) {
		d.used.Add(int64(-n))
		return limitCause("descriptors", d.most)
	}
	return nil
}

func (d *descriptors) give(n int) { d.used.Add(int64(-n)) }

// spare is a descriptor that is kept for the moment when there is no other.
// Without one, a connection could not even be taken to be closed: its client
// would hang, and the listener could only be asked again and again.
type spare struct{ file *os.File }

// keep opens it, if it is not.
func (s *spare) keep() {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull) // later, if not now
	}
}

func (s *spare) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// turnAway gives the descriptor up for the next connection to l, which it
// closes, and waits for one for at most patience. It reports whether it could
// wait: then the listener may be asked again at once.
func (s *spare) turnAway(l net.Listener, patience time.Duration) (waited bool) {
	limited, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok || s.file == nil || limited.SetDeadline(time.Now().Add(patience)) != nil {
		return false
	}
	defer limited.SetDeadline(time.Time{})
	s.close()
	conn, err := l.Accept()
	if err == nil {
		conn.Close()
	}
	s.keep()
	return !outOfDescriptors(err) // somebody else has taken it meanwhile
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
