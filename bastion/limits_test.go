package bastion_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// hold is a target that keeps its connections.
func hold(c *net.TCPConn) { io.Copy(io.Discard, c); time.Sleep(10 * time.Millisecond) }

func TestForwardLimitsAtTheirEdge(t *testing.T) {
	for name, set := range map[string]func(*bastion.Limits){
		"max_forwards":                func(l *bastion.Limits) { l.MaxForwards = 3 },
		"max_forwards_per_user":       func(l *bastion.Limits) { l.MaxForwardsPerUser = 3 },
		"max_forwards_per_connection": func(l *bastion.Limits) { l.MaxForwardsPerConnection = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Limits: set})
			port := bastiontest.Target(t, hold)
			client := b.Dial()
			var last net.Conn
			for range 3 {
				last = mustOpen(t, client, target(port))
			}
			_, err := client.Dial("tcp", target(port))
			if refused := openError(t, err); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, name+", 3") {
				t.Errorf("the fourth: %v", refused)
			}
			if rec := b.Book.Await(t, audit.ForwardDeny, 1); rec.Reason != "limit" || rec.Detail != name+", 3" {
				t.Errorf("%s", rec.AppendJSON(nil))
			}
			last.Close()
			bastiontest.Eventually(t, "there is room again", func() bool {
				_, err := client.Dial("tcp", target(port))
				return err == nil
			})
			// The limit is full again; whose it is shows on another connection.
			other := b.Dial()
			_, err = other.Dial("tcp", target(port))
			if (err == nil) != (name == "max_forwards_per_connection") {
				t.Errorf("on another connection: %v", err)
			}
		})
	}
}

func TestPendingDialsLimitAtItsEdge(t *testing.T) {
	var dialling atomic.Int32
	release := make(chan struct{})
	b := bastiontest.Start(t, bastiontest.Options{
		Limits: func(l *bastion.Limits) { l.MaxPendingDialsPerConnection, l.DialTimeout = 3, 2*time.Second },
		Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialling.Add(1)
			defer dialling.Add(-1)
			select {
			case <-release:
				return nil, syscall.ECONNREFUSED
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}),
	})
	client := b.Dial()
	answers := make(chan error, 5)
	for range 5 {
		go func() {
			_, err := client.Dial("tcp", "target:1")
			answers <- err
		}()
	}
	b.Book.Await(t, audit.ForwardOpen, 3)
	time.Sleep(100 * time.Millisecond)
	if n := dialling.Load(); n != 3 {
		t.Errorf("%d dials at once", n)
	}
	// The others wait for their turn, and have it when there is room.
	close(release)
	for range 5 {
		if refused := openError(t, <-answers); !strings.Contains(refused.Message, "refused the connection") {
			t.Errorf("%v", refused)
		}
	}
}

func TestADialThatHasWaitedTooLongForItsTurnIsRefused(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers,
		Limits: func(l *bastion.Limits) { l.MaxPendingDialsPerConnection, l.DialTimeout = 1, 300*time.Millisecond },
		Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			time.Sleep(time.Second) // a dialer that does not heed its limit
			return nil, syscall.ECONNREFUSED
		}),
	})
	client := b.Dial()
	answers := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := client.Dial("tcp", "target:1")
			answers <- err
		}()
	}
	if refused := openError(t, <-answers); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, "max_pending_dials_per_connection, 1") {
		t.Errorf("%v", refused)
	}
	openError(t, <-answers)
}

func TestStartupLimitsAtTheirEdge(t *testing.T) {
	for name, set := range map[string]func(*bastion.Limits){
		"max_startups":            func(l *bastion.Limits) { l.MaxStartups = 3 },
		"max_startups_per_source": func(l *bastion.Limits) { l.MaxStartupsPerSource = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Limits: set})
			var silent []net.Conn
			for range 3 {
				c, err := net.Dial("tcp", b.Addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(bastiontest.Wait))
				if _, err := c.Read(make([]byte, 8)); err != nil { // the version: it is in
					t.Fatal(err)
				}
				silent = append(silent, c)
			}
			fourth, err := net.Dial("tcp", b.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer fourth.Close()
			fourth.SetDeadline(time.Now().Add(bastiontest.Wait))
			if n, err := fourth.Read(make([]byte, 8)); n != 0 || err == nil {
				t.Errorf("the fourth got %d bytes, %v", n, err)
			}
			bastiontest.Eventually(t, "a line says so", func() bool { return strings.Contains(b.Lines.String(), name+", 3") })
			silent[0].Close()
			bastiontest.Eventually(t, "there is room again", func() bool { return dial(b, b.ClientConfig("alice", b.Alice)) == nil })
			// Who is logged in does not count: with two silent ones, many can
			// be logged in at once.
			for range 5 {
				b.Dial()
			}
		})
	}
}

func TestConnectionLimitsAtTheirEdge(t *testing.T) {
	for name, set := range map[string]func(*bastion.Limits){
		"max_connections":          func(l *bastion.Limits) { l.MaxConnections = 3 },
		"max_connections_per_user": func(l *bastion.Limits) { l.MaxConnectionsPerUser = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Limits: set})
			var last *ssh.Client
			for range 3 {
				last = b.Dial()
			}
			banner := ""
			config := b.ClientConfig("alice", b.Alice)
			config.BannerCallback = func(message string) error { banner = message; return nil }
			if dial(b, config) == nil || !strings.Contains(banner, name+", 3") {
				t.Errorf("the fourth got in, or was told %q", banner)
			}
			if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "limit" || !strings.Contains(rec.Detail, name) {
				t.Errorf("%s", rec.AppendJSON(nil))
			}
			if err := dial(b, b.ClientConfig("bob", b.Bob)); (err == nil) != (name == "max_connections_per_user") {
				t.Errorf("another user: %v", err)
			}
			last.Close()
			bastiontest.Eventually(t, "there is room again", func() bool { return dial(b, b.ClientConfig("alice", b.Alice)) == nil })
		})
	}
}

