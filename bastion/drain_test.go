package bastion_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// drainInPeace has a limit that no test meets.
func drainInPeace(l *bastion.Limits) { l.DrainTimeout = time.Hour }

func TestADrainLastsAsLongAsItsOrderSaysAndNotTheSetting(t *testing.T) {
	for _, test := range []struct {
		name  string
		drain func(s *bastion.Server, hurry context.Context) int
	}{
		{"a time of its own", func(s *bastion.Server, _ context.Context) int {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			return s.Drain(ctx)
		}},
		{"somebody is in a hurry", func(s *bastion.Server, hurry context.Context) int { return s.Shutdown(hurry) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Limits: drainInPeace})
			port := bastiontest.Target(t, bastiontest.Echo)
			stays := mustOpen(t, b.Dial(), target(port))
			hurry, now := context.WithCancel(context.Background())
			defer now()
			time.AfterFunc(50*time.Millisecond, now)
			cut := make(chan int, 1)
			go func() { cut <- test.drain(b.Server, hurry) }()
			select {
			case n := <-cut:
				if n != 1 {
					t.Errorf("%d forwards had to be ended", n)
				}
			case <-time.After(bastiontest.Wait):
				t.Fatal("it does not end")
			}
			if _, err := stays.Read(make([]byte, 1)); err == nil {
				t.Error("the forward goes on")
			}
			if end := b.Book.Await(t, audit.ForwardClose, 1); end.Reason != "drain" || end.Detail != "the server is stopping" {
				t.Errorf("%s", end.AppendJSON(nil))
			}
			if end := b.Book.Await(t, audit.ConnClose, 1); end.Reason != "drain" {
				t.Errorf("%s", end.AppendJSON(nil))
			}
			b.Book.Check(t)
		})
	}
}

func TestATransferThatRunsIsFinishedDuringADrain(t *testing.T) {
	const size = 8 << 20
	b := bastiontest.Start(t, bastiontest.Options{Limits: drainInPeace})
	begun, goOn := make(chan struct{}), make(chan struct{})
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return
		}
		close(begun)
		<-goOn
		c.Write(make([]byte, size))
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	client := b.Dial()
	transfer := mustOpen(t, client, target(port))
	io.WriteString(transfer, "x")
	<-begun
	cut := make(chan int, 1)
	go func() { cut <- b.Server.Drain(context.Background()) }()
	bastiontest.Eventually(t, "the listener to be closed", func() bool {
		c, err := net.Dial("tcp", b.Addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	var refused *ssh.OpenChannelError
	bastiontest.Eventually(t, "a forward to be refused", func() bool {
		c, err := client.Dial("tcp", target(port))
		if err == nil {
			c.Close()
		}
		return errors.As(err, &refused)
	})
	if refused.Reason != ssh.ResourceShortage || !strings.HasPrefix(refused.Message, "sekisho: the server is stopping [f") {
		t.Errorf("%v: %s", refused.Reason, refused.Message)
	}
	close(goOn)
	if n, err := io.Copy(io.Discard, transfer); n != size || err != nil {
		t.Errorf("%d bytes of %d came, %v", n, size, err)
	}
	transfer.Close()
	if n := <-cut; n != 0 {
		t.Errorf("%d forwards had to be ended", n)
	}
	whole := 0
	for _, end := range b.Book.Records(audit.ForwardClose) {
		if end.Reason == "closed" && end.BytesDown == size {
			whole++
		}
	}
	if whole != 1 {
		t.Errorf("%d forwards are recorded as whole", whole)
	}
	if deny := b.Book.Await(t, audit.ForwardDeny, 1); deny.Reason != "drain" {
		t.Errorf("%s", deny.AppendJSON(nil))
	}
	b.Book.Check(t)
}
