//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// config writes the ssh_config(5) of a person and returns its name. It knows
// the bastion and, if given, a private host; of the names of private hosts it
// knows no address.
func (b *bastion) config(who key, hosts ...*sshd) string {
	t := b.t
	t.Helper()
	dir := t.TempDir()
	known := filepath.Join(dir, "known_hosts")
	var lines strings.Builder
	for _, k := range b.hostKey {
		fmt.Fprintln(&lines, knownhosts.Line([]string{b.addr}, k))
	}
	var private strings.Builder
	for _, h := range hosts {
		fmt.Fprintln(&lines, knownhosts.Line([]string{fmt.Sprintf("[appserver]:%d", h.port)}, h.hostKey))
		fmt.Fprintf(&private, "Host appserver\n  Port %d\n  User %s\n  IdentityFile %s\n", h.port, h.user, h.userKey.file)
	}
	writeFile(t, known, lines.String())
	name := filepath.Join(dir, "config")
	writeFile(t, name, fmt.Sprintf(`Host bastion
  HostName %s
  Port %d
  User alice
  IdentityFile %s
%sHost *
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 20
`, b.host, b.port, who.file, private.String(), known))
	return name
}

// ssh is the command line of the stock client with alice's configuration.
func (b *bastion) ssh(args ...string) []string {
	if b.client == "" {
		b.client = b.config(alice(b.t))
	}
	return append([]string{"ssh", "-F", b.client}, args...)
}

// localForward runs ssh -N -L and returns the local address, once it takes
// connections.
func (b *bastion) localForward(to string, options ...string) (*proc, string) {
	t := b.t
	t.Helper()
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))
	args := b.ssh(append(options, "-v", "-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":"+to, "bastion")...)
	p := start(t, exec.Command(args[0], args[1:]...))
	p.says(t, `Entering interactive session`)
	return p, local
}

// dialLocal connects to a local forward.
func dialLocal(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, hang)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * hang))
	return c.(*net.TCPConn)
}

// stdio is a client whose forward is its standard input and output, as with
// ssh -W.
type stdio struct {
	*proc
	in  io.WriteCloser
	out io.ReadCloser
}

// through runs ssh -W.
func (b *bastion) through(to string, options ...string) *stdio {
	t := b.t
	t.Helper()
	args := b.ssh(append(options, "-W", to, "bastion")...)
	cmd := exec.Command(args[0], args[1:]...)
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout = inR, outW
	p := start(t, cmd)
	inR.Close()
	outW.Close()
	t.Cleanup(func() { inW.Close(); outR.Close() })
	return &stdio{p, inW, outR}
}

// raw is a client of x/crypto/ssh, for what no stock client does on its own.
type raw struct {
	*ssh.Client
	t *testing.T
}

// login connects with who's key; the login name is alice's unless given.
func (b *bastion) login(who key, name ...string) *raw {
	b.t.Helper()
	c, err := b.tryLogin(b.clientConfig(cmp.Or(strings.Join(name, ""), "alice"), ssh.PublicKeys(who.signer)))
	if err != nil {
		b.t.Fatalf("logging in: %v", err)
	}
	return c
}

func (b *bastion) clientConfig(name string, auth ...ssh.AuthMethod) *ssh.ClientConfig {
	keys := map[string]bool{}
	for _, k := range b.hostKey {
		keys[string(k.Marshal())] = true
	}
	return &ssh.ClientConfig{
		User: name, Auth: auth, Timeout: hang,
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			if !keys[string(k.Marshal())] {
				return errors.New("not a host key of the bastion")
			}
			return nil
		},
	}
}

func (b *bastion) tryLogin(config *ssh.ClientConfig) (*raw, error) {
	b.t.Helper()
	conn, err := net.DialTimeout("tcp", b.addr, hang)
	if err != nil {
		return nil, err
	}
	return b.handshake(conn, config)
}

// handshake is tryLogin over a connection that is there.
func (b *bastion) handshake(conn net.Conn, config *ssh.ClientConfig) (*raw, error) {
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(hang))
	c, chans, reqs, err := ssh.NewClientConn(conn, b.addr, config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &raw{ssh.NewClient(c, chans, reqs), b.t}, nil
}

// channel is an open direct-tcpip channel.
type channel struct {
	ssh.Channel
	t *testing.T
}

// open asks for a forward; the error is an *ssh.OpenChannelError if the
// server refuses.
func (c *raw) open(host string, port int) (*channel, error) {
	c.t.Helper()
	return c.openType("direct-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		Originator string
		OrigPort   uint32
	}{host, uint32(port), "127.0.0.1", 65535}))
}

func (c *raw) openType(kind string, payload []byte) (*channel, error) {
	c.t.Helper()
	type answer struct {
		ch  ssh.Channel
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		ch, reqs, err := c.OpenChannel(kind, payload)
		if err == nil {
			go ssh.DiscardRequests(reqs)
		}
		answers <- answer{ch, err}
	}()
	a := receive(c.t, "the answer to opening a channel "+kind, answers)
	if a.err != nil {
		return nil, a.err
	}
	return &channel{a.ch, c.t}, nil
}

// mustOpen is open where it has to succeed.
func (c *raw) mustOpen(host string, port int) *channel {
	c.t.Helper()
	ch, err := c.open(host, port)
	if err != nil {
		c.t.Fatalf("opening %s:%d: %v", host, port, err)
	}
	return ch
}

// refused is open where it must not succeed.
func (c *raw) refused(host string, port int) *ssh.OpenChannelError {
	c.t.Helper()
	ch, err := c.open(host, port)
	if err == nil {
		ch.Close()
		c.t.Fatalf("opening %q:%d was allowed", host, port)
	}
	var refusal *ssh.OpenChannelError
	if !errors.As(err, &refusal) {
		c.t.Fatalf("opening %q:%d: %v, want a refusal", host, port, err)
	}
	return refusal
}

// echoes sends a line to an echo target and waits for it.
func (ch *channel) echoes() {
	ch.t.Helper()
	const line = "are you there?"
	if _, err := io.WriteString(ch, line+"\n"); err != nil {
		ch.t.Fatalf("writing to an open forward: %v", err)
	}
	if got := readLine(ch.t, ch); got != line {
		ch.t.Fatalf("the echo is %q, want %q", got, line)
	}
}

// ends waits until the channel's bytes end, and returns how many came and
// how long it took.
func (ch *channel) ends() (n int64, took time.Duration) {
	ch.t.Helper()
	began := time.Now()
	done := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, ch)
		done <- n
	}()
	n = receive(ch.t, "the forward to end", done)
	return n, time.Since(began)
}

// over waits until the connection is over.
func (c *raw) over() {
	c.t.Helper()
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	receive(c.t, "the connection to end", done)
}

func signerAuth(k key) ssh.AuthMethod { return ssh.PublicKeys(k.signer) }
