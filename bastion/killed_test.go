package bastion_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

func TestAKilledForwardThatIsBeingDialledIsRefusedByName(t *testing.T) {
	dialling := make(chan struct{}, 1)
	b := bastiontest.Start(t, bastiontest.Options{Dialer: dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialling <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})})
	client := b.Dial()
	opened := make(chan error, 1)
	go func() {
		_, err := client.Dial("tcp", target(3306))
		opened <- err
	}()
	<-dialling
	if conns, forwards := b.Server.Kill("by root: drill", bastion.Selection{Host: "target"}); conns != 0 || forwards != 1 {
		t.Errorf("%d connections, %d forwards", conns, forwards)
	}
	var refusal *ssh.OpenChannelError
	if err := <-opened; !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "sekisho: an administrator has ended it [f") || strings.Contains(refusal.Message, "drill") {
		t.Errorf("the client is told %v", err)
	}
	if end := b.Book.Await(t, audit.ForwardFail, 1); end.Reason != "killed" || end.Detail != "by root: drill" {
		t.Errorf("%s", end.AppendJSON(nil))
	}
	b.Book.Check(t)
}

func TestKillingAUserEndsConnectionsAndWhatTheyCarry(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	gone := make(chan error, 2)
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		c.Write([]byte("x"))
		_, err := io.Copy(io.Discard, c)
		gone <- err
	})
	client := b.Dial()
	for range 2 {
		conn, err := client.Dial("tcp", target(port))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(conn, make([]byte, 1))
	}
	if conns, forwards := b.Server.Kill("by root", bastion.Selection{User: "alice"}); conns != 1 || forwards != 2 {
		t.Errorf("%d connections, %d forwards", conns, forwards)
	}
	client.Wait()
	<-gone
	<-gone
	if end := b.Book.Await(t, audit.ConnClose, 1); end.Reason != "killed" {
		t.Errorf("%s", end.AppendJSON(nil))
	}
	for _, end := range b.Book.Records(audit.ForwardClose) {
		if end.Reason != "killed" || end.BytesDown != 1 {
			t.Errorf("%s", end.AppendJSON(nil))
		}
	}
	b.Book.Check(t)
	c := b.Server.Counts()
	if c.Connections != 1 || c.Logins[bastion.Outcome{Result: "ok"}] != 1 || c.Forwards[bastion.Outcome{Result: "close", Reason: "killed"}] != 2 || c.BytesDown != 2 || c.DialsDone.Count() != 2 {
		t.Errorf("%+v", c)
	}
	bob := b.ClientConfig("alice", b.Bob)
	if _, err := ssh.Dial("tcp", b.Addr, bob); err == nil {
		t.Fatal("bob is in")
	}
	b.Book.Await(t, audit.AuthFail, 1)
	if c := b.Server.Counts(); c.Logins[bastion.Outcome{Result: "fail", Reason: "unknown_key"}] != 1 {
		t.Errorf("%+v", c)
	}
}
