package bastion_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// onChannel is a packet about a channel: its number, the channel's, the rest.
func onChannel(msg byte, channel uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{msg}, channel), rest...)
}

// u32 is numbers as they stand in a packet.
func u32(numbers ...uint32) (b []byte) {
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// data is a packet of n bytes for a channel.
func data(channel uint32, n int) []byte {
	return append(append(onChannel(94, channel), u32(uint32(n))...), make([]byte, n)...)
}

// openPacket is a channel open that says how large a packet may be.
func openPacket(kind string, channel, window, most uint32, extra []byte) []byte {
	return append(append([]byte{90}, ssh.Marshal(struct {
		Type                 string
		Channel, Window, Max uint32
	}{kind, channel, window, most})...), extra...)
}

func directExtra(host string, port int) []byte {
	return ssh.Marshal(struct {
		Host           string
		Port           uint32
		OriginatorHost string
		OriginatorPort uint32
	}{host, uint32(port), "127.0.0.1", 0})
}

// channelRequest is a request about a channel that wants an answer.
func channelRequest(channel uint32, kind string) []byte {
	return append([]byte{98}, ssh.Marshal(struct {
		Channel uint32
		Type    string
		Reply   bool
	}{channel, kind, true})...)
}

// openEcho opens a forward to an echo and returns the server's number of it.
func openEcho(t *testing.T, r *bastiontest.Raw, channel uint32, port int) uint32 {
	t.Helper()
	if err := r.OpenTarget(channel, 1<<20, "target", port); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(r.Await(91)[5:])
}

// hasEnded fails the test unless a record tells the end of alice's only
// connection, and returns it.
func hasEnded(t *testing.T, book *bastiontest.Book) audit.Record {
	t.Helper()
	var rec audit.Record
	bastiontest.Eventually(t, "alice's connection is over", func() bool {
		recs := book.Records(audit.ConnClose)
		i := slices.IndexFunc(recs, func(rec audit.Record) bool { return rec.User == "alice" })
		if i >= 0 {
			rec = recs[i]
		}
		return i >= 0
	})
	return rec
}

func TestWhoAsksAndNeverReadsIsEndedAndHarmsNobody(t *testing.T) {
	goroutinesReturn(t)
	port := bastiontest.Target(t, bastiontest.Echo)
	// Those that have more opens than may wait are ended by that, each after the
	// other here; the others, all at once, because they are no longer heard.
	var silenced []flood
	for _, f := range []flood{
		{"opens of unknown channels", nil, func(i uint32) []byte { return openPacket(strings.Repeat("y", 200), i, 1<<20, 1<<15, nil) }, "flood"},
		{"opens of channels with no room for a packet", nil, func(i uint32) []byte { return openPacket("session", i, 1<<20, 0, nil) }, "keepalive"},
		{"opens of sessions", nil, func(i uint32) []byte { return openPacket("session", i, 1<<20, 1<<15, nil) }, "flood"},
		{"opens of what is not granted", nil, func(i uint32) []byte {
			return openPacket("direct-tcpip", i, 1<<20, 1<<15, directExtra("crown-jewels", 22))
		}, "flood"},
		{"opens of a target", nil, func(i uint32) []byte {
			return openPacket("direct-tcpip", i, 1<<20, 1<<15, directExtra("target", port))
		}, "flood"},
		{"opens that cannot be parsed", nil, func(i uint32) []byte { return openPacket("direct-tcpip", i, 1<<20, 1<<15, []byte{1}) }, "flood"},
		{"global requests", nil, func(uint32) []byte { return globalRequest("tcpip-forward", true) }, "keepalive"},
		{"keepalives", nil, func(uint32) []byte { return globalRequest("keepalive@openssh.com", true) }, "keepalive"},
		{"pings", nil, func(uint32) []byte {
			return append([]byte{192}, ssh.Marshal(struct{ Data []byte }{make([]byte, 1000)})...)
		}, "keepalive"},
		{"requests of a session", func(r *bastiontest.Raw) { r.Open("session", 0, 0, nil); r.Await(91) },
			func(uint32) []byte { return channelRequest(0, "env") }, "keepalive"},
		{"requests of a forward", func(r *bastiontest.Raw) { openEcho(t, r, 0, port) },
			func(uint32) []byte { return channelRequest(0, "winadj@putty.projects.tartarus.org") }, "flood"},
		{"requests of no channel", nil, func(uint32) []byte { return channelRequest(7, "env") }, "keepalive"},
	} {
		if f.ends == "keepalive" {
			silenced = append(silenced, f)
			continue
		}
		t.Run(f.name, func(t *testing.T) { neverRead(t, f) })
	}
	t.Run("what is read only while it is answered", func(t *testing.T) { neverRead(t, silenced...) })
}

// A flood is sent by somebody who reads no answer.
type flood struct {
	name   string
	first  func(*bastiontest.Raw)
	packet func(i uint32) []byte
	ends   string // the reason
}

// neverRead lets one client for each flood send it until it is ended.
func neverRead(t *testing.T, floods ...flood) {
	book := bastiontest.NewBook() // whose thousands of records are not all held to the schema
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers, Recorder: recorderFunc(book.Append), Listener: narrow{loopback(t)},
		Limits: func(l *bastion.Limits) { l.KeepaliveInterval, l.KeepaliveMaxMissed = time.Second, 3 },
	})
	w := watch(t, b, nil)
	sent := make([]chan uint32, len(floods))
	sources := make([]netip.AddrPort, len(floods))
	begin := make(chan struct{})
	for i, c := range floods {
		r := logInNarrow(t, b)
		sources[i], sent[i] = r.Conn.LocalAddr().(*net.TCPAddr).AddrPort(), make(chan uint32, 1)
		if c.first != nil {
			c.first(r)
		}
		go func() {
			<-begin
			n := uint32(0)
			for r.Send(c.packet(n)) == nil {
				n++
			}
			sent[i] <- n
		}()
	}
	began := time.Now()
	close(begin)
	time.Sleep(500 * time.Millisecond)
	w.unharmed()
	for i, c := range floods {
		n := <-sent[i]
		var rec audit.Record
		bastiontest.Eventually(t, "the end of who floods with "+c.name, func() bool {
			recs := book.Records(audit.ConnClose)
			j := slices.IndexFunc(recs, func(rec audit.Record) bool { return rec.Source == sources[i] })
			if j >= 0 {
				rec = recs[j]
			}
			return j >= 0
		})
		t.Logf("%s: %d packets; ended after %v: %s, %s", c.name, n, rec.Duration.Round(time.Millisecond), rec.Reason, rec.Detail)
		if rec.Reason != c.ends && rec.Reason != "keepalive" { // which an overloaded machine comes to first
			t.Errorf("%s: it ends as %s, want %s", c.name, rec.Reason, c.ends)
		}
	}
	t.Logf("all are over after %v", time.Since(began))
	w.client.Close()
	gone(t, b)
	if err := bastiontest.CheckForwards(book.Records()); err != nil {
		t.Error(err)
	}
}

