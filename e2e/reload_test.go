//go:build linux

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sekisho/audit"
)

const withoutDatabase = `
targets:
  - {name: web, hosts: [appserver], ports: ["1-65535"]}
grants:
  - {name: dev-web, groups: [developers], to: [web]}
`

func TestAReloadEndsWhatItNoLongerAllowsAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	gone := make(chan struct{}, 1)
	web := serve(t, appserverIP, echo)
	db := serve(t, rdsIP, func(c *net.TCPConn) { echo(c); gone <- struct{}{} })
	c := b.login(alice(t))
	stays, goes := c.mustOpen("appserver", web.port), c.mustOpen("rds", db.port)
	stays.echoes()
	goes.echoes()
	_, local := b.localForward(web.as("appserver")) // a stock client's, too
	held := dialLocal(t, local)
	held.Write([]byte("x"))

	policy := filepath.Join(b.dir, "policy.yaml")
	old := b.recorded(audit.PolicyLoad, nil).Policy
	writeFile(t, policy, standardUsers(t)+withoutDatabase)
	load := b.reload(audit.PolicyLoad)
	began := time.Now()
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the forward lived on for %v after the reload", took)
	}
	goes.ends()
	if load.Policy == old || load.Policy == "" {
		t.Errorf("the policy loaded is recorded as %q, the one before it was %q", load.Policy, old)
	}
	stays.echoes()
	if refusal := c.refused("rds", db.port); !strings.Contains(refusal.Message, "no grant") {
		t.Errorf("a new forward is refused with %q", refusal.Message)
	}
	c.mustOpen("appserver", web.port).echoes()

	var ended *forwarded
	eventually(t, "the end of the forward in the book", func() bool {
		for _, f := range b.book() {
			if f.end != nil && f.open.Target.Host == "rds" {
				ended = f
			}
		}
		return ended != nil
	})
	ended.check(t, want{grant: "dba-db", host: "rds", port: db.port, address: rdsIP, reasons: []string{"no_grant"}, bytes: &tapped{15, 15}})

	// A user who is taken out loses the connection, too.
	writeFile(t, policy, strings.Replace(standardUsers(t), alice(t).public, newKey(t, "new").public, 1)+withoutDatabase)
	b.reload(audit.PolicyLoad)
	c.over()
	b.recorded(audit.ConnClose, func(r audit.Record) bool { return r.User == "alice" && r.Reason == "key_removed" })
	if _, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t)))); err == nil {
		t.Error("the key that was taken out still logs in")
	}
}

func TestABadFileLeavesTheOldOneInForce(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	web := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	running := c.mustOpen("appserver", web.port)
	running.echoes()
	inForce := b.recorded(audit.PolicyLoad, nil).Policy
	policy, hosts := filepath.Join(b.dir, "policy.yaml"), filepath.Join(b.dir, "hosts")
	good := standardUsers(t) + standardGrants

	for _, bad := range []struct{ name, file, text, says string }{
		{"a misspelt key", policy, strings.Replace(good, "grants:", "grnats:", 1), `policy.yaml:\d+:1: .*grnats`},
		{"a target that is not there", policy, strings.Replace(good, "to: [web]", "to: [wbe]", 1), `policy.yaml:\d+:\d+: .*wbe`},
		{"an empty file", policy, "", `policy.yaml`},
		{"a good policy beside bad hosts", hosts, "10.0.0.300 appserver\n", `hosts:1`},
	} {
		if bad.file == hosts {
			writeFile(t, policy, standardUsers(t)+withoutDatabase) // good, and yet not taken over by half
		}
		writeFile(t, bad.file, bad.text)
		rec := b.reload(audit.PolicyReject)
		if !matches(bad.says, rec.Detail) || rec.Policy != inForce {
			t.Errorf("%s: the record says %q and policy %q, want %q and %q", bad.name, rec.Detail, rec.Policy, bad.says, inForce)
		}
		b.proc.says(t, `level=error.*`+bad.says)
		running.echoes()
		c.mustOpen("rds", serve(t, rdsIP, echo).port).echoes()
		c.mustOpen("appserver", web.port).echoes()
	}
	b.proc.says(t, `in force stay`)
	writeFile(t, hosts, standardHosts)
	writeFile(t, policy, good)
	b.reload(audit.PolicyLoad)
	running.echoes()
}

