package bastion_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

func TestForwardsAndConnectionsBeyondTheDescriptorsAreRefused(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.Descriptors = 4 }})
	to := target(bastiontest.Target(t, bastiontest.Echo))
	client := b.Dial()
	first := mustOpen(t, client, to)
	second := mustOpen(t, client, to) // while it is opened, it takes the last two
	_, err := client.Dial("tcp", to)
	if refused := openError(t, err); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, "descriptors, 4") {
		t.Errorf("%v", refused)
	}
	if rec := b.Book.Await(t, audit.ForwardDeny, 1); rec.Reason != "limit" || rec.Detail != "descriptors, 4" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	other, err := net.Dial("tcp", b.Addr) // takes the last one
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 15)
	if _, err := io.ReadFull(other, greeting); err != nil || string(greeting) != "SSH-2.0-Sekisho" {
		t.Errorf("%q, %v", greeting, err)
	}
	beyond, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer beyond.Close()
	beyond.SetReadDeadline(time.Now().Add(bastiontest.Wait))
	if n, err := beyond.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection beyond the descriptors is not closed: %d, %v", n, err)
	}
	bastiontest.Eventually(t, "it is counted as refused", func() bool { return b.Server.Counts().ConnectionsRefused["limit"] == 1 })
	for _, c := range []io.Closer{first, second, other} {
		c.Close()
	}
	bastiontest.Eventually(t, "all but the connection is given back", func() bool {
		for _, use := range b.Server.LimitsInUse() {
			if use.Name == "descriptors" {
				return use.Used == 1 && use.Most == 4
			}
		}
		return false
	})
	mustOpen(t, client, to)
}

// TestAServerWithoutDescriptorsRefusesAndRecovers runs a server in a process
// of its own, which may open few files.
func TestAServerWithoutDescriptorsRefusesAndRecovers(t *testing.T) {
	const inChild = "SEKISHO_TEST_FEW_FILES"
	if os.Getenv(inChild) != "" {
		serveWithFewFiles(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAServerWithoutDescriptorsRefusesAndRecovers$")
	child.Env = append(os.Environ(), inChild+"=1")
	orders, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		orders.Close()
		if err := child.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	ask := func(what string) string {
		t.Helper()
		io.WriteString(orders, what+"\n")
		for lines.Scan() {
			if answer, ok := strings.CutPrefix(lines.Text(), what+": "); ok {
				return answer
			}
		}
		t.Fatalf("no answer to %s", what)
		return ""
	}
	number := func(what string) int {
		t.Helper()
		n, err := strconv.Atoi(ask(what))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	addr := ask("address")
	greeted := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(bastiontest.Wait))
		line, err := bufio.NewReader(c).ReadString('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection hangs")
		}
		return err == nil && strings.HasPrefix(line, "SSH-2.0-Sekisho")
	}
	var in []net.Conn
	refused := 0
	for range 60 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if greeted(c) {
			in = append(in, c)
		} else {
			refused++
		}
	}
	if len(in) == 0 || refused < 40 {
		t.Errorf("%d connections were taken in and %d refused", len(in), refused)
	}

	// Nothing happens now, and nothing is to cost anything.
	before, said := number("cpu"), number("lines")
	time.Sleep(3 * time.Second)
	if took := number("cpu") - before; took > 500 {
		t.Errorf("waiting took %d ms of CPU time in 3 s", took)
	}
	if more := number("lines") - said; more > 10 {
		t.Errorf("waiting wrote %d lines in 3 s", more)
	}

	for _, c := range in {
		c.Close()
	}
	bastiontest.Eventually(t, "a connection is taken in again", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
		return greeted(c)
	})
}

func serveWithFewFiles(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.MaxStartupsPerSource = 1000 }})
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	few := syscall.Rlimit{Cur: uint64(len(open) + 10), Max: uint64(len(open) + 10)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		answer := any(nil)
		switch orders.Text() {
		case "address":
			answer = b.Addr
		case "cpu":
			var used syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &used)
			answer = (used.Utime.Nano() + used.Stime.Nano()) / 1e6
		case "lines":
			answer = strings.Count(b.Lines.String(), "accepting a connection failed")
		}
		fmt.Printf("%s: %v\n", orders.Text(), answer)
	}
}
