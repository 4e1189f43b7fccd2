package bastion

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAWaitForATargetHoldsNoBuffer(t *testing.T) {
	conn, peer := tcpPair(t)
	target := newTargetReader(conn)
	read := func(want string) {
		t.Helper()
		p, err := target.next()
		if string(p) != want || err != nil {
			t.Fatalf("%q, %v; want %q", p, err, want)
		}
	}
	io.WriteString(peer, "at once")
	read("at once")
	go func() {
		time.Sleep(10 * time.Millisecond)
		io.WriteString(peer, "late")
	}()
	read("late")
	if target.lent.buf != nil {
		t.Error("a short answer took a large buffer")
	}
	long := strings.Repeat("long", 4<<10)
	io.WriteString(peer, long)
	read(long)
	if target.lent.buf == nil {
		t.Error("what was read is nowhere")
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if p, err := target.next(); len(p) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", p, err)
	}
	if target.lent.buf != nil || target.short != nil {
		t.Error("a wait held a buffer")
	}
	conn.SetReadDeadline(time.Time{})
	io.WriteString(peer, "last")
	peer.CloseWrite()
	read("last")
	for range 2 {
		if p, err := target.next(); len(p) > 0 || err != io.EOF {
			t.Errorf("at the end: %q, %v", p, err)
		}
	}
}

func TestWhatEndsAReadOfATarget(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(ours, theirs *net.TCPConn)
		want error
	}{
		{"a reset", func(_, theirs *net.TCPConn) { abort(theirs) }, syscall.ECONNRESET},
		{"our close", func(ours, _ *net.TCPConn) { ours.Close() }, net.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := tcpPair(t)
			target := newTargetReader(ours)
			got := make(chan error, 1)
			go func() {
				_, err := target.next()
				got <- err
			}()
			time.Sleep(10 * time.Millisecond) // it may come before the read, too
			c.end(ours, theirs)
			select {
			case err := <-got:
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			case <-time.After(guard):
				t.Fatal("the read did not end")
			}
		})
	}
}

func TestATargetThatIsNoSocketIsReadAllTheSame(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		io.WriteString(theirs, "in memory")
		theirs.Close()
	}()
	target := newTargetReader(ours)
	if p, err := target.next(); string(p) != "in memory" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	if p, err := target.next(); len(p) > 0 || err != io.EOF {
		t.Errorf("%q, %v", p, err)
	}
}

// packets is a Stream with what came from a client, and an end.
type packets struct {
	Stream
	there bytes.Buffer
	reads int
}

func (p *packets) Ready() bool { return p.there.Len() > 0 }

func (p *packets) Read(b []byte) (int, error) {
	p.reads++
	return p.there.Read(b)
}

func TestAClientsBytesComeInOnePieceAndAWaitHoldsNoBuffer(t *testing.T) {
	client := &packets{}
	r := clientReader{Stream: client, ready: client}
	for _, size := range []int{1, firstBytes - 1, firstBytes, firstBytes + 1, relayBuffer, 10} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		client.there.Write(sent)
		if p, err := r.next(); !bytes.Equal(p, sent) || err != nil {
			t.Errorf("of %d bytes %d came: %v", size, len(p), err)
		}
		if p, err := r.next(); len(p) > 0 || err != io.EOF || r.lent.buf != nil {
			t.Errorf("then %d bytes, %v; a buffer is held: %v", len(p), err, r.lent.buf != nil)
		}
	}

	sent := bytes.Repeat([]byte("upload"), relayBuffer)
	client.there.Write(sent)
	client.reads = 0
	var got []byte
	for {
		p, err := r.next()
		if got = append(got, p...); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came", len(got), len(sent))
	}
	if most := len(sent)/relayBuffer + 3; client.reads > most {
		t.Errorf("%d reads, not %d", client.reads, most)
	}
	if r.lent.buf != nil {
		t.Error("at the end a buffer is held")
	}
}