// narrow accepts connections that hold few bytes on their way, so that who does
// not read is met sooner.
type narrow struct{ net.Listener }

func (l narrow) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

// logInNarrow is logIn by a client whose end holds few bytes, from the start:
// a window that shrinks later makes TCP drop what the server says of its own.
func logInNarrow(t *testing.T, b *bastiontest.Bastion) *bastiontest.Raw {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
	}}
	conn, err := dialer.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	r := bastiontest.NewRawOver(t, b, conn)
	if !r.Prove("alice", b.Alice) {
		t.Fatal("alice cannot log in")
	}
	return r
}

func TestSingleBytesForATargetThatIsStuckHarmNobody(t *testing.T) {
	goroutinesReturn(t)
	echo := new(net.Dialer)
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers,
		Hosts:  bastiontest.Hosts{"target": {"127.0.0.1"}},
		Dialer: dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":9") {
				stuck, _ := net.Pipe() // takes not one byte
				return stuck, nil
			}
			return echo.DialContext(ctx, network, addr)
		}),
	})
	w := watch(t, b, nil)
	r := logIn(t, b)
	ids := make([]uint32, 4)
	for i := range ids {
		ids[i] = openEcho(t, r, uint32(i), 9)
	}
	sent := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); sent++ {
		if r.Send(data(ids[sent%len(ids)], 1)) != nil {
			break
		}
	}
	t.Logf("%d packets of one byte", sent)
	w.unharmed()
	r.Close()
	hasEnded(t, b.Book)
}

