package bastion_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// wallClock is the time of a test's policy.
type wallClock struct{ ns atomic.Int64 }

func clockAt(t *testing.T, s string) *wallClock {
	t.Helper()
	c := new(wallClock)
	c.set(t, s)
	return c
}

func (c *wallClock) set(t *testing.T, s string) {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		t.Fatal(err)
	}
	c.ns.Store(at.UnixNano())
}

func (c *wallClock) now() time.Time { return time.Unix(0, c.ns.Load()).UTC() }

func conditioned(t *testing.T, c *wallClock, users, grants string) *bastiontest.Bastion {
	t.Helper()
	return bastiontest.Start(t, bastiontest.Options{
		Policy: "version: 1\ntimezone: UTC\nusers:\n" + users + `targets:
  - {name: a, hosts: [target], ports: ["1-65535"]}
  - {name: b, hosts: [other], ports: ["1-65535"]}
grants:
` + grants,
		Hosts:  bastiontest.Hosts{"target": {"127.0.0.1"}, "other": {"127.0.0.1"}},
		Config: func(config *bastion.Config) { config.Now = c.now },
	})
}

const alone = "  - {name: alice, keys: [\"{alice}\"]}\n"

// ends reports how long it took until a forward's client was told of its end.
func ends(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	over := make(chan struct{})
	go func() { io.Copy(io.Discard, conn); close(over) }()
	select {
	case <-over:
	case <-time.After(bastiontest.Wait):
		t.Fatal("the forward goes on")
	}
	return time.Since(began)
}

func TestTheEndOfHoursEndsWhatRunsAndOnlyThat(t *testing.T) {
	c := clockAt(t, "2026-11-23 18:59:58") // a Monday
	b := conditioned(t, c, alone, `  - {name: office, users: [alice], to: [a], when: {hours: ["Mon-Fri 09:00-19:00"]}}
  - {name: kept, users: [alice], to: [b], when: {hours: ["Mon-Fri 09:00-19:00"]}, at_end: keep}
`)
	told := make(chan time.Time, 1)
	var conns atomic.Int32
	port := bastiontest.Target(t, func(conn *net.TCPConn) {
		first := conns.Add(1) == 1
		bastiontest.Echo(conn)
		if first {
			told <- time.Now()
		}
	})
	client := b.Dial()
	cut := mustOpen(t, client, fmt.Sprintf("target:%d", port))
	io.WriteString(cut, "x")
	io.ReadFull(cut, make([]byte, 1))
	kept := mustOpen(t, client, fmt.Sprintf("other:%d", port))
	c.set(t, "2026-11-23 19:00:00")
	began := time.Now()
	select {
	case at := <-told:
		if took := at.Sub(began); took > time.Second {
			t.Errorf("the target was told after %v", took)
		}
	case <-time.After(bastiontest.Wait):
		t.Fatal("the target was not told")
	}
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "outside_hours" || rec.Grant != "office" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	io.WriteString(kept, "x")
	if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
		t.Errorf("at_end: keep: %v", err)
	}
	// But a new one does not begin.
	_, err := client.Dial("tcp", fmt.Sprintf("other:%d", port))
	if refused := openError(t, err); refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, "(outside hours)") {
		t.Errorf("%v", refused)
	}
}

