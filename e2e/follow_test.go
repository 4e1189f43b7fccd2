//go:build linux

package e2e

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestAFailoverBringsTheStockClientToTheNewPrimary moves a name while ssh -L
// carries a connection to it: that one is cut, and the next one through the
// same ssh reaches the address where the name leads now.
func TestAFailoverBringsTheStockClientToTheNewPrimary(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second
	policy := func(host string) string {
		return standardUsers(t) + `
targets:
  - {name: db, hosts: [` + host + `], ports: ["1-65535"], follow_dns: 5s}
grants:
  - {name: dba-db, users: [alice], to: [db]}
`
	}
	failover := func(t *testing.T, b *bastion, host string, move func()) {
		old := serve(t, appserverIP, greet)
		l, err := net.Listen("tcp", old.as(rdsIP))
		if err != nil {
			t.Fatal(err)
		}
		next := serveOn(t, l, greet)
		before := b.descriptors()
		client, local := b.localForward(old.as(host))
		conn := dialLocal(t, local)
		readLine(t, conn)

		moved := time.Now()
		move()
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Logf("the client's end: %v", err)
		}
		// Beside the grace: the hosts file is read, and the name looked up.
		if took := time.Since(moved); took < grace || took > grace+5*time.Second {
			t.Errorf("it is cut after %v", took)
		}
		again := dialLocal(t, local)
		readLine(t, again)
		if old.accepted.Load() != 1 || next.accepted.Load() != 1 {
			t.Errorf("the old primary was reached %d times and the new one %d times, want once each", old.accepted.Load(), next.accepted.Load())
		}
		again.Close()
		f := b.forwards(2)
		f[0].check(t, want{grant: "dba-db", host: host, port: old.port, address: appserverIP, reasons: []string{"dns_moved"}})
		if want := "its name no longer resolves to " + appserverIP + " but to " + rdsIP; f[0].end.Detail != want {
			t.Errorf("the record says %q, want %q", f[0].end.Detail, want)
		}
		f[1].check(t, want{grant: "dba-db", host: host, port: old.port, address: rdsIP, reasons: []string{"closed", "client_gone"}})
		client.kill()
		b.settles(before)
	}
	t.Run("by the hosts file", func(t *testing.T) {
		t.Parallel()
		b := newBastion(t, setup{policy: policy("primary"), hosts: appserverIP + " primary\n"})
		failover(t, b, "primary", func() { writeFile(t, filepath.Join(b.dir, "hosts"), rdsIP+" primary\n") })
	})
	t.Run("by DNS", func(t *testing.T) {
		t.Parallel()
		needRoot(t, "it gives the server an /etc/resolv.conf of its own")
		const name, server = "primary.corp.example", "127.0.0.11"
		dns := serveDNS(t, server)
		dns.reset(map[string]string{name + ".": appserverIP}, "")
		resolv := filepath.Join(t.TempDir(), "resolv.conf")
		writeFile(t, resolv, "nameserver "+server+"\n")
		b := newBastion(t, setup{policy: policy(name), wrap: []string{"unshare", "-m", "--propagation", "private", "sh", "-ec",
			`mount --bind "$1" /etc/resolv.conf; shift; exec "$@"`, "sh", resolv}})
		failover(t, b, name, func() { dns.set(name+".", rdsIP) })
	})
}
