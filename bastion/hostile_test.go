package bastion_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
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

// pour is a target that sends for as long as it is read.
func pour(c *net.TCPConn) {
	for {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// logIn returns a raw client that is logged in as alice.
func logIn(t *testing.T, b *bastiontest.Bastion) *bastiontest.Raw {
	t.Helper()
	raw := bastiontest.NewRaw(t, b)
	if !raw.Prove("alice", b.Alice) {
		t.Fatal("alice cannot log in")
	}
	return raw
}

func gone(t *testing.T, b *bastiontest.Bastion) {
	t.Helper()
	bastiontest.Eventually(t, "every connection is over", func() bool { return b.Server.Connections() == 0 })
}

func TestASessionWithoutWindowDoesNotWedgeItsConnection(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	for i := range 3 {
		raw := logIn(t, b)
		raw.Open("session", 0, 0, nil)
		raw.Await(91)
		raw.Request(0, "shell")
		for range 40 { // more than a queue of the library holds
			raw.Request(0, "env")
		}
		raw.Close()
		b.Book.Await(t, audit.ConnClose, i+1)
	}
	gone(t, b)
}

func TestASessionThatIsNeverClosedEnds(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.HalfClosed = 200 * time.Millisecond }})
	raw := logIn(t, b)
	raw.Open("session", 0, 0, nil)
	raw.Await(91)
	raw.Request(0, "shell")
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "never_closed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAChannelThatCannotBeConfirmedDoesNotWedgeItsConnection(t *testing.T) {
	for _, kind := range []string{"session", "direct-tcpip"} {
		t.Run(kind, func(t *testing.T) {
			l := &brokenListener{Listener: loopback(t)}
			b := bastiontest.Start(t, bastiontest.Options{Listener: l})
			port := bastiontest.Target(t, bastiontest.Echo)
			raw := logIn(t, b)
			l.broken.Store(true)
			raw.Send(append([]byte{80}, ssh.Marshal(struct {
				Type  string
				Reply bool
			}{"keepalive@openssh.com", true})...)) // its answer is what fails
			bastiontest.Eventually(t, "the server's write has failed", l.failed.Load)
			if kind == "session" {
				raw.Open(kind, 0, 1<<20, nil)
			} else {
				raw.OpenTarget(0, 1<<20, "target", port)
			}
			for range 40 { // more than a queue of the library holds
				raw.Request(0, "env")
			}
			gone(t, b)
			b.Book.Await(t, audit.ConnClose, 1)
		})
	}
}

// brokenListener accepts connections that, once it is broken, cannot be
// written, but still be read for a while after they are closed, as what the
// library had already taken is.
type brokenListener struct {
	net.Listener
	broken, failed atomic.Bool
}

func (l *brokenListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return brokenConn{c, l}, err
}

type brokenConn struct {
	net.Conn
	l *brokenListener
}

func (c brokenConn) Write(p []byte) (int, error) {
	if c.l.broken.Load() {
		c.l.failed.Store(true)
		return 0, errors.New("the network is broken")
	}
	return c.Conn.Write(p)
}

