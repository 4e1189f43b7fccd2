package bastion_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

func TestEveryConnectionIsCountedByHowItEnded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.LoginGrace = time.Second }})
	ended := func(result, reason string) uint64 {
		return b.Server.Counts().ConnectionsEnded[bastion.Outcome{Result: result, Reason: reason}]
	}
	shaken := func() (done, failed uint64) {
		c := b.Server.Counts()
		return c.HandshakesDone.Count(), c.HandshakesFailed.Count()
	}
	silent, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(gone).ReadString('\n'); err != nil { // unread, it would make the end a reset
		t.Fatal(err)
	}
	gone.Close()
	old := b.ClientConfig("alice", b.Alice)
	old.Ciphers = []string{ssh.InsecureCipherAES128CBC}
	if _, err := ssh.Dial("tcp", b.Addr, old); err == nil {
		t.Fatal("a client with nothing in common is in")
	}
	if _, err := ssh.Dial("tcp", b.Addr, b.ClientConfig("alice", b.Bob)); err == nil {
		t.Fatal("bob is in")
	}
	alice := dialAnnounced(t, b)
	if done, _ := shaken(); done != 2 {
		t.Errorf("%d handshakes were done", done)
	}
	alice.Close()
	for _, want := range []struct{ result, reason string }{
		{"fail", "login_grace"}, {"fail", "client_gone"}, {"fail", "no_common_algorithm"}, {"fail", "unknown_key"}, {"close", "client_gone"},
	} {
		bastiontest.Eventually(t, want.result+" "+want.reason, func() bool { return ended(want.result, want.reason) == 1 })
	}
	if done, failed := shaken(); done != 2 || failed != 3 {
		t.Errorf("%d handshakes were done, and %d were not", done, failed)
	}
	if c := b.Server.Counts(); c.Connections != 5 {
		t.Errorf("%d connections were taken in", c.Connections)
	}
}

// A flood writes few records, and every one of its failures counts.
func TestFailedLoginsThatAreNotRecordedAreCounted(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	const tries = 12
	for range tries {
		if _, err := ssh.Dial("tcp", b.Addr, b.ClientConfig("mallory", b.Bob)); err == nil {
			t.Fatal("bob is in")
		}
	}
	bastiontest.Eventually(t, "all of them to be counted", func() bool {
		return b.Server.Counts().Logins[bastion.Outcome{Result: "fail", Reason: "unknown_key"}] == tries
	})
	if n := len(b.Book.Records(audit.AuthFail)); n >= tries {
		t.Errorf("%d of %d are recorded by themselves", n, tries)
	}
}

// Whatever clients say: what is counted apart are codes of ours, and few.
func TestNoClientAddsToWhatIsCountedApart(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	tryAll := func(round int) {
		for i := range 8 {
			name := fmt.Sprintf("name-%d-%d\n\xff", round, i)
			config := b.ClientConfig(name, b.Bob)
			config.ClientVersion = fmt.Sprintf("SSH-2.0-%d-%d", round, i)
			if c, err := ssh.Dial("tcp", b.Addr, config); err == nil {
				c.Close()
				t.Fatal("bob is in")
			}
			if c, err := client.Dial("tcp", fmt.Sprintf("host-%d-%d:%d", round, i, 1+i)); err == nil {
				c.Close()
				t.Fatal("a name that nobody knows is reached")
			}
			client.OpenChannel(name, nil)
			c := mustOpen(t, client, target(port))
			io.WriteString(c, "x")
			io.ReadFull(c, make([]byte, 1))
			c.Close()
		}
	}
	code := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	apart := func() int {
		c := b.Server.Counts()
		for reason := range c.ConnectionsRefused {
			if !code.MatchString(reason) {
				t.Errorf("%q", reason)
			}
		}
		for _, outcomes := range []map[bastion.Outcome]uint64{c.ConnectionsEnded, c.Logins, c.Forwards} {
			for o := range outcomes {
				if !code.MatchString(o.Result) || o.Reason != "" && !code.MatchString(o.Reason) {
					t.Errorf("%+v", o)
				}
			}
		}
		return len(c.ConnectionsRefused) + len(c.ConnectionsEnded) + len(c.Logins) + len(c.Forwards)
	}
	var before int
	for round := range 3 {
		tryAll(round)
		n := uint64(8 * (round + 1))
		bastiontest.Eventually(t, "all of them to be counted", func() bool {
			c := b.Server.Counts()
			closed := uint64(0)
			for o, n := range c.Forwards {
				if o.Result == "close" {
					closed += n
				}
			}
			return c.Logins[bastion.Outcome{Result: "fail", Reason: "unknown_key"}] == n && closed == n
		})
		if round == 0 {
			before = apart()
		}
	}
	// A forward that a client closes may end for one of two reasons.
	if after := apart(); after > before+1 {
		t.Errorf("%d are counted apart, and there were %d", after, before)
	}
}
