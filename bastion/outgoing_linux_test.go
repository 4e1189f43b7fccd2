package bastion

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// outgoingTo is an outgoing, and the peer that gets its bytes. What fails is in
// the channel.
func outgoingTo(t *testing.T) (o *outgoing, ours, theirs *net.TCPConn, failed chan error) {
	ours, theirs = tcpPair(t)
	failed = make(chan error, 10)
	return newOutgoing(ours, func(err error) { failed <- err }), ours, theirs, failed
}

// crowd makes o take it for likely that several forwards write.
func crowd(o *outgoing) { o.mixed.Store(clock() + int64(time.Hour)) }

// gathered is how many bytes wait.
func gathered(o *outgoing) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

// held has no goroutine write what is gathered.
func held(o *outgoing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushing = true
}

func receives(t *testing.T, conn net.Conn, want []byte) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(guard))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes came, or others: %v", n, len(want), err)
	}
}

func TestWhatWaitsForOthers(t *testing.T) {
	small, large := make([]byte, gatherBelow), make([]byte, gatherBelow+1)
	for _, c := range []struct {
		name   string
		before func(o *outgoing)
		packet []byte
		want   int
	}{
		{"a packet alone does not", func(*outgoing) {}, small, 0},
		{"a small packet where several forwards write does", crowd, small, len(small)},
		{"a large one does not", crowd, large, 0},
		{"nor one after those who wrote by turns have stopped", func(o *outgoing) { o.mixed.Store(clock() - int64(crowdedFor)) }, small, 0},
		{"a small packet behind another does", func(o *outgoing) { crowd(o); o.write(small, nil); o.mixed.Store(0) }, small, 2 * len(small)},
		{"a large packet takes along what waits", func(o *outgoing) { crowd(o); o.write(small, nil) }, large, 0},
		{"so does one for which there is no room", func(o *outgoing) {
			crowd(o)
			for range gatherSize / gatherBelow {
				o.write(small, nil)
			}
		}, small, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _, theirs, _ := outgoingTo(t)
			go io.Copy(io.Discard, theirs)
			held(o)
			c.before(o)
			if err := o.write(c.packet[:5], c.packet[5:]); err != nil {
				t.Fatal(err)
			}
			if n := gathered(o); n != c.want {
				t.Errorf("%d bytes wait, not %d", n, c.want)
			}
		})
	}
}

func TestWhatIsGatheredIsWrittenInOrderAndByItself(t *testing.T) {
	o, ours, theirs, _ := outgoingTo(t)
	random := rand.New(rand.NewPCG(1, 2))
	var sent []byte
	for i := range 3000 {
		p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1+random.IntN(2<<(random.IntN(14))))
		sent = append(sent, p...)
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(2<<(random.IntN(15))))
			switch random.IntN(8) {
			case 0:
				o.mixed.Store(clock())
			case 1:
				o.mixed.Store(0)
			}
			if o.write(rest[:n/3], rest[n/3:n]) != nil {
				ours.Close()
				return
			}
			rest = rest[n:]
		}
	}()
	receives(t, theirs, sent)
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		done := o.buf == nil && o.n == 0 && !o.writing && !o.flushing
		o.mu.Unlock()
		if done {
			break
		}
		if time.Since(began) > guard {
			t.Fatal("something is left behind")
		}
	}
}

func TestACloseGivesTheClientWhatIsGathered(t *testing.T) {
	o, ours, theirs, failed := outgoingTo(t)
	crowd(o)
	held(o)
	o.write([]byte("the last "), []byte("words"))
	o.close()
	ours.Close()
	receives(t, theirs, []byte("the last words"))
	if n, err := theirs.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("then came %d, %v", n, err)
	}
	if err := o.write([]byte("more"), nil); err != net.ErrClosed {
		t.Errorf("a write after that: %v", err)
	}
	o.close() // again
	if len(failed) > 0 {
		t.Errorf("a close is told as a failure: %v", <-failed)
	}
}

// stuffed has a write of so many bytes under way that the peer does not take.
func stuffed(t *testing.T, o *outgoing) (packet []byte, wrote chan error) {
	t.Helper()
	packet, wrote = bytes.Repeat([]byte("stuffed!"), 2<<20), make(chan error, 1)
	go func() { wrote <- o.write(packet, nil) }()
	for began := time.Now(); time.Since(began) < guard; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		writing := o.writing
		o.mu.Unlock()
		if writing {
			return packet, wrote
		}
	}
	t.Fatal("it was never written")
	return nil, nil
}

