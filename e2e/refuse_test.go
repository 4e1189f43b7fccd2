//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// promptly is a guard against refusals that hang until some timeout.
const promptly = 8 * time.Second

func (b *bastion) refusedRequest(request string) {
	b.t.Helper()
	r := b.recorded(audit.RequestDeny, func(r audit.Record) bool { return r.Request == request })
	if r.User != "alice" || r.Key != alice(b.t).fingerprint || r.Conn == "" || !r.Source.IsValid() {
		b.t.Errorf("the refusal of %q is recorded for user %q, key %q, connection %q, source %v", request, r.User, r.Key, r.Conn, r.Source)
	}
}

func TestStockClientsAreRefusedEverythingButForwards(t *testing.T) {
	t.Parallel()
	agent := startAgent(t)
	for _, c := range []struct {
		name    string
		args    []string
		env     []string
		code    int
		says    string // on stdout or stderr
		request string // recorded
		root    bool
	}{
		{name: "an agent", args: []string{"-o", "IdentityAgent=none", "-A", "bastion"}, env: []string{"SSH_AUTH_SOCK=" + agent}, says: "You are alice", request: "auth-agent-req@openssh.com"},
		{name: "X11, trusted", args: []string{"-Y", "bastion"}, env: []string{"DISPLAY=127.0.0.1:99"}, says: "You are alice", request: "x11-req"},
		{name: "a remote port", args: []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "bastion"}, code: 255, says: "remote port forwarding failed", request: "tcpip-forward"},
		{name: "a remote unix socket", args: []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/no.sock:127.0.0.1:1", "bastion"}, code: 255, says: "remote port forwarding failed", request: "streamlocal-forward@openssh.com"},
		{name: "a subsystem", args: []string{"-s", "bastion", "sftp"}, code: 255, says: "subsystem request failed", request: "subsystem sftp"},
		{name: "a tunnel device", args: []string{"-N", "-o", "ExitOnForwardFailure=yes", "-w", "any:any", "bastion"}, code: 255, says: "Tunnel forwarding failed|tun_fwd|open failed", request: "channel tun@openssh.com", root: true},
		{name: "a command", args: []string{"bastion", "uname", "-a"}, code: 1, says: `"uname -a": no commands are run here`, request: "exec uname -a"},
		{name: "a command with a terminal", args: []string{"-tt", "bastion", "top"}, code: 1, says: `"top": no commands are run here`, request: "exec top"},
	} {
		if _, err := os.Stat("/dev/net/tun"); c.root && err != nil {
			continue // no such device here; the raw client asks for the same channel
		}
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				needRoot(t, "it makes a tun device at the client's end")
			}
			b := newBastion(t, setup{})
			args := c.args
			if strings.HasPrefix(c.name, "an agent") {
				args = append([]string{"-o", "IdentityAgent=" + agent}, args[2:]...)
			}
			r := runCommand(t, "", c.env, b.ssh(args...)...)
			if r.code != c.code {
				t.Errorf("exit status %d, want %d", r.code, c.code)
			}
			if !matches(c.says, r.out+r.err) {
				t.Errorf("ssh said %q and %q, want %q", r.out, r.err, c.says)
			}
			if r.took > promptly {
				t.Errorf("it took %v", r.took)
			}
			b.refusedRequest(c.request)
		})
	}

	t.Run("a unix socket of the bastion", func(t *testing.T) {
		b := newBastion(t, setup{})
		socket := filepath.Join(t.TempDir(), "s")
		client, local := b.localForward(socket)
		conn := dialLocal(t, local)
		if n, _ := io.Copy(io.Discard, conn); n != 0 {
			t.Errorf("%d bytes came", n)
		}
		client.says(t, `open failed: unknown channel type: sekisho`)
		b.refusedRequest("channel direct-streamlocal@openssh.com")
	})
}

func TestARawClientIsRefusedEveryOtherChannelAndRequest(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	target := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	before := b.descriptors()
	for _, kind := range []string{"x11", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "tun@openssh.com", "forwarded-tcpip", "", "no\x1bsuch"} {
		began := time.Now()
		_, err := c.openType(kind, []byte("whatever"))
		var refusal *ssh.OpenChannelError
		if !errors.As(err, &refusal) || refusal.Reason != ssh.UnknownChannelType {
			t.Errorf("a channel %q: %v, want a refusal of its type", kind, err)
		}
		if took := time.Since(began); took > promptly {
			t.Errorf("a channel %q: it took %v", kind, took)
		}
		b.recorded(audit.RequestDeny, func(r audit.Record) bool {
			return strings.HasPrefix(r.Request, "channel "+strings.TrimSuffix(kind, "\x1bsuch"))
		})
	}
	for _, name := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "nonsense"} {
		ok, _, err := c.SendRequest(name, true, nil)
		if ok || err != nil {
			t.Errorf("the request %q: %v, %v; want a refusal", name, ok, err)
		}
		b.refusedRequest(name)
	}
	for _, name := range []string{"keepalive@openssh.com", "keepalive@jcraft.com", "keepalive@terraform.io"} {
		if _, _, err := c.SendRequest(name, true, nil); err != nil {
			t.Errorf("the request %q is not answered: %v", name, err)
		}
	}
	// A direct-tcpip whose payload is cut short.
	for _, payload := range [][]byte{nil, {0, 0}, {0xff, 0xff, 0xff, 0xff}, []byte("\x00\x00\x00\x09appserver")} {
		if _, err := c.openType("direct-tcpip", payload); err == nil {
			t.Errorf("the payload %q opened a forward", payload)
		}
	}
	// A session's own requests.
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x11-req", "auth-agent-req@openssh.com", "nonsense"} {
		if ok, err := session.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("the session request %q: %v, %v; want a refusal", name, ok, err)
		}
		b.refusedRequest(name)
	}
	session.Close()

	// After all that the connection still forwards.
	ch := c.mustOpen("appserver", target.port)
	ch.echoes()
	ch.Close()
	b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: target.port, address: appserverIP})
	b.settles(before)
}