func TestChannelsThatAreNeverClosedHarmNobody(t *testing.T) {
	goroutinesReturn(t)
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Limits: func(l *bastion.Limits) { l.HalfClosed = 2 * time.Second }})
	w := watch(t, b, nil)
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		time.Sleep(100 * time.Millisecond) // until the dial is over, which the reset would fail
		c.SetLinger(0)
	})
	r := logIn(t, b)
	for i := range uint32(100) {
		r.OpenTarget(i, 1<<20, "target", port)
	}
	go func() {
		for {
			if _, err := r.Receive(); err != nil {
				return
			}
		}
	}()
	b.Book.Await(t, audit.ForwardClose, 50)
	w.unharmed()
	if rec := hasEnded(t, b.Book); rec.Reason != "never_closed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

// Each of these is sent by somebody who has a forward to an echo and a window
// on it of 1 MiB.
func TestPacketsThatNobodyAskedFor(t *testing.T) {
	goroutinesReturn(t)
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	w := watch(t, b, nil)
	times := func(n int, packet []byte) [][]byte { return slices.Repeat([][]byte{packet}, n) }
	const goesOn, ends = true, false
	for _, c := range []struct {
		name    string
		packets func(id uint32) [][]byte
		goesOn  bool
	}{
		{"successes of global requests", func(uint32) [][]byte { return times(1000, []byte{81}) }, goesOn},
		{"failures of global requests", func(uint32) [][]byte { return times(1000, []byte{82}) }, goesOn},
		{"successes of channel requests", func(id uint32) [][]byte { return times(1000, onChannel(99, id)) }, goesOn},
		{"failures of channel requests", func(id uint32) [][]byte { return times(1000, onChannel(100, id)) }, goesOn},
		{"a confirmation of an open channel", func(id uint32) [][]byte { return times(1, onChannel(91, id, u32(0, 1<<20, 1<<15)...)) }, ends},
		{"a confirmation of no channel", func(uint32) [][]byte { return times(1, onChannel(91, 77, u32(0, 1<<20, 1<<15)...)) }, ends},
		{"a failure of an open channel", func(id uint32) [][]byte { return times(1, onChannel(92, id, u32(1, 0, 0)...)) }, ends},
		{"a failure of no channel", func(uint32) [][]byte { return times(1, onChannel(92, 77, u32(1, 0, 0)...)) }, ends},
		{"a success of a request of no channel", func(uint32) [][]byte { return times(1, onChannel(99, 77)) }, ends},
		{"an EOF of no channel", func(uint32) [][]byte { return times(1, onChannel(96, 77)) }, ends},
		{"a close of no channel", func(uint32) [][]byte { return times(1, onChannel(97, 77)) }, ends},
		{"a close, twice", func(id uint32) [][]byte { return times(2, onChannel(97, id)) }, ends},
		{"data after a close", func(id uint32) [][]byte { return [][]byte{onChannel(97, id), data(id, 1)} }, ends},
		{"an EOF, a thousand times", func(id uint32) [][]byte { return times(1000, onChannel(96, id)) }, goesOn},
		{"a request of no channel", func(uint32) [][]byte { return times(1, channelRequest(77, "env")) }, goesOn},
		{"a pong", func(uint32) [][]byte { return times(1, []byte{193, 0, 0, 0, 0}) }, ends},
		{"a ping cut short", func(uint32) [][]byte { return times(1, []byte{192, 0}) }, ends},
		{"what is to be ignored", func(uint32) [][]byte { return times(1000, []byte{2, 0, 0, 0, 0}) }, goesOn},
		{"DEBUG", func(uint32) [][]byte { return times(1000, []byte{4, 1, 0, 0, 0, 0, 0, 0, 0, 0}) }, goesOn},
		{"NEWKEYS", func(uint32) [][]byte { return times(1, []byte{21}) }, ends},
		{"a key", func(uint32) [][]byte { return times(1, append(onChannel(30, 32), make([]byte, 32)...)) }, ends},
		{"a service request", func(uint32) [][]byte { return times(1, []byte("\x05\x00\x00\x00\x0cssh-userauth")) }, ends},
		{"another login", func(uint32) [][]byte {
			return times(1, []byte("\x32\x00\x00\x00\x04root\x00\x00\x00\x0essh-connection\x00\x00\x00\x04none"))
		}, ends},
		{"a login's success", func(uint32) [][]byte { return times(1, []byte{52}) }, ends},
		{"an unknown message", func(uint32) [][]byte { return times(1, []byte{255, 1, 2, 3, 4, 5}) }, ends},
		{"an unknown message about the channel", func(id uint32) [][]byte { return times(1, onChannel(255, id)) }, ends},
		{"a message of one byte", func(uint32) [][]byte { return times(1, []byte{94}) }, ends},
		{"an empty message", func(uint32) [][]byte { return times(1, nil) }, ends},
		{"an open cut short", func(uint32) [][]byte { return times(1, []byte{90, 0, 0}) }, ends},
		{"a global request cut short", func(uint32) [][]byte { return times(1, []byte{80, 0, 0}) }, ends},
		{"a disconnect", func(uint32) [][]byte { return times(1, []byte{1, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0}) }, ends},

		{"a window of more than 32 bits", func(id uint32) [][]byte { return times(1, onChannel(93, id, u32(1<<32-1)...)) }, ends},
		{"a window that grows by nothing", func(id uint32) [][]byte { return times(1000, onChannel(93, id, u32(0)...)) }, goesOn},
		{"a window of no channel", func(uint32) [][]byte { return times(1, onChannel(93, 77, u32(1)...)) }, ends},
		{"a window cut short", func(id uint32) [][]byte { return times(1, onChannel(93, id, 1)) }, ends},
		{"more data than a packet may hold", func(id uint32) [][]byte { return times(1, data(id, 1<<15+1)) }, ends},
		{"less data than it says", func(id uint32) [][]byte { return times(1, onChannel(94, id, 0, 0, 0, 9, 'x')) }, ends},
		{"more data than it says", func(id uint32) [][]byte { return times(1, onChannel(94, id, 0, 0, 0, 1, 'x', 'y')) }, ends},
		{"data of no length", func(id uint32) [][]byte { return times(1000, data(id, 0)) }, goesOn},
		{"data of an unknown kind", func(id uint32) [][]byte {
			return times(3000, append(onChannel(95, id), append(u32(7, 1000), make([]byte, 1000)...)...))
		}, goesOn},
		{"more for stderr, which nobody reads, than the window has", func(id uint32) [][]byte {
			return times(3000, append(onChannel(95, id), append(u32(1, 1000), make([]byte, 1000)...)...))
		}, ends},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := logIn(t, b)
			id := openEcho(t, r, 0, port)
			for _, p := range c.packets(id) {
				if r.Send(p) != nil {
					break
				}
			}
			r.Send(globalRequest("are-you-there", true)) // what was sent before is then dealt with
			answered := false
			for {
				got, err := r.Receive()
				if err != nil {
					break
				}
				if answered = got[0] == 82; answered {
					break
				}
			}
			if answered != c.goesOn {
				t.Errorf("the connection goes on: %v", answered)
			}
			r.Close()
		})
	}
	w.unharmed()
	w.client.Close()
	gone(t, b)
	b.Book.Check(t)
	if strings.Contains(b.Lines.String(), "internal error") {
		t.Error("a panic")
	}
}

