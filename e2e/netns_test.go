//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that a test made.
type netns struct {
	name string
	ip   string // of its end of the wire
	dev  string
}

var netnsCount atomic.Int64

func newNetns(t *testing.T) *netns {
	t.Helper()
	ns := &netns{name: fmt.Sprintf("sekisho-e2e-%d-%d", os.Getpid(), netnsCount.Add(1))}
	succeeds(t, "ip", "netns", "add", ns.name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns.name).Run() })
	ns.set(t, "link set lo up")
	return ns
}

// set runs ip(8) in the namespace.
func (ns *netns) set(t *testing.T, args string) {
	t.Helper()
	succeeds(t, append([]string{"ip", "-n", ns.name}, strings.Fields(args)...)...)
}

// newWire makes two namespaces and a wire between them.
func newWire(t *testing.T) (a, b *netns) {
	t.Helper()
	a, b = newNetns(t), newNetns(t)
	a.ip, a.dev, b.ip, b.dev = "10.213.0.1", "wire0", "10.213.0.2", "wire1"
	succeeds(t, "ip", "link", "add", a.dev, "netns", a.name, "type", "veth", "peer", "name", b.dev, "netns", b.name)
	for _, ns := range []*netns{a, b} {
		ns.set(t, "addr add "+ns.ip+"/24 dev "+ns.dev)
		ns.set(t, "link set "+ns.dev+" up")
	}
	return a, b
}

// cut takes this end off the wire.
func (ns *netns) cut(t *testing.T) {
	t.Helper()
	ns.set(t, "link set "+ns.dev+" down")
}

// run is the command that runs another one in the namespace.
func (ns *netns) run() []string { return []string{"ip", "netns", "exec", ns.name} }

// do calls fn with the calling thread in the namespace; sockets that it makes
// stay there.
func (ns *netns) do(t *testing.T, fn func() error) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			failed <- err
			return
		}
		defer home.Close()
		there, err := os.Open("/run/netns/" + ns.name)
		if err != nil {
			failed <- err
			return
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatalf("in the namespace %s: %v", ns.name, err)
	}
}

func (ns *netns) listen(t *testing.T, addr string) (l net.Listener) {
	t.Helper()
	ns.do(t, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l
}

// dial connects to an IP address and port.
func (ns *netns) dial(t *testing.T, addr string) (c *net.TCPConn) {
	t.Helper()
	ns.do(t, func() error {
		d := net.Dialer{}
		conn, err := d.DialContext(context.Background(), "tcp", addr)
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// connections are the TCP sockets of the namespace but for those that listen,
// and those that wait only for the time to pass.
func (ns *netns) connections(t *testing.T) (all []string) {
	t.Helper()
	const listens, timeWait = "0A", "06"
	ns.do(t, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); f[0] != "sl" && f[3] != listens && f[3] != timeWait {
				all = append(all, line)
			}
		}
		return nil
	})
	return all
}

// dialled is how many TCP connections have ever been begun in the namespace.
func (ns *netns) dialled(t *testing.T) (n int) {
	t.Helper()
	ns.do(t, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			switch {
			case fields[0] != "Tcp:":
			case names == nil:
				names = fields
			default:
				for i, name := range names {
					if name == "ActiveOpens" {
						_, err := fmt.Sscan(fields[i], &n)
						return err
					}
				}
			}
		}
		return fmt.Errorf("no ActiveOpens in %q", text)
	})
	return n
}
