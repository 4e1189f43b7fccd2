package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// relayBuffer is four times the largest payload of a channel's packet in
	// x/crypto/ssh, so that the target's socket is read and written less often:
	// with 64 KiB a byte costs 5 % more CPU time, with 256 KiB some 2 % less, but a
	// forward whose client or target stands still holds one.
	relayBuffer = 128 << 10

	// shortBuffer is what a target's answer is first read into: most are short,
	// and a large buffer that a collection has taken from the pool is dear.
	shortBuffer = 8 << 10

	// firstBytes is what a wait for the client's bytes holds, in place of a
	// buffer. What people type fits in.
	firstBytes = 512

	// flushStall is how long a target may take no byte of what a client sent
	// before it went. Such bytes are still owed to the target, but one that
	// has stopped reading must not hold a forward. flushMost bounds the whole
	// for one that reads slowly.
	flushStall = 2 * time.Second
	flushMost  = 10 * time.Minute

	// writeSettle is how long the end of a forward waits for a write towards
	// a client that has stopped reading, so that its bytes are counted.
	writeSettle = time.Second
)

// flow is what is known of a forward's bytes while it runs.
type flow struct {
	up, down atomic.Uint64 // bytes taken by the target's socket; by the client's channel
	active   atomic.Int64  // when a byte last moved, or a direction ended: see clock; 0 before the relay
	halves   atomic.Int32  // directions that have ended
}

func (f *flow) touch() { f.active.Store(clock()) }

// quiet is how long no byte has moved.
func (f *flow) quiet() time.Duration { return time.Duration(clock() - f.active.Load()) }

var epoch = time.Now()

// clock is a time in nanoseconds that runs evenly, whatever is done to the
// machine's clock. It is never 0.
func clock() int64 { return int64(time.Since(epoch)) + 1 }

// relayed is the state of one running relay.
//
//	client ──Read──▶ copyUp ──Write──▶ target
//	client ◀──Write── copyDown ◀──Read── target
//
// Each direction ends on its own: the end of the client's bytes becomes a
// CloseWrite on the target, and the other way round. The relay is over when
// both have ended, or when one side is gone or broken, or when it is cut.
type relayed struct {
	conn   context.Context // the client's connection
	client Stream
	target net.Conn
	flow   *flow

	up, down chan error // each gets one value: nil for an end in order

	downEnded atomic.Bool // the target's bytes ended in order, before the client was told
	downOver  chan struct{}

	upWrite  sync.Mutex // held while the target is written and the bytes counted
	toTarget *socketWriter
	upEnded  atomic.Bool // the target was told that the client's bytes have ended

	downCount sync.Mutex
	counted   bool // the count of down is final; guarded by downCount
}

// relay copies between client and target until the forward is over, closes
// both, and says why it ended. The end of conn is that of the client's
// connection, which the client's Stream tells too; the end of cut is an order
// to end at once, and its cause is the reason. When relay returns, the target
// is closed and the counts of flow are final.
func relay(conn, cut context.Context, client Stream, target net.Conn, flow *flow) *endCause {
	r := &relayed{
		conn: conn, client: client, target: target, flow: flow,
		up: make(chan error, 1), down: make(chan error, 1), downOver: make(chan struct{}),
		toTarget: newSocketWriter(target),
	}
	flow.touch()
	go r.copyUp()
	go r.copyDown()
	return r.finish(r.wait(cut))
}

// wait returns when the relay is over, with the reason.
func (r *relayed) wait(cut context.Context) *endCause {
	up, down := r.up, r.down
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
			switch {
			case errors.As(err, &side) && side.target:
				return targetCause(err)
			case err != nil: // the client has gone, and Gone is about to tell
				return r.flush(cut, up)
			case broken != nil:
				return broken
			}
		case <-r.client.Gone():
			return r.flush(cut, up)
		case <-cut.Done():
			r.abort()
			return causeOf(cut, &endCause{reasonClientGone, "the connection ended"})
		}
	}
	if broken != nil {
		return broken
	}
	return &endCause{reason: reasonClosed}
}

