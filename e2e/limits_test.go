//go:build linux

package e2e

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// limitCase is a limit of sekisho.yaml, set low, and a client that goes up to
// it and then one step too far.
type limitCase struct {
	name   string
	limits map[string]any
	try    func(t *testing.T, b *bastion)
}

func TestEveryLimitHoldsAtItsEdge(t *testing.T) {
	t.Parallel()
	for _, c := range limitCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBastion(t, setup{limits: c.limits})
			c.try(t, b)
		})
	}
}

var limitCases = []limitCase{
	{"max_auth_tries", map[string]any{"max_auth_tries": 3}, func(t *testing.T, b *bastion) {
		signers := func(wrong int) (all []ssh.Signer) {
			for range wrong {
				all = append(all, newKey(t, "wrong").signer)
			}
			return append(all, alice(t).signer)
		}
		c, err := b.tryLogin(b.clientConfig("alice", ssh.PublicKeys(signers(3)...)))
		if err != nil {
			t.Fatalf("after three wrong keys: %v", err)
		}
		c.Close()
		if _, err := b.tryLogin(b.clientConfig("alice", ssh.PublicKeys(signers(4)...))); err == nil {
			t.Error("after four wrong keys the right one is still taken")
		}
		r := b.recorded(audit.AuthFail, nil)
		if r.Reason != "too_many_tries" || len(r.Offered) != 4 {
			t.Errorf("the record says %s, with %d keys", r.Reason, len(r.Offered))
		}
	}},
	{"max_startups", map[string]any{"max_startups": 3}, func(t *testing.T, b *bastion) {
		var waiting []net.Conn
		for range 3 {
			waiting = append(waiting, b.knock(t, "127.0.0.1"))
		}
		b.turnedAway(t, "127.0.0.1")
		b.turnedAway(t, "127.0.0.9")
		b.proc.says(t, `connection refused.*max_startups, 3`)
		waiting[0].Close()
		eventually(t, "a place to be free", func() bool {
			c, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t))))
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return err == nil
		})
		// Logged in, it no longer counts.
		b.knock(t, "127.0.0.1").Close()
	}},
	{"max_startups_per_source", map[string]any{"max_startups_per_source": 2}, func(t *testing.T, b *bastion) {
		one := b.knock(t, "127.0.0.1")
		b.knock(t, "127.0.0.1")
		b.turnedAway(t, "127.0.0.1")
		b.proc.says(t, `connection refused.*max_startups_per_source, 2`)
		b.knock(t, "127.0.0.9")
		b.knock(t, "127.0.0.9")
		b.turnedAway(t, "127.0.0.9")
		one.Close()
		eventually(t, "a place to be free", func() bool {
			c, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t))))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}},
	{"max_connections_per_user", map[string]any{"max_connections_per_user": 2}, func(t *testing.T, b *bastion) {
		first := b.login(alice(t))
		b.login(alice(t), "ec2-user")
		b.loginRefused(t, alice(t), "max_connections_per_user, 2")
		b.login(bob(t), "bob")
		first.Close()
		eventually(t, "a place to be free", func() bool {
			_, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t))))
			return err == nil
		})
	}},
	{"max_connections", map[string]any{"max_connections": 2}, func(t *testing.T, b *bastion) {
		b.login(alice(t))
		last := b.login(alice(t))
		b.loginRefused(t, bob(t), "max_connections, 2")
		last.Close()
		eventually(t, "a place to be free", func() bool {
			_, err := b.tryLogin(b.clientConfig("bob", signerAuth(bob(t))))
			return err == nil
		})
	}},
	{"max_forwards_per_connection", map[string]any{"max_forwards_per_connection": 3}, func(t *testing.T, b *bastion) {
		host := serve(t, appserverIP, echo)
		c := b.login(alice(t))
		open := fill(c, host, 3)
		b.forwardRefused(t, c, host, "max_forwards_per_connection, 3")
		b.login(alice(t)).mustOpen("appserver", host.port).echoes() // another has its own
		freed(t, open[1], c, host)
	}},
	{"max_forwards_per_user", map[string]any{"max_forwards_per_user": 3}, func(t *testing.T, b *bastion) {
		host := serve(t, rdsIP, echo)
		c, other := b.login(alice(t)), b.login(alice(t))
		open := fillOn(c, "rds", host, 2)
		fillOn(other, "rds", host, 1)
		for _, full := range []*raw{c, other} {
			if refusal := full.refused("rds", host.port); refusal.Reason != ssh.ResourceShortage || !strings.Contains(refusal.Message, "max_forwards_per_user, 3") {
				t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
			}
		}
		for _, d := range b.denied(2) {
			if d.Reason != "limit" || !strings.Contains(d.Detail, "max_forwards_per_user, 3") {
				t.Errorf("the record says %s (%s)", d.Reason, d.Detail)
			}
		}
		b.login(bob(t), "bob").mustOpen("rds", host.port).echoes()
		open[0].Close()
		eventually(t, "a place to be free", func() bool { _, err := other.open("rds", host.port); return err == nil })
	}},
	{"max_forwards", map[string]any{"max_forwards": 3}, func(t *testing.T, b *bastion) {
		host := serve(t, rdsIP, echo)
		c, other := b.login(alice(t)), b.login(bob(t), "bob")
		open := fillOn(c, "rds", host, 2)
		fillOn(other, "rds", host, 1)
		if refusal := other.refused("rds", host.port); refusal.Reason != ssh.ResourceShortage || !strings.Contains(refusal.Message, "max_forwards, 3") {
			t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
		}
		open[0].Close()
		eventually(t, "a place to be free", func() bool { _, err := other.open("rds", host.port); return err == nil })
	}},
	{"max_pending_dials_per_connection", map[string]any{"max_pending_dials_per_connection": 2, "dial_timeout": "3s"}, func(t *testing.T, b *bastion) {
		dead := deafListener(t, deadIP)
		host := serve(t, appserverIP, echo)
		c := b.login(alice(t))
		answers := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := c.open("dead", dead)
				answers <- err
			}()
		}
		eventually(t, "both dials to be under way", func() bool { return b.count(audit.ForwardOpen) == 2 })
		third := make(chan error, 1) // waits for its turn
		go func() {
			_, err := c.open("appserver", host.port)
			third <- err
		}()
		b.login(alice(t)).mustOpen("appserver", host.port).echoes()
		select {
		case err := <-third:
			t.Errorf("a third dial did not wait: %v", err)
		case <-time.After(time.Second):
		}
		for range 2 {
			if err := receive(t, "the answer about the dead target", answers); err == nil {
				t.Error("the dead target was reached")
			}
		}
		receive(t, "the answer about the third", third)
		c.mustOpen("appserver", host.port).echoes()
	}},
	{"dial_timeout", map[string]any{"dial_timeout": "1500ms"}, func(t *testing.T, b *bastion) {
		dead := deafListener(t, deadIP)
		c := b.login(alice(t))
		began := time.Now()
		refusal := c.refused("dead", dead)
		between(t, "the answer", time.Since(began), 1500*time.Millisecond)
		if refusal.Reason != ssh.ConnectionFailed {
			t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
		}
		b.forwards(1)[0].check(t, want{grant: "dev-web", host: "dead", port: dead, address: deadIP, typ: audit.ForwardFail, reasons: []string{"connect_timeout"}})
	}},
	{"idle_forward", map[string]any{"idle_forward": "2s"}, func(t *testing.T, b *bastion) {
		host := serve(t, appserverIP, echo)
		c := b.login(alice(t))
		busy, idle := c.mustOpen("appserver", host.port), c.mustOpen("appserver", host.port)
		idle.echoes()
		began := time.Now()
		over := make(chan struct{})
		go func() { idle.ends(); close(over) }()
		for waiting := true; waiting; {
			select {
			case <-over:
				waiting = false
			case <-time.After(200 * time.Millisecond):
				busy.echoes()
			}
		}
		between(t, "the end of the idle forward", time.Since(began), 2*time.Second)
		idle.Close()
		busy.echoes()
		busy.Close()
		b.forwards(2)[1].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"idle"}})
	}},
	{"idle_connection", map[string]any{"idle_connection": "2s"}, func(t *testing.T, b *bastion) {
		host := serve(t, appserverIP, echo)
		used, idle := b.login(alice(t)), b.login(alice(t))
		ch := used.mustOpen("appserver", host.port)
		began := time.Now()
		idle.over()
		between(t, "the end of the idle connection", time.Since(began), 2*time.Second)
		ch.echoes() // a forward that is quiet keeps its connection
		b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.Reason == "idle" })
	}},
	{"half_closed", map[string]any{"half_closed": "2s"}, func(t *testing.T, b *bastion) {
		gone := make(chan struct{}, 1)
		host := serve(t, appserverIP, func(c *net.TCPConn) {
			io.WriteString(c, greeting)
			c.CloseWrite()
			io.Copy(io.Discard, c)
			gone <- struct{}{}
		})
		c := b.login(alice(t))
		ch := c.mustOpen("appserver", host.port)
		began := time.Now()
		ch.ends() // of the target's half
		for range 5 {
			if _, err := io.WriteString(ch, "x"); err != nil { // a byte moves: it goes on
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		select {
		case <-gone:
			t.Error("a forward of which one half moves bytes was ended")
		default:
		}
		receive(t, "the target to see the end", gone)
		between(t, "the end", time.Since(began)-2500*time.Millisecond, 1500*time.Millisecond)
		ch.Close()
		b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"half_closed"}, bytes: &tapped{5, uint64(len(greeting))}})
	}},
	{"login_grace", map[string]any{"login_grace": "2s"}, func(t *testing.T, b *bastion) {
		in := b.login(alice(t))
		began := time.Now()
		conn := b.knock(t, "127.0.0.1")
		conn.SetDeadline(time.Now().Add(hang))
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Fatal("a client that does not log in is not sent away")
		}
		between(t, "the end", time.Since(began), 2*time.Second)
		b.recorded(audit.AuthFail, func(r audit.Record) bool { return r.Reason == "login_grace" })
		host := serve(t, appserverIP, echo)
		in.mustOpen("appserver", host.port).echoes() // it is for those before login
	}},
	{"keepalive", map[string]any{"keepalive_interval": "500ms", "keepalive_max_missed": 2}, func(t *testing.T, b *bastion) {
		host := serve(t, appserverIP, echo)
		alive := b.login(alice(t))
		quiet := alive.mustOpen("appserver", host.port)
		conn, err := net.DialTimeout("tcp", b.addr, hang)
		if err != nil {
			t.Fatal(err)
		}
		dead := &deafConn{conn, make(chan struct{})}
		c, err := b.handshake(dead, b.clientConfig("alice", signerAuth(alice(t))))
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan struct{}, 1)
		stuck := serve(t, appserverIP, stalled(gone))
		c.mustOpen("appserver", stuck.port)
		began := time.Now()
		close(dead.deaf) // from now on it says nothing
		receive(t, "the target to see the end", gone)
		between(t, "the end", time.Since(began), 900*time.Millisecond)
		b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.Reason == "keepalive" })
		quiet.echoes()
	}},
}

