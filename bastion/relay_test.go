package bastion

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// guard is how long a test waits for what must happen.
const guard = 30 * time.Second

// tcpPair returns the two ends of a TCP connection on loopback.
func tcpPair(t testing.TB) (ours, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = c.(*net.TCPConn), a.(*net.TCPConn)
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// tcpStream is a Stream over TCP, as a mapped port has one. Like an SSH
// channel it is told beside its bytes that the client has gone.
type tcpStream struct {
	*net.TCPConn
	gone chan struct{}
	once sync.Once
}

func newTCPStream(c *net.TCPConn) *tcpStream {
	return &tcpStream{TCPConn: c, gone: make(chan struct{})}
}

func (s *tcpStream) Gone() <-chan struct{} { return s.gone }
func (s *tcpStream) leave()                { s.once.Do(func() { close(s.gone) }) }
func (s *tcpStream) Close() error          { s.leave(); return s.TCPConn.Close() }

// running is a relay under test between two peers that the test holds.
type running struct {
	client, target *net.TCPConn // the peers' ends
	stream         *tcpStream
	flow           flow
	cancel         context.CancelCauseFunc // cuts the forward
	lose           context.CancelCauseFunc // ends the client's connection
	ended          chan *endCause
}

func start(t testing.TB) *running {
	t.Helper()
	r := &running{ended: make(chan *endCause, 1)}
	ourClient, client := tcpPair(t)
	ourTarget, target := tcpPair(t)
	r.client, r.target, r.stream = client, target, newTCPStream(ourClient)
	cut, cancel := context.WithCancelCause(t.Context())
	conn, lose := context.WithCancelCause(t.Context())
	r.cancel, r.lose = cancel, lose
	go func() { r.ended <- relay(conn, cut, r.stream, ourTarget, &r.flow) }()
	return r
}

func (r *running) wait(t testing.TB) *endCause {
	t.Helper()
	select {
	case cause := <-r.ended:
		return cause
	case <-time.After(guard):
		t.Fatal("the relay did not end")
		return nil
	}
}

func (r *running) counts(t testing.TB, up, down int) {
	t.Helper()
	if u, d := r.flow.up.Load(), r.flow.down.Load(); u != uint64(up) || d != uint64(down) {
		t.Errorf("bytes up %d, down %d; want %d, %d", u, d, up, down)
	}
}

func TestClientEOFReachesTheTargetAndTheWholeAnswerComesBack(t *testing.T) {
	r := start(t)
	answer := bytes.Repeat([]byte("answer"), 50_000)
	go func() {
		question, _ := io.ReadAll(r.target)
		r.target.Write(append(question, answer...))
		r.target.Close()
	}()
	io.WriteString(r.client, "question")
	r.client.CloseWrite()
	got, err := io.ReadAll(r.client)
	if err != nil || string(got) != "question"+string(answer) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if cause := r.wait(t); cause.reason != reasonClosed {
		t.Errorf("ended with %+v", cause)
	}
	r.counts(t, len("question"), len("question")+len(answer))
}

func TestTargetEOFReachesTheClientWhichMayGoOnSending(t *testing.T) {
	r := start(t)
	io.WriteString(r.target, "hello")
	r.target.CloseWrite()
	if got, err := io.ReadAll(r.client); string(got) != "hello" || err != nil {
		t.Fatalf("client got %q, %v", got, err)
	}
	io.WriteString(r.client, "late words")
	r.client.CloseWrite()
	if got, err := io.ReadAll(r.target); string(got) != "late words" || err != nil {
		t.Fatalf("target got %q, %v", got, err)
	}
	if cause := r.wait(t); cause.reason != reasonClosed {
		t.Errorf("ended with %+v", cause)
	}
	r.counts(t, len("late words"), len("hello"))
}

func TestWhatAGoneClientSentIsStillFlushed(t *testing.T) {
	r := start(t)
	sent := bytes.Repeat([]byte{7}, 3<<20) // more than the sockets hold, so it is under way
	go func() {
		r.client.Write(sent)
		r.client.CloseWrite()
	}()
	got := make([]byte, 0, len(sent))
	buf := make([]byte, 4096)
	n, _ := io.ReadFull(r.target, buf)
	got = append(got, buf[:n]...)
	r.stream.leave() // EOF and CLOSE at once, as JSch does
	rest, _ := io.ReadAll(r.target)
	if got = append(got, rest...); !bytes.Equal(got, sent) {
		t.Fatalf("target got %d of %d bytes", len(got), len(sent))
	}
	if cause := r.wait(t); cause.reason != reasonClientGone {
		t.Errorf("ended with %+v", cause)
	}
	r.counts(t, len(sent), 0)
}

func TestAGoneClientFreesAForwardWhoseTargetSaysNothing(t *testing.T) {
	r := start(t)
	r.client.CloseWrite()
	r.stream.leave()
	began := time.Now()
	if cause := r.wait(t); cause.reason != reasonClientGone {
		t.Errorf("ended with %+v", cause)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := r.target.Read(make([]byte, 1)); err == nil {
		t.Error("the target was not told")
	}
}

func TestAGoneClientFreesAForwardWhoseTargetHasStoppedReading(t *testing.T) {
	r := start(t)
	go fill(r.client)
	awaitStill(t, &r.flow)
	began := time.Now()
	r.stream.leave()
	if cause := r.wait(t); cause.reason != reasonClientGone || !strings.Contains(cause.detail, "did not take all") {
		t.Errorf("ended with %+v", cause)
	}
	if took := time.Since(began); took > 10*flushStall {
		t.Errorf("took %v", took)
	}
	// What broke off must not look like an end, and only what the target has
	// is counted.
	n, err := io.Copy(io.Discard, r.target)
	if err == nil {
		t.Error("the target saw an end in order")
	}
	r.counts(t, int(n), 0)
}

func TestAGoneClientsBytesAreFlushedToATargetThatReadsSlowly(t *testing.T) {
	// So slowly that the kernel has no room to give for seconds.
	r := start(t)
	r.target.SetReadBuffer(64 << 10)
	sent := bytes.Repeat([]byte{7}, 3<<20)
	go func() {
		r.client.Write(sent)
		r.client.CloseWrite()
	}()
	got := 0
	buf := make([]byte, 256<<10)
	for i := 0; ; i++ {
		if i == 1 {
			r.stream.leave()
		}
		n, err := io.ReadFull(r.target, buf)
		got += n
		if err != nil {
			break
		}
		time.Sleep(flushStall / 8)
	}
	if got != len(sent) {
		t.Errorf("the target got %d of %d bytes", got, len(sent))
	}
	if cause := r.wait(t); cause.reason != reasonClientGone {
		t.Errorf("ended with %+v", cause)
	}
	r.counts(t, len(sent), 0)
}

func TestAFlushIsCutByWhatCutsAForward(t *testing.T) {
	r := start(t)
	go fill(r.client)
	awaitStill(t, &r.flow)
	r.stream.leave()
	r.cancel(&endCause{"no_grant", "the policy no longer allows it"})
	if cause := r.wait(t); cause.reason != "no_grant" {
		t.Errorf("ended with %+v", cause)
	}
}

func TestAConnectionThatBreaksOffDoesNotLookLikeAnEnd(t *testing.T) {
	r := start(t)
	io.WriteString(r.client, "half a file")
	got := make([]byte, len("half a file"))
	if _, err := io.ReadFull(r.target, got); err != nil {
		t.Fatal(err)
	}
	r.lose(&endCause{reasonClientLost, "reset"})
	r.client.CloseWrite() // as x/crypto/ssh tells it: an end
	r.stream.leave()
	if cause := r.wait(t); cause.reason != reasonClientLost {
		t.Errorf("ended with %+v", cause)
	}
	if _, err := r.target.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the target saw %v", err)
	}
}

func TestAClientThatAnswersTheTargetsEndByClosingHasEndedInOrder(t *testing.T) {
	for range 200 {
		r := start(t)
		io.WriteString(r.target, "all there is")
		r.target.CloseWrite()
		io.ReadAll(r.client)
		r.client.CloseWrite()
		r.stream.leave()
		if cause := r.wait(t); cause.reason != reasonClosed {
			t.Fatalf("ended with %+v", cause)
		}
		r.client.Close()
		r.target.Close()
	}
}

// fill writes until every buffer on the way is full, and then until it fails.
func fill(c net.Conn) {
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

// awaitStill waits until bytes have moved and then stopped moving.
func awaitStill(t testing.TB, f *flow) {
	t.Helper()
	for end := time.Now().Add(guard); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f.up.Load() > 0 && f.quiet() > 300*time.Millisecond {
			return
		}
	}
	t.Fatal("the flow never stood still")
}

func TestATargetThatResetsEndsTheForward(t *testing.T) {
	r := start(t)
	io.WriteString(r.target, "last words")
	if got := make([]byte, 10); true {
		io.ReadFull(r.client, got)
	}
	r.target.SetLinger(0)
	r.target.Close()
	if cause := r.wait(t); cause.reason != reasonTargetReset {
		t.Errorf("ended with %+v", cause)
	}
	if _, err := r.client.Read(make([]byte, 1)); err == nil {
		t.Error("the client was not told")
	}
	r.counts(t, 0, len("last words"))
}

func TestATargetThatAnswersAndStopsReadingLosesNothingOfItsAnswer(t *testing.T) {
	r := start(t)
	answer := bytes.Repeat([]byte("no "), 100_000)
	go func() { // an upload that is refused early: RST follows unread bytes
		r.target.Read(make([]byte, 10))
		r.target.Write(answer)
		r.target.CloseWrite()
		time.Sleep(50 * time.Millisecond)
		r.target.Close()
	}()
	go func() {
		for {
			if _, err := r.client.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	got := make([]byte, len(answer))
	if n, err := io.ReadFull(r.client, got); err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("client got %d of %d bytes: %v", n, len(answer), err)
	}
}

func TestACauseFromOutsideEndsTheForwardAtOnceAndIsItsReason(t *testing.T) {
	for name, stuck := range map[string]bool{"an idle one": false, "one whose target has stopped reading": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			if stuck {
				go fill(r.client)
				awaitStill(t, &r.flow)
			}
			began := time.Now()
			r.cancel(&endCause{"no_grant", "the policy no longer allows it"})
			r.target.SetReadDeadline(time.Now().Add(guard))
			io.Copy(io.Discard, r.target)
			if took := time.Since(began); took > time.Second {
				t.Errorf("the target was told after %v", took)
			}
			if cause := r.wait(t); cause.reason != "no_grant" {
				t.Errorf("ended with %+v", cause)
			}
		})
	}
}

