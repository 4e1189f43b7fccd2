package bastion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	relayBuffer = 32 << 10 // the largest payload of a channel's packet in x/crypto/ssh

	// flushStall is how long a target may take no byte of what a client sent
	// before it closed its channel. Such bytes are still owed to the target,
	// but a target that has stopped reading must not hold a forward.
	flushStall = time.Second

	// writeSettle is how long the end of a forward waits for a write towards
	// a client that has stopped reading, so that its bytes are counted.
	writeSettle = time.Second
)

// flow is what is known of a forward's bytes while it runs.
type flow struct {
	up, down atomic.Uint64 // bytes taken by the target; by the client's channel
	active   atomic.Int64  // when a byte last moved, or a direction ended: Unix ns
	halves   atomic.Int32  // directions that have ended
}

func (f *flow) touch() { f.active.Store(time.Now().UnixNano()) }

// quiet is how long no byte has moved.
func (f *flow) quiet(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, f.active.Load()))
}

// relayed is the state of one running relay.
//
//	client ──Read──▶ copyUp ──Write──▶ target
//	client ◀──Write── copyDown ◀──Read── target
//
// Each direction ends on its own: the end of the client's bytes becomes a
// CloseWrite on the target, and the other way round. The relay is over when
// both have ended, or when one side is gone or broken, or ctx ends.
type relayed struct {
	client Stream
	target net.Conn
	flow   *flow

	up, down chan error // each gets one value: nil for an end in order
	downOver chan struct{}

	upWrite sync.Mutex // held while the target is written and the bytes counted

	downCount sync.Mutex
	counted   bool // the count of down is final; guarded by downCount
}

// relay copies between client and target until the forward is over, closes
// both, and says why it ended. When it returns, the target is closed and the
// counts of flow are final.
func relay(ctx context.Context, client Stream, target net.Conn, flow *flow) *endCause {
	r := &relayed{
		client: client, target: target, flow: flow,
		up: make(chan error, 1), down: make(chan error, 1), downOver: make(chan struct{}),
	}
	flow.touch()
	go r.copyUp()
	go r.copyDown()
	cause := r.wait(ctx)
	return r.finish(cause)
}

// wait returns when the relay is over, with the reason.
func (r *relayed) wait(ctx context.Context) *endCause {
	up, down, gone, done := r.up, r.down, r.client.Gone(), ctx.Done()
	var broken *endCause // the target broke; what it sent before is still delivered
	for up != nil || down != nil {
		select {
		case err := <-up:
			up = nil
			r.halfClosed()
			if err != nil {
				broken = targetCause(err)
			}
		case err := <-down:
			down = nil
			r.halfClosed()
			var side *sideError
			if errors.As(err, &side) && side.target {
				return targetCause(err)
			}
			if broken != nil {
				return broken
			}
			// Otherwise the client failed, and Gone is about to tell, or the
			// end was in order.
		case <-gone:
			// Nothing more can reach the client. What it sent is still owed
			// to the target, for as long as the target takes it.
			r.target.SetReadDeadline(time.Unix(1, 0))
			if up != nil {
				r.target.SetWriteDeadline(time.Now().Add(flushStall))
				<-up
			}
			return causeOf(ctx, &endCause{reasonClientGone, "the client closed its end"})
		case <-done:
			cause := causeOf(ctx, &endCause{reasonClientGone, "the connection ended"})
			if cause.reason == reasonClientGone || cause.reason == reasonClientLost {
				done = nil // the channel is told in a moment: see gone
				continue
			}
			abort(r.target)
			return cause
		}
	}
	return cmp.Or(broken, &endCause{reason: reasonClosed})
}

func (r *relayed) halfClosed() {
	r.flow.touch()
	r.flow.halves.Add(1)
}

func targetCause(err error) *endCause {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return &endCause{reasonTargetReset, "the target reset the connection"}
	}
	return &endCause{reasonTargetReset, err.Error()}
}

// finish closes both ends and waits for the counts to be final.
func (r *relayed) finish(cause *endCause) *endCause {
	r.target.Close()
	r.upWrite.Lock() // a write that was under way has now returned and is counted
	r.upWrite.Unlock()

	// A client that has stopped reading may hold a write, and x/crypto/ssh
	// frees that only when the peer closes the channel or the connection
	// ends. Close the channel beside it, and wait a moment for the count.
	go r.client.Close()
	select {
	case <-r.downOver:
	case <-time.After(writeSettle):
		cause = &endCause{cause.reason, cause.detail + fmt.Sprintf("; the client was not reading: up to %d bytes more may have reached it", relayBuffer)}
	}
	r.downCount.Lock()
	r.counted = true
	r.downCount.Unlock()
	return cause
}

// sideError tells which side a copy failed on.
type sideError struct {
	target bool
	err    error
}

func (e *sideError) Error() string { return e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

var buffers = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

// copyUp copies from client to target until the client's bytes have ended,
// and tells the target so.
func (r *relayed) copyUp() {
	buf := buffers.Get().(*[relayBuffer]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.client.Read(buf[:])
		if werr := r.writeTarget(buf[:n]); werr != nil {
			r.up <- werr
			return
		}
		if err != nil {
			// A client that is lost reads as one that has ended: Gone tells.
			closeWrite(r.target)
			r.up <- nil
			return
		}
	}
}

// writeTarget writes all of p. A write deadline, set once the client is gone,
// is a limit on standing still: it is moved on as long as bytes are taken.
func (r *relayed) writeTarget(p []byte) error {
	r.upWrite.Lock()
	defer r.upWrite.Unlock()
	for len(p) > 0 {
		n, err := r.target.Write(p)
		p = p[n:]
		if n > 0 {
			r.flow.up.Add(uint64(n))
			r.flow.touch()
		}
		if err != nil {
			if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			r.target.SetWriteDeadline(time.Now().Add(flushStall))
		}
	}
	return nil
}

// copyDown copies from target to client until the target's bytes have ended,
// and tells the client so.
func (r *relayed) copyDown() {
	defer close(r.downOver)
	buf := buffers.Get().(*[relayBuffer]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.target.Read(buf[:])
		if n > 0 {
			n, werr := r.client.Write(buf[:n])
			r.countDown(n)
			if werr != nil {
				r.down <- &sideError{false, werr}
				return
			}
		}
		if err == io.EOF {
			r.client.CloseWrite()
			r.down <- nil
			return
		}
		if err != nil {
			r.down <- &sideError{true, err}
			return
		}
	}
}

func (r *relayed) countDown(n int) {
	r.flow.touch()
	r.downCount.Lock()
	defer r.downCount.Unlock()
	if !r.counted {
		r.flow.down.Add(uint64(n))
	}
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// abort closes c so that its peer sees the end at once, even where it has
// stopped reading: with a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
