package main

import "net"

// A flow limits what is on its way from the target to a client. Without it
// thousands of forwards fill the kernel's memory for TCP, since each has a socket
// whose buffers grow to megabytes, and then every connection of the machine loses
// segments and waits for them to be sent again. Target and client are of one
// process, so that what the client has read is known here, and nothing needs to be
// said on the way.
type flow struct {
	sent  chan struct{} // holds one for each piece on its way
	ended chan struct{}
	read  int // bytes of the first of these pieces that the client has
}

// piece is what a flow is counted in.
const piece = 16 << 10

// limited makes a flow. It returns the request for it, what to call with each
// number of bytes that has been read, and what ends it.
func (t *target) limited(limit int64) (request []byte, read func(int), end func()) {
	f := &flow{sent: make(chan struct{}, max(limit/piece, 1)), ended: make(chan struct{})}
	n := t.lastFlow.Add(1)
	t.flows.Store(n, f)
	return ask(flows, n), f.took, func() {
		t.flows.Delete(n)
		close(f.ended)
	}
}

func (f *flow) took(n int) {
	for f.read += n; f.read >= piece; f.read -= piece {
		<-f.sent
	}
}

func (f *flow) send(conn net.Conn) {
	buf := make([]byte, piece)
	for {
		select {
		case f.sent <- struct{}{}:
		case <-f.ended:
			return
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}