func TestAClientThatHasStoppedReadingDoesNotHoldTheEnd(t *testing.T) {
	// A Stream whose Write never returns, as that of an SSH channel without
	// window does not, even after Close.
	target, peer := tcpPair(t)
	stream := &stuckStream{gone: make(chan struct{}), wrote: make(chan struct{}), release: make(chan struct{})}
	t.Cleanup(func() { close(stream.release) })
	ctx, cancel := context.WithCancelCause(t.Context())
	var f flow
	ended := make(chan *endCause, 1)
	go func() { ended <- relay(t.Context(), ctx, stream, target, &f) }()
	io.WriteString(peer, "words nobody takes")
	<-stream.wrote
	cancel(&endCause{"no_grant", "ended"})
	select {
	case cause := <-ended:
		if cause.reason != "no_grant" || !bytes.Contains([]byte(cause.detail), []byte("not reading")) {
			t.Errorf("ended with %+v", cause)
		}
	case <-time.After(guard):
		t.Fatal("the relay did not end")
	}
	if f.down.Load() != 0 {
		t.Errorf("bytes_down is %d", f.down.Load())
	}
}

type stuckStream struct {
	gone, wrote, release chan struct{}
	once                 sync.Once
}

func (s *stuckStream) Read([]byte) (int, error) { <-s.release; return 0, io.EOF }
func (s *stuckStream) Write([]byte) (int, error) {
	s.once.Do(func() { close(s.wrote) })
	<-s.release
	return 0, io.EOF
}
func (s *stuckStream) CloseWrite() error     { return nil }
func (s *stuckStream) Close() error          { return nil }
func (s *stuckStream) Gone() <-chan struct{} { return s.gone }

