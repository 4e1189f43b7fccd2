package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// A client has one connection to a server.
type client interface {
	// forward opens one to the target of the workshop.
	forward(ctx context.Context) (net.Conn, error)
	close()
}

// goClient is x/crypto/ssh, with AES-128-GCM, curve25519 and ed25519 wherever
// the server has them, so that all servers do the same work.
type goClient struct {
	ssh    *ssh.Client
	target string
}

// login connects from an address of this machine, "" for any.
func (w *workshop) login(ctx context.Context, s *server, from string) (*goClient, error) {
	d := net.Dialer{Timeout: 60 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, chans, reqs, err := ssh.NewClientConn(conn, s.addr, &ssh.ClientConfig{
		Config: ssh.Config{
			Ciphers:      []string{"aes128-gcm@openssh.com"},
			KeyExchanges: []string{"curve25519-sha256"},
		},
		User:              s.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(w.user.signer)},
		HostKeyCallback:   ssh.FixedHostKey(s.hostKey),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	})
	if err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("login: %w", err)
	}
	return &goClient{ssh.NewClient(c, chans, reqs), w.target.addr}, nil
}

func (c *goClient) forward(ctx context.Context) (net.Conn, error) {
	return c.ssh.DialContext(ctx, "tcp", c.target)
}

func (c *goClient) close() { c.ssh.Close() }

// stockClient is ssh -N -L as it is installed, without a configuration.
type stockClient struct {
	proc *process
	addr string
}

func (w *workshop) sshLocal(ctx context.Context, s *server) (*stockClient, error) {
	w.serial++
	dir := filepath.Join(w.dir, fmt.Sprintf("ssh-%d", w.serial))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{s.addr}, s.hostKey)+"\n"), 0o600); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	local := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(s.addr)
	cmd := exec.Command("ssh", "-F", "none", "-N", "-L", local+":"+w.target.addr, "-p", port, "-l", s.user,
		"-i", w.user.file, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
		"-o", "UserKnownHostsFile="+known, "-o", "StrictHostKeyChecking=yes", "127.0.0.1")
	said, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	p, err := w.load.start(cmd)
	if err != nil {
		return nil, err
	}
	c := &stockClient{p, local}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		// It listens before it is logged in; then a forward is answered.
		if c.answers(ctx) {
			return c, nil
		}
		if p.ended() || time.Now().After(deadline) || ctx.Err() != nil {
			p.stop()
			text, _ := os.ReadFile(said.Name())
			return nil, fmt.Errorf("ssh -L to %s: %s", s.name, text)
		}
	}
}

func (c *stockClient) answers(ctx context.Context) bool {
	conn, err := c.forward(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	conn.Write(append(ask(echoes, 0), 1))
	n, err := conn.Read(make([]byte, 1))
	return n == 1 && err == nil
}

func (c *stockClient) forward(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", c.addr)
}

func (c *stockClient) close() { c.proc.stop() }