func TestAWindowIsNeverOverrun(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, pour)
	r := logIn(t, b)
	received := func(n int) {
		t.Helper()
		for got := 0; got < n; {
			d := r.Await(94)
			if got += len(d) - 9; got > n {
				t.Fatalf("%d bytes where the window is %d", got, n)
			}
		}
		// Whatever comes next must not be data.
		r.Send(globalRequest("are-you-there", true))
		for {
			p, err := r.Receive()
			if err != nil || p[0] == 94 {
				t.Fatalf("past the window: %v, %v", p, err)
			}
			if p[0] == 82 {
				return
			}
		}
	}
	r.OpenTarget(0, 0, "target", port)
	id := binary.BigEndian.Uint32(r.Await(91)[5:])
	received(0)
	for _, n := range []uint32{1, 10, 100_000} {
		r.Send(onChannel(93, id, u32(n)...))
		received(int(n))
	}
}

func TestTheSizeOfAPacketThatAClientTakes(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, func(c *net.TCPConn) { c.Write(make([]byte, 200_000)); c.CloseWrite() })
	r := logIn(t, b)
	for i, c := range []struct {
		most   uint32
		serves bool
	}{{0, false}, {1, false}, {8, false}, {9, true}, {1 << 15, true}, {1 << 20, true}, {1 << 31, true}, {1<<31 + 1, false}, {1<<32 - 1, false}} {
		r.Send(openPacket("direct-tcpip", uint32(i), 1<<20, c.most, directExtra("target", port)))
		answer, err := r.Receive()
		for err == nil && (answer[0] == 97 || answer[0] == 96 || answer[0] == 80) { // of the one before; the host keys
			answer, err = r.Receive()
		}
		if err != nil || (answer[0] == 91) != c.serves {
			t.Fatalf("packets of %d bytes: %v, %v", c.most, answer, err)
		}
		if !c.serves {
			continue
		}
		id := binary.BigEndian.Uint32(answer[5:])
		for got := 0; got < 200_000; {
			d := r.Await(94)
			if n := len(d) - 9; n > int(min(c.most, 1<<15*8)) {
				t.Fatalf("a packet of %d bytes, want at most %d", n, c.most)
			} else {
				got += n
			}
		}
		r.Await(96)
		r.Send(onChannel(97, id))
		r.Await(97)
	}
}