func (c brokenConn) Close() error {
	if !c.l.broken.Load() {
		return c.Conn.Close()
	}
	time.AfterFunc(300*time.Millisecond, func() { c.Conn.Close() })
	return nil
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// awaitFull waits until the client of the first forward, which does not read,
// has all that TCP takes.
func awaitFull(t *testing.T, b *bastiontest.Bastion) {
	t.Helper()
	b.Book.Await(t, audit.ForwardOpen, 1)
	time.Sleep(time.Second)
}

func TestAForwardThatCannotBeConfirmedEndsWithItsPolicyAndInItsTime(t *testing.T) {
	const policy = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: all, hosts: [target], ports: ["1-65535"]}
`
	const grants = "grants:\n  - {name: all, users: [alice], to: [all]}\n"
	for _, byPolicy := range []bool{true, false} {
		b := bastiontest.Start(t, bastiontest.Options{Policy: policy + grants, Limits: func(l *bastion.Limits) {
			if !byPolicy {
				l.DialTimeout = 500 * time.Millisecond
			}
		}})
		full := bastiontest.Target(t, pour)
		ended := make(chan struct{})
		port := bastiontest.Target(t, func(c *net.TCPConn) { io.Copy(io.Discard, c); close(ended) })
		raw := logIn(t, b)
		raw.OpenTarget(0, 1<<31-1, "target", full)
		awaitFull(t, b)
		raw.OpenTarget(1, 1<<20, "target", port)
		b.Book.Await(t, audit.ForwardOpen, 2)
		if byPolicy {
			time.Sleep(50 * time.Millisecond) // into the confirmation
			b.Server.SetPolicy(b.Parse(policy + "grants: []\n"))
		}
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("by policy %v: the target was not told", byPolicy)
		}
		want := "client_gone"
		if byPolicy {
			want = "no_grant"
		}
		if rec := b.Book.Await(t, audit.ForwardFail, 1); rec.Reason != want {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
		raw.Close()
		gone(t, b)
		b.Book.Check(t)
	}
}

func TestASlowNameIsNotTakenForABrokenLog(t *testing.T) {
	slow := make(chan struct{})
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers,
		Config: func(c *bastion.Config) { c.CloseOnLogFailure = true },
		Limits: func(l *bastion.Limits) { l.DialTimeout = 300 * time.Millisecond },
		Hosts: resolverContext(func(ctx context.Context) ([]netip.Addr, error) {
			select {
			case <-slow:
				<-ctx.Done()
			default:
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}),
	})
	port := bastiontest.Target(t, bastiontest.Echo)
	running := mustOpen(t, b.DialAs(b.ClientConfig("bob", b.Bob)), target(port))
	close(slow)
	b.Dial().Dial("tcp", target(port))
	io.WriteString(running, "x")
	if _, err := io.ReadFull(running, make([]byte, 1)); err != nil {
		t.Errorf("bob's forward was cut: %v", err)
	}
}

type resolverContext func(ctx context.Context) ([]netip.Addr, error)

func (f resolverContext) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	return f(ctx)
}

func TestAnAnswerDoesNotWaitForALogThatHangs(t *testing.T) {
	book := bastiontest.NewBook()
	b := bastiontest.Start(t, bastiontest.Options{
		Limits: func(l *bastion.Limits) { l.DialTimeout = 500 * time.Millisecond },
		Recorder: recorderFunc(func(ctx context.Context, rec audit.Record) error {
			if rec.Type == audit.ForwardFail || rec.Type == audit.ForwardDeny {
				<-ctx.Done()
				return ctx.Err()
			}
			return book.Append(ctx, rec)
		}),
		Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }),
	})
	client := b.Dial()
	for _, to := range []string{"target:1", "forbidden:1"} {
		began := time.Now()
		_, err := client.Dial("tcp", to)
		openError(t, err)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s was answered after %v", to, took)
		}
	}
}

func TestWhoLeavesAtOnceDoesNotHideWhatHeTried(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	const times = 30
	for range times {
		raw := logIn(t, b)
		raw.OpenTarget(0, 1<<20, "crown-jewels", 22)
		raw.Close()
	}
	b.Book.Await(t, audit.ForwardDeny, times)
	b.Book.Await(t, audit.ConnClose, times)
	for _, rec := range b.Book.Records(audit.ForwardDeny) {
		if rec.Target.Host != "crown-jewels" || rec.Reason != "no_grant" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
}

func TestAKeyThatIsAcceptedAndNotSignedWithIsToldAsThat(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	raw.Offer("alice", bastiontest.Key(t).PublicKey())
	if !raw.Offer("alice", b.Alice.PublicKey()) {
		t.Fatal("alice's key is not accepted")
	}
	raw.Close() // ^C at the passphrase
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "not_proven" || rec.Key != ssh.FingerprintSHA256(b.Alice.PublicKey()) || len(rec.Offered) != 1 {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAStopInTheMiddleOfALoginIsToldAsThat(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	raw.Offer("alice", b.Alice.PublicKey())
	b.Server.Shutdown(context.Background())
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "drain" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAPublicKeyIsNoOracleOfUserNames(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	raw := bastiontest.NewRaw(t, b)
	for _, login := range []string{"alice", "bob", "carol", ""} {
		if !raw.Offer(login, b.Alice.PublicKey()) {
			t.Errorf("the answer to an offer differs for the login %q", login)
		}
	}
	if raw.Prove("bob", b.Alice) {
		t.Error("alice logged in as bob")
	}
}

func TestWhoBreaksTheProtocolIsToldApart(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := logIn(t, b)
	raw.Send(append(binary.BigEndian.AppendUint32([]byte{94}, 77), 0, 0, 0, 1, 'x')) // data to no channel
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "protocol_error" || !strings.Contains(rec.Detail, "77") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAGrantThatChangesWhileATargetIsDialledIsTold(t *testing.T) {
	const policy = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: a, hosts: [target], ports: ["1-65535"]}
grants:
  - {name: first, users: [alice], to: [a]}
`
	dialling, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := bastiontest.Start(t, bastiontest.Options{Policy: policy, Dialer: dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		once.Do(func() { close(dialling) })
		<-goOn
		return new(net.Dialer).DialContext(ctx, network, addr)
	})})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	opened := make(chan error, 1)
	go func() { _, err := client.Dial("tcp", target(port)); opened <- err }()
	<-dialling
	b.Server.SetPolicy(b.Parse(strings.Replace(policy, "name: first", "name: second", 1)))
	close(goOn)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if rec := b.Book.Await(t, audit.ForwardProgress, 1); rec.Grant != "second" || rec.Reason != "grant_changed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAPolicyThatTakesAwayWhileATargetIsDialledEndsTheDial(t *testing.T) {
	dialling := make(chan struct{})
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialling)
		<-ctx.Done()
		return nil, ctx.Err()
	})})
	client := b.Dial()
	answer := make(chan error, 1)
	go func() { _, err := client.Dial("tcp", "target:1"); answer <- err }()
	<-dialling
	b.Server.SetPolicy(b.Parse(strings.Replace(twoUsers, "users: [alice, bob], to", "users: [bob], to", 1)))
	if refused := openError(t, <-answer); refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, "no grant") {
		t.Errorf("%v", refused)
	}
	if rec := b.Book.Await(t, audit.ForwardFail, 1); rec.Reason != "no_grant" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestTheReasonOfAnOrdinaryEndDoesNotDependOnChance(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, func(c *net.TCPConn) { io.WriteString(c, "bye") })
	raw := logIn(t, b)
	for i := range 50 {
		raw.OpenTarget(uint32(i), 1<<20, "target", port)
		id := raw.Await(91)[5:9]
		raw.Await(96)
		raw.Send(append([]byte{96}, id...)) // EOF and CLOSE together, as OpenSSH does
		raw.Send(append([]byte{97}, id...))
		if rec := b.Book.Await(t, audit.ForwardClose, i+1); rec.Reason != "closed" {
			t.Fatalf("%s", rec.AppendJSON(nil))
		}
	}
}