// between checks that something happened no earlier than limit and not long
// after it.
func between(t *testing.T, what string, took, limit time.Duration) {
	t.Helper()
	if took < limit-50*time.Millisecond || took > limit+promptly {
		t.Errorf("%s came after %v, want %v", what, took, limit)
	}
}

// knock connects from a source and waits for the server's version, and says
// nothing.
func (b *bastion) knock(t *testing.T, from string) net.Conn {
	t.Helper()
	conn, err := b.dialFrom(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if got := readLine(t, conn); !strings.HasPrefix(got, "SSH-2.0-Sekisho") {
		t.Fatalf("a connection from %s reads %q", from, got)
	}
	return conn
}

// turnedAway connects from a source and must be sent away without a word.
func (b *bastion) turnedAway(t *testing.T, from string) {
	t.Helper()
	conn, err := b.dialFrom(from)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(hang))
	if said, err := io.ReadAll(conn); len(said) != 0 || isTimeout(err) {
		t.Errorf("a connection too many from %s reads %q, %v", from, said, err)
	}
}

func (b *bastion) dialFrom(from string) (net.Conn, error) {
	d := net.Dialer{Timeout: hang, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.Dial("tcp", b.addr)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// loginRefused logs in with a good key where a limit stands in the way.
func (b *bastion) loginRefused(t *testing.T, who key, limit string) {
	t.Helper()
	name := "alice"
	if who.fingerprint == bob(t).fingerprint {
		name = "bob"
	}
	config := b.clientConfig(name, signerAuth(who))
	var banner string
	config.BannerCallback = func(text string) error { banner += text; return nil }
	if c, err := b.tryLogin(config); err == nil {
		c.Close()
		t.Fatal("a connection too many logs in")
	}
	if !strings.Contains(banner, limit) {
		t.Errorf("the client is told %q, want %q in it", banner, limit)
	}
	r := b.recorded(audit.AuthFail, nil)
	if r.Reason != "limit" || !strings.Contains(r.Detail, limit) {
		t.Errorf("the record says %s (%s)", r.Reason, r.Detail)
	}
}

func fill(c *raw, host *target, n int) []*channel { return fillOn(c, "appserver", host, n) }

func fillOn(c *raw, name string, host *target, n int) (open []*channel) {
	c.t.Helper()
	for range n {
		ch := c.mustOpen(name, host.port)
		ch.echoes()
		open = append(open, ch)
	}
	return open
}

// forwardRefused asks for a forward where a limit stands in the way.
func (b *bastion) forwardRefused(t *testing.T, c *raw, host *target, limit string) {
	t.Helper()
	before := host.accepted.Load()
	refusal := c.refused("appserver", host.port)
	if refusal.Reason != ssh.ResourceShortage || !strings.Contains(refusal.Message, limit) {
		t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
	}
	d := b.recorded(audit.ForwardDeny, nil)
	if d.Reason != "limit" || !strings.Contains(d.Detail, limit) || d.Target.Host != "appserver" || d.User != "alice" {
		t.Errorf("the record says %s may not reach %s: %s (%s)", d.User, d.Target.Host, d.Reason, d.Detail)
	}
	if n := host.accepted.Load(); n != before {
		t.Error("the target was reached")
	}
}

// freed ends one forward and expects that another one may begin.
func freed(t *testing.T, ends *channel, c *raw, host *target) {
	t.Helper()
	ends.Close()
	eventually(t, "a place to be free", func() bool { _, err := c.open("appserver", host.port); return err == nil })
}

// deafConn is a connection that, once told, neither sends nor hears.
type deafConn struct {
	net.Conn
	deaf chan struct{}
}

func (d *deafConn) Write(p []byte) (int, error) {
	select {
	case <-d.deaf:
		return len(p), nil
	default:
		return d.Conn.Write(p)
	}
}