func TestSSHToTheBastionSaysWhoYouAreAndEnds(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	for _, c := range []struct {
		name    string
		args    []string
		newline string
	}{
		{"with a terminal", []string{"-tt"}, "\r\n"},
		{"without a terminal", []string{"-T"}, "\n"},
		{"with another login name", []string{"-T", "-l", "ec2-user"}, "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := command(t, "", b.ssh(append(c.args, "bastion")...)...)
			if r.code != 0 {
				t.Errorf("exit status %d, want 0: %s", r.code, r.err)
			}
			for _, want := range []string{"You are alice", alice(t).fingerprint, "appserver", "rds", "ssh -J bastion appserver" + c.newline} {
				if !strings.Contains(r.out, want) {
					t.Errorf("the screen does not say %q:\n%s", want, r.out)
				}
			}
			if strings.Contains(r.out, "vault") {
				t.Errorf("the screen tells of a target that alice may not reach:\n%s", r.out)
			}
			if r.took > promptly {
				t.Errorf("it took %v", r.took)
			}
		})
	}
	b.recorded(audit.AuthOK, func(r audit.Record) bool { return r.Login == "ec2-user" && r.User == "alice" })
	if n := b.count(audit.RequestDeny); n != 0 {
		t.Errorf("%d requests of these clients are recorded as refused, want 0", n)
	}
}

func TestNobodyLogsInWithoutAKey(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	fail := func(reason string, offered ...string) {
		t.Helper()
		r := b.recorded(audit.AuthFail, func(r audit.Record) bool { return r.Reason == reason && fmt.Sprint(r.Offered) == fmt.Sprint(offered) })
		if r.User != "" {
			t.Errorf("a failed login is recorded for the user %q, who has proven nothing", r.User)
		}
	}

	t.Run("ssh with passwords only", func(t *testing.T) {
		r := command(t, "", b.ssh("-o", "BatchMode=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "bastion")...)
		if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
			t.Errorf("exit %d: %s", r.code, r.err)
		}
	})
	t.Run("ssh with no key", func(t *testing.T) {
		r := command(t, "", b.ssh("-o", "IdentityFile=none", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p", fmt.Sprint(b.port), "alice@"+b.host)...)
		if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
			t.Errorf("exit %d: %s", r.code, r.err)
		}
	})
	t.Run("a raw client with no credentials", func(t *testing.T) {
		if c, err := b.tryLogin(b.clientConfig("alice")); err == nil {
			c.Close()
			t.Error("it is in")
		}
		fail("no_key_offered")
	})
	t.Run("a raw client with a password", func(t *testing.T) {
		if c, err := b.tryLogin(b.clientConfig("root", ssh.Password("toor"), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, _ []bool) ([]string, error) {
				return make([]string, len(questions)), nil
			}))); err == nil {
			c.Close()
			t.Error("it is in")
		}
	})
	t.Run("a key of another user", func(t *testing.T) {
		if c, err := b.tryLogin(b.clientConfig("alice", ssh.PublicKeys(bob(t).signer))); err == nil {
			c.Close()
			t.Error("bob is in as alice")
		}
		fail("other_user", bob(t).fingerprint)
	})
	t.Run("a key that is offered and not held", func(t *testing.T) {
		stranger := newKey(t, "stranger")
		forged := forgedSigner{alice(t).signer, stranger.signer}
		if c, err := b.tryLogin(b.clientConfig("alice", ssh.PublicKeys(forged))); err == nil {
			c.Close()
			t.Error("it is in")
		}
		fail("bad_signature")
	})
	if n := b.count(audit.AuthOK); n != 0 {
		t.Errorf("%d logins, want none", n)
	}
	b.settles(b.descriptors())
}

// forgedSigner offers one key and signs with another.
type forgedSigner struct{ shown, used ssh.Signer }

func (f forgedSigner) PublicKey() ssh.PublicKey { return f.shown.PublicKey() }
func (f forgedSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return f.used.Sign(rand, data)
}

// startAgent runs a real ssh-agent without keys and returns its socket.
func startAgent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // short: a socket's name has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	start(t, exec.Command("ssh-agent", "-D", "-a", socket))
	eventually(t, "the agent's socket", func() bool { _, err := os.Stat(socket); return err == nil })
	return socket
}
