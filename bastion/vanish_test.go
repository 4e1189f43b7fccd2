package bastion_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
	"sekisho/hostsfile"
)

// unplugged is a connection whose network can vanish: what is written gets
// nowhere, and nothing comes any more, not even an end.
type unplugged struct {
	net.Conn
	gone   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (u *unplugged) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if u.gone.Load() {
		<-u.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (u *unplugged) Write(p []byte) (int, error) {
	if u.gone.Load() {
		return len(p), nil
	}
	return u.Conn.Write(p)
}

func (u *unplugged) Close() error {
	u.once.Do(func() { close(u.closed) })
	if u.gone.Load() {
		return nil // nobody learns of it
	}
	return u.Conn.Close()
}

// counted counts the targets' connections that are open.
type counted struct {
	echoDialer
	open atomic.Int32
}

func (c *counted) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.echoDialer.DialContext(ctx, network, addr)
	c.open.Add(1)
	return &countedConn{Conn: conn, open: &c.open}, err
}

type countedConn struct {
	net.Conn
	open *atomic.Int32
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestClientsWhoseNetworkVanishedAreGoneWithin100SecondsWithAllTheyHeld(t *testing.T) {
	n, _ := rounds()
	synctest.Test(t, func(t *testing.T) {
		network, targets := bastiontest.NewNetwork(), new(counted)
		b := bastiontest.Start(t, bastiontest.Options{
			Listener: network, Dialer: targets,
			Limits: func(l *bastion.Limits) { l.MaxConnectionsPerUser, l.MaxForwardsPerUser = n+1, 4*n },
		})
		var wires []*unplugged
		var busy []net.Conn
		for range n {
			pipe, err := network.Dial(netip.MustParseAddrPort("203.0.113.9:50000"))
			if err != nil {
				t.Fatal(err)
			}
			wire := &unplugged{Conn: pipe, closed: make(chan struct{})}
			c, chans, reqs, err := ssh.NewClientConn(wire, "bastion", b.ClientConfig("alice", b.Alice))
			if err != nil {
				t.Fatal(err)
			}
			client := ssh.NewClient(c, chans, reqs)
			for range 2 { // one of them is idle
				conn, err := client.Dial("tcp", "target:22")
				if err != nil {
					t.Fatal(err)
				}
				busy = append(busy, conn)
			}
			wires = append(wires, wire)
		}
		time.Sleep(5 * time.Minute) // they are asked, and answer
		if got := b.Server.Connections(); got != n || targets.open.Load() != int32(2*n) {
			t.Fatalf("%d connections with %d forwards, want %d with %d", got, targets.open.Load(), n, 2*n)
		}
		for i, wire := range wires {
			if i%2 == 0 {
				io.WriteString(busy[2*i], "the echo of this never arrives")
			}
			wire.gone.Store(true)
		}
		// Those of which nothing was wanted were last heard up to half a minute ago.
		time.Sleep(64 * time.Second)
		if got := b.Server.Connections(); got != n {
			t.Errorf("%d connections are left after 64 s, want %d", got, n)
		}
		time.Sleep(36 * time.Second)
		if got, held := b.Server.Connections(), targets.open.Load(); got != 0 || held != 0 || b.Server.Forwards() != 0 {
			t.Errorf("after 100 s %d connections, %d forwards and %d sockets of targets are left", got, b.Server.Forwards(), held)
		}
		for _, rec := range append(b.Book.Records(audit.ConnClose), b.Book.Records(audit.ForwardClose)...) {
			if rec.Reason != "keepalive" {
				t.Fatalf("recorded %s", rec.AppendJSON(nil))
			}
		}
		if conns, forwards := len(b.Book.Records(audit.ConnClose)), len(b.Book.Records(audit.ForwardClose)); conns != n || forwards != 2*n {
			t.Errorf("the ends of %d connections and %d forwards are recorded, want %d and %d", conns, forwards, n, 2*n)
		}
		for _, wire := range wires {
			wire.Close()
		}
	})
}

// TestAHostsFileThatIsReplacedMidLookupLeadsWhereTheRecordSays replaces the
// file all the time, by good ones and by what is cut off, while forwards are
// opened by it.
func TestAHostsFileThatIsReplacedMidLookupLeadsWhereTheRecordSays(t *testing.T) {
	const one, two = "127.0.0.1", "127.0.0.3"
	path := filepath.Join(t.TempDir(), "hosts")
	replace := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Error(err)
		}
	}
	replace(one + " target\n")
	file, err := hostsfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b := bastiontest.Start(t, bastiontest.Options{Hosts: file, Networks: []string{one + "/32", two + "/32"}})
	l, err := net.Listen("tcp", one+":0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	m, err := net.Listen("tcp", fmt.Sprintf("%s:%d", two, port))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, l := range []net.Listener{l, m} {
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, c.LocalAddr().(*net.TCPAddr).IP.String())
				c.Close()
			}
		})
	}

	stop := make(chan struct{})
	serving.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			replace([]string{two + " target\n", "", one + " target\n", two + " tar", "# nothing\n", two + " other target\n" + one + " third\n"}[i%6])
			file.Reload() // the bad ones are refused
		}
	})
	client := b.Dial()
	n, _ := rounds()
	led := map[string]int{}
	for i := range max(n, 300) {
		conn, err := client.Dial("tcp", target(port))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		led[string(got)]++
		if rec := b.Book.Await(t, audit.ForwardClose, i+1); rec.Address.Addr().String() != string(got) || rec.Reason != "closed" {
			t.Errorf("it led to %s, recorded %s", got, rec.AppendJSON(nil))
		}
	}
	close(stop)
	l.Close()
	m.Close()
	serving.Wait()
	if led[one] == 0 || led[two] == 0 {
		t.Errorf("the forwards led to %v: the file did not change between them", led)
	}
	b.Book.Check(t)
}
