//go:build linux

package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"sekisho/audit"
)

// Ansible and CI come with fifty connections at once, from one address.
func TestFiftyStockClientsAtOnceAllLogIn(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	config := b.config(alice(t))
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			if r := command(t, "", "ssh", "-F", config, "-o", "ControlPath=none", "bastion"); strings.Contains(r.err, "closed") || r.code == 255 {
				t.Errorf("exit %d: %s", r.code, r.err)
			}
		})
	}
	clients.Wait()
	if n := b.count(audit.AuthOK); n != 50 {
		t.Errorf("%d have logged in", n)
	}
}

// ssh-keyscan leaves once it has a host key, and makes a connection for each
// type of key; what is not SSH at all is another matter.
func TestScansForHostKeysAreNotPenalisedAndOtherBytesAre(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	host, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if r := command(t, "", "ssh-keyscan", "-p", port, host); r.code != 0 || !strings.Contains(r.out, "ssh-ed25519") {
			t.Fatalf("exit %d: %s", r.code, r.err)
		}
	}
	in := b.login(alice(t))
	for range 2 {
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(strings.Repeat("\x16\x03\x01\x00", 200)))
		io.Copy(io.Discard, conn) // until it is sent away
		conn.Close()
	}
	b.proc.says(t, `a source is refused.*offence=bad_bytes`)
	b.turnedAway(t, "127.0.0.1")
	b.proc.says(t, `connection refused.*its source is refused for another`)
	b.knock(t, "127.0.0.9").Close()
	in.mustOpen("appserver", serve(t, appserverIP, echo).port).echoes()
}
