//go:build linux

package e2e

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"sekisho/audit"
	server "sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// bulkSize is what is moved each way.
func bulkSize() int64 {
	if soak {
		return 1 << 30
	}
	return 256 << 20
}

// The keys are renewed by the client every 16 MiB; the server that people run
// renews them at its library's own thresholds, which are far above what is
// moved here. For both at once see the test below.
func TestBulkIsTheSameAtTheOtherEndThroughManyRekeys(t *testing.T) {
	size := bulkSize()
	b := newBastion(t, setup{binary: staticBinary})
	options := []string{"-v", "-o", "RekeyLimit=16M"}
	rekeyed := func(t *testing.T, p *proc, moved int64) {
		t.Helper()
		// One at the start, then one for each 16 MiB, more or less.
		n := len(regexp.MustCompile(`SSH2_MSG_NEWKEYS sent`).FindAllString(p.err.String(), -1))
		if least := int(moved >> 25); n < least {
			t.Errorf("the keys were renewed %d times, want at least %d", n, least)
		}
	}

	t.Run("up", func(t *testing.T) {
		sums := make(chan string, 1)
		host := serve(t, appserverIP, func(c *net.TCPConn) {
			sum, n := hashOf(c)
			fmt.Fprintln(c, n)
			sums <- sum
		})
		client := b.through(host.as("appserver"), options...)
		if _, err := io.CopyN(client.in, newPattern(1), size); err != nil {
			t.Fatal(err)
		}
		client.in.Close()
		if got, want := readLine(t, client.out), fmt.Sprint(size); got != want {
			t.Errorf("the target got %s bytes, want %s", got, want)
		}
		if receive(t, "the hash", sums) != patternSum(1, size) {
			t.Error("the target got other bytes")
		}
		client.wait(t)
		rekeyed(t, client.proc, size)
		b.forwards(1)[0].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP,
			reasons: []string{"closed"}, bytes: &tapped{uint64(size), uint64(len(fmt.Sprintln(size)))}})
	})
	t.Run("down", func(t *testing.T) {
		host := serve(t, appserverIP, func(c *net.TCPConn) { io.CopyN(struct{ io.Writer }{c}, newPattern(2), size) })
		client := b.through(host.as("appserver"), options...)
		sum, n := hashOf(client.out)
		if n != size || sum != patternSum(2, size) {
			t.Errorf("%d bytes came, want %d, or other ones", n, size)
		}
		client.in.Close()
		client.wait(t)
		rekeyed(t, client.proc, size)
		b.forwards(2)[1].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP,
			reasons: []string{"closed"}, bytes: &tapped{0, uint64(size)}})
	})
	t.Run("both at once", func(t *testing.T) {
		each := size / 4
		sums := make(chan string, 1)
		host := serve(t, appserverIP, func(c *net.TCPConn) {
			sent := make(chan struct{})
			go func() {
				io.CopyN(struct{ io.Writer }{c}, newPattern(4), each)
				c.CloseWrite()
				close(sent)
			}()
			sum, _ := hashOf(c)
			<-sent
			sums <- sum
		})
		client, local := b.localForward(host.as("appserver"), options...)
		conn := dialLocal(t, local)
		go func() {
			io.CopyN(struct{ io.Writer }{conn}, newPattern(5), each)
			conn.CloseWrite()
		}()
		if sum, n := hashOf(conn); n != each || sum != patternSum(4, each) {
			t.Errorf("%d bytes came, want %d, or other ones", n, each)
		}
		if receive(t, "the hash", sums) != patternSum(5, each) {
			t.Error("the target got other bytes")
		}
		rekeyed(t, client, each)
		b.forwards(3)[2].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP,
			reasons: []string{"closed"}, bytes: &tapped{uint64(each), uint64(each)}})
	})
}

// No setting changes when the server renews its keys, so this one runs in the
// test. What the client renews by itself would hide a server that does not, so
// that one of the runs is with a client that would renew nothing of this size.
func TestBulkIsTheSameWhenBothSidesRenewTheirKeys(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		size    int64
	}{
		{"the server alone", nil, bulkSize() / 4},
		{"both", []string{"-o", "RekeyLimit=16M"}, bulkSize()},
		{"both, with the cipher that OpenSSH prefers", []string{"-o", "RekeyLimit=16M", "-c", "chacha20-poly1305@openssh.com"}, bulkSize() / 4},
	} {
		t.Run(c.name, func(t *testing.T) { testBulkOfAServerThatRenewsItsKeys(t, c.size, c.options) })
	}
}

func testBulkOfAServerThatRenewsItsKeys(t *testing.T, size int64, options []string) {
	const threshold = 16 << 20
	moved := make(chan string, 1)
	port := bastiontest.Target(t, func(c *net.TCPConn) {
		sum, _ := hashOf(io.LimitReader(c, size))
		moved <- sum
		io.CopyN(struct{ io.Writer }{c}, newPattern(7), size)
	})
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *server.Config) { c.RekeyThreshold = threshold }})

	dir := t.TempDir()
	block, err := ssh.MarshalPrivateKey(b.AliceKey, "")
	if err != nil {
		t.Fatal(err)
	}
	identity, known := filepath.Join(dir, "id"), filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(identity, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, known, knownhosts.Line([]string{b.Addr}, b.HostKey)+"\n")
	host, sshPort, _ := net.SplitHostPort(b.Addr)
	args := append([]string{"-F", "none", "-v", "-p", sshPort, "-i", identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes"}, options...)
	cmd := exec.Command("ssh", append(args, "-W", fmt.Sprintf("target:%d", port), "alice@"+host)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	client := start(t, cmd)
	if _, err := io.CopyN(in, newPattern(6), size); err != nil {
		t.Fatal(err)
	}
	if receive(t, "the hash", moved) != patternSum(6, size) {
		t.Error("the target got other bytes")
	}
	if sum, n := hashOf(io.LimitReader(out, size)); n != size || sum != patternSum(7, size) {
		t.Errorf("%d bytes came, want %d, or other ones", n, size)
	}
	in.Close()
	client.wait(t)
	// One at the start; then about one for each threshold, of which a quarter
	// is enough to tell.
	n := len(regexp.MustCompile(`SSH2_MSG_NEWKEYS sent`).FindAllString(client.err.String(), -1)) - 1
	t.Logf("the keys were renewed %d times for %d MiB", n, 2*size>>20)
	if least := int(2 * size / threshold / 4); n < least {
		t.Errorf("the keys were renewed %d times, want at least %d", n, least)
	}
	end := b.Book.Await(t, audit.ForwardClose, 1)
	if end.BytesUp != uint64(size) || end.BytesDown != uint64(size) || end.Reason != "closed" {
		t.Errorf("%s", end.AppendJSON(nil))
	}
}