func TestACloseWaitsForWhatIsBeingWritten(t *testing.T) {
	o, ours, theirs, _ := outgoingTo(t)
	o.drain = guard
	packet, wrote := stuffed(t, o)
	o.write([]byte("the last words"), nil)
	closed := make(chan bool)
	go func() { o.close(); ours.Close(); close(closed) }()
	receives(t, theirs, append(packet, "the last words"...))
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	<-closed
}

func TestACloseWaitsNoLongerThanItsLimit(t *testing.T) {
	o, _, _, failed := outgoingTo(t)
	_, wrote := stuffed(t, o)
	o.write([]byte("never read"), nil)
	waits := make(chan error, 1)
	go func() { waits <- o.write(make([]byte, 2*gatherBelow), nil) }()
	second := make(chan bool)
	go func() { // as when the library closes, too
		time.Sleep(o.drain / 4)
		o.close()
		close(second)
	}()
	o.close()
	<-second
	for _, done := range []chan error{wrote, waits} {
		if err := <-done; err != net.ErrClosed {
			t.Errorf("a write that was under way: %v", err)
		}
	}
	if len(failed) > 0 {
		t.Errorf("our own close is told as a loss: %v", <-failed)
	}
}

func TestOneGoroutineWaitsForAClientThatTakesNothing(t *testing.T) {
	o, ours, _, _ := outgoingTo(t)
	_, wrote := stuffed(t, o)
	before := runtime.NumGoroutine()
	for range 500 {
		o.write([]byte("an answer"), nil)
		runtime.Gosched()
		if n := runtime.NumGoroutine() - before; n > 5 {
			t.Fatalf("%d goroutines more", n)
		}
	}
	ours.Close()
	<-wrote
}

func TestAClientThatTakesNothingHoldsAWriter(t *testing.T) {
	o, ours, _, _ := outgoingTo(t)
	_, wrote := stuffed(t, o)
	const piece = 1 << 10
	gatheredAll := make(chan error)
	go func() {
		var err error
		for err == nil {
			err = o.write(make([]byte, piece), nil)
		}
		gatheredAll <- err
	}()
	for began := time.Now(); gathered(o) < gatherSize; time.Sleep(time.Millisecond) {
		if time.Since(began) > guard {
			t.Fatalf("%d bytes are gathered", gathered(o))
		}
	}
	select {
	case err := <-gatheredAll:
		t.Fatalf("more is taken than there is room for, or %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	ours.Close() // as the end of a connection does
	for _, done := range []chan error{wrote, gatheredAll} {
		select {
		case err := <-done:
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(guard):
			t.Fatal("it still waits")
		}
	}
}

func TestAWriteThatFailsIsToldOnceAndToAllThatFollow(t *testing.T) {
	o, _, theirs, failed := outgoingTo(t)
	abort(theirs)
	crowd(o)
	var err error
	for began := time.Now(); err == nil && time.Since(began) < guard; time.Sleep(time.Millisecond) {
		err = o.write([]byte("x"), nil)
	}
	for range 3 {
		again := o.write([]byte("y"), nil)
		if !errors.Is(again, syscall.ECONNRESET) && !errors.Is(again, syscall.EPIPE) || again != err {
			t.Errorf("%v, then %v", err, again)
		}
	}
	if first := <-failed; first != err || len(failed) > 0 {
		t.Errorf("told: %v, and %d more", first, len(failed))
	}
}

func TestASocketWriterCountsWhatTheSocketTook(t *testing.T) {
	ours, theirs := tcpPair(t)
	w := newSocketWriter(ours)
	sent := bytes.Repeat([]byte("0123456789"), 2<<20)
	ours.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := w.writeAll(sent[:7], nil, sent[7:])
	if !errors.Is(err, os.ErrDeadlineExceeded) || n < 7 || n >= len(sent) {
		t.Fatalf("%d of %d, %v", n, len(sent), err)
	}
	ours.Close()
	if got, err := io.ReadAll(theirs); err != nil || !bytes.Equal(got, sent[:n]) {
		t.Errorf("%d bytes came, %d were counted: %v", len(got), n, err)
	}
}

func TestWhatIsNoSocketIsWrittenAllTheSame(t *testing.T) {
	ours, theirs := net.Pipe()
	o := newOutgoing(ours, func(error) {})
	crowd(o)
	go func() {
		o.write([]byte("in "), []byte("memory"))
		o.write([]byte(", too"), nil)
		ours.Close()
	}()
	if got, err := io.ReadAll(theirs); string(got) != "in memory, too" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
