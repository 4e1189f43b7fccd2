package bastion_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// stuckPort is that of a target which takes nothing, not even into a socket.
const stuckPort = 1

// withStuckTarget is a Dialer that has one.
func withStuckTarget(t *testing.T) bastion.Dialer {
	return dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "127.0.0.1:1" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		return ours, nil
	})
}

// peak is the most memory that the heap has while it is watched. The clients
// of a test are in the same process, and so counted too.
func peak(t *testing.T) (most func() uint64) {
	t.Helper()
	was := debug.SetGCPercent(20) // what is garbage hides what is held
	runtime.GC()                  // and so does that of other tests
	t.Cleanup(func() { debug.SetGCPercent(was) })
	var high atomic.Uint64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			high.Store(max(high.Load(), m.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	end := sync.OnceFunc(func() { close(stop); watching.Wait() })
	t.Cleanup(end)
	return func() uint64 { end(); return high.Load() }
}

// inBulk makes raw send its packets many at a time, until flush.
func inBulk(raw *bastiontest.Raw) (flush func() error) {
	bulk := &bulkConn{Conn: raw.Conn}
	raw.Conn = bulk
	return bulk.flush
}

type bulkConn struct {
	net.Conn
	bytes []byte
}

func (c *bulkConn) Write(p []byte) (int, error) {
	c.bytes = append(c.bytes, p...)
	if len(c.bytes) < 64<<10 {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *bulkConn) flush() error {
	_, err := c.Conn.Write(c.bytes)
	c.bytes = c.bytes[:0]
	return err
}

// dataPacket is one that carries payload on a channel; extended, as what a
// program would write to stderr.
func dataPacket(channel uint32, extended bool, payload []byte) []byte {
	p := binary.BigEndian.AppendUint32([]byte{94}, channel)
	if extended {
		p = binary.BigEndian.AppendUint32(p, 1)
		p[0] = 95
	}
	p = binary.BigEndian.AppendUint32(p, uint32(len(payload)))
	return append(p, payload...)
}

// beside is a forward of another connection; it must not notice anything.
func beside(t *testing.T, b *bastiontest.Bastion) (works func()) {
	t.Helper()
	conn := mustOpen(t, b.Dial(), target(bastiontest.Target(t, bastiontest.Echo)))
	return func() {
		t.Helper()
		began := time.Now()
		io.WriteString(conn, "x")
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Errorf("the forward of a bystander: %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the forward of a bystander took %v for a byte", took)
		}
	}
}

func TestTinyPacketsToATargetThatDoesNotTakeThemEndTheirConnection(t *testing.T) {
	for name, extended := range map[string]bool{"data": false, "extended data": true} {
		t.Run(name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Dialer: withStuckTarget(t), Limits: func(l *bastion.Limits) { l.MaxBacklogPerConnection = 16 << 20 }})
			works := beside(t, b)
			most := peak(t)
			raw := logIn(t, b)
			raw.OpenTarget(0, 1<<20, "target", stuckPort)
			raw.Await(91)
			flush := inBulk(raw)
			packet := dataPacket(0, extended, []byte("x"))
			sent := 0
			for sent < 2<<20 && raw.Send(packet) == nil { // the window of one channel
				sent++
				if sent%(64<<10) == 0 {
					works()
				}
			}
			flush()
			rec := b.Book.Await(t, audit.ConnClose, 1)
			if rec.Reason != "backlog" || !strings.Contains(rec.Detail, "max_backlog_per_connection, 16 MiB") {
				t.Errorf("%s", rec.AppendJSON(nil))
			}
			if high := most(); high > 80<<20 {
				t.Errorf("%d MiB of heap in use for %d packets", high>>20, sent)
			} else {
				t.Logf("at most %d MiB of heap in use, for %d packets", high>>20, sent)
			}
			works()
		})
	}
}

// upload opens a forward to the target that takes nothing and sends as much as
// the client's window lets it: 2 MiB, and what the relay has taken.
func upload(t *testing.T, client *ssh.Client) {
	t.Helper()
	conn := mustOpen(t, client, target(stuckPort))
	var sent atomic.Int64
	go func() {
		for {
			n, err := conn.Write(make([]byte, 32<<10))
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	bastiontest.Eventually(t, "the window is full", func() bool { return sent.Load() >= 2<<20 })
}

func TestManyHonestUploadsThatStandStillAreLeftAlone(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Dialer: withStuckTarget(t)})
	client := b.Dial()
	busy := mustOpen(t, client, target(bastiontest.Target(t, bastiontest.Echo)))
	exchange := func() error { // 40 MiB, so that what is held is counted
		buf := make([]byte, 1<<20)
		for range 40 {
			go busy.Write(make([]byte, len(buf)))
			if _, err := io.ReadFull(busy, buf); err != nil {
				return err
			}
		}
		return nil
	}
	for range 30 {
		upload(t, client)
	}
	if err := exchange(); err != nil {
		t.Fatalf("30 uploads stood still: %v", err)
	}
	if got := b.Book.Records(audit.ConnClose); len(got) > 0 {
		t.Fatalf("30 uploads stood still: %s", got[0].AppendJSON(nil))
	}
	for range 4 {
		if conn, err := client.Dial("tcp", target(stuckPort)); err == nil {
			go conn.Write(make([]byte, 4<<20))
		}
	}
	go exchange()
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "backlog" {
		t.Errorf("34 uploads stood still: %s", rec.AppendJSON(nil))
	}
}