func TestASilentClientIsAskedAsOftenAsTheLimitSays(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) {
		l.KeepaliveInterval, l.KeepaliveMaxMissed = 300*time.Millisecond, 3
	}})
	raw := logIn(t, b)
	asked := 0
	for {
		packet, err := raw.Receive()
		if err != nil {
			break
		}
		if packet[0] == 80 && bytes.Contains(packet, []byte("keepalive@openssh.com")) {
			asked++
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

func TestAnUploadThatBreaksOffIsNotAnEndForTheTarget(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	saw := make(chan error, 1)
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		saw <- err
	})
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	sc, chans, requests, err := ssh.NewClientConn(conn, b.Addr, b.ClientConfig("alice", b.Alice))
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(sc, chans, requests)
	mustOpen(t, client, target(port)).Write(make([]byte, 100_000))
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	if err := <-saw; err == nil {
		t.Error("the target saw an end in order")
	}
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "client_lost" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestProgressDoesNotPileUpBehindALogThatHangs(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.Progress = 10 * time.Millisecond }})
	port := bastiontest.Target(t, bastiontest.Echo)
	conn := mustOpen(t, b.Dial(), target(port))
	b.Book.Await(t, audit.ForwardProgress, 1)
	release := b.Book.Hold()
	time.Sleep(500 * time.Millisecond)
	before := len(b.Book.Records(audit.ForwardProgress))
	release()
	time.Sleep(5 * time.Millisecond)
	if n := len(b.Book.Records(audit.ForwardProgress)) - before; n > 5 {
		t.Errorf("%d had piled up", n)
	}
	conn.Close()
	b.Book.Await(t, audit.ForwardClose, 1)
	b.Book.Check(t)
}