// flush gives the target what the client sent before it went, for as long as
// the target takes it, and then says why the client went. Up is nil if that
// direction has ended already.
//
// A target mostly answers the end by its own, which acknowledges all: so it is
// looked at then, and not only when the ticker comes.
func (r *relayed) flush(cut context.Context, up chan error) *endCause {
	// A client that answers the target's end by closing its channel has ended
	// in order, even if the order in which that is noticed differs.
	orderly := r.downEnded.Load()
	look := time.NewTicker(flushStall / 100)
	defer look.Stop()
	began := time.Now()
	moved, taken, unsent := began, uint64(0), -1 // unlike what the first look sees
	ended := r.downOver
	for {
		if up == nil && unacked(r.target) == 0 {
			if orderly {
				return &endCause{reason: reasonClosed}
			}
			return causeOf(r.conn, &endCause{reasonClientGone, "the client closed its end"})
		}
		select {
		case err := <-up:
			up = nil
			if err != nil {
				return targetCause(err)
			}
		case <-ended:
			ended = nil
		case <-cut.Done():
			r.abort()
			return causeOf(cut, &endCause{reasonClientGone, "the connection ended"})
		case now := <-look.C:
			if t, u := r.flow.up.Load(), unacked(r.target); t != taken || u != unsent {
				taken, unsent, moved = t, u, now
			}
			if now.Sub(moved) >= flushStall || now.Sub(began) >= flushMost {
				r.abort()
				return &endCause{reasonClientGone, "the client closed its end, and the target did not take all that it had sent"}
			}
		}
	}
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
	if r.lost() {
		r.abort() // the client's bytes broke off: that must not look like their end
	}
	r.target.Close()
	r.upWrite.Lock() // a write that was under way has now returned and is counted
	r.upWrite.Unlock()

	// A client that has stopped reading may hold a write, and x/crypto/ssh
	// frees that only when the peer closes the channel or the connection
	// ends. Close the channel beside it, and wait a moment for the count.
	go r.client.Close()
	if !closed(r.downOver) { // as it mostly is: then a timer is only garbage
		select {
		case <-r.downOver:
		case <-time.After(writeSettle):
			cause = &endCause{cause.reason, cause.detail + fmt.Sprintf("; the client was not reading: up to %d bytes more may have reached it", relayBuffer)}
		}
	}
	r.downCount.Lock()
	r.counted = true
	r.downCount.Unlock()
	return cause
}

// closed reports whether done is.
func closed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// abort resets the target's connection. What the target has not taken by then
// it never will, and is not counted.
func (r *relayed) abort() {
	if err := r.target.SetWriteDeadline(time.Unix(1, 0)); err != nil { // ends a write that is under way
		r.target.Close() // so does this, but then nothing more can be asked
	}
	r.upWrite.Lock()
	defer r.upWrite.Unlock()
	n := unacked(r.target)
	if n > 0 && r.upEnded.Load() {
		n-- // the end itself
	}
	r.flow.up.Add(-uint64(n))
	abort(r.target)
}

// lost reports whether the client's connection broke.
func (r *relayed) lost() bool {
	return r.conn.Err() != nil && causeOf(r.conn, &endCause{}).reason == reasonClientLost
}

// sideError tells which side a copy failed on.
type sideError struct {
	target bool
	err    error
}

func (e *sideError) Error() string { return e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

// copyUp copies from client to target until the client's bytes have ended,
// and tells the target so.
func (r *relayed) copyUp() {
	defer panicked(r.up)
	client := clientReader{Stream: r.client}
	client.ready, _ = r.client.(readyStream)
	defer client.lent.giveBack()
	for {
		p, err := client.next()
		if werr := r.writeTarget(p); werr != nil {
			r.up <- werr
			return
		}
		if err != nil {
			if !r.lost() { // which reads as an end, too
				r.upEnded.Store(true)
				closeWrite(r.target)
			}
			r.up <- nil
			return
		}
	}
}

func (r *relayed) writeTarget(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	r.upWrite.Lock()
	defer r.upWrite.Unlock()
	n, err := r.toTarget.Write(p)
	r.flow.up.Add(uint64(n))
	r.flow.touch()
	return err
}

// copyDown copies from target to client until the target's bytes have ended,
// and tells the client so. When the client is gone it goes on reading: a
// socket that is closed with unread bytes in it resets the connection, and
// takes with it what is still on its way to the target.
func (r *relayed) copyDown() {
	defer close(r.downOver)
	defer panicked(r.down)
	target := newTargetReader(r.target)
	defer target.giveBack()
	for {
		p, err := target.next()
		if len(p) > 0 {
			n, werr := r.client.Write(p)
			r.countDown(n)
			if werr != nil {
				target.giveBack()
				r.down <- &sideError{false, werr}
				io.Copy(io.Discard, r.target)
				return
			}
		}
		if err == io.EOF {
			r.downEnded.Store(true)
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

// panicked makes a panic of a copy the error of its direction.
func panicked(direction chan<- error) {
	if p := recover(); p != nil {
		direction <- &sideError{true, fmt.Errorf("internal error: %v\n%s", p, debug.Stack())}
	}
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// abort closes c so that its peer sees the end at once, even where it has
// stopped reading, and does not take it for one in order: with a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
