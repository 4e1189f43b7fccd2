//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sekisho/audit"
)

func TestAKilledForwardEndsAtBothSidesAndOnce(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	gone := make(chan struct{}, 4)
	host := serve(t, appserverIP, func(c *net.TCPConn) { echo(c); gone <- struct{}{} })
	stuck := serve(t, appserverIP, stalled(gone))
	other := serve(t, rdsIP, echo)
	bobs := b.login(bob(t), "bob").mustOpen("rds", other.port)

	// Of one connection of a stock client one forward is ended, and one that
	// neither side reads.
	client, local := b.localForward(host.as("appserver"), "-L", fmt.Sprintf("127.0.0.1:%d:%s", freePort(t, "127.0.0.1"), stuck.as("appserver")))
	killed := dialLocal(t, local)
	io.WriteString(killed, "hello\n")
	if got := readLine(t, killed); got != "hello" {
		t.Fatalf("the echo is %q", got)
	}
	id := b.recorded(audit.ForwardOpen, func(r audit.Record) bool { return r.Target.Host == "appserver" }).Forward
	began := time.Now()
	r := b.sekisho("kill", id, "--why", "ticket 4711")
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); r.code != 0 || r.out != "0 connections, 1 forward ended\n" || took > 2*time.Second {
		t.Errorf("exit %d after %v: %s%s", r.code, took, r.out, r.err)
	}
	if n, _ := io.Copy(io.Discard, killed); n != 0 {
		t.Errorf("%d bytes came after the end", n)
	}
	eventually(t, "the end in the book", func() bool { return b.book()[id].end != nil })
	f := b.book()[id]
	f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"killed"}, bytes: &tapped{6, 6}})
	kill := b.recorded(audit.AdminKill, nil)
	if kill.Forward != id || kill.Entrance != "admin" || kill.Login != "root" || kill.Detail != "ticket 4711; ends 0 connections, 1 forward" || kill.Seq > f.end.Seq || kill.Seq < f.open.Seq {
		t.Errorf("the record says %+v", kill)
	}
	if client.ended() {
		t.Error("the connection ended with it")
	}
	again := dialLocal(t, local) // nobody is kept from coming back
	io.WriteString(again, "hello\n")
	readLine(t, again)

	// All to a host, by an address that a name led to.
	raw := b.login(alice(t))
	raw.mustOpen("appserver", stuck.port)
	if r := b.sekisho("kill", "--target", fmt.Sprintf("%s:%d", appserverIP, stuck.port)); r.code != 0 || r.out != "0 connections, 1 forward ended\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	receive(t, "the target to see the end", gone)

	// And all that a user has.
	if r := b.sekisho("kill", "--user", "alice"); r.code != 0 || r.out != "2 connections, 1 forward ended\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	receive(t, "the target to see the end", gone)
	raw.over()
	if code := client.wait(t); code != 255 {
		t.Errorf("ssh ended with %d", code)
	}
	client.says(t, `closed by remote host`)
	eventually(t, "both ends", func() bool {
		n := 0
		for _, r := range b.records() {
			if r.Type == audit.ConnClose && r.User == "alice" && r.Reason == "killed" {
				n++
			}
		}
		return n == 2
	})
	bobs.echoes()
	if r := b.sekisho("kill", "--user", "alice"); r.code != 1 || !strings.Contains(r.err, "nothing is open of user alice") || b.count(audit.AdminKill) != 3 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

func TestWithAFullLogKillActsAndSaysSoAndStatusIsNotWell(t *testing.T) {
	t.Parallel()
	metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))
	b := newBastion(t, setup{settings: map[string]any{"metrics": map[string]any{"listen": metrics}}})
	ready := func() int {
		resp, err := http.Get("http://" + metrics + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	gone := make(chan struct{}, 1)
	host := serve(t, appserverIP, func(c *net.TCPConn) { echo(c); gone <- struct{}{} })
	c := b.login(alice(t))
	c.mustOpen("appserver", host.port).echoes()
	if r := b.sekisho("status"); r.code != 0 || ready() != 200 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}

	var before unix.Rlimit
	if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, nil, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := b.sekisho("kill", "--user", "alice")
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); r.code != 1 || r.out != "1 connection, 1 forward ended\n" || !strings.Contains(r.err, "sekisho: error: IT IS NOT RECORDED: ") || took > 5*time.Second {
		t.Errorf("exit %d after %v: %s%s", r.code, took, r.out, r.err)
	}
	c.over()
	r = b.sekisho("status")
	if r.code != 1 || !strings.Contains(r.out, "CANNOT BE WRITTEN since ") || !strings.Contains(r.err, "sekisho: error: the audit log cannot be written since ") || ready() != 503 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}

	if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, &before, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server to be ready again", func() bool { return ready() == 200 })
	eventually(t, "a record of it", func() bool { return b.count(audit.LogResume) == 1 })
	if r := b.sekisho("status"); r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	for _, f := range b.forwards(1) {
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"killed"}})
	}
	if n := b.count(audit.AdminKill); n != 0 {
		t.Errorf("%d records admin.kill", n)
	}
}
