package bastion_test

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/bastion/bastiontest"
)

// worstRound is how long a bystander's round trip may take while others
// attack. It is generous: what it is to find are standstills.
const worstRound = 3 * time.Second

// A bystander is somebody who is logged in while others attack: bob, whose
// forward to an echo is used all the time.
type bystander struct {
	t      *testing.T
	b      *bastiontest.Bastion
	dial   func() (net.Conn, error)
	client *ssh.Client
	echo   net.Conn

	bytes atomic.Int64 // that have come back
	worst atomic.Int64 // round trip, in nanoseconds
	stop  atomic.Bool
	done  chan error
}

// watch begins to measure a bystander. A nil dial is TCP.
func watch(t *testing.T, b *bastiontest.Bastion, dial func() (net.Conn, error)) *bystander {
	t.Helper()
	if dial == nil {
		dial = func() (net.Conn, error) { return net.Dial("tcp", b.Addr) }
	}
	w := &bystander{t: t, b: b, dial: dial, done: make(chan error, 1)}
	client, err := w.login()
	if err != nil {
		t.Fatalf("the bystander's login: %v", err)
	}
	t.Cleanup(func() { client.Close() })
	w.client, w.echo = client, mustOpen(t, client, target(bastiontest.Target(t, bastiontest.Echo)))
	go func() { w.done <- w.run() }()
	return w
}

func (w *bystander) login() (*ssh.Client, error) {
	conn, err := w.dial()
	if err != nil {
		return nil, err
	}
	c, chans, requests, err := ssh.NewClientConn(conn, "bastion", w.b.ClientConfig("bob", w.b.Bob))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, requests), nil
}

func (w *bystander) run() error {
	sent := bytes.Repeat([]byte("bystander"), 900)
	got := make([]byte, len(sent))
	for !w.stop.Load() {
		began := time.Now()
		if _, err := w.echo.Write(sent); err != nil {
			return err
		}
		if _, err := io.ReadFull(w.echo, got); err != nil {
			return err
		}
		w.worst.Store(max(w.worst.Load(), int64(time.Since(began))))
		w.bytes.Add(int64(len(got)))
		time.Sleep(time.Millisecond)
	}
	return nil
}

// unharmed fails the test unless the bystander's bytes went on coming back
// since watch, and somebody can log in and open a forward now. It is called
// while the attack goes on.
func (w *bystander) unharmed() {
	w.t.Helper()
	began := time.Now()
	client, err := w.login()
	if err != nil {
		w.t.Errorf("a login during the attack: %v", err)
	} else {
		defer client.Close()
	}
	login := time.Since(began)

	w.stop.Store(true)
	select {
	case err = <-w.done:
	case <-time.After(bastiontest.Wait):
		w.t.Fatal("the bystander's bytes no longer come back")
	}
	if err != nil {
		w.t.Errorf("the bystander's forward: %v", err)
	}
	moved, worst := w.bytes.Load(), time.Duration(w.worst.Load())
	w.t.Logf("bystander: worst round trip %v, %d KiB came back; a login took %v",
		worst.Round(100*time.Microsecond), moved>>10, login.Round(100*time.Microsecond))
	if worst > worstRound || moved == 0 {
		w.t.Errorf("the bystander was harmed")
	}
}
