//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"testing"
)

// bulkSize is what is moved each way.
func bulkSize() int64 {
	if soak {
		return 1 << 30
	}
	return 256 << 20
}

// The keys are renewed by the client every 16 MiB. The server renews them by
// itself too, but only at the library's own thresholds, which no setting of
// sekisho changes and which are far above what is moved here.
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