func TestTheNextGrantTakesOverAtTheEdgeOfTime(t *testing.T) {
	c := clockAt(t, "2026-11-23 18:59:58")
	b := conditioned(t, c, alone, `  - {name: office, users: [alice], to: [a], when: {hours: ["09:00-19:00"]}}
  - {name: late, users: [alice], to: [a], when: {hours: ["19:00-22:00"]}}
`)
	port := bastiontest.Target(t, bastiontest.Echo)
	conn := mustOpen(t, b.Dial(), target(port))
	c.set(t, "2026-11-23 19:00:00")
	if rec := b.Book.Await(t, audit.ForwardProgress, 1); rec.Grant != "late" || rec.Reason != "grant_changed" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	c.set(t, "2026-11-23 22:00:00")
	ends(t, conn)
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "outside_hours" || rec.Grant != "late" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAUserWhoseTimeIsOverLosesHisConnection(t *testing.T) {
	c := clockAt(t, "2027-03-31 23:59:59")
	b := conditioned(t, c, "  - {name: alice, keys: [\"{alice}\"], when: {until: 2027-03-31}}\n", "  - {name: all, users: [alice], to: [a]}\n")
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	conn := mustOpen(t, client, target(port))
	c.set(t, "2027-04-01 00:00:00")
	ends(t, conn)
	client.Wait()
	if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "expired" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	if dial(b, b.ClientConfig("alice", b.Alice)) == nil {
		t.Error("he logs in again")
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "expired" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestFromIsTheAddressOfTheConnection(t *testing.T) {
	c := clockAt(t, "2026-11-23 12:00:00")
	b := conditioned(t, c, alone, `  - {name: here, users: [alice], to: [a], when: {from: [127.0.0.0/8]}}
  - {name: there, users: [alice], to: [b], when: {from: [127.0.0.0/8], except: [127.0.0.1]}}
`)
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	mustOpen(t, client, target(port))
	_, err := client.Dial("tcp", fmt.Sprintf("other:%d", port))
	if refused := openError(t, err); !strings.Contains(refused.Message, "(your address is excepted)") {
		t.Errorf("%v", refused)
	}
}

func TestAGrantThatRequiresTouchWantsAKeyThatShowsIt(t *testing.T) {
	touched := bastiontest.NewSecurityKey(t, true)
	c := clockAt(t, "2026-11-23 12:00:00")
	b := conditioned(t, c, alone+fmt.Sprintf("  - {name: carol, keys: [%q]}\n", bastiontest.Line(touched)),
		"  - {name: touched, users: [alice, carol], to: [a], require: [touch]}\n")
	port := bastiontest.Target(t, bastiontest.Echo)
	_, err := b.Dial().Dial("tcp", target(port))
	if refused := openError(t, err); !strings.Contains(refused.Message, "(needs a security key that is touched)") {
		t.Errorf("%v", refused)
	}
	mustOpen(t, b.DialAs(b.ClientConfig("carol", touched)), target(port))
}

func TestASecurityKeyThatWasNotTouchedDoesNotLogIn(t *testing.T) {
	untouched := bastiontest.NewSecurityKey(t, false)
	c := clockAt(t, "2026-11-23 12:00:00")
	b := conditioned(t, c, fmt.Sprintf("  - {name: carol, keys: [%q]}\n", bastiontest.Line(untouched)), "  - {name: any, users: [carol], to: [a]}\n")
	if dial(b, b.ClientConfig("carol", untouched)) == nil {
		t.Fatal("it logs in")
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "bad_signature" || !strings.Contains(rec.Detail, ssh.FingerprintSHA256(untouched.PublicKey())) {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAGrantsLimitOnForwardsAtItsEdge(t *testing.T) {
	c := clockAt(t, "2026-11-23 12:00:00")
	b := conditioned(t, c, alone, "  - {name: few, users: [alice], to: [a], limits: {forwards: 2}}\n  - {name: many, users: [alice], to: [b]}\n")
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	mustOpen(t, client, target(port))
	second := mustOpen(t, client, target(port))
	_, err := b.Dial().Dial("tcp", target(port)) // on whichever connection
	if refused := openError(t, err); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, `limits.forwards of grant "few", 2`) {
		t.Errorf("%v", refused)
	}
	mustOpen(t, client, fmt.Sprintf("other:%d", port))
	second.Close()
	bastiontest.Eventually(t, "there is room again", func() bool { _, err := client.Dial("tcp", target(port)); return err == nil })
}

func TestAGrantsLimitOnDuration(t *testing.T) {
	c := clockAt(t, "2026-11-23 12:00:00")
	b := conditioned(t, c, alone, "  - {name: short, users: [alice], to: [a], limits: {duration: 500ms}}\n")
	port := bastiontest.Target(t, bastiontest.Echo)
	conn := mustOpen(t, b.Dial(), target(port))
	ends(t, conn)
	if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != "duration" || rec.Duration < 500*time.Millisecond {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}