func TestFiftyLoginsAtOnceAreAllServed(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	errs := make(chan error, 50)
	for range 50 {
		go func() { errs <- dial(b, b.ClientConfig("alice", b.Alice)) }()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestIdleForwardEndsAndABusyOneDoesNot(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.IdleForward = 400 * time.Millisecond }})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	idle, busy := mustOpen(t, client, target(port)), mustOpen(t, client, target(port))
	ended := make(chan error, 1)
	go func() { _, err := idle.Read(make([]byte, 1)); ended <- err }()
	for range 12 {
		time.Sleep(100 * time.Millisecond)
		if _, err := io.WriteString(busy, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(busy, make([]byte, 1)); err != nil {
			t.Fatalf("the busy one: %v", err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("the idle one got a byte")
	}
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "idle" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestHalfClosedForwardEndsAndAWholeOneDoesNot(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.HalfClosed = 300 * time.Millisecond }})
	port := bastiontest.Target(t, func(c *net.TCPConn) { c.Read(make([]byte, 1)); c.CloseWrite(); io.Copy(io.Discard, c) })
	client := b.Dial()
	whole, half := mustOpen(t, client, target(port)), mustOpen(t, client, target(port))
	io.WriteString(half, "x") // as a GUI that never sends EOF
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "half_closed" || rec.BytesUp != 1 {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	half.Close()
	time.Sleep(600 * time.Millisecond)
	if _, err := io.WriteString(whole, "x"); err != nil || b.Server.Forwards() != 1 {
		t.Errorf("the whole one: %v", err)
	}
}

func TestIdleConnectionEndsAndOneWithAForwardDoesNot(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.IdleConnection = 300 * time.Millisecond }})
	port := bastiontest.Target(t, bastiontest.Echo)
	busy, idle := b.Dial(), b.Dial()
	conn := mustOpen(t, busy, target(port))
	idle.Wait()
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "idle" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	io.WriteString(conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("the one with a forward: %v", err)
	}
}

func TestClientThatIsNoLongerHeardIsEndedWithItsForwards(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) {
		l.KeepaliveInterval, l.KeepaliveMaxMissed = 100*time.Millisecond, 3
	}})
	told := make(chan struct{})
	port := bastiontest.Target(t, func(c *net.TCPConn) { io.Copy(io.Discard, c); close(told) })

	heard := b.Dial() // answers keepalives and says nothing else
	raw := bastiontest.NewRaw(t, b)
	if !raw.Prove("bob", b.Alice) {
		t.Fatal("login")
	}
	if err := raw.OpenTarget(0, 1<<20, "target", port); err != nil {
		t.Fatal(err)
	}
	b.Book.Await(t, audit.ForwardOpen, 1) // and from now on it reads and answers nothing
	select {
	case <-told:
	case <-time.After(bastiontest.Wait):
		t.Fatal("the target was not told")
	}
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "keepalive" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "keepalive" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if _, _, err := heard.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("the one that answers: %v", err)
	}
}

func TestAChannelThatTheClientNeverClosesIsHeldAgainstItAndThenEndsIt(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) {
		l.HalfClosed, l.MaxForwardsPerConnection, l.KeepaliveInterval = 500*time.Millisecond, 1, 0
	}})
	port := bastiontest.Target(t, func(c *net.TCPConn) { c.Write([]byte("x")); c.Read(make([]byte, 1)); c.SetLinger(0) })
	raw := bastiontest.NewRaw(t, b)
	if !raw.Prove("alice", b.Alice) {
		t.Fatal("login")
	}
	open := func(channel uint32) {
		t.Helper()
		if err := raw.OpenTarget(channel, 1<<20, "target", port); err != nil {
			t.Fatal(err)
		}
	}
	open(0)
	id := binary.BigEndian.Uint32(raw.Await(91)[5:]) // confirmed: our number of the channel
	raw.Send(append([]byte{94}, ssh.Marshal(struct {
		Channel uint32
		Data    string
	}{id, "now reset"})...))
	b.Book.Await(t, audit.ForwardClose, 1)
	open(1)
	if rec := b.Book.Await(t, audit.ForwardDeny, 1); !strings.Contains(rec.Detail, "max_forwards_per_connection") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "never_closed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestProgressIsRecordedWhileAForwardRuns(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.Progress = 100 * time.Millisecond }})
	port := bastiontest.Target(t, bastiontest.Echo)
	conn := mustOpen(t, b.Dial(), target(port))
	io.WriteString(conn, "12345")
	io.ReadFull(conn, make([]byte, 5))
	bastiontest.Eventually(t, "progress with the bytes", func() bool {
		recs := b.Book.Records(audit.ForwardProgress)
		return len(recs) > 1 && recs[len(recs)-1].BytesUp == 5 && recs[len(recs)-1].BytesDown == 5
	})
	conn.Close()
	b.Book.Await(t, audit.ForwardClose, 1)
	n := len(b.Book.Records(audit.ForwardProgress))
	time.Sleep(300 * time.Millisecond)
	if more := len(b.Book.Records(audit.ForwardProgress)); more != n {
		t.Error("progress after the end")
	}
	b.Book.Check(t)
}
