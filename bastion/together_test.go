package bastion_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// Small packets and large ones of 20 forwards share a connection: what is gathered,
// merged, read ahead and held back must come whole and in order. No keys are
// renewed: x/crypto/ssh at both ends stalls when it is asked to do that every MiB.
func TestForwardsThatWriteByTurnsGetTheirOwnBytes(t *testing.T) {
	const forwards, each = 20, 1 << 20
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{})
	client := b.Dial()
	done := make(chan error, forwards)
	for i := range forwards {
		go func() { done <- echoedInPieces(client.Dial, fmt.Sprintf("target:%d", port), uint64(i), each) }()
	}
	for range forwards {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(bastiontest.Wait):
			t.Fatal("a forward did not end")
		}
	}
	for _, end := range b.Book.Records(audit.ForwardClose) {
		if end.BytesUp != each || end.BytesDown != each {
			t.Errorf("%d bytes up and %d down are recorded", end.BytesUp, end.BytesDown)
		}
	}
}

// When the server has begun to renew the keys, x/crypto/ssh holds 64 packets and
// then waits, in its loop too if that has to answer the end of a forward; behind it
// 16 more fill a queue, and the client's part of the renewal is never read. It takes
// small thresholds and luck. The keepalive must then end the connection, with its
// records.
func TestAConnectionThatStallsInARenewalIsEndedByTheKeepalive(t *testing.T) {
	const forwards, each, renewed = 20, 1 << 20, 1 << 20
	port := bastiontest.Target(t, bastiontest.Echo)
	b := bastiontest.Start(t, bastiontest.Options{
		Limits: func(l *bastion.Limits) { l.KeepaliveInterval, l.KeepaliveMaxMissed = time.Second, 2 },
		Config: func(c *bastion.Config) { c.RekeyThreshold = renewed },
	})
	config := b.ClientConfig("alice", b.Alice)
	config.RekeyThreshold = renewed
	client := b.DialAs(config)
	done := make(chan error, forwards)
	for i := range forwards {
		go func() { done <- echoedInPieces(client.Dial, fmt.Sprintf("target:%d", port), uint64(i), each) }()
	}
	stalled := 0
	for range forwards {
		select {
		case err := <-done:
			if err != nil {
				stalled++
			}
		case <-time.After(bastiontest.Wait):
			t.Fatal("a forward did not end")
		}
	}
	client.Close()
	end := b.Book.Await(t, audit.ConnClose, 1)
	if stalled > 0 && end.Reason != "keepalive" {
		t.Errorf("%d forwards broke off; the connection ended for %s: %s", stalled, end.Reason, end.Detail)
	}
}

// echoedInPieces sends size bytes in pieces of all sizes to a target that sends them back.
func echoedInPieces(dial func(network, addr string) (net.Conn, error), addr string, seed uint64, size int) error {
	conn, err := dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	random := rand.New(rand.NewPCG(seed, 1))
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	wrote := make(chan error, 1)
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(1<<(2+random.IntN(15))))
			if _, err := conn.Write(rest[:n]); err != nil {
				wrote <- err
				return
			}
			rest = rest[n:]
		}
		wrote <- nil
	}()
	got := make([]byte, size)
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("forward %d got other bytes", seed)
	}
	return <-wrote
}

func TestAKillOfAClientThatReadsNothingWaitsForNothing(t *testing.T) {
	const forwards = 10
	port := bastiontest.Target(t, func(c *net.TCPConn) { // says little, all the time
		for {
			if _, err := c.Write(make([]byte, 2<<10)); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	raw.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if !raw.Prove("alice", b.Alice) {
		t.Fatal("not logged in")
	}
	for i := range forwards {
		if err := raw.OpenTarget(uint32(i), 1<<30, "target", port); err != nil {
			t.Fatal(err)
		}
	}
	b.Book.Await(t, audit.ForwardOpen, forwards)
	time.Sleep(300 * time.Millisecond) // in which the sockets fill; if not, it is no worse
	began := time.Now()
	b.Server.Kill("a test", bastion.Selection{User: "alice"})
	b.Book.Await(t, audit.ConnClose, 1)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