func TestAHostsFileIsFollowedAsItChanges(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	first := serve(t, appserverIP, greet)
	second := serve(t, rdsIP, greet)
	c := b.login(alice(t))
	readLine(t, c.mustOpen("appserver", first.port))
	writeFile(t, filepath.Join(b.dir, "hosts"), rdsIP+" appserver\n")
	var moved *channel
	eventually(t, "the new address to be dialled", func() bool {
		ch, err := c.open("appserver", second.port)
		moved = ch
		return err == nil
	})
	readLine(t, moved)
	if _, err := c.open("appserver", first.port); err == nil {
		t.Error("the old address is still reached")
	}
	// Cut off in the middle of being written, it is not taken over.
	if err := os.WriteFile(filepath.Join(b.dir, "hosts"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.proc.says(t, `hosts file is not taken over`)
	readLine(t, c.mustOpen("appserver", second.port))
}

func TestSIGTERMLetsForwardsEndAndCutsTheRestInTime(t *testing.T) {
	t.Parallel()
	t.Run("a forward that ends in time", func(t *testing.T) {
		b := newBastion(t, setup{})
		host := serve(t, appserverIP, answerAfterEnd)
		client := b.through(host.as("appserver"))
		client.in.Write([]byte("half a ques"))
		eventually(t, "the forward", func() bool { return b.count(audit.ForwardOpen) == 1 && host.open.Load() == 1 })
		b.proc.cmd.Process.Signal(syscall.SIGTERM)
		b.proc.says(t, "stopping")
		if _, err := b.tryLogin(b.clientConfig("alice", signerAuth(alice(t)))); err == nil {
			t.Error("a server that drains lets people in")
		}
		client.in.Write([]byte("tion\n"))
		client.in.Close()
		if _, n := hashOf(client.out); n < answerSize {
			t.Errorf("%d bytes of the answer arrived, of %d", n, answerSize)
		}
		receive(t, "the server to end", b.proc.done)
		b.stopped = true
		if code := b.proc.code(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		b.judge()
		f := b.forwards(1)[0]
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"closed"}})
		last := b.records()
		if end := last[len(last)-1]; end.Type != audit.ServerStop || end.Reason != "stopped" {
			t.Errorf("the last record is %s (%s)", end.Type, end.Reason)
		}
	})
	t.Run("forwards that do not", func(t *testing.T) {
		const limit = 2 * time.Second
		b := newBastion(t, setup{limits: map[string]any{"drain_timeout": limit.String()}})
		gone := make(chan struct{}, 2)
		host := serve(t, appserverIP, duplex(gone))
		silent := serve(t, rdsIP, stalled(gone))
		c := b.login(alice(t))
		ch := c.mustOpen("appserver", host.port)
		moving(t, ch)
		c.mustOpen("rds", silent.port)
		idle := b.login(bob(t), "bob")
		began := time.Now()
		b.proc.cmd.Process.Signal(syscall.SIGTERM)
		idle.over() // at once: nothing runs on it
		if took := time.Since(began); took > limit {
			t.Errorf("a connection without forwards was held for %v", took)
		}
		if _, err := c.open("appserver", host.port); err == nil {
			t.Error("a server that drains opens forwards")
		}
		receive(t, "the server to end", b.proc.done)
		if took := time.Since(began); took < limit || took > limit+promptly {
			t.Errorf("the server ended after %v, want %v", took, limit)
		}
		receive(t, "a target to see the end", gone)
		receive(t, "the other target to see the end", gone)
		b.stopped = true
		if code := b.proc.code(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		b.judge()
		for _, f := range b.forwards(2) {
			if f.end.Type != audit.ForwardClose || f.end.Reason != "drain" {
				t.Errorf("the forward ended with %s for %q, want forward.close for drain", f.end.Type, f.end.Reason)
			}
		}
	})
}
