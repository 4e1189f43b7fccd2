//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// checkAnswer compares what answerAfterEnd said to n bytes with that hash.
func checkAnswer(t *testing.T, got string, sum string, n int64) {
	t.Helper()
	line, rest, _ := strings.Cut(got, "\n")
	if want := fmt.Sprintf("%d bytes, sha256 %s", n, sum); line != want {
		t.Errorf("the target says it got %q, want %q", line, want)
	}
	restSum, restN := hashOf(strings.NewReader(rest))
	if restN != answerSize || restSum != patternSum(7, answerSize) {
		t.Errorf("%d bytes of the answer arrived, of %d, or other ones", restN, answerSize)
	}
}

func TestTheWholeAnswerArrivesAfterTheClientHasEndedItsHalf(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	host := serve(t, appserverIP, answerAfterEnd)
	const question = "what say you?\n"
	sum, n := hashOf(strings.NewReader(question))
	check := func(t *testing.T, forward *forwarded, sent int64) {
		t.Helper()
		down := uint64(len(fmt.Sprintf("%d bytes, sha256 %64s\n", sent, ""))) + answerSize
		forward.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"closed"}, bytes: &tapped{uint64(sent), down}})
	}

	t.Run("nc -N through -L", func(t *testing.T) {
		_, local := b.localForward(host.as("appserver"))
		ip, port, _ := net.SplitHostPort(local)
		r := command(t, question, "nc", "-N", ip, port)
		checkAnswer(t, r.out, sum, n)
		check(t, b.forwards(1)[0], n)
	})
	t.Run("a pipe into ssh -W", func(t *testing.T) {
		r := command(t, question, b.ssh("-W", host.as("appserver"), "bastion")...)
		checkAnswer(t, r.out, sum, n)
		check(t, b.forwards(2)[1], n)
	})
	t.Run("a large question and a shell's pipe", func(t *testing.T) {
		const size = 5 << 20
		cmd := fmt.Sprintf("head -c %d /dev/zero | %s", size, strings.Join(b.ssh("-W", host.as("appserver"), "bastion"), " "))
		r := command(t, "", "sh", "-c", cmd)
		zeros, _ := hashOf(io.LimitReader(zeroReader{}, size))
		checkAnswer(t, r.out, zeros, size)
		check(t, b.forwards(3)[2], size)
	})
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestTheTargetGetsEverythingAfterItHasEndedItsHalf(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	got := make(chan string, 1)
	handle := func(c *net.TCPConn) { // speaks, ends its half, and reads on
		io.WriteString(c, greeting)
		c.CloseWrite()
		sum, n := hashOf(c)
		got <- fmt.Sprint(n, " ", sum)
	}
	want1 := fmt.Sprint(size, " ", patternSum(3, size))
	b := newBastion(t, setup{})
	host := serve(t, appserverIP, handle)
	expect := want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"closed"}, bytes: &tapped{size, uint64(len(greeting))}}

	// Not with -W: there OpenSSH's client closes its standard input, too, once
	// the other side has ended its half, whatever server it talks to.
	_, local := b.localForward(host.as("appserver"))
	conn := dialLocal(t, local)
	if all, err := io.ReadAll(conn); string(all) != greeting || err != nil {
		t.Fatalf("read %q, %v", all, err)
	}
	if _, err := io.CopyN(conn, newPattern(3), size); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if sum := receive(t, "the target to get it all", got); sum != want1 {
		t.Errorf("the target got %s, want %s", sum, want1)
	}
	b.forwards(1)[0].check(t, expect)
}

func TestAGreetingArrivesBeforeTheClientSaysAnything(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	host := serve(t, appserverIP, greet)
	_, local := b.localForward(host.as("appserver"))
	conn := dialLocal(t, local)
	if got := readLine(t, conn); got+"\n" != greeting {
		t.Errorf("the first line is %q", got)
	}
	conn.Close()
	// So it does where the client has nothing to say at all.
	if got := succeeds(t, "sh", "-c", strings.Join(b.ssh("-W", host.as("appserver"), "bastion"), " ")+" </dev/null"); got != greeting {
		t.Errorf("ssh -W wrote %q", got)
	}
	b.forwards(2)
}