// TestRandomStreamsArriveWhole runs streams in random chunks in both
// directions at once, whose halves end in random order.
func TestRandomStreamsArriveWhole(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range rounds {
		up, down := randomBytes(random), randomBytes(random)
		r := start(t)
		errs := make(chan error, 4)
		upChunks, downChunks := rand.New(rand.NewPCG(seed, uint64(2*i))), rand.New(rand.NewPCG(seed, uint64(2*i+1)))
		go func() { errs <- sendChunks(r.client, up, upChunks) }()
		go func() { errs <- sendChunks(r.target, down, downChunks) }()
		go func() { errs <- receive(r.target, up) }()
		go func() { errs <- receive(r.client, down) }()
		for range 4 {
			select {
			case err := <-errs:
				if err != nil {
					t.Fatalf("round %d: %v", i, err)
				}
			case <-time.After(guard):
				t.Fatalf("round %d stands still", i)
			}
		}
		if cause := r.wait(t); cause.reason != reasonClosed {
			t.Fatalf("round %d ended with %+v", i, cause)
		}
		r.counts(t, len(up), len(down))
		r.client.Close()
		r.target.Close()
	}
}

func randomBytes(random *rand.Rand) []byte {
	size := random.IntN(1 << random.IntN(18))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func sendChunks(c *net.TCPConn, b []byte, random *rand.Rand) error {
	for len(b) > 0 {
		n := min(len(b), 1+random.IntN(1<<random.IntN(17)))
		if _, err := c.Write(b[:n]); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		b = b[n:]
	}
	return c.CloseWrite()
}

func receive(c *net.TCPConn, want []byte) error {
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("receiving: %w", err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		return errors.New("other bytes arrived than were sent")
	}
	return nil
}