func TestOfAllConnectionsTheOneThatHoldsTheMostEndsFirst(t *testing.T) {
	policy := strings.Replace(strings.Replace(twoUsers, "[alice]", "[alice, bob]", 1), "[bob]", "[alice, bob]", 1)
	b := bastiontest.Start(t, bastiontest.Options{Policy: policy, Dialer: withStuckTarget(t), Config: func(c *bastion.Config) { c.MaxBacklog = 20 << 20 }})
	small, large := b.Dial(), b.DialAs(b.ClientConfig("bob", b.Bob))
	running := mustOpen(t, small, target(bastiontest.Target(t, bastiontest.Echo)))
	for range 3 {
		upload(t, small)
	}
	for range 6 {
		upload(t, large)
	}
	time.Sleep(time.Second) // 18 of 20 MiB: several looks
	if got := b.Book.Records(audit.ConnClose); len(got) > 0 {
		t.Fatalf("%s", got[0].AppendJSON(nil))
	}
	for range 2 {
		if conn, err := small.Dial("tcp", target(stuckPort)); err == nil {
			go conn.Write(make([]byte, 4<<20))
		}
	}
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "backlog" || rec.User != "bob" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	time.Sleep(time.Second)
	io.WriteString(running, "x")
	if _, err := io.ReadFull(running, make([]byte, 1)); err != nil {
		t.Errorf("the other connection was ended too: %v", err)
	}
}

// What is large and waits for an answer that its client does not read.
func TestLargeRequestsOfAClientThatDoesNotReadAreBounded(t *testing.T) {
	large := make([]byte, 200<<10)
	for name, c := range map[string]struct {
		send func(raw *bastiontest.Raw, i uint32) error
		want string
	}{
		"channel opens": {func(raw *bastiontest.Raw, i uint32) error {
			return raw.Open("direct-tcpip", i, 1<<20, large)
		}, "backlog"},
		"requests of a forward": {func(raw *bastiontest.Raw, i uint32) error {
			return raw.Send(append(append([]byte{98}, ssh.Marshal(struct {
				Channel uint32
				Type    string
				Reply   bool
			}{0, "winadj@putty.projects.tartarus.org", true})...), large[:32<<10]...))
		}, "flood"},
		"global requests": {func(raw *bastiontest.Raw, i uint32) error {
			return raw.Send(append(append([]byte{80}, ssh.Marshal(struct {
				Type  string
				Reply bool
			}{"tcpip-forward", true})...), large...))
		}, "keepalive"},
	} {
		t.Run(name, func(t *testing.T) {
			listener := newDeafener(t)
			b := bastiontest.Start(t, bastiontest.Options{Listener: listener, Limits: func(l *bastion.Limits) {
				l.KeepaliveInterval = 0
				if c.want == "keepalive" {
					l.KeepaliveInterval, l.KeepaliveMaxMissed = 2*time.Second, 1
				}
			}})
			works := beside(t, b)
			raw := logIn(t, b)
			openEcho(t, raw, 0, bastiontest.Target(t, bastiontest.Echo))
			listener.deafen(raw)
			most := peak(t)
			sent := uint32(0)
			for sent < 4000 && c.send(raw, sent+1) == nil {
				sent++
			}
			rec := b.Book.Await(t, audit.ConnClose, 1)
			if rec.Reason != c.want {
				t.Errorf("%s", rec.AppendJSON(nil))
			}
			if high := most(); high > 250<<20 {
				t.Errorf("%d MiB of heap in use for %d requests", high>>20, sent)
			} else {
				t.Logf("at most %d MiB of heap in use, for %d requests", high>>20, sent)
			}
			works()
		})
	}
}

func TestWhatComesBeforeALoginIsBounded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	for raw.Send(append([]byte{2}, make([]byte, 30<<10)...)) == nil { // SSH_MSG_IGNORE
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "login_bytes" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAnAgentFullOfLargeCertificatesStillLogsIn(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	var signers []ssh.Signer
	for range 20 {
		key := bastiontest.Key(t)
		cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
		for range 200 {
			cert.ValidPrincipals = append(cert.ValidPrincipals, "a-principal-of-thirty-letters")
		}
		if err := cert.SignCert(zeros{}, bastiontest.Key(t)); err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, signer)
	}
	b.DialAs(b.ClientConfig("alice", append(signers, b.Alice)...))
}

// zeros is a source of what need not be random.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
