package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A flow limits what is on its way through one forward. Without it a thousand
// forwards fill the kernel's memory for TCP, since each has sockets whose buffers
// grow to megabytes, and then every connection of the machine loses segments and
// waits until they are sent again. Target and client are of one process, so that
// what has arrived at one is known at the other, and nothing needs to be said on
// the way. The nil flow limits nothing.
type flow struct {
	onTheWay chan struct{} // holds one for each piece
	ended    chan struct{}
	end      func()
	part     int // bytes of the first of these pieces that have arrived
}

// piece is what a flow is counted in.
const piece = 32 << 10

// limited makes a flow, and the request for it.
func (t *target) limited(what byte, limit int64) (request []byte, f *flow) {
	f = &flow{onTheWay: make(chan struct{}, max(limit/piece, 1)), ended: make(chan struct{})}
	n := t.lastFlow.Add(1)
	f.end = sync.OnceFunc(func() {
		t.flows.Delete(n)
		close(f.ended)
	})
	t.flows.Store(n, f)
	if what == sends {
		return ask(sendsFlow, n), f
	}
	return ask(takesFlow, n), f
}

// mayStart waits until one more piece may be on its way.
func (f *flow) mayStart() error {
	if f == nil {
		return nil
	}
	select {
	case <-f.ended:
		return io.EOF
	default:
	}
	select {
	case f.onTheWay <- struct{}{}:
		return nil
	case <-f.ended:
		return io.EOF
	}
}

// arrive says that n bytes more have arrived.
func (f *flow) arrive(n int) {
	if f == nil {
		return
	}
	for f.part += n; f.part >= piece; f.part -= piece {
		<-f.onTheWay
	}
}

// send is the target's part of a download.
func (f *flow) send(conn net.Conn) {
	buf := make([]byte, piece)
	for f.mayStart() == nil {
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// take is the target's part of an upload.
func (f *flow) take(conn net.Conn, taken *atomic.Int64) {
	buf := make([]byte, piece)
	for {
		n, err := conn.Read(buf)
		taken.Add(int64(n))
		f.arrive(n)
		if err != nil {
			return
		}
	}
}