func TestDataPastTheWindowEndsTheConnection(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Dialer: dialFunc(func(context.Context, string, string) (net.Conn, error) {
		stuck, _ := net.Pipe()
		return stuck, nil
	})})
	r := logIn(t, b)
	id := openEcho(t, r, 0, 9)
	for range 2<<20/(1<<15) + 8 { // a window, and more than the forward has taken out of it
		r.Send(data(id, 1<<15))
	}
	if rec := hasEnded(t, b.Book); rec.Reason != "protocol_error" || !strings.Contains(rec.Detail, "wrote too much") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if rec := b.Book.Await(t, audit.ForwardClose, 1); bytes.Contains([]byte(rec.Reason), []byte("internal")) {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	b.Book.Check(t)
}

// The names of channels and requests may be as long as a packet, and are kept
// until the refusal is read.
func TestLongNamesThatWaitForTheirRefusalToBeReadAreNotHeld(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	t.Run("a type of channel", func(t *testing.T) {
		b := bastiontest.Start(t, bastiontest.Options{})
		r := logIn(t, b)
		r.Open(long, 0, 1<<20, nil)
		if rec := hasEnded(t, b.Book); rec.Reason != "protocol_error" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	})
	t.Run("requests of a forward", func(t *testing.T) {
		listener := newDeafener(t)
		b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Listener: listener, Limits: func(l *bastion.Limits) { l.KeepaliveInterval = 0 }})
		w := watch(t, b, nil)
		r := logIn(t, b)
		openEcho(t, r, 0, bastiontest.Target(t, bastiontest.Echo))
		listener.deafen(r)
		most := peak(t)
		for n := 0; n < 1100 && r.Send(append([]byte{98}, ssh.Marshal(struct {
			Channel uint32
			Type    string
			Reply   bool
		}{0, long, true})...)) == nil; n++ {
		}
		if rec := hasEnded(t, b.Book); rec.Reason != "flood" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
		if high := most(); high > 30<<20 {
			t.Errorf("%d MiB of heap in use", high>>20)
		}
		w.unharmed()
	})
}
